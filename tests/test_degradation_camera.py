"""Camera noise: what a sensor adds, and how a camera makes it coarse and coloured."""

from dataclasses import replace

import numpy as np
import pytest
from jaxtyping import Float, Float32

from kbnet_cli.training.degradations.camera import (
    BRIGHTEST,
    MATRICES,
    STEPS,
    Camera,
    blurred,
    coarser,
    demosaic,
    encoded,
    mosaic,
    sensor_noise,
    tone_tables,
)

NOISY = Camera(untouched=0.0, noiseless=0.0, full_size=0.0, jpeg=0.0)
PLAIN = replace(NOISY, reduced=0.0, sharpened=0.0, soft=(0.0, 0.0), rows=(0.0, 0.0), no_pedestal=0.0, tone=(0.0, 0.0))
"""Nothing after the matrix and the curve."""
PHASES = [(0, 0), (0, 1), (1, 0), (1, 1)]


def flat(size: int, level: float) -> Float32[np.ndarray, "h w 3"]:
    return np.full((size, size, 3), level, np.float32)


def scene(size: int) -> Float32[np.ndarray, "h w 3"]:
    y, x = np.mgrid[0:size, 0:size]
    waves = np.stack([np.sin(x / 5), np.sin(y / 7), np.cos((x + y) / 9)], axis=-1)
    return (0.5 + 0.4 * waves).astype(np.float32)


def noises(camera: Camera, level: float, count: int = 8, size: int = 96) -> Float32[np.ndarray, "n h w 3"]:
    clean = flat(size, level)
    return np.stack([camera.noise(clean, np.random.default_rng(seed)) for seed in range(count)])


def luma(noise: Float32[np.ndarray, "n h w 3"]) -> Float[np.ndarray, "n h w"]:
    return noise @ np.array([0.299, 0.587, 0.114])


def correlation(noise: Float[np.ndarray, "n h w"], lag: int) -> float:
    """Correlate with what is `lag` pixels to the right."""
    return float((noise[..., lag:] * noise[..., :-lag]).mean() / (noise**2).mean())


@pytest.mark.parametrize("size", [64, 96, 37])
@pytest.mark.parametrize("jpeg", [0.0, 1.0])
def test_it_returns_what_was_asked_for_and_a_clean_patch_without_noise(size: int, jpeg: float) -> None:
    camera = replace(NOISY, jpeg=jpeg, shot=(1e-2, 1e-2))
    clean = scene(size + 2 * camera.margin)
    before = clean.copy()
    pair = camera.apply(clean, np.random.default_rng(0))
    assert pair.degraded.shape == pair.clean.shape == (size, size, 3)
    assert pair.degraded.dtype == pair.clean.dtype == np.float32
    assert np.array_equal(clean, before)
    assert np.array_equal(pair.clean, before[camera.margin : -camera.margin, camera.margin :][:, :size])
    steps = pair.degraded * 255
    assert np.abs(steps - np.rint(steps)).max() < 1e-4
    assert steps.min() >= 0
    assert steps.max() <= 255
    assert (pair.degraded - pair.clean).std() > 3 / 255


def test_a_clean_photo_stays_clean() -> None:
    clean = scene(104)
    pair = replace(NOISY, untouched=1.0).apply(clean, np.random.default_rng(0))
    assert np.array_equal(pair.degraded, pair.clean)
    pair = replace(NOISY, noiseless=1.0).apply(clean, np.random.default_rng(0))
    assert np.abs(pair.degraded - pair.clean).max() <= 0.51 / 255


def test_a_patch_at_full_size_is_soft_for_the_network_and_its_truth() -> None:
    clean = np.random.default_rng(0).random((104, 104, 3), dtype=np.float32)
    camera = replace(NOISY, full_size=1.0, full_size_blur=(1.0, 1.0), noiseless=1.0)
    pair = camera.apply(clean, np.random.default_rng(0))
    expected = np.moveaxis(blurred(np.moveaxis(clean, -1, 0), 1.0), 0, -1)[20:-20, 20:-20]
    assert pair.clean == pytest.approx(expected, abs=1e-6)
    assert pair.clean.std() < 0.4 * clean.std()
    assert np.abs(pair.degraded - pair.clean).max() <= 0.51 / 255


