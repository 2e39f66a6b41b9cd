"""WebP: RGB with 8 bits, lossy and lossless, with and without alpha."""

from io import BytesIO

import imagecodecs
import numpy as np
from PIL import Image

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.riff import Chunk, Structure, assemble, parse
from kbnet_cli.photo import Depth, Metadata, Origin, Photo

DEFAULT_QUALITY = 90
LARGEST_SIDE = 16383
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH")
_BLOCKS = {b"ICCP": "icc", b"EXIF": "exif", b"XMP ": "xmp"}
_FLAGS = {b"ICCP": 0x20, b"ALPH": 0x10, b"EXIF": 0x08, b"XMP ": 0x04}


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a WebP file.

    Raises:
        InputError: If the file is cut short, damaged or too large.
        UnsupportedError: If it is an animation.
    """
    structure = parse(data)
    if structure.first(b"ANIM") is not None or structure.first(b"ANMF") is not None:
        raise UnsupportedError("got an animated WebP, expected one picture", hint="take its frames apart first")
    height, width, has_alpha = _header(structure)
    check_size(height, width, len(data), max_megapixels)
    try:
        samples = imagecodecs.webp_decode(data, hasalpha=has_alpha)
    except (RuntimeError, ValueError) as error:
        raise InputError("the WebP data is broken: it cannot be decoded to the end") from error
    return Photo(
        pixels=np.ascontiguousarray(samples[:, :, :3]),
        colour="rgb",
        depth=8,
        alpha=np.ascontiguousarray(samples[:, :, 3]) if has_alpha else None,
        metadata=_metadata(structure),
        origin=Origin("webp", data, lossless=structure.first(b"VP8L") is not None),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
    """Write a WebP file: lossless where the photo comes from a lossless WebP file and no quality is asked for.

    Raises:
        UnsupportedError: If the photo is larger than WebP allows.
        OutputError: If the encoder refuses.
    """
    assert depth == 8
    if max(photo.size) > LARGEST_SIDE:
        height, width = photo.size
        raise UnsupportedError(f"got {width}×{height} pixels, expected at most {LARGEST_SIDE} a side, which WebP holds")
    source = parse(photo.origin.data) if photo.origin is not None and photo.origin.format == "webp" else None
    lossless = source is not None and source.first(b"VP8L") is not None and quality is None
    written = parse(_compress(photo, lossless=lossless, quality=quality or DEFAULT_QUALITY))
    chunks = _around(photo.metadata, source, [chunk for chunk in written.chunks if chunk.name in _PIXELS])
    if len(chunks) > 1:
        chunks.insert(0, _extended_header(photo, chunks))
    return assemble(chunks) + (source.trailing if source is not None else b"")


def _compress(photo: Photo, *, lossless: bool, quality: int) -> bytes:
    pixels = np.repeat(photo.pixels, 3, axis=2) if photo.colour == "grey" else photo.pixels
    if photo.alpha is not None:
        pixels = np.concatenate([pixels, photo.alpha[:, :, np.newaxis]], axis=2)
    file = BytesIO()
    try:
        # Without `exact` the encoder changes what lies under full transparency.
        Image.fromarray(pixels).save(
            file, "WEBP", lossless=lossless, quality=100 if lossless else quality, method=4, exact=True
        )
    except (OSError, ValueError) as error:
        raise OutputError(f"the WebP encoder refused {pixels.shape[1]}×{pixels.shape[0]} pixels: {error}") from error
    return file.getvalue()


def _around(metadata: Metadata, source: Structure | None, pixels: list[Chunk]) -> list[Chunk]:
    """Return all chunks in the specification's order: profile, picture, EXIF, XMP, and what else the source had."""
    known = _metadata(source) if source is not None else Metadata()
    chunks = list(pixels)
    for name, field in _BLOCKS.items():
        block = getattr(metadata, field)
        if block is None:
            continue
        unchanged = source.first(name) if source is not None and getattr(known, field) == block else None
        chunk = Chunk(name, block if unchanged is None else unchanged)
        chunks.insert(0 if name == b"ICCP" else len(chunks), chunk)
    if source is not None:
        chunks += [chunk for chunk in source.chunks if chunk.name not in (*_PIXELS, *_BLOCKS, b"VP8X")]
    return chunks


def _extended_header(photo: Photo, chunks: list[Chunk]) -> Chunk:
    flags = sum(_FLAGS.get(name, 0) for name in {chunk.name for chunk in chunks})
    if photo.alpha is not None:
        flags |= _FLAGS[b"ALPH"]
    height, width = photo.size
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return Chunk(b"VP8X", bytes((flags, 0, 0, 0)) + size)


def _header(structure: Structure) -> tuple[int, int, bool]:
    """Return height, width and whether there is alpha, from the picture's own header and not the canvas'."""
    lossy, lossless = structure.first(b"VP8 "), structure.first(b"VP8L")
    if lossless is not None and len(lossless) >= 5 and lossless[0] == 0x2F:
        bits = int.from_bytes(lossless[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, bool(bits >> 28 & 1)
    if lossy is not None and len(lossy) >= 10 and lossy[3:6] == b"\x9d\x01\x2a":
        width = int.from_bytes(lossy[6:8], "little") & 0x3FFF
        return int.from_bytes(lossy[8:10], "little") & 0x3FFF, width, structure.first(b"ALPH") is not None
    raise InputError("got a WebP file without a picture in it")


def _metadata(structure: Structure) -> Metadata:
    exif = (structure.first(b"EXIF") or b"").removeprefix(b"Exif\0\0")
    return Metadata(exif=exif or None, xmp=structure.first(b"XMP ") or None, icc=structure.first(b"ICCP") or None)
