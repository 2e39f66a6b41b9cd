"""What everything is measured on."""

import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import partial

import torch

from benchmarks.gpu import absent, published
from benchmarks.gpu.report import Item, Row, Told
from benchmarks.gpu.scale import Scale
from kbnet_cli.kernels.gpu import launching

QUERY = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "temperature.gpu")


def items(scale: Scale) -> Iterator[Item]:
    """Give the one item."""
    yield Item("facts", partial(facts, scale))


def facts(scale: Scale) -> Iterable[Told]:
    """Tell the machine's facts."""
    import triton

    rows: list[Row] = [
        {"what": "Python", "is": platform.python_version()},
        {"what": "torch", "is": f"{torch.__version__}, CUDA {torch.version.cuda}"},
        {"what": "Triton", "is": triton.__version__},
        {"what": "compared with", "is": published.whose()},
        {"what": "packages missing", "is": ", ".join(absent.missing()) or "none"},
    ]
    notes: tuple[str, ...] = ()
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        rows += [
            {"what": "GPU", "is": found.name},
            {"what": "capability", "is": f"{found.major}.{found.minor}"},
            {"what": "multiprocessors", "is": found.multi_processor_count},
            {"what": "memory, GB", "is": found.total_memory / 1e9},
        ]
        rows += driver()
        reason = launching.reason_against(scale.device)
        if reason is not None:
            notes = (f"**The kernels do not run here: {reason}.**",)
    yield Told(tuple(rows), {}, notes)


def driver() -> list[Row]:
    """Return what the driver's own tool says of the first GPU, if it is there."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    words = [tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader", "-i", "0"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=15)
    except subprocess.TimeoutExpired:
        return []
    values = [value.strip() for value in done.stdout.strip().split(",")]
    if done.returncode != 0 or len(values) != len(QUERY):
        return []
    return [{"what": name, "is": value} for name, value in zip(QUERY, values, strict=True)]
