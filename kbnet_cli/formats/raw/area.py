"""How large LibRaw will make the photo of a camera raw file, as far as its directories tell without LibRaw.

Of a DNG they tell it exactly. Other makers' files tell what the camera would show or what the sensor has, and LibRaw
has tables of cameras for what lies between: some pixels more or fewer a side.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from kbnet_cli.errors import InputError
from kbnet_cli.formats.ifd import RAW_MAGICS, Directory, Layout
from kbnet_cli.formats.peek import Peek
from kbnet_cli.formats.tiff_pages import Pages, read_page, read_pages

_DNG_VERSION, _SUBFILE, _WIDTH, _HEIGHT, _PHOTOMETRIC, _SAMPLES = 50706, 254, 256, 257, 262, 277
_ACTIVE_AREA, _DEFAULT_SCALE = 50829, 50718
_EXIF_POINTER, _EXIF_WIDTH, _EXIF_HEIGHT = 34665, 40962, 40963
_FILTERS, _LINEAR_RAW = 32803, 34892
_PANASONIC_WIDTH, _PANASONIC_HEIGHT, _PANASONIC_BORDERS = 2, 3, (4, 5, 6, 7)
_SQUARE = (0.995, 1.005)
"""Between these LibRaw takes pixels for square."""
_CANON_METADATA = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_MOST_HEAPS, _MOST_RECORDS = 20, 500
_IMAGE_SPEC = 0x1810
_RAF_SIZES = (0x121, 0x111, 0x100)
"""What is visible, what the camera would show, and all of the sensor."""


@dataclass(frozen=True)
class Area:
    """The size of a photo, in pixels."""

    height: int
    width: int
    channels: int = 3
    exact: bool = False
    """Whether it is LibRaw's own size and not one near it."""


def is_raw(pages: Pages) -> bool:
    """Tell whether a file that is built like TIFF is camera raw."""
    return any(page.find(_DNG_VERSION) or _is_sensor(page, pages.layout) for page in pages.every)


def of_pages(pages: Pages) -> Area | None:
    """Read the size of a raw file that is built like TIFF; None where it does not tell."""
    sensor = [page for page in pages.every if _is_sensor(page, pages.layout)]
    if not sensor:
        return None
    if any(page.find(_DNG_VERSION) for page in pages.every):
        return _of_dng(sensor, pages.layout)
    return max((_size(page, pages.layout) for page in sensor), key=lambda area: area.height * area.width)


def of_file(peek: Peek) -> Area | None:
    """Read the size of a raw file that begins in a way of its own; None where it does not tell.

    Raises:
        InputError: it is cut short or damaged.
    """
    head = peek.some(0, 16)
    if head[:4] in RAW_MAGICS or head[8:10] == b"CR":
        return _of_relatives(peek, head)
    if head[6:14] == b"HEAPCCDR":
        return _of_canon_heap(peek)
    if head[4:12] == b"ftypcrx ":
        return _of_canon_boxes(peek)
    readers: dict[bytes, Callable[[Peek], Area | None]] = {
        b"FUJIFILM": _of_fuji, b"\0MRM": _of_minolta, b"FOVb": _of_sigma, b"qktk": _of_apple, b"qktn": _of_apple,
    }  # fmt: skip
    return next((read(peek) for mark, read in readers.items() if head.startswith(mark)), None)


def _is_sensor(page: Directory, layout: Layout) -> bool:
    return page.integer(_PHOTOMETRIC, layout.order, 0) in (_FILTERS, _LINEAR_RAW)


def _size(page: Directory, layout: Layout) -> Area:
    return Area(page.integer(_HEIGHT, layout.order, 0), page.integer(_WIDTH, layout.order, 0))


def _of_dng(sensor: list[Directory], layout: Layout) -> Area:
    photos = [page for page in sensor if page.integer(_SUBFILE, layout.order, 0) == 0]
    page = (photos or sensor)[0]
    whole = _size(page, layout)
    grey = page.integer(_PHOTOMETRIC, layout.order, 0) == _LINEAR_RAW and page.integer(_SAMPLES, layout.order, 1) == 1
    area = replace(whole, channels=1 if grey else 3, exact=len(photos) == 1)
    active = page.integers(_ACTIVE_AREA, layout.order)
    if active:
        top, left, bottom, right = active if len(active) == 4 else (0, 0, 0, 0)
        inside = 0 <= top < bottom <= whole.height and 0 <= left < right <= whole.width
        area = replace(area, height=bottom - top, width=right - left) if inside else replace(area, exact=False)
    return _squared(area, page.value(_DEFAULT_SCALE), layout)


