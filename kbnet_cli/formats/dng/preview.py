"""What a linear photo looks like, rendered small: for those who only leaf through a folder of DNG files."""

import struct

import imagecodecs
import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from kbnet_cli.colour import srgb_encode
from kbnet_cli.errors import OutputError
from kbnet_cli.formats.dng.tags import neutral_of
from kbnet_cli.formats.ifd import Entry, Layout
from kbnet_cli.formats.tiff_rewrite import Picture
from kbnet_cli.photo import CameraColour, Crop, Photo

PREVIEW_SIDE, THUMBNAIL_SIDE = 2048, 256
"""About how many pixels the longer side has."""
_QUALITY = 90
_ROWS = 64  # of the rendered picture at a time: a photo as floats is four times what it is as samples
_JPEG, _YCBCR, _GREY = 7, 6, 1
_OFFSETS = 273
_SHORT, _LONG = 3, 4


def render(photo: Photo, part: Crop, side: int) -> UInt8[np.ndarray, "h w c"]:
    """Return a part of a photo in sRGB, averaged down to about so many pixels on the longer side.

    It is as bright as the network saw it, white balanced, and not turned.
    """
    assert photo.camera is not None
    pixels = photo.pixels[part.top : part.top + part.height, part.left : part.left + part.width]
    step = _step(pixels, side)
    pixels = _in_steps(pixels, step)
    parts = [
        _show(_averaged(pixels[top : top + _ROWS * step], step), photo, photo.camera)
        for top in range(0, pixels.shape[0], _ROWS * step)
    ]
    return np.concatenate(parts)


def shrink(shown: UInt8[np.ndarray, "h w c"], side: int) -> UInt8[np.ndarray, "h2 w2 c"]:
    """Return a rendered picture averaged down to about so many pixels on the longer side."""
    step = _step(shown, side)
    return np.rint(_averaged(_in_steps(shown, step), step)).astype(np.uint8)


def compress(shown: UInt8[np.ndarray, "h w c"], layout: Layout) -> Picture:
    """Return a rendered picture as one strip of JPEG with its entries.

    Raises:
        OutputError: the encoder refuses.
    """
    height, width, channels = shown.shape
    grey = channels == 1
    try:
        stream = bytes(
            imagecodecs.jpeg8_encode(
                shown[..., 0] if grey else shown,
                level=_QUALITY,
                colorspace="GRAYSCALE" if grey else "RGB",
                outcolorspace="GRAYSCALE" if grey else "YCbCr",
                subsampling=None if grey else "444",
                optimize=True,
            )
        )
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"the preview could not be written as JPEG: {error}") from error

    def entry(tag: int, kind: int, *values: int) -> Entry:
        letter = "H" if kind == _SHORT else "I"
        return Entry(tag, kind, len(values), struct.pack(f"{layout.order}{len(values)}{letter}", *values))

    entries = [
        entry(256, _LONG, width),
        entry(257, _LONG, height),
        entry(258, _SHORT, *[8] * channels),
        entry(259, _SHORT, _JPEG),
        entry(262, _SHORT, _GREY if grey else _YCBCR),
        entry(277, _SHORT, channels),
        entry(278, _LONG, height),
        entry(279, _LONG, len(stream)),
        entry(284, _SHORT, 1),
    ]
    if not grey:
        entries += [
            entry(530, _SHORT, 1, 1),
            entry(531, _SHORT, 1),
            Entry(532, 5, 6, struct.pack(layout.order + "12I", 0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1)),
        ]
    return Picture((stream,), tuple(entries), _OFFSETS, (8,) * channels)


def _step(pixels: Shaped[np.ndarray, "h w c"], side: int) -> int:
    return max(1, round(max(pixels.shape[:2]) / side))


def _in_steps(pixels: Shaped[np.ndarray, "h w c"], step: int) -> Shaped[np.ndarray, "h2 w2 c"]:
    """Leave out the last rows and columns that fill no whole pixel of a smaller picture."""
    height, width = pixels.shape[:2]
    if height < step or width < step:  # a very narrow picture is repeated: it must not vanish
        pixels = np.repeat(np.repeat(pixels, -(-step // height), axis=0), -(-step // width), axis=1)
        height, width = pixels.shape[:2]
    return pixels[: height - height % step, : width - width % step]


def _averaged(rows: Shaped[np.ndarray, "h w c"], step: int) -> Float32[np.ndarray, "h2 w2 c"]:
    total = rows[::step, ::step].astype(np.float32)
    for place in range(1, step * step):
        total += rows[place // step :: step, place % step :: step]
    return total / np.float32(step * step)


def _show(samples: Float32[np.ndarray, "h w c"], photo: Photo, camera: CameraColour) -> UInt8[np.ndarray, "h w c"]:
    if photo.levels is not None:
        black, white = (np.array(ends, np.float32) for ends in (photo.levels.black, photo.levels.white))
    else:
        neutral = np.array(neutral_of(camera, samples.shape[2]), np.float32)
        black = np.full(neutral.shape, camera.black, np.float32)
        white = black + (np.float32(camera.white) - black) * neutral
    full = ((np.float32(camera.white) - black) / (white - black)).min()
    # Where one channel is full the others go on: cut at the lowest, highlights stay white.
    light = np.minimum((samples - black) / (white - black), full)
    if camera.camera_to_srgb is not None and light.shape[2] == 3:
        light = light @ np.array(camera.camera_to_srgb, np.float32).T
    return np.rint(srgb_encode(np.clip(light, 0, 1)) * 255).astype(np.uint8)
