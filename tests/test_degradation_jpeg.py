"""JPEG as a degradation: whole blocks at any phase, once or twice, or none."""

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32, UInt8
from PIL import Image

from kbnet_cli.training.degradations import jpeg
from kbnet_cli.training.degradations.jpeg import UNIT, Jpeg, saved, to_bytes

ALWAYS = Jpeg(untouched=0.0, double=0.0)


def patch(size: int, *, seed: int = 0, grain: float = 0.03) -> Float32[np.ndarray, "h w 3"]:
    """Make a smooth picture with grain."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size]
    waves = np.stack([np.sin(x / 5), np.sin(y / 7), np.cos((x + y) / 9)], axis=-1)
    return (0.5 + 0.3 * waves + grain * generator.standard_normal((size, size, 3))).astype(np.float32)


def squared_error(degradation: Jpeg, seeds: int, size: int = 48) -> list[float]:
    clean = patch(size + 2 * degradation.margin)
    pairs = [degradation.apply(clean, np.random.default_rng(seed)) for seed in range(seeds)]
    return [float(((pair.degraded - pair.clean) ** 2).mean()) for pair in pairs]


@pytest.mark.parametrize("size", [64, 96, 37])
@pytest.mark.parametrize("double", [0.0, 1.0])
def test_it_returns_what_was_asked_for_without_the_margin(size: int, double: float) -> None:
    degradation = replace(ALWAYS, double=double)
    clean = patch(size + 2 * degradation.margin)
    before = clean.copy()
    pair = degradation.apply(clean, np.random.default_rng(1))
    assert pair.degraded.shape == pair.clean.shape == (size, size, 3)
    assert pair.degraded.dtype == pair.clean.dtype == np.float32
    assert np.array_equal(pair.clean, before[degradation.margin : -degradation.margin, degradation.margin :][:, :size])
    assert np.array_equal(clean, before)
    steps = pair.degraded * 255
    assert np.abs(steps - np.rint(steps)).max() < 1e-4
    assert 0 < np.abs(pair.degraded - pair.clean).mean() < 0.1


def test_an_untouched_patch_is_the_clean_one() -> None:
    pair = Jpeg(untouched=1.0).apply(patch(128), np.random.default_rng(0))
    assert np.array_equal(pair.degraded, pair.clean)


def test_the_generator_decides_everything() -> None:
    clean = patch(128)
    first, again, other = (Jpeg(untouched=0.0).apply(clean, np.random.default_rng(seed)).degraded for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_the_edges_of_the_patch_see_nothing_of_the_edges_of_the_file(subsampling: int) -> None:
    pixels = to_bytes(patch(160, grain=0.1))
    for seed in range(12):
        answer = saved(pixels[32:-32, 32:-32], np.random.default_rng(seed), quality=20, subsampling=subsampling)
        top, left = np.random.default_rng(seed).integers(0, UNIT, 2)
        # The same grid on a picture that goes on for two more units on each side.
        wide = opened(pixels[top:, left:], quality=20, subsampling=subsampling)
        assert np.array_equal(answer, wide[48 - top : 112 - top, 48 - left : 112 - left])


def opened(pixels: UInt8[np.ndarray, "h w 3"], *, quality: int, subsampling: int) -> UInt8[np.ndarray, "h w 3"]:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def test_the_grid_has_any_phase() -> None:
    degradation = replace(ALWAYS, quality=(5, 5), subsampling=(1.0, 0.0, 0.0))
    clean = patch(64 + 2 * degradation.margin, grain=0.0)
    phases: Counter[int] = Counter()
    for seed in range(80):
        degraded = degradation.apply(clean, np.random.default_rng(seed)).degraded
        steps = np.abs(np.diff(degraded, n=3, axis=1)).mean(axis=(0, 2))
        phases[int(np.argmax([steps[phase::8].mean() for phase in range(8)]))] += 1
    assert set(phases) == set(range(8))
    assert max(phases.values()) < 30


def test_the_second_time_is_on_another_grid() -> None:
    # On the same grid at the same quality, a second time would change next to nothing.
    once = replace(ALWAYS, quality=(20, 20), subsampling=(1.0, 0.0, 0.0))
    single, double = squared_error(once, 25), squared_error(replace(once, double=1.0), 25)
    clean = to_bytes(patch(80))
    same = opened(opened(clean, quality=20, subsampling=0), quality=20, subsampling=0)
    assert np.mean((same / 255 - patch(80)) ** 2) < 1.01 * max(single)
    assert np.mean(np.array(double) > 1.03 * max(single)) > 0.8


def test_less_quality_is_more_error() -> None:
    errors = [np.mean(squared_error(replace(ALWAYS, quality=(quality, quality)), 10)) for quality in (10, 30, 60, 90)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 3 * errors[-1]


def test_low_qualities_are_frequent_and_high_ones_not_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, int]] = []

    def spy(pixels: UInt8[np.ndarray, "h w 3"], _generator: np.random.Generator, **how: Any) -> object:
        drawn.append(how)
        return pixels[UNIT:-UNIT, UNIT:-UNIT]

    monkeypatch.setattr(jpeg, "saved", spy)
    generator = np.random.default_rng(0)
    degradation = Jpeg()
    clean = patch(66)
    alike = sum(
        np.array_equal(pair.degraded, pair.clean) for pair in (degradation.apply(clean, generator) for _ in range(800))
    )
    assert alike / 800 == pytest.approx(degradation.untouched, abs=0.03)
    assert len(drawn) / (800 - alike) == pytest.approx(1 + degradation.double, abs=0.05)
    qualities = np.array([how["quality"] for how in drawn])
    assert (qualities.min(), qualities.max()) == degradation.quality
    assert np.mean(qualities <= 40) > 0.4
    assert np.mean(qualities >= 80) > 0.1
    shares = [np.mean([how["subsampling"] == kind for how in drawn]) for kind in range(3)]
    assert shares == pytest.approx(degradation.subsampling, abs=0.06)