def _squared(area: Area, scale: bytes | None, layout: Layout) -> Area:
    """Return the size after LibRaw has made the pixels square."""
    if scale is None or len(scale) != 16:
        return area
    across, across_parts, down, down_parts = struct.unpack(f"{layout.order}4I", scale)
    if not (across and across_parts and down and down_parts):
        return replace(area, exact=False)
    aspect = (across / across_parts) / (down / down_parts)
    if _SQUARE[0] < aspect < _SQUARE[1]:
        return area
    height, width = round(area.height / min(aspect, 1.0)), round(area.width * max(aspect, 1.0))
    return replace(area, height=height, width=width, exact=False)


def _of_relatives(peek: Peek, head: bytes) -> Area | None:
    """Read files of Canon (CR2), Panasonic and Olympus, which are built like TIFF but for a few tags."""
    pages = read_pages(peek)
    first, order = pages.chain[0], pages.layout.order
    if head[8:10] == b"CR":
        # The samples' own directory has no size, and the first one is that of a preview.
        taken = read_page(peek, pages.layout, 0, first.integer(_EXIF_POINTER, order, 0))
        return Area(taken.integer(_EXIF_HEIGHT, order, 0), taken.integer(_EXIF_WIDTH, order, 0))
    if head.startswith(b"IIU\0"):
        top, left, bottom, right = (first.integer(tag, order, 0) for tag in _PANASONIC_BORDERS)
        if top < bottom and left < right:
            return Area(bottom - top, right - left)
        return Area(first.integer(_PANASONIC_HEIGHT, order, 0), first.integer(_PANASONIC_WIDTH, order, 0))
    return _size(first, pages.layout)


def _of_canon_heap(peek: Peek) -> Area | None:
    """Read a CRW, a heap of heaps, each with its directory at its end (CIFF 1.0)."""
    waiting = [(int.from_bytes(peek.read(2, 4), "little"), peek.file_bytes)]
    for _ in range(_MOST_HEAPS):
        if not waiting:
            break
        begin, end = waiting.pop()
        at = begin + int.from_bytes(peek.read(end - 4, 4), "little")
        count = int.from_bytes(peek.read(at, 2), "little")
        if count > _MOST_RECORDS:
            raise InputError(f"got a CRW directory of {count} records")
        for record in struct.iter_unpack("<HII", peek.read(at + 2, 10 * count)):
            tag, size, offset = record
            if tag == _IMAGE_SPEC:
                width, height = struct.unpack("<II", peek.read(begin + offset, 8))
                return Area(height, width)
            if tag & 0x3800 in (0x2800, 0x3000) and begin <= begin + offset + size <= end:
                waiting.append((begin + offset, begin + offset + size))
    return None


def _of_canon_boxes(peek: Peek) -> Area | None:
    """Read a CR3, whose first directory is a TIFF stream of its own in the box CMT1."""
    movie = next((box for box in peek.boxes(0, peek.file_bytes) if box.kind == b"moov"), None)
    for box in peek.boxes(movie.begin, movie.end) if movie else ():
        if box.kind == b"uuid" and peek.some(box.begin, 16) == _CANON_METADATA:
            for inner in peek.boxes(box.begin + 16, box.end):
                if inner.kind == b"CMT1":
                    pages = read_pages(peek, inner.begin)
                    return _size(pages.chain[0], pages.layout)
    return None


def _of_fuji(peek: Peek) -> Area | None:
    at = peek.number(92, 4)
    count = peek.number(at, 4)
    sizes: dict[int, Area] = {}
    at += 4
    for _ in range(min(count, _MOST_RECORDS)):
        tag, size = peek.number(at, 2), peek.number(at + 2, 2)
        if tag in _RAF_SIZES and size >= 4:
            sizes[tag] = Area(peek.number(at + 4, 2), peek.number(at + 6, 2))
        at += 4 + size
    return next((sizes[tag] for tag in _RAF_SIZES if tag in sizes), None)


def _of_minolta(peek: Peek) -> Area | None:
    # The first block: a version of eight bytes, then height and width of the sensor and of the picture.
    if peek.some(8, 4) != b"\0PRD":
        return None
    return Area(peek.number(28, 2), peek.number(30, 2))


def _of_sigma(peek: Peek) -> Area | None:
    version, width, height = (int.from_bytes(peek.read(at, 4), "little") for at in (4, 28, 32))
    return Area(height, width) if version < 0x40000 else None  # the Quattro's header is another


def _of_apple(peek: Peek) -> Area | None:
    return Area(peek.number(544, 2), peek.number(546, 2))
