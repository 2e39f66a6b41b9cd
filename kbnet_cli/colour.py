"""Samples of a photo to and from the values that networks were trained on: display-encoded, 0 is black and 1 is white.

What lies below 0 or above 1 passes through both ways. Nothing here changes a colour space: a wide-gamut photo keeps its
own, and its display-encoded values go to the network as they are.
"""

import io
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from PIL import Image, ImageCms

from kbnet_cli.photo import Photo, Transfer

UNTOUCHED = np.float32(1.3)
"""Display-encoded, 1.8 times the light of white."""


@dataclass(frozen=True)
class Scale:
    """What sample values mean to a network, for the channels that go to it."""

    black: Float32[np.ndarray, " c"]
    white: Float32[np.ndarray, " c"]
    top: float
    """The largest value that an integer sample can have."""
    matrix: Float64[np.ndarray, "c c"] | None = None
    """From channels to the colours of a display."""

    def to_unit(self, samples: Shaped[np.ndarray, "*rows c"]) -> Float32[np.ndarray, "*rows c"]:
        """Return samples on a scale where black is 0 and white is 1, in the colours of a display."""
        factor = _as_one(1 / (self.white - self.black))
        if self.black.any():
            values = samples - self.black
            values *= factor
        else:
            values = np.multiply(samples, factor, dtype=np.float32)
        return values if self.matrix is None else values @ self.matrix.T.astype(np.float32)

    def from_unit(self, differences: Float32[np.ndarray, "*rows c"]) -> Float32[np.ndarray, "*rows c"]:
        """Return what differences on that scale are in samples."""
        if self.matrix is not None:
            differences = differences @ np.linalg.inv(self.matrix).T.astype(np.float32)
        return differences * _as_one(self.white - self.black)


def _as_one(values: Float32[np.ndarray, " c"]) -> Float32[np.ndarray, " c"] | np.float32:
    """Return values that are all the same as one, by which numpy multiplies several times as fast."""
    return np.float32(values[0]) if (values == values[0]).all() else values


def scale_of(photo: Photo, channels: tuple[int, ...]) -> Scale:
    """Return the scale of some of a photo's channels: from 0 to its white, or its `levels` where it has any."""
    levels = photo.levels
    if levels is None:
        return Scale(np.zeros(len(channels), np.float32), np.full(len(channels), photo.white, np.float32), photo.white)
    black, white = (
        np.array([ends[channel] for channel in channels], np.float32) for ends in (levels.black, levels.white)
    )
    # A channel that goes to a network by itself has no colour.
    whole = levels.matrix is not None and len(channels) == len(levels.black)
    return Scale(black, white, photo.white, np.array(levels.matrix) if whole else None)


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
    samples: Shaped[np.ndarray, "*rows c"], scale: Scale, *, transfer: Transfer
) -> Float32[np.ndarray, "*rows c"]:
    """Turn stored samples into display-encoded values, where `scale.black` becomes 0 and `scale.white` 1."""
    values = scale.to_unit(samples)
    return srgb_encode(values) if transfer == "linear" else values


def add_display(
    samples: Shaped[np.ndarray, "*rows c"],
    residual: Float32[np.ndarray, "*rows c"],
    scale: Scale,
    *,
    transfer: Transfer,
) -> Shaped[np.ndarray, "*rows c"]:
    """Add a display-encoded residual to stored samples; integers are rounded and clipped to 0 … `scale.top`.

    A residual of zero gives back the samples bit for bit, whatever the transfer. In linear light less and less of it is
    added above white, up to `UNTOUCHED`: networks have not seen such values, and the curve is steep there.
    """
    values = samples.astype(np.float32)
    if transfer == "linear":
        encoded = srgb_encode(scale.to_unit(samples))
        residual = residual * np.clip((UNTOUCHED - encoded) / (UNTOUCHED - 1), 0, 1)
        residual = srgb_decode(encoded + residual) - srgb_decode(encoded)
    answer = values + scale.from_unit(residual)
    if samples.dtype == np.float32:
        return answer
    return np.clip(np.rint(answer), 0, scale.top).astype(samples.dtype)


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
