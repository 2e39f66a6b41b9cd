"""Defocus: the shape of apertures, blur of light and not of its code, highlights, and what a camera adds after."""

import dataclasses
import math

import numpy as np
import pytest
from jaxtyping import Float32

from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.training.degradations import defocus
from kbnet_cli.training.degradations.defocus import Defocus, aperture, blurred, disk

PLAIN = Defocus(
    sharp_share=0.0,
    varying_share=0.0,
    disk_share=1.0,
    highlight_share=0.0,
    noise_share=0.0,
    rounded_share=0.0,
    jpeg_share=0.0,
)
"""Nothing but one disk."""


def noise(height: int, width: int, seed: int = 0) -> Float32[np.ndarray, "h w 3"]:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@pytest.mark.parametrize("radius", [2.0, 3.3, 5.0, 8.0])
def test_a_disk_has_its_area_and_its_second_moment(radius: float) -> None:
    kernel = disk(radius)
    places = np.arange(len(kernel)) - len(kernel) // 2
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert 1 / kernel.max() == pytest.approx(math.pi * radius**2, rel=0.02)
    # A quarter of the radius squared along each axis, and a twelfth for the pixel's own width (Sheppard).
    for moment in ((kernel * places[:, None] ** 2).sum(), (kernel * places[None, :] ** 2).sum()):
        assert moment == pytest.approx(radius**2 / 4 + 1 / 12, rel=0.05)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-7)
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-7)


def test_a_disk_has_the_zeros_of_its_spectrum() -> None:
    radius = 6.0
    kernel = disk(radius)
    profile = kernel.sum(axis=0)
    places = np.arange(len(kernel)) - len(kernel) // 2

    def response(zero: float) -> float:
        return float((profile * np.cos(zero / radius * places)).sum())

    # The spectrum of a disk is 2 J1(x) / x with x = 2π · radius · frequency: zeros at 3.8317 and 7.0156, and between
    # them, at 5.1356, the deepest point, -0.1323, of which the pixel's own width takes 3 % here.
    assert response(3.8317) == pytest.approx(0, abs=0.005)
    assert response(7.0156) == pytest.approx(0, abs=0.008)
    assert response(5.1356) == pytest.approx(-0.1323 * 0.97, abs=0.004)


