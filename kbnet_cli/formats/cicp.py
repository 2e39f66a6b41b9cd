"""Colour spaces told by number (ITU-T H.273) or by PNG's gamma, and ICC profiles made of them."""

from dataclasses import dataclass

import imagecodecs
import numpy as np
from jaxtyping import Float64

from kbnet_cli.formats import chunks, items
from kbnet_cli.photo import Origin

_D65 = (0.3127, 0.3290)
_WHITES_AND_PRIMARIES: dict[int, tuple[tuple[float, float], tuple[float, ...]]] = {
    1: (_D65, (0.640, 0.330, 0.300, 0.600, 0.150, 0.060)),  # BT.709, sRGB
    4: ((0.310, 0.316), (0.67, 0.33, 0.21, 0.71, 0.14, 0.08)),  # BT.470 M
    5: (_D65, (0.64, 0.33, 0.29, 0.60, 0.15, 0.06)),  # BT.601, 625 lines
    6: (_D65, (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),  # BT.601, 525 lines
    7: (_D65, (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)),  # SMPTE 240M
    9: (_D65, (0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),  # BT.2020
    11: ((0.314, 0.351), (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),  # DCI-P3
    12: (_D65, (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),  # Display P3
}
_VIDEO_TRANSFERS = (1, 6, 14, 15)
"""BT.709, BT.601 and BT.2020 share one curve."""
_ENTRIES = 4096


@dataclass(frozen=True)
class Numbers:
    """Colour primaries and transfer characteristics."""

    primaries: int
    transfer: int

    @property
    def is_srgb(self) -> bool:
        """Whether viewers show it as they show a picture that says nothing; 2 says "unspecified"."""
        return self.primaries in (1, 2) and self.transfer in (2, 13, *_VIDEO_TRANSFERS)


LINEAR_SRGB = Numbers(1, 8)


def of(origin: Origin | None) -> Numbers | None:
    """Return the numbers in the file that a photo came from, where such files have them."""
    if origin is None:
        return None
    if origin.format == "png":
        content = chunks.parse(origin.data).first(b"cICP")
        return Numbers(content[0], content[1]) if content is not None and len(content) == 4 else None
    if origin.format in ("avif", "heic"):
        found = items.parse(origin.data).cicp
        return Numbers(found[0], found[1]) if found is not None else None
    return None


def profile(numbers: Numbers, *, grey: bool = False) -> bytes | None:
    """Return an ICC profile for the numbers, or None where there is none: the curves of HDR are not ICC's."""
    space = _WHITES_AND_PRIMARIES.get(1 if numbers.primaries == 2 else numbers.primaries)
    encoded = np.linspace(0.0, 1.0, _ENTRIES)
    light = _light(encoded, numbers.transfer)
    return None if space is None or light is None else _profile(*space, light, grey=grey)


def png_profile(data: bytes) -> bytes | None:
    """Return an ICC profile for a PNG file's gamma and chromaticities, or None where they are sRGB's or not given.

    sRGB and cICP chunks, where there are any, are stronger than both (PNG, third edition, section 4.3).
    """
    structure = chunks.parse(data)
    if structure.first(b"sRGB") is not None or structure.first(b"cICP") is not None:
        return None
    gamma, chromaticities = structure.first(b"gAMA") or b"", structure.first(b"cHRM") or b""
    power = 100_000 / int.from_bytes(gamma, "big") if len(gamma) == 4 and any(gamma) else 2.2
    points = tuple(int.from_bytes(chromaticities[at : at + 4], "big") / 100_000 for at in range(0, 32, 4))
    white, primaries = _WHITES_AND_PRIMARIES[1]
    if len(chromaticities) == 32 and min(points) > 0:
        white, primaries = (points[0], points[1]), points[2:]
    expected = (*_D65, *_WHITES_AND_PRIMARIES[1][1])
    furthest = max(abs(a - b) for a, b in zip((*white, *primaries), expected, strict=True))
    is_srgb = abs(power - 2.2) < 0.05 and furthest < 0.002
    return None if is_srgb else _profile(white, primaries, np.linspace(0.0, 1.0, _ENTRIES) ** power)


def _light(encoded: Float64[np.ndarray, " n"], transfer: int) -> Float64[np.ndarray, " n"] | None:
    if transfer in (2, 13):
        return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    if transfer in _VIDEO_TRANSFERS:
        return np.where(encoded < 0.081, encoded / 4.5, ((encoded + 0.099) / 1.099) ** (1 / 0.45))
    powers = {4: 2.2, 5: 2.8, 8: 1.0}
    return encoded ** powers[transfer] if transfer in powers else None


def _profile(
    white: tuple[float, float], primaries: tuple[float, ...], light: Float64[np.ndarray, " n"], *, grey: bool = False
) -> bytes:
    made = imagecodecs.cms_profile(
        "gray" if grey else "rgb",
        whitepoint=white,
        primaries=primaries,
        transferfunction=np.rint(light * 65535).astype(np.uint16),
    )
    # The date of making (ICC.1, 7.2.8) would make each file a different one.
    return bytes(made[:24]) + bytes.fromhex("07ea 0001 0001 0000 0000 0000") + bytes(made[36:])
