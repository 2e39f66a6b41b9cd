"""The evaluation against a hand computation, and the bundled weights against noise."""

from pathlib import Path

import numpy as np
import pytest
import torch
from jaxtyping import Float32
from PIL import Image

from kbnet_cli.checkpoint import load
from kbnet_cli.errors import InputError
from kbnet_cli.evaluate import evaluate_gaussian, psnr, restore_padded, with_gaussian_noise

WEIGHTS = Path(__file__).parent.parent / "weights" / "denoise-small.safetensors"


def test_a_folder_of_made_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = {
        "b.png": generator.integers(0, 256, (13, 22, 3), dtype=np.uint8),
        "a.tif": generator.integers(100, 110, (16, 8, 3), dtype=np.uint8),
        "grey.bmp": generator.integers(0, 256, (9, 9), dtype=np.uint8),
    }
    for name, picture in pictures.items():
        Image.fromarray(picture).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    seen = []

    def halve_the_contrast(picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
        seen.append(picture.shape)
        return (picture + np.float32(0.5)) / 2

    steps: list[tuple[int, int]] = []
    found = evaluate_gaussian(
        halve_the_contrast, tmp_path, sigma=25.0, progress=lambda done, total: steps.append((done, total))
    )
    assert [picture.name for picture in found.pictures] == ["a.tif", "b.png", "grey.bmp"]
    assert seen == [(16, 8, 3), (16, 24, 3), (16, 16, 1)]
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    by_hand = []
    for name in ("a.tif", "b.png", "grey.bmp"):
        clean = pictures[name].reshape(*pictures[name].shape[:2], -1)
        np.random.seed(0)  # the protocol's words, to check that ours mean the same
        noisy = np.float32(clean / np.float32(255)) + np.random.normal(0, 25 / 255, clean.shape)
        answer = np.round(255 * np.clip((np.float32(noisy) + np.float32(0.5)) / 2, 0, 1))
        by_hand.append(20 * np.log10(255 / np.sqrt(np.mean((answer - clean) ** 2))))
    assert [picture.psnr for picture in found.pictures] == pytest.approx(by_hand, abs=1e-9)
    assert found.psnr == pytest.approx(np.mean(by_hand), abs=1e-9)
    assert found.sigma == 25


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


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no picture"):
        evaluate_gaussian(lambda picture: picture, tmp_path, sigma=25.0)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.png"):
        evaluate_gaussian(lambda picture: picture, tmp_path, sigma=25.0)


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
