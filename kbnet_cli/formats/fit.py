"""What becomes of a photo on its way into a format that cannot hold it as it is: converted, told of, or refused."""

from dataclasses import dataclass, replace

import numpy as np

from kbnet_cli.errors import UnsupportedError
from kbnet_cli.formats import cicp, iptc
from kbnet_cli.formats.depth import convert, nearest, white
from kbnet_cli.formats.table import BLOCKS, Format
from kbnet_cli.photo import Depth, Metadata, Photo


@dataclass(frozen=True)
class Fitted:
    """A photo that a format can hold, and what a user should be told of the way there."""

    photo: Photo
    notes: tuple[str, ...]


def fit(photo: Photo, target: Format, *, depth: int | None) -> Fitted:
    """Make a photo one that the format can hold, at this depth or at the nearest to its own.

    Raises:
        UnsupportedError: If pixels, alpha or colours would be lost.
    """
    notes: list[str] = []
    photo = _with_pixels(photo, target, notes)
    photo = _with_metadata(_with_colours(photo, target, notes), target, notes)
    photo = _with_depth(photo, _depth(photo, target, depth, notes), notes)
    alpha = None if photo.alpha is None else np.ascontiguousarray(photo.alpha)
    # Encoders take no views into other arrays.
    return Fitted(replace(photo, pixels=np.ascontiguousarray(photo.pixels), alpha=alpha), tuple(notes))


def check(photo: Photo, target: Format, *, depth: int | None) -> None:
    """Refuse what `fit` would refuse, before anything is done to the photo.

    Raises:
        UnsupportedError: If the format cannot hold what the photo is.
    """
    notes: list[str] = []
    _depth(_with_pixels(photo, target, notes), target, depth, notes)


def _with_pixels(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Refuse what a format does not hold; alpha that is opaque everywhere says nothing and may go."""
    if (photo.camera is not None) != target.camera:
        raise UnsupportedError(
            f"got {'the colours of a camera' if photo.camera else 'a developed picture'}, "
            f"which {target.title} does not hold",
            hint="write camera raw as DNG, and anything else as another format",
        )
    if photo.colour not in target.colours:
        raise UnsupportedError(
            f"got {photo.colour.upper()} colours, which {target.title} does not hold", hint="choose --format tif"
        )
    if photo.alpha is not None and not target.alpha:
        if bool(np.any(photo.alpha != white(photo.depth))):
            raise UnsupportedError(
                f"got a photo with transparency, which {target.title} does not hold", hint="choose --format png or tif"
            )
        notes.append(f"the alpha channel, opaque everywhere, does not fit into {target.title} and is left out")
        photo = replace(photo, alpha=None)
    return photo


def _with_colours(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Give a photo an ICC profile where its own format tells colours in a way that the target does not know."""
    if photo.metadata.icc is not None:
        return photo
    if photo.linear and not target.linear:
        # Light stays light, so that no sample changes; the profile says so.
        icc = cicp.profile(cicp.LINEAR_SRGB, grey=photo.colour == "grey")
        notes.append(f"an ICC profile says that the samples are linear light, which {target.title} does not assume")
        return replace(photo, metadata=replace(photo.metadata, icc=icc), linear=False)
    if photo.origin is None or photo.origin.format == target.name:
        return photo
    numbers = cicp.of(photo.origin)
    if numbers is not None and not numbers.is_srgb and not target.numbers:
        icc = cicp.profile(numbers, grey=photo.colour == "grey")
        if icc is None:
            raise UnsupportedError(
                f"got colours by number (primaries {numbers.primaries}, transfer {numbers.transfer}), "
                f"which {target.title} cannot say",
                hint="choose --format avif or --format png",
            )
        notes.append("an ICC profile was made of the colours that the file told by number")
        return replace(photo, metadata=replace(photo.metadata, icc=icc))
    if photo.origin.format == "png" and photo.colour == "rgb":
        icc = cicp.png_profile(photo.origin.data)
        if icc is not None:
            notes.append("an ICC profile was made of the PNG's gamma and chromaticities")
            return replace(photo, metadata=replace(photo.metadata, icc=icc))
    return photo


def _with_metadata(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Leave out blocks that the target does not hold, and say so; IPTC goes into XMP where that has a place."""
    if photo.origin is not None and photo.origin.format == target.name:
        return photo  # what was found in such a file has a place in it, if an odd one
    metadata = photo.metadata
    if metadata.iptc is not None and "iptc" not in target.blocks and "xmp" in target.blocks:
        packet = iptc.into_xmp(metadata.iptc, metadata.xmp)
        if packet is not None:
            notes.append(f"{target.title} does not hold IPTC; its common fields went into XMP")
            metadata = replace(metadata, xmp=packet, iptc=None)
    lost = [name for name in BLOCKS if name not in target.blocks and getattr(metadata, name) is not None]
    if lost:
        notes.append(f"{target.title} does not hold {', '.join(name.upper() for name in lost)}")
    kept = {name: getattr(metadata, name) for name in target.blocks}
    return replace(photo, metadata=Metadata(**kept))


def _depth(photo: Photo, target: Format, asked: int | None, notes: list[str]) -> Depth:
    """Choose the depth to write."""
    own = photo.origin is not None and photo.origin.format == target.name
    possible = target.depths + (target.source_depths if own else ())
    if asked is not None:
        if asked not in possible:
            depths = " or ".join(str(depth) for depth in possible)
            raise UnsupportedError(
                f"got depth {asked}, expected {depths}, which is what {target.title} holds",
                hint="leave --depth out, or choose another --format",
            )
        return asked
    if photo.depth in possible:
        return photo.depth
    chosen = nearest(photo.depth, target.depths)
    if chosen < photo.depth:
        notes.append(f"{photo.depth} bits became {chosen}, which is all {target.title} holds")
    return chosen


def _with_depth(photo: Photo, depth: Depth, notes: list[str]) -> Photo:
    if photo.depth == depth:
        return photo
    if photo.depth == 32 and bool(np.any((photo.pixels < 0) | (photo.pixels > 1))):
        notes.append(f"samples below black or above white were clipped, since {depth} bits hold none")
    alpha = None if photo.alpha is None else convert(photo.alpha, from_depth=photo.depth, to_depth=depth)
    pixels = convert(photo.pixels, from_depth=photo.depth, to_depth=depth)
    return replace(photo, pixels=pixels, alpha=alpha, depth=depth)
