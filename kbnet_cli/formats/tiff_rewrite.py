"""Give a TIFF stream another picture and keep every other byte of it where it was.

Further pages, previews, maker notes and private tags point at each other by offset, and nobody knows all of these
pointers. So nothing moves: the new strips go where the old ones were as far as they fit, the rest goes to the end,
and of the photo's directory only the entries that say how samples are stored are replaced.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kbnet_cli.errors import InputError
from kbnet_cli.formats.arena import Arena, Span
from kbnet_cli.formats.ifd import MOST_BROKEN, Directory, Entry, Layout, Order, read_chain, read_directory
from kbnet_cli.formats.tiff_structure import YCBCR, File, Structure

STORAGE = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | set(range(512, 522))  # JPEG as TIFF 6.0 first had it
    | {34676, 50674}  # colour map of other kinds, LERC's parameters
)
"""Tags that say how samples are stored. They come from the new picture."""
_OF_YCBCR = frozenset({529, 530, 531, 532})
_OF_DEPTH = frozenset({280, 281, 290, 291, 301, 336, 340, 341})
"""Tags that count in the steps of one depth: smallest and largest sample, response curves, dot range."""
_DEFAULTS = {266: 1, 277: 1, 284: 1, 317: 1, 339: 1}
"""What a reader assumes where fill order, samples of a pixel, planes, predictor or sample format are missing."""
_POINTERS = (330, 34665, 34853, 40965)
_MOST_ENTRIES = 1_000_000
_MOST_CLAIMED = 4
"""What all directories together may speak of, in lengths of the file. `ifd` allows the pages alone two."""
_PADDING = 16  # writers put zeros between strips to begin each at an even or round offset
_ROWS = 278
_OFFSETS, _COUNTS = (273, 324), (279, 325)


@dataclass(frozen=True)
class Picture:
    """Encoded strips or tiles, and the entries that describe them but for their places."""

    segments: tuple[bytes, ...]
    entries: tuple[Entry, ...]
    offsets_tag: int
    bits: tuple[int, ...]


def take_picture(encoded: bytes, layout: Layout) -> Picture:
    """Take the picture out of a TIFF file of one page."""
    page = next(iter(read_chain(encoded)))
    tag = next(tag for tag in _OFFSETS if page.find(tag))
    offsets = page.integers(tag, layout.order)
    counts = page.integers(_COUNTS[_OFFSETS.index(tag)], layout.order)
    entries = (e for e in page.entries if e.tag in STORAGE and e.tag not in (tag, 274))
    return Picture(
        segments=tuple(encoded[at : at + size] for at, size in zip(offsets, counts, strict=True)),
        entries=tuple(replace(entry, stored=None) for entry in entries),
        offsets_tag=tag,
        bits=page.integers(258, layout.order),
    )


def open_arena(data: bytes, file: File, old: Structure, picture: Picture) -> tuple[Arena, tuple[int, ...]]:
    """Put a picture into a file, and return the stream with the places of the picture's segments."""
    free = _reclaimable(data, file, old)
    sizes = tuple(map(len, picture.segments))
    if free and sizes == old.byte_counts:
        # The same sizes: each strip goes back to its place, and only the samples differ between the two files.
        arena = Arena(data, file.layout)
        for offset, segment in zip(old.offsets, picture.segments, strict=True):
            arena.write(offset, segment)
        return arena, old.offsets
    arena = Arena(data, file.layout, free)
    return arena, tuple(arena.put(segment) for segment in picture.segments)


def replace_page(
    arena: Arena,
    file: File,
    old: Structure,
    picture: Picture,
    offsets: tuple[int, ...],
    changed: dict[int, Entry | None],
) -> None:
    """Make the photo's directory speak of another picture, with some other entries changed or, if None, taken away.

    Entries whose values lie outside of the file are left out: they would point into what was added to it.
    """
    directory, order = file.directory, file.layout.order
    dropped = set(changed) | STORAGE | (_OF_YCBCR if old.photometric == YCBCR or not old.lossless else set())
    dropped |= _OF_DEPTH if picture.bits != directory.integers(258, order) else set()
    kept = [entry for entry in directory.entries if entry.tag not in dropped and entry.value is not None]
    added = [entry for entry in changed.values() if entry is not None]
    storage = (*picture.entries, _offsets(picture.offsets_tag, offsets, file.layout))
    arena.replace_directory(directory, [*kept, *added, *_stored(directory, storage, order)])


