"""What leaves are painted with: a gradient between two colours of the palette, and a texture over it.

All pixels of all leaves are painted at once: a label map says whose a pixel is, and tables how each label is painted.
Textures are functions of two coordinates (u, v) that lie on each leaf in their own direction, scale and place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from kbnet_cli.training.scenes.palette import Palette

FIELD_BITS = 9
FIELD = 1 << FIELD_BITS
"""The rough fields are squares of this many pixels and go on periodically."""
STRETCH = 8
"""How many times longer than wide the grain of the brushed field is."""
BAND = 1 << 15
"""Pixels painted in one go, so that they stay in the processor's cache."""
TEXTURES = {
    "plain": 0.26,
    "rough": 0.30,
    "brushed": 0.14,
    "grating": 0.08,
    "stripes": 0.06,
    "marbled": 0.06,
    "blotches": 0.04,
    "bricks": 0.03,
    "checker": 0.015,
    "dots": 0.015,
}
"""The textures, and how often each is taken."""
_HARD = np.array([name in {"stripes", "bricks", "checker", "dots"} for name in TEXTURES])
_PERIODIC = np.array([name in {"grating", "stripes", "bricks", "checker", "dots"} for name in TEXTURES])

Coordinate = Float32[np.ndarray, " p"]


@dataclass(frozen=True)
class Marks:
    """What there is to paint: label i of the label map is entry i."""

    centres: Float[np.ndarray, "n 2"]
    radii: Float[np.ndarray, " n"]
    families: Int[np.ndarray, " n"]
    """Marks of one family lie between the same two colours and are plain; −1 is a leaf, which has its own."""
    tints: Float[np.ndarray, " n"]
    """Where between its family's colours a mark lies, 0…1."""


@dataclass(frozen=True)
class Fields:
    """Two periodic noises of mean 0 and deviation 1, whose amplitude falls with a power of the frequency."""

    rough: Float32[np.ndarray, " f"]
    brushed: Float32[np.ndarray, " f"]

    @classmethod
    def draw(cls, generator: np.random.Generator) -> "Fields":
        """Draw both, with powers between 0.7 and 1.5: photographs have about 1."""
        return cls(*(_noise(generator, generator.uniform(0.7, 1.5), stretch) for stretch in (1, STRETCH)))


@dataclass(frozen=True)
class Surfaces:
    """How each label is painted: with first + mixture · difference, where mixture = gradient + amplitude · texture."""

    first: Float32[np.ndarray, "3 n"]
    difference: Float32[np.ndarray, "3 n"]
    gradient: Float32[np.ndarray, "3 n"]
    """An affine function of x and y, as are u and v: the constant, the factor of x, the factor of y."""
    u: Float32[np.ndarray, "3 n"]
    v: Float32[np.ndarray, "3 n"]
    amplitude: Float32[np.ndarray, " n"]
    texture: UInt8[np.ndarray, " n"]

    @classmethod
    def draw(cls, generator: np.random.Generator, marks: Marks, palette: Palette, *, ground: bool) -> "Surfaces":
        """Choose how each mark is painted; label 0 is the ground, a leaf as large as the scene, or else black."""
        count = len(marks.radii)
        leaf = marks.families < 0
        shares = np.array(list(TEXTURES.values()))
        mood = shares * generator.gamma(1.0, 1.0, len(shares))  # what one scene is full of, another does without
        texture = np.where(leaf, generator.choice(len(shares), size=count, p=mood / mood.sum()), 0)
        amplitude = np.exp(generator.uniform(np.log(0.06), np.log(0.5), count))
        slope = np.where(generator.uniform(0, 1, count) < 0.25, 0, generator.uniform(0, 0.6, count))
        slope = np.where(leaf, slope, 0.2 * slope)
        base = np.where(leaf, generator.uniform(0.2, 0.8, count), marks.tints)
        periodic = _PERIODIC[texture]
        period = np.exp(generator.uniform(np.log(2.0), np.log(np.maximum(6.0, marks.radii))))
        # A field is looked up without interpolation, so its pixels are hardly ever larger than those of the scene.
        steps = np.where(periodic, 1 / period, np.exp(generator.uniform(np.log(0.9), np.log(2.0), count)))
        first, second = palette.some(generator, count), palette.some(generator, count)
        pairs = _contrasting(generator, palette, int(marks.families.max(initial=-1)) + 1)
        first[~leaf], second[~leaf] = pairs[marks.families[~leaf]].transpose(1, 0, 2)
        if not ground:
            first[0] = second[0] = texture[0] = 0
        angles = generator.uniform(0, 2 * np.pi, (2, count))
        shifts = generator.uniform(FIELD * 8, FIELD * 9, (2, count))  # so far that u and v are positive everywhere
        return cls(
            first=np.ascontiguousarray(first.T),
            difference=np.ascontiguousarray((second - first).T),
            gradient=_affine(angles[0], slope / marks.radii, base, marks.centres),
            u=_affine(angles[1], steps, shifts[0], marks.centres),
            v=_affine(angles[1] + np.pi / 2, steps, shifts[1], marks.centres),
            amplitude=amplitude.astype(np.float32),
            texture=texture.astype(np.uint8),
        )


