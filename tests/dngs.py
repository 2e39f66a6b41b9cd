"""Linear photos and DNG files made by code, and what is in a DNG file."""

import struct
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np

from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.dng import opcodes as dng_opcodes
from kbnet_cli.formats.dng.source import Source, read_source
from kbnet_cli.formats.dng.values import floats, longs, octets, rationals, shorts, text
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry, Layout, Order
from kbnet_cli.formats.raw import metadata as raw_metadata
from kbnet_cli.formats.raw.report import Report
from kbnet_cli.photo import CameraColour, Levels, Origin, Photo

BLACK, WHITE = 4096.0, 61440.0
NEUTRAL = (0.614, 1.0, 0.626)
XYZ_TO_CAMERA = ((0.9194, -0.2787, -0.1059), (-0.8098, 1.5657, 0.2608), (-0.261, 0.3064, 0.7867))
SRGB_TO_XYZ = np.array(
    ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.072175), (0.0193339, 0.119192, 0.9503041))
)
CAMERA_TO_SRGB = ((1.6, -0.5, -0.1), (-0.2, 1.4, -0.2), (0.0, -0.5, 1.5))
NOTE = b"Maker\0" + bytes(range(200))


def camera(channels: int = 3) -> CameraColour:
    if channels == 1:
        return CameraColour("Maker", "Model 1", BLACK, WHITE, (1.0,))
    return CameraColour("Maker", "Model 1", BLACK, WHITE, NEUTRAL, XYZ_TO_CAMERA, CAMERA_TO_SRGB)


def photo(height: int = 48, width: int = 64, channels: int = 3, *, source: bytes | None = None) -> Photo:
    """Make samples of the whole range, below black and beyond white."""
    pixels = np.random.default_rng(0).integers(0, 65536, (height, width, channels), dtype=np.uint16)
    neutral = camera(channels).neutral
    return Photo(
        pixels=pixels,
        colour="rgb" if channels == 3 else "grey",
        depth=16,
        linear=True,
        levels=Levels((BLACK,) * channels, tuple(BLACK + (WHITE - BLACK) * part for part in neutral)),
        camera=camera(channels),
        origin=None if source is None else Origin("raw", source),
    )


def flat(values: tuple[float, ...], *, height: int = 48, width: int = 64) -> Photo:
    """Make a photo that is everywhere the same, of shares of a full sensor."""
    level = np.rint(BLACK + (WHITE - BLACK) * np.array(values)).astype(np.uint16)
    plain = photo(height, width, len(values))
    return plain.with_pixels(np.broadcast_to(level, plain.pixels.shape).copy())


def described(order: Order = "<", *, orientation: int = 1, note: bytes = NOTE) -> bytes:
    """Make an EXIF block with a place, a lens and, far in, a maker note."""
    image = [text(271, "Maker"), text(272, "Model 1"), exif.short(274, orientation, order), text(305, "firmware 1")]
    taken = [
        rationals(33434, order, (1 / 250,)),
        text(36867, "2024:02:03 04:05:06"),
        rationals(42034, order, (24, 105, 4, 4)),
        text(42036, "24-105 mm"),
    ]
    taken += [Entry(37500, 7, len(note), note, offset=1000)] if note else []
    place = [octets(0, 2, 3, 0, 0), text(1, "N"), rationals(2, order, (52, 30, 0.5))]
    return exif.pack(Description(order, tuple(image), tuple(taken), tuple(place)))


def source_file(
    first: Iterable[Entry] = (), samples: Iterable[Entry] = (), *, order: Order = "<", size: tuple[int, int] = (48, 64)
) -> bytes:
    """Make the directories of a DNG file, without a sample."""
    layout = Layout(order)
    arena = Arena(header(layout, 0), layout)
    height, width = size
    usual = {e.tag: e for e in (longs(254, order, 0), longs(256, order, width), longs(257, order, height))}
    usual |= {262: shorts(262, order, 32803), 33421: shorts(33421, order, 2, 2), 33422: octets(33422, 0, 1, 1, 2)}
    raw = arena.add_directory((usual | {entry.tag: entry for entry in samples}).values())
    ours = {50706: octets(50706, 1, 4, 0, 0), 330: longs(330, order, raw)}
    arena.write(0, header(layout, arena.add_directory((ours | {entry.tag: entry for entry in first}).values())))
    return arena.to_bytes()


def written(data: bytes) -> Source:
    found = read_source(data)
    assert found is not None
    return found


def numbers(data: bytes, tag: int, *, raw: bool = False) -> tuple[float, ...]:
    found = written(data)
    return floats((found.raw if raw else found.first).find(tag), found.layout.order)


def previews(data: bytes) -> list[np.ndarray]:
    """Decode the thumbnail and the preview."""
    found = written(data)
    shown = []
    for page in (found.first, *found.others):
        at, size = page.integer(273, found.layout.order, 0), page.integer(279, found.layout.order, 0)
        assert page.integer(254, found.layout.order, 0) == 1
        shown.append(np.atleast_3d(imagecodecs.jpeg8_decode(data[at : at + size])))
    return shown


def gain_map(top: int, left: int, gain: float) -> dng_opcodes.Opcode:
    area = struct.pack(">8I", top, left, 48, 64, 0, 1, 2, 2)
    points = struct.pack(">2I4dI", 1, 2, 1.0, 1.0, 0.0, 0.0, 1)
    return dng_opcodes.Opcode(9, 0x01030000, 1, area + points + struct.pack(">2f", gain, gain + 1))


def opcodes(*steps: dng_opcodes.Opcode) -> bytes:
    parts = [struct.pack(">IIII", s.kind, s.version, s.flags, len(s.parameters)) + s.parameters for s in steps]
    return struct.pack(">I", len(parts)) + b"".join(parts)


def undefined(tag: int, value: bytes) -> Entry:
    return Entry(tag, 7, len(value), value)


def photos_of(folder: Path) -> list[tuple[Path, Photo]]:
    """Make for each DNG a photo of its size that has its metadata."""
    made = []
    for path in sorted(folder.rglob("*.dng")):
        data = path.read_bytes()
        found = read_source(data)
        if found is None or path.name.startswith("BROKEN"):
            continue
        plain = photo(*found.size(), 1 if "monochrome" in path.name else 3, source=data)
        made.append((path, replace(plain, metadata=raw_metadata.read_metadata(data, Report()))))
    return made
