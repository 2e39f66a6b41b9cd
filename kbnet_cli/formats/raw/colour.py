"""White balance and colour matrices as LibRaw knows them."""

from dataclasses import dataclass

import numpy as np
import rawpy
from jaxtyping import Float64

from kbnet_cli.photo import Matrix

_XYZ_FROM_SRGB = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
"""Linear sRGB to XYZ with the white point of D65, in the digits that LibRaw computes with."""
_LEAST, _MOST = 1e-3, 1e3
"""Multipliers outside of it, the green one being 1, come from no camera but from a damaged file."""
_USED_FROM = 0.125
"""LibRaw takes a file's own matrix for one if its first number is above this."""


@dataclass(frozen=True)
class Multipliers:
    """What makes a white surface equal in all channels, for samples of 0 at no light and 1 at a full sensor."""

    camera: tuple[float, ...]
    """In the light of the photo; daylight's or 1 where the camera does not say."""
    daylight: tuple[float, ...] | None
    notes: tuple[str, ...] = ()


def white_balance(raw: rawpy.RawPy, spans: tuple[float, ...]) -> Multipliers:
    """Find out the white balance of an unpacked file; `spans` is how far white is from black in each channel.

    LibRaw's own multipliers are for samples with one white level; a channel that is full earlier needs more of them.
    """
    camera, daylight = (_usable(found, spans) for found in (raw.camera_whitebalance, raw.daylight_whitebalance))
    if camera is not None:
        return Multipliers(camera, daylight)
    if daylight is not None and daylight != _usable([1.0, 1.0, 1.0, 0.0], spans):
        return Multipliers(daylight, daylight, ("the camera says no white balance: daylight was taken",))
    return Multipliers((1.0, 1.0, 1.0), daylight, ("neither file nor camera say a white balance: none was taken",))


def _usable(multipliers: list[float], spans: tuple[float, ...]) -> tuple[float, ...] | None:
    found = np.asarray(multipliers[:3], float)
    if not (np.isfinite(found).all() and (found > 0).all()):
        return None
    found = found * np.asarray(spans) / max(spans)
    found /= found[1]
    return tuple(found.tolist()) if found.min() > _LEAST and found.max() < _MOST else None


def camera_to_srgb(raw: rawpy.RawPy) -> Matrix | None:
    """Return what turns white-balanced samples into linear sRGB; each row sums to 1. None for an unknown camera."""
    own = _own(raw)
    if own is not None:
        return _matrix(own)
    known = _known(raw)
    if known is None:
        return None
    from_srgb = known @ _XYZ_FROM_SRGB
    return _matrix(np.linalg.inv(from_srgb / from_srgb.sum(axis=1, keepdims=True)))


def xyz_to_camera(raw: rawpy.RawPy, multipliers: Multipliers) -> Matrix | None:
    """Return what light of D65, as XYZ, gives in each channel; None for an unknown camera.

    A file's own matrix goes to sRGB and comes with multipliers for daylight: together they say the same.
    """
    own, known = _own(raw), _known(raw)
    if own is None or multipliers.daylight is None:
        return None if known is None else _matrix(known)
    from_srgb = np.linalg.inv(own) / np.asarray(multipliers.daylight)[:, None]
    return _matrix(from_srgb @ np.linalg.inv(_XYZ_FROM_SRGB))


def _own(raw: rawpy.RawPy) -> Float64[np.ndarray, "3 3"] | None:
    """Return the file's matrix from white-balanced samples to sRGB."""
    return _regular(np.asarray(raw.color_matrix, float)[:, :3], bool(raw.color_matrix[0][0] > _USED_FROM))


def _known(raw: rawpy.RawPy) -> Float64[np.ndarray, "3 3"] | None:
    """Return LibRaw's matrix for this camera from XYZ."""
    return _regular(np.asarray(raw.rgb_xyz_matrix, float)[:3], True)


def _regular(matrix: Float64[np.ndarray, "3 3"], used: bool) -> Float64[np.ndarray, "3 3"] | None:
    fit = used and np.isfinite(matrix).all() and abs(np.linalg.det(matrix)) > 1e-6
    return matrix if fit else None


def _matrix(values: Float64[np.ndarray, "3 3"]) -> Matrix:
    return tuple(tuple(row) for row in values.tolist())
