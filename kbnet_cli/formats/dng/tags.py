"""What a DNG file says about its samples and their colours: from the DNG file they came from, or from the camera.

Tags and their meaning: DNG specification 1.7. What a DNG source says holds for the new samples as well, because they
are its own from black to white, only scaled and demosaiced. What speaks of its mosaic, its stored values or its bytes
does not, and is left out; so is what cannot be meant.
"""

import math

from kbnet_cli.formats.dng.samples import Stored
from kbnet_cli.formats.dng.source import Source, in_order
from kbnet_cli.formats.dng.values import doubles, floats, octets, rationals, shorts
from kbnet_cli.formats.ifd import Entry, Order
from kbnet_cli.photo import CameraColour, Crop, Photo

_MATRICES = frozenset({50721, 50722, 50725, 50726, 50964, 50965, 52531, 52532, 52538})
"""Colour, reduction and forward matrices: three numbers for each channel."""
_CALIBRATIONS = frozenset({50723, 50724, 52530})
"""A number for each pair of channels."""
_PER_CHANNEL = frozenset({50727, 50728})  # analogue balance, neutral as shot
_SINGLE = frozenset({50730, 50731, 50732, 50734, 50739, 51109, 50780})
"""Baselines of exposure, noise and sharpness, linear limit, shadows, exposure offset, scale of best quality."""
_PAIRS = frozenset({50729, 50718, 50719, 50720})  # white as shot, scale, crop
_SHORTS = frozenset({50778, 50779, 52529, 50879, 50941, 51107, 51108, 51110})
"""Illuminants, reference, policy of embedding, encodings of tables, black rendering: one integer."""
_FREE = frozenset(
    {50709, 50831, 50832, 50833, 50834, 50931, 50932, 50934, 50936, 50937, 50938, 50939, 50940, 50942, 50981, 50982}
    | {52533, 52534, 52535, 52537, 52544, 52551, 52552}
)
"""Names, ICC profiles, tables, light sources, gains over the picture: any number of values."""
_OF_COLOUR = (_MATRICES | _CALIBRATIONS | _PER_CHANNEL | _SINGLE | _SHORTS | _FREE | {50729}) - {50780}
"""Tags of the first directory that hold for the new samples."""
_OF_PLACE = frozenset({50718, 50719, 50720, 50780, 51125, 52525})
"""Tags of the directory with the samples that count in its pixels: scale, crops, gains over the picture."""
_THIRD = frozenset({52529, 52530, 52531, 52532, 52533, 52534, 52535, 52537, 52538})
_TABLES = ((50937, (50938, 50939, 52537)), (50981, (50982,)))
"""Sizes of the profile's tables, and the tables."""

_DNG_VERSION, _BACKWARD_VERSION = 50706, 50707
_BLACK_LEVEL, _WHITE_LEVEL = 50714, 50717
_SCALE, _CROP_ORIGIN, _CROP_SIZE, _USER_CROP = 50718, 50719, 50720, 51125
_MATRIX, _NEUTRAL, _WHITE_XY, _ILLUMINANT = 50721, 50728, 50729, 50778
_NOISE_REDUCTION, _NOISE_PROFILE = 50935, 51041
_D65 = 21
_OLDEST, _NEWEST, _BACKWARD, _BACKWARD_OF_THIRD = (1, 4, 0, 0), (1, 7, 1, 0), (1, 3, 0, 0), (1, 6, 0, 0)
_XYZ_TO_SRGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
"""IEC 61966-2-1: what is written for a camera of which nothing is known, as if it saw like a screen shows."""
_LEAST_SLOPE = 1e-12  # the specification wants more than none


def colour_entries(photo: Photo, camera: CameraColour, source: Source | None, order: Order) -> dict[int, Entry]:
    """Return the first directory's tags about colours."""
    carried = _carry(source, _OF_COLOUR, order, photo.pixels.shape[2], raw=False)
    _drop_tables(carried, order)
    if _THIRD & set(carried) and _MATRIX not in carried:
        carried = {tag: entry for tag, entry in carried.items() if tag not in _THIRD}
    entries = {
        _DNG_VERSION: octets(_DNG_VERSION, *_version(source)),
        _BACKWARD_VERSION: octets(_BACKWARD_VERSION, *(_BACKWARD_OF_THIRD if _THIRD & set(carried) else _BACKWARD)),
    }
    if photo.colour != "grey":
        if _MATRIX not in carried:
            matrix = camera.xyz_to_camera or _XYZ_TO_SRGB
            entries[_MATRIX] = rationals(_MATRIX, order, (round(v, 6) for row in matrix for v in row), signed=True)
            entries[_ILLUMINANT] = shorts(_ILLUMINANT, order, _D65)
            carried.pop(_ILLUMINANT, None)
        if _NEUTRAL in carried:
            carried.pop(_WHITE_XY, None)  # a file says one of the two
        elif _WHITE_XY not in carried:
            entries[_NEUTRAL] = rationals(_NEUTRAL, order, neutral_of(camera, 3))
    return entries | carried


