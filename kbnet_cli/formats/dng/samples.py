"""A sensor's samples as tiles of lossless JPEG, the only compression of 16 bits that every reader of DNG knows."""

import io
import os
from dataclasses import dataclass

import numpy as np
import tifffile
from jaxtyping import UInt16

from kbnet_cli.errors import OutputError
from kbnet_cli.formats.dng.source import in_order
from kbnet_cli.formats.dng.values import shorts
from kbnet_cli.formats.ifd import Layout
from kbnet_cli.formats.tiff_rewrite import Picture, take_picture
from kbnet_cli.photo import CameraColour

LINEAR_RAW = 34892
TILE = 256
_PHOTOMETRIC, _TILE_STEP = 262, 16


@dataclass(frozen=True)
class Stored:
    """Samples as they are written, and which of their values stand for no light and for a full sensor."""

    pixels: UInt16[np.ndarray, "h w c"]
    black: int
    white: int


def stored(pixels: UInt16[np.ndarray, "h w c"], camera: CameraColour) -> Stored:
    """Return the samples that a file holds: those of a colour begin at black, those of a grey sensor stay.

    darktable takes a black level off single channels alone (rawspeed issues 215 and 233), LibRaw off colours but
    without scaling by the shorter way to white. So noise below black is cut from colours, after it has been restored.
    """
    black, white = round(camera.black), round(camera.white)
    if pixels.shape[2] == 1:
        return Stored(pixels, black, white)
    above = np.maximum(pixels, np.uint16(black))
    above -= np.uint16(black)
    return Stored(above, 0, white - black)


def compress(pixels: UInt16[np.ndarray, "h w c"], layout: Layout) -> Picture:
    """Return one or three channels as tiles of lossless JPEG with their entries; the same bytes on every machine.

    Raises:
        OutputError: they cannot be encoded.
    """
    height, width, channels = pixels.shape
    buffer = io.BytesIO()
    try:
        tifffile.imwrite(
            buffer,
            np.ascontiguousarray(pixels if channels > 1 else pixels[..., 0]),
            byteorder="<",  # of the directory: JPEG has its own, and is not made of swapped numbers
            photometric=LINEAR_RAW if channels > 1 else "minisblack",  # tifffile knows linear raw of several channels
            tile=(_length(height), _width(width)),
            compression="jpeg",
            # The first of JPEG's predictors, sample to the left, is the one that all raw developers have.
            compressionargs={"lossless": True, "bitspersample": 16, "predictor": 1},
            maxworkers=os.cpu_count(),
            metadata=None,
            software=False,
        )
    except (RuntimeError, ValueError, OSError) as error:  # imagecodecs' and tifffile's errors
        raise OutputError(f"the samples could not be written as lossless JPEG: {error}") from error
    picture = take_picture(buffer.getvalue(), Layout("<"))
    kept = tuple(entry for entry in picture.entries if entry.tag != _PHOTOMETRIC)
    entries = (*in_order(kept, "<", layout.order), shorts(_PHOTOMETRIC, layout.order, LINEAR_RAW))
    return Picture(picture.segments, entries, picture.offsets_tag, picture.bits)


def _length(height: int) -> int:
    """Return the length of a tile: small pictures are not padded to a whole large one."""
    return min(TILE, -(-height // _TILE_STEP) * _TILE_STEP)


def _width(width: int) -> int:
    """Return the width of a tile: never more than the picture's, at which LibRaw would wrap its rows."""
    return max(_TILE_STEP, min(TILE, width // _TILE_STEP * _TILE_STEP))
