"""What is done to a clean picture before it is restored: the same for every run."""

import io

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.training.degradations.defocus import blurred, disk


def with_gaussian_noise(clean: UInt8[np.ndarray, "h w c"], *, sigma: float) -> Float32[np.ndarray, "h w c"]:
    """Return the picture as 0…1 with the noise that every paper of this line adds: NumPy's old generator, seed 0.

    The noise is neither clipped nor rounded.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy = clean.astype(np.float32) / np.float32(255)
    noisy += noise
    return noisy


def compressed(clean: UInt8[np.ndarray, "h w c"], *, quality: int) -> Float32[np.ndarray, "h w c"]:
    """Return the picture as 0…1 after JPEG as Pillow writes it unasked: 4:2:0, the usual tables at this quality."""
    file = io.BytesIO()
    grey = clean.shape[2] == 1
    Image.fromarray(clean[..., 0] if grey else clean).save(file, "JPEG", quality=quality)
    return from_uint8(np.asarray(Image.open(file)).reshape(clean.shape))


def defocused(clean: UInt8[np.ndarray, "h w c"], *, radius: float) -> Float32[np.ndarray, "h w c"]:
    """Return the picture as 0…1, blurred by a disk of a radius in pixels in linear light and rounded to 8 bits."""
    return from_uint8(to_uint8(srgb_encode(blurred(srgb_decode(from_uint8(clean)), disk(radius)))))


def from_uint8(picture: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """Return the picture as 0…1."""
    return picture.astype(np.float32) / np.float32(255)


def to_uint8(picture: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Clip to 0…1 and round to 8 bits, halves to even."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
