"""Give a TIFF stream another picture and keep every other byte of it where it was.

Further pages, previews, maker notes and private tags point at each other by offset, and nobody knows all of these
pointers. So nothing moves: the new strips go where the old ones were as far as they fit, the rest goes to the end,
and of the photo's directory only the entries that say how samples are stored are replaced.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kbnet_cli.formats.arena import Arena, Span
from kbnet_cli.formats.ifd import Directory, Entry, Layout, read_chain
from kbnet_cli.formats.tiff_structure import YCBCR, File, Structure

_STORAGE = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | set(range(512, 522))  # JPEG as TIFF 6.0 first had it
    | {34676, 50674}  # colour map of other kinds, LERC's parameters
)
"""Tags that say how samples are stored. They come from the new picture."""
_OF_YCBCR = frozenset({529, 530, 531, 532})
_OF_DEPTH = frozenset({280, 281, 290, 291, 301, 336, 340, 341})
"""Tags that count in the steps of one depth: smallest and largest sample, response curves, dot range."""
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
    entries = (e for e in page.entries if e.tag in _STORAGE and e.tag not in (tag, 274))
    return Picture(
        segments=tuple(encoded[at : at + size] for at, size in zip(offsets, counts, strict=True)),
        entries=tuple(replace(entry, stored=None) for entry in entries),
        offsets_tag=tag,
        bits=page.integers(258, layout.order),
    )


def rewrite(
    data: bytes, file: File, old: Structure, picture: Picture, changed: dict[int, Entry | None]
) -> bytes:
    """Return the file with another picture in the photo's page, and some other entries of it changed or taken away."""
    directory = file.directory
    arena = Arena(data, file.layout, _reclaimable(file, old))
    if len(old.spans) == len(picture.segments) and all(
        len(segment) == count for segment, count in zip(picture.segments, old.byte_counts, strict=True)
    ):
        # The same sizes: each strip goes back to its place, and only the samples differ between the two files.
        arena = Arena(data, file.layout)
        for offset, segment in zip(old.offsets, picture.segments, strict=True):
            arena.write(offset, segment)
        offsets = old.offsets
    else:
        offsets = tuple(arena.put(segment) for segment in picture.segments)
    dropped = _STORAGE | set(changed)
    dropped |= _OF_YCBCR if old.photometric == YCBCR else set()
    dropped |= _OF_DEPTH if picture.bits != directory.integers(258, file.layout.order) else set()
    kept = [entry for entry in directory.entries if entry.tag not in dropped and _readable(entry)]
    added = [entry for entry in changed.values() if entry is not None]
    stored = [_reuse(entry, directory) for entry in (*picture.entries, _offsets(picture.offsets_tag, offsets, file.layout))]
    arena.replace_directory(directory, [*kept, *added, *stored])
    return arena.to_bytes()


def add_page(arena: Arena, picture: Picture, entries: Iterable[Entry]) -> int:
    """Store a picture and its directory in a stream, and return the directory's offset."""
    offsets = tuple(arena.put(segment) for segment in picture.segments)
    return arena.add_directory([*entries, *picture.entries, _offsets(picture.offsets_tag, offsets, arena.layout)])


def unreadable(directory: Directory) -> tuple[int, ...]:
    """Return the tags whose values lie outside of the file: they would point into what is added to it."""
    return tuple(entry.tag for entry in directory.entries if not _readable(entry))


def _readable(entry: Entry) -> bool:
    return entry.value is not None


def _offsets(tag: int, offsets: tuple[int, ...], layout: Layout) -> Entry:
    value = b"".join(map(layout.pack_offset, offsets))
    return Entry(tag, 16 if layout.big else 4, len(offsets), value)


def _reuse(entry: Entry, directory: Directory) -> Entry:
    """Return the directory's own entry where it says the same."""
    old = directory.find(entry.tag)
    same = old is not None and (old.type, old.count, old.value) == (entry.type, entry.count, entry.value)
    return old if old is not None and same else entry


def _reclaimable(file: File, old: Structure) -> list[Span]:
    """Return the old picture's bytes, or nothing where another page or a directory lies in between them."""
    spans = sorted(old.spans)
    return spans
