"""JPEG and double JPEG, made by the codec itself (ITU-T T.81; libjpeg-turbo through Pillow)."""

import io
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from kbnet_cli.training.degradations.pair import Pair

UNIT: Final = 16
"""What a file is made of at most: with chroma halved both ways, four blocks of luma and one of each chroma."""


@dataclass(frozen=True)
class Jpeg:
    """Compression at any phase of the block grid, once or twice, or none at all so that a clean photo stays clean."""

    share: float = 1.0
    """How often it is taken, relative to the recipe's other degradations."""
    quality: tuple[int, int] = (10, 95)
    """The range of libjpeg's quality, both ends included; drawn anew for each time of saving."""
    skew: float = 1.3
    """The exponent on a uniform draw: 1 takes all qualities alike, more takes the low ones more often."""
    untouched: float = 0.08
    """How often a patch is not compressed at all."""
    double: float = 0.25
    """How often a compressed patch is compressed a second time, on another grid."""
    subsampling: tuple[float, float, float] = (0.2, 0.1, 0.7)
    """How often chroma is kept whole (4:4:4), halved across (4:2:2), and halved both ways (4:2:0)."""

    @property
    def margin(self) -> int:
        """Pixels needed on each side beyond what is returned: a unit for each time of saving."""
        return 2 * UNIT

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Save and open again; the degraded patch holds 8-bit values, or is the clean one where nothing was done."""
        target = clean[self.margin : -self.margin, self.margin : -self.margin]
        if generator.random() < self.untouched:
            return Pair(target, target)
        pixels = to_bytes(clean)
        twice = generator.random() < self.double
        pixels = self._saved(pixels, generator) if twice else pixels[UNIT:-UNIT, UNIT:-UNIT]
        return Pair(self._saved(pixels, generator) / np.float32(255), target)

    def _saved(self, pixels: UInt8[np.ndarray, "h w 3"], generator: np.random.Generator) -> UInt8[np.ndarray, "_ _ 3"]:
        low, high = self.quality
        quality = int(low + (high - low + 1) * generator.random() ** self.skew)
        odds = np.cumsum(self.subsampling)
        subsampling = int(np.searchsorted(odds, generator.random() * odds[-1], side="right"))
        return saved(pixels, generator, quality=quality, subsampling=subsampling)


def saved(
    pixels: UInt8[np.ndarray, "h w 3"], generator: np.random.Generator, *, quality: int, subsampling: int
) -> UInt8[np.ndarray, "_ _ 3"]:
    """Save as JPEG on a grid of random phase, open again, and cut `UNIT` pixels off each side.

    Args:
        pixels: RGB, of any size above 2 · `UNIT`.
        generator: What draws the phase.
        quality: That of libjpeg, 1…100.
        subsampling: That of Pillow: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
    """
    # From the grid's first line to a whole number of units later. At least one pixel more than is kept on each side,
    # since the decoder interpolates halved chroma, and one pixel in from the picture's edge it sees no edge any more.
    height, width = pixels.shape[:2]
    top, left = (int(value) for value in generator.integers(0, UNIT, 2))
    rows, columns = (
        (size - UNIT + 1 - start + UNIT - 1) // UNIT * UNIT for size, start in ((height, top), (width, left))
    )
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels[top : top + rows, left : left + columns])).save(
        file, "JPEG", quality=quality, subsampling=subsampling
    )
    opened = np.asarray(Image.open(file))
    return opened[UNIT - top : height - UNIT - top, UNIT - left : width - UNIT - left]


def to_bytes(values: Float32[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
    """Round 0…1 to 0…255, clipping what lies outside."""
    return np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
