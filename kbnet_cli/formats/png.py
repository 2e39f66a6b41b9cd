"""PNG: grey and RGB, 8 and 16 bits, with and without alpha; palettes and fewer bits become 8 bits."""

from collections.abc import Iterator

import imagecodecs
import numpy as np

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import cicp, png_metadata
from kbnet_cli.formats.chunks import SIGNATURE, Chunk, Structure, parse
from kbnet_cli.formats.limits import check_size
from kbnet_cli.photo import ColourModel, Depth, Metadata, Origin, Photo

_CODING = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
"""All that the decoder needs. The rest is ours to carry, and the decoder would only warn of it."""
_STAYS_TRUE = (
    b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tIME", b"sPLT", b"oFFs", b"sCAL", b"pCAL", b"sTER",
    b"iCCP", b"eXIf", b"tEXt", b"zTXt", b"iTXt",
)  # fmt: skip
"""Registered chunks that stay true when pixels change, whatever their fourth letter says."""


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a PNG file.

    Raises:
        InputError: If the file is cut short, damaged or too large.
        UnsupportedError: If it is an animation.
    """
    structure = parse(data)
    header = structure.header
    check_size(header.height, header.width, len(data), max_megapixels)
    if structure.first(b"acTL") is not None and structure.first(b"fcTL") is not None:
        raise UnsupportedError("got an animated PNG, expected one picture", hint="take its frames apart first")
    minimal = SIGNATURE + b"".join(chunk.to_bytes() for chunk in structure.chunks if chunk.name in _CODING)
    try:
        samples = imagecodecs.png_decode(minimal)
    except (RuntimeError, ValueError) as error:
        # The decoder's own words are not repeated: the binding sometimes fails to read them.
        raise InputError("the PNG data is broken: it cannot be inflated to the end") from error
    if samples.ndim == 2:
        samples = samples[:, :, np.newaxis]
    channels = samples.shape[2]
    colour: ColourModel = "grey" if channels < 3 else "rgb"
    pixels = np.ascontiguousarray(samples[:, :, : 1 if colour == "grey" else 3])
    alpha = np.ascontiguousarray(samples[:, :, -1]) if channels in (2, 4) else None
    return Photo(
        pixels=pixels,
        colour=colour,
        depth=16 if samples.dtype == np.uint16 else 8,
        alpha=alpha,
        metadata=png_metadata.read(structure),
        origin=Origin("png", data),
        notes=tuple(_notes(structure)),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:  # noqa: ARG001 - every encoder takes it
    """Write a PNG file. What comes from a PNG file gets its other chunks back.

    Raises:
        OutputError: If the encoder refuses.
    """
    assert photo.depth == depth
    channels = [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha[:, :, np.newaxis]]
    samples = np.concatenate(channels, axis=2)
    try:
        stream = bytes(imagecodecs.png_encode(samples[:, :, 0] if samples.shape[2] == 1 else samples))
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"the PNG encoder refused {samples.shape[1]}×{samples.shape[0]} pixels: {error}") from error
    written = parse(stream)
    before = [*_numbers(photo), *png_metadata.build(photo.metadata)]
    behind: list[Chunk] = []
    trailing = b""
    if photo.origin is not None and photo.origin.format == "png":
        source = parse(photo.origin.data)
        before, behind = _carry(source, photo, written)
        trailing = source.trailing
    header, *_, end = written.chunks
    pixels = [chunk for chunk in written.chunks if chunk.name == b"IDAT"]
    return SIGNATURE + b"".join(chunk.to_bytes() for chunk in [header, *before, *pixels, *behind, end]) + trailing


def _numbers(photo: Photo) -> list[Chunk]:
    """Return colours by number for a photo from another format that tells them so: RGB, full range."""
    numbers = cicp.of(photo.origin) if photo.metadata.icc is None else None
    return (
        []
        if numbers is None or numbers.is_srgb
        else [Chunk(b"cICP", bytes((numbers.primaries, numbers.transfer, 0, 1)))]
    )


def _carry(source: Structure, photo: Photo, written: Structure) -> tuple[list[Chunk], list[Chunk]]:
    """Return the source's chunks before and behind the pixels, byte for byte where they stay true."""
    known = png_metadata.read(source)
    changed = {name for name in ("exif", "xmp", "iptc", "icc") if getattr(known, name) != getattr(photo.metadata, name)}
    only_changed = Metadata(**{name: getattr(photo.metadata, name) for name in changed})
    before: list[Chunk] = []
    behind: list[Chunk] = []
    seen_pixels = False
    for chunk in source.chunks:
        seen_pixels = seen_pixels or chunk.name == b"IDAT"
        if png_metadata.kind(chunk) in changed:
            continue
        kept = _adapted(chunk, source, written)
        if kept is not None:
            (behind if seen_pixels else before).append(kept)
    return png_metadata.build(only_changed) + before, behind


def _adapted(chunk: Chunk, source: Structure, written: Structure) -> Chunk | None:
    """Return a chunk as it is true for the written picture, or None."""
    same_kind = (source.header.colour_type, source.header.depth) == (written.header.colour_type, written.header.depth)
    if chunk.name in (b"PLTE", b"hIST"):
        # In a true-colour file a suggestion for screens of few colours; else the pixels' own palette, which is gone.
        return chunk if same_kind and source.header.colour_type in (2, 6) else None
    if chunk.name == b"sBIT":
        added = written.header.colour_type & 4 and not source.header.colour_type & 4
        limit = written.header.depth
        bits = chunk.content + (bytes((limit,)) if added else b"")
        return Chunk(b"sBIT", bytes(min(bit, limit) for bit in bits))
    if chunk.name == b"bKGD":
        return chunk if same_kind else _background(chunk, source, written)
    if not chunk.ancillary or chunk.name == b"tRNS":
        return None
    return chunk if chunk.safe_to_copy or chunk.name in _STAYS_TRUE else None


def _background(chunk: Chunk, source: Structure, written: Structure) -> Chunk | None:
    """Return the background colour in the written picture's kind of samples."""
    if source.header.colour_type == 3:
        palette = source.first(b"PLTE") or b""
        index = chunk.content[0] if chunk.content else 0
        values: bytes | list[int] = palette[3 * index : 3 * index + 3]
        old_white = 255
    else:
        values = [int.from_bytes(chunk.content[i : i + 2], "big") for i in range(0, len(chunk.content), 2)]
        old_white = 2**source.header.depth - 1
    new_white = 2**written.header.depth - 1
    content = b"".join(min(round(v * new_white / old_white), new_white).to_bytes(2, "big") for v in values)
    expected = 6 if written.header.colour_type & 2 else 2
    return Chunk(b"bKGD", content) if len(content) == expected else None


def _notes(structure: Structure) -> Iterator[str]:
    for chunk in structure.chunks:
        known = chunk.name in (*_CODING, *_STAYS_TRUE, b"sBIT", b"bKGD", b"hIST")
        if chunk.ancillary and not chunk.safe_to_copy and not known:
            name = "content credentials (C2PA)" if chunk.name == b"caBX" else f"PNG chunk {chunk.name.decode()}"
            yield f"{name} speaks of these very pixels and does not come along"