def raw_entries(
    photo: Photo, camera: CameraColour, levels: Stored, source: Source | None, order: Order
) -> dict[int, Entry]:
    """Return the tags of the directory with the samples that are not about how they are stored."""
    channels = photo.pixels.shape[2]
    crop = shown_part(photo)
    entries = {
        _BLACK_LEVEL: shorts(_BLACK_LEVEL, order, *[levels.black] * channels),
        _WHITE_LEVEL: shorts(_WHITE_LEVEL, order, *[levels.white] * channels),
        _SCALE: rationals(_SCALE, order, (1, 1)),
        _CROP_ORIGIN: rationals(_CROP_ORIGIN, order, (crop.left, crop.top)),
        _CROP_SIZE: rationals(_CROP_SIZE, order, (crop.width, crop.height)),
    }
    if source is not None and source.size() == photo.size:
        entries |= _places(_carry(source, _OF_PLACE, order, channels, raw=True), order, photo.size)
    return entries | _noise_entries(camera, source, order, channels)


def shown_part(photo: Photo) -> Crop:
    """Return the part of a photo that is meant to be shown: all of it, unless the camera's crop lies within it."""
    height, width = photo.size
    crop = photo.camera.crop if photo.camera is not None else None
    if crop is None or min(crop.top, crop.left) < 0 or min(crop.height, crop.width) < 1:
        return Crop(0, 0, height, width)
    fits = crop.top + crop.height <= height and crop.left + crop.width <= width
    return crop if fits else Crop(0, 0, height, width)


def neutral_of(camera: CameraColour, channels: int) -> tuple[float, ...]:
    """Return what a camera makes of white, or the same of each channel where it says nothing that can be meant."""
    usable = all(math.isfinite(value) and 1e-4 < value < 1e4 for value in camera.neutral)
    return camera.neutral if usable and len(camera.neutral) == channels else (1.0,) * channels


def _carry(source: Source | None, tags: frozenset[int], order: Order, channels: int, *, raw: bool) -> dict[int, Entry]:
    if source is None:
        return {}
    found = (source.find_raw(tag) if raw else source.find(tag) for tag in sorted(tags))
    kept = tuple(entry for entry in found if entry is not None and _can_be_meant(entry, source.layout.order, channels))
    return {entry.tag: entry for entry in in_order(kept, source.layout.order, order)}


def _can_be_meant(entry: Entry, order: Order, channels: int) -> bool:
    """Tell whether an entry has as many numbers as it must, and all of them finite."""
    if entry.tag in _SHORTS:
        return len(entry.integers(order)) == 1
    if entry.tag in _FREE or entry.tag == 52525:
        return True
    values = floats(entry, order)
    counts = {_USER_CROP: 4}
    counts |= dict.fromkeys(_MATRICES, 3 * channels) | dict.fromkeys(_CALIBRATIONS, channels * channels)
    counts |= dict.fromkeys(_PER_CHANNEL, channels) | dict.fromkeys(_SINGLE, 1) | dict.fromkeys(_PAIRS, 2)
    least = 1e-6 if entry.tag in _PER_CHANNEL else -math.inf
    return len(values) == counts[entry.tag] and all(least <= value < math.inf for value in values)


def _drop_tables(entries: dict[int, Entry], order: Order) -> None:
    """Take the profile's tables out where they are not as large as they are said to be."""
    for size, tables in _TABLES:
        sides = entries[size].integers(order) if size in entries else ()
        whole = len(sides) == 3 and all(sides)
        present = [tag for tag in tables if tag in entries]
        if not (whole and present and all(entries[tag].count == 3 * math.prod(sides) for tag in present)):
            for tag in (size, *present):
                entries.pop(tag, None)


def _places(entries: dict[int, Entry], order: Order, size: tuple[int, int]) -> dict[int, Entry]:
    """Return what of a source's scale and crops lies within the picture."""
    for tag in (_SCALE, 50780):
        if min(floats(entries.get(tag), order), default=1.0) <= 0:
            del entries[tag]
    left, top, *_ = (*floats(entries.get(_CROP_ORIGIN), order), -1, -1)
    width, height, *_ = (*floats(entries.get(_CROP_SIZE), order), -1, -1)
    fits = min(left, top) >= 0 and min(width, height) >= 1 and left + width <= size[1] and top + height <= size[0]
    if not fits:
        entries = {tag: entry for tag, entry in entries.items() if tag not in (_CROP_ORIGIN, _CROP_SIZE, _USER_CROP)}
    return entries


def _version(source: Source | None) -> tuple[int, ...]:
    theirs = source.integers(_DNG_VERSION) if source else ()
    return min(max(_OLDEST, theirs), _NEWEST) if len(theirs) == 4 else _OLDEST


def _noise_entries(camera: CameraColour, source: Source | None, order: Order, channels: int) -> dict[int, Entry]:
    """Say how much noise is left: the source's noise model times the share of its variance that was not removed.

    A noise profile is a variance that grows with the signal, slope and offset for each channel (DNG 1.7, NoiseProfile).
    """
    left = min(1.0, max(0.0, camera.noise_left))
    if source is None:
        before: tuple[float, ...] = ()
        removed: tuple[float, ...] = ()
    else:
        before = floats(source.find_raw(_NOISE_PROFILE), source.layout.order)
        removed = floats(source.find_raw(_NOISE_REDUCTION), source.layout.order)
    entries: dict[int, Entry] = {}
    if len(before) in (2, 2 * channels) and all(0 <= value < math.inf for value in before):
        lowered = [max(value * left, _LEAST_SLOPE if i % 2 == 0 else 0.0) for i, value in enumerate(before)]
        entries[_NOISE_PROFILE] = doubles(_NOISE_PROFILE, order, lowered)
    earlier = removed[0] if len(removed) == 1 and 0 <= removed[0] <= 1 else 0.0
    if left < 1 or earlier:
        entries[_NOISE_REDUCTION] = rationals(_NOISE_REDUCTION, order, [1 - (1 - earlier) * left])
    return entries
