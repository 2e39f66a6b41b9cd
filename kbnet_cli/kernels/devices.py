"""Which kinds of devices there are for torch on this machine, and why not the others."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

ALL_GPUS = ("cuda", "xpu", "mps")
"""The kinds that are GPUs, the one that `auto` likes best first."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
BUILDS = "pytorch.org/get-started tells the command"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
NVIDIA_SIGNS = (
    Path("/dev/nvidia0"),
    Path("/usr/lib/wsl/lib/libcuda.so.1"),
    Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll"),
)
"""One of these is there where programs can reach an NVIDIA GPU: on Linux, on Linux in Windows, on Windows. The driver's
files in /proc are no sign: containers see them without the GPU."""

FULL = ("out of memory", "ALLOC_FAILED", "STATUS_NOT_INITIALIZED", "unable to find an engine")
"""What errors of a full memory say, cuBLAS's and cuDNN's last: without memory they do not start, or try one way after
the other in vain."""


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
    hint: str = ""
    """What to do where nothing is there."""
    names: tuple[str, ...] = ()
    """Of its devices, by their numbers."""
    hidden: bool = False
    """Whether somebody has hidden its devices by a variable of the environment."""


def kinds() -> tuple[Kind, ...]:
    """Return all kinds, each with what torch itself says of it."""
    return tuple(kind(name) for name in ("cpu", *ALL_GPUS))


def kind(name: str) -> Kind:
    """Return one kind: cpu, cuda, xpu or mps."""
    return {"cpu": _cpu, "cuda": _cuda, "xpu": _xpu, "mps": _mps}[name]()


def _cpu() -> Kind:
    threads = torch.get_num_threads()
    return Kind("cpu", True, f"{threads} thread{'' if threads == 1 else 's'}", names=("this processor",))


def _cuda() -> Kind:
    if not torch.backends.cuda.is_built():
        return Kind("cuda", False, _without("CUDA"), built=False, hint=_other_torch("CUDA"))
    reason = _reason(torch.cuda.init)
    if reason is not None or not torch.cuda.is_available():
        return _no_cuda(reason or "no GPU that torch can use")
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    texts = [
        f"{one.name}, {one.total_memory / 1e9:.0f} GB, compute capability {one.major}.{one.minor}" for one in found
    ]
    return Kind("cuda", True, _numbered(texts), names=tuple(one.name for one in found))


def _no_cuda(reason: str) -> Kind:
    visible = os.environ.get(VISIBLE)
    if "driver" in reason.lower():
        step = "update" if "too old" in reason else "install"
        return Kind("cuda", False, reason, hint=f"{step} NVIDIA's driver, and see what nvidia-smi says")
    if visible is not None:
        says = f"{VISIBLE} is empty" if not visible.strip() else f"{VISIBLE} is {visible!r}"
        return Kind("cuda", False, f"{says}, which leaves no GPU", hint=f"unset {VISIBLE}", hidden=True)
    return Kind("cuda", False, reason, hint="see what nvidia-smi says")


def _xpu() -> Kind:
    # torch says by the class of the error whether it is built for it: an AssertionError where it is not.
    try:
        torch.xpu.init()
    except AssertionError:
        return Kind("xpu", False, _without("XPU"), built=False, hint=_other_torch("XPU"))
    except RuntimeError as error:
        return Kind("xpu", False, first_line(error), hint="install Intel's driver for the GPU")
    if not torch.xpu.is_available():
        return Kind("xpu", False, "no GPU that torch can use", hint="install Intel's driver for the GPU")
    names = [torch.xpu.get_device_name(number) for number in range(torch.xpu.device_count())]
    return Kind("xpu", True, _numbered(names), names=tuple(names))


def _mps() -> Kind:
    if sys.platform != "darwin":
        return Kind("mps", False, "only on Macs", built=False, hint="use --device auto")
    if not torch.backends.mps.is_built():
        return Kind("mps", False, _without("MPS"), built=False, hint="install torch for a Mac with Apple's processor")
    if not torch.backends.mps.is_available():
        says = "this Mac or its system is too old for torch, or has no GPU for it"
        return Kind("mps", False, says, hint="use --device cpu, or update macOS")
    return Kind("mps", True, "this Mac's GPU", names=("this Mac's GPU",))


def idle_nvidia() -> bool:
    """Say whether programs can reach an NVIDIA GPU here, whatever torch is built for; some files tell."""
    return any(sign.exists() for sign in NVIDIA_SIGNS)


def nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver, where Linux tells it."""
    try:
        text = NVIDIA_DRIVER.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)*\b", text)
    return found and found[0]


def fault(device: torch.device) -> str | None:
    """Return why the smallest computation fails on a device, None if it does not."""
    try:
        right = float((torch.ones(2, device=device) + 1).sum()) == 4
    except (RuntimeError, AssertionError) as error:
        return _explained(first_line(error), device)
    return None if right else "it computes something else"


def _explained(reason: str, device: torch.device) -> str:
    """Say what is meant by CUDA's words for a GPU that torch has no machine code for."""
    if "no kernel image" not in reason:
        return reason
    return f"torch {torch.__version__} is not built for {described(device)}"


def is_full(error: BaseException | None) -> bool:
    """Tell whether an error is of a device's full memory, or comes from one.

    Only torch's own memory has an error of its own. Pinned memory, graphs, cuDNN, cuBLAS, Triton and MPS tell in words.
    """
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error) for word in FULL):
            return True
        error = error.__cause__ or error.__context__
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160].rstrip()


def described(device: torch.device) -> str:
    """Name a CUDA device, with its compute capability."""
    found = torch.cuda.get_device_properties(device)
    return f"{found.name} (compute capability {found.major}.{found.minor})"


def capability(device: torch.device) -> tuple[int, int] | None:
    """Return a CUDA device's compute capability; None for any other device, AMD's GPUs included."""
    if device.type != "cuda" or torch.version.hip:
        return None
    found = torch.cuda.get_device_properties(device)
    return found.major, found.minor


def _without(what: str) -> str:
    return f"torch {torch.__version__} is built without {what}"


def _other_torch(what: str) -> str:
    if sys.platform == "darwin":
        return "use --device mps: there is no such torch for Macs"
    return f"install a torch that is built for {what}: {BUILDS}"


def _reason(start: Callable[[], None]) -> str | None:
    """Return why a kind of device does not start, None if it does."""
    try:
        start()
    except (RuntimeError, AssertionError) as error:
        return first_line(error)
    return None


def _numbered(names: list[str]) -> str:
    if len(names) == 1:
        return names[0]
    return "; ".join(f"{number}: {name}" for number, name in enumerate(names))
