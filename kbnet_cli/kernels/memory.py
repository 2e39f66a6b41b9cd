"""Large pieces of memory in large pages: feature maps are read and written across thousands of small ones."""

import math
import mmap

import torch
from torch import Tensor

HUGE_PAGE_BYTES = 2 << 20
MADVISE = getattr(mmap, "MADV_HUGEPAGE", None)
"""What asks for large pages: Linux has it; elsewhere memory comes from torch as ever."""


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a tensor on the CPU whose values are not set, in large pages where the system has them.

    A channel's row and the same row of the next channel lie megabytes apart. With pages of 4 kB each of them costs a
    look into the page table, and the first touch of a new page costs more than filling it.
    """
    count = math.prod(shape)
    need = count * dtype.itemsize
    if MADVISE is None or need < HUGE_PAGE_BYTES:
        return torch.empty(shape, dtype=dtype)
    # One page more, so that the tensor can begin at a large page's start.
    length = -(-need // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES + HUGE_PAGE_BYTES
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(MADVISE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE_BYTES
    return whole[start : start + need].view(dtype).view(shape)
