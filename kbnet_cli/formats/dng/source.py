"""The directories of the DNG file that a photo came from."""

from dataclasses import dataclass

from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.ifd import Directory, Entry, Layout, Order, read_layout, read_tree

_DNG_VERSION, _PHOTOMETRIC, _SUBFILE = 50706, 262, 254
_LINEAR_RAW = 34892
_SENSOR_SAMPLES = (32803, _LINEAR_RAW)
_OTHERS = {
    4: "a transparency mask",
    8: "a depth map",
    9: "a depth map",
    16: "an enhanced copy",
    65537: "another rendering",
    65540: "a semantic mask",
}
"""Kinds of pictures (NewSubfileType) that are neither the photo nor a preview of it."""


@dataclass(frozen=True)
class Source:
    """A DNG file's first directory, that of its sensor's samples, and all others."""

    data: bytes
    layout: Layout
    first: Directory
    raw: Directory
    others: tuple[Directory, ...] = ()

    @property
    def demosaiced(self) -> bool:
        """Whether the file holds linear raw and no mosaic."""
        return self.raw.integer(_PHOTOMETRIC, self.layout.order, 0) == _LINEAR_RAW

    def size(self) -> tuple[int, int]:
        """Return height and width of the active area."""
        order = self.layout.order
        area = self.raw.integers(50829, order)
        if len(area) == 4:
            return area[2] - area[0], area[3] - area[1]
        return self.raw.integer(257, order, 0), self.raw.integer(256, order, 0)

    def find(self, tag: int) -> Entry | None:
        """Return a tag of the first directory or, where it is not there, of the one with the samples."""
        return _whole(self.first, tag) or _whole(self.raw, tag)

    def find_raw(self, tag: int) -> Entry | None:
        """Return a tag of the directory with the samples or, where it is not there, of the first."""
        return _whole(self.raw, tag) or _whole(self.first, tag)

    def integers(self, tag: int) -> tuple[int, ...]:
        """Return a tag's integers; empty where it is missing."""
        entry = self.find(tag)
        return entry.integers(self.layout.order) if entry else ()

    def other_pictures(self) -> tuple[str, ...]:
        """Name the pictures that are neither the photo nor a smaller copy of it, each kind once."""
        order = self.layout.order
        kinds = (page.integer(_SUBFILE, order, 0) for page in (self.first, *self.others))
        named = dict.fromkeys(_OTHERS[kind] for kind in kinds if kind in _OTHERS)
        return tuple(named)


def read_source(data: bytes) -> Source | None:
    """Return the directories of a DNG file; None for a raw file of another kind, or where they cannot be read."""
    try:
        layout = read_layout(data)
    except InputError:
        return None
    pages = read_tree(data, layout)
    if not pages or pages[0].find(_DNG_VERSION) is None:
        return None
    order = layout.order
    sensor = [page for page in pages if page.integer(_PHOTOMETRIC, order, 0) in _SENSOR_SAMPLES]
    main = [page for page in sensor if page.integer(_SUBFILE, order, 0) == 0] or sensor or pages
    others = tuple(page for page in pages if page is not pages[0] and page is not main[0])
    return Source(data, layout, pages[0], main[0], others)


def in_order(entries: tuple[Entry, ...], source: Order, target: Order) -> tuple[Entry, ...]:
    """Return entries as they stand in a stream of a byte order."""
    return exif.reorder(exif.Description(source, image=exif.portable(entries)), target).image


def _whole(directory: Directory, tag: int) -> Entry | None:
    entry = directory.find(tag)
    return entry if entry is not None and entry.value else None
