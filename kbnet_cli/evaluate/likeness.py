"""How near two 8-bit pictures are: PSNR and SSIM, over all channels or on luma."""

import numpy as np
from jaxtyping import Float64, UInt8

from kbnet_cli.errors import InputError

PEAK = 255
WINDOW_WIDTH, WINDOW_SIGMA = 11, 1.5
STABLE_LUMINANCE, STABLE_CONTRAST = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
"""(K1·L)² and (K2·L)² of the paper of SSIM."""
STRIP = 64
"""Rows whose similarity is worked out at once, so that memory does not grow with the picture's height."""


def psnr(restored: UInt8[np.ndarray, "h w c"], clean: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the peak signal-to-noise ratio in dB over all pixels and channels."""
    error = np.mean((restored.astype(np.float64) - clean.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(PEAK**2 / error))


def ssim(restored: UInt8[np.ndarray, "h w c"], clean: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the structural similarity, the mean over all channels; 1 for equal pictures.

    Of Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity"
    (2004): a Gaussian window of 11×11 with σ 1.5, only where it lies wholly within the picture, never made smaller.

    Raises:
        InputError: the picture is smaller than the window.
    """
    height, width, channels = clean.shape
    rows, columns = height - WINDOW_WIDTH + 1, width - WINDOW_WIDTH + 1
    if min(rows, columns) < 1:
        raise InputError(
            f"is {width}×{height} pixels, expected at least {WINDOW_WIDTH}×{WINDOW_WIDTH} for SSIM",
            hint="take it out of the folder",
        )
    total = 0.0
    for top in range(0, rows, STRIP):
        here = slice(top, min(top + STRIP, rows) + WINDOW_WIDTH - 1)
        total += float(_similarities(_planes(restored[here]), _planes(clean[here])).sum())
    return total / (rows * columns * channels)


def luma(picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w 1"]:
    """Return the Y of YCbCr by ITU-R BT.601, 16 for black and 235 for white, rounded; a grey picture as it is.

    What MATLAB's rgb2ycbcr makes of 8-bit pictures, on which papers of deraining measure.
    """
    if picture.shape[2] == 1:
        return picture
    # 65.481, 128.553 and 24.966 of 255, as whole numbers so that halves are exact.
    weighted = picture.astype(np.int32) @ np.array([21827, 42851, 8322], dtype=np.int32)
    return (16 + (weighted + 42500) // 85000).astype(np.uint8)[..., None]


def _planes(picture: UInt8[np.ndarray, "h w c"]) -> Float64[np.ndarray, "c h w"]:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), dtype=np.float64)


def _similarities(
    one: Float64[np.ndarray, "c h w"], other: Float64[np.ndarray, "c h w"]
) -> Float64[np.ndarray, "c rows columns"]:
    mean_one, mean_other, squares, product = _windowed(np.stack((one, other, one**2 + other**2, one * other)))
    means, squared_means = mean_one * mean_other, mean_one**2 + mean_other**2
    luminance = (2 * means + STABLE_LUMINANCE) / (squared_means + STABLE_LUMINANCE)
    return luminance * (2 * (product - means) + STABLE_CONTRAST) / (squares - squared_means + STABLE_CONTRAST)


def _windowed(maps: Float64[np.ndarray, "maps c h w"]) -> Float64[np.ndarray, "maps c rows columns"]:
    """Average under the window, which is the product of a column and a row."""
    window = np.exp(-0.5 * ((np.arange(WINDOW_WIDTH) - WINDOW_WIDTH // 2) / WINDOW_SIGMA) ** 2)
    window /= window.sum()
    for axis in (2, 3):
        length = maps.shape[axis] - WINDOW_WIDTH + 1
        along = np.moveaxis(maps, axis, 0)
        parts = (weight * along[k : k + length] for k, weight in enumerate(window))
        maps = np.moveaxis(sum(parts, start=np.zeros(1)), 0, axis)
    return maps
