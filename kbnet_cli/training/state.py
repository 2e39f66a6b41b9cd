"""What a training holds between two steps, to the file and back; and the weights that come out of it."""

import io
import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch.optim import AdamW

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import Facts, facts_to_metadata
from kbnet_cli.checkpoint import Network
from kbnet_cli.errors import OutputError, UsageError
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS
from kbnet_cli.shapes import Sizes
from kbnet_cli.training.recipe import Recipe


@dataclass
class TrainingState:
    """The network, its moving average, the optimiser, and how far it is. It changes in place."""

    network: Network
    average: Network
    optimiser: AdamW
    seed: int
    """Batch number n of a seed is always the same, so that with `step` it says which come next."""
    step: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    """Smoothed over steps."""


def new_state(recipe: Recipe, seed: int, *, start: Path | None = None, device: str = "cpu") -> TrainingState:
    """Return a state before the first step; the same seed gives the same one.

    Args:
        recipe: its network, and its optimiser.
        seed: of the network, where it does not start from weights, and of everything else.
        start: weights to begin with.
        device: where the network is to be.

    Raises:
        WeightsError: the weights cannot be read.
        UsageError: they are of another network than the recipe asks for.
    """
    torch.manual_seed(seed)
    begun = checkpoint.load(start).network if start is not None else None
    sizes = recipe.network or (None if begun is None else begun.sizes)
    assert sizes is not None
    if begun is not None and begun.sizes != sizes:
        raise UsageError(
            f"{start}: is a network of {begun.sizes}, the recipe asks for {sizes}",
            hint="leave [network] out of the recipe, or init",
        )
    network, average = _built(sizes), _built(sizes)
    if begun is not None:
        network.load_state_dict(begun.state_dict())
    average.load_state_dict(network.state_dict())
    average.requires_grad_(requires_grad=False)
    network.to(device)
    average.to(device)
    how = recipe.optimisation
    optimiser = AdamW(
        network.parameters(), lr=how.learning_rate, betas=(0.9, 0.99), weight_decay=how.weight_decay, fused=True
    )
    return TrainingState(network, average, optimiser, seed)


def _built(sizes: Sizes) -> Network:
    return KBNetL(sizes) if isinstance(sizes, KBNetLSizes) else KBNetS(sizes)


def save_state(state: TrainingState, path: Path) -> None:
    """Write everything that `load_state` needs, whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is there still.
    """
    content = {
        "network": state.network.state_dict(),
        "average": state.average.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "seed": state.seed,
        "step": state.step,
        "seconds": state.seconds,
        "loss": state.loss,
    }
    # In memory first: what torch says of a full disk is no OSError.
    memory = io.BytesIO()
    torch.save(content, memory)
    _write_whole(path, memory.getbuffer())


def load_state(state: TrainingState, path: Path) -> None:
    """Fill a new state with a saved one, its seed too.

    Raises:
        UsageError: the file is missing, broken, or belongs to another recipe.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file to resume from", hint="start without --resume")
    device = next(state.network.parameters()).device
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        state.network.load_state_dict(content["network"])
        state.average.load_state_dict(content["average"])
        state.optimiser.load_state_dict(content["optimiser"])
        state.seed, state.step = content["seed"], content["step"]
        state.seconds, state.loss = content["seconds"], content["loss"]
    except (RuntimeError, KeyError, ValueError, OSError, EOFError, pickle.UnpicklingError) as error:
        raise UsageError(
            f"{path}: does not fit the recipe: {(str(error).splitlines() or ['broken'])[0]}",
            hint="resume with the recipe it was started with, or start without --resume",
        ) from error


def save_weights(network: Network, recipe: Recipe, path: Path) -> None:
    """Write a network as safetensors with what it says of itself (`catalogue.Facts`), whole or not at all.

    Raises:
        OutputError: it cannot be written; what was there before is there still.
    """
    given = recipe.facts
    kept: torch.dtype = getattr(torch, given.storage)
    tensors = {name: tensor.to("cpu", kept).contiguous() for name, tensor in network.state_dict().items()}
    facts = Facts(recipe.task, tile=given.tile, limit=given.limit, sigma=given.sigma, card=given.card)
    _write_whole(path, save(tensors, facts_to_metadata(facts)))


def _write_whole(path: Path, content: bytes | memoryview) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"{path}: cannot be written: {error.strerror or error}",
            hint="make room, then go on with --resume from the last checkpoint",
        ) from error
