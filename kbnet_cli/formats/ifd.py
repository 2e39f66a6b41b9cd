"""TIFF's directories as they are stored: typed entries with raw bytes, so that carrying one over is exact.

TIFF 6.0, section 2, and BigTIFF. Nothing here interprets a value: a rational stays two integers, an undefined block
stays a block. Camera raw files and EXIF blocks are built in the same way and are read by the same functions.
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from kbnet_cli.errors import InputError

Order = Literal["<", ">"]

TYPE_SIZES = {
    1: 1,  # BYTE
    2: 1,  # ASCII
    3: 2,  # SHORT
    4: 4,  # LONG
    5: 8,  # RATIONAL
    6: 1,  # SBYTE
    7: 1,  # UNDEFINED
    8: 2,  # SSHORT
    9: 4,  # SLONG
    10: 8,  # SRATIONAL
    11: 4,  # FLOAT
    12: 8,  # DOUBLE
    13: 4,  # IFD
    16: 8,  # LONG8
    17: 8,  # SLONG8
    18: 8,  # IFD8
    129: 1,  # UTF-8, EXIF 3.0
}
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_MOST_DIRECTORIES = 10_000  # a scanned book has thousands of pages; a chain made to hang a reader has more
_MOST_ENTRIES = 1_000_000
_MOST_OF_TREE = 100
MOST_BROKEN = 16
"""Directories of a file that cannot be read. Each of them may take as long as a whole one."""
_SUB_DIRECTORIES = 330

RAW_MAGICS = (b"IIRO", b"IIRS", b"MMOR", b"IIU\x00")
"""The first four bytes of Olympus and Panasonic raw files, which are TIFF in all but these."""


@dataclass(frozen=True)
class Layout:
    """How a stream writes its numbers."""

    order: Order
    big: bool = False

    @property
    def offset_bytes(self) -> int:
        """Bytes of an offset, which is also what fits into an entry itself."""
        return 8 if self.big else 4

    @property
    def entry_bytes(self) -> int:
        """Bytes of an entry."""
        return 20 if self.big else 12

    @property
    def count_bytes(self) -> int:
        """Bytes of a directory's number of entries."""
        return 8 if self.big else 2

    def pack_offset(self, offset: int) -> bytes:
        """Write an offset."""
        return struct.pack(self.order + ("Q" if self.big else "I"), offset)

    def pack_count(self, count: int) -> bytes:
        """Write the number of a directory's entries."""
        return struct.pack(self.order + ("Q" if self.big else "H"), count)

    def unpack_offset(self, data: bytes, position: int) -> int:
        """Read an offset."""
        return int(struct.unpack_from(self.order + ("Q" if self.big else "I"), data, position)[0])


@dataclass(frozen=True)
class Entry:
    """One tag with its value as raw bytes in the stream's byte order."""

    tag: int
    type: int
    count: int
    value: bytes | None
    """None where the value lies outside of the file or has an unknown type."""
    stored: bytes | None = None
    """The entry's own last four (BigTIFF: eight) bytes: the value, or where it is. None for an entry made anew."""
    offset: int | None = None
    """Where the value lies, if not in the entry itself."""

    def integers(self, order: Order) -> tuple[int, ...]:
        """Read an integer value; empty for any other type."""
        if self.value is None or self.type not in _INTEGERS:
            return ()
        return tuple(struct.unpack(f"{order}{self.count}{_INTEGERS[self.type]}", self.value))


@dataclass(frozen=True)
class Directory:
    """Entries in the order of the file, and where the next directory is."""

    offset: int
    entries: tuple[Entry, ...]
    next_offset: int
    end: int
    """The byte behind it."""
    link: int = 0
    """Where the offset of this directory is written: in the header or at the end of the one before it."""

    @property
    def value_bytes(self) -> int:
        """Bytes of all values that can be read."""
        return sum(len(entry.value or b"") for entry in self.entries)

    def find(self, tag: int) -> Entry | None:
        """Return the first entry with this tag."""
        return next((entry for entry in self.entries if entry.tag == tag), None)

    def integers(self, tag: int, order: Order) -> tuple[int, ...]:
        """Read a tag's integers; empty where it is missing."""
        entry = self.find(tag)
        return entry.integers(order) if entry else ()

    def integer(self, tag: int, order: Order, default: int) -> int:
        """Read a tag's first integer."""
        values = self.integers(tag, order)
        return values[0] if values else default

    def value(self, tag: int) -> bytes | None:
        """Return a tag's raw bytes."""
        entry = self.find(tag)
        return entry.value if entry else None


