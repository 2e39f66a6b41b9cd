"""Tiles answered side by side: on a CPU each by a few threads, which keeps its cores busier than all on one tile."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from kbnet_cli.batching import MOST as MOST_OF_BATCH
from kbnet_cli.kernels import compiled
from kbnet_cli.tiles import Lanes

CPU = torch.device("cpu")
MOST = 8
"""More lanes than that pay little on a CPU, and each holds a tile's feature maps."""
MOST_ON_GPU = 2 * MOST_OF_BATCH
"""Where lanes only bring tiles and wait: one batch is on the GPU while the next one gathers."""


@contextlib.contextmanager
def lanes(count: int, *, shared: bool, device: torch.device = CPU) -> Iterator[Lanes]:
    """Open so many lanes for the block; `shared` as in `tiles.Lanes`.

    On a CPU each has its share of torch's threads. Where a GPU answers, lanes only wait for it, and the rare tile that
    the CPU does again, one at a time, has all threads.
    """
    before = torch.get_num_threads()
    share = before if device.type == "cuda" else max(1, before // count)
    pool = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(share,))
    wait = False
    try:
        yield Lanes(pool, count, shared)
        wait = True
    except Exception:
        wait = True
        raise
    finally:
        # After an interruption nobody waits for tiles that nobody wants.
        pool.shutdown(wait=wait, cancel_futures=True)
        torch.set_num_threads(before)  # also what new threads begin with


def most_lanes(device: torch.device, precision: str) -> int:
    """Return how many tiles are best answered at once: as many as there are threads, where the compiled form runs.

    Plain torch takes gigabytes a tile and has its own threads. A CUDA device answers tiles in batches.
    """
    if device.type == "cuda":
        return MOST_ON_GPU
    if device.type != "cpu" or compiled.fastest_form(precision) is None:
        return 1
    return min(MOST, torch.get_num_threads())
