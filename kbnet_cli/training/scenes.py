"""Generated scenes: dead leaves, shapes that hide each other, whose statistics are close to those of photographs.

Source: Achddou, Gousseau and Ladjal, Synthetic images as a regularity prior for image restoration neural networks,
SSVM 2021; the sizes by a power law are from Lee, Mumford and Huang, Occlusion models for natural images, 2001.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

SUPERSAMPLING = 2
"""Scenes are drawn this many times larger and averaged, so that edges are as soft as a lens makes them."""
SMALLEST_RADIUS = (2.0, 20.0)
"""A scene's smallest shapes have a radius in this range: some scenes are gravel, some are walls."""
ENOUGH = 0.995
"""The share of a scene after which no more shapes are laid under it: the rest would be slivers."""
PATIENCE = 40_000
"""Shapes after which a scene is done, covered or not."""


@dataclass(frozen=True)
class Palette:
    """Colours that occur together, display-encoded 0…255."""

    colours: UInt8[np.ndarray, "n c"]


def scene(generator: np.random.Generator, size: int, palette: Palette) -> UInt8[np.ndarray, "h w c"]:
    """Draw one scene of size × size pixels, display-encoded; the same generator state gives the same scene.

    Shapes are laid from the front to the back: each fills only what is still empty.
    """
    side = size * SUPERSAMPLING
    canvas = _texture(generator, palette, side, side, scale=side / 2)
    empty = np.ones((side, side), dtype=bool)
    missing, last = side * side, round(side * side * (1 - ENOUGH))
    smallest = SUPERSAMPLING * float(np.exp(generator.uniform(*np.log(SMALLEST_RADIUS))))
    largest = side * generator.uniform(0.2, 0.7)
    for _ in range(PATIENCE):
        if missing <= last:
            break
        radius = _radius(generator, smallest, largest)
        centre = generator.uniform(0, side, 2)
        top, left = np.maximum(np.floor(centre - radius), 0).astype(int)
        bottom, right = np.minimum(np.ceil(centre + radius), side).astype(int)
        hole = empty[top:bottom, left:right]
        if not hole.any():
            continue
        shown = _shape(generator, centre - (top, left), radius, hole.shape) & hole
        texture = _texture(generator, palette, *hole.shape, scale=radius)
        canvas[top:bottom, left:right][shown] = texture[shown]
        hole &= ~shown
        missing -= int(shown.sum())
    small = canvas.reshape(size, SUPERSAMPLING, size, SUPERSAMPLING, -1).mean(axis=(1, 3))
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)


def _radius(generator: np.random.Generator, smallest: float, largest: float) -> float:
    """Draw from a density that falls with the cube of the radius: what makes a scene look the same at any scale."""
    share = generator.uniform()
    return float((smallest**-2 + share * (largest**-2 - smallest**-2)) ** -0.5)


def _shape(
    generator: np.random.Generator,
    centre: Float32[np.ndarray, "2"] | np.ndarray,
    radius: float,
    size: tuple[int, ...],
) -> Bool[np.ndarray, "h w"]:
    """Draw a disc, an ellipse, a rectangle, a polygon or a thin line that fits a circle."""
    y, x = np.ogrid[: size[0], : size[1]]
    y, x = y + np.float32(0.5 - centre[0]), x + np.float32(0.5 - centre[1])
    angle = generator.uniform(0, np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    kind = generator.choice(5, p=[0.25, 0.2, 0.2, 0.25, 0.1])
    inside: np.ndarray
    if kind == 0:
        inside = x * x + y * y < radius * radius
    elif kind == 1:
        inside = along * along + (across / generator.uniform(0.2, 0.9)) ** 2 < radius * radius
    elif kind == 2:
        tilt = generator.uniform(0.1, 1.3)
        inside = (abs(along) < radius * np.cos(tilt)) & (abs(across) < radius * np.sin(tilt))
    elif kind == 3:
        inside = np.ones(size, dtype=bool)
        for direction in np.sort(generator.uniform(0, 2 * np.pi, generator.integers(3, 8))):
            reach = radius * generator.uniform(0.3, 0.9)
            inside = inside & (np.cos(direction) * x + np.sin(direction) * y < reach)
    else:
        inside = (abs(along) < radius) & (abs(across) < generator.uniform(0.5, 3.0))
    return inside


def _texture(
    generator: np.random.Generator, palette: Palette, height: int, width: int, *, scale: float
) -> Float32[np.ndarray, "h w c"]:
    """Fill a rectangle with a colour, a gradient, a grating or rough noise between two colours of the palette."""
    first, second = palette.colours[generator.integers(len(palette.colours), size=2)].astype(np.float32)
    kind = generator.choice(4, p=[0.2, 0.3, 0.2, 0.3])
    if kind == 0:
        return np.broadcast_to(first, (height, width, len(first))).copy()
    y, x = np.ogrid[:height, :width]
    angle = generator.uniform(0, 2 * np.pi)
    along = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    if kind == 1:
        mixture = 0.5 + along / np.float32(2 * scale * generator.uniform(1, 4))
    elif kind == 2:
        period = generator.uniform(4, max(8.0, scale))
        mixture = 0.5 + generator.uniform(0.05, 0.5) * np.sin(along * np.float32(2 * np.pi / period))
        if generator.uniform() < 0.3:  # stripes
            mixture = np.float32(mixture > 0.5) * generator.uniform(0.2, 1.0)
    else:
        mixture = 0.5 + generator.uniform(0.03, 0.35) * _rough(generator, height, width)
    weight = np.clip(mixture, 0, 1).astype(np.float32)[..., None]
    filled: Float32[np.ndarray, "h w c"] = first + weight * (second - first)
    return filled


def _rough(generator: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "h w"]:
    """Return noise of mean 0 and deviation 1 whose spectrum falls with a power of the frequency between 0.6 and 1.8."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((height, width), dtype=np.float32))
    noise = np.fft.irfft2(spectrum * frequency ** -generator.uniform(0.6, 1.8), s=(height, width))
    rough: Float32[np.ndarray, "h w"] = (noise / max(float(noise.std()), 1e-6)).astype(np.float32)
    return rough
