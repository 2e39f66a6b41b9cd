"""How good weights are: PSNR by the protocol of the Gaussian denoising papers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from kbnet_cli.errors import InputError

SUFFIXES = {".png", ".tif", ".tiff", ".bmp"}
PADDED_TO = 8
"""The published test scripts reflect a picture's right and bottom edge up to a multiple of this."""

Restore = Callable[[Float32[np.ndarray, "h w c"]], Float32[np.ndarray, "h w c"]]
"""A restoration of a whole picture, without tiles; display-encoded, not clipped on the way in."""


@dataclass(frozen=True)
class PictureScore:
    """How near one restored picture is to the clean one."""

    name: str
    psnr: float
    """In dB, over all channels, of 8-bit pictures. Infinite if they are equal."""


@dataclass(frozen=True)
class Evaluation:
    """How near the restored pictures of a folder are to the clean ones, at one strength of noise."""

    sigma: float
    """In 1/255."""
    pictures: tuple[PictureScore, ...]

    @property
    def psnr(self) -> float:
        """The mean of the pictures' PSNR in dB, as papers give it."""
        return float(np.mean([picture.psnr for picture in self.pictures]))


def evaluate_gaussian(
    restore: Restore,
    folder: Path,
    *,
    sigma: float,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Add Gaussian noise to each picture of a folder, restore it, and compare.

    The protocol of KBNet's test scripts: the same seed for each picture, float noise that is neither clipped nor
    rounded, the whole picture at once with its right and bottom edge reflected up to a multiple of 8 (the network pads
    further by itself), the answer clipped to 0…1 and rounded to 8 bits.

    Raises:
        InputError: the folder holds no PNG, TIFF or BMP picture, or one that cannot be read.
    """
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no picture to evaluate", hint="expected PNG, TIFF or BMP files")
    scores = []
    for done, path in enumerate(files):
        if progress:
            progress(done, len(files))
        clean = _read(path)
        noisy = with_gaussian_noise(clean, sigma=sigma)
        scores.append(PictureScore(path.name, psnr(to_uint8(restore_padded(restore, noisy)), clean)))
    if progress:
        progress(len(files), len(files))
    return Evaluation(sigma, tuple(scores))


def with_gaussian_noise(clean: UInt8[np.ndarray, "h w c"], *, sigma: float) -> Float32[np.ndarray, "h w c"]:
    """Return the picture as 0…1 with the noise that every paper of this line adds: NumPy's old generator, seed 0."""
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy = clean.astype(np.float32) / np.float32(255)
    noisy += noise
    return noisy


def restore_padded(restore: Restore, picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """Restore a picture whose right and bottom edge is reflected up to a multiple of 8, and cut the rest off."""
    height, width = picture.shape[:2]
    padding = ((0, -height % PADDED_TO), (0, -width % PADDED_TO), (0, 0))
    return restore(np.pad(picture, padding, mode="reflect"))[:height, :width]


def to_uint8(picture: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Clip to 0…1 and round to 8 bits, halves to even."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def psnr(restored: UInt8[np.ndarray, "h w c"], clean: UInt8[np.ndarray, "h w c"]) -> float:
    """Return the peak signal-to-noise ratio in dB over all pixels and channels."""
    error = np.mean((restored.astype(np.float64) - clean.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def _read(path: Path) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(path) as image:
            grey = image.mode in {"1", "L"}
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="take it out of the folder") from error
    return pixels[..., None] if grey else pixels
