"""EXIF as one block: a TIFF stream of its own, with the directories that describe a photo and no picture.

EXIF 2.32 (CIPA DC-008), section 4.6. Values are carried over as raw bytes, so rationals, undefined blocks and text of
any encoding stay what they were. A maker note often holds offsets that count from the start of the file it was
written into, so it is put where it was.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from kbnet_cli.errors import InputError
from kbnet_cli.formats.arena import Arena, directory_bytes, header
from kbnet_cli.formats.ifd import (
    Directory,
    Entry,
    Layout,
    Order,
    pack_directory,
    read_chain,
    read_directory,
    read_layout,
)

ORIENTATION = 274
EXIF_POINTER = 34665
GPS_POINTER = 34853
INTEROP_POINTER = 40965
MAKER_NOTE = 37500
COLOUR_SPACE = 40961

DESCRIPTIVE = frozenset(
    {269, 270, 271, 272, 274, 282, 283, 285, 296, 297, 305, 306, 315, 316, 318, 319}  # TIFF 6.0
    | {
        18246,
        18249,
        33432,
        37393,
        40091,
        40092,
        40093,
        40094,
        40095,
    }  # ratings, copyright, image number, Windows' titles
    | {50708, 50735, 50736, 50827, 51041}  # DNG: camera, serial number, lens, original name, noise profile
)
"""Tags of the first directory that speak of the photo and not of how its samples are stored."""

TAKEN = frozenset(
    {33434, 33437, 34850, 34852, 34855, 36867, 37377, 37378, 37379, 37380, 37381, 37382, 37383, 37384, 37385, 37386}
    | {37396, 37397, 41486, 41487, 41488, 41493, 41495, 42016, 42032, 42033, 42034, 42035, 42036, 42037}
)
"""Tags of the exposure, the lens and the camera's body."""
_UNITS = {3: 2, 8: 2, 4: 4, 9: 4, 13: 4, 5: 4, 10: 4, 11: 4, 12: 8}  # bytes that swap together; 1 for all others
_CLASSIC_TYPES = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 129})
_MOST_PINNED = 65_000
"""A maker note that ended further in is not put where it was: the block would not fit into a JPEG segment."""


@dataclass(frozen=True)
class Description:
    """What a photo's directories say about it, as entries that stand for themselves."""

    order: Order
    image: tuple[Entry, ...] = ()
    exif: tuple[Entry, ...] = ()
    gps: tuple[Entry, ...] = ()
    interop: tuple[Entry, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.image or self.exif or self.gps or self.interop)


def orientation(block: bytes | None) -> int:
    """Return how a viewer has to turn the picture, 1 to 8; 1, not at all, where nothing valid is said."""
    if block is None:
        return 1
    try:
        first = next(read_chain(block), None)
    except InputError:
        return 1
    value = first.integer(ORIENTATION, read_layout(block).order, 1) if first else 1
    return value if 1 <= value <= 8 else 1


def with_orientation(block: bytes | None, value: int) -> bytes:
    """Return the block with another orientation and every other byte where it was.

    Raises:
        InputError: the block is not EXIF.
    """
    assert 1 <= value <= 8
    if block is None:
        return pack(Description("<", image=(short(ORIENTATION, value, "<"),)))
    layout = read_layout(block)
    first = next(read_chain(block), None)
    arena = Arena(block, layout)
    if first is None:
        arena.write(4, layout.pack_offset(arena.add_directory([short(ORIENTATION, value, layout.order)])))
        return arena.to_bytes()
    place = next((i for i, entry in enumerate(first.entries) if entry.tag == ORIENTATION), None)
    if place is None:
        # The old directory stays as dead bytes: nothing else may move.
        added = (*first.entries, arena.settle(short(ORIENTATION, value, layout.order)))
        arena.write(first.link, layout.pack_offset(arena.put(pack_directory(layout, added, first.next_offset))))
    else:
        at = first.offset + layout.count_bytes + place * layout.entry_bytes
        arena.write(at, struct.pack(layout.order + "HHIHH", ORIENTATION, 3, 1, value, 0))
    return arena.to_bytes()


def short(tag: int, value: int, order: Order) -> Entry:
    """Make an entry of one SHORT."""
    return Entry(tag, 3, 1, struct.pack(order + "H", value))


