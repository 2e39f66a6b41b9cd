"""How feature maps lie in memory."""

from jaxtyping import Float
from torch import Tensor


def pixel_stride(maps: Float[Tensor, "b h w c"]) -> int:
    """Return how many numbers lie between a pixel's first channel and the next pixel's.

    Raises:
        AssertionError: where pixels are not evenly spaced, or a pixel's channels do not lie together.
    """
    spacing = next((maps.stride(axis) for axis in (2, 1, 0) if maps.shape[axis] > 1), maps.shape[3])
    expected = spacing
    for axis in (2, 1, 0):
        assert maps.shape[axis] == 1 or maps.stride(axis) == expected, "pixels are not evenly spaced"
        expected *= maps.shape[axis]
    assert maps.shape[3] == 1 or maps.stride(3) == 1, "a pixel's channels do not lie together"
    return spacing
