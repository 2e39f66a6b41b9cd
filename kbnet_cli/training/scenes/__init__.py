"""Generated scenes: dead leaves, shapes that hide each other, whose statistics are close to those of photographs.

Sources: the sizes by a power law are from Lee, Mumford and Huang, Occlusion models for natural images: a statistical
study of a scale-invariant dead leaves model, IJCV 2001. Such scenes as the training pictures of a network, with
textures and depth, are from Achddou, Gousseau and Ladjal, Synthetic images as a regularity prior for image restoration
neural networks, SSVM 2021, and Fully synthetic training for image restoration tasks, CVIU 2023, and from Madhusudana,
Lee, Sheikh and Bovik, Revisiting dead leaves model: training with synthetic data, IEEE SPL 2021. Lines, bundles,
writing and the label maps that all of it is drawn by are this project's own.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageChops, ImageFilter

from kbnet_cli.training.scenes.drawing import Drawing
from kbnet_cli.training.scenes.leaves import leaves
from kbnet_cli.training.scenes.palette import Palette
from kbnet_cli.training.scenes.surfaces import Fields, Surfaces, paint

__all__ = ["Palette", "scene"]

SUPERSAMPLING = 2
"""Sharp layers are drawn this many times larger and averaged, so that edges are as soft as a lens makes them."""
SMALLEST_RADIUS = (2.0, 14.0)
"""A layer's smallest shapes have a radius in this range: some scenes are gravel, some are walls."""
BLUR = (1.0, 4.0)
"""The deviation of the blur of a layer next to the one in focus."""
LENS = (0.2, 0.45)
"""The deviation of the blur of everything: no lens draws edges as hard as a polygon's."""
COVERED = 3.5
"""The thickness of leaves that leaves nothing bare that would be seen."""
IN_FRONT = 0.25
"""The thickness of the leaves in front of lines and writing."""


@dataclass(frozen=True)
class _Layer:
    """One depth of a scene."""

    thickness: float
    blur: float


def scene(generator: np.random.Generator, size: int, palette: Palette) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Draw one scene of size × size pixels, display-encoded; the same generator state gives the same scene.

    It has one to three layers of leaves, one of them sharp, the others blurred by their distance from it.
    """
    fields = Fields.draw(generator)
    far, *near = _layers(generator)
    whole, _ = _draw(generator, far, size, palette, fields)
    for layer in near:
        colours, cover = _draw(generator, layer, size, palette, fields)
        whole = ImageChops.add(colours, ImageChops.multiply(whole, ImageChops.invert(cover).convert("RGB")))
    return np.array(whole.filter(_lens(float(generator.uniform(*LENS)))))


def _lens(deviation: float) -> ImageFilter.Kernel:
    """Return a small Gaussian; three pixels are enough for less than a pixel of deviation."""
    row = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * deviation**2))
    return ImageFilter.Kernel((3, 3), np.outer(row, row).ravel().tolist(), scale=float(row.sum() ** 2))


def _layers(generator: np.random.Generator) -> list[_Layer]:
    """Choose the layers, the farthest first: it covers everything, the nearer ones leave gaps."""
    count = int(generator.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))
    focus = int(generator.integers(count))
    blur = float(np.exp(generator.uniform(*np.log(BLUR))))
    layers = []
    for depth in range(count):
        if depth == 0:
            thickness = COVERED
        else:  # what is blurred in front hides what is sharp, so there is little of it
            thickness = generator.uniform(0.4, 1.5) if depth <= focus else generator.uniform(0.05, 0.35)
        layers.append(_Layer(thickness, blur * abs(depth - focus)))
    return layers


def _draw(
    generator: np.random.Generator, layer: _Layer, size: int, palette: Palette, fields: Fields
) -> tuple[Image.Image, Image.Image]:
    """Draw one layer: its colours times its cover, and its cover."""
    scale = 1 if layer.blur else SUPERSAMPLING  # what is blurred anyway needs no finer grid
    drawing = Drawing(size, scale)
    smallest = float(np.exp(generator.uniform(*np.log(SMALLEST_RADIUS)))) + layer.blur
    fallen = leaves(
        generator,
        size,
        scale=scale,
        smallest=smallest,
        largest=max(size * generator.uniform(0.2, 0.7), 2 * smallest),
        thickness=layer.thickness,
    )
    count = len(fallen.radii)
    behind = round(count * (1 - IN_FRONT / layer.thickness)) if layer.thickness > IN_FRONT else count
    drawing.leaves(fallen, 0, behind)
    for _ in range(generator.poisson(3 * layer.thickness / COVERED)):
        drawing.line(generator)
    for _ in range(generator.poisson(min(layer.thickness, 1))):
        drawing.bundle(generator)
    for _ in range(generator.poisson(0.7 * min(layer.thickness, 1))):
        drawing.writing(generator)
    drawing.leaves(fallen, behind, count)
    surfaces = Surfaces.draw(generator, drawing.marks, palette, ground=layer.thickness >= COVERED)
    colours = Image.fromarray(paint(drawing.labels, surfaces, fields, scale=scale))
    cover = Image.fromarray(drawing.labels > 0).convert("L").reduce(scale)
    if layer.blur:
        blur = ImageFilter.GaussianBlur(layer.blur)
        colours, cover = colours.filter(blur), cover.filter(blur)
    return colours, cover
