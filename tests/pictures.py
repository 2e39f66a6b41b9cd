"""Pictures made by code, for tests."""

from pathlib import Path

import imagecodecs
import numpy as np
from jaxtyping import Shaped


def picture(height: int = 40, width: int = 56, *, depth: int = 8, seed: int = 0) -> Shaped[np.ndarray, "h w 3"]:
    """Return a smooth colour gradient with noise on it, as uint8 or uint16."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([y / max(1, height - 1), x / max(1, width - 1), (x + y) / (height + width)], axis=-1)
    values = np.clip(0.1 + 0.8 * smooth + generator.normal(0, 0.05, smooth.shape), 0, 1)
    white = 2**depth - 1
    return np.rint(values * white).astype(np.uint8 if depth == 8 else np.uint16)


def write_picture(path: Path, *, depth: int = 8, size: tuple[int, int] = (40, 56)) -> Shaped[np.ndarray, "h w 3"]:
    """Write a PNG of `picture` under any name and return its pixels."""
    pixels = picture(*size, depth=depth)
    path.write_bytes(imagecodecs.png_encode(pixels))
    return pixels