def add_page(arena: Arena, picture: Picture, entries: Iterable[Entry]) -> int:
    """Store a picture and its directory in a stream, and return the directory's offset."""
    offsets = tuple(arena.put(segment) for segment in picture.segments)
    return arena.add_directory([*entries, *picture.entries, _offsets(picture.offsets_tag, offsets, arena.layout)])


def unreadable(directory: Directory) -> tuple[int, ...]:
    """Return the tags whose values lie outside of the file: they would point into what is added to it."""
    return tuple(entry.tag for entry in directory.entries if entry.value is None and entry.tag not in STORAGE)


def _offsets(tag: int, offsets: tuple[int, ...], layout: Layout) -> Entry:
    return Entry(tag, 16 if layout.big else 4, len(offsets), b"".join(map(layout.pack_offset, offsets)))


def _stored(directory: Directory, entries: Iterable[Entry], order: Order) -> list[Entry]:
    """Return the new entries about storage, the directory's own wherever one says the same."""
    chosen: dict[int, Entry] = {}
    height = directory.integer(257, order, 0)
    for entry in entries:
        values = entry.integers(order)
        old = directory.find(entry.tag)
        same = old is not None and old.integers(order) == values
        # A strip may be said to have more rows than the picture has: often 2^32 - 1.
        same |= entry.tag == _ROWS and values[0] == height <= directory.integer(_ROWS, order, 0)
        if old is not None and same:
            chosen[entry.tag] = old
        elif old is not None or set(values) != {_DEFAULTS.get(entry.tag)}:
            chosen[entry.tag] = entry
    for tag, default in _DEFAULTS.items():
        old = directory.find(tag)
        if old is not None and tag not in chosen and set(old.integers(order)) == {default}:
            chosen[tag] = old
    return list(chosen.values())


def _reclaimable(data: bytes, file: File, old: Structure) -> list[Span]:
    """Return the old picture's places, or none of them where something else of the file reaches into one."""
    spans = sorted(old.spans)
    joined = [spans[0]]
    for start, end in spans[1:]:
        before = joined[-1][1]
        if start < before:
            return []
        if start - before < _PADDING and not any(data[before:start]):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    starts = [start for start, _ in joined]
    for start, end in _used(data, file):
        index = bisect_left(starts, end) - 1  # the last place that begins before this one ends
        if index >= 0 and joined[index][1] > start and end > start:
            return []
    return joined


def _used(data: bytes, file: File) -> Iterator[Span]:
    """List what the directories take up, their own bytes and what they point at, but for the photo's samples."""
    layout = file.layout
    yield 0, 16 if layout.big else 8
    waiting: list[Directory | int] = list(file.pages)  # below the pages offsets: a directory may be as long as the file
    seen = {page.offset for page in file.pages}
    entries = claimed = broken = 0
    while waiting:
        place = waiting.pop()
        try:
            page = read_directory(data, layout, place) if isinstance(place, int) else place
        except InputError:  # a pointer into nowhere takes up nothing
            broken += 1
            page = None
        entries += len(page.entries) if page else 0
        claimed += page.value_bytes if page else 0
        if max(entries, len(seen)) > _MOST_ENTRIES or claimed > _MOST_CLAIMED * len(data) or broken > MOST_BROKEN:
            yield 0, len(data)  # made to hang a reader: whatever it holds, it stays
            return
        if page is None:
            continue
        yield page.offset, page.end
        yield from ((e.offset, e.offset + len(e.value)) for e in page.entries if e.offset is not None and e.value)
        if page is not file.directory:
            yield from _samples(page, layout)
        for offset in (at for tag in _POINTERS for at in page.integers(tag, layout.order)):
            if offset not in seen:
                seen.add(offset)
                waiting.append(offset)


def _samples(page: Directory, layout: Layout) -> Iterator[Span]:
    for where, sizes in zip((*_OFFSETS, 513), (*_COUNTS, 514), strict=True):
        places = zip(page.integers(where, layout.order), page.integers(sizes, layout.order), strict=False)
        yield from ((at, at + size) for at, size in places)
