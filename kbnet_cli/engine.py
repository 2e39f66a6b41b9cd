"""A network on a device: arrays in, arrays out, in the precision asked for."""

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float32

from kbnet_cli import checkpoint as checkpoints
from kbnet_cli.batching import Batcher
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.choosing import Choice, choose
from kbnet_cli.errors import DeviceError, KBNetError, PhotoError
from kbnet_cli.kernels import compiled, running
from kbnet_cli.kernels.devices import first_line, is_full
from kbnet_cli.networks import compiling, inference
from kbnet_cli.replaying import RECORDING, Cuda, Replaying, Residual

__all__ = ["Choice", "Engine", "choose"]


class Engine:
    """Hold a checkpoint's network on a device and answer tiles with residuals."""

    def __init__(self, checkpoint: Checkpoint, choice: Choice) -> None:
        """Bring the network to the device.

        Raises:
            DeviceError: the device's memory is full, or it has stopped working.
        """
        self.choice = choice
        self._replaying: Replaying | None = None
        self._batcher: Batcher | None = None
        on_cuda = choice.device.type == "cuda"
        with RECORDING if on_cuda else contextlib.nullcontext(), _fitting(choice.device, f"for {checkpoint.name}"):
            made = inference.ready(checkpoint.network, choice.device, choice.precision)
            self.network, self.autocast, self._against_triton = made.network, made.autocast, made.against_triton
            self._residual = Residual(self.network, checkpoint.facts.limit, self.autocast)
            if on_cuda:
                self._replaying = Replaying(self._residual, Cuda(choice.device))
                self._batcher = Batcher(self._replaying)
        # What was loaded is not needed any more: its weights would take their memory twice.
        self.checkpoint = replace(checkpoint, network=self.network)
        self.redone = 0
        """Tiles that were done again in float32."""
        self._exact: Residual | None = None
        self._one_by_one = threading.Lock()
        """Tiles in float32 are few, and take gigabytes each in plain torch."""

    @property
    def image_channels(self) -> int:
        """Channels of the tiles it takes: 1 or 3."""
        return self.network.image_channels

    @property
    def size_multiple(self) -> int:
        """What a tile's height and width must be multiples of."""
        return self.network.size_multiple

    @property
    def kernels(self) -> str:
        """What it runs on, in a line."""
        device, precision = self.choice.device, self.choice.precision
        if self._against_triton is not None:
            return f"plain torch on {device}, {precision} ({self._against_triton})"
        return running.running().on(device, precision)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it runs; it may become more while tiles are answered."""
        if self._replaying is None:
            return ()
        against = self._against_triton
        plain = (f"plain torch runs on {self.choice.device}, which costs time: {against}",) if against else ()
        return (*plain, *self._replaying.notes)

    def residual(
        self, tiles: Float32[np.ndarray, "b h w c"], redone: Callable[[int], None] | None = None
    ) -> Float32[np.ndarray, "b h w c"]:
        """Return what the network would add to tiles: network(limit(tiles)) - limit(tiles).

        Tiles are display-encoded, 0 is black and 1 is white; `limit` clips them to the range that the weights were
        trained on (`Facts.limit`). Numbers that are not finite count as 0. A tile whose answer is not finite is done
        again in float32, by the CPU; `redone` is told how many were. For many callers at once: on a GPU their tiles are
        gathered into batches.

        Raises:
            DeviceError: the device's memory is full.
            PhotoError: the network's answer is not finite.
        """
        answers, finite = self._at_once(tiles) if self._batcher is None else self._batcher.answer(tiles)
        again = np.flatnonzero(~finite)
        if again.size:
            answers[again] = self._exactly(tiles[again])
            if redone is not None:
                redone(again.size)
        return answers

    def close(self) -> None:
        """Give back what it holds besides the network. It answers nothing any more."""
        if self._batcher is not None:
            self._batcher.close()

    def _at_once(
        self, tiles: Float32[np.ndarray, "b h w c"]
    ) -> tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, " b"]]:
        device = self.choice.device
        hint = "use a smaller --tile (it changes the picture a little), or --device cpu"
        with _fitting(device, f"with a tile of {tiles.shape[1]}×{tiles.shape[2]}", hint):
            answers, finite = self._residual(torch.from_numpy(np.require(tiles, requirements=["C", "W"])).to(device))
            return answers.cpu().numpy(), finite.cpu().numpy()

    def _exactly(self, tiles: Float32[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        with self._one_by_one:
            exact = None if self.choice.precision == "fp32" else self._in_float32()
            if exact is not None:
                found = [exact(torch.from_numpy(tile[None])) for tile in tiles]
                if all(bool(finite.all()) for _, finite in found):
                    self.redone += len(tiles)
                    return np.concatenate([answer.numpy() for answer, _ in found])
        tried = exact is not None or self.choice.precision == "fp32"
        raise PhotoError(
            "the network's answer is not finite",
            hint="use other weights" if tried else "use --precision fp32, or other weights",
        )

    def _in_float32(self) -> Residual | None:
        """Return the network in float32 on the CPU, loaded again when it is needed first; None if that cannot be."""
        loaded = self.checkpoint
        if self._exact is None and loaded.path is not None:
            with contextlib.suppress(KBNetError):  # the file is gone, say
                again = checkpoints.load(loaded.path)
                if again.sha256 == loaded.sha256:
                    network = compiling.compiled(again.network, compiled.fastest_form("fp32"))
                    self._exact = Residual(network, loaded.facts.limit, autocast=False)
        return self._exact


@contextlib.contextmanager
def _fitting(
    device: torch.device, what: str, hint: str = "close what else uses it, or use --device cpu"
) -> Iterator[None]:
    """Turn a full memory of a device into an error for users, once what was begun there is given back."""
    try:
        yield
        return
    except Exception as error:
        if device.type == "cpu" or not is_full(error):
            raise
        said = first_line(error)
        traceback.clear_frames(error.__traceback__)  # they hold weights and feature maps
    with contextlib.suppress(Exception):  # of a device that does not work any more
        {"cuda": torch.cuda, "xpu": torch.xpu, "mps": torch.mps}[device.type].empty_cache()
    raise DeviceError(f"out of memory on {device} {what}", hint=hint) from RuntimeError(said)