def test_the_generator_decides_everything() -> None:
    clean, camera = scene(104), replace(Camera(), untouched=0.0, noiseless=0.0)
    first, again, other = (camera.apply(clean, np.random.default_rng(seed)).degraded for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_sensors_variance_is_a_straight_line_over_light() -> None:
    generator = np.random.default_rng(0)
    levels, shot, read = np.array([0.0, 0.1, 0.2, 0.4, 0.6]), 2e-3, 1e-4
    variances = []
    for level in levels:
        signal = np.full((200, 200), level, np.float32)
        noise = sensor_noise(signal, generator, shot=shot, read=read, rows=0.0, pedestal=1.0)
        variances.append(noise.var())
        assert abs(noise.mean()) < 4 * noise.std() / 200
    assert variances == pytest.approx(shot * levels + read, rel=0.04)


def test_the_sensor_clips() -> None:
    generator = np.random.default_rng(0)

    def noise(level: float, pedestal: float) -> Float32[np.ndarray, "h w"]:
        signal = np.full((100, 100), level, np.float32)
        return sensor_noise(signal, generator, shot=1e-3, read=1e-3, rows=0.0, pedestal=pedestal)

    assert noise(2.0, 1.0).any() == np.False_
    assert noise(0.98, 1.0).max() == pytest.approx(0.02, abs=1e-6)
    assert noise(0.0, 0.0).min() == 0
    assert noise(0.0, 0.02).min() == pytest.approx(-0.02)


def test_rows_have_noise_in_common() -> None:
    signal = np.full((300, 100), 0.5, np.float32)
    means = [
        sensor_noise(signal, np.random.default_rng(0), shot=0.0, read=1e-4, rows=rows, pedestal=1.0).mean(axis=1).std()
        for rows in (0.0, 0.5)
    ]
    assert means[0] == pytest.approx(1e-3, rel=0.2)  # 0.01 / √100
    assert means[1] == pytest.approx(np.hypot(1e-3, 5e-3), rel=0.2)


def test_noise_grows_with_the_shot_noise_and_covers_what_photos_have() -> None:
    shots = (1e-4, 1e-3, 5e-3, 2.5e-2)
    deviations = [255 * noises(replace(NOISY, shot=(shot, shot)), 0.4).std() for shot in shots]
    assert deviations == sorted(deviations)
    assert deviations[0] < 2
    assert deviations[-1] > 20


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("gradients", [False, True])
def test_demosaicing_keeps_what_was_seen_and_fills_in_flat_colours_and_ramps(
    phase: tuple[int, int], gradients: bool
) -> None:
    colours = np.broadcast_to(np.array([0.2, 0.5, 0.9], np.float32)[:, None, None], (3, 14, 18))
    assert demosaic(mosaic(colours, phase), phase, gradients=gradients) == pytest.approx(colours, abs=1e-6)
    ramp = np.broadcast_to(np.add.outer(0.02 * np.arange(14), 0.03 * np.arange(18)).astype(np.float32), (3, 14, 18))
    filled = demosaic(mosaic(ramp, phase), phase, gradients=gradients)
    assert filled[:, 2:-2, 2:-2] == pytest.approx(ramp[:, 2:-2, 2:-2], abs=1e-5)
    picture = np.random.default_rng(0).random((3, 14, 18), dtype=np.float32)
    seen = mosaic(picture, phase)
    filled = demosaic(seen, phase, gradients=gradients)
    assert np.count_nonzero(filled == seen) >= 14 * 18
    assert np.array_equal(filled[0, phase[0] :: 2, phase[1] :: 2], picture[0, phase[0] :: 2, phase[1] :: 2])
    assert np.array_equal(filled[2, 1 - phase[0] :: 2, 1 - phase[1] :: 2], seen[1 - phase[0] :: 2, 1 - phase[1] :: 2])


def test_the_gradients_filters_are_the_papers() -> None:
    # What one lit pixel does to its neighbours is the filters' coefficients in eighths, as in the paper's figure 2.
    spot = np.zeros((12, 12), np.float32)
    spot[4, 4] = 8  # red
    red, green, blue = demosaic(spot, (0, 0), gradients=True)
    assert green[4, 2:7] == pytest.approx([-1, 0, 4, 0, -1])
    assert red[4, 2:7] == pytest.approx([0, 4, 8, 4, 0])
    assert red[3:6, 3:6][::2, ::2] == pytest.approx(np.full((2, 2), 2.0))
    assert blue[4, 2:7] == pytest.approx([-1.5, 0, 6, 0, -1.5])
    spot[:] = 0
    spot[4, 5] = 8  # green, in a row of red
    red, green, blue = demosaic(spot, (0, 0), gradients=True)
    assert red[4, 3:8] == pytest.approx([-1, 0, 5, 0, -1])
    assert red[2:7:2, 5] == pytest.approx([0.5, 5, 0.5])
    assert green[4, 3:8] == pytest.approx([0, 2, 8, 2, 0])
    assert blue[2:7:2, 5] == pytest.approx([-1, 5, -1])


@pytest.mark.parametrize("amount", [0.0, 0.5, 1.0])
def test_the_tone_curves_tables_undo_each_other(amount: float) -> None:
    to_light, to_display = tone_tables(amount)
    display = np.linspace(0, 1, STEPS + 1, dtype=np.float32)
    planes = np.broadcast_to(to_light, (3, 1, STEPS + 1)).astype(np.float32)
    assert encoded(planes, to_display)[0, 0] == pytest.approx(display, abs=0.1 / 255)
    assert encoded(-planes, to_display)[0, 0] == pytest.approx(-display, abs=0.1 / 255)
    assert to_display[-1] >= 1
    assert np.isfinite(encoded(np.full((3, 2, 2), 2 * BRIGHTEST, np.float32), to_display)).all()


def test_grey_stays_grey() -> None:
    assert MATRICES.sum(axis=2) == pytest.approx(np.ones((len(MATRICES), 3)))


@pytest.mark.parametrize("level", [0.2, 0.5, 0.7])
def test_noise_moves_neither_brightness_nor_colour(level: float) -> None:
    # Without noise reduction, whose coarse noise would take many more photos to come out even.
    noise = noises(replace(PLAIN, shot=(3e-3, 3e-3), tone=(0.0, 1.0)), level, 16)
    assert noise.std() > 3 / 255
    assert np.abs(noise.mean(axis=(0, 1, 2))).max() < 0.1 / 255


def test_a_mosaic_makes_neighbours_alike() -> None:
    fine = noises(replace(PLAIN, whole=1.0), 0.5)
    bilinear = noises(replace(PLAIN, whole=0.0, gradients=0.0), 0.5)
    gradients = noises(replace(PLAIN, whole=0.0, gradients=1.0), 0.5)
    assert abs(correlation(luma(fine), 1)) < 0.02
    assert correlation(luma(bilinear), 1) > 0.3
    assert 0.05 < correlation(luma(gradients), 1) < correlation(luma(bilinear), 1)
    assert correlation(bilinear[..., 0], 1) > 0.4
    assert abs(correlation(luma(bilinear), 4)) < 0.03


def test_the_matrix_makes_colours_depend_on_each_other() -> None:
    fine = noises(replace(PLAIN, whole=1.0), 0.5)
    red_and_green = np.mean([np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1] for noise in fine])
    assert red_and_green < -0.3
    reduced = noises(replace(PLAIN, reduced=1.0, whole=0.0), 0.5)
    assert np.mean([np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1] for noise in reduced]) > 0


