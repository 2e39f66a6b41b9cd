"""Keep a photo's brightness and colours where noise is taken out of it in linear light.

Noise has no mean in linear light, but what a network answers is the mean of display-encoded values. The curve bends
down, so the mean of noisy shadows is darker than they are, and pale colours fade. So what is averaged over some thirty
pixels is put back to what it was: noise that wide is a hundredth of what a pixel has, and details are far smaller.
"""

import numpy as np
from jaxtyping import Float32, Float64, Int, Shaped

CELL = 16
"""Means are taken over squares this wide, smoothed over three of them, and spread linearly in between."""
OUTLIERS = 4.0
"""A pixel counts no more than so many times the mean change around it: a hot pixel that is taken out lights nothing."""
_BAND = 4 * CELL


def keep_means(before: Shaped[np.ndarray, "h w c"], after: Shaped[np.ndarray, "h w c"]) -> None:
    """Change restored samples in place so that their local means are those they had; integers stay in their range."""
    height, width, _ = before.shape
    lost = _smoothed(_cells(before, after))
    columns = _between(np.arange(width), lost.shape[1])
    for top in range(0, height, _BAND):
        rows = _between(np.arange(top, min(top + _BAND, height)), lost.shape[0])
        missing = _spread(_spread(lost, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
        band = after[top : top + _BAND]
        if after.dtype == np.float32:
            band += missing
        else:
            band[...] = np.clip(np.rint(band + missing), 0, np.iinfo(after.dtype).max)


def _cells(before: Shaped[np.ndarray, "h w c"], after: Shaped[np.ndarray, "h w c"]) -> Float32[np.ndarray, "m n c"]:
    """Return by how much the mean of each square has fallen; those at the right and bottom may be smaller."""
    height, width, channels = before.shape
    cells = np.empty((-(-height // CELL), -(-width // CELL), channels), np.float32)
    wide = np.diff(np.append(np.arange(0, width, CELL), width))
    for top in range(0, height, _BAND):
        with np.errstate(invalid="ignore"):
            fallen = before[top : top + _BAND].astype(np.float32) - after[top : top + _BAND]
        if not np.isfinite(fallen).all():  # samples of a damaged float file, which stay what they are
            fallen = np.nan_to_num(fallen, nan=0.0, posinf=0.0, neginf=0.0)
        high = np.diff(np.append(np.arange(0, len(fallen), CELL), len(fallen)))
        area = (high[:, None] * wide)[..., None].astype(np.float32)
        most = OUTLIERS * _sums(np.abs(fallen)) / area
        most = most.repeat(high, axis=0).repeat(wide, axis=1)
        first = top // CELL
        cells[first : first + len(high)] = _sums(np.clip(fallen, -most, most)) / area
    return cells


def _sums(values: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "m n c"]:
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], CELL), axis=0)
    return np.add.reduceat(rows, np.arange(0, values.shape[1], CELL), axis=1)


def _smoothed(cells: Float32[np.ndarray, "m n c"]) -> Float32[np.ndarray, "m n c"]:
    """Average each square with its neighbours by 1, 2, 1, along rows and columns."""
    for axis in (0, 1):
        ends = [(1, 1) if axis == each else (0, 0) for each in range(3)]
        wider = np.moveaxis(np.pad(cells, ends, mode="edge"), axis, 0)
        cells = np.moveaxis((wider[:-2] + 2 * wider[1:-1] + wider[2:]) / 4, 0, axis)
    return cells


Neighbours = tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"], Float64[np.ndarray, " k"]]
"""For each place the squares before and behind it, and the share of the second."""


def _between(places: Int[np.ndarray, " k"], cells: int) -> Neighbours:
    position = np.clip((places + 0.5) / CELL - 0.5, 0, cells - 1)
    first = position.astype(np.int64)
    return first, np.minimum(first + 1, cells - 1), position - first


def _spread(cells: Float32[np.ndarray, "m n c"], between: Neighbours) -> Float32[np.ndarray, "k n c"]:
    first, second, share = between
    weight = share[:, None, None].astype(np.float32)
    return cells[first] * (1 - weight) + cells[second] * weight
