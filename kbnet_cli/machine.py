"""What this computer is and has: its processor, its cores, its memory. Where the system does not tell, None."""

import ctypes
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROCESSOR_FACTS = Path("/proc/cpuinfo")
MEMORY_FACTS = Path("/proc/meminfo")
OWN_FACTS = Path("/proc/self/status")
OWN_PEAK = Path("/proc/self/clear_refs")


def processor() -> str:
    """Return the processor's name as its maker writes it, or the architecture where nothing better is known."""
    name = ""
    if sys.platform == "darwin":
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        name = done.stdout
    elif PROCESSOR_FACTS.is_file():
        lines = PROCESSOR_FACTS.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2] for line in lines if line.startswith("model name")), "")
    return " ".join((name or platform.processor() or platform.machine() or "unknown").split())


def cores() -> int:
    """Return how many cores, or threads of cores, the system lets this process use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Memory:
    """The main memory of this computer."""

    total_bytes: int | None
    free_bytes: int | None
    """What a program can have without anything being swapped out."""


def memory() -> Memory:
    """Return how much memory there is."""
    if sys.platform == "win32":
        return _memory_of_windows()
    if MEMORY_FACTS.is_file():
        return Memory(_kilobytes(MEMORY_FACTS, "MemTotal"), _kilobytes(MEMORY_FACTS, "MemAvailable"))
    return Memory(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None)


class PeakMemory:
    """The most memory this process holds from now on, above what it holds now.

    Linux can forget the peak so far. Elsewhere only a peak above every earlier one shows, so what is found is too
    little where the program held more before; on Windows nothing is known.
    """

    def __init__(self) -> None:
        self._forgets = _forget_peak()
        self._start = _kilobytes(OWN_FACTS, "VmRSS") if self._forgets else peak_of_all_time()

    def bytes_above_start(self) -> int | None:
        """Return the peak so far, or None where the system does not tell."""
        peak = _kilobytes(OWN_FACTS, "VmHWM") if self._forgets else peak_of_all_time()
        return None if peak is None or self._start is None else max(0, peak - self._start)


def _forget_peak() -> bool:
    try:
        # 5 sets the peak back to what is held (proc(5)). Some containers do not offer it.
        OWN_PEAK.write_text("5", encoding="ascii")
        return _kilobytes(OWN_FACTS, "VmHWM") is not None
    except OSError:
        return False


def held_bytes() -> int:
    """Return about what this process holds now; its peak where the system does not tell, 0 where not even that."""
    now = _kilobytes(OWN_FACTS, "VmRSS") if OWN_FACTS.is_file() else None
    return now or peak_of_all_time() or 0


def peak_of_all_time() -> int | None:
    """Return the most bytes this process ever held, or None where the system does not tell."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _kilobytes(facts: Path, key: str) -> int | None:
    """Read a line such as `VmHWM:  1234 kB` of one of Linux's tables; in bytes."""
    for line in facts.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    return None


def _memory_of_windows() -> Memory:
    if sys.platform != "win32":
        return Memory(None, None)

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of Windows."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *((name, ctypes.c_ulonglong) for name in ("total", "free", "a", "b", "c", "d", "e")),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return Memory(None, None)
    return Memory(int(status.total), int(status.free))
