"""Rain: what streaks look like (angle, length, width, number), what they do to a patch, and how often."""

import dataclasses

import numpy as np
import pytest
from jaxtyping import Float32

from kbnet_cli.training.degradations.rain import Rain, streaks

SOFT = Rain(kinds=(1.0, 0.0, 0.0), dry_share=0.0, mist_share=0.0, jpeg_share=0.0, rounded_share=0.0)
SHARP = dataclasses.replace(SOFT, kinds=(0.0, 1.0, 0.0))
REAL = dataclasses.replace(SOFT, kinds=(0.0, 0.0, 1.0))
KINDS = pytest.mark.parametrize("rain", [SOFT, SHARP, REAL], ids=["soft", "sharp", "real"])


def flat(value: float, height: int = 64, width: int = 64) -> Float32[np.ndarray, "h w 3"]:
    return np.full((height, width, 3), value, np.float32)


def layer(seed: int = 0, *, angle: float = 0.0, length: float = 30.0, **others: float) -> Float32[np.ndarray, "h w"]:
    arguments = {"width": 2.0, "coverage": 0.2, "blur": 1.0} | others
    return streaks(
        (256, 256), np.random.default_rng(seed), angles=np.array([angle]), lengths=np.array([length]), **arguments
    )


def likeness(cover: Float32[np.ndarray, "h w"], axis: int) -> np.ndarray:
    """Return the autocorrelation along an axis, 1 at no shift."""
    power = np.abs(np.fft.fft(cover - cover.mean(), axis=axis)) ** 2
    answer = np.fft.ifft(power.sum(axis=1 - axis)).real
    return answer / answer[0]


@pytest.mark.parametrize("angle", [-45.0, -20.0, 0.0, 10.0, 35.0])
def test_streaks_lie_along_their_angle(angle: float) -> None:
    down, across = np.gradient(layer(angle=angle, length=80.0, width=4.0, blur=5.0))
    # The structure tensor's weakest direction is the one along which nothing changes.
    tensor = np.array([[(down * down).sum(), (down * across).sum()], [(down * across).sum(), (across * across).sum()]])
    along = np.linalg.eigh(tensor)[1][:, 0]
    assert np.rad2deg(np.arctan(along[1] / along[0])) == pytest.approx(angle, abs=2.5)


@pytest.mark.parametrize("length", [15.0, 30.0, 60.0])
def test_streaks_are_as_long_as_asked(length: float) -> None:
    # A line's likeness to itself falls straight to zero over its length.
    curves = [likeness(layer(seed, length=length, coverage=0.05), 0) for seed in range(8)]
    assert np.mean(curves, axis=0)[round(length / 2)] == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("width", [4.0, 8.0, 12.0])
def test_streaks_are_as_wide_as_asked(width: float) -> None:
    curves = [likeness(layer(seed, width=width, coverage=0.05), 1) for seed in range(8)]
    assert np.mean(curves, axis=0)[round(width / 2)] == pytest.approx(0.5, abs=0.1)


def test_coverage_is_how_many_streaks_lie_over_a_pixel() -> None:
    # Drops are 0.25 … 1 bright, 0.625 on average.
    for coverage in (0.03, 0.3, 3.0):
        means = [layer(seed, coverage=coverage).mean() for seed in range(8)]
        assert np.mean(means) == pytest.approx(0.625 * coverage, rel=0.15)
    covered = [float((layer(coverage=coverage) > 0.12).mean()) for coverage in (0.03, 0.3, 3.0)]
    # By Poisson's law 3 %, 26 % and 95 % are covered; edges that are half covered add to that.
    assert 0.025 < covered[0] < 0.06
    assert 0.25 < covered[1] < 0.45
    assert covered[2] > 0.95


def test_drops_differ_in_brightness_and_none_is_brighter_than_one() -> None:
    single = layer(coverage=0.01)
    tops = single[single > 0.2]
    assert single.min() == 0
    assert tops.max() <= 1
    assert tops.std() > 0.1


def test_blur_makes_edges_soft() -> None:
    sharp, soft = (np.abs(np.diff(layer(width=6.0, blur=blur), axis=1)).max() for blur in (1.0, 6.0))
    assert soft < sharp / 2


def test_rain_is_as_dense_at_a_patch_edge_as_in_its_middle() -> None:
    generator = np.random.default_rng(0)
    angles, lengths = np.array([30.0, -10.0]), np.array([80.0, 40.0])
    mean = np.mean(
        [
            streaks((64, 64), generator, angles=angles, lengths=lengths, width=2.0, coverage=1.0, blur=1.5)
            for _ in range(100)
        ],
        axis=0,
    )
    middle = mean[24:40, 24:40].mean()
    for edge in (mean[:4], mean[-4:], mean[:, :4], mean[:, -4:]):
        assert edge.mean() == pytest.approx(middle, rel=0.15)


@KINDS
def test_rain_without_mist_never_darkens(rain: Rain) -> None:
    generator = np.random.default_rng(0)
    gains = []
    for _ in range(40):
        clean = generator.random((64, 64, 3), dtype=np.float32)
        degraded = rain.apply(clean, generator).degraded
        assert (degraded >= clean - 1e-6).all()
        assert degraded.max() <= 1
        gains.append(degraded.mean() - clean.mean())
    # In 1/255: the pairs that derainers are judged by have 5 to 39.
    assert 3 < 255 * float(np.mean(gains)) < 30


