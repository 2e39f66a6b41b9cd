"""What a training holds between two steps, to the file and back; and the weights that come out of it."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.optim import AdamW

from kbnet_cli.catalogue import Facts, facts_to_metadata
from kbnet_cli.errors import UsageError
from kbnet_cli.networks.kbnet_s import KBNetS
from kbnet_cli.training.recipe import Recipe


@dataclass
class TrainingState:
    """The network, its moving average, the optimiser, the random numbers and how far it is. It changes in place."""

    network: KBNetS
    average: KBNetS
    optimiser: AdamW
    generator: np.random.Generator
    step: int = 0
    seconds: float = 0.0


def new_state(recipe: Recipe, seed: int) -> TrainingState:
    """Return a state before the first step; the same seed gives the same one."""
    torch.manual_seed(seed)
    network, average = KBNetS(recipe.network), KBNetS(recipe.network)
    average.load_state_dict(network.state_dict())
    average.requires_grad_(requires_grad=False)
    how = recipe.optimisation
    optimiser = AdamW(
        network.parameters(), lr=how.learning_rate, betas=(0.9, 0.99), weight_decay=how.weight_decay, fused=True
    )
    return TrainingState(network, average, optimiser, np.random.default_rng(seed))


def save_state(state: TrainingState, path: Path) -> None:
    """Write everything that `load_state` needs, whole or not at all."""
    content = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "generator": json.dumps(state.generator.bit_generator.state),
        "step": state.step,
        "seconds": state.seconds,
    }
    _write_whole(path, lambda file: torch.save(content, file))


def load_state(state: TrainingState, path: Path) -> None:
    """Fill a new state with a saved one.

    Raises:
        UsageError: the file is missing or belongs to another recipe.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file to resume from", hint="start without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimiser.load_state_dict(content["optimiser"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise UsageError(
            f"{path}: does not fit the recipe: {str(error).splitlines()[0]}",
            hint="resume with the recipe it was started with, or start without --resume",
        ) from error
    state.generator.bit_generator.state = json.loads(content["generator"])
    state.step, state.seconds = content["step"], content["seconds"]


def save_weights(network: KBNetS, recipe: Recipe, path: Path) -> None:
    """Write a network as safetensors with what it says of itself (`catalogue.Facts`), whole or not at all."""
    tensors: dict[str, Tensor] = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    given = recipe.facts
    facts = Facts("denoise", tile=given.tile, limit=given.limit, sigma=recipe.noise.sigma, card=given.card)
    _write_whole(path, lambda file: file.write(save(tensors, facts_to_metadata(facts))))


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
