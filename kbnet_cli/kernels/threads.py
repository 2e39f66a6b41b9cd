"""Parts of a job on as many threads as torch uses, each thread with scratch memory that is used again."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from kbnet_cli.kernels import memory

Part = tuple[int, int]
"""The first and one past the last of the rows, or of whatever else a job is counted in."""

MOST_THREADS = 256
SPARE_SCRATCH: list[Tensor] = []
"""Scratch memory that no thread uses at the moment: as many pieces as threads ever ran at once."""


def parts(length: int, count: int) -> list[Part]:
    """Split 0…length into at most `count` parts of almost equal length, none of them empty."""
    count = min(length, max(1, count))
    edges = [length * part // count for part in range(count + 1)] if count else []
    return list(pairwise(edges))


def share(work: Callable[[Part, int], object], jobs: list[Part], *, scratch_bytes: int = 0) -> None:
    """Do every part, on as many threads as torch uses; the caller's is one of them.

    `work` gets a part and the address of `scratch_bytes` bytes that nobody else uses meanwhile.
    """
    waiting = iter(jobs)

    def work_on() -> None:
        scratch = _borrow(scratch_bytes)
        for part in waiting:  # next() of a list's iterator is atomic: no part is done twice
            work(part, scratch.data_ptr())
        SPARE_SCRATCH.append(scratch)

    others = min(torch.get_num_threads(), len(jobs)) - 1
    running = [_pool().submit(work_on) for _ in range(others)]
    try:
        work_on()
    finally:
        # The caller's tensors must outlive what writes into them: after an interruption nothing begins any more, and
        # what has begun is awaited.
        deque(waiting, maxlen=0)
        wait(running)
    for thread in running:
        thread.result()


def _borrow(scratch_bytes: int) -> Tensor:
    """Take a spare piece of scratch memory, or a new one where it is too small; given back by appending it."""
    try:
        scratch = SPARE_SCRATCH.pop()  # atomic
    except IndexError:
        scratch = torch.empty(0, dtype=torch.uint8)
    return scratch if scratch.numel() >= scratch_bytes else memory.empty(scratch_bytes, dtype=torch.uint8)


@cache
def _pool() -> ThreadPoolExecutor:
    # It makes a thread when one is needed and none is idle, so that those who share work at the same time have theirs.
    return ThreadPoolExecutor(MOST_THREADS, thread_name_prefix="kernels")
