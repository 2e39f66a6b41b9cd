"""Samples of one bit depth as samples of another."""

import numpy as np
from jaxtyping import Shaped

from kbnet_cli.photo import Depth

TYPES: dict[Depth, type[np.generic]] = {8: np.uint8, 10: np.uint16, 12: np.uint16, 16: np.uint16, 32: np.float32}


def white(depth: Depth) -> int:
    """Return the sample value of full white: 2^depth - 1, or 1 for float."""
    return 1 if depth == 32 else int(2**depth - 1)


def convert(
    samples: Shaped[np.ndarray, "*shape"], *, from_depth: Depth, to_depth: Depth
) -> Shaped[np.ndarray, "*shape"]:
    """Bring samples to another depth so that black stays black and white stays white.

    Every integer sample becomes the nearest one, `round(v · new white / old white)`: from 8 to 16 bits that is exactly
    v · 257. Going to more bits and back gives the same samples again. From float, what lies outside 0 … 1 is clipped
    and what is not a number becomes black; to float nothing is lost. Equal depths give the same array.
    """
    if from_depth == to_depth:
        return samples
    if to_depth == 32:
        return (samples.astype(np.float64) / white(from_depth)).astype(np.float32)
    if from_depth == 32:
        clipped = np.clip(np.nan_to_num(samples, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0).astype(np.float64)
        return np.asarray(np.rint(clipped * white(to_depth)), TYPES[to_depth])
    return scale(samples, from_white=white(from_depth), to_depth=to_depth)


def scale(samples: Shaped[np.ndarray, "*shape"], *, from_white: int, to_depth: Depth) -> Shaped[np.ndarray, "*shape"]:
    """Bring integer samples from any white value to an integer depth, each to the nearest sample; clip above white."""
    top = white(to_depth)
    assert to_depth != 32
    assert from_white <= 65535
    # Half is added before the division, all in integers: a look-up table of at most 65,536 entries is exact and fast.
    values = np.arange(from_white + 1, dtype=np.uint64)
    table = ((values * np.uint64(2 * top) + np.uint64(from_white)) // np.uint64(2 * from_white)).astype(TYPES[to_depth])
    return np.asarray(table[np.minimum(samples, from_white)])


def nearest(depth: Depth, possible: tuple[Depth, ...]) -> Depth:
    """Choose the smallest possible depth that holds every bit, or the largest there is."""
    enough = [candidate for candidate in possible if candidate >= depth]
    return min(enough) if enough else max(possible)
