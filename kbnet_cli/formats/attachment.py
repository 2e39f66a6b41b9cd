"""Metadata items and properties attached to the main picture of an AVIF file that an encoder wrote without any."""

from collections.abc import Sequence
from dataclasses import dataclass

from kbnet_cli.formats.boxes import Box, first, split
from kbnet_cli.formats.items import parse

_ESSENTIAL = (b"irot", b"imir", b"clap")
"""Properties without which the picture is shown wrongly."""
_TURNS = {1: (0, None), 2: (0, 1), 3: (2, None), 4: (0, 0), 5: (1, 0), 6: (3, None), 7: (3, 0), 8: (1, None)}
"""Quarter turns to the left and mirror for each EXIF orientation, as libavif writes them."""


@dataclass(frozen=True)
class _Block:
    identifier: int
    kind: bytes
    content_type: bytes
    content: bytes

    def entry(self) -> Box:
        name = b"\0" + (self.content_type + b"\0" if self.content_type else b"")
        return Box(b"infe", b"\2\0\0\0" + self.identifier.to_bytes(2, "big") + b"\0\0" + self.kind + name)

    def description_of(self, primary: int) -> Box:
        return Box(b"cdsc", self.identifier.to_bytes(2, "big") + b"\0\1" + primary.to_bytes(2, "big"))


def orientation_properties(orientation: int) -> list[Box]:
    """Return the transformations that show a picture as this EXIF orientation means it."""
    turn, mirror = _TURNS[orientation]
    properties = [Box(b"irot", bytes((turn,)))] if turn else []
    return properties + ([Box(b"imir", bytes((mirror,)))] if mirror is not None else [])


def attach(file: bytes, *, exif: bytes | None, xmp: bytes | None, properties: Sequence[Box]) -> bytes:
    """Return the file with an EXIF block, an XMP packet and further properties of its main picture.

    The file is one that libavif wrote: `ftyp`, `meta`, `mdat`, fewer than 127 properties, offsets of four bytes.
    """
    boxes = split(file)
    assert [box.kind for box in boxes] == [b"ftyp", b"meta", b"mdat"]
    collection = parse(file)
    identifier = max(item.identifier for item in collection.items) + 1
    blocks = []
    if exif is not None:
        # Four bytes say how far on the TIFF stream begins (ISO/IEC 23008-12, annex A.2.1).
        blocks.append(_Block(identifier, b"Exif", b"", bytes(4) + exif))
    if xmp is not None:
        blocks.append(_Block(identifier + 1, b"mime", b"application/rdf+xml", xmp))
    old_start = len(file) - len(boxes[2].content)
    meta = list(split(boxes[1].content[4:]))
    meta = _with_items(meta, blocks, collection.primary)
    meta = _with_properties(meta, properties, collection.primary)
    size = len(Box(b"meta", bytes(4) + _joined(_with_places(meta, [], 4))).to_bytes())
    places = [(item.identifier, item.extents) for item in collection.items]
    # The table of places has the same size whatever stands in it, so that the place of the data is known by now.
    table = _table_bytes(places, len(blocks))
    start = len(boxes[0].to_bytes()) + size + table + 8
    places = [(i, tuple((at - old_start + start, n) for at, n in extents)) for i, extents in places]
    end = start + len(boxes[2].content)
    for block in blocks:
        places.append((block.identifier, ((end, len(block.content)),)))
        end += len(block.content)
    meta = _with_places(meta, places, 4)
    data = boxes[2].content + b"".join(block.content for block in blocks)
    whole = boxes[0].to_bytes() + Box(b"meta", bytes(4) + _joined(meta)).to_bytes()
    assert len(whole) + 8 == start
    return whole + Box(b"mdat", data).to_bytes()


_Places = Sequence[tuple[int, tuple[tuple[int, int], ...]]]


def _table_bytes(places: _Places, more: int) -> int:
    return sum(6 + 8 * len(extents) for _, extents in places) + 14 * more


def _with_places(meta: list[Box], places: _Places, size: int) -> list[Box]:
    content = bytes(4) + bytes((size << 4 | size, 0)) + len(places).to_bytes(2, "big")
    for identifier, extents in places:
        content += identifier.to_bytes(2, "big") + bytes(2) + len(extents).to_bytes(2, "big")
        content += b"".join(at.to_bytes(size, "big") + n.to_bytes(size, "big") for at, n in extents)
    return [Box(b"iloc", content) if box.kind == b"iloc" else box for box in meta]


def _with_items(meta: list[Box], blocks: list[_Block], primary: int) -> list[Box]:
    entries = b"".join(block.entry().to_bytes() for block in blocks)
    references = b"".join(block.description_of(primary).to_bytes() for block in blocks)
    changed: list[Box] = []
    for box in meta:
        if box.kind == b"iinf":
            assert box.content[0] == 0
            count = int.from_bytes(box.content[4:6], "big") + len(blocks)
            changed.append(Box(b"iinf", bytes(4) + count.to_bytes(2, "big") + box.content[6:] + entries))
            if blocks and first(meta, b"iref") is None:
                changed.append(Box(b"iref", bytes(4) + references))
        elif box.kind == b"iref":
            changed.append(Box(b"iref", box.content + references))
        else:
            changed.append(box)
    return changed


def _with_properties(meta: list[Box], properties: Sequence[Box], primary: int) -> list[Box]:
    old = split(first(meta, b"iprp") or b"")
    known = first(old, b"ipco") or b""
    number = len(split(known)) + 1
    links = bytes(number + i | (0x80 if box.kind in _ESSENTIAL else 0) for i, box in enumerate(properties))
    assert number + len(links) <= 128
    table = first(old, b"ipma") or b""
    assert table[:4] == bytes(4)
    content, at = table[:8], 8
    while at < len(table):
        count = table[at + 2]
        more = links if int.from_bytes(table[at : at + 2], "big") == primary else b""
        content += table[at : at + 2] + bytes((count + len(more),)) + table[at + 3 : at + 3 + count] + more
        at += 3 + count
    new = Box(b"ipco", known + _joined(list(properties))).to_bytes() + Box(b"ipma", content).to_bytes()
    return [Box(b"iprp", new) if box.kind == b"iprp" else box for box in meta]


def _joined(boxes: list[Box]) -> bytes:
    return b"".join(box.to_bytes() for box in boxes)
