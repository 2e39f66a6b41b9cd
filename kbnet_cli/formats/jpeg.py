"""JPEG: 8-bit grey, RGB and CMYK, and the rarer 12-bit and lossless kinds."""

import re
from collections.abc import Iterator

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import jpeg_metadata, multipicture
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.segments import APP0, APP11, APP14, Frame, Segment, Structure, parse
from kbnet_cli.photo import ColourModel, Depth, Metadata, Origin, Photo

DEFAULT_QUALITY = 95
ADOBE = b"Adobe"
_DEPTHS: dict[int, Depth] = {8: 8, 10: 10, 12: 12, 16: 16}
_COLOURS: dict[int, ColourModel] = {1: "grey", 3: "rgb", 4: "cmyk"}
_SUBSAMPLING = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440", (4, 1): "411"}


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a JPEG file; pixels keep their depth, CMYK becomes ink amounts (0 is none), whichever way it was stored.

    Raises:
        InputError: If the file is cut short, broken or too large.
        UnsupportedError: If it is a kind of JPEG that could not be written back.
    """
    structure = parse(data)
    frame = structure.frame
    check_size(frame.height, frame.width, len(data), max_megapixels)
    colour = _COLOURS.get(len(frame.components))
    if colour is None:
        raise UnsupportedError(f"got a JPEG with {len(frame.components)} components, expected 1, 3 or 4")
    depth = _DEPTHS.get(frame.precision)
    if depth is None:
        raise UnsupportedError(f"got a JPEG of {frame.precision} bits, expected 8, 10, 12 or 16")
    samples = _decompress(data, structure, colour)
    if samples.size != frame.height * frame.width * len(frame.components):
        raise InputError(f"the JPEG data is broken: it holds {samples.shape}, expected {frame.height}×{frame.width}")
    pixels = np.ascontiguousarray(samples.reshape(frame.height, frame.width, len(frame.components)))
    if colour == "cmyk" and _adobe(structure) is not None:
        pixels = _inverted(pixels, depth)
    found = jpeg_metadata.read(structure.segments)
    return Photo(
        pixels=pixels,
        colour=colour,
        depth=depth,
        metadata=found.metadata,
        origin=Origin("jpg", data, lossless=frame.lossless),
        notes=(*found.notes, *_notes(structure)),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
    """Write a JPEG file. What comes from a JPEG file gets its segments, sampling and trailing data back.

    Raises:
        UnsupportedError: If a metadata block is longer than JPEG allows.
        OutputError: If the encoder refuses.
    """
    assert photo.depth == depth
    source = parse(photo.origin.data) if photo.origin is not None and photo.origin.format == "jpg" else None
    pixels = photo.pixels
    if photo.colour == "cmyk" and (source is None or _adobe(source) is not None):
        pixels = _inverted(pixels, depth)
    stream = _compress(pixels, photo, source, depth=depth, quality=quality)
    written = parse(stream)
    if source is None or photo.origin is None:
        head = [s for s in written.segments if s.marker == APP0]
        tail = [s for s in written.segments if s.marker == APP14]
        return _assemble(stream, head + jpeg_metadata.build(photo.metadata) + tail)
    segments = _carry(source, photo.metadata, _adobe(written))
    whole = _assemble(stream, segments)
    trailing = photo.origin.data[source.end :]
    return multipicture.move(whole, photo.origin.data, source, trailing) + trailing


def _decompress(data: bytes, structure: Structure, colour: ColourModel) -> Shaped[np.ndarray, "..."]:
    """Decode, and refuse data of which a part is missing: libjpeg itself only warns and paints the rest grey."""
    stream = _without_metadata(data, structure)
    space = {"grey": "GRAY", "rgb": "RGB", "cmyk": "CMYK"}[colour]
    try:
        if structure.frame.precision == 8 and not structure.frame.lossless:
            return np.asarray(simplejpeg.decode_jpeg(stream, colorspace=space, strict=True))
    except ValueError as error:
        # simplejpeg knows only the usual samplings, and refuses harmless zeros between the data and the end mark.
        harmless = "subsampling" in str(error) or _is_padding(str(error), stream)
        if not harmless:
            raise InputError(f"the JPEG data is broken: {_lowered(error)}") from error
    try:
        return np.asarray(imagecodecs.jpeg8_decode(stream))
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the JPEG data is broken: {_lowered(error)}") from error


def _without_metadata(data: bytes, structure: Structure) -> bytes:
    """Return what a decoder needs and no more, so that what it complains about is the picture."""
    # JFIF and Adobe say how the components are to be understood.
    heads = [segment.to_bytes() for segment in structure.segments if segment.marker in (APP0, APP14)]
    return b"".join([data[:2], *heads, *(data[begin:end] for begin, end in structure.coded)])


def _is_padding(message: str, stream: bytes) -> bool:
    """Say whether a decoder only complains of zeros before the end-of-image marker; some cameras write them."""
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", message)
    if found is None:
        return False
    count = int(found.group(1))
    return stream[-2 - count : -2] == b"\0" * count


def _lowered(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:]


def _compress(
    pixels: Shaped[np.ndarray, "h w c"], photo: Photo, source: Structure | None, *, depth: Depth, quality: int | None
) -> bytes:
    colourspace = {"grey": "GRAYSCALE", "rgb": "RGB", "cmyk": "CMYK"}[photo.colour]
    stored = {"grey": "GRAYSCALE", "rgb": "YCbCr", "cmyk": "CMYK"}[photo.colour]
    subsampling: str | None = "444"
    lossless = False
    if source is not None and len(source.frame.components) == pixels.shape[2]:
        stored = _stored_as(source, stored)
        subsampling = _subsampling(source.frame)
        lossless = source.frame.lossless and quality is None
    samples = pixels[:, :, 0] if photo.colour == "grey" else pixels
    try:
        return bytes(
            imagecodecs.jpeg8_encode(
                samples,
                level=None if lossless else quality or DEFAULT_QUALITY,
                colorspace=colourspace,
                outcolorspace=colourspace if lossless else stored,
                subsampling=None if photo.colour == "grey" or lossless else subsampling,
                optimize=depth == 8 and not lossless,
                lossless=lossless,
                bitspersample=depth,
            )
        )
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"the JPEG encoder refused {samples.shape[1]}×{samples.shape[0]} pixels: {error}") from error


def _carry(source: Structure, metadata: Metadata, adobe: Segment | None) -> list[Segment]:
    """Return the source's segments in their order, byte for byte, but for blocks that changed since."""
    before = jpeg_metadata.read(source.segments).metadata
    changed = {name for name in ("exif", "xmp", "iptc", "icc") if getattr(before, name) != getattr(metadata, name)}
    only_changed = Metadata(**{name: getattr(metadata, name) for name in changed})
    segments: list[Segment] = []
    for segment in source.segments:
        if jpeg_metadata.kind(segment) in changed:
            continue
        if segment.marker == APP14 and segment.payload.startswith(ADOBE):
            if adobe is not None and not _same_transform(segment, adobe):
                segments.append(adobe)
            else:
                segments.append(segment)
            continue
        segments.append(segment)
    first = 1 if segments and segments[0].marker == APP0 else 0
    return segments[:first] + jpeg_metadata.build(only_changed) + segments[first:]


