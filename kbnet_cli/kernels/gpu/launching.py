"""Whether Triton's kernels can run on a device."""

import importlib.util
import os
from functools import cache
from pathlib import Path

import torch

from kbnet_cli.kernels import devices

HAS_TRITON = importlib.util.find_spec("triton") is not None
"""It comes with torch's builds for CUDA and ROCm on Linux; builds for the CPU can have it beside them, for tests."""

FEW = 8
"""Kernels that Triton may have compiled before kbnet's: looking whether it works compiles one."""


def available(device: torch.device) -> bool:
    """Say whether the kernels run on a device."""
    return reason_against(device) is None


def reason_against(device: torch.device) -> str | None:
    """Return why the kernels do not run on a device, as a user may read it; None if they do."""
    if device.type != "cuda":
        return f"no kernels for {device.type}"
    if torch.version.hip is not None:
        return "the kernels are cut for NVIDIA's GPUs"  # AMD's have less shared memory than most of them take
    if not HAS_TRITON:
        return "Triton is not installed"
    try:
        return _fault(device.index if device.index is not None else torch.cuda.current_device())
    except Exception as error:  # a full memory, which may not be so another time
        return devices.first_line(error)


def compiles_first(device: torch.device) -> bool:
    """Say whether the kernels are yet to be compiled, which takes a minute or two: Triton has kept next to nothing."""
    if not available(device):
        return False
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~/")  # noqa: PTH111, as Triton: it never fails
    kept = Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))
    try:
        return len(list(kept.iterdir())) < FEW
    except FileNotFoundError:
        return True
    except OSError:  # nobody knows
        return False


@cache
def _fault(index: int) -> str | None:
    """Try the smallest kernel once: Triton needs a C compiler, and a GPU that it knows."""
    try:
        from kbnet_cli.kernels.gpu import arithmetic

        arithmetic.attempt(torch.device("cuda", index))
    except Exception as error:  # whatever Triton, the compiler or the driver says
        if devices.is_full(error):
            raise
        return (str(error).strip().splitlines() or [type(error).__name__])[-1][:160]
    return None
