"""Memory that several processes see at once, in places for one tile each: pixels are put there, and not sent.

It has no name that could outlive the processes, however they end, except on Windows, where names end with their last
user. Nor does it count against the shared memory of a container, which is often too small for a few tiles.
"""

import mmap
import os
import secrets
import sys
import tempfile
from dataclasses import dataclass
from math import prod

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Where:
    """How another process finds the slots."""

    count: int
    slot_bytes: int
    """A multiple of a page."""
    descriptor: int = -1
    """Of an open file, which the other process has to inherit."""
    tag: str = ""
    """Of Windows."""


class Slots:
    """So many places of one size. Memory is taken when a place is written to first, and given back with all of them."""

    def __init__(self, where: Where) -> None:
        """Open slots that are there already; `create` makes them."""
        self.where = where
        size = where.count * where.slot_bytes
        if sys.platform == "win32":
            self._memory = mmap.mmap(-1, size, tagname=where.tag)
        else:
            self._memory = mmap.mmap(where.descriptor, size)

    @classmethod
    def create(cls, count: int, least_bytes: int) -> "Slots":
        """Make so many slots of at least so many bytes each."""
        slot_bytes = -(-least_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        if sys.platform == "win32":
            return cls(Where(count, slot_bytes, tag=f"kbnet-{secrets.token_hex(8)}"))
        descriptor = _nameless()
        os.ftruncate(descriptor, count * slot_bytes)
        return cls(Where(count, slot_bytes, descriptor))

    def view(self, number: int, shape: tuple[int, int, int]) -> Float32[np.ndarray, "h w c"]:
        """Return a slot as an array of (height, width, channels), to read and to write; it must be large enough."""
        count = prod(shape)
        assert 4 * count <= self.where.slot_bytes, (shape, self.where)
        offset = number * self.where.slot_bytes
        return np.frombuffer(self._memory, np.float32, count, offset).reshape(shape)

    def close(self) -> None:
        """Let no more processes in. The memory goes with the last array that shows a part of it."""
        if self.where.descriptor >= 0:
            os.close(self.where.descriptor)


def _nameless() -> int:
    """Open a new file without a name, in memory where the system and this Python can."""
    if sys.platform == "linux" and hasattr(os, "memfd_create"):
        return os.memfd_create("kbnet")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