def _assemble(stream: bytes, segments: list[Segment]) -> bytes:
    """Return the encoder's stream with these application segments in place of its own."""
    structure = parse(stream)
    pieces = [stream[:2], *(segment.to_bytes() for segment in segments)]
    at = 2
    for segment in structure.segments:
        pieces.append(stream[at : segment.offset])
        at = segment.offset + 4 + len(segment.payload)
    pieces.append(stream[at:])
    return b"".join(pieces)


def _stored_as(source: Structure, default: str) -> str:
    """Name the colour space inside the file as the source has it: RGB and CMYK may be stored as they are."""
    adobe = _adobe(source)
    components = source.frame.components
    if len(components) == 3:
        if adobe is not None:
            return "RGB" if adobe.payload[11:12] == b"\0" else default
        has_jfif = any(s.marker == APP0 and s.payload.startswith(b"JFIF\0") for s in source.segments)
        named_rgb = bytes(identifier for identifier, _, _ in components) == b"RGB"
        return "RGB" if named_rgb and not has_jfif else default
    if len(components) == 4:
        # The encoder halves the chroma of YCCK whatever one asks; finer sources are stored as CMYK instead.
        halved = components[0][1:] == (2, 2) and components[1][1:] == (1, 1)
        return "YCCK" if halved and adobe is not None and adobe.payload[11:12] == b"\2" else "CMYK"
    return default


def _subsampling(frame: Frame) -> str:
    """Name the chroma subsampling, or the finest where the encoder does not have the source's."""
    if len(frame.components) == 1:
        return "444"
    (_, h, v), *others = frame.components
    # The fourth component of YCCK is black, as fine as the first.
    if any((other_h, other_v) != (1, 1) for _, other_h, other_v in others[:2]):
        return "444"
    return _SUBSAMPLING.get((h, v), "444")


def _adobe(structure: Structure) -> Segment | None:
    return next(
        (s for s in structure.segments if s.marker == APP14 and s.payload.startswith(ADOBE) and len(s.payload) >= 12),
        None,
    )


def _same_transform(one: Segment, other: Segment) -> bool:
    return one.payload[11:12] == other.payload[11:12]


def _inverted(pixels: Shaped[np.ndarray, "h w c"], depth: Depth) -> Shaped[np.ndarray, "h w c"]:
    """Turn ink amounts into what Adobe stores, and back: 255 means no ink there."""
    return np.asarray(2**depth - 1 - pixels.astype(np.int32), pixels.dtype)


def _notes(structure: Structure) -> Iterator[str]:
    if any(s.marker == APP11 and b"jumb" in s.payload[:32] for s in structure.segments):
        yield "the content credentials (C2PA) come along, but are signed for other pixels"
    if structure.stray_bytes:
        yield f"{structure.stray_bytes} bytes that belong to no part of the JPEG file are left out"
