"""Samples of a photo to and from the values that networks were trained on: display-encoded, 0 is black and 1 is white.

What lies below 0 or above 1 passes through both ways. Nothing here changes a colour space: a wide-gamut photo keeps its
own, and its display-encoded values go to the network as they are.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Shaped
from PIL import Image, ImageCms

from kbnet_cli.photo import Photo, Transfer

UNTOUCHED = np.float32(1.3)
"""Display-encoded, 1.8 times the light of white."""
BAND = 1 << 16
"""Samples that are changed at once."""


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
    magnitude = np.abs(linear, out=np.empty_like(linear))
    curve = np.power(magnitude, np.float32(1 / 2.4), out=np.empty_like(linear))
    curve *= np.float32(1.055)
    curve -= np.float32(0.055)
    dark = magnitude <= 0.0031308
    magnitude *= np.float32(12.92)
    return _joined(magnitude, curve, dark, linear)


def srgb_decode(encoded: Float32[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    """Decode the sRGB curve back to light: the inverse of `srgb_encode` over all numbers."""
    magnitude = np.abs(encoded, out=np.empty_like(encoded))
    curve = np.add(magnitude, np.float32(0.055), out=np.empty_like(encoded))
    curve /= np.float32(1.055)
    np.power(curve, np.float32(2.4), out=curve)
    # 12.92 · 0.0031308: the same point as in srgb_encode, so that the pieces meet.
    dark = magnitude <= 0.04044994
    magnitude /= np.float32(12.92)
    return _joined(magnitude, curve, dark, encoded)


def _joined(
    line: Float32[np.ndarray, "..."],
    curve: Float32[np.ndarray, "..."],
    dark: Bool[np.ndarray, "..."],
    signs: Float32[np.ndarray, "..."],
) -> Float32[np.ndarray, "..."]:
    """Return the line where it is dark and else the curve, with signs; what is written over is the curve."""
    # Most of a photo is neither dark nor negative, and both take longer than the curve itself.
    if dark.any():
        np.putmask(curve, dark, line)
    if np.signbit(signs).any():
        np.copysign(curve, signs, out=curve)
    return curve.astype(np.float32, copy=False)


def to_display(
    samples: Shaped[np.ndarray, "*rows c"], scale: Scale, *, transfer: Transfer
) -> Float32[np.ndarray, "*rows c"]:
    """Turn stored samples into display-encoded values, where `scale.black` becomes 0 and `scale.white` 1."""
    if transfer == "display":
        return scale.to_unit(samples)
    answer = np.empty(samples.shape, np.float32)
    for band in _bands(samples):
        answer[band] = srgb_encode(scale.to_unit(samples[band]))
    return answer


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
    answer = np.empty_like(samples)
    for band in _bands(samples):
        added = residual[band]
        if transfer == "linear":
            added = _in_light(scale.to_unit(samples[band]), added)
        values = scale.from_unit(added)
        values += samples[band]
        if samples.dtype != np.float32:
            np.rint(values, out=values)
            np.clip(values, 0, scale.top, out=values)
        answer[band] = values
    return answer


def _in_light(
    light: Float32[np.ndarray, "*rows c"], residual: Float32[np.ndarray, "*rows c"]
) -> Float32[np.ndarray, "*rows c"]:
    """Return by how much a display-encoded residual changes light, both on the scale of white."""
    encoded = srgb_encode(light)
    share = UNTOUCHED - encoded
    share /= UNTOUCHED - 1
    np.clip(share, 0, 1, out=share)
    share *= residual
    share += encoded
    changed = srgb_decode(share)
    changed -= srgb_decode(encoded)
    return changed


def _bands(samples: Shaped[np.ndarray, "*rows c"]) -> Iterator[slice]:
    """Cut rows into bands so small that what is calculated on the way stays in the processor's cache."""
    rows = len(samples)
    high = max(1, BAND * rows // max(1, samples.size))
    return (slice(top, top + high) for top in range(0, rows, high))


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
