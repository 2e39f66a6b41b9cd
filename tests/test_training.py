"""The trainer: strict recipes, honest noise, scenes that come out the same, and a loop that can be interrupted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import load
from kbnet_cli.errors import InputError, UsageError
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from kbnet_cli.training.degradations import add_gaussian_noise
from kbnet_cli.training.loop import Budget, Report, learning_rate, train
from kbnet_cli.training.pictures import batch, prepare, shrink
from kbnet_cli.training.recipe import DataRecipe, OptimisationRecipe, Recipe, read_recipe
from kbnet_cli.training.scenes import Palette, scene

BUNDLED = Path(__file__).parent.parent / "weights" / "denoise-small.toml"
TINY = Recipe(
    task="denoise",
    network=KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), lightweight=True),
    data=DataRecipe(shrink=(2,), scenes=2, scene_size=48, scene_share=0.5, held_out_photos=1),
    optimisation=OptimisationRecipe(patch=16, batch=2),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(3):
        coarse = generator.integers(0, 256, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((288, 300), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def test_the_bundled_recipe_reads() -> None:
    recipe = read_recipe(BUNDLED)
    assert recipe.network == KBNetSSizes(
        width=16, encoder_blocks=(1, 1, 2), middle_blocks=2, decoder_blocks=(1, 1, 1), lightweight=True
    )
    assert recipe.noise.sigma == (0.0, 55.0)
    assert recipe.facts.limit == (-0.5, 1.5)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("colour = 1", "unknown key 'colour'"),
        ("[noise]\nstrength = 3", "noise.unknown key 'strength'"),
        ("[noise]\nsigma = 25", "noise.sigma is 25, expected"),
        ("[noise]\nsigma = [1.0, 2.0, 3.0]", "noise.sigma is"),
        ("[optimisation]\nbatch = 1.5", "optimisation.batch is 1.5, expected int"),
        ("[optimisation]\nbatch = true", "optimisation.batch is True, expected int"),
        ("[facts]\ncard = 1", "facts.card is 1"),
        ("data = 3", "data is 3, expected DataRecipe"),
        ("[data", "not a TOML file"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, line: str, complaint: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'task = "denoise"\n{line}\n[network]\nwidth = 8\n')
    with pytest.raises(UsageError, match=r"recipe\.toml") as error:
        read_recipe(recipe)
    assert complaint in error.value.message


def test_a_recipe_must_say_what_and_how(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('task = "denoise"')
    with pytest.raises(UsageError, match="missing key 'network'"):
        read_recipe(recipe)
    recipe.write_text('task = "derain"\n[network]')
    with pytest.raises(UsageError, match="task is 'derain'"):
        read_recipe(recipe)
    with pytest.raises(UsageError, match="cannot be read"):
        read_recipe(tmp_path / "none.toml")


def test_noise_has_the_strengths_asked_for() -> None:
    clean = np.full((400, 3, 32, 32), 0.5, np.float32)
    noise = add_gaussian_noise(clean, np.random.default_rng(0), sigma=(10.0, 50.0)) - clean
    strengths = 255 * noise.std(axis=(1, 2, 3))
    # 3072 samples a patch know their deviation to 1.3 %.
    assert 9 < strengths.min() < 12
    assert 48 < strengths.max() < 53
    assert abs(strengths.mean() - 30) < 2
    assert abs(255 * noise.mean()) < 0.1


def test_noise_is_not_clipped() -> None:
    white = np.ones((1, 3, 64, 64), np.float32)
    noisy = add_gaussian_noise(white, np.random.default_rng(0), sigma=(25.0, 25.0))
    assert 0.45 < (noisy > 1).mean() < 0.55


def test_scenes_come_out_the_same() -> None:
    colours = np.random.default_rng(1).integers(40, 200, (64, 3), dtype=np.uint8)
    first, again, other = (scene(np.random.default_rng(seed), 64, Palette(colours)) for seed in (7, 7, 8))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.min() >= 39, "colours are mixed, never invented"
    assert first.max() <= 200
    assert first.std() > 5


def test_photos_shrink_in_linear_light() -> None:
    stripes = np.zeros((6, 9, 3), np.uint8)
    stripes[:, ::2] = 255
    small = shrink(stripes[:, :8], 2)
    # Half the light of white is 188 in sRGB, not 128.
    assert small.shape == (3, 4, 3)
    assert np.all(small == 188)
    grey = np.arange(256, dtype=np.uint8).repeat(4 * 3).reshape(256, 4, 3).repeat(4, axis=0)
    assert np.array_equal(shrink(grey, 4)[:, 0, 0], np.arange(256))


def test_patches_are_cut_from_what_is_there(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "pictures.npz"
    pictures = prepare(TINY.data, photos, patch=16, seed=0, cache=cache)
    again = prepare(TINY.data, photos, patch=16, seed=0, cache=cache)
    assert (len(pictures.photos), len(pictures.scenes)) == (2, 2)
    for one, other in zip((*pictures.photos, *pictures.scenes), (*again.photos, *again.scenes), strict=True):
        assert np.array_equal(one, other)
    patches = batch(pictures, np.random.default_rng(0), count=5, patch=16, scene_share=0.5)
    assert patches.shape == (5, 3, 16, 16)
    assert patches.dtype == np.float32
    assert 0 <= patches.min() < patches.max() <= 1


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 photos"):
        prepare(TINY.data, tmp_path, patch=16, seed=0)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        prepare(TINY.data, tmp_path, patch=16, seed=0)


def test_the_learning_rate_rises_and_falls() -> None:
    how = OptimisationRecipe(learning_rate=1.0, final_learning_rate=0.1, warm_up=0.1)
    rates = [learning_rate(how, share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])


def test_an_interrupted_training_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    class StopNowError(Exception):
        pass

    def interrupt(report: Report) -> None:
        if report.step == 2:
            raise StopNowError

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    steps = Budget(steps=3)
    last = train(TINY, photos, whole, budget=steps, seed=4)
    with pytest.raises(StopNowError):
        train(TINY, photos, parts, budget=steps, seed=4, checkpoint_minutes=0.0, progress=interrupt)
    resumed = train(TINY, photos, parts, budget=steps, seed=4, resume=True)
    assert (last.step, resumed.step, resumed.share) == (3, 3, 1.0)
    assert last.held_out_psnr == resumed.held_out_psnr
    first, second = load(whole), load(parts)
    for name, tensor in first.network.state_dict().items():
        assert torch.equal(tensor, second.network.state_dict()[name]), name
    assert first.facts == Facts(task="denoise", tile=256, limit=(-0.5, 1.5), sigma=(0.0, 55.0), card=None)
    lines = parts.with_suffix(".csv").read_text().splitlines()
    assert lines[0] == "step,seconds,loss,gradient,held_out_psnr"
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2", "3"]
    assert not list(tmp_path.glob("*.partial"))


def test_training_learns(photos: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, optimisation=replace(TINY.optimisation, batch=4, learning_rate=5e-3))
    reports: list[Report] = []
    train(recipe, photos, tmp_path / "w.safetensors", budget=Budget(steps=60), progress=reports.append)
    # An untrained network gives its input back: 20.2 dB at sigma 25.
    assert reports[-1].held_out_psnr is not None
    assert reports[-1].held_out_psnr > 21.2


def test_resuming_needs_a_state_of_the_same_recipe(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "w.safetensors"
    with pytest.raises(UsageError, match="no such file to resume from"):
        train(TINY, photos, output, budget=Budget(steps=1), resume=True)
    train(TINY, photos, output, budget=Budget(steps=1))
    wider = replace(TINY, network=replace(TINY.network, width=16))
    with pytest.raises(UsageError, match="does not fit the recipe"):
        train(wider, photos, output, budget=Budget(steps=2), resume=True)
