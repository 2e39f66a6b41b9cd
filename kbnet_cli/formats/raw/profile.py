"""ICC profiles of the colour spaces that raw files are developed to, all with the curve of sRGB."""

from functools import cache

import imagecodecs
import numpy as np
from PIL import ImageCms

from kbnet_cli.formats import cicp
from kbnet_cli.formats.development import ColourSpace

_SRGB_CURVE = 13
_NUMBERS = {"srgb": 1, "display-p3": 12, "rec2020": 9}
_D50 = (0.3457, 0.3585)
_PROPHOTO = (0.734699, 0.265301, 0.159597, 0.840403, 0.036598, 0.000105)  # ISO 22028-2
_ENTRIES = 4096
_SAME_DAY = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # 2000-01-01, at 24: the date of creation


@cache
def profile(space: ColourSpace, *, grey: bool = False) -> bytes:
    """Return the profile of a colour space, the same bytes on every day."""
    if grey:
        made = cicp.profile(cicp.Numbers(1, _SRGB_CURVE), grey=True)
    elif space == "srgb":
        made = _dated(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    elif space == "prophoto":
        made = _prophoto()
    else:
        made = cicp.profile(cicp.Numbers(_NUMBERS[space], _SRGB_CURVE))
    assert made is not None
    return made


def _prophoto() -> bytes:
    encoded = np.linspace(0.0, 1.0, _ENTRIES)
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    curve = np.rint(light * 65535).astype(np.uint16)
    return _dated(imagecodecs.cms_profile("rgb", whitepoint=_D50, primaries=_PROPHOTO, transferfunction=curve))


def _dated(made: bytes) -> bytes:
    return bytes(made[:24]) + _SAME_DAY + bytes(made[36:])