def describe(data: bytes, directory: Directory) -> Description:
    """Collect what a directory of a TIFF, raw file or EXIF block, and those below it, say about the photo.

    Entries whose value cannot be reached are left out; so is a directory that cannot.
    """
    layout = read_layout(data)
    exif = _below(data, layout, directory, EXIF_POINTER)
    interop = _below(data, layout, exif, INTEROP_POINTER) if exif else None
    gps = _below(data, layout, directory, GPS_POINTER)
    taken = portable(entry for entry in exif.entries if entry.tag != INTEROP_POINTER) if exif else ()
    known = {entry.tag for entry in taken}
    return Description(
        layout.order,
        image=portable(entry for entry in directory.entries if entry.tag in DESCRIPTIVE),
        # TIFF/EP puts into the first directory what EXIF has in its own, and other formats' readers look there alone.
        exif=taken + portable(e for e in directory.entries if e.tag in TAKEN and e.tag not in known),
        gps=portable(gps.entries) if gps else (),
        interop=portable(interop.entries) if interop else (),
    )


def read(block: bytes) -> Description:
    """Read a block.

    Raises:
        InputError: it is not EXIF.
    """
    first = next(read_chain(block), None)
    return describe(block, first) if first else Description(read_layout(block).order)


def pack(description: Description) -> bytes:
    """Write a block of its own, with the maker note at the offset it had."""
    layout = Layout(description.order)
    note = next((entry for entry in description.exif if entry.tag == MAKER_NOTE), None)
    base = header(layout, 8)
    arena = Arena(base, layout)
    pointers = bool(description.exif or description.interop) + bool(description.gps)
    room = directory_bytes(layout, len(description.image) + pointers)
    if note and note.value and note.offset and 8 <= note.offset <= _MOST_PINNED - len(note.value):
        arena = Arena(base.ljust(note.offset, b"\0") + note.value, layout, [(8, note.offset)])
        pinned = replace(note, stored=layout.pack_offset(note.offset))
        exif = tuple(pinned if entry is note else entry for entry in description.exif)
        description = replace(description, exif=exif)
    first = arena.reserve(room)
    entries = tuple(map(arena.settle, plant(arena, description)))
    arena.write(first, pack_directory(layout, entries, 0))
    arena.write(0, header(layout, first))
    return arena.to_bytes()


def plant(arena: Arena, description: Description) -> tuple[Entry, ...]:
    """Store the directories below the first one, and return the entries that belong into the first."""
    order = arena.layout.order
    swapped = reorder(description, order)
    entries = list(swapped.image)
    exif = list(swapped.exif)
    if swapped.interop:
        exif.append(_pointer(INTEROP_POINTER, arena.add_directory(swapped.interop), order))
    if exif:
        entries.append(_pointer(EXIF_POINTER, arena.add_directory(exif), order))
    if swapped.gps:
        entries.append(_pointer(GPS_POINTER, arena.add_directory(swapped.gps), order))
    return tuple(entries)


def reorder(description: Description, order: Order) -> Description:
    """Return the description with its numbers in a byte order."""
    if description.order == order:
        return description
    return Description(
        order,
        image=tuple(map(_swap, description.image)),
        exif=tuple(map(_swap, description.exif)),
        gps=tuple(map(_swap, description.gps)),
        interop=tuple(map(_swap, description.interop)),
    )


def _below(data: bytes, layout: Layout, directory: Directory, tag: int) -> Directory | None:
    offset = directory.integer(tag, layout.order, 0)
    try:
        return read_directory(data, layout, offset) if offset else None
    except InputError:
        # A pointer into nowhere is common in files that other programs cut: the photo itself is whole.
        return None


def portable(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Return the entries that can stand in another stream."""
    return tuple(
        replace(entry, stored=None) for entry in entries if entry.value is not None and entry.type in _CLASSIC_TYPES
    )


def _pointer(tag: int, offset: int, order: Order) -> Entry:
    return Entry(tag, 4, 1, struct.pack(order + "I", offset))


def _swap(entry: Entry) -> Entry:
    assert entry.value is not None
    unit = _UNITS.get(entry.type, 1)
    if unit == 1:
        return entry
    value = b"".join(entry.value[i : i + unit][::-1] for i in range(0, len(entry.value), unit))
    return replace(entry, value=value, stored=None)
