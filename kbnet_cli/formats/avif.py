"""AVIF: grey and RGB with 8, 10 and 12 bits, with and without alpha."""

from typing import cast

import imagecodecs
import numpy as np

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import cicp, exif
from kbnet_cli.formats.attachment import attach, orientation_properties
from kbnet_cli.formats.boxes import Box, first, split
from kbnet_cli.formats.items import Collection, parse
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.orientation import exif_to_write, into_exif
from kbnet_cli.photo import ColourModel, Depth, Metadata, Origin, Photo

DEFAULT_QUALITY = 90
_SRGB = (1, 13, 6)
"""BT.709 primaries, the sRGB curve, BT.601's matrix (ITU-T H.273): what AVIF readers expect where nothing is said."""
_UNSPECIFIED = 2
_CARRIED = (b"clli", b"mdcv", b"cclv", b"amve", b"pasp", b"clap")
"""Properties that stay true: light levels, mastering display, viewing place, pixel shape, crop."""


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read an AVIF file. How it is to be turned goes into the EXIF block, the one place other formats know.

    Raises:
        InputError: If the file is cut short, damaged or too large.
        UnsupportedError: If it holds several pictures.
    """
    boxes = split(data)
    if first(boxes, b"moov") is not None:
        raise UnsupportedError("got an AVIF sequence, expected one picture", hint="take its frames apart first")
    collection = parse(data)
    height, width = collection.size
    check_size(height, width, len(data), max_megapixels)
    count = len([item for item in collection.top_level() if item.kind != b"tmap"])
    if count > 1:
        raise UnsupportedError(f"got {count} pictures in one AVIF file, expected one", hint="take them apart first")
    depth, _, _ = _configuration(collection)
    try:
        samples = imagecodecs.avif_decode(data)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the AVIF data is broken: {error}") from error
    if samples.dtype.itemsize != (1 if depth == 8 else 2):
        raise InputError(f"the AVIF data is broken: its directory speaks of {depth} bits, and it holds {samples.dtype}")
    if samples.ndim == 2:
        samples = samples[:, :, np.newaxis]
    channels = samples.shape[2]
    colour: ColourModel = "grey" if channels < 3 else "rgb"
    kinds = collection.auxiliaries()
    return Photo(
        pixels=np.ascontiguousarray(samples[:, :, : 1 if colour == "grey" else 3]),
        colour=colour,
        depth=depth,
        alpha=np.ascontiguousarray(samples[:, :, -1]) if channels in (2, 4) else None,
        metadata=_metadata(collection, data),
        origin=Origin("avif", data, lossless=collection.cicp is not None and collection.cicp[2] == 0),
        notes=(f"the AVIF file also holds {', '.join(kinds)}, which is left out",) if kinds else (),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
    """Write an AVIF file with the source's chroma sampling and colours by number where it comes from one, else 4:4:4.

    What was stored without loss (with the identity matrix) is written so again, unless a quality is asked for.

    Raises:
        OutputError: If the encoder refuses.
    """
    assert photo.depth == depth
    source = parse(photo.origin.data) if photo.origin is not None and photo.origin.format == "avif" else None
    primaries, transfer, matrix = (source.cicp if source is not None else None) or _colours(photo)
    sampling = "400" if photo.colour == "grey" else "444" if source is None else _configuration(source)[1]
    lossless = matrix == 0 and quality is None and photo.colour == "rgb"
    if matrix == 0 and not lossless:
        matrix = _SRGB[2]
    samples = photo.pixels
    if photo.alpha is not None:
        samples = np.concatenate([samples, photo.alpha[:, :, np.newaxis]], axis=2)
    try:
        file = bytes(
            imagecodecs.avif_encode(
                samples[:, :, 0] if samples.shape[2] == 1 else samples,
                level=100 if lossless else quality or DEFAULT_QUALITY,
                speed=6,
                bitspersample=depth,
                pixelformat=None if photo.colour == "grey" else sampling,
                primaries=primaries,
                transfer=transfer,
                matrix=matrix,
            )
        )
    except (RuntimeError, ValueError) as error:
        height, width = photo.size
        raise OutputError(f"the AVIF encoder refused {width}×{height} pixels: {error}") from error
    return attach(
        file, exif=_exif_to_write(photo, source), xmp=photo.metadata.xmp, properties=_properties(photo, source)
    )


def _colours(photo: Photo) -> tuple[int, int, int]:
    """Return primaries, transfer and matrix for a photo from elsewhere; unspecified where a profile says it."""
    if photo.metadata.icc is not None:
        return _UNSPECIFIED, _UNSPECIFIED, _SRGB[2]
    numbers = cicp.of(photo.origin)
    return _SRGB if numbers is None else (numbers.primaries, numbers.transfer, _SRGB[2])


def _properties(photo: Photo, source: Collection | None) -> list[Box]:
    properties = [Box(b"colr", b"prof" + photo.metadata.icc)] if photo.metadata.icc is not None else []
    if source is not None:
        own = source.properties.get(source.primary, ())
        properties += {box.kind: box for box in own if box.kind in _CARRIED}.values()  # a kind counts once
    return properties + orientation_properties(exif.orientation(photo.metadata.exif))


def _metadata(collection: Collection, data: bytes) -> Metadata:
    block = collection.block(data, b"Exif")
    return Metadata(
        exif=into_exif(block, collection.orientation), xmp=collection.block(data, b"mime"), icc=collection.icc
    )


def _exif_to_write(photo: Photo, source: Collection | None) -> bytes | None:
    if source is None or photo.origin is None:
        return photo.metadata.exif
    stored = source.block(photo.origin.data, b"Exif")
    return exif_to_write(photo, stored=stored, orientation=source.orientation)


def _configuration(collection: Collection) -> tuple[Depth, str, bool]:
    """Return depth, chroma sampling and whether the main picture, or the first tile of it, is grey."""
    tiles = [
        t for r in collection.references if r.kind == b"dimg" and r.source == collection.primary for t in r.targets
    ]
    for identifier in dict.fromkeys((collection.primary, *tiles)):
        settings = first(collection.properties.get(identifier, ()), b"av1C")
        if settings is not None and len(settings) >= 4:
            flags = settings[2]
            depth = 8 if not flags & 0x40 else 12 if flags & 0x20 else 10
            sampling = {0: "444", 0x08: "422", 0x0C: "420"}.get(flags & 0x0C, "444")
            return cast(Depth, depth), sampling, bool(flags & 0x10)
    raise InputError("got an AVIF file without AV1 settings")