def test_a_small_disk_is_one_pixel_and_grows_from_there() -> None:
    for radius in (0.0, 0.3, 0.5):
        np.testing.assert_array_equal(disk(radius), [[1.0]])
    assert [len(disk(radius)) for radius in (0.6, 1.4, 1.6, 5.0)] == [3, 3, 5, 11]
    middles = [disk(radius)[len(disk(radius)) // 2].max() for radius in (0.5, 0.7, 1.0, 1.5, 2.0)]
    assert middles == sorted(middles, reverse=True)


@pytest.mark.parametrize("blades", [5, 6, 7, 9])
def test_a_polygon_has_its_area_and_its_corners(blades: int) -> None:
    radius = 9.0
    kernel = aperture(radius, blades)
    assert kernel.sum() == pytest.approx(1, abs=1e-6)
    assert 1 / kernel.max() == pytest.approx(blades / 2 * radius**2 * math.sin(2 * math.pi / blades), rel=0.02)
    # With a corner to the right it is its own mirror image upside down, and reaches furthest there.
    np.testing.assert_allclose(kernel, kernel[::-1], atol=1e-4)
    middle = len(kernel) // 2
    reaches = kernel[middle] > kernel.max() / 2
    right, left = int(reaches[middle:].sum()) - 1, int(reaches[:middle].sum())
    assert right >= 8
    assert left == pytest.approx(radius if blades == 6 else radius * math.cos(math.pi / blades), abs=1)
    turned = aperture(radius, blades, turn=2 * math.pi / blades)
    np.testing.assert_allclose(turned, kernel, atol=2e-4)
    assert np.abs(aperture(radius, blades, turn=math.pi / blades) - kernel).max() > 1e-3
    np.testing.assert_array_equal(aperture(radius, blades, 0.3, roundness=1.0), disk(radius))
    assert kernel.max() > aperture(radius, blades, roundness=0.5).max() > disk(radius).max()


def test_a_picture_is_blurred_as_by_hand_and_reflected_at_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, kernel = noise(20, 33), aperture(3.0, 5, 0.4)
    wide = np.pad(picture, ((3, 3), (3, 3), (0, 0)), mode="reflect")
    expected = np.zeros_like(picture)
    for down in range(7):
        for across in range(7):
            # A convolution: what lies up and left is moved down and right.
            expected += kernel[6 - down, 6 - across] * wide[down : down + 20, across : across + 33]
    np.testing.assert_allclose(blurred(picture, kernel), expected, atol=2e-6)
    monkeypatch.setattr(defocus, "BLOCK", 8)
    np.testing.assert_allclose(blurred(picture, kernel), expected, atol=2e-6)


def test_blur_keeps_light_and_flat_areas() -> None:
    flat = np.full((50, 60, 3), 0.3, np.float32)
    np.testing.assert_allclose(blurred(flat, disk(4.2)), flat, atol=1e-6)
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 7
    spread = blurred(point, disk(4.2))
    np.testing.assert_allclose(spread.sum(axis=(0, 1)), 7, rtol=1e-5)
    np.testing.assert_allclose(spread[16:25, 16:25, 1], 7 * disk(4.2), atol=1e-5)
    tiny = noise(2, 3)
    assert blurred(tiny, disk(5.0)).shape == (2, 3, 3)
    np.testing.assert_array_equal(blurred(tiny, disk(0.5)), tiny)


def test_light_is_blurred_and_not_its_code() -> None:
    board = np.indices((74, 74)).sum(axis=0) % 2
    clean = np.repeat(board[:, :, None], 3, axis=2).astype(np.float32)
    degraded = dataclasses.replace(PLAIN, radius=(5.0, 5.0)).apply(clean, np.random.default_rng(0)).degraded
    # Half of the light is written as 0.735, half of the code would be 0.5.
    assert degraded.mean() == pytest.approx(float(srgb_encode(np.full(1, 0.5, np.float32))[0]), abs=0.002)
    picture = noise(74, 74)
    degraded = (
        dataclasses.replace(PLAIN, radius=(4.0, 4.0), disk_share=0.0).apply(picture, np.random.default_rng(0)).degraded
    )
    light = srgb_decode(picture)
    # Energy is kept but for what crosses the border, as it is nowhere clipped.
    assert srgb_decode(degraded).mean() == pytest.approx(float(light.mean()), rel=0.02)


def test_a_patch_is_blurred_with_what_lies_around_it() -> None:
    chosen = dataclasses.replace(PLAIN, radius=(3.0, 3.0))
    assert chosen.margin == 3
    whole = noise(90, 100)
    pair = chosen.apply(whole, np.random.default_rng(0))
    expected = srgb_encode(blurred(srgb_decode(whole), disk(3.0)))[3:-3, 3:-3]
    np.testing.assert_allclose(pair.degraded, expected, atol=1e-5)
    np.testing.assert_array_equal(pair.clean, whole[3:-3, 3:-3])


def test_highlights_become_bright_disks() -> None:
    clean = np.full((71, 71, 3), 0.2, np.float32)
    clean[35, 35] = 1
    dull = dataclasses.replace(PLAIN, radius=(3.0, 3.0))
    bright = dataclasses.replace(dull, highlight_share=1.0, highlight_gain=(60.0, 60.0))
    spots = [chosen.apply(clean, np.random.default_rng(0)) for chosen in (dull, bright)]
    counts = [int((pair.degraded[:, :, 1] > 0.9).sum()) for pair in spots]
    assert counts[0] == 0
    assert counts[1] == pytest.approx(math.pi * 9, rel=0.25)
    assert spots[1].degraded.max() == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(spots[1].clean, clean[3:-3, 3:-3])
    # What is bright but not nearly white stays as it is.
    wall = np.full((70, 70, 3), 0.95, np.float32)
    np.testing.assert_allclose(bright.apply(wall, np.random.default_rng(0)).degraded, 0.95, atol=1e-4)


def test_a_sharp_patch_may_stay_as_it_is() -> None:
    clean = noise(74, 74)
    pair = dataclasses.replace(PLAIN, sharp_share=1.0).apply(clean, np.random.default_rng(0))
    np.testing.assert_array_equal(pair.degraded, clean[5:-5, 5:-5])
    generator = np.random.default_rng(1)
    chosen = dataclasses.replace(PLAIN, sharp_share=0.4, radius=(1.0, 5.0))
    sharp = [np.array_equal(pair.degraded, pair.clean) for pair in (chosen.apply(clean, generator) for _ in range(60))]
    assert 12 <= sum(sharp) <= 36


def test_some_patches_are_blurred_more_on_one_side() -> None:
    def widest(varying: float) -> float:
        chosen = dataclasses.replace(PLAIN, varying_share=varying, radius=(0.0, 5.0))
        ratios = []
        for seed in range(20):
            degraded = chosen.apply(noise(74, 74), np.random.default_rng(seed)).degraded
            sides = [side.std() for side in (degraded[:8], degraded[-8:], degraded[:, :8], degraded[:, -8:])]
            ratios.append(max(sides) / min(sides))
        return float(np.max(ratios))

    assert widest(0.0) < 2
    assert widest(1.0) > 4


def test_radii_are_spread_over_the_range() -> None:
    generator = np.random.default_rng(0)
    clean = noise(74, 74)
    remains = [PLAIN.apply(clean, generator).degraded.std() for _ in range(40)]
    # Noise loses its contrast in proportion to the radius: about 1 / (1.77 · radius), from 1 to a ninth.
    assert max(remains) > 0.25
    assert min(remains) < 0.04
    assert len({round(float(value), 4) for value in remains}) > 25


def test_noise_rounding_and_jpeg_come_after_the_blur() -> None:
    clean = np.full((138, 138, 3), 0.5, np.float32)
    noisy = dataclasses.replace(PLAIN, noise_share=1.0, noise=(2.0, 2.0))
    degraded = noisy.apply(clean, np.random.default_rng(0)).degraded
    assert float(degraded.std()) * 255 == pytest.approx(2, rel=0.03)
    # White: neighbours know nothing of each other, as they would had it been blurred.
    assert abs(float(np.mean((degraded[:, 1:] - 0.5) * (degraded[:, :-1] - 0.5)))) * 255**2 < 0.1
    rounded = dataclasses.replace(noisy, rounded_share=1.0).apply(clean, np.random.default_rng(0)).degraded
    saved = (
        dataclasses.replace(noisy, jpeg_share=1.0, jpeg_quality=(85, 85))
        .apply(clean, np.random.default_rng(0))
        .degraded
    )
    for picture in (rounded, saved):
        np.testing.assert_allclose(picture * 255, np.rint(picture * 255), atol=1e-4)
    assert 0 < np.abs(rounded - degraded).max() <= 0.5 / 255 + 1e-6
    assert float(saved.std()) < float(rounded.std())


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 96)])
def test_patches_come_without_their_margin_and_again_from_the_same_generator(size: tuple[int, int]) -> None:
    chosen = Defocus()
    assert chosen.margin == 5
    clean = noise(size[0] + 10, size[1] + 10)
    before = clean.copy()
    generators = [np.random.default_rng(5), np.random.default_rng(5)]
    different = []
    for _ in range(12):
        first, second = (chosen.apply(clean, generator) for generator in generators)
        assert first.degraded.shape == first.clean.shape == (*size, 3)
        assert first.degraded.dtype == first.clean.dtype == np.float32
        np.testing.assert_array_equal(first.degraded, second.degraded)
        np.testing.assert_array_equal(first.clean, before[5:-5, 5:-5])
        different.append(first.degraded.sum())
    assert len(set(different)) > 8
    np.testing.assert_array_equal(clean, before)
