"""DNG: a linear photo as a camera's own channels, demosaiced, for raw developers to go on with.

Adobe's specification 1.7 calls it LinearRaw. The first directory holds all that is said about the photo and shows it
as a thumbnail; below it are the samples, as tiles of lossless JPEG, and a larger preview.
"""

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.dng import opcodes as dng_opcodes
from kbnet_cli.formats.dng import preview as dng_preview
from kbnet_cli.formats.dng import profiles as dng_profiles
from kbnet_cli.formats.dng import samples as dng_samples
from kbnet_cli.formats.dng.check import check
from kbnet_cli.formats.dng.identity import identity_entries
from kbnet_cli.formats.dng.samples import Stored
from kbnet_cli.formats.dng.source import Source, read_source
from kbnet_cli.formats.dng.tags import colour_entries, raw_entries, shown_part
from kbnet_cli.formats.dng.values import longs
from kbnet_cli.formats.ifd import Entry, Layout, read_chain, read_layout
from kbnet_cli.formats.tiff_blocks import block_entries
from kbnet_cli.formats.tiff_rewrite import add_page
from kbnet_cli.photo import Depth, Photo

_MOST_BYTES = 2**32 - 2**24
"""What offsets of 32 bits can count, with room for previews and directories: DNG knows no others before version 1.7."""
_LEAST_SIDE = 22  # LibRaw's
_SUBFILE, _SUB_DIRECTORIES, _PREVIEW_COLOUR, _ICC = 254, 330, 50970, 34675
_WHOLE, _SMALLER = 0, 1
_GREY_22, _SRGB = 1, 2
_NOISE_PROFILE = 51041


def encode(photo: Photo, *, depth: Depth, quality: int | None = None) -> bytes:  # noqa: ARG001 - samples are exact
    """Write a linear photo as DNG, and read it back before it is given out.

    Colours begin at 0 and not at the photo's black, because few developers subtract a black level from demosaiced
    samples; a grey photo keeps it. `NoiseProfile` is that of a DNG source times `CameraColour.noise_left`.

    Raises:
        OutputError: it would be larger than 4 GB, or another reader does not see in it what was written.
        UnsupportedError: the photo is none of a camera's own channels or too small, or its EXIF block is damaged.
    """
    camera = photo.camera
    if camera is None or not photo.linear or depth != 16 or photo.colour == "cmyk" or photo.alpha is not None:
        raise UnsupportedError(
            "got a developed picture, and DNG holds what a camera's sensor saw", hint="choose --format tif"
        )
    if min(photo.size) < _LEAST_SIDE:
        raise UnsupportedError(
            f"got {photo.size[1]}×{photo.size[0]} pixels, and raw developers read no DNG below {_LEAST_SIDE} a side",
            hint="choose --format tif",
        )
    stored = dng_samples.stored(photo.pixels, camera)
    data = _assemble(photo, stored, _source(photo))
    check(data, photo, stored)
    return data


def notes(photo: Photo) -> tuple[str, ...]:
    """Tell what of the DNG file that a photo came from is not in the one that `encode` makes of it."""
    source = _source(photo)
    if source is None:
        return ()
    told = []
    opcodes = dng_opcodes.carry(source, photo.size)
    if opcodes.left_out:
        told.append(f"corrections that the camera asks for on its mosaic are left out: {', '.join(opcodes.left_out)}")
    others = source.other_pictures()
    if others:
        told.append(f"pictures beside the photo are left out: {', '.join(others)}")
    return tuple(told)


def _source(photo: Photo) -> Source | None:
    origin = photo.origin
    return read_source(origin.data) if origin is not None and origin.format == "raw" else None


def _assemble(photo: Photo, stored: Stored, source: Source | None) -> bytes:
    camera = photo.camera
    assert camera is not None
    arena, kept = _begin(photo)
    layout, order = arena.layout, arena.layout.order
    samples = dng_samples.compress(stored.pixels, layout)
    size = len(arena.data) + sum(map(len, samples.segments))
    if size > _MOST_BYTES:
        raise OutputError(f"the DNG would hold {size} bytes, expected at most 4 GB", hint="choose --format tif or png")
    rendered = dng_preview.render(photo, shown_part(photo), dng_preview.PREVIEW_SIDE)
    large = dng_preview.compress(rendered, layout)
    small = dng_preview.compress(dng_preview.shrink(rendered, dng_preview.THUMBNAIL_SIDE), layout)
    shown = [
        longs(_SUBFILE, order, _SMALLER),
        longs(_PREVIEW_COLOUR, order, _GREY_22 if photo.colour == "grey" else _SRGB),
    ]
    preview = add_page(arena, large, shown)
    entries = raw_entries(photo, camera, stored, source, order)
    entries |= {entry.tag: entry for entry in dng_opcodes.carry(source, photo.size).entries}
    raw = add_page(arena, samples, (longs(_SUBFILE, order, _WHOLE), *entries.values()))
    first = colour_entries(photo, camera, source, order) | identity_entries(photo, camera, source, order)
    first |= dng_profiles.plant(arena, source)
    first |= {entry.tag: entry for entry in kept}
    first |= {e.tag: e for e in block_entries(photo.metadata).values() if e is not None and e.tag != _ICC}
    first |= {entry.tag: entry for entry in (*shown, longs(_SUB_DIRECTORIES, order, raw, preview))}
    offset = add_page(arena, small, first.values())
    arena.write(0, header(layout, offset))
    return arena.to_bytes()


def _begin(photo: Photo) -> tuple[Arena, list[Entry]]:
    """Begin a stream with the photo's EXIF block, so that its maker note stays where it was."""
    block = photo.metadata.exif
    if block is None:
        return Arena(header(Layout("<"), 0), Layout("<")), []
    try:
        layout = read_layout(block)
        first = next(read_chain(block), None)
    except InputError as error:
        raise UnsupportedError(
            f"the photo's EXIF cannot be carried over into DNG: {error.message}", hint="choose --format tif"
        ) from error
    described = (exif.DESCRIPTIVE | {exif.EXIF_POINTER, exif.GPS_POINTER}) - {_NOISE_PROFILE}
    kept = [e for e in first.entries if e.value is not None and e.tag in described] if first else []
    return Arena(block, layout), kept
