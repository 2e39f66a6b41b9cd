"""Defocus: the picture of a point is the lens's aperture, laid over the scene in linear light.

By geometric optics a point off the plane of focus becomes a uniformly lit image of the aperture: a disk where it is
wide open, a polygon where its blades show. Radii are in pixels, of the circle around the aperture. Real pairs, such as
those of the dual-pixel set DPDD (Abuolaim and Brown, "Defocus deblurring using dual-pixel data", ECCV 2020), add a blur
that changes over the picture, and lights that are many times brighter than white and stay bright when spread out.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float32

from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.training.degradations.jpeg import UNIT, saved, to_bytes
from kbnet_cli.training.degradations.pair import Pair
from kbnet_cli.training.degradations.ranges import check_above_zero

SAMPLES: Final = 8
"""Points on each side of a pixel that an aperture's edge is sampled at."""
BLOCK: Final = 512
"""Height and width of what is blurred at a time."""


@dataclass(frozen=True)
class Defocus:
    """A blur by an aperture in linear light, with highlights, then a little noise, 8 bits and JPEG."""

    share: float = 1.0
    """How often it is taken, relative to the recipe's other degradations."""
    radius: tuple[float, float] = (0.0, 5.0)
    """The range of the aperture's radius in pixels, drawn uniformly for each patch."""
    sharp_share: float = 0.05
    """Patches that are not blurred at all."""
    varying_share: float = 0.2
    """Patches that have one radius at one edge and another at the other edge."""
    disk_share: float = 0.5
    """Apertures that are disks; the others are polygons."""
    blades: tuple[int, int] = (5, 9)
    """The fewest and the most edges of a polygon."""
    roundness: tuple[float, float] = (0.0, 0.6)
    """How far the corners of a polygon are cut off by the circle around it: 0 not at all, 1 makes it a disk."""
    highlight_share: float = 0.3
    """Patches in which what is near white is taken as brighter than white."""
    highlight_from: float = 0.97
    """The display-encoded value above which a pixel's greatest channel is near white."""
    highlight_gain: tuple[float, float] = (1.5, 30.0)
    """How many times brighter, drawn evenly in its logarithm for each patch."""
    noise_share: float = 0.7
    noise: tuple[float, float] = (0.0, 2.0)
    """The range of the noise's standard deviation in 1/255, display-encoded."""
    rounded_share: float = 0.7
    """Patches that are rounded to 8 bits."""
    jpeg_share: float = 0.25
    """Patches that are saved as JPEG, and so rounded too."""
    jpeg_quality: tuple[int, int] = (85, 100)

    def __post_init__(self) -> None:
        """Refuse what has no logarithm."""
        check_above_zero(self, "highlight_gain")

    @property
    def margin(self) -> int:
        """Pixels needed on each side beyond what is returned: half of the widest kernel."""
        return _reach(max(self.radius))

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Blur a patch; what it must become is the patch itself without its margin."""
        margin = self.margin
        height, width = clean.shape[0] - 2 * margin, clean.shape[1] - 2 * margin
        target = np.ascontiguousarray(clean[margin : margin + height, margin : margin + width])
        degraded = target
        if generator.random() >= self.sharp_share:
            light = self._light(clean, generator)
            soft = self._soft(light, generator)[margin : margin + height, margin : margin + width]
            degraded = srgb_encode(np.clip(soft, 0, 1))
        if generator.random() < self.noise_share:
            strength = np.float32(generator.uniform(*self.noise) / 255)
            degraded = degraded + strength * generator.standard_normal(degraded.shape, dtype=np.float32)
        if generator.random() < self.jpeg_share:
            # What the codec's grid needs around the patch is made by reflection, so that the margin stays small.
            wide = np.pad(to_bytes(degraded), ((UNIT, UNIT), (UNIT, UNIT), (0, 0)), mode="reflect")
            quality = int(generator.integers(*self.jpeg_quality, endpoint=True))
            opened = saved(wide, generator, quality=quality, subsampling=2 * int(generator.integers(2)))
            degraded = opened / np.float32(255)
        elif generator.random() < self.rounded_share:
            degraded = np.rint(np.clip(degraded, 0, 1) * 255) / np.float32(255)
        return Pair(degraded.astype(np.float32, copy=False), target)

    def _light(
        self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Turn a patch into linear light; what a camera had clipped may get back a light of its own."""
        light = srgb_decode(clean)
        if generator.random() >= self.highlight_share:
            return light
        gain = math.exp(generator.uniform(*np.log(self.highlight_gain)))
        nearness = (clean.max(axis=2, keepdims=True) - self.highlight_from) / (1 - self.highlight_from)
        return light * (1 + np.float32(gain - 1) * np.square(np.clip(nearness, 0, 1), dtype=np.float32))

    def _soft(
        self, light: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Blur by one aperture, or by the same at two sizes with a smooth way from one to the other."""
        blades, turn, roundness = 0, 0.0, 0.0
        if generator.random() >= self.disk_share:
            blades = int(generator.integers(*self.blades, endpoint=True))
            turn, roundness = generator.uniform(0, 2 * math.pi), generator.uniform(*self.roundness)
        radius, other = generator.uniform(*self.radius, size=2)
        soft = _around(light, aperture(radius, blades, turn, roundness))
        if generator.random() >= self.varying_share:
            return soft
        direction = generator.uniform(0, 2 * math.pi)
        rows = np.linspace(-1, 1, light.shape[0], dtype=np.float32)[:, None] * np.float32(math.sin(direction))
        columns = np.linspace(-1, 1, light.shape[1], dtype=np.float32)[None, :] * np.float32(math.cos(direction))
        way = np.clip((rows + columns + 1) / 2, 0, 1)[:, :, None]
        return soft + way * (_around(light, aperture(other, blades, turn, roundness)) - soft)


def disk(radius: float) -> Float32[np.ndarray, "side side"]:
    """Draw a disk: how much of each pixel lies within `radius` pixels of the middle; sums to 1."""
    return aperture(radius)


def aperture(
    radius: float, blades: int = 0, turn: float = 0.0, roundness: float = 0.0
) -> Float32[np.ndarray, "side side"]:
    """Draw an aperture as a kernel that sums to 1.

    Args:
        radius: of the circle around it, in pixels; one up to a half is one pixel.
        blades: edges of the regular polygon; 0 for a disk.
        turn: the direction of a corner, in radians.
        roundness: how far the blades are drawn out of the circle, 0…1: at 0 the polygon's corners lie on it, at 1
            the blades only touch it and it is a disk.
    """
    reach = _reach(radius)
    side = 2 * reach + 1
    if side == 1:
        return np.ones((1, 1), dtype=np.float32)
    points = (np.arange(side * SAMPLES, dtype=np.float32) + np.float32(0.5)) / SAMPLES - np.float32(reach + 0.5)
    down, across = points[:, None], points[None, :]
    inside = down * down + across * across <= radius * radius
    furthest = math.cos(math.pi / blades) if blades else 1.0
    for blade in range(blades):
        direction = turn + (blade + 0.5) * 2 * math.pi / blades
        away = down * np.float32(math.sin(direction)) + across * np.float32(math.cos(direction))
        inside &= away <= radius * (furthest + roundness * (1 - furthest))
    covered = inside.reshape(side, SAMPLES, side, SAMPLES).sum(axis=(1, 3), dtype=np.float32)
    return covered / covered.sum()


def blurred(
    picture: Float32[np.ndarray, "h w c"], kernel: Float32[np.ndarray, "side side"]
) -> Float32[np.ndarray, "h w c"]:
    """Convolve a picture of linear light with a kernel of odd side; the picture is reflected at its border.

    The work is done in blocks, so a picture of many megapixels takes little memory beyond its own.
    """
    reach = kernel.shape[0] // 2
    wide = np.pad(picture, ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    answer = np.empty_like(picture)
    for top in range(0, picture.shape[0], BLOCK):
        for left in range(0, picture.shape[1], BLOCK):
            part = answer[top : top + BLOCK, left : left + BLOCK]
            height, width = part.shape[0], part.shape[1]
            around = _around(wide[top : top + height + 2 * reach, left : left + width + 2 * reach], kernel)
            part[...] = around[reach : reach + height, reach : reach + width]
    return answer


def _around(
    picture: Float32[np.ndarray, "h w c"], kernel: Float32[np.ndarray, "side side"]
) -> Float32[np.ndarray, "h w c"]:
    """Convolve where the picture is joined to itself at its edges: half a kernel's width along them is of no use."""
    if kernel.size == 1:
        return picture
    reach = kernel.shape[0] // 2
    height, width = picture.shape[:2]
    size = (_handy(height), _handy(width))
    spectrum = np.fft.rfft2(picture.transpose(2, 0, 1), s=size)
    placed = np.zeros(size, dtype=np.float32)
    placed[: kernel.shape[0], : kernel.shape[1]] = kernel
    # Turned so that the kernel's middle lies on the first pixel.
    spectrum *= np.fft.rfft2(np.roll(placed, (-reach, -reach), axis=(0, 1)))
    planes = np.fft.irfft2(spectrum, s=size)[:, :height, :width]
    return np.ascontiguousarray(planes.transpose(1, 2, 0), dtype=np.float32)


def _reach(radius: float) -> int:
    """Count the pixels beyond the middle one that a circle touches."""
    return max(math.ceil(radius - 0.5), 0)


def _handy(length: int) -> int:
    """Find the next length that a Fourier transform is fast for: no prime factor above 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
