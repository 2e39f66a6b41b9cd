"""Rain: streaks and mist.

A falling drop is drawn out into a streak by the exposure: its length, width and brightness depend on its distance and
speed (Garg and Nayar, "Vision and rain", IJCV 2007). A layer of rain is one of streaks that are nearly alike, and heavy
rain is a sum of layers with angles of their own (Yang et al., "Deep joint rain detection and removal from a single
image", JORDER, CVPR 2017). Where there are many, they close up to a veil: noise blurred along a line, laid over the
picture by screening, as in the pairs of Fu et al. ("Removing rain from single images via a deep detail network", DDN,
CVPR 2017). Mist follows Koschmieder's law: light fades towards the colour of the air.

All of it is done in display-encoded values, because the pairs that derainers are judged by were made so; rain in linear
light has less contrast on bright ground and more on dark ground.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from kbnet_cli.training.degradations.jpeg import UNIT, saved, to_bytes
from kbnet_cli.training.degradations.pair import Pair
from kbnet_cli.training.degradations.ranges import check_above_zero


@dataclass(frozen=True)
class Rain:
    """Rain of one of three kinds, and patches without any: a dense soft cover, sharp lines, or a misty mixture."""

    share: float = 1.0
    """How often it is taken, relative to the recipe's other degradations."""
    dry_share: float = 0.06
    """Patches without rain."""
    kinds: tuple[float, float, float] = (0.4, 0.4, 0.2)
    """How often a rainy patch has a soft cover, sharp lines, or real rain with mist."""
    angle: tuple[float, float] = (-50.0, 50.0)
    """The direction of the streaks, in degrees from the vertical."""
    layers: int = 3
    """The most layers of sharp lines; a soft cover has at most two."""
    crossing_share: float = 0.25
    """Further layers with an angle of their own; the others are within a few degrees of the first."""
    length: tuple[float, float] = (8.0, 100.0)
    """The streaks' length in pixels, and at least five times their width."""
    fading_share: float = 0.4
    """Patches whose streaks are fainter on one side, as where rain thins out before a near thing."""
    soft_width: tuple[float, float] = (1.0, 4.0)
    soft_coverage: tuple[float, float] = (0.3, 4.0)
    """How many streaks of a soft cover lie over a pixel, on average."""
    soft_contrast: tuple[float, float] = (0.02, 0.13)
    """The standard deviation of a soft cover."""
    veil_share: float = 0.3
    """Soft covers that brighten even where there is no streak."""
    veil: tuple[float, float] = (0.0, 0.1)
    """By how much, 0…1."""
    sharp_width: tuple[float, float] = (0.7, 4.0)
    sharp_coverage: tuple[float, float] = (0.02, 0.4)
    """How many streaks of one layer of sharp lines lie over a pixel, on average."""
    sharp_brightness: tuple[float, float] = (0.1, 1.0)
    """How bright the brightest drops are, 0…1."""
    near_width: tuple[float, float] = (3.0, 10.0)
    """The width of near streaks that are out of focus."""
    mist_share: float = 0.5
    """Patches of real rain with mist."""
    mist: tuple[float, float] = (0.7, 1.0)
    """How much of the scene's own light comes through, changing smoothly over the patch."""
    air: tuple[float, float] = (0.55, 0.95)
    """How bright the air is."""
    tint: float = 0.03
    """How far the streaks' colours are from grey, as a standard deviation."""
    rounded_share: float = 0.8
    """Patches that are rounded to 8 bits."""
    jpeg_share: float = 0.3
    """Patches that are saved as JPEG, and so rounded too."""
    jpeg_quality: tuple[int, int] = (75, 100)

    def __post_init__(self) -> None:
        """Refuse what has no logarithm."""
        check_above_zero(self, "length", "soft_width", "soft_coverage", "sharp_width", "sharp_coverage")

    @property
    def margin(self) -> int:
        """Pixels needed on each side beyond what is returned."""
        return 0

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Let it rain on a patch; what it must become is the patch itself."""
        if generator.random() < self.dry_share:
            return Pair(clean, clean)
        odds = np.cumsum(self.kinds)
        kind = int(np.searchsorted(odds, generator.random() * odds[-1], side="right"))
        make = (self._soft, self._sharp, self._real)[kind]
        degraded = np.clip(make(clean, generator), 0, 1)
        if generator.random() < self.jpeg_share:
            # What the codec's grid needs around the patch is made by reflection, so that rain needs no margin.
            wide = np.pad(to_bytes(degraded), ((UNIT, UNIT), (UNIT, UNIT), (0, 0)), mode="reflect")
            quality = int(generator.integers(*self.jpeg_quality, endpoint=True))
            opened = saved(wide, generator, quality=quality, subsampling=2 * int(generator.integers(2)))
            degraded = opened / np.float32(255)
        elif generator.random() < self.rounded_share:
            degraded = np.rint(degraded * 255) / np.float32(255)
        return Pair(degraded.astype(np.float32, copy=False), clean)

    def _soft(
        self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Screen with noise that was blurred along lines and levelled."""
        size = (clean.shape[0], clean.shape[1])
        angle = generator.uniform(*self.angle)
        cover = np.zeros(size, dtype=np.float32)
        count = 1 + int(generator.random() < 0.35)
        contrast = generator.uniform(*self.soft_contrast) / math.sqrt(count)
        for number in range(count):
            layer = self._layer(
                size,
                generator,
                angle=angle if not number else self._further(angle, generator),
                length=_even(generator, *self.length) * 0.8,
                width=_even(generator, *self.soft_width),
                coverage=_even(generator, *self.soft_coverage),
                blur=generator.uniform(1.0, 3.0),
            )
            spread = max(float(layer.std()), 1e-6)
            # The levels: what lies this far below the mean becomes black.
            layer -= max(float(layer.mean()) - generator.uniform(0.0, 2.0) * spread, 0.0)
            cover += np.maximum(layer, 0) * np.float32(contrast / spread)
        cover = np.minimum(self._faded(cover, generator), 1)
        veil = generator.uniform(*self.veil) if generator.random() < self.veil_share else 0.0
        cover = 1 - (1 - cover) * np.float32(1 - veil)
        return 1 - (1 - clean) * (1 - np.clip(self._coloured(cover, generator), 0, 1))

    def _sharp(
        self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Add bright lines."""
        size = (clean.shape[0], clean.shape[1])
        angle = generator.uniform(*self.angle) * generator.uniform(0, 1)
        length = _even(generator, *self.length)
        width = _even(generator, *self.sharp_width)
        coverage = _even(generator, *self.sharp_coverage)
        brightness = generator.uniform(*self.sharp_brightness)
        cover = np.zeros(size, dtype=np.float32)
        for number in range(int(generator.integers(1, self.layers, endpoint=True))):
            layer = self._layer(
                size,
                generator,
                angle=angle if not number else self._further(angle, generator),
                length=length * generator.uniform(0.6, 1.2),
                width=max(width * generator.uniform(0.5, 1.2), 0.7),
                coverage=coverage * generator.uniform(0.3, 1),
                blur=generator.uniform(1.0, 1.6),
            )
            cover += layer * np.float32(brightness * generator.uniform(0.4 if number else 1.0, 1))
        if generator.random() < 0.4:
            # Lines that were shrunk or drawn without smoothing are broken up.
            cover *= 1 - np.float32(generator.uniform(0.1, 0.7)) * generator.random(size, dtype=np.float32)
        cover = self._coloured(self._faded(cover, generator), generator)
        return clean + (cover if generator.random() < 0.7 else (1 - clean) * np.minimum(cover, 1))

    def _real(
        self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w c"]:
        """Add faint streaks, some of them near and out of focus, and mist over all."""
        size = (clean.shape[0], clean.shape[1])
        angle = generator.uniform(*self.angle) * generator.uniform(0, 1)
        far = self._layer(
            size,
            generator,
            angle=angle,
            length=_even(generator, *self.length),
            width=_even(generator, 0.7, 2.5),
            coverage=_even(generator, 0.03, 2.0),
            blur=generator.uniform(1.0, 3.0),
        )
        cover = far * np.float32(_even(generator, 0.03, 0.35))
        if generator.random() < 0.5:
            width = generator.uniform(*self.near_width)
            near = self._layer(
                size,
                generator,
                angle=self._further(angle, generator),
                length=_even(generator, *self.length),
                width=width,
                coverage=_even(generator, 0.03, 0.3),
                blur=width,
            )
            cover += near * np.float32(_even(generator, 0.03, 0.3))
        rainy = clean + self._coloured(cover, generator)
        if generator.random() >= self.mist_share:
            return rainy
        scene = _plane(size, generator, generator.uniform(*self.mist), self.mist[1])[:, :, None]
        air = self._coloured(np.full((1, 1), generator.uniform(*self.air), dtype=np.float32), generator)
        return rainy * scene + air * (1 - scene)

    def _layer(
        self,
        size: tuple[int, int],
        generator: np.random.Generator,
        *,
        angle: float,
        length: float,
        width: float,
        coverage: float,
        blur: float,
    ) -> Float32[np.ndarray, "h w"]:
        """Draw streaks that are nearly alike: two sorts of them, whose lengths and angles differ a little."""
        lengths = np.maximum(length * generator.uniform(0.6, 1.2, 2), 5 * width)
        angles = angle + generator.normal(0, 1.0, 2)
        return streaks(size, generator, angles=angles, lengths=lengths, width=width, coverage=coverage, blur=blur)

    def _further(self, angle: float, generator: np.random.Generator) -> float:
        """Draw the angle of a further layer."""
        if generator.random() < self.crossing_share:
            return generator.uniform(*self.angle)
        return angle + generator.normal(0, 4.0)

    def _faded(self, cover: Float32[np.ndarray, "h w"], generator: np.random.Generator) -> Float32[np.ndarray, "h w"]:
        if generator.random() >= self.fading_share:
            return cover
        return cover * _plane((cover.shape[0], cover.shape[1]), generator, 0.3, 1.0)

    def _coloured(
        self, cover: Float32[np.ndarray, "h w"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w 3"]:
        tint = 1 + self.tint * generator.standard_normal(3, dtype=np.float32)
        return cover[:, :, None] * np.maximum(tint, 0)


def streaks(
    size: tuple[int, int],
    generator: np.random.Generator,
    *,
    angles: Float[np.ndarray, " sorts"],
    lengths: Float[np.ndarray, " sorts"],
    width: float,
    coverage: float,
    blur: float,
) -> Float32[np.ndarray, "h w"]:
    """Sum drops at random places, drawn out into lines; the brightest drop is 1, the faintest a quarter.

    Args:
        size: height and width.
        generator: what draws the places and how bright each drop is.
        angles: in degrees from the vertical, positive from the upper left to the lower right; one for each sort.
        lengths: in pixels, from end to end at half the brightness; one for each sort.
        width: likewise across, in pixels.
        coverage: how many streaks lie over a pixel, on average.
        blur: how many pixels wide the edge along a streak's sides is, at least 1; that of its ends is twice as wide.
    """
    turns = np.deg2rad(angles)
    # How far a streak reaches from its middle. Middles lie up to that far outside the patch, and so that all of their
    # streaks can be added up without a look at borders, the sum is kept for as far again.
    down = math.ceil(float((lengths * np.abs(np.cos(turns))).max()) / 2 + blur + width)
    across = math.ceil(float((lengths * np.abs(np.sin(turns))).max()) / 2 + blur + width)
    middles = (size[0] + 2 * down, size[1] + 2 * across)
    height, stride = size[0] + 4 * down, size[1] + 4 * across
    total = np.zeros(height * stride)
    rows = np.arange(-down, down + 1, dtype=np.float32)[:, None]
    columns = np.arange(-across, across + 1, dtype=np.float32)[None, :]
    # As Python's floats, which leave float32 as it is.
    for turn, length in zip(turns.tolist(), lengths.tolist(), strict=True):
        sine, cosine = math.sin(turn), math.cos(turn)
        # Not all through the middles of pixels, or a sort of lines would be too even.
        beside = np.abs(columns * cosine - rows * sine + generator.uniform(-0.5, 0.5))
        along = np.abs(columns * sine + rows * cosine)
        line = _edge(beside, width / 2, blur) * _edge(along, length / 2, min(2 * blur, length / 2))
        below, right = np.nonzero(line)
        drops = generator.poisson(coverage / len(turns) * middles[0] * middles[1] / float(line.sum()))
        tops, lefts = generator.integers(0, middles[0], drops), generator.integers(0, middles[1], drops)
        places = (tops * stride + lefts)[:, None] + (below * stride + right)[None, :]
        brightness = generator.uniform(0.25, 1, drops)[:, None] * line[below, right][None, :]
        total += np.bincount(places.ravel(), brightness.ravel(), total.size)
    layer = total.reshape(height, stride)[2 * down : 2 * down + size[0], 2 * across : 2 * across + size[1]]
    return layer.astype(np.float32)


def _edge(distance: Float32[np.ndarray, "h w"], half: float, blur: float) -> Float32[np.ndarray, "h w"]:
    """Fall from 1 in the middle to 0 outside, through a half of it at `half`, within `blur` pixels."""
    return np.clip((half + blur / 2 - distance) / min(blur, half + blur / 2), 0, 1)


def _even(generator: np.random.Generator, low: float, high: float) -> float:
    """Draw a value whose logarithm is uniform."""
    return math.exp(generator.uniform(math.log(low), math.log(high)))


def _plane(
    size: tuple[int, int], generator: np.random.Generator, low: float, high: float
) -> Float32[np.ndarray, "h w"]:
    """Make a smooth field that is bent between four corners, each of low … high."""
    corners = generator.uniform(low, high, (2, 2))
    down = np.linspace(0, 1, size[0])[:, None]
    across = np.linspace(0, 1, size[1])[None, :]
    top = corners[0, 0] + (corners[0, 1] - corners[0, 0]) * across
    bottom = corners[1, 0] + (corners[1, 1] - corners[1, 0]) * across
    return (top + (bottom - top) * down).astype(np.float32)
