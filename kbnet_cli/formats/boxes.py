"""Boxes of the ISO base media file format (ISO/IEC 14496-12), in which AVIF, HEIC and JPEG XL stand."""

from collections.abc import Iterable
from dataclasses import dataclass

from kbnet_cli.errors import InputError


@dataclass(frozen=True)
class Box:
    """One box: a name of four letters and its content."""

    kind: bytes
    content: bytes

    def to_bytes(self) -> bytes:
        """Return the box as it stands in a file."""
        if len(self.content) + 8 < 1 << 32:
            return (len(self.content) + 8).to_bytes(4, "big") + self.kind + self.content
        return (1).to_bytes(4, "big") + self.kind + (len(self.content) + 16).to_bytes(8, "big") + self.content


def split(data: bytes) -> tuple[Box, ...]:
    """Take a run of boxes apart.

    Raises:
        InputError: If a box runs past the end.
    """
    boxes: list[Box] = []
    at = 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        head = 8
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
            head = 16
        elif size == 0:
            size = len(data) - at
        if size < head or at + size > len(data):
            raise InputError(
                f"the file is cut short: box {kind!r} of {size} bytes runs past the end",
                hint="copy the file again from where it came from",
            )
        boxes.append(Box(kind, data[at + head : at + size]))
        at += size
    return tuple(boxes)


def first(boxes: Iterable[Box], kind: bytes) -> bytes | None:
    """Return the content of the first box of that name."""
    return next((box.content for box in boxes if box.kind == kind), None)
