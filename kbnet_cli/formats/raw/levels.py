"""What a DNG file says of its black and white levels and its crop: more, and finer, than LibRaw tells."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from kbnet_cli.formats.dng.source import Source, read_source
from kbnet_cli.formats.dng.values import floats
from kbnet_cli.photo import Crop

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _FORMAT = 256, 257, 259, 277, 339
_LOSSY = 34892
"""JPEG of 8 bits, which LibRaw has brought to 16 by the file's polynomials; it turns floats into integers as well."""
_BLACK_REPEAT, _BLACK, _BLACK_OF_COLUMNS, _BLACK_OF_ROWS, _WHITE = 50713, 50714, 50715, 50716, 50717
_CROP_ORIGIN, _CROP_SIZE, _ACTIVE_AREA = 50719, 50720, 50829
_MOST_REPEATED = 64
"""Rows or columns of a pattern of black levels; 6 are the most that any camera needs."""


@dataclass(frozen=True)
class Window:
    """A part of all samples that a file holds."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class DNGLevels:
    """Levels of the samples in a window, which LibRaw may make a little smaller than the file says.

    Each is None where the file says nothing or nothing that can be meant.
    """

    black: Float64[np.ndarray, "rows columns c"] | None
    """It repeats from the first sample of the window on."""
    black_of_rows: Float64[np.ndarray, " h"] | None
    black_of_columns: Float64[np.ndarray, " w"] | None
    white: Float64[np.ndarray, " c"] | None
    crop: Crop | None
    """The default crop within the window."""


def read_levels(data: bytes, stored: tuple[int, int], window: Window) -> DNGLevels | None:
    """Read a DNG's levels for a window of its samples; None for other raw files and where LibRaw read another picture.

    `stored` is the height and width of all samples as LibRaw found them.
    """
    source = read_source(data)
    if source is None:
        return None
    order = source.layout.order
    if (source.raw.integer(_HEIGHT, order, 0), source.raw.integer(_WIDTH, order, 0)) != stored:
        return None
    area = source.raw.integers(_ACTIVE_AREA, order)
    active = Window(0, 0, *stored)
    if len(area) == 4 and area[0] < area[2] <= stored[0] and area[1] < area[3] <= stored[1]:
        active = Window(area[0], area[1], area[2] - area[0], area[3] - area[1])
    planes = source.raw.integer(_SAMPLES, order, 1)
    as_stored = source.raw.integer(_COMPRESSION, order, 1) != _LOSSY and source.raw.integer(_FORMAT, order, 1) == 1
    down, right = window.top - active.top, window.left - active.left
    return DNGLevels(
        black=_black(source, planes, down, right) if as_stored else None,
        black_of_rows=_deltas(source, _BLACK_OF_ROWS, active.height, down, window.height),
        black_of_columns=_deltas(source, _BLACK_OF_COLUMNS, active.width, right, window.width),
        white=_white(source, planes) if as_stored else None,
        crop=_crop(source, window, down, right),
    )


def _values(source: Source, tag: int) -> Float64[np.ndarray, " n"]:
    return np.asarray(floats(source.raw.find(tag), source.layout.order), float)


def _black(source: Source, planes: int, down: int, right: int) -> Float64[np.ndarray, "rows columns c"] | None:
    repeat = source.raw.integers(_BLACK_REPEAT, source.layout.order)
    rows, columns = repeat if len(repeat) == 2 else (1, 1)
    values = _values(source, _BLACK)
    if not (0 < rows <= _MOST_REPEATED and 0 < columns <= _MOST_REPEATED) or not np.isfinite(values).all():
        return None
    if values.size == rows * columns and planes > 1:  # not by the book, but some write one for all
        values = np.repeat(values, planes)
    if values.size != rows * columns * planes:
        return None
    return np.roll(values.reshape(rows, columns, planes), (-down, -right), axis=(0, 1))


def _deltas(source: Source, tag: int, told: int, skipped: int, wanted: int) -> Float64[np.ndarray, " n"] | None:
    values = _values(source, tag)
    if values.size != told or skipped < 0 or skipped + wanted > told or not np.isfinite(values).all():
        return None
    return values[skipped : skipped + wanted] if values.any() else None


def _white(source: Source, planes: int) -> Float64[np.ndarray, " c"] | None:
    values = _values(source, _WHITE)
    if values.size not in (1, planes) or not ((values > 0) & (values <= 65535)).all():
        return None
    return np.broadcast_to(values, planes)


def _crop(source: Source, window: Window, down: int, right: int) -> Crop | None:
    origin, size = _values(source, _CROP_ORIGIN), _values(source, _CROP_SIZE)
    if origin.size != 2 or size.size != 2 or not np.isfinite([*origin, *size]).all():
        return None
    left, top = round(float(origin[0])) - right, round(float(origin[1])) - down
    return crop_within(top, left, round(float(size[1])), round(float(size[0])), window.height, window.width)


def crop_within(top: int, left: int, height: int, width: int, most_height: int, most_width: int) -> Crop | None:
    """Return what of a crop lies within a picture; None where that is nothing, or all of it."""
    bottom, right = min(top + height, most_height), min(left + width, most_width)
    top, left = max(top, 0), max(left, 0)
    if bottom <= top or right <= left or (top, left, bottom, right) == (0, 0, most_height, most_width):
        return None
    return Crop(top, left, bottom - top, right - left)
