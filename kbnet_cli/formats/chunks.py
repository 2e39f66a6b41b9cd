"""The chunks of a PNG file (W3C PNG, third edition, section 5)."""

import zlib
from dataclasses import dataclass

from kbnet_cli.errors import InputError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_TEXT_BYTES = 1 << 26
"""Compressed metadata of more than 64 MB in a file are a bomb: ICC profiles and XMP packets end far below."""
_STEP_BYTES = 1 << 20


@dataclass(frozen=True)
class Chunk:
    """One chunk: a name of four letters and its content."""

    name: bytes
    content: bytes

    def to_bytes(self) -> bytes:
        """Return the chunk as it stands in a file, checksum included."""
        check = zlib.crc32(self.content, zlib.crc32(self.name))
        return len(self.content).to_bytes(4, "big") + self.name + self.content + check.to_bytes(4, "big")

    @property
    def ancillary(self) -> bool:
        """Whether the picture can be decoded without it."""
        return bool(self.name[0] & 0x20)

    @property
    def safe_to_copy(self) -> bool:
        """Whether its author says that it stays true when pixels change."""
        return bool(self.name[3] & 0x20)


@dataclass(frozen=True)
class Header:
    """What IHDR says."""

    width: int
    height: int
    depth: int
    colour_type: int
    interlace: int


@dataclass(frozen=True)
class Structure:
    """A PNG file taken apart."""

    header: Header
    chunks: tuple[Chunk, ...]
    """All chunks in order, IHDR and IEND included."""
    trailing: bytes
    """What stands behind the end of the picture."""

    def first(self, name: bytes) -> bytes | None:
        """Return the content of the first chunk of that name."""
        return next((chunk.content for chunk in self.chunks if chunk.name == name), None)


def parse(data: bytes) -> Structure:
    """Take a PNG file apart and check every checksum.

    Raises:
        InputError: If it is cut short, damaged, or not built like a PNG file.
    """
    chunks: list[Chunk] = []
    at = len(SIGNATURE)
    if not data.startswith(SIGNATURE):
        raise InputError("got a PNG signature that was changed on the way", hint="copy the file again in binary mode")
    while True:
        size = int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        end = at + 12 + size
        if end > len(data):
            raise InputError("the PNG file is cut short", hint="copy the file again from where it came from")
        if not name.isalpha():
            raise InputError(f"got {name!r} for a PNG chunk, expected four letters: the file is damaged")
        chunk = Chunk(name, data[at + 8 : end - 4])
        if zlib.crc32(chunk.content, zlib.crc32(name)) != int.from_bytes(data[end - 4 : end], "big"):
            raise InputError(f"the checksum of PNG chunk {name.decode()} is wrong: the file is damaged")
        if (not chunks) != (name == b"IHDR"):
            raise InputError(f"got PNG chunk {name.decode()}, expected exactly one IHDR at the beginning")
        chunks.append(chunk)
        at = end
        if name == b"IEND":
            break
    return Structure(_header(chunks[0].content), tuple(chunks), data[at:])


class Inflation:
    """Inflate the compressed blocks of one file, and no more than 64 MB of them together."""

    def __init__(self) -> None:
        self.left = LARGEST_TEXT_BYTES

    def inflate(self, compressed: bytes) -> bytes | None:
        """Return a compressed block, or None if it is broken or more than what is left."""
        stream = zlib.decompressobj()
        pieces: list[bytes] = []
        while not stream.eof:
            step = min(_STEP_BYTES, self.left)
            if step == 0:
                return None
            self.left -= step  # a broken block counts by steps: how far it went is not known
            try:
                pieces.append(stream.decompress(compressed, step))
            except zlib.error:
                return None
            self.left += step - len(pieces[-1])
            compressed = stream.unconsumed_tail
            if not (compressed or pieces[-1] or stream.eof):
                return None
        return b"".join(pieces)


def _header(content: bytes) -> Header:
    if len(content) != 13:
        raise InputError(f"got a PNG header of {len(content)} bytes, expected 13")
    depths = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
    depth, colour_type, compression, filtering, interlace = content[8:13]
    if depth not in depths.get(colour_type, ()):
        raise InputError(f"got PNG colour type {colour_type} with {depth} bits, which does not exist")
    if compression != 0 or filtering != 0 or interlace > 1:
        raise InputError("got a PNG compression, filter or interlace method that does not exist")
    return Header(
        width=int.from_bytes(content[:4], "big"),
        height=int.from_bytes(content[4:8], "big"),
        depth=depth,
        colour_type=colour_type,
        interlace=interlace,
    )
