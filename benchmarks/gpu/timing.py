"""Times on a GPU by its own clock, and the peak of its memory."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

RUNS = 20
"""Medians are of so many, unless that takes longer than MOST_SECONDS."""
FEWEST_RUNS = 5
MOST_SECONDS = 1.5
REPEATED_SECONDS = 1e-3
"""Short work is captured so often in one graph that this comes together: events cost microseconds."""
MOST_REPEATS = 20

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """How long something took."""

    seconds: float
    """The median."""
    spread: float
    """The slowest of all runs to the fastest, less one."""
    graph: bool
    """Whether it was measured as a CUDA graph, so that the launches cost nothing."""


def on_gpu(work: Work, *, graph: bool = True) -> Timing:
    """Measure work on the GPU by events, after it has run for nothing; on the CPU by the clock, once.

    What it reads may lie in the caches of the GPU, as in a network, where it comes from the kernel before.
    """
    if not torch.cuda.is_available():
        started = time.perf_counter()
        work()
        return Timing(time.perf_counter() - started, 0.0, False)
    work()
    once = _median_of(work, 3)
    captured = _captured(work, max(1, min(MOST_REPEATS, int(REPEATED_SECONDS / max(once, 1e-6))))) if graph else None
    if captured is not None:
        replay, repeats = captured
        replay()
        runs = _runs(once * repeats)
        times = [seconds / repeats for seconds in _times(replay, runs)]
    else:
        times = _times(work, _runs(once))
    return Timing(statistics.median(times), max(times) / min(times) - 1, captured is not None)


def _runs(seconds: float) -> int:
    return max(FEWEST_RUNS, min(RUNS, int(MOST_SECONDS / max(seconds, 1e-6))))


def _median_of(work: Work, runs: int) -> float:
    return statistics.median(_times(work, runs))


def _times(work: Work, runs: int) -> list[float]:
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) / 1000 for begin, end in events]


def _captured(work: Work, repeats: int) -> tuple[Work, int] | None:
    """Capture work in a CUDA graph; None where it cannot be: it waits for the GPU somewhere."""
    graph = torch.cuda.CUDAGraph()
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            for _ in range(repeats):
                work()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        torch.cuda.synchronize()  # whatever is wrong with the GPU itself is told here
        return None
    return graph.replay, repeats


def peak_bytes(network: Callable[[Tensor], Tensor], pictures: Callable[[], Tensor]) -> int | None:
    """Return the most memory that a network and its pictures take above what is held before; None without a GPU."""
    if not torch.cuda.is_available():
        network(pictures())
        return None
    network(pictures())  # libraries take what they keep for good: tens of megabytes
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    network(pictures())
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
