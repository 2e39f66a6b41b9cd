"""Which kinds of device there are for torch on this machine, and why not the others."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kind:
    """A kind of device."""

    name: str
    """As `--device` takes it."""
    there: bool
    says: str
    """What is there, or why nothing is."""
    built: bool = True
    """Whether this torch could use one at all."""


def kinds() -> tuple[Kind, ...]:
    """Return all kinds, each with what torch itself says of it."""
    return _cpu(), _cuda(), _xpu(), _mps()


def _cpu() -> Kind:
    threads = torch.get_num_threads()
    return Kind("cpu", True, f"{threads} thread{'' if threads == 1 else 's'}")


def _cuda() -> Kind:
    if not torch.backends.cuda.is_built():
        return Kind("cuda", False, _without("CUDA"), built=False)
    reason = _reason(torch.cuda.init)
    if reason is not None or not torch.cuda.is_available():
        return Kind("cuda", False, reason or "no GPU that torch can use")
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    names = [
        f"{one.name}, {one.total_memory / 1e9:.0f} GB, compute capability {one.major}.{one.minor}" for one in found
    ]
    return Kind("cuda", True, _numbered(names))


def _xpu() -> Kind:
    # torch says by the class of the error whether it is built for it: an AssertionError where it is not.
    try:
        torch.xpu.init()
    except AssertionError:
        return Kind("xpu", False, _without("XPU"), built=False)
    except RuntimeError as error:
        return Kind("xpu", False, _first_line(error))
    if not torch.xpu.is_available():
        return Kind("xpu", False, "no GPU that torch can use")
    names = [torch.xpu.get_device_name(number) for number in range(torch.xpu.device_count())]
    return Kind("xpu", True, _numbered(names))


def _mps() -> Kind:
    if sys.platform != "darwin":
        return Kind("mps", False, "only on Macs", built=False)
    if not torch.backends.mps.is_built():
        return Kind("mps", False, _without("MPS"), built=False)
    if not torch.backends.mps.is_available():
        return Kind("mps", False, "this Mac or its system is too old for torch, or has no GPU for it")
    return Kind("mps", True, "this Mac's GPU")


def _without(what: str) -> str:
    return f"torch {torch.__version__} is built without {what}"


def _reason(start: Callable[[], None]) -> str | None:
    """Return why a kind of device does not start, None if it does."""
    try:
        start()
    except (RuntimeError, AssertionError) as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _numbered(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return "; ".join(f"{number}: {name}" for number, name in enumerate(names))
