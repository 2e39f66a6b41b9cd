"""Colour: exact inverses, nothing lost outside 0…1, linear profiles recognised."""

import numpy as np
import pytest
from jaxtyping import Shaped
from PIL import ImageCms

from kbnet_cli.colour import (
    Scale,
    add_display,
    profile_is_linear,
    scale_of,
    srgb_decode,
    srgb_encode,
    to_display,
    transfer_of,
)
from kbnet_cli.photo import Levels, Metadata, Photo


def test_srgb_curve_has_the_standards_values_and_is_its_own_inverse() -> None:
    # IEC 61966-2-1: 18 % grey is written as 0.4614, and the ends stay.
    encoded = srgb_encode(np.array([0.0, 0.18, 1.0], np.float32))
    np.testing.assert_allclose(encoded, [0, 0.461356, 1], atol=1e-6)
    every = (np.arange(65536) / 65535).astype(np.float32)
    # Half a 16-bit step is 7.6e-6.
    assert np.abs(srgb_decode(srgb_encode(every)) - every).max() < 7.6e-6
    beyond = np.linspace(-3, 20, 10001, dtype=np.float32)
    np.testing.assert_allclose(srgb_decode(srgb_encode(beyond)), beyond, rtol=1e-5, atol=1e-6)
    assert (np.diff(srgb_encode(beyond)) > 0).all(), "the curve climbs everywhere"


@pytest.mark.parametrize("transfer", ["display", "linear"])
@pytest.mark.parametrize(
    ("dtype", "white"), [(np.uint8, 255.0), (np.uint16, 1023.0), (np.uint16, 65535.0), (np.float32, 1.0)]
)
def test_a_residual_of_zero_gives_back_every_sample(transfer: str, dtype: type, white: float) -> None:
    top = 4.0 if dtype is np.float32 else white
    samples: Shaped[np.ndarray, "h w c"] = (
        np.linspace(-1.0 if dtype is np.float32 else 0, top, 70000).astype(dtype).reshape(100, 700, 1)
    )
    zero = np.zeros(samples.shape, np.float32)
    again = add_display(samples, zero, whole(white), transfer=transfer)  # type: ignore[arg-type]
    np.testing.assert_array_equal(again, samples)


def test_a_residual_is_added_in_display_values_and_clipped_to_the_type() -> None:
    samples = np.array([[[0], [100], [250]]], np.uint8)
    residual = np.full(samples.shape, 10 / 255, np.float32)
    np.testing.assert_array_equal(
        add_display(samples, residual, whole(255.0), transfer="display").ravel(), [10, 110, 255]
    )
    linear = np.array([[[0.18]]], np.float32)
    step = srgb_encode(np.full_like(linear, 0.2)) - srgb_encode(linear)
    np.testing.assert_allclose(add_display(linear, step, whole(1.0), transfer="linear"), 0.2, rtol=1e-5)


def test_white_of_each_depth_becomes_one() -> None:
    for dtype, white in ((np.uint8, 255.0), (np.uint16, 4095.0), (np.float32, 1.0)):
        assert to_display(np.array([[white]], dtype), whole(white), transfer="display") == 1


def test_the_profile_decides_whether_samples_are_linear() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert not profile_is_linear(srgb)
    assert profile_is_linear(linear_profile(srgb))
    assert not profile_is_linear(b"no profile at all")
    pixels = np.zeros((2, 2, 3), np.float32)
    assert transfer_of(Photo(pixels, "rgb", 32, linear=True)) == "linear"
    assert transfer_of(Photo(pixels, "rgb", 32)) == "display"
    assert transfer_of(Photo(pixels, "rgb", 32, linear=True, metadata=Metadata(icc=srgb))) == "display"
    assert transfer_of(Photo(pixels, "rgb", 32, metadata=Metadata(icc=linear_profile(srgb)))) == "linear"


def test_levels_of_each_channel_become_black_and_white_and_samples_beyond_stay() -> None:
    """White-balanced: channels that give less of a white surface become equal, and decode to their own values."""
    levels = Levels(black=(100.0, 200.0, 300.0), white=(1100.0, 2200.0, 4300.0))
    samples = np.array([[[100, 200, 300], [1100, 2200, 4300], [600, 1200, 2300], [0, 65535, 60000]]], np.uint16)
    scale = scale_of(Photo(samples, "rgb", 16, linear=True, levels=levels), (0, 1, 2))
    display = to_display(samples, scale, transfer="linear")
    np.testing.assert_allclose(display[0, :2], [[0] * 3, [1] * 3], atol=1e-6)
    np.testing.assert_allclose(display[0, 2], srgb_encode(np.full(3, 0.5, np.float32)), rtol=1e-6)
    assert display[0, 3, 0] < 0 < 1 < display[0, 3, 1]
    np.testing.assert_array_equal(
        add_display(samples, np.zeros_like(display), scale, transfer="linear"), samples, "also those beyond the levels"
    )
    step = srgb_encode(np.full(3, 0.6, np.float32)) - srgb_encode(np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(
        add_display(samples, np.broadcast_to(step, display.shape), scale, transfer="linear")[0, 2], [700, 1400, 2700]
    )
    assert scale_of(Photo(samples, "rgb", 16, levels=levels), (1,)).black == [200]


def whole(white: float) -> Scale:
    """Return the scale of a photo without levels, for one channel."""
    return Scale(np.zeros(1, np.float32), np.full(1, white, np.float32), white)


def linear_profile(srgb: bytes) -> bytes:
    """Return the sRGB profile with straight curves: a plain power of 1 in place of its parametric curve."""
    where = srgb.index(b"para", 128)
    # ICC.1:2022, 10.18: 'para', 4 zero bytes, function type 0 (Y = X^g), 2 zero bytes, then g as s15Fixed16.
    return srgb[: where + 8] + b"\0\0\0\0" + (1 << 16).to_bytes(4, "big") + srgb[where + 16 :]
