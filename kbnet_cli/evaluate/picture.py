"""Pictures that are compared: 8 bits, grey or colour, as they are stored."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from kbnet_cli import batch
from kbnet_cli.errors import InputError, PhotoError
from kbnet_cli.formats import codec

LOSSLESS = frozenset({".png", ".tif", ".tiff", ".bmp"})
READABLE = LOSSLESS | {".jpg", ".jpeg", ".webp"}


def read(path: Path) -> UInt8[np.ndarray, "h w c"]:
    """Read a picture of one channel (grey) or three (RGB), without its transparency.

    Raises:
        PhotoError: it cannot be read, is of more than 8 bits, or is CMYK.
    """
    if path.suffix.lower() == ".bmp":
        return _read_bmp(path)
    try:
        photo = codec.decode(batch.read(path))
    except PhotoError as error:
        raise named(error, path) from error
    if photo.depth != 8 or photo.colour == "cmyk":
        raise InputError(
            f"{path}: has {photo.depth} bits and is {photo.colour}, expected 8 bits, grey or rgb",
            hint="papers measure on 8-bit pictures: save it as one, or take it out of the folder",
        )
    return photo.pixels


def named(error: PhotoError, path: Path) -> PhotoError:
    """Put the picture's name before what went wrong with it, unless it stands there already."""
    return error if error.message.startswith(f"{path}: ") else type(error)(f"{path}: {error.message}", hint=error.hint)


def _read_bmp(path: Path) -> UInt8[np.ndarray, "h w c"]:
    try:
        with Image.open(path, formats=["BMP"]) as image:
            grey = image.mode in {"1", "L"}
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="take it out of the folder") from error
    return pixels[..., None] if grey else pixels
