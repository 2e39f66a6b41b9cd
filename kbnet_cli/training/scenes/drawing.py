"""A label map that shapes, lines and writing are drawn into: whose each pixel is."""

import string

import numpy as np
from jaxtyping import Float, Int32
from PIL import Image, ImageDraw, ImageFont

from kbnet_cli.training.scenes.leaves import Leaves
from kbnet_cli.training.scenes.surfaces import Marks

LETTERS = string.ascii_lowercase * 3 + string.ascii_uppercase + string.digits * 2 + ".,:;!?()/&%+-=#@"
CURVE = np.linspace(0, 1, 9)[:, None]
"""Where along a curve its corners lie."""


class Drawing:
    """Draws what is in front later. Sizes and places are in pixels of the scene, drawn scale times larger."""

    def __init__(self, size: int, scale: int) -> None:
        self._size, self._scale = size, scale
        self._image = Image.new("I", (size * scale, size * scale))
        self._draw = ImageDraw.Draw(self._image)
        self._places = [(size / 2, size / 2, size / 2)]  # label 0 is what lies behind everything
        self._families, self._tints, self._next_family = [-1], [0.0], 0

    @property
    def labels(self) -> Int32[np.ndarray, "h w"]:
        """Whose each pixel is; 0 where nothing was drawn."""
        return np.asarray(self._image)

    @property
    def marks(self) -> Marks:
        """What was drawn, by label."""
        places = np.array(self._places)
        return Marks(places[:, :2], places[:, 2], np.array(self._families), np.array(self._tints))

    def leaves(self, leaves: Leaves, first: int, last: int) -> None:
        """Draw the leaves from first up to last, each before those behind it."""
        label = len(self._places)
        self._places += zip(*leaves.centres[first:last].T.tolist(), leaves.radii[first:last].tolist(), strict=True)
        self._families += [-1] * (last - first)
        self._tints += [0.0] * (last - first)
        polygon = self._draw.polygon
        for index in range(first, last):
            polygon(leaves.outlines[index], fill=label + index - first)

    def line(self, generator: np.random.Generator) -> None:
        """Draw one thin line, straight or bent."""
        start, length = generator.uniform(0, self._size, (1, 2)), self._size * generator.uniform(0.05, 0.8)
        angle = generator.uniform(0, 2 * np.pi)
        along = length * np.array([[np.cos(angle), np.sin(angle)]])
        bend = generator.choice([0.0, 0.3]) * length * generator.standard_normal(2)
        self._curves(start, start + along / 2 + bend, start + along, self._width(generator, 3.0), np.zeros(1))

    def bundle(self, generator: np.random.Generator) -> None:
        """Draw many thin curves of one kind that grow beside each other, like hair or grass."""
        count = int(generator.integers(20, 120))
        length = self._size * np.exp(generator.uniform(np.log(0.05), np.log(0.5)))
        direction, spread = generator.uniform(0, 2 * np.pi), generator.uniform(0.02, 0.4)
        root = generator.uniform(0, self._size, 2)
        extent = length * generator.uniform(0.1, 1.0, 2)
        bend = 0.3 * length * generator.standard_normal(2)
        roots = root + extent * generator.standard_normal((count, 2))
        angles = direction + spread * generator.standard_normal(count)
        lengths = length * generator.uniform(0.5, 1.0, count)
        along = lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        ends = roots + along + bend + 0.05 * length * generator.standard_normal((count, 2))
        tints = generator.uniform(0, 1, count)
        self._curves(roots, roots + along / 2, ends, self._width(generator, 1.5), tints)

    def writing(self, generator: np.random.Generator) -> None:
        """Draw some lines of random letters, most of them on a board, at any angle."""
        height = np.exp(generator.uniform(np.log(5.0), np.log(max(6.0, self._size / 10))))
        font = ImageFont.load_default(height * self._scale)
        lines, letters = generator.integers(1, 7), generator.integers(3, 24)
        text = "\n".join(self._words(generator, int(letters)) for _ in range(lines))
        box = self._draw.multiline_textbbox((0, 0), text, font)
        margin = height * self._scale * generator.uniform(0.1, 0.8)
        width, depth = box[2] - box[0] + 2 * margin, box[3] - box[1] + 2 * margin
        mask = Image.new("1", (round(width), round(depth)))
        ImageDraw.Draw(mask).multiline_text((margin - box[0], margin - box[1]), text, 1, font)
        angle = float(generator.choice([0, 0, 90, generator.uniform(-30, 30), generator.uniform(0, 360)]))
        mask = mask.rotate(angle, expand=True)
        middle = generator.uniform(0, self._size, 2)
        place = (float(middle[0]), float(middle[1]), float(width / self._scale), self._family())
        centre = middle * self._scale
        if generator.uniform() < 0.7:
            board = self._label(*place, 0.0)
            cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
            corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, depth / 2]
            turned = centre + corners @ np.array([[cos, -sin], [sin, cos]])
            self._draw.polygon(turned.ravel().tolist(), fill=board)
        left, top = np.rint(centre - np.array(mask.size) / 2).astype(int).tolist()
        self._image.paste(self._label(*place, 1.0), (left, top), mask)

    def _words(self, generator: np.random.Generator, letters: int) -> str:
        chosen = [LETTERS[index] for index in generator.integers(len(LETTERS), size=letters)]
        for index in np.flatnonzero(generator.uniform(0, 1, letters) < 0.15):
            chosen[index] = " "
        return "".join(chosen)

    def _width(self, generator: np.random.Generator, most: float) -> int:
        return max(round(self._scale * np.exp(generator.uniform(np.log(0.5), np.log(most)))), 1)

    def _family(self) -> int:
        self._next_family += 1
        return self._next_family - 1

    def _label(self, x: float, y: float, radius: float, family: int, tint: float) -> int:
        self._places.append((x, y, radius))
        self._families.append(family)
        self._tints.append(tint)
        return len(self._places) - 1

    def _curves(
        self,
        starts: Float[np.ndarray, "n 2"],
        middles: Float[np.ndarray, "n 2"],
        ends: Float[np.ndarray, "n 2"],
        width: int,
        tints: Float[np.ndarray, " n"],
    ) -> None:
        """Draw parabolas of one family; each leaves its start, and comes to its end, in the direction of its middle."""
        family = self._family()
        points = (
            (1 - CURVE) ** 2 * starts[:, None] + 2 * CURVE * (1 - CURVE) * middles[:, None] + CURVE**2 * ends[:, None]
        )
        reaches = np.abs(ends - starts).max(axis=1) + 1
        places = np.column_stack([middles, reaches, tints]).tolist()
        for (x, y, reach, tint), line in zip(
            places, (self._scale * points).reshape(len(points), -1).tolist(), strict=True
        ):
            self._draw.line(line, fill=self._label(x, y, reach, family, tint), width=width)
