"""A network on a device: arrays in, arrays out, in the precision asked for."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.errors import DeviceError, PhotoError
from kbnet_cli.kernels import compiled
from kbnet_cli.networks import compiling
from kbnet_cli.settings import check_device, check_precision

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class Choice:
    """A device and a precision, settled before the first photo, and why."""

    device: torch.device
    precision: Precision
    reason: str


def choose(device: str, precision: str) -> Choice:
    """Settle what `auto` means on this machine.

    Args:
        device: auto, cpu, cuda, cuda:N, mps or xpu.
        precision: auto, fp32 or bf16. auto takes bf16 where it is much faster: on CUDA devices that compute it
            natively and on CPUs with tiles for it (AMX). Its pictures differ from fp32's by more than 60 dB PSNR.

    Raises:
        DeviceError: the device is not there, or the precision is not to be had on it.
    """
    check_precision(precision)
    check_device(device)
    chosen, reason = _choose_device(device)
    if precision == "auto":
        return Choice(chosen, "bf16" if _bfloat16_pays(chosen) else "fp32", reason)
    return Choice(chosen, "bf16" if precision == "bf16" else "fp32", reason)


def _bfloat16_pays(device: torch.device) -> bool:
    if device.type == "cpu":
        return compiled.bfloat16_pays()
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def _choose_device(device: str) -> tuple[torch.device, str]:
    present = available_devices()
    if device == "auto":
        best = next(name for name in ("cuda", "xpu", "mps", "cpu") if name in present)
        return torch.device(best), "no GPU that torch can use" if best == "cpu" else f"{best} is there"
    name, _, number = device.partition(":")
    if name not in present or (number and int(number) >= _count(name)):
        raise DeviceError(
            f"device {device} is not there: torch {torch.__version__} sees {', '.join(present)}",
            hint="use --device auto, or install a torch built for that device",
        )
    return torch.device(device), "asked for"


def _count(name: str) -> int:
    return torch.cuda.device_count() if name == "cuda" else torch.xpu.device_count() if name == "xpu" else 1


def available_devices() -> tuple[str, ...]:
    """Return the kinds of device that torch can use here, cpu first."""
    kinds = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return ("cpu", *(name for name, there in kinds.items() if there))


class Engine:
    """Hold a checkpoint's network on a device and answer tiles with residuals."""

    def __init__(self, checkpoint: Checkpoint, choice: Choice) -> None:
        self.choice = choice
        form = compiled.fastest_form(choice.precision) if choice.device.type == "cpu" else None
        self.network = compiling.compiled(checkpoint.network, form).to(choice.device)
        # What was loaded is not needed any more: its weights would take their memory twice.
        self.checkpoint = replace(checkpoint, network=self.network)
        # A compiled network has its precision in itself; autocast is for plain torch.
        self.autocast = choice.precision == "bf16" and form is None

    @property
    def image_channels(self) -> int:
        """Channels of the tiles it takes: 1 or 3."""
        return self.network.image_channels

    @property
    def size_multiple(self) -> int:
        """What a tile's height and width must be multiples of."""
        return self.network.size_multiple

    def residual(self, tiles: Float32[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        """Return what the network would add to tiles: network(limit(tiles)) - limit(tiles).

        Tiles are display-encoded, 0 is black and 1 is white; `limit` clips them to the range that the weights were
        trained on (`Facts.limit`). Numbers that are not finite count as 0.

        Raises:
            DeviceError: the device's memory is full.
            PhotoError: the network's answer is not finite.
        """
        low, high = self.checkpoint.facts.limit
        limited = np.clip(np.nan_to_num(tiles, nan=0.0, posinf=high, neginf=low), low, high)
        batch = torch.from_numpy(limited).to(self.choice.device).permute(0, 3, 1, 2).contiguous()
        try:
            with (
                torch.inference_mode(),
                torch.autocast(self.choice.device.type, dtype=torch.bfloat16, enabled=self.autocast),
            ):
                answer = self.network(batch).float() - batch
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"out of memory on {self.choice.device} with a tile of {tiles.shape[1]}×{tiles.shape[2]}",
                hint="use a smaller --tile (it changes the picture a little), or --device cpu",
            ) from error
        if not bool(torch.isfinite(answer).all()):
            raise PhotoError(
                "the network's answer is not finite",
                hint="use other weights"
                if self.choice.precision == "fp32"
                else "use --precision fp32, or other weights",
            )
        result: Float32[np.ndarray, "b h w c"] = answer.permute(0, 2, 3, 1).cpu().numpy()
        return result