def read_layout(data: bytes) -> Layout:
    """Read the header's byte order and kind.

    Raises:
        InputError: the data does not begin like TIFF.
    """
    order: Order = "<" if data[:2] == b"II" else ">"
    if len(data) >= 8 and (data[:4] in (b"II*\x00", b"MM\x00*") or data[:4] in RAW_MAGICS):
        return Layout(order)
    if len(data) >= 16 and data[:8] in (b"II+\x00\x08\x00\x00\x00", b"MM\x00+\x00\x08\x00\x00"):
        return Layout(order, big=True)
    raise InputError(f"got {data[:8]!r} where a TIFF header was expected")


def read_directory(data: bytes, layout: Layout, offset: int, link: int = 0) -> Directory:
    """Read the directory at an offset.

    Raises:
        InputError: it does not lie within the file.
    """
    start = offset + layout.count_bytes
    if offset < 8 or start > len(data):
        raise InputError(f"a TIFF directory is said to be at byte {offset}, but the file has {len(data)}")
    (count,) = struct.unpack_from(layout.order + ("Q" if layout.big else "H"), data, offset)
    end = start + count * layout.entry_bytes
    if end > len(data):
        raise InputError(f"a TIFF directory of {count} entries ends at byte {end}, but the file has {len(data)}")
    entries: list[Entry] = []
    claimed = 0
    for position in range(start, end, layout.entry_bytes):
        entry = _read_entry(data, layout, position)
        entries.append(entry)
        claimed += len(entry.value or b"")
        if claimed > 2 * len(data):  # values that lie upon each other, made to fill the memory
            raise InputError(f"a TIFF directory speaks of more bytes than the {len(data)} that the file has")
    # Some EXIF writers leave out the offset of the next directory at the very end of a block.
    if end + layout.offset_bytes > len(data):
        return Directory(offset, tuple(entries), 0, end, link)
    return Directory(offset, tuple(entries), layout.unpack_offset(data, end), end + layout.offset_bytes, link)


def read_chain(data: bytes) -> Iterator[Directory]:
    """Read the directories that the header leads to, one after the other.

    Raises:
        InputError: the data is not TIFF, a directory lies outside of it, or the chain has no end.
    """
    layout = read_layout(data)
    link = 8 if layout.big else 4
    offset = layout.unpack_offset(data, link)
    seen: set[int] = set()
    entries = claimed = 0
    while offset:
        if offset in seen:
            raise InputError(f"the chain of TIFF directories comes back to byte {offset}: it has no end")
        seen.add(offset)
        directory = read_directory(data, layout, offset, link)
        entries += len(directory.entries)
        claimed += directory.value_bytes
        if len(seen) > _MOST_DIRECTORIES or entries > _MOST_ENTRIES or claimed > 2 * len(data):
            raise InputError(f"{len(seen)} TIFF directories with {entries} entries are more than a file has")
        yield directory
        link = offset + layout.count_bytes + len(directory.entries) * layout.entry_bytes
        offset = directory.next_offset


def read_tree(data: bytes, layout: Layout) -> list[Directory]:
    """Read the directories of a camera raw file: the chain, then those below, a hundred at most.

    What cannot be read is left out: a raw file that was cut is still a raw file.
    """
    found: list[Directory] = []
    with suppress(InputError):
        found += islice(read_chain(data), _MOST_OF_TREE)
    claimed = broken = 0
    for page in found:  # which grows as it is gone through
        for offset in page.integers(_SUB_DIRECTORIES, layout.order)[: max(0, _MOST_OF_TREE - len(found))]:
            try:
                directory = read_directory(data, layout, offset)
            except InputError:
                broken += 1
            else:
                found.append(directory)
                claimed += directory.value_bytes
            if claimed > 2 * len(data) or broken > MOST_BROKEN:
                return found
    return found


def pack_directory(layout: Layout, entries: tuple[Entry, ...], next_offset: int) -> bytes:
    """Write a directory whose entries are all stored, sorted by tag as TIFF demands."""
    parts = [layout.pack_count(len(entries))]
    for entry in sorted(entries, key=lambda each: each.tag):
        assert entry.stored is not None
        head = struct.pack(layout.order + ("HHQ" if layout.big else "HHI"), entry.tag, entry.type, entry.count)
        parts += [head, entry.stored]
    return b"".join([*parts, layout.pack_offset(next_offset)])


def _read_entry(data: bytes, layout: Layout, position: int) -> Entry:
    tag, kind = struct.unpack_from(layout.order + "HH", data, position)
    count = layout.unpack_offset(data, position + 4)
    field = position + 4 + layout.offset_bytes
    stored = data[field : field + layout.offset_bytes]
    size = TYPE_SIZES.get(kind, 0) * count
    if kind not in TYPE_SIZES:
        return Entry(tag, kind, count, None, stored)
    if size <= layout.offset_bytes:
        return Entry(tag, kind, count, stored[:size], stored)
    offset = layout.unpack_offset(data, field)
    value = data[offset : offset + size] if offset + size <= len(data) else None
    return Entry(tag, kind, count, value, stored, offset)