def test_noise_reduction_leaves_coarse_noise_coarser_in_colour() -> None:
    camera = replace(NOISY, reduced=1.0, sharpened=0.0, chroma_coarse=(3.0, 8.0))
    noise = noises(camera, 0.5)
    brightness = luma(noise)
    colour = noise[..., 2] - brightness
    assert colour.std() < 1.2 * brightness.std()
    assert correlation(colour, 4) > 0.3
    assert correlation(colour, 4) > correlation(brightness, 4) + 0.15
    assert correlation(brightness, 1) > 0.3


def test_sharpening_makes_fine_noise_stronger() -> None:
    plain, sharp = (noises(replace(PLAIN, sharpened=sharpened), 0.5) for sharpened in (0.0, 1.0))
    assert luma(sharp).std() > 1.15 * luma(plain).std()
    assert correlation(luma(sharp), 1) < correlation(luma(plain), 1)


def test_overexposed_white_has_no_noise() -> None:
    camera = replace(PLAIN, shot=(5e-3, 5e-3), over=(1.6, 1.6))
    assert noises(camera, 1.0).std() < 0.3 * noises(camera, 0.5).std()


def test_a_blur_keeps_the_mean_and_takes_away_what_is_fine() -> None:
    generator = np.random.default_rng(0)
    planes = generator.standard_normal((2, 80, 60), dtype=np.float32)
    assert blurred(np.ones((1, 20, 30), np.float32), 3.0) == pytest.approx(np.ones((1, 20, 30)), abs=1e-5)
    assert blurred(planes, 2.0).std() == pytest.approx(1 / (2 * 2.0 * np.pi**0.5), rel=0.15)
    assert np.array_equal(blurred(planes, 0.02), planes)
    assert coarser(planes, 1.0, 2.0) == pytest.approx(planes, abs=1e-6)
    assert coarser(planes, 0.0, 2.0) == pytest.approx(blurred(planes, 2.0), abs=1e-6)
