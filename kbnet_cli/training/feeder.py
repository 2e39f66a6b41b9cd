"""The batches of a training, each known by its number: drawn here or by processes of their own, never kept."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from kbnet_cli.training.degradations.pair import Pair
from kbnet_cli.training.pictures import Pictures, cut, flat
from kbnet_cli.training.recipe import Recipe

PROCESSES_AT_MOST = 12
LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)
"""Grey of display-encoded red, green and blue: ITU-R BT.601."""
AHEAD = 4
"""Batches that each process has ready."""


@dataclass(frozen=True)
class Batch:
    """Pairs of patches: (b, c, h, w), display-encoded."""

    degraded: Tensor
    clean: Tensor


class Feeder(Dataset[Batch]):
    """All batches of a training. The same seed and number give the same batch, whoever draws it."""

    def __init__(self, pictures: Pictures, recipe: Recipe, seed: int) -> None:
        self.pictures = pictures
        self.recipe = recipe
        self.seed = seed

    def __getitem__(self, number: int) -> Batch:
        generator = np.random.default_rng([self.seed, number])
        how = self.recipe.optimisation
        return stacked([self._pair(generator, how.patch) for _ in range(how.batch)])

    def _pair(self, generator: np.random.Generator, patch: int) -> Pair:
        degradation = self.recipe.degradations.choose(generator)
        side = patch + 2 * degradation.margin
        data = self.recipe.data
        clean = (
            flat(generator, side)
            if generator.uniform() < data.flat_share
            else cut(self.pictures, generator, side=side, scene_share=data.scene_share)
        )
        if generator.uniform() >= data.grey_share:
            return degradation.apply(clean, generator)
        pair = degradation.apply(np.repeat(clean @ LUMA, 3, axis=2), generator)
        return Pair(*(np.repeat(picture[..., 1:2], 3, axis=2) for picture in (pair.degraded, pair.clean)))

    def held_out(self) -> Batch | None:
        """Return the patches that are not trained on, degraded the same in every training; None without any."""
        generator = np.random.default_rng(0)
        pairs = []
        for picture in self.pictures.held_out:
            degradation = self.recipe.degradations.choose(generator)
            spare = self.recipe.degradations.margin - degradation.margin
            inner = picture[spare : picture.shape[0] - spare, spare : picture.shape[1] - spare]
            pairs.append(degradation.apply(inner.astype(np.float32) / np.float32(255), generator))
        return stacked(pairs) if pairs else None


def stacked(pairs: list[Pair]) -> Batch:
    """Put pairs of patches into tensors."""
    return Batch(_tensor([pair.degraded for pair in pairs]), _tensor([pair.clean for pair in pairs]))


def _tensor(patches: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(patches).transpose(0, 3, 1, 2)))


class _From(Sampler[int]):
    """The numbers of the batches from one on, without end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        number = self.first
        while True:
            yield number
            number += 1


def batches(feeder: Feeder, *, first: int, device: torch.device) -> Iterator[Batch]:
    """Return the batches from one on.

    Where a GPU computes, processes draw them ahead; on the CPU they would only take its cores, and each is drawn when
    it is asked for.
    """
    if device.type == "cpu":
        return (feeder[number] for number in _From(first))
    processes = max(1, min(PROCESSES_AT_MOST, (os.cpu_count() or 2) - 1))
    loader = DataLoader(
        feeder,
        sampler=_From(first),
        batch_size=None,
        num_workers=processes,
        prefetch_factor=AHEAD,
        persistent_workers=True,
    )
    return iter(loader)