def test_a_soft_cover_is_screened_and_sharp_lines_are_added_or_screened() -> None:
    dark, light = flat(0.1), flat(0.3)
    for seed in range(10):
        first, second = (SOFT.apply(clean, np.random.default_rng(seed)).degraded for clean in (dark, light))
        np.testing.assert_allclose((1 - second) / 0.7, (1 - first) / 0.9, atol=1e-5)
    added = 0
    for seed in range(20):
        first, second = (SHARP.apply(clean, np.random.default_rng(seed)).degraded for clean in (dark, light))
        where = (second < 1) & (first > 0.11)
        if np.allclose(second[where] - 0.3, first[where] - 0.1, atol=1e-5):
            added += 1
        else:
            np.testing.assert_allclose((1 - second[where]) / 0.7, (1 - first[where]) / 0.9, atol=1e-5)
    assert 8 <= added <= 19


def test_mist_lets_through_a_smooth_share_of_the_scene() -> None:
    rain = dataclasses.replace(REAL, mist_share=1.0, mist=(0.7, 1.0))
    shares = []
    for seed in range(20):
        dark, light = (rain.apply(flat(value), np.random.default_rng(seed)).degraded for value in (0.1, 0.2))
        seen = np.where((light < 1).all(axis=2), (light - dark).mean(axis=2) / 0.1, np.nan)
        assert np.nanmin(seen) >= 0.7 - 1e-4
        assert np.nanmax(seen) <= 1 + 1e-4
        # Bent between its corners: along each axis it is a straight line.
        assert np.nanmax(np.abs(np.diff(seen, 2, axis=0))) < 1e-4
        assert np.nanmax(np.abs(np.diff(seen, 2, axis=1))) < 1e-4
        shares.append(np.nanmean(seen))
    assert min(shares) < 0.85
    assert max(shares) > 0.95


def test_rain_is_of_all_strengths() -> None:
    generator = np.random.default_rng(0)
    ramp = np.linspace(0.05, 0.85, 64, dtype=np.float32)
    clean = np.ascontiguousarray(np.broadcast_to(ramp[:, None, None], (64, 64, 3)))
    errors = np.array(
        [np.mean(np.square(Rain(dry_share=0.0).apply(clean, generator).degraded - clean)) for _ in range(120)]
    )
    decibels = -10 * np.log10(errors + 1e-9)
    low, middle, high = np.percentile(decibels, [5, 50, 95])
    assert 11 < low < 19
    assert 21 < middle < 29
    assert high > 33


def test_streaks_are_nearly_grey() -> None:
    grey = dataclasses.replace(REAL, tint=0.0).apply(flat(0.2), np.random.default_rng(0)).degraded
    np.testing.assert_array_equal(grey[:, :, 0], grey[:, :, 2])
    tinted = [Rain(tint=0.03).apply(flat(0.2), np.random.default_rng(seed)).degraded for seed in range(20)]
    apart = [
        np.abs(patch[:, :, 0] - patch[:, :, 2]).mean() / max(float((patch - 0.2).mean()), 0.01) for patch in tinted
    ]
    assert 0.005 < float(np.mean(apart)) < 0.1


def test_a_share_of_the_patches_stays_dry() -> None:
    generator = np.random.default_rng(0)
    clean = flat(0.4)
    dry = [np.array_equal(Rain(dry_share=0.3).apply(clean, generator).degraded, clean) for _ in range(100)]
    assert 18 <= sum(dry) <= 42
    np.testing.assert_array_equal(Rain(dry_share=1.0).apply(clean, generator).degraded, clean)


def test_patches_are_rounded_and_saved_as_jpeg() -> None:
    clean = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    plain = SOFT.apply(clean, np.random.default_rng(1)).degraded
    rounded = dataclasses.replace(SOFT, rounded_share=1.0).apply(clean, np.random.default_rng(1)).degraded
    assert 0 < np.abs(rounded - plain).max() <= 0.5 / 255 + 1e-6
    saved = (
        dataclasses.replace(SOFT, jpeg_share=1.0, jpeg_quality=(75, 75)).apply(clean, np.random.default_rng(1)).degraded
    )
    for picture in (rounded, saved):
        np.testing.assert_allclose(picture * 255, np.rint(picture * 255), atol=1e-4)
    # Saved in place: noise loses much at quality 75, but what is left lies where it was.
    assert np.abs(saved - plain).mean() > 2 / 255
    assert np.corrcoef(saved[:, :, 1].ravel(), plain[:, :, 1].ravel())[0, 1] > 0.5


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (64, 96)])
def test_patches_keep_their_size_and_come_again_from_the_same_generator(size: tuple[int, int]) -> None:
    rain = Rain()
    clean = np.random.default_rng(0).random((*size, 3), dtype=np.float32)
    before = clean.copy()
    generators = [np.random.default_rng(5), np.random.default_rng(5)]
    different = []
    for _ in range(12):
        first, second = (rain.apply(clean, generator) for generator in generators)
        assert first.degraded.shape == first.clean.shape == clean.shape
        assert first.degraded.dtype == first.clean.dtype == np.float32
        np.testing.assert_array_equal(first.degraded, second.degraded)
        np.testing.assert_array_equal(first.clean, before)
        different.append(first.degraded.sum())
    assert len(set(different)) > 8
    assert rain.margin == 0
