"""The evaluation against a hand computation, and the bundled weights against noise."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from kbnet_cli.checkpoint import load
from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.engine import Engine, choose
from kbnet_cli.errors import InputError
from kbnet_cli.evaluate.collection import Collection
from kbnet_cli.evaluate.degradation import compressed, defocused, from_uint8, to_uint8, with_gaussian_noise
from kbnet_cli.evaluate.likeness import STRIP, luma, psnr, ssim
from kbnet_cli.evaluate.restoring import restore_padded, tiled, whole
from kbnet_cli.evaluate.score import Evaluation, Likeness, Score
from kbnet_cli.evaluate.scoring import scores
from kbnet_cli.evaluate.trial import Trial
from kbnet_cli.restore import Restoration
from tests.networks import TINY_GREY, random_network, save
from tests.pictures import picture

WEIGHTS = Path(__file__).parent.parent / "weights" / "denoise-small.safetensors"


def test_a_folder_of_made_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = {
        "b.png": generator.integers(0, 256, (13, 22, 3), dtype=np.uint8),
        "a.tif": generator.integers(100, 110, (16, 24, 3), dtype=np.uint8),
        "grey.bmp": generator.integers(0, 256, (11, 11), dtype=np.uint8),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    seen = []

    def halve_the_contrast(picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
        seen.append(picture.shape)
        return (picture + np.float32(0.5)) / 2

    trial = Trial("gaussian", 25.0)
    found = Evaluation(
        trial,
        tuple(scores(lambda given: restore_padded(halve_the_contrast, given), Collection(tmp_path).samples(), trial)),
    )
    assert [score.name for score in found.scores] == ["a.tif", "b.png", "grey.bmp"]
    assert seen == [(16, 24, 3), (16, 24, 3), (16, 16, 1)]
    by_hand, before = [], []
    for name in ("a.tif", "b.png", "grey.bmp"):
        clean = pictures[name].reshape(*pictures[name].shape[:2], -1)
        np.random.seed(0)  # the protocol's words, to check that ours mean the same
        noisy = np.float32(np.float32(clean / np.float32(255)) + np.random.normal(0, 25 / 255, clean.shape))
        answer = np.round(255 * np.clip((noisy + np.float32(0.5)) / 2, 0, 1)).astype(np.float64)
        by_hand.append(20 * np.log10(255 / np.sqrt(np.mean((answer - clean) ** 2))))
        before.append(
            20 * np.log10(255 / np.sqrt(np.mean((np.rint(255 * np.clip(noisy, 0, 1)) - np.float64(clean)) ** 2)))
        )
    assert [score.after.psnr for score in found.scores] == pytest.approx(by_hand, abs=1e-9)
    assert [score.before.psnr for score in found.scores] == pytest.approx(before, abs=1e-9)
    assert found.after.psnr == pytest.approx(np.mean(by_hand), abs=1e-9)
    assert found.before.psnr == pytest.approx(np.mean(before), abs=1e-9)
    gains = np.subtract(by_hand, before)
    assert found.gain == pytest.approx(gains.mean(), abs=1e-9)
    assert found.least_gain == pytest.approx(gains.min(), abs=1e-9)
    assert found.worse == np.sum(gains < -0.1)
    assert found.after.ssim == pytest.approx(np.mean([score.after.ssim for score in found.scores]))


def test_padding_reflects_the_right_and_bottom_edge() -> None:
    picture = np.arange(5 * 6, dtype=np.float32).reshape(5, 6, 1)
    padded = []
    answer = restore_padded(lambda given: padded.append(given) or given, picture)  # type: ignore[func-returns-value]
    assert np.array_equal(answer, picture)
    assert padded[0].shape == (8, 8, 1)
    assert padded[0][0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    assert padded[0][:, 0, 0].tolist() == [0, 6, 12, 18, 24, 18, 12, 6]


def test_equal_pictures_are_infinitely_near() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    assert psnr(picture, picture) == float("inf")
    assert psnr(picture, picture + np.uint8(255)) == 0


@pytest.mark.parametrize("shape", [(11, 11, 3), (12, 40, 1), (STRIP + 10, 20, 3), (2 * STRIP + 27, 33, 3)])
def test_likeness_is_that_of_scikit_image(shape: tuple[int, int, int]) -> None:
    generator = np.random.default_rng(0)
    clean = np.clip(np.cumsum(generator.normal(0, 9, shape), axis=1) + 128, 0, 255).astype(np.uint8)
    noisy = np.clip(clean + generator.normal(0, 20, shape), 0, 255).astype(np.uint8)
    as_wang = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": 2}
    expected = structural_similarity(clean, noisy, data_range=255, **as_wang)
    assert ssim(noisy, clean) == pytest.approx(expected, abs=1e-12)
    assert ssim(clean, clean) == pytest.approx(1, abs=1e-12)
    assert psnr(noisy, clean) == pytest.approx(peak_signal_noise_ratio(clean, noisy), abs=1e-9)


def test_luma_is_that_of_papers() -> None:
    colours = {
        (0, 0, 0): 16,
        (255, 255, 255): 235,
        (255, 0, 0): 81,  # 81.481
        (0, 255, 0): 145,  # 144.553
        (0, 0, 255): 41,  # 40.966
        (128, 128, 128): 126,  # 125.93
        (1, 2, 3): 18,  # 17.56
    }
    found = luma(np.array([list(colours)], dtype=np.uint8))
    assert found[0, :, 0].tolist() == list(colours.values())
    grey = picture()[..., :1]
    assert np.array_equal(luma(grey), grey)


def test_a_gain_is_nought_where_nothing_was_to_be_gained() -> None:
    whole_, less = Likeness(float("inf"), 1.0), Likeness(42.0, 0.99)
    trial = Trial("gaussian", 0.0)
    assert Score(trial, "a", whole_, whole_).gain == 0
    spoilt = Evaluation(trial, (Score(trial, "a", whole_, less), Score(trial, "b", less, less)))
    assert spoilt.worse == 1
    assert '"psnr_in": null, "psnr_out": 42.0, "gain": null' in spoilt.as_json(weights="w", precision="fp32", tile=None)


def test_gaussian_noise_is_not_clipped() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    noisy = with_gaussian_noise(black, sigma=50.0)
    assert noisy.min() < -0.5
    assert noisy.std() * 255 == pytest.approx(50, rel=0.02)
    assert noisy[0, 0] * 255 == pytest.approx([88.2026, 20.0079, 48.9369], abs=1e-3)  # 50 times what seed 0 begins with


def test_jpeg_is_that_of_pillow_with_half_the_colour() -> None:
    clean = picture()
    for quality in (10, 80):
        file = io.BytesIO()
        Image.fromarray(clean).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        assert np.array_equal(to_uint8(compressed(clean, quality=quality)), np.asarray(Image.open(file)))
    grey = compressed(clean[..., :1], quality=10)
    assert grey.shape == (40, 56, 1)
    assert not np.array_equal(to_uint8(grey), clean[..., :1])


def test_defocus_spreads_light_over_a_disk() -> None:
    clean = np.zeros((31, 31, 1), np.uint8)
    clean[15, 15] = 255
    light = srgb_decode(defocused(clean, radius=4.0))[..., 0]
    distance = np.hypot(*(np.mgrid[:31, :31] - 15))
    assert not light[distance > 5].any()
    assert light[distance < 3] == pytest.approx(1 / (np.pi * 4**2), rel=0.04)  # 8 bits
    assert light.sum() == pytest.approx(1, rel=0.04)
    stays = picture()
    assert np.array_equal(to_uint8(defocused(stays, radius=0.0)), stays)
    edge = np.zeros((20, 40, 1), np.uint8)
    edge[:, 20:] = 255
    # Half of the light at the edge, not half of the number.
    middle = defocused(edge, radius=3.0)[10, 19:21].mean()
    assert middle == pytest.approx(float(srgb_encode(np.array([0.5], np.float32))[0]), abs=0.03)


def test_pictures_that_cannot_be_compared_are_named(tmp_path: Path) -> None:
    trial = Trial("gaussian", 25.0)

    def evaluate() -> None:
        list(scores(lambda given: given, Collection(tmp_path).samples(), trial))

    with pytest.raises(InputError, match="holds no picture"):
        evaluate()
    with pytest.raises(InputError, match="nowhere: is no folder"):
        Collection(tmp_path / "nowhere").samples()
    for name, content in {"broken.png": b"nothing", "broken.bmp": b"BM", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{tmp_path / name}: ") as raised:
            evaluate()
        assert raised.value.hint
        (tmp_path / name).unlink()
    Image.fromarray(np.zeros((10, 40), np.uint8)).save(tmp_path / "low.png")
    with pytest.raises(InputError, match=r"low\.png: is 40×10 pixels, expected at least 11×11"):
        evaluate()
    (tmp_path / "low.png").unlink()
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: has 16 bits"):
        evaluate()


def test_grey_and_colour_go_through_weights_of_the_other(random_weights: Path, tmp_path: Path) -> None:
    colour = Engine(load(random_weights), choose("cpu", "fp32"))
    grey = Engine(
        load(save(random_network(TINY_GREY), tmp_path / "grey.safetensors", task="denoise", tile="64")),
        choose("cpu", "fp32"),
    )
    given = from_uint8(picture(40, 56))
    settings = Restoration(tile=64, overlap=8, transfer="display")
    for engine in (colour, grey):
        for pixels in (given, given[..., :1]):
            answer = whole(engine)(pixels)
            assert answer.shape == pixels.shape
            assert not np.allclose(answer, pixels, atol=1e-3)
            # A picture that fits a tile goes whole there, too.
            assert tiled(engine, settings)(pixels) == pytest.approx(answer, abs=1e-5)
    equal = np.repeat(given[..., :1], 3, axis=2)
    assert whole(colour)(given[..., :1]) == pytest.approx(whole(colour)(equal).mean(axis=2, keepdims=True), abs=1e-5)


def test_tiles_are_those_of_photos(random_weights: Path) -> None:
    engine = Engine(load(random_weights), choose("cpu", "fp32"))
    noisy = with_gaussian_noise(picture(70, 90), sigma=50.0)
    assert noisy.min() < 0  # and tiles do not clip it either
    answer = tiled(engine, Restoration(tile=32, overlap=8, transfer="display"))(noisy)
    assert answer.shape == noisy.shape
    assert not np.allclose(answer, whole(engine)(noisy), atol=1e-3)
    still = tiled(engine, Restoration(tile=32, overlap=8, strength=0.0, transfer="display"))(noisy)
    assert np.array_equal(still, noisy)


def scene_of_edges_and_ramps(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] / size
    discs = sum(np.float64((x - 0.2 * i) ** 2 + (y - 0.15 * i) ** 2 < 0.02) for i in range(1, 6))
    channels = [0.3 + 0.4 * x + 0.1 * discs, 0.6 - 0.3 * y + 0.1 * discs, 0.4 + 0.2 * np.sin(9 * x + 5 * y)]
    return np.rint(255 * np.clip(np.stack(channels, axis=-1), 0, 1)).astype(np.uint8)


def test_the_bundled_weights_take_noise_away() -> None:
    checkpoint = load(WEIGHTS)
    assert checkpoint.facts.task == "denoise"
    assert checkpoint.facts.sigma == (0.0, 55.0)
    assert checkpoint.facts.limit == (-0.5, 1.5)
    assert WEIGHTS.stat().st_size < 8e6
    assert (WEIGHTS.parent / str(checkpoint.facts.card)).is_file()
    network = checkpoint.network.eval()
    clean = scene_of_edges_and_ramps(128)
    noisy = with_gaussian_noise(clean, sigma=25.0)
    with torch.no_grad():
        answer = network(torch.from_numpy(noisy).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()

    def decibels(picture: np.ndarray) -> float:
        return float(-10 * np.log10(np.mean((picture - clean / 255) ** 2)))

    assert decibels(answer) > decibels(noisy) + 5
