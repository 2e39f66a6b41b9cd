"""The directories of a TIFF stream inside a large file, read by seeking, with the few values that sizes depend on."""

import struct
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from kbnet_cli.errors import InputError
from kbnet_cli.formats.ifd import TYPE_SIZES, Directory, Entry, Layout, read_layout
from kbnet_cli.formats.peek import Peek

_SUB_DIRECTORIES = 330
_MOST_PAGES = 16
"""Camera raw has fewer; a scanned book has more, whose first page is the photo."""
_MOST_ENTRIES = 2048
_MOST_VALUE_BYTES = 8192
_FETCHED = frozenset(
    {256, 257, 258, 259, 262, 277, 278, 284, 317, 320, 322, 323, 330, 332, 338, 339, 32997, 50718, 50829}
)
"""Tags whose values are read where they lie outside of the directory: all that say how samples are stored but where."""


@dataclass(frozen=True)
class Pages:
    """The first directories of a TIFF stream. Values that are not needed for sizes are None."""

    layout: Layout
    chain: tuple[Directory, ...]
    """Those that the header leads to, one after the other."""
    below: tuple[Directory, ...]
    """Those that others point to."""

    @property
    def every(self) -> tuple[Directory, ...]:
        """All of them."""
        return self.chain + self.below


def read_pages(peek: Peek, base: int = 0) -> Pages:
    """Read the directories that can be read, up to some that cannot.

    Raises:
        InputError: there is no TIFF stream, or no directory in it.
    """
    layout = read_layout(peek.some(base, 16))
    offset = layout.unpack_offset(peek.read(base, 16), 8 if layout.big else 4)
    chain: list[Directory] = []
    seen: set[int] = set()
    with suppress(InputError):
        while offset and offset not in seen and len(chain) < _MOST_PAGES:
            seen.add(offset)
            chain.append(read_page(peek, layout, base, offset))
            offset = chain[-1].next_offset
    if not chain:
        raise InputError("got a TIFF file without a page")
    below: list[Directory] = []
    for page in chain:
        below += _read_below(peek, layout, base, page, _MOST_PAGES - len(below))
    for page in below:  # which grows as it is gone through
        below += _read_below(peek, layout, base, page, _MOST_PAGES - len(below))
    return Pages(layout, tuple(chain), tuple(below))


def read_page(peek: Peek, layout: Layout, base: int, offset: int) -> Directory:
    """Read the directory at an offset from where its stream begins.

    Raises:
        InputError: it does not lie within the file, or is too large.
    """
    at = base + offset
    (count,) = struct.unpack(layout.order + ("Q" if layout.big else "H"), peek.read(at, layout.count_bytes))
    if offset < 8 or count > _MOST_ENTRIES:
        raise InputError(f"got a TIFF directory of {count} entries at byte {offset}")
    start, size = at + layout.count_bytes, count * layout.entry_bytes
    stored = peek.read(start, size)
    following = peek.some(start + size, layout.offset_bytes)
    entries = tuple(
        _read_entry(peek, layout, base, stored[position : position + layout.entry_bytes])
        for position in range(0, size, layout.entry_bytes)
    )
    after = layout.unpack_offset(following, 0) if len(following) == layout.offset_bytes else 0
    return Directory(offset, entries, after, start + size + len(following) - base)


def _read_below(peek: Peek, layout: Layout, base: int, page: Directory, most: int) -> list[Directory]:
    found: list[Directory] = []
    for offset in islice(page.integers(_SUB_DIRECTORIES, layout.order), max(0, most)):
        with suppress(InputError):
            found.append(read_page(peek, layout, base, offset))
    return found


def _read_entry(peek: Peek, layout: Layout, base: int, stored: bytes) -> Entry:
    tag, kind = struct.unpack_from(layout.order + "HH", stored)
    count = layout.unpack_offset(stored, 4)
    field = stored[4 + layout.offset_bytes :]
    size = TYPE_SIZES.get(kind, 0) * count
    if kind not in TYPE_SIZES:
        return Entry(tag, kind, count, None, field)
    if size <= layout.offset_bytes:
        return Entry(tag, kind, count, field[:size], field)
    offset = layout.unpack_offset(field, 0)
    value = None
    if tag in _FETCHED:
        if size > _MOST_VALUE_BYTES:
            raise InputError(f"got {size} bytes for TIFF tag {tag}")
        value = peek.some(base + offset, size)
    return Entry(tag, kind, count, value if value is not None and len(value) == size else None, field, offset)
