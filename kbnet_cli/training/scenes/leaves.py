"""Dead leaves: shapes that hide each other, as polygons, from the back to the front.

A shape's radius r has the density r⁻³ between a smallest and a largest one, which makes a scene look the same at any
scale (Lee, Mumford and Huang, Occlusion models for natural images, 2001).
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int

FINE = (8.0, 40.0)
"""Radii, in drawn pixels, from which on an outline takes more corners than the least."""
CORNERS = (10, 20, 64)
SHAPES = 7
FILLED = 0.55
"""The share of its circle that a shape fills on average."""
MOST = 9000
"""Leaves in one layer at most; so many cover a scene of gravel of 512 pixels."""


@dataclass(frozen=True)
class Leaves:
    """Outlines and where they lie, in pixels of the scene, from the back to the front."""

    centres: Float[np.ndarray, "n 2"]
    radii: Float[np.ndarray, " n"]
    outlines: list[list[float]]
    """Of each leaf x, y, x, y …, in drawn pixels: those of the scene times the scale."""


def leaves(
    generator: np.random.Generator, size: int, *, scale: int, smallest: float, largest: float, thickness: float
) -> Leaves:
    """Lay leaves on a square of size × size pixels until their areas add up to its own times the thickness.

    A share of exp(−thickness) stays bare. The centres lie as far outside as a leaf reaches, so that a scene's edges
    are like its middle.
    """
    radii = _radii(generator, size, smallest=smallest, largest=largest, thickness=thickness)
    count = len(radii)
    centres = generator.uniform(0, 1, (count, 2)) * (size + 2 * radii[:, None]) - radii[:, None]
    angles = generator.uniform(0, 2 * np.pi, count)
    if generator.uniform() < 0.3:  # a direction of the place, as in grass or rock
        angles = generator.uniform(0, 2 * np.pi) + 0.15 * generator.standard_normal(count)
    shapes = generator.choice(SHAPES, size=count, p=generator.dirichlet(np.full(SHAPES, 0.7)))
    outlines: list[list[float]] = [[]] * count
    for shape in range(SHAPES):
        for corners, (above, up_to) in zip(CORNERS, pairwise((0.0, *FINE, np.inf)), strict=True):
            chosen = np.flatnonzero((shapes == shape) & (radii * scale >= above) & (radii * scale < up_to))
            if not len(chosen):
                continue
            unit = _outline(generator, shape, radii[chosen], corners)
            along, across = unit[..., 0] * radii[chosen, None], unit[..., 1] * radii[chosen, None]
            cos, sin = np.cos(angles[chosen, None]), np.sin(angles[chosen, None])
            x = centres[chosen, :1] + cos * along - sin * across
            y = centres[chosen, 1:] + sin * along + cos * across
            drawn = (scale * np.stack([x, y], axis=-1)).reshape(len(chosen), -1).tolist()
            for index, outline in zip(chosen.tolist(), drawn, strict=True):
                outlines[index] = outline
    return Leaves(centres, radii, outlines)


def _radii(
    generator: np.random.Generator, size: int, *, smallest: float, largest: float, thickness: float
) -> Float[np.ndarray, " n"]:
    """Draw the radii of the leaves that touch the square: large ones do from farther away, so they come more often."""
    grid = np.geomspace(smallest, largest, 128)
    law = grid**-3 * grid  # one more r, for the grid's steps grow with it
    touching = law * (size + 2 * grid) ** 2
    count = min(round(thickness * touching.sum() / (FILLED * np.pi * (law * grid**2).sum())), MOST)
    share = np.cumsum(touching)
    return np.exp(np.interp(generator.uniform(share[0], share[-1], max(count, 1)), share, np.log(grid)))


def _outline(
    generator: np.random.Generator, shape: Int[np.ndarray, ""] | int, radii: Float[np.ndarray, " n"], corners: int
) -> Float[np.ndarray, "n corners 2"]:
    """Return outlines within the unit circle: disc, ellipse, rectangle, polygon, blob, pointed leaf or stick."""
    count = len(radii)
    turn = (np.arange(corners) + 0.5)[None] * (2 * np.pi / corners)
    cos, sin = np.broadcast_to(np.cos(turn), (count, corners)), np.broadcast_to(np.sin(turn), (count, corners))
    if shape == 1:
        sin = sin * generator.uniform(0.2, 0.9, (count, 1))
    elif shape == 2:
        tilt = generator.uniform(0.1, 1.3, (count, 1))
        cos, sin = np.cos(tilt) * [1, -1, -1, 1], np.sin(tilt) * [1, 1, -1, -1]
    elif shape == 3:
        turn = np.sort(generator.uniform(0, 2 * np.pi, (count, 6)), axis=1)
        cos, sin = np.cos(turn), np.sin(turn)
    elif shape == 4:
        waves = np.arange(2, 7)
        heights = generator.standard_normal((count, 1, len(waves))) * 0.5 / waves
        phases = generator.uniform(0, 2 * np.pi, (count, 1, len(waves)))
        reach = np.exp((heights * np.cos(waves * turn[..., None] + phases)).sum(axis=-1))
        reach /= reach.max(axis=1, keepdims=True)
        cos, sin = cos * reach, sin * reach
    elif shape == 5:
        sin = sin * np.abs(sin) * generator.uniform(0.1, 0.5, (count, 1))
    elif shape == 6:
        width = np.minimum(generator.uniform(0.2, 1.5, (count, 1)) / radii[:, None], 1)
        cos, sin = np.ones((count, 1)) * [1, -1, -1, 1], width * [1, 1, -1, -1]
    return np.stack([cos, sin], axis=-1)
