"""Generated scenes: the statistics of photographs, the colours of the palette, nothing left bare, the same by seed."""

from functools import cache

import numpy as np
import pytest

from kbnet_cli.training.scenes import Palette, scene
from kbnet_cli.training.scenes.drawing import Drawing
from kbnet_cli.training.scenes.leaves import Leaves, leaves
from kbnet_cli.training.scenes.surfaces import FIELD, STRETCH, TEXTURES, Fields, Marks, Surfaces, paint

SIZE = 192


@cache
def luminances() -> np.ndarray:
    """Return some scenes in random colours as grey values (n, h, w)."""
    colours = np.random.default_rng(1).integers(0, 256, (512, 3), dtype=np.uint8)
    scenes = [scene(np.random.default_rng(seed), SIZE, Palette(colours)) for seed in range(12)]
    return np.stack(scenes).astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def spectral_slope(picture: np.ndarray) -> float:
    """Fit the exponent of the frequency to the power, from 4 waves a picture to one in 4 pixels; beyond is the lens."""
    size = len(picture)
    window = np.hanning(size)[:, None] * np.hanning(size)
    power = np.abs(np.fft.fft2((picture - picture.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size))
    edges = np.geomspace(4 / size, 0.25, 13)
    rings = np.digitize(frequency, edges)
    means = [power[rings == ring].mean() for ring in range(1, len(edges))]
    return float(np.polyfit(np.log(edges[1:] * edges[:-1]) / 2, np.log(means), 1)[0])


def label_map(label: int, size: int) -> np.ndarray:
    return np.full((size, size), label, np.int32)


def painted(texture: str, *, scale: int, size: int = 64) -> np.ndarray:
    """Paint one leaf with a texture from black to white, along the axes, and return its green."""
    one = np.ones((3, 1), np.float32)
    surfaces = Surfaces(
        first=0 * one,
        difference=255 * one,
        gradient=np.array([[0.5], [0], [0]], np.float32),
        u=np.array([[4096], [0.125], [0]], np.float32),
        v=np.array([[4096], [0], [0.125]], np.float32),
        amplitude=np.array([0.5], np.float32),
        texture=np.array([list(TEXTURES).index(texture)], np.uint8),
    )
    fields = Fields(*np.zeros((2, FIELD * FIELD), np.float32))
    return paint(label_map(0, size * scale), surfaces, fields, scale=scale)[..., 1]


def test_power_falls_as_in_photographs() -> None:
    slopes = [spectral_slope(picture) for picture in luminances()]
    assert -2.6 < np.mean(slopes) < -1.6
    assert -3.6 < min(slopes) < max(slopes) < -1.2


def test_most_differences_are_small_and_some_are_large() -> None:
    differences = np.diff(luminances(), axis=2)
    fourth, second = (differences**4).mean(axis=(1, 2)), (differences**2).mean(axis=(1, 2))
    kurtosis = fourth / second**2  # 3 where they are Gaussian
    assert kurtosis.min() > 5
    assert np.mean(kurtosis) > 10


def test_some_edges_are_sharp_and_others_soft() -> None:
    blocks = luminances().reshape(-1, 12, SIZE // 12, 12, SIZE // 12).transpose(0, 1, 3, 2, 4).reshape(-1, 16, 16)
    contrast = np.ptp(blocks, axis=(1, 2))
    steepest = np.maximum(np.abs(np.diff(blocks, axis=1)).max((1, 2)), np.abs(np.diff(blocks, axis=2)).max((1, 2)))
    widths = (contrast / np.maximum(steepest, 1))[contrast > 40]
    assert 0.4 < (widths < 1.5).mean() < 0.9
    assert (widths > 3).mean() > 0.01


@pytest.mark.parametrize("size", [17, 64])
def test_same_seed_same_scene(size: int) -> None:
    palette = Palette(np.random.default_rng(1).integers(0, 256, (64, 3), dtype=np.uint8))
    first, again, other = (scene(np.random.default_rng(seed), size, palette) for seed in (7, 7, 8))
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_pixel_is_covered() -> None:
    palette = Palette(np.full((4, 3), 130, np.uint8))
    for seed in range(6):
        covered = scene(np.random.default_rng(seed), 80, palette)
        assert 127 <= covered.min() <= covered.max() <= 133


def test_colours_are_mixed_and_never_invented() -> None:
    low, high = np.array([40, 60, 90]), np.array([200, 150, 100])
    for seed in range(4):
        pixels = scene(np.random.default_rng(seed), 80, Palette(np.array([low, high], np.uint8))).reshape(-1, 3)
        share = (pixels - low) @ (high - low) / ((high - low) ** 2).sum()
        line = low + np.clip(share, 0, 1)[:, None] * (high - low)
        assert np.abs(pixels - line).max() < 4
        assert share.std() > 0.1


def test_small_leaves_are_as_many_as_the_power_law_says() -> None:
    fallen = leaves(np.random.default_rng(3), 512, scale=1, smallest=3.0, largest=200.0, thickness=4.0)
    weights = 1 / (512 + 2 * fallen.radii) ** 2  # a large leaf touches the square from farther away
    counts, _ = np.histogram(fallen.radii, [3, 6, 12, 24], weights=weights)
    assert fallen.radii.min() >= 3
    assert fallen.radii.max() <= 200
    assert np.allclose(counts[:-1] / counts[1:], 4, rtol=0.25), "r⁻³: each octave has a quarter of the one before"


def test_thickness_says_how_much_stays_bare() -> None:
    bare = []
    for seed in range(10):
        drawing = Drawing(96, 1)
        fallen = leaves(np.random.default_rng(seed), 96, scale=1, smallest=3.0, largest=40.0, thickness=1.0)
        drawing.leaves(fallen, 0, len(fallen.radii))
        bare.append((drawing.labels == 0).mean())
    assert abs(np.mean(bare) - np.exp(-1)) < 0.12


def test_what_is_drawn_later_lies_in_front() -> None:
    squares = [[2.0, 2.0, 9.0, 2.0, 9.0, 9.0, 2.0, 9.0], [6.0, 6.0, 13.0, 6.0, 13.0, 13.0, 6.0, 13.0]]
    fallen = Leaves(np.array([[5.5, 5.5], [9.5, 9.5]]), np.array([5.0, 5.0]), squares)
    drawing = Drawing(16, 1)
    drawing.leaves(fallen, 0, 2)
    assert (drawing.labels[0, 0], drawing.labels[3, 3], drawing.labels[7, 7], drawing.labels[12, 12]) == (0, 1, 2, 2)
    assert drawing.marks.radii.tolist() == [8, 5, 5]


def test_writing_bundles_and_lines_are_thin() -> None:
    generator = np.random.default_rng(5)
    boards = 0
    for _ in range(12):
        writing = Drawing(256, 2)
        writing.writing(generator)
        tints = writing.marks.tints[1:].tolist()
        assert tints in ([1], [0, 1]), "letters, or a board and letters"
        boards += tints == [0, 1]
        assert writing.marks.families.max() == 0
    assert 3 < boards < 12
    bundle = Drawing(256, 2)
    bundle.bundle(generator)
    marks = bundle.marks
    assert 20 <= len(marks.radii) - 1 < 120
    assert set(marks.families[1:]) == {0}
    line = Drawing(256, 2)
    line.line(generator)
    assert 0 < (line.labels == 1).sum() <= 7 * 2 * 512


def test_letters_differ_from_their_board() -> None:
    generator = np.random.default_rng(6)
    palette = Palette(generator.integers(0, 256, (256, 3), dtype=np.uint8))
    count = 200
    marks = Marks(np.zeros((count, 2)), np.ones(count), np.arange(count) - 1, np.ones(count))
    surfaces = Surfaces.draw(generator, marks, palette, ground=True)
    difference = np.abs(surfaces.difference).sum(axis=0)
    assert difference[1:].mean() > 300, "of random pairs it is 256"
    assert not surfaces.texture[1:].any(), "what is thin is plain"


def test_fields_are_rough_and_the_brushed_one_has_a_grain() -> None:
    fields = Fields.draw(np.random.default_rng(2))
    rough, brushed = fields.rough.reshape(FIELD, FIELD), fields.brushed.reshape(FIELD, FIELD)
    for field in (rough, brushed):
        assert abs(field.mean()) < 1e-3
        assert abs(field.std() - 1) < 1e-3
    assert -3.0 < spectral_slope(rough) < -1.4, "twice the amplitude's power, 0.7 to 1.5"
    along, across = (np.diff(brushed, axis=axis).std() for axis in (0, 1))
    assert across / along > STRETCH / 4
    along, across = (np.diff(rough, axis=axis).std() for axis in (0, 1))
    assert 0.9 < across / along < 1.1


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("texture", ["grating", "stripes", "bricks", "checker", "dots"])
def test_patterns_repeat_with_their_period(texture: str, scale: int) -> None:
    grey = painted(texture, scale=scale).astype(int)
    assert np.abs(grey[:, 16:] - grey[:, :-16]).max() <= 1, "of 8 pixels, or of two bricks"
    assert np.abs(grey[16:] - grey[:-16]).max() <= 1
    assert np.ptp(grey) > 100


def test_plain_leaves_are_plain_and_edges_are_averaged() -> None:
    assert np.unique(painted("plain", scale=2)).tolist() == [128]
    marks = Marks(np.zeros((2, 2)), np.ones(2), np.array([0, 0]), np.array([0.0, 1.0]))
    surfaces = Surfaces.draw(
        np.random.default_rng(0), marks, Palette(np.array([[0] * 3, [200] * 3], np.uint8)), ground=True
    )
    flat = np.array([[0, 1], [0, 0], [0, 0]], np.float32)
    surfaces = Surfaces(
        surfaces.first * 0, surfaces.first * 0 + 200, flat, surfaces.u, surfaces.v, surfaces.amplitude, surfaces.texture
    )
    labels = np.zeros((4, 4), np.int32)
    labels[:, 3] = 1
    labels[3, 2] = 1
    fields = Fields(*np.zeros((2, FIELD * FIELD), np.float32))
    assert paint(labels, surfaces, fields, scale=2)[..., 0].tolist() == [[0, 100], [0, 150]]
