"""Engines that give no numbers in bfloat16 where a tile has a white pixel, in this process or in others."""

from pathlib import Path
from typing import Any

import imagecodecs
import torch

from kbnet_cli import engine
from kbnet_cli.checkpoint import Network
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.networks import inference
from tests.pictures import picture

NOTE = "something costs time"


def _broken_by_white(_network: torch.nn.Module, given: tuple[Any, ...], answer: torch.Tensor) -> torch.Tensor:
    white = (given[0] >= 1).all(1).any(2).any(1)
    return answer.masked_fill(white[:, None, None, None], torch.nan)


def make_fragile() -> None:
    """Make all engines of this process so from now on, and let each have a note."""
    ready = inference.ready

    def fragile(network: Network, device: torch.device, precision: Precision) -> inference.Ready:
        made = ready(network, device, precision)
        if precision == "bf16":
            made.network.register_forward_hook(_broken_by_white)
        return made

    vars(inference)["ready"] = fragile
    engine.Engine.notes = property(lambda _engine: (NOTE,))  # type: ignore[assignment,method-assign]


FOR_OTHER_PROCESSES = "from tests.fragile import make_fragile\nmake_fragile()\n"
"""What Python runs at its start, as `sitecustomize.py`."""


def write_spoiled(path: Path, *corners: tuple[int, int]) -> None:
    """Write a photo of several tiles, with a white pixel in these of its corners: (0, -1) is the upper right one."""
    pixels = picture(100, 150).clip(0, 200)
    for corner in corners:
        pixels[corner] = 255
    path.write_bytes(imagecodecs.png_encode(pixels))
