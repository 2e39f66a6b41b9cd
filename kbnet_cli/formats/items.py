"""The items of a HEIF file (ISO/IEC 23008-12): pictures, metadata and how they belong together."""

from dataclasses import dataclass

from kbnet_cli.errors import InputError
from kbnet_cli.formats.boxes import Box, first, split

_ORIENTATIONS = {
    (0, None): 1, (0, 1): 2, (2, None): 3, (0, 0): 4, (1, 0): 5, (3, None): 6, (3, 0): 7, (1, None): 8,
    (2, 0): 2, (2, 1): 4, (1, 1): 7, (3, 1): 5,
}  # fmt: skip
"""EXIF's orientation by quarter turns to the left, then mirror (0 top to bottom, 1 left to right)."""

_LONGEST_NAME = 256
"""Of an auxiliary picture's kind, in bytes; the known ones are URNs of some fifty."""


@dataclass(frozen=True)
class Item:
    """One item: a picture or a metadata block."""

    identifier: int
    kind: bytes
    content_type: bytes = b""
    hidden: bool = False
    in_meta: bool = False
    """Whether extents count from the `idat` box and not from the beginning of the file."""
    extents: tuple[tuple[int, int], ...] = ()
    """Offset and length of each part."""


@dataclass(frozen=True)
class Reference:
    """How one item belongs to others: as thumbnail (thmb), auxiliary (auxl), description (cdsc), composite (dimg)."""

    kind: bytes
    source: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Collection:
    """All items of a file."""

    primary: int
    items: tuple[Item, ...]
    references: tuple[Reference, ...]
    properties: dict[int, tuple[Box, ...]]
    """The properties of each item, in the order in which they apply."""
    idat: bytes

    def of_primary(self, kind: bytes) -> bytes | None:
        """Return the content of the main picture's first property of that kind."""
        return first(self.properties.get(self.primary, ()), kind)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the main picture as stored, before it is turned."""
        extent = self.of_primary(b"ispe") or b""
        return int.from_bytes(extent[8:12], "big"), int.from_bytes(extent[4:8], "big")

    @property
    def orientation(self) -> int:
        """The main picture's orientation as EXIF counts it."""
        turn, mirror = self.of_primary(b"irot"), self.of_primary(b"imir")
        return _ORIENTATIONS[(turn[0] & 3 if turn else 0, mirror[0] & 1 if mirror else None)]

    @property
    def icc(self) -> bytes | None:
        """The main picture's ICC profile."""
        return next((c[4:] for c in self._colours if c[:4] in (b"prof", b"rICC")), None)

    @property
    def cicp(self) -> tuple[int, int, int] | None:
        """Colour primaries, transfer and matrix by number (ITU-T H.273), if they are given."""
        numbers = next((c for c in self._colours if c[:4] == b"nclx" and len(c) >= 10), None)
        if numbers is None:
            return None
        return (
            int.from_bytes(numbers[4:6], "big"),
            int.from_bytes(numbers[6:8], "big"),
            int.from_bytes(numbers[8:10], "big"),
        )

    @property
    def _colours(self) -> list[bytes]:
        return [box.content for box in self.properties.get(self.primary, ()) if box.kind == b"colr"]

    def top_level(self) -> list[Item]:
        """Return the pictures that stand for themselves: not hidden, no thumbnail, no part of another."""
        parts = {t for r in self.references if r.kind == b"dimg" for t in r.targets}
        parts |= {r.source for r in self.references if r.kind in (b"thmb", b"auxl", b"base")}
        metadata = (b"Exif", b"mime", b"uri ")
        return [i for i in self.items if not i.hidden and i.identifier not in parts and i.kind not in metadata]

    def auxiliaries(self) -> list[str]:
        """Name what belongs to the main picture besides alpha: depth maps, gain maps, mattes."""
        names: list[str] = []
        of_primary = (r.source for r in self.references if r.kind == b"auxl" and self.primary in r.targets)
        for source in dict.fromkeys(of_primary):  # each once, however often a damaged file refers to it
            kind = first(self.properties.get(source, ()), b"auxC") or b""
            name = kind[4:_LONGEST_NAME].partition(b"\0")[0].decode("ascii", "replace")
            if not name.endswith((":alpha", "auxid:1")):
                names.append(name.rsplit(":", 1)[-1])
        if any(item.kind == b"tmap" for item in self.items):
            names.append("gain map")
        return names

    def block(self, data: bytes, kind: bytes) -> bytes | None:
        """Return the EXIF ("Exif") or XMP ("mime") block that describes the main picture.

        Raises:
            InputError: If its parts lie upon each other and hold more than the file.
        """
        described = {r.source for r in self.references if r.kind == b"cdsc" and self.primary in r.targets}
        found = [i for i in self.items if i.kind == kind and (kind != b"mime" or b"rdf+xml" in i.content_type)]
        found.sort(key=lambda item: item.identifier not in described)
        if not found:
            return None
        source = self.idat if found[0].in_meta else data
        if sum(length for _, length in found[0].extents) > len(source):  # made to fill the memory
            raise InputError("the directory of picture items is damaged: a block holds more bytes than the file")
        content = b"".join(source[offset : offset + length] for offset, length in found[0].extents)
        if kind == b"Exif":
            # Four bytes tell how far on the TIFF stream begins; some writers put "Exif\0\0" before it.
            content = content[4 + int.from_bytes(content[:4], "big") :].removeprefix(b"Exif\0\0")
        return content or None


