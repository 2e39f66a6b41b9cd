"""Local means: what a network does to them is undone, and details stay as it made them."""

import numpy as np
import pytest
from jaxtyping import Shaped

from kbnet_cli.local_means import CELL, keep_means


def scene(height: int, width: int) -> np.ndarray:
    """Return a ramp with fine stripes, 16 bits."""
    y, x = np.mgrid[:height, :width]
    stripes = 2000 * (x % 2)
    return np.stack([10_000 + 50 * x + stripes, 8_000 + 30 * y + stripes, np.full_like(x, 20_000)], axis=2).astype(
        np.uint16
    )


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (16, 16), (95, 64), (97, 131), (300, 50)])
def test_what_was_not_changed_stays_to_the_bit(size: tuple[int, int]) -> None:
    photo = scene(*size)
    after = photo.copy()
    keep_means(photo, after)
    np.testing.assert_array_equal(after, photo)


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_a_shift_that_changes_slowly_is_undone_and_details_stay(kind: type) -> None:
    photo: Shaped[np.ndarray, "h w c"] = scene(300, 131).astype(kind)
    y, x = np.mgrid[:300, :131]
    shift = (400 + 2 * x - y)[..., None] * np.array([1.0, -0.5, 0.0])
    smooth = photo.astype(float)
    smooth[..., 2] += 300 * (-1.0) ** (x + y)  # a fine change of what the network's answer is made of
    after = (smooth + shift).astype(kind)
    keep_means(photo, after)
    left = after.astype(float) - smooth
    assert np.abs(left[CELL:-CELL, CELL:-CELL]).max() < 6
    assert np.abs(left).max() < 60, "at the border the means of half a square go on"


def test_taking_out_noise_keeps_the_mean_of_shadows() -> None:
    generator = np.random.default_rng(3)
    noisy = np.clip(np.rint(5_000 + generator.normal(0, 300, (256, 256, 3))), 0, 65535).astype(np.uint16)
    darker = np.full_like(noisy, 4_900)
    keep_means(noisy, darker)
    assert abs(darker.mean() - noisy.mean()) < 1
    # Some 48 × 48 pixels, weighted: 300 / 38 would be a plain mean's deviation over 38 × 38.
    assert darker.std() < 12


def test_a_hot_pixel_that_is_taken_out_lights_nothing() -> None:
    generator = np.random.default_rng(4)
    photo = np.clip(np.rint(5_000 + generator.normal(0, 100, (128, 128, 1))), 0, 65535).astype(np.uint16)
    photo[64, 64] = 60_000
    after = np.full_like(photo, 5_000)
    keep_means(photo, after)
    assert abs(float(after[64, 64, 0]) - 5_000) < 20, "a plain mean over 48 × 48 pixels would be 24 to 55"


def test_samples_stay_in_their_range_and_damaged_ones_by_themselves() -> None:
    photo = np.full((64, 64, 1), 65_000, np.uint16)
    after = np.full_like(photo, 65_535)
    after[::2] = 63_000
    keep_means(photo, after)
    assert after.max() == 65_535, "and none has wrapped around"
    assert after.min() > 63_000
    damaged = np.ones((64, 64, 1), np.float32)
    damaged[5, 5], damaged[40, 40] = np.nan, np.inf
    darker = damaged * np.float32(0.9)
    keep_means(damaged, darker)
    assert np.isfinite(darker).sum() == 64 * 64 - 2
