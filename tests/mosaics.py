"""Raw files of known scenes, written as DNG: what a sensor makes of given light."""

import io
import struct
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import tifffile

BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
XTRANS = "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG"
MATRIX = (0.9194, -0.2787, -0.1059, -0.8098, 1.5657, 0.2608, -0.2610, 0.3064, 0.7867)
"""XYZ to camera for D65, of a camera of 2001, as DNG's ColorMatrix1."""
_LETTERS = "RGBCMY"


@dataclass(frozen=True)
class Noise:
    """What light and electronics add to a sample."""

    photons: float = 10_000.0
    """How many a site has counted when it is full."""
    read: float = 2.0
    """The deviation of what reading adds, in units of the file's samples."""
    seed: int = 1


def patches(colours: list[tuple[float, float, float]], size: int = 48) -> np.ndarray:
    """Return a row of flat squares, h w 3 float64."""
    return np.repeat(np.repeat(np.asarray(colours, float)[None], size, axis=0), size, axis=1)


def mosaic_dng(
    scene: np.ndarray,
    *,
    pattern: str = "RGGB",
    black: float | np.ndarray = 512.0,
    white: float | tuple[float, ...] = 16383.0,
    neutral: tuple[float, ...] | None = (0.5, 1.0, 0.625),
    noise: Noise | None = None,
    orientation: int = 1,
    margins: tuple[int, int, int, int] = (0, 0, 0, 0),
    crop: tuple[int, int, int, int] | None = None,
    black_of_rows: np.ndarray | None = None,
    black_of_columns: np.ndarray | None = None,
    matrix: tuple[float, ...] | None = MATRIX,
    compression: str | None = None,
    extratags: tuple[tuple[int, int, int, object, bool], ...] = (),
) -> bytes:
    """Write what a sensor makes of a scene as a DNG.

    Args:
        scene: h w 3 or, for "MONO", h w: the light in the camera's own channels, where 1 fills the sensor. The sensor
            clips nothing but what is beyond 16 bits, so that there may be values beyond white.
        pattern: letters of a square of filters, row by row ("RGGB", XTRANS), "MONO", or "LINEAR" for a file whose
            pixels have all three samples. Other letters than red, green and blue are C, M and Y, the scene's channels 3
            to 5.
        black: one value, or rows × columns (× samples of a pixel) that repeat from the visible part's first sample on.
        white: one value, or one for each sample of a "LINEAR" pixel.
        neutral: AsShotNeutral; None: the camera did not say.
        noise: drawn with a seed of its own; None: samples are rounded only.
        orientation: EXIF's number. The samples are not turned.
        margins: how many rows and columns lie around the scene, masked from light: top, left, bottom, right.
        crop: DefaultCropOrigin and DefaultCropSize, as left, top, width, height within the visible part.
        black_of_rows: BlackLevelDeltaV, added to black in each visible row.
        black_of_columns: BlackLevelDeltaH.
        matrix: ColorMatrix1 for D65, row by row; None: a camera whose colours are not known.
        compression: as tifffile names it.
        extratags: more tags of the directory, as tifffile takes them.
    """
    light = np.asarray(scene, float)
    height, width = light.shape[:2]
    planes = 3 if pattern == "LINEAR" else 1
    side = 1 if pattern in ("MONO", "LINEAR") else round(len(pattern) ** 0.5)
    if planes == 1 and pattern != "MONO":
        filters = np.array([_LETTERS.index(letter) for letter in pattern]).reshape(side, side)
        channel = np.tile(filters, (-(-height // side), -(-width // side)))[:height, :width]
        light = np.take_along_axis(light, channel[:, :, None], axis=2)
    light = light.reshape(height, width, planes)
    levels = np.asarray(black, float)
    levels = levels.reshape(*levels.shape[:2], -1) if levels.ndim > 1 else levels.reshape(1, 1, -1)
    rows, columns = levels.shape[:2]
    floor = np.tile(levels, (-(-height // rows), -(-width // columns), 1))[:height, :width]
    floor = floor + np.zeros((height, width, planes))
    if black_of_rows is not None:
        floor += black_of_rows[:, None, None]
    if black_of_columns is not None:
        floor += black_of_columns[None, :, None]
    top, left, bottom, right = margins
    around = ((top, bottom), (left, right), (0, 0))
    light, floor = np.pad(light, around), np.pad(floor, around, mode="reflect" if any(margins) else "edge")
    span = np.asarray(white, float) - floor
    samples = floor + light * span
    if noise is not None:
        random = np.random.default_rng(noise.seed)
        samples += (random.poisson(np.maximum(light, 0) * noise.photons) / noise.photons - np.maximum(light, 0)) * span
        samples += random.normal(0, noise.read, samples.shape)
    stored = np.clip(np.rint(samples), 0, 65535).astype(np.uint16)
    tags = [
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Model 1", True),
        (274, 3, 1, orientation, True),
        (33434, 5, 1, (1, 250), True),
        (34855, 3, 1, 800, True),
        (50706, 1, 4, (1, 4, 0, 0), True),
        (50707, 1, 4, (1, 3, 0, 0), True),
        (50708, 2, 0, "Maker Model 1", True),
        (50713, 3, 2, (rows, columns), True),
        (50714, 5, levels.size, _fractions(levels.ravel()), True),
        (50717, 4, np.size(white), tuple(int(value) for value in np.atleast_1d(white)), True),
        (50778, 3, 1, 21, True),
        (50829, 4, 4, (top, left, top + height, left + width), True),
        *extratags,
    ]
    if pattern not in ("MONO", "LINEAR"):
        tags += [
            (33421, 3, 2, (side, side), True),
            (33422, 1, side * side, tuple(_LETTERS.index(letter) for letter in pattern), True),
        ]
        colours = sorted({_LETTERS.index(letter) for letter in pattern})
        tags.append((50710, 1, len(colours), tuple(colours), True))
    if matrix is not None and pattern != "MONO":
        tags.append((50721, 10, 9, _fractions(matrix), True))
    if neutral is not None and pattern != "MONO":
        tags.append((50728, 5, 3, _fractions(neutral), True))
    if crop is not None:
        tags += [(50719, 4, 2, crop[:2], True), (50720, 4, 2, crop[2:], True)]
    if black_of_columns is not None:
        tags.append((50715, 10, width, _fractions(black_of_columns), True))
    if black_of_rows is not None:
        tags.append((50716, 10, height, _fractions(black_of_rows), True))
    if noise is not None:
        model = (1 / noise.photons, (noise.read / float(np.mean(span))) ** 2)
        tags.append((51041, 12, 2, model, True))
    return _written(stored[:, :, 0] if planes == 1 else stored, tags, pattern, compression)


def _written(
    samples: np.ndarray, tags: list[tuple[int, int, int, object, bool]], pattern: str, how: str | None
) -> bytes:
    buffer = io.BytesIO()
    photometric = 34892 if pattern == "LINEAR" else 32803
    options = {"metadata": None, "extratags": tags, "software": "firmware 1.0", "compression": how}
    tifffile.imwrite(buffer, samples, photometric=photometric, **options)
    if pattern != "MONO":
        return buffer.getvalue()
    # tifffile writes linear raw of three channels only.
    entry = "<HHIH"
    return buffer.getvalue().replace(struct.pack(entry, 262, 3, 1, 32803), struct.pack(entry, 262, 3, 1, 34892))


def _fractions(values: np.ndarray | tuple[float, ...]) -> tuple[int, ...]:
    parts = [Fraction(float(value)).limit_denominator(10_000) for value in values]
    return tuple(number for part in parts for number in part.as_integer_ratio())
