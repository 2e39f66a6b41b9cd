"""Samples of a photo to and from the values that networks were trained on: display-encoded, 0 is black and 1 is white.

What lies below 0 or above 1 passes through both ways. Nothing here changes a colour space: a wide-gamut photo keeps its
own, and its display-encoded values go to the network as they are.
"""

import io

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image, ImageCms

from kbnet_cli.photo import Photo, Transfer


def srgb_encode(linear: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Encode light with the sRGB curve (IEC 61966-2-1), extended oddly below 0 and by its power above 1."""
    magnitude = np.abs(linear)
    curve = np.float32(1.055) * np.power(magnitude, np.float32(1 / 2.4)) - np.float32(0.055)
    encoded = np.where(magnitude <= 0.0031308, np.float32(12.92) * magnitude, curve)
    return np.copysign(encoded, linear).astype(np.float32, copy=False)


def srgb_decode(encoded: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Decode the sRGB curve back to light: the inverse of `srgb_encode` over all numbers."""
    magnitude = np.abs(encoded)
    curve = np.power((magnitude + np.float32(0.055)) / np.float32(1.055), np.float32(2.4))
    # 12.92 · 0.0031308: the same point as in srgb_encode, so that the pieces meet.
    linear = np.where(magnitude <= 0.04044994, magnitude / np.float32(12.92), curve)
    return np.copysign(linear, encoded).astype(np.float32, copy=False)


def to_display(
    samples: Shaped[np.ndarray, "*shape"], *, white: float, transfer: Transfer
) -> Float32[np.ndarray, "*shape"]:
    """Turn stored samples into display-encoded values, where `white` becomes 1."""
    values = samples.astype(np.float32) * np.float32(1 / white)
    return srgb_encode(values) if transfer == "linear" else values


def add_display(
    samples: Shaped[np.ndarray, "*shape"],
    residual: Float32[np.ndarray, "*shape"],
    *,
    white: float,
    transfer: Transfer,
) -> Shaped[np.ndarray, "*shape"]:
    """Add a display-encoded residual to stored samples; integers are rounded and clipped to 0 … white.

    A residual of zero gives back the samples bit for bit, whatever the transfer.
    """
    values = samples.astype(np.float32)
    if transfer == "linear":
        encoded = srgb_encode(values * np.float32(1 / white))
        residual = srgb_decode(encoded + residual) - srgb_decode(encoded)
    answer = values + residual * np.float32(white)
    if samples.dtype == np.float32:
        return answer
    return np.clip(np.rint(answer), 0, white).astype(samples.dtype)


def transfer_of(photo: Photo) -> Transfer:
    """Tell whether a photo's samples are display-encoded or proportional to light.

    The ICC profile decides where there is one; without it, what the format means (`Photo.linear`).
    """
    if photo.metadata.icc is None:
        return "linear" if photo.linear else "display"
    return "linear" if profile_is_linear(photo.metadata.icc) else "display"


def profile_is_linear(icc: bytes) -> bool:
    """Tell whether an ICC profile's curve is a straight line; False for one that cannot be used.

    The colour management system is asked rather than the profile's tags: where 55 of 255 is 22 % of the light, sRGB
    writes it as 128; where it is display-encoded with a gamma of 1.8 or more, as at most 72.
    """
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip())
        if mode is None:
            return False
        probe = Image.new(mode, (1, 1), 55 if mode == "L" else (55, 55, 55))
        shown = ImageCms.profileToProfile(
            probe,
            profile,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False
    assert shown is not None
    green = shown.getpixel((0, 0))
    assert isinstance(green, tuple)
    return green[1] > 100
