"""How large a picture is, from its header alone: a few reads of some kilobytes, and nothing is decoded."""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from kbnet_cli.errors import InputError, KBNetError
from kbnet_cli.formats import codestream, items
from kbnet_cli.formats.boxes import Box, first
from kbnet_cli.formats.items import Collection
from kbnet_cli.formats.peek import Peek, Seekable
from kbnet_cli.formats.raw import area
from kbnet_cli.formats.sniff import HEAD_BYTES, sniff
from kbnet_cli.formats.tiff_pages import Pages, read_pages
from kbnet_cli.formats.tiff_structure import FLOAT, PALETTE, File, read_structure
from kbnet_cli.photo import CHANNELS

_LONGEST_SIDE = 2**31
_MOST_SEGMENTS = 2000
"""Of JPEG, PNG and WebP. A profile and previews take some hundred in the worst files."""
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_GREY, _RGB, _PNG_PALETTE, _GREY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_PPM_HEADER_BYTES = 4096
_COMMENT = re.compile(rb"#[^\n\r]*[\n\r]")
_JXL_HEADER_BYTES = 1024
_MOST_DIRECTORY_BYTES = 1 << 16
"""Of HEIF, where a telephone's picture of 50 tiles takes some kilobytes."""
_ITEM_BOXES = (b"pitm", b"iinf", b"iref", b"iprp")
_COLOUR_MAP = 320


@dataclass(frozen=True)
class Extent:
    """What `codec.decode` will make of a file: `Photo.pixels` and `Photo.alpha` before there are any."""

    kind: str
    """The format's name as `codec.kind_of` gives it."""
    height: int
    width: int
    channels: int
    """Of the colours: 1, 3 or 4."""
    sample_bytes: int
    """1, 2 or 4."""
    alpha: bool = False
    exact: bool = True
    """False for camera raw whose visible part only LibRaw knows: some pixels more or fewer a side."""

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.height * self.width / 1e6

    @property
    def pixel_bytes(self) -> int:
        """Bytes of the samples, alpha included."""
        return self.height * self.width * (self.channels + self.alpha) * self.sample_bytes


def extent(file: Seekable, file_bytes: int) -> Extent | None:
    """Read how large the picture in a file is; None where its header does not tell, or not cheaply.

    At most a megabyte is read, of ordinary files one block of 4096 bytes or a few. A file that cannot be decoded may
    have an extent nevertheless, also an absurd one: a limit is the caller's.
    """
    try:
        peek = Peek(file, file_bytes)
        kind = sniff(peek.some(0, HEAD_BYTES))
        reader = _READERS.get(kind or "")
        found = reader(peek) if reader else None
    except (KBNetError, OSError, ValueError, OverflowError, LookupError, struct.error):
        return None
    if found is None or not (0 < found.height <= _LONGEST_SIDE and 0 < found.width <= _LONGEST_SIDE):
        return None
    return found


def _jpeg(peek: Peek) -> Extent | None:
    at = 2
    for _ in range(_MOST_SEGMENTS):
        mark = _JPEG_MARKER.match(peek.some(at, 2))
        if mark is None:
            found = _JPEG_MARKER.search(peek.some(at, 4096))  # stray bytes and fill bytes before a marker
            if found is None:
                return None
            at += found.start()
        marker = peek.number(at + 1, 1)
        if marker in (_START_OF_SCAN, _END_OF_IMAGE):
            return None
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker in _JPEG_FRAMES:
            bits, height, width, channels = struct.unpack(">BHHB", peek.read(at + 4, 6))
            known = bits in (8, 10, 12, 16) and channels in (1, 3, 4)
            return Extent("jpg", height, width, channels, 1 if bits == 8 else 2) if known else None
        at += 2 + max(2, peek.number(at + 2, 2))
    return None


