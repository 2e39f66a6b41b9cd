"""What the bundled weights do to pictures: less of what they are for, and nothing else."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float32, UInt8

from kbnet_cli.catalogue import BUNDLED, Entry, find
from kbnet_cli.checkpoint import load
from kbnet_cli.engine import Engine, choose
from kbnet_cli.evaluate.collection import Collection, Sample
from kbnet_cli.evaluate.degradation import compressed, defocused, from_uint8, to_uint8, with_gaussian_noise
from kbnet_cli.evaluate.likeness import psnr
from kbnet_cli.evaluate.restoring import tiled, whole
from kbnet_cli.evaluate.scoring import scores
from kbnet_cli.evaluate.trial import Trial
from kbnet_cli.restore import Restoration
from kbnet_cli.training.pictures import HELD_OUT_PATCH, prepare
from kbnet_cli.training.recipe import DataRecipe

each = pytest.mark.parametrize("entry", BUNDLED, ids=lambda entry: entry.name)


@cache
def engine(name: str) -> Engine:
    entry = find(name)
    assert entry is not None
    assert entry.path is not None
    return Engine(load(entry.path), choose("cpu", "fp32"))


def restored(entry: Entry, picture: UInt8[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 3"]) -> np.ndarray:
    values = from_uint8(picture) if picture.dtype == np.uint8 else picture
    return to_uint8(whole(engine(entry.name))(values))


@pytest.fixture(scope="module")
def scenes() -> tuple[UInt8[np.ndarray, "h w 3"], ...]:
    """Pictures made by code, with edges, textures, text and gradients; other ones than those of the trainings."""
    drawn = prepare(DataRecipe(scenes=5, scene_size=192), None, patch=HELD_OUT_PATCH, margin=0, seed=77)
    return drawn.scenes[:3]


DEGRADED: dict[str, Callable[[UInt8[np.ndarray, "h w 3"]], Float32[np.ndarray, "h w 3"]]] = {
    "denoise-small": lambda clean: with_gaussian_noise(clean, sigma=25.0),
    "deblur-small": lambda clean: defocused(clean, radius=2.0),
    "dejpeg-small": lambda clean: compressed(clean, quality=20),
}


@pytest.mark.parametrize("name", DEGRADED)
def test_what_they_are_for_becomes_less(name: str, scenes: tuple[UInt8[np.ndarray, "h w 3"], ...]) -> None:
    entry = find(name)
    assert entry is not None
    for clean in scenes:
        degraded = DEGRADED[name](clean)
        gain = psnr(restored(entry, degraded), clean) - psnr(to_uint8(degraded), clean)
        assert gain > (3.0 if name == "denoise-small" else 0.3), gain


@each
def test_a_clean_picture_stays_clean(entry: Entry, scenes: tuple[UInt8[np.ndarray, "h w 3"], ...]) -> None:
    found = [psnr(restored(entry, clean), clean) for clean in scenes]
    assert np.mean(found) > 36, found


SHIFTS = {"derain-small": 2.0}
"""How far flat areas may be off, in 1/255, of those that have not learnt them well yet; all others by half a step."""


@each
@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 60, 40), (30, 90, 160)])
def test_flat_areas_keep_their_colour(entry: Entry, colour: tuple[int, int, int]) -> None:
    flat = np.full((128, 128, 3), colour, np.uint8)
    assert np.abs(restored(entry, flat).mean(axis=(0, 1)) - colour).max() <= SHIFTS.get(entry.name, 0.5)
    if entry.task == "denoise":
        noisy = with_gaussian_noise(flat, sigma=25.0)
        answer = whole(engine(entry.name))(noisy)
        # 16384 samples of the noise have a mean of 0 to 0.2: that is no shift of the network's.
        shift = 255 * (answer.mean(axis=(0, 1)) - noisy.mean(axis=(0, 1)))
        assert np.abs(shift).max() < 1.0, shift


@each
def test_black_and_white_pictures_are_restored_and_stay_so(
    entry: Entry, scenes: tuple[UInt8[np.ndarray, "h w 3"], ...]
) -> None:
    if entry.name not in DEGRADED:
        pytest.skip("rain has no degradation of its own in kbnet evaluate")
    grey = scenes[0][..., 1:2]
    degraded = DEGRADED[entry.name](grey)
    answer = whole(engine(entry.name))(degraded)
    assert answer.shape == grey.shape
    assert psnr(to_uint8(answer), grey) > psnr(to_uint8(degraded), grey)


@each
def test_tiles_are_nearly_the_whole_picture(entry: Entry, scenes: tuple[UInt8[np.ndarray, "h w 3"], ...]) -> None:
    clean = np.concatenate([np.concatenate(scenes[:2], axis=1)] * 2)
    given = DEGRADED[entry.name](clean) if entry.name in DEGRADED else from_uint8(clean)
    parts = tiled(engine(entry.name), Restoration(tile=entry.facts.tile, overlap=32))(given)
    assert psnr(to_uint8(parts), to_uint8(whole(engine(entry.name))(given))) > 40


MEASURED = [
    ("denoise-small", "classic/CBSD68", None, Trial("gaussian", 25.0), 8.7),
    ("denoise-small", "pairs_noisy/Nam", "{name}_noise.png={name}_gt.png", Trial("pairs"), 0.8),
    ("derain-small", "pairs_rain/Rain100_rebuilt", "{name}_rain.png={name}_gt.png", Trial("pairs", channel="y"), 2.0),
    ("deblur-small", "classic/Kodak24", None, Trial("defocus", 2.0), 1.0),
    ("dejpeg-small", "classic/Kodak24", None, Trial("jpeg", 20.0), 0.6),
]
"""Weights, pictures, names of pairs, what is done, and the gain in dB that two pictures must have at least."""


@pytest.mark.parametrize(("name", "folder", "match", "trial", "floor"), MEASURED, ids=lambda value: str(value)[:24])
def test_the_figures_of_the_cards(
    testdata: Path, name: str, folder: str, match: str | None, trial: Trial, floor: float
) -> None:
    samples: tuple[Sample, ...] = Collection(testdata / "research" / folder, match=match).samples()
    found = list(scores(whole(engine(name)), samples[:2], trial))
    assert np.mean([score.gain for score in found]) > floor, found
