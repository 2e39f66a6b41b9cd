"""A few small places of a large file, read by seeking: what a header takes and no more."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from kbnet_cli.errors import InputError

_BLOCK_BYTES = 4096
"""A network drive takes as long for one byte as for this many."""
_MOST_BYTES = 1 << 20
_MOST_READS = 256
_MOST_BOXES = 1000


@dataclass(frozen=True)
class Span:
    """Where the content of a box of the ISO base media file format lies."""

    kind: bytes
    begin: int
    end: int


@runtime_checkable
class Seekable(Protocol):
    """What a file has to offer: one that is opened in binary mode, buffered or not, or bytes in memory."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place."""

    def read(self, size: int = -1, /) -> bytes:
        """Read from there on."""


class Peek:
    """A seekable file of which at most a megabyte is read, in at most some hundred reads, however it is built."""

    def __init__(self, file: Seekable, file_bytes: int) -> None:
        self._file = file
        self._read_bytes = 0
        self._reads = 0
        self.file_bytes = file_bytes
        self._start, self._block = 0, b""
        self._block = self._head = self._fetch(0, _BLOCK_BYTES)

    def read(self, at: int, count: int) -> bytes:
        """Return exactly so many bytes.

        Raises:
            InputError: the file does not have them, or too much was read already.
        """
        found = self.some(at, count)
        if len(found) < count:
            raise InputError(f"the file is cut short: it ends before byte {at + count}")
        return found

    def some(self, at: int, most: int) -> bytes:
        """Return so many bytes, or fewer where the file ends.

        Raises:
            InputError: too much was read already.
        """
        most = min(most, self.file_bytes - at)
        if at < 0 or most <= 0:
            return b""
        if at + most <= len(self._head):
            return self._head[at : at + most]
        begin = at - self._start
        if begin < 0 or begin + most > len(self._block):
            self._block, self._start = self._fetch(at, max(most, _BLOCK_BYTES)), at
            begin = 0
        return self._block[begin : begin + most]

    def number(self, at: int, count: int) -> int:
        """Read a number of so many bytes, the highest first.

        Raises:
            InputError: the file does not have them, or too much was read already.
        """
        return int.from_bytes(self.read(at, count), "big")

    def boxes(self, begin: int, end: int) -> Iterator[Span]:
        """Find the boxes of a part of the file; one that runs past its end is the last.

        Raises:
            InputError: the file is cut short, there are too many of them, or one is shorter than its own head.
        """
        for _ in range(_MOST_BOXES):
            if begin + 8 > end:
                return
            size, head = self.number(begin, 4), 8
            kind = self.read(begin + 4, 4)
            if size == 1:
                size, head = self.number(begin + 8, 8), 16
            elif size == 0:
                size = end - begin
            if size < head:
                raise InputError(f"got a box {kind!r} of {size} bytes, expected at least {head}")
            yield Span(kind, begin + head, min(begin + size, end))
            begin += size
        raise InputError(f"got more than {_MOST_BOXES} boxes, which no picture has")

    def _fetch(self, at: int, count: int) -> bytes:
        self._reads += 1
        self._read_bytes += count
        if self._reads > _MOST_READS or self._read_bytes > _MOST_BYTES:
            raise InputError(f"the header is not found within {self._read_bytes} bytes")
        self._file.seek(at)
        parts = b""
        while len(parts) < count:  # an unbuffered file gives what it has
            more = self._file.read(count - len(parts))
            if not more:
                break
            parts += more
        return parts