def parse(data: bytes) -> Collection:
    """Read the directory of a HEIF file.

    Raises:
        InputError: If it is cut short or has no main picture.
    """
    meta = first(split(data), b"meta")
    if meta is None:
        raise InputError("got a file without a picture item, expected AVIF or HEIC")
    boxes = split(meta[4:])
    primary = first(boxes, b"pitm")
    if primary is None:
        raise InputError("got a file without a main picture")
    try:
        located = _locations(first(boxes, b"iloc") or bytes(8))
        items = tuple(_item(box.content, located) for box in split((first(boxes, b"iinf") or b"")[_count_end(boxes) :]))
        return Collection(
            primary=_number(primary, 4, 4 if primary[0] else 2),
            items=items,
            references=_references(first(boxes, b"iref") or bytes(4)),
            properties=_properties(split(first(boxes, b"iprp") or b"")),
            idat=first(boxes, b"idat") or b"",
        )
    except IndexError as error:
        raise InputError("the directory of picture items is damaged") from error


def _count_end(boxes: tuple[Box, ...]) -> int:
    iinf = first(boxes, b"iinf") or b"\0"
    return 6 if iinf[0] == 0 else 8


def _number(data: bytes, at: int, size: int) -> int:
    digits = data[at : at + size]  # never the whole rest: a directory of many numbers would be copied at each
    if len(digits) < size:
        raise IndexError
    return int.from_bytes(digits, "big")


def _item(content: bytes, located: dict[int, Item]) -> Item:
    wide = 2 if content[0] >= 3 else 0
    identifier = _number(content, 4, 2 + wide)
    kind = content[8 + wide : 12 + wide]
    names = content[12 + wide :].split(b"\0", 2)
    place = located.get(identifier, Item(identifier, b""))
    content_type = names[1] if kind == b"mime" and len(names) > 1 else b""
    if not (kind + content_type).isascii():
        # libheif's binding does not survive such a name.
        raise InputError("the directory of picture items is damaged: it names a type that is no text")
    return Item(identifier, kind, content_type, bool(content[3] & 1), place.in_meta, place.extents)


def _locations(content: bytes) -> dict[int, Item]:
    version = content[0]
    offset_size, length_size = content[4] >> 4, content[4] & 15
    base_size, index_size = content[5] >> 4, content[5] & 15 if version else 0
    part = index_size + offset_size + length_size
    wide = 4 if version == 2 else 2
    at = 6 + wide
    located: dict[int, Item] = {}
    for _ in range(_number(content, 6, wide)):
        identifier = _number(content, at, wide)
        at += wide
        method = content[at + 1] & 15 if version else 0
        at += 2 if version else 0
        base = _number(content, at + 2, base_size)
        at += 2 + base_size
        count = _number(content, at, 2)
        at += 2
        if at + count * part > len(content) or (count > 1 and not part):
            raise IndexError  # many parts that take no bytes here would make work for hours
        extents = []
        for _ in range(count):
            at += index_size
            offset, length = _number(content, at, offset_size), _number(content, at + offset_size, length_size)
            extents.append((base + offset, length))
            at += offset_size + length_size
        located[identifier] = Item(identifier, b"", in_meta=method == 1, extents=tuple(extents))
    return located


def _references(content: bytes) -> tuple[Reference, ...]:
    wide = 4 if content[0] else 2
    references = []
    for box in split(content[4:]):
        count = _number(box.content, wide, 2)
        targets = [_number(box.content, wide + 2 + i * wide, wide) for i in range(count)]
        references.append(Reference(box.kind, _number(box.content, 0, wide), tuple(targets)))
    return tuple(references)


def _properties(boxes: tuple[Box, ...]) -> dict[int, tuple[Box, ...]]:
    known = split(first(boxes, b"ipco") or b"")
    properties: dict[int, tuple[Box, ...]] = {}
    for content in (box.content for box in boxes if box.kind == b"ipma"):
        wide = 4 if content[0] else 2
        size = 2 if content[3] & 1 else 1
        at = 8
        for _ in range(_number(content, 4, 4)):
            identifier = _number(content, at, wide)
            count = content[at + wide]
            at += wide + 1
            indices = [_number(content, at + i * size, size) & (0x7FFF if size == 2 else 0x7F) for i in range(count)]
            at += count * size
            properties[identifier] = tuple(known[i - 1] for i in indices if 0 < i <= len(known))
    return properties