def _png(peek: Peek) -> Extent | None:
    width, height, bits, colour = struct.unpack(">IIBB", peek.read(16, 10))
    if peek.read(12, 4) != b"IHDR" or colour not in (_GREY, _RGB, _PNG_PALETTE, _GREY_ALPHA, _RGB_ALPHA):
        return None
    alpha = colour in (_GREY_ALPHA, _RGB_ALPHA)
    channels = 1 if colour in (_GREY, _GREY_ALPHA) else 3
    if not alpha:
        transparent = _png_transparency(peek, bits, colour)
        if transparent is None:
            return None
        alpha = transparent
    return Extent("png", height, width, channels, 2 if bits == 16 else 1, alpha)


def _png_transparency(peek: Peek, bits: int, colour: int) -> bool | None:
    """Tell whether colours are said to be transparent, which become alpha; None where there are too many chunks."""
    at, entries = 8, 0
    for _ in range(_MOST_SEGMENTS):
        size, name = struct.unpack(">I4s", peek.read(at, 8))
        if name == b"PLTE":
            entries = min(size // 3, 1 << bits)
        if name == b"tRNS":  # a longer one is passed over
            expected = {_GREY: 2, _RGB: 6}.get(colour)
            return 0 < size <= entries if expected is None else bool(size == expected)
        if name in (b"IDAT", b"IEND"):
            return False
        at += 12 + size
    return None


def _webp(peek: Peek) -> Extent | None:
    at, alpha = 12, False
    for _ in range(_MOST_SEGMENTS):
        name, size = struct.unpack("<4sI", peek.read(at, 8))
        if name == b"VP8L":
            bits = int.from_bytes(peek.read(at + 9, 4), "little")
            return Extent("webp", (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 3, 1, bool(bits >> 28 & 1))
        if name == b"VP8 ":
            width, height = struct.unpack("<HH", peek.read(at + 14, 4))
            return Extent("webp", height & 0x3FFF, width & 0x3FFF, 3, 1, alpha)
        alpha = alpha or name == b"ALPH"
        at += 8 + size + size % 2
    return None


def _ppm(peek: Peek) -> Extent | None:
    head = peek.some(0, _PPM_HEADER_BYTES)
    if head.startswith(b"P7"):
        lines = (line.split(None, 1) for line in head.partition(b"ENDHDR")[0].splitlines())
        fields = dict(line for line in lines if len(line) == 2)
        height, width, samples, white = (int(fields[name]) for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL"))
    else:
        width, height, white = map(int, _COMMENT.sub(b" ", head[2:]).replace(b"#", b" ").split(None, 3)[:3])
        samples = 1 if head.startswith(b"P5") else 3
    if not (1 <= samples <= 4 and 1 <= white <= 65535):
        return None
    return Extent("ppm", height, width, 1 if samples < 3 else 3, 1 if white < 256 else 2, samples in (2, 4))


def _tiff(peek: Peek) -> Extent | None:
    pages = read_pages(peek)
    if area.is_raw(pages):
        return _of_area(area.of_pages(pages))
    order = pages.layout.order
    main = next((i for i, page in enumerate(pages.chain) if not page.integer(254, order, 0) & 1), 0)
    structure = read_structure(File(pages.layout, pages.chain, main))
    sample_bytes = 4 if structure.sample_format == FLOAT else 1 if structure.bits <= 8 else 2
    if structure.photometric == PALETTE:
        sample_bytes = _palette_bytes(pages, main)
    channels = CHANNELS[structure.colour]
    return Extent("tif", structure.height, structure.width, channels, sample_bytes, structure.has_alpha)


def _palette_bytes(pages: Pages, main: int) -> int:
    """Return the bytes of a palette's samples, which `tiff_samples` takes for 8 bits where none of them says more."""
    colours = pages.chain[main].integers(_COLOUR_MAP, pages.layout.order)
    eight = max(colours, default=0) < 256 or any(all(c % step == 0 for c in colours) for step in (256, 257))
    return 1 if eight else 2


def _raw(peek: Peek) -> Extent | None:
    return _of_area(area.of_file(peek))


def _of_area(found: area.Area | None) -> Extent | None:
    return Extent("raw", found.height, found.width, found.channels, 2, exact=found.exact) if found else None


def _jxl(peek: Peek) -> Extent | None:
    at = 0
    if peek.read(0, 2) != codestream.SIGNATURE:
        box = next((box for box in peek.boxes(0, peek.file_bytes) if box.kind in (b"jxlc", b"jxlp")), None)
        if box is None:
            return None
        at = box.begin + (4 if box.kind == b"jxlp" else 0)
    header = codestream.parse(peek.some(at, _JXL_HEADER_BYTES))
    channels = 1 if header.colours.space == codestream.GREY else 3
    sample_bytes = 4 if header.is_float else 1 if header.bits <= 8 else 2
    return Extent("jxl", header.height, header.width, channels, sample_bytes, codestream.ALPHA in header.extra_channels)


def _avif(peek: Peek) -> Extent | None:
    collection = _items(peek)
    settings = _settings(collection, b"av1C")
    height, width = collection.size
    deep, grey = settings[2] & 0x40, settings[2] & 0x10
    return Extent("avif", height, width, 1 if grey else 3, 2 if deep else 1, _has_alpha(collection))


def _heic(peek: Peek) -> Extent | None:
    collection = _items(peek)
    settings = _settings(collection, b"hvcC")
    height, width = collection.size
    for box in collection.properties.get(collection.primary, ()):  # libheif crops and turns, in this order
        if box.kind == b"clap":
            across, across_parts, down, down_parts = struct.unpack_from(">4I", box.content)
            if not (across_parts and down_parts) or across % across_parts or down % down_parts:
                return None
            height, width = down // down_parts, across // across_parts
        if box.kind == b"irot" and box.content[0] & 1:
            height, width = width, height
    alpha = _has_alpha(collection)
    # pi_heif gives grey with alpha as RGB with alpha.
    deep, grey = settings[17] & 7, settings[16] & 3 == 0 and not alpha
    return Extent("heic", height, width, 1 if grey else 3, 2 if deep else 1, alpha)


def _items(peek: Peek) -> Collection:
    """Read what a HEIF file says of its pictures, without where they lie: a damaged table of places takes hours."""
    meta = next((box for box in peek.boxes(0, peek.file_bytes) if box.kind == b"meta"), None)
    wanted = [box for box in peek.boxes(meta.begin + 4, meta.end) if box.kind in _ITEM_BOXES] if meta else []
    if sum(box.end - box.begin for box in wanted) > _MOST_DIRECTORY_BYTES:
        raise InputError(f"got a directory of picture items of more than {_MOST_DIRECTORY_BYTES} bytes")
    inner = b"".join(Box(box.kind, peek.read(box.begin, box.end - box.begin)).to_bytes() for box in wanted)
    return items.parse(Box(b"meta", bytes(4) + inner).to_bytes())


def _settings(collection: Collection, kind: bytes) -> bytes:
    """Return a codec's settings for the main picture, or for the first tile of it."""
    parts = (r.targets for r in collection.references if r.kind == b"dimg" and r.source == collection.primary)
    tiles = next((targets[:1] for targets in parts if targets), ())
    found = (first(collection.properties.get(item, ()), kind) for item in (collection.primary, *tiles))
    return next((settings for settings in found if settings is not None), b"")


def _has_alpha(collection: Collection) -> bool:
    for reference in collection.references:
        if reference.kind == b"auxl" and collection.primary in reference.targets:
            kind = first(collection.properties.get(reference.source, ()), b"auxC") or b""
            if kind[4:].split(b"\0")[0].endswith((b":alpha", b"auxid:1")):
                return True
    return False


_READERS: dict[str, Callable[[Peek], Extent | None]] = {
    "jpg": _jpeg, "png": _png, "webp": _webp, "ppm": _ppm, "tif": _tiff, "raw": _raw, "jxl": _jxl, "avif": _avif,
    "heic": _heic,
}  # fmt: skip
