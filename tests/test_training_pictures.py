"""What a training is fed: photos made small, patches cut from them, batches known by their number."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet_cli.errors import InputError
from kbnet_cli.training.degradations.gaussian import Gaussian
from kbnet_cli.training.degradations.jpeg import Jpeg
from kbnet_cli.training.degradations.mixture import Mixture
from kbnet_cli.training.feeder import Feeder, batches
from kbnet_cli.training.pictures import Pictures, cut, prepare, shrunk
from kbnet_cli.training.recipe import OptimisationRecipe
from tests import test_training
from tests.test_training import TINY

photos = test_training.photos


@pytest.fixture(scope="module")
def pictures(photos: Path) -> Pictures:
    return prepare(TINY.data, photos, patch=32, margin=0, seed=0)


def test_noise_has_the_strengths_asked_for() -> None:
    generator, clean = np.random.default_rng(0), np.full((32, 32, 3), 0.5, np.float32)
    pairs = [Gaussian(sigma=(10.0, 50.0)).apply(clean, generator) for _ in range(400)]
    strengths = np.array([255 * (pair.degraded - pair.clean).std() for pair in pairs])
    # 3072 samples a patch know their deviation to 1.3 %.
    assert 9 < strengths.min() < 12
    assert 48 < strengths.max() < 53
    assert abs(strengths.mean() - 30) < 2
    assert abs(255 * np.mean([pair.degraded - clean for pair in pairs])) < 0.1


def test_noise_is_not_clipped() -> None:
    white = np.ones((64, 64, 3), np.float32)
    noisy = Gaussian(sigma=(25.0, 25.0)).apply(white, np.random.default_rng(0)).degraded
    assert 0.45 < (noisy > 1).mean() < 0.55


def test_degradations_are_taken_by_their_shares() -> None:
    mixture = Mixture(gaussian=Gaussian(share=1.0), jpeg=Jpeg(share=3.0))
    generator = np.random.default_rng(0)
    taken = [isinstance(mixture.choose(generator), Jpeg) for _ in range(2000)]
    # Three in four, to four standard deviations.
    assert abs(np.mean(taken) - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 2000)
    assert mixture.margin == Jpeg().margin > Gaussian().margin == 0


def test_photos_shrink_in_linear_light() -> None:
    stripes = np.zeros((6, 9, 3), np.uint8)
    stripes[:, ::2] = 255
    [small] = shrunk(stripes[:, :8], [2])
    # Half the light of white is 188 in sRGB, not 128.
    assert small.shape == (3, 4, 3)
    assert np.all(small == 188)
    grey = np.arange(256, dtype=np.uint8).repeat(4 * 3).reshape(256, 4, 3).repeat(4, axis=0)
    [same, half] = shrunk(grey, [4, 2])
    assert np.array_equal(same[:, 0, 0], np.arange(256))
    assert half.shape == (512, 2, 3)


def test_pictures_come_from_the_cache_as_they_were(photos: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    cache = tmp_path / "pictures.npz"
    first = prepare(TINY.data, photos, patch=32, margin=0, seed=0, cache=cache, progress=lambda *one: told.append(one))
    again = prepare(TINY.data, photos, patch=32, margin=0, seed=0, cache=cache)
    assert (len(first.photos), len(first.scenes)) == (2, 2)
    for one, other in zip((*first.photos, *first.scenes), (*again.photos, *again.scenes), strict=True):
        assert np.array_equal(one, other)
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)


def test_patches_are_cut_from_what_is_there(pictures: Pictures) -> None:
    generator = np.random.default_rng(0)
    patches = np.stack([cut(pictures, generator, side=16, scene_share=0.5) for _ in range(20)])
    assert patches.shape == (20, 16, 16, 3)
    assert patches.dtype == np.float32
    assert 0 <= patches.min() < patches.max() <= 1
    assert len(np.unique(patches.mean(axis=(1, 2, 3)))) == 20


def test_small_photos_are_left_out_and_broken_ones_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 photos that are large enough"):
        prepare(TINY.data, photos, patch=512, margin=0, seed=0)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        prepare(TINY.data, tmp_path, patch=32, margin=0, seed=0)


def test_without_photos_there_are_scenes_and_some_are_held_out() -> None:
    data = replace(TINY.data, scenes=5, scene_size=40)
    made = prepare(data, None, patch=32, margin=0, seed=0)
    assert (len(made.photos), len(made.scenes)) == (0, 4)
    assert made.held_out.shape[1:] == (128, 128, 3)


def test_a_batch_is_known_by_its_number(pictures: Pictures) -> None:
    recipe = replace(TINY, degradations=Mixture(gaussian=Gaussian(), jpeg=Jpeg()))
    feeder = Feeder(pictures, recipe, seed=3)
    from_two = batches(feeder, first=2, device=torch.device("cpu"))
    second, third = next(from_two), next(from_two)
    for number, batch in ((2, second), (3, third)):
        again = Feeder(pictures, recipe, seed=3)[number]
        assert torch.equal(batch.degraded, again.degraded)
        assert torch.equal(batch.clean, again.clean)
    assert second.degraded.shape == second.clean.shape == (2, 3, 16, 16)
    assert not torch.equal(second.clean, third.clean)
    assert not torch.equal(second.clean, Feeder(pictures, recipe, seed=4)[2].clean)


def test_processes_of_their_own_draw_the_same_batches(pictures: Pictures) -> None:
    feeder = Feeder(pictures, TINY, seed=3)
    # Where a GPU computes: the batches come from other processes, in order.
    ahead = batches(feeder, first=1, device=torch.device("cuda"))
    for number in (1, 2, 3):
        assert torch.equal(next(ahead).degraded, feeder[number].degraded)
    del ahead


def test_a_share_of_the_patches_is_grey_and_its_noise_too(pictures: Pictures) -> None:
    recipe = replace(
        TINY, data=replace(TINY.data, grey_share=0.25), optimisation=OptimisationRecipe(patch=16, batch=400)
    )
    batch = Feeder(pictures, recipe, seed=0)[0]
    grey = (batch.degraded == batch.degraded[:, :1]).flatten(1).all(dim=1)
    assert torch.equal(grey, (batch.clean == batch.clean[:, :1]).flatten(1).all(dim=1))
    # One in four, to four standard deviations.
    assert abs(grey.float().mean().item() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    noise = (batch.degraded - batch.clean)[grey]
    assert abs(255 * noise.std().item() - 25) < 1


def test_a_share_of_the_patches_is_flat(pictures: Pictures) -> None:
    recipe = replace(
        TINY, data=replace(TINY.data, flat_share=0.5), optimisation=OptimisationRecipe(patch=16, batch=400)
    )
    clean = Feeder(pictures, recipe, seed=0)[0].clean
    assert 0 <= clean.min() < clean.max() <= 1
    # One colour: no pixel differs. An even way: second differences are nothing.
    uniform = (clean == clean[:, :, :1, :1]).flatten(1).all(dim=1)
    even = (
        clean.diff(n=2, dim=2).abs().flatten(1).amax(dim=1).maximum(clean.diff(n=2, dim=3).abs().flatten(1).amax(dim=1))
        < 1e-5
    )
    # One in four and one in two, to four standard deviations.
    assert abs(uniform.float().mean().item() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)
    assert abs(even.float().mean().item() - 0.5) < 4 * np.sqrt(0.5 * 0.5 / 400)


def test_held_out_patches_are_the_same_in_every_training(photos: Path) -> None:
    recipe = replace(TINY, degradations=Mixture(gaussian=Gaussian(), jpeg=Jpeg()))
    data = replace(TINY.data, shrink=(1,))
    pictures = prepare(data, photos, patch=16, margin=recipe.degradations.margin, seed=0)
    first, second = Feeder(pictures, recipe, seed=1).held_out(), Feeder(pictures, recipe, seed=2).held_out()
    assert first is not None
    assert second is not None
    assert torch.equal(first.degraded, second.degraded)
    assert first.clean.shape == (24, 3, 128, 128), "within the margins"
