"""TIFF: any page of grey, RGB, palette, CMYK or YCbCr samples that are unsigned integers or floats.

A TIFF that becomes a TIFF is not written anew: its picture is replaced and the rest of the file stays, byte for byte
(`tiff_rewrite`). Anything else that becomes a TIFF is built upon its EXIF block, which is a TIFF stream already, so
that maker notes stay where they were.
"""

import math

import numpy as np
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.depth import convert
from kbnet_cli.formats.ifd import Layout, read_chain, read_layout
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.tiff_blocks import block_entries, changed_entries, read_blocks
from kbnet_cli.formats.tiff_rewrite import (
    STORAGE,
    Picture,
    add_page,
    open_arena,
    replace_page,
    take_picture,
    unreadable,
)
from kbnet_cli.formats.tiff_samples import PHOTOMETRIC, Form, read_samples, same_form, write_samples
from kbnet_cli.formats.tiff_structure import (
    ASSOCIATED_ALPHA,
    UNASSOCIATED_ALPHA,
    File,
    Structure,
    check_whole,
    read_file,
    read_structure,
)
from kbnet_cli.photo import CHANNELS, Depth, Origin, Photo

_CLASSIC_BYTES = 2**32 - 2**20
"""What a TIFF with 32-bit offsets can hold, with room for its directory."""


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read the photo of a TIFF file: the first page that is not a smaller copy of another.

    Samples are display-encoded, but float samples without an ICC profile are linear. They are as stored; white-is-zero
    is turned to black-is-zero and palettes to RGB.

    Raises:
        InputError: the file is damaged, cut short or too large.
        UnsupportedError: its samples are of a kind that could not be written back.
    """
    file, structure = _open(data, max_megapixels)
    samples = read_samples(data, file, structure)
    metadata = read_blocks(data, file.directory)
    colours = CHANNELS[structure.colour]
    return Photo(
        pixels=np.ascontiguousarray(samples.values[..., :colours]),
        colour=structure.colour,
        depth=samples.depth,
        alpha=np.ascontiguousarray(samples.values[..., colours]) if structure.has_alpha else None,
        metadata=metadata,
        origin=Origin("tif", data, lossless=structure.lossless),
        linear=samples.depth == 32 and metadata.icc is None,
        notes=tuple(note for note in (samples.note, *_notes(file, structure)) if note),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None = None) -> bytes:  # noqa: ARG001 - TIFF is lossless here
    """Write a photo as TIFF, into the file it came from if that was TIFF.

    Raises:
        OutputError: the file would be larger than its offsets can count.
        UnsupportedError: the photo's EXIF block is damaged.
    """
    assert depth == photo.depth
    if photo.origin is not None and photo.origin.format == "tif":
        file, structure = _open(photo.origin.data, math.inf)  # its size was allowed when it was read
        if (structure.height, structure.width) == photo.size and structure.colour == photo.colour:
            return _rewrite(photo, photo.origin.data, file, structure)
    return _write(photo)


def _open(data: bytes, max_megapixels: float | None) -> tuple[File, Structure]:
    file = read_file(data)
    structure = read_structure(file)
    check_size(structure.height, structure.width, len(data), max_megapixels)
    return file, check_whole(data, structure)


def _rewrite(photo: Photo, data: bytes, file: File, structure: Structure) -> bytes:
    extra = _extra_samples(photo, data, file, structure)
    values = np.concatenate((photo.pixels, extra), axis=2) if extra.shape[2] else photo.pixels
    meaning = structure.extra if extra.shape[2] == len(structure.extra) else (UNASSOCIATED_ALPHA,) * extra.shape[2]
    form = same_form(structure, meaning, values.dtype)
    picture = take_picture(write_samples(values, form, file.layout), file.layout)
    if not file.layout.big and len(data) + _bytes(picture) > _CLASSIC_BYTES:
        raise OutputError(
            f"the TIFF would hold {len(data) + _bytes(picture)} bytes, expected at most 4 GB",
            hint="choose --format png or jxl",
        )
    arena, offsets = open_arena(data, file, structure, picture)
    before = read_blocks(data, file.directory)
    changed = changed_entries(arena, before, photo.metadata)
    replace_page(arena, file, structure, picture, offsets, changed)
    return arena.to_bytes()


def _extra_samples(photo: Photo, data: bytes, file: File, structure: Structure) -> Shaped[np.ndarray, "h w c"]:
    """Return what is stored beside the colours: the photo's alpha, or the file's own samples of unsaid meaning."""
    if photo.alpha is not None:
        return photo.alpha[..., None]
    if not structure.extra or structure.has_alpha:
        return photo.pixels[..., :0]
    samples = read_samples(data, file, structure)
    own = samples.values[..., CHANNELS[structure.colour] :]
    return convert(own, from_depth=samples.depth, to_depth=photo.depth)


def _write(photo: Photo) -> bytes:
    values = photo.pixels if photo.alpha is None else np.concatenate((photo.pixels, photo.alpha[..., None]), axis=2)
    extra = () if photo.alpha is None else (UNASSOCIATED_ALPHA,)
    block = photo.metadata.exif
    try:
        layout = read_layout(block) if block else Layout("<")
        first = next(read_chain(block), None) if block else None
        description = exif.describe(block, first) if block and first else exif.Description(layout.order)
    except InputError as error:
        raise UnsupportedError(
            f"the photo's EXIF cannot be carried over into TIFF: {error.message}", hint="keep the photo's own format"
        ) from error
    big = values.nbytes + len(block or b"") > _CLASSIC_BYTES
    layout = Layout(layout.order, big)
    picture = take_picture(write_samples(values, Form(PHOTOMETRIC[photo.colour], extra), layout), layout)
    blocks = [entry for entry in block_entries(photo.metadata).values() if entry is not None]
    if block and first and not big:
        # The block becomes the beginning of the file. Its thumbnail is left behind: it shows the photo as it was, and
        # as a second page, without a size, it would be a broken one.
        arena = Arena(block, layout)
        kept = [e for e in first.entries if e.value is not None and e.tag not in {b.tag for b in blocks} | STORAGE]
    else:
        arena = Arena(header(layout, 0), layout)
        kept = list(exif.plant(arena, description))
    offset = add_page(arena, picture, [*kept, *blocks])
    arena.write(0, header(layout, offset))
    return arena.to_bytes()


def _bytes(picture: Picture) -> int:
    return sum(map(len, picture.segments))


def _notes(file: File, structure: Structure) -> list[str]:
    notes = []
    others = len(file.pages) - 1
    if others:
        notes.append(
            f"{others} further pages are kept as they are" if others > 1 else "a further page is kept as it is"
        )
    if structure.extra and not structure.has_alpha:
        notes.append(f"{len(structure.extra)} channels beside the colours are kept as they are, in TIFF alone")
    if structure.has_alpha and structure.extra[0] == ASSOCIATED_ALPHA:
        notes.append("the colours are multiplied by the alpha channel and stay so")
    if file.directory.find(330):
        notes.append("previews inside the file are kept as they are and still show the photo as it was")
    unread = unreadable(file.directory)
    if unread:
        tags = ", ".join(map(str, unread))
        notes.append(f"tags that point outside of the file are left out: {tags}")
    return notes
