"""How strong the noise of a picture is, seen from the picture alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32
from PIL import Image

from kbnet_cli import noise_level
from kbnet_cli.colour import srgb_decode
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration, noise_of

SETTINGS = Restoration(tile=64, overlap=16)


def scene(size: int = 192, channels: int = 3) -> Float32[np.ndarray, "h w k"]:
    """Return discs on a gradient, some of them striped or grained, in 0.1…0.9."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    drawn = np.stack([y, x, x + y][:channels], axis=-1) / (2 * size)
    for number in range(60):
        colour, centre = generator.uniform(0, 1, channels), generator.uniform(0, size, 2)
        inside = np.hypot(y - centre[0], x - centre[1]) < generator.uniform(5, 40)
        texture = np.zeros((size, size))
        if number % 3 == 1:
            texture = 0.1 * np.sin(x * generator.uniform(0.3, 1.5) + y)
        elif number % 3 == 2:
            texture = 0.05 * np.cumsum(generator.standard_normal((size, size)), axis=1) / 10
        drawn[inside] = (colour + texture[..., None])[inside]
    return (0.1 + 0.8 * np.clip(drawn, 0, 1)).astype(np.float32)


def noisy(clean: Float32[np.ndarray, "h w k"], sigma: float) -> Float32[np.ndarray, "h w k"]:
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return (clean + noise).astype(np.float32)


def photo_of(pixels: Float32[np.ndarray, "h w k"]) -> Photo:
    return Photo(pixels, "grey" if pixels.shape[2] == 1 else "rgb", 32)


def found(pixels: Float32[np.ndarray, "h w k"]) -> float:
    level = noise_of(photo_of(pixels), SETTINGS)
    assert level is not None
    return level


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sigma", [5.0, 15.0, 50.0])
def test_the_level_is_found_within_a_tenth(sigma: float, channels: int) -> None:
    assert found(noisy(scene(channels=channels), sigma)) == pytest.approx(sigma, rel=0.1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_level_is_found_in_photographs(mode: str, testdata: Path) -> None:
    folder = testdata / "research/classic/CBSD68"
    files = sorted(folder.glob("*.png"))[::17]
    if not files:
        pytest.skip(f"the test pictures are not at {folder}")
    for sigma in (5.0, 25.0, 50.0):
        levels = []
        for path in files:
            with Image.open(path) as image:
                clean = np.asarray(image.convert(mode)).reshape(image.height, image.width, -1) / np.float32(255)
            levels.append(found(noisy(clean, sigma)))
        assert np.mean(levels) == pytest.approx(sigma, rel=0.1)


def test_a_grey_picture_stored_as_colour_has_the_noise_of_one_channel() -> None:
    grey = noisy(scene(channels=1), 15.0)
    assert found(np.repeat(grey, 3, axis=2)) == pytest.approx(found(grey), rel=0.01)
    sepia = grey * np.array([1, 0.8, 0.6], np.float32)
    assert found(sepia) == pytest.approx(0.8 * 15, rel=0.1)


def test_8_and_16_bits_and_linear_light_have_the_noise_of_what_is_shown() -> None:
    shown = np.clip(noisy(scene(), 10.0), 0, 1)
    eight = Photo(np.rint(shown * 255).astype(np.uint8), "rgb", 8)
    sixteen = Photo(np.rint(shown * 65535).astype(np.uint16), "rgb", 16)
    linear = replace(photo_of(srgb_decode(shown)), linear=True)
    for photo in (eight, sixteen, linear):
        assert noise_of(photo, SETTINGS) == pytest.approx(10, rel=0.1)
    assert noise_of(linear, replace(SETTINGS, transfer="display")) != pytest.approx(10, rel=0.1)
    ink = Photo(np.concatenate([eight.pixels, np.zeros_like(eight.pixels[..., :1])], axis=2), "cmyk", 8)
    assert noise_of(ink, SETTINGS) == pytest.approx(10, rel=0.1), "an ink that is not used hides nothing"


def test_clipped_and_masked_areas_do_not_count() -> None:
    pixels = np.clip(noisy(scene(), 15.0), 0, 1)
    pixels[:60] = np.clip(noisy(np.ones((60, 192, 3), np.float32), 15.0), 0, 1)
    pixels[60:80] = 0.5
    pixels[80:85] = np.nan
    pixels[85:88] = np.inf
    pixels[88:90] = 1e30
    assert found(pixels) == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_picture_of_one_colour_has_no_noise(value: float) -> None:
    assert found(np.full((60, 70, 3), value, np.float32)) == 0


def test_a_drawing_on_plain_paper_has_no_noise() -> None:
    pixels = np.full((100, 100, 3), 0.8, np.float32)
    pixels[20:40, 20:40] = np.random.default_rng(0).random((20, 20, 3))
    assert found(pixels) == 0


def test_a_smooth_picture_has_hardly_any_noise() -> None:
    y, x = np.mgrid[:100, :100] / np.float32(100)
    assert found(np.stack([y, x, (x + y) / 2], axis=-1).astype(np.float32)) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (6, 500), (9, 9), (19, 19)])
def test_too_small_a_picture_does_not_tell(size: tuple[int, int]) -> None:
    assert noise_of(photo_of(np.full((*size, 3), 0.5, np.float32)), SETTINGS) is None


def test_numbers_far_from_a_picture_do_not_tell() -> None:
    for value in (np.nan, np.inf, 1e30, -40.0):
        assert noise_of(photo_of(np.full((40, 40, 3), value, np.float32)), SETTINGS) is None


def test_a_large_picture_is_looked_at_here_and_there() -> None:
    pixels = np.tile(noisy(scene(), 15.0), (8, 8, 1))
    patches = noise_level.draw(pixels, white=1.0)
    assert patches is not None
    assert len(patches) <= noise_level.PATCHES
    assert noise_level.estimate(patches) == pytest.approx(15, rel=0.1)
    again = noise_level.draw(pixels, white=1.0)
    assert again is not None
    np.testing.assert_array_equal(patches, again)
