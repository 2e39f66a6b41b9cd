"""The pipeline: what changes is the network's residual and nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.colour import add_display, scale_of
from kbnet_cli.engine import Choice, Engine, choose
from kbnet_cli.errors import DeviceError, PhotoError
from kbnet_cli.kernels import compiled
from kbnet_cli.photo import CameraColour, ColourModel, Depth, Levels, Metadata, Photo
from kbnet_cli.restore import Restoration, channel_groups, restore
from tests.networks import TINY_GREY, identity_network, random_network

CPU = Choice(torch.device("cpu"), "fp32", "test")
SETTINGS = Restoration(tile=64, overlap=16)


@pytest.fixture(scope="module")
def identity() -> Engine:
    return Engine(Checkpoint(identity_network(), Facts(limit=(-0.5, 1.5)), "identity"), CPU)


@pytest.fixture(scope="module")
def changing() -> Engine:
    return Engine(Checkpoint(random_network(), Facts(limit=(-0.5, 1.5)), "random"), CPU)


def photo_of(colour: ColourModel, depth: Depth, size: tuple[int, int] = (70, 90)) -> Photo:
    generator = np.random.default_rng(0)
    channels = {"grey": 1, "rgb": 3, "cmyk": 4}[colour]
    if depth == 32:
        # Below black and above white too.
        pixels = (generator.random((*size, channels)) * 3 - 1).astype(np.float32)
        alpha = generator.random(size).astype(np.float32)
    else:
        dtype = np.uint8 if depth == 8 else np.uint16
        pixels = generator.integers(0, 2**depth, (*size, channels)).astype(dtype)
        alpha = generator.integers(0, 2**depth, size).astype(dtype)
    return Photo(pixels, colour, depth, alpha=alpha, metadata=Metadata(exif=b"II*\0", xmp=b"x"), notes=("a note",))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("depth", [8, 10, 12, 16, 32])
@pytest.mark.parametrize("colour", ["grey", "rgb", "cmyk"])
def test_identity_gives_back_every_sample(colour: ColourModel, depth: Depth, linear: bool, identity: Engine) -> None:
    photo = replace(photo_of(colour, depth), linear=linear)
    restored = restore(photo, identity, SETTINGS)
    np.testing.assert_array_equal(restored.pixels, photo.pixels)
    assert replace(restored, pixels=photo.pixels) == photo, "alpha, metadata and notes ride along"


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (3, 5), (64, 64), (131, 67)])
def test_identity_at_any_size(size: tuple[int, int], identity: Engine) -> None:
    photo = photo_of("rgb", 16, size)
    np.testing.assert_array_equal(restore(photo, identity, SETTINGS).pixels, photo.pixels)


def test_strength_0_goes_past_the_network(changing: Engine) -> None:
    photo = photo_of("rgb", 16)
    assert restore(photo, changing, replace(SETTINGS, strength=0.0)) is photo


def test_strength_scales_the_residual(changing: Engine) -> None:
    photo = photo_of("rgb", 32)
    full = restore(photo, changing, SETTINGS).pixels - photo.pixels
    half = restore(photo, changing, replace(SETTINGS, strength=0.5)).pixels - photo.pixels
    assert np.abs(full).max() > 0.1
    np.testing.assert_allclose(half, full / 2, atol=1e-5)


def test_a_photo_of_one_tile_gets_the_networks_own_answer(changing: Engine) -> None:
    photo = photo_of("rgb", 32, (64, 48))
    photo = photo.with_pixels(np.clip(photo.pixels, 0, 1))
    with torch.inference_mode():
        tensor = torch.from_numpy(photo.pixels).permute(2, 0, 1)[None]
        expected = changing.network(tensor)[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(restore(photo, changing, SETTINGS).pixels, expected, atol=1e-5)


def test_noise_below_black_reaches_the_network_and_what_lies_beyond_the_limit_is_kept(changing: Engine) -> None:
    tiles = np.zeros((1, 16, 16, 3), np.float32)
    tiles[0, :, :8] = -0.4
    low = changing.residual(tiles)
    assert np.abs(low - changing.residual(np.maximum(tiles, 0))).max() > 1e-3, "-0.4 is within the limit"
    tiles[0, 0, 0] = 9.0
    limited = np.minimum(tiles, 1.5)
    np.testing.assert_array_equal(changing.residual(tiles), changing.residual(limited))
    photo = Photo(tiles[0], "rgb", 32)
    restored = restore(photo, changing, SETTINGS).pixels
    np.testing.assert_allclose(restored[0, 0], 9 + changing.residual(limited)[0, 0, 0], atol=1e-5)


def test_numbers_that_are_none_stay_where_they_are(changing: Engine) -> None:
    photo = photo_of("rgb", 32)
    pixels = photo.pixels.copy()
    pixels[3, 4] = np.nan
    pixels[5, 6] = np.inf
    restored = restore(photo.with_pixels(pixels), changing, SETTINGS).pixels
    assert np.isnan(restored[3, 4]).all()
    assert np.isinf(restored[5, 6]).all()
    assert np.isfinite(np.delete(restored.reshape(-1, 3), [3 * 90 + 4, 5 * 90 + 6], axis=0)).all()


def test_a_grey_photo_stays_grey_and_equals_its_rgb_twin(changing: Engine) -> None:
    grey = photo_of("grey", 32)
    rgb = replace(grey, pixels=np.repeat(grey.pixels, 3, axis=2), colour="rgb")
    expected = restore(rgb, changing, SETTINGS).pixels.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(restore(grey, changing, SETTINGS).pixels, expected, atol=1e-5)


def test_a_grey_network_takes_each_channel_by_itself() -> None:
    engine = Engine(Checkpoint(random_network(TINY_GREY), Facts(), "grey"), CPU)
    rgb = photo_of("rgb", 32)
    restored = restore(rgb, engine, SETTINGS).pixels
    for channel in range(3):
        alone = replace(rgb, pixels=rgb.pixels[:, :, channel : channel + 1], colour="grey")
        np.testing.assert_allclose(restored[:, :, channel], restore(alone, engine, SETTINGS).pixels[:, :, 0], atol=1e-5)
    assert channel_groups(4, 3) == [(0, 1, 2), (3, 3, 3)]


def test_linear_photos_are_encoded_for_the_network(changing: Engine) -> None:
    photo = photo_of("rgb", 32, (32, 32))
    seen = [restore(photo, changing, replace(SETTINGS, transfer=t)).pixels for t in ("display", "linear")]
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    by_itself = restore(replace(photo, linear=True), changing, SETTINGS).pixels
    np.testing.assert_array_equal(by_itself, seen[1])


def test_progress_runs_over_all_passes(identity: Engine) -> None:
    seen: list[tuple[int, int]] = []
    restore(photo_of("cmyk", 8), identity, SETTINGS, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k + 1, 8) for k in range(8)]


def test_a_network_that_answers_no_numbers_is_an_error() -> None:
    network = random_network()
    network.ending.weight.fill_(torch.inf)
    engine = Engine(Checkpoint(network, Facts(), "broken"), CPU)
    with pytest.raises(PhotoError, match="not finite"):
        restore(photo_of("rgb", 8), engine, SETTINGS)


def test_bf16_is_close_and_fp16_is_refused(random_weights: Path) -> None:
    loaded = checkpoint.load(random_weights)
    tiles = np.random.default_rng(0).random((1, 64, 64, 3)).astype(np.float32)
    exact = Engine(loaded, choose("cpu", "fp32")).residual(tiles)
    rough = Engine(loaded, choose("cpu", "bf16")).residual(tiles)
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()
    with pytest.raises(DeviceError, match="fp16 is refused"):
        choose("cpu", "fp16")


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "no device 'gpu'"), ("cuda:99", "not there"), ("cpu:x", "no device")]
)
def test_a_device_that_is_not_there_is_an_error(device: str, said: str) -> None:
    with pytest.raises(DeviceError, match=said):
        choose(device, "auto")


@pytest.mark.parametrize(("form", "precision"), [("amx", "bf16"), ("avx512_bf16", "fp32"), (None, "fp32")])
def test_auto_is_bf16_on_a_processor_with_tiles_only(
    form: str | None, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "fastest_form", lambda _precision: form)
    assert choose("cpu", "auto").precision == precision


def test_a_full_sensor_stays_full_and_what_is_beyond_white_changes_less_and_less(changing: Engine) -> None:
    """Highlights are rebuilt from samples that are full, so no network may lower them."""
    generator = np.random.default_rng(8)
    pixels = np.clip(generator.normal(20_000, 2_000, (48, 48, 3)), 0, 65535).astype(np.uint16)
    pixels[10:30, 10:30] = 61440
    pixels[0:2, 0:2] = 65535
    levels = Levels(black=(4096.0,) * 3, white=(30_000.0,) * 3)
    camera = CameraColour("", "", black=4096.0, white=61440.0, neutral=(1.0, 1.0, 1.0))
    photo = Photo(pixels, "rgb", 16, linear=True, levels=levels, camera=camera)
    for keeps in (True, False):
        after = restore(photo, changing, replace(SETTINGS, keeps_means=keeps)).pixels
        full = pixels >= 61440
        np.testing.assert_array_equal(after[full], pixels[full])
        assert (after[~full] != pixels[~full]).mean() > 0.9
    scale = scale_of(photo, (0, 1, 2))
    light = 4096 + np.array([[[0.5], [1.0], [1.5], [1.9]]]) * (30_000 - 4096) * np.ones(3)
    changed = add_display(light.astype(np.uint16), np.full((1, 4, 3), 0.01, np.float32), scale, transfer="linear")
    difference = changed.astype(int) - light.astype(np.uint16)
    assert difference[0, 1, 0] > difference[0, 2, 0] > 0 == difference[0, 3, 0]


def test_a_hot_pixel_is_no_highlight(changing: Engine) -> None:
    pixels = np.full((40, 40, 3), 20_000, np.uint16)
    pixels[20, 20, 1] = pixels[5, 5:9, 0] = 61440
    camera = CameraColour("", "", black=4096.0, white=61440.0, neutral=(1.0, 1.0, 1.0))
    levels = Levels(black=(4096.0,) * 3, white=(61_440.0,) * 3)
    photo = Photo(pixels, "rgb", 16, linear=True, levels=levels, camera=camera)
    after = restore(photo, changing, SETTINGS).pixels
    assert after[20, 20, 1] != 61440
    assert (after[5, 5:9, 0] != 61440).all(), "a row of a few is one too"