def paint(
    labels: Int32[np.ndarray, "h w"], surfaces: Surfaces, fields: Fields, *, scale: int
) -> UInt8[np.ndarray, "h/{scale} w/{scale} 3"]:
    """Paint a label map that is drawn scale times larger than the scene, display-encoded.

    A pixel of the scene is painted once where one leaf fills it, and in scale × scale places where several meet or
    where its texture has hard edges: most of most scenes has neither.
    """
    height, width = labels.shape[0] // scale, labels.shape[1] // scale
    painted = np.empty((height, width, 3), np.uint8)
    within = (np.arange(scale, dtype=np.float32) + np.float32(0.5)) / np.float32(scale) - np.float32(0.5)
    down, right = np.repeat(within, scale), np.tile(within, scale)
    hard = _HARD[surfaces.texture]
    rows = max(BAND // width, 1)
    for top in range(0, height, rows):
        band = labels[top * scale : (top + rows) * scale]
        parts = band.reshape(-1, scale, width, scale).transpose(0, 2, 1, 3).reshape(-1, scale * scale).astype(np.intp)
        y, x = np.indices((len(parts) // width, width), np.float32).reshape(2, -1)
        x, y = x + np.float32(0.5), y + np.float32(top + 0.5)
        label = parts[:, 0]
        colours = _colours(label, x, y, surfaces, fields)
        if scale > 1:
            mixed = hard.take(label, mode="clip")
            for part in parts.T[1:]:
                mixed |= part != label
            again = np.flatnonzero(mixed)
            finer = _colours(
                parts[again].ravel(),
                (x[again, None] + right).ravel(),
                (y[again, None] + down).ravel(),
                surfaces,
                fields,
            )
            colours[:, again] = finer.reshape(3, -1, scale * scale).mean(axis=-1)
        colours += np.float32(0.5)
        painted[top : top + rows] = colours.T.reshape(-1, width, 3)
    return painted


def _colours(
    label: Int[np.ndarray, " p"], x: Coordinate, y: Coordinate, surfaces: Surfaces, fields: Fields
) -> Float32[np.ndarray, "3 p"]:
    mixture = _mixture(label, x, y, surfaces, fields)
    colours = np.empty((3, len(label)), np.float32)
    for channel in range(3):
        np.multiply(mixture, _look_up(surfaces.difference[channel], label), out=colours[channel])
        colours[channel] += _look_up(surfaces.first[channel], label)
    return colours


def _mixture(
    label: Int[np.ndarray, " p"], x: Coordinate, y: Coordinate, surfaces: Surfaces, fields: Fields
) -> Float32[np.ndarray, " p"]:
    mixture = _plane(surfaces.gradient, label, x, y)
    textures = _look_up(surfaces.texture, label)
    for index, name in enumerate(TEXTURES):
        if name == "plain":
            continue
        chosen = np.flatnonzero(textures == index)
        if not len(chosen):
            continue
        own, own_x, own_y = label[chosen], x[chosen], y[chosen]
        value = _PATTERNS[name](fields, _plane(surfaces.u, own, own_x, own_y), _plane(surfaces.v, own, own_x, own_y))
        mixture[chosen] += _look_up(surfaces.amplitude, own) * value
    return np.clip(mixture, 0, 1, out=mixture)


def _grating(_: Fields, u: Coordinate, _v: Coordinate) -> Coordinate:
    return np.sin(np.float32(2 * np.pi) * u)


def _stripes(_: Fields, u: Coordinate, _v: Coordinate) -> Coordinate:
    return (u - np.floor(u) < np.float32(0.5)).astype(np.float32)


def _checker(_: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    return ((u.astype(np.int32) + v.astype(np.int32)) & 1).astype(np.float32)


def _bricks(_: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    row = np.floor(v)
    along = np.float32(0.5) * (u + row)  # twice as long as high, each row half a brick farther
    return ((v - row < np.float32(0.15)) | (along - np.floor(along) < np.float32(0.075))).astype(np.float32)


def _dots(_: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    across, down = u - np.floor(u) - np.float32(0.5), v - np.floor(v) - np.float32(0.5)
    return (across * across + down * down < np.float32(0.08)).astype(np.float32)


def _rough(fields: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    return _look_up(fields.rough, _place(u, v))


def _brushed(fields: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    return _look_up(fields.brushed, _place(u, v))


def _marbled(fields: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    return np.sin(np.float32(0.06) * u + np.float32(2.5) * _rough(fields, u, v))


def _blotches(fields: Fields, u: Coordinate, v: Coordinate) -> Coordinate:
    return (_rough(fields, u, v) > np.float32(0.4)).astype(np.float32)


_PATTERNS: dict[str, Callable[[Fields, Coordinate, Coordinate], Coordinate]] = {
    "rough": _rough,
    "brushed": _brushed,
    "grating": _grating,
    "stripes": _stripes,
    "marbled": _marbled,
    "blotches": _blotches,
    "bricks": _bricks,
    "checker": _checker,
    "dots": _dots,
}


def _place(u: Coordinate, v: Coordinate) -> Int[np.ndarray, " p"]:
    """Return where in a flat field a point lies."""
    column, row = u.astype(np.intp), v.astype(np.intp)
    column &= FIELD - 1
    row &= FIELD - 1
    row <<= FIELD_BITS
    row |= column
    return row


def _plane(
    table: Float32[np.ndarray, "3 n"], label: Int[np.ndarray, " p"], x: Coordinate, y: Coordinate
) -> Float32[np.ndarray, " p"]:
    value = x * _look_up(table[1], label)
    value += y * _look_up(table[2], label)
    value += _look_up(table[0], label)
    return value


def _look_up(table: np.ndarray, index: Int[np.ndarray, " p"]) -> np.ndarray:
    return table.take(index, mode="clip")  # several times faster than "raise", and no index is outside


def _affine(
    angles: Float[np.ndarray, " n"],
    steps: Float[np.ndarray, " n"],
    values: Float[np.ndarray, " n"],
    centres: Float[np.ndarray, "n 2"],
) -> Float32[np.ndarray, "3 n"]:
    """Return the function that has a value at the centre and grows by a step a pixel in a direction."""
    x, y = steps * np.cos(angles), steps * np.sin(angles)
    return np.stack([values - x * centres[:, 0] - y * centres[:, 1], x, y]).astype(np.float32)


def _contrasting(generator: np.random.Generator, palette: Palette, count: int) -> Float32[np.ndarray, "{count} 2 3"]:
    """Draw pairs of colours, each the most different of a few: writing has to stand out."""
    pairs = palette.some(generator, count * 2 * 6).reshape(count, 6, 2, 3)
    farthest = np.abs(pairs[:, :, 0] - pairs[:, :, 1]).sum(axis=-1).argmax(axis=1)
    return pairs[np.arange(count), farthest]


@lru_cache
def _log_frequency(stretch: int) -> Float32[np.ndarray, "h w"]:
    frequency = np.hypot(stretch * np.fft.fftfreq(FIELD)[:, None], np.fft.rfftfreq(FIELD)[None])
    frequency[0, 0] = np.inf
    return np.log(frequency).astype(np.float32)


def _noise(generator: np.random.Generator, power: float, stretch: int) -> Float32[np.ndarray, " f"]:
    """Shape white noise in frequency; the grain runs along y."""
    parts = generator.random((FIELD, FIELD + 2), dtype=np.float32)
    parts -= np.float32(0.5)  # a sum of many waves is Gaussian, whatever each one's height is drawn from
    spectrum = parts.view(np.complex64)
    spectrum *= np.exp(np.float32(-power) * _log_frequency(stretch))
    noise = np.fft.irfft2(spectrum, s=(FIELD, FIELD)).astype(np.float32).ravel()
    noise /= noise.std()
    return noise
