"""A TIFF stream under construction: bytes that stay where they are, and holes that may be filled."""

import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from kbnet_cli.formats.ifd import Directory, Entry, Layout, pack_directory

Span = tuple[int, int]
"""First byte and the one after the last."""


class Arena:
    """Hold a stream, hand out places in it, and keep all that is not given free where it was.

    What is put in goes into the holes, one after the other, and behind the end once they are full. Places are even, as
    TIFF demands.
    """

    def __init__(self, data: bytes, layout: Layout, free: Iterable[Span] = ()) -> None:
        self.data = bytearray(data)
        self.layout = layout
        self.free = deque(_merge(free))
        for start, end in self.free:
            # Nothing of the picture that was there stays behind in what is not filled.
            self.data[start:end] = bytes(end - start)

    def reserve(self, size: int) -> int:
        """Return the offset of a place of so many bytes."""
        while self.free:
            start, end = self.free[0]
            even = start + start % 2
            if even + size <= end:
                self.free[0] = (even + size, end)
                return even
            if len(self.free) == 1:
                break
            # What is too small now is not tried again: with a hundred thousand tiles that would take hours.
            self.free.popleft()
        start = self._drop_tail()
        start += start % 2
        self.data.extend(bytes(start + size - len(self.data)))
        return start

    def put(self, value: bytes) -> int:
        """Store bytes and return their offset."""
        offset = self.reserve(len(value))
        self.write(offset, value)
        return offset

    def write(self, offset: int, value: bytes) -> None:
        """Overwrite a place."""
        assert offset + len(value) <= len(self.data)
        self.data[offset : offset + len(value)] = value

    def settle(self, entry: Entry) -> Entry:
        """Return the entry with its value stored; one that is stored already stays what it is."""
        if entry.stored is not None:
            return entry
        assert entry.value is not None
        width = self.layout.offset_bytes
        if len(entry.value) <= width:
            return replace(entry, stored=entry.value.ljust(width, b"\0"))
        offset = self.put(entry.value)
        return replace(entry, stored=self.layout.pack_offset(offset), offset=offset)

    def add_directory(self, entries: Iterable[Entry], next_offset: int = 0) -> int:
        """Store a directory with its values behind it, and return its offset."""
        listed = tuple(entries)
        offset = self.reserve(directory_bytes(self.layout, len(listed)))
        self.write(offset, pack_directory(self.layout, tuple(map(self.settle, listed)), next_offset))
        return offset

    def replace_directory(self, old: Directory, entries: Iterable[Entry]) -> None:
        """Put other entries in place of a directory's: where it was if they fit, elsewhere otherwise."""
        settled = tuple(map(self.settle, entries))
        packed = pack_directory(self.layout, settled, old.next_offset)
        room = old.end - old.offset
        if len(packed) <= room:
            self.write(old.offset, packed.ljust(room, b"\0"))
        else:
            self.write(old.link, self.layout.pack_offset(self.put(packed)))

    def to_bytes(self) -> bytes:
        """Return the stream, without a hole at its end."""
        del self.data[self._drop_tail() :]
        return bytes(self.data)

    def _drop_tail(self) -> int:
        """Return where the stream ends if a hole at its end is left out, and take that hole off the list."""
        if self.free and self.free[-1][1] == len(self.data):
            return self.free.pop()[0]
        return len(self.data)


def directory_bytes(layout: Layout, count: int) -> int:
    """Return the size of a directory of so many entries."""
    return layout.count_bytes + count * layout.entry_bytes + layout.offset_bytes


def header(layout: Layout, first: int) -> bytes:
    """Write a TIFF header that leads to a first directory."""
    mark = b"II" if layout.order == "<" else b"MM"
    if layout.big:
        return mark + struct.pack(layout.order + "HHHQ", 43, 8, 0, first)
    return mark + struct.pack(layout.order + "HI", 42, first)


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Join spans that touch."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return merged
