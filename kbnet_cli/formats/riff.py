"""The chunks of a WebP file (RFC 9649, section 2.7)."""

from dataclasses import dataclass

from kbnet_cli.errors import InputError


@dataclass(frozen=True)
class Chunk:
    """One chunk: a name of four characters and its content."""

    name: bytes
    content: bytes

    def to_bytes(self) -> bytes:
        """Return the chunk as it stands in a file, padded to an even length."""
        return self.name + len(self.content).to_bytes(4, "little") + self.content + b"\0" * (len(self.content) % 2)


@dataclass(frozen=True)
class Structure:
    """A WebP file taken apart."""

    chunks: tuple[Chunk, ...]
    trailing: bytes
    """What stands behind the end of the file by its own count."""

    def first(self, name: bytes) -> bytes | None:
        """Return the content of the first chunk of that name."""
        return next((chunk.content for chunk in self.chunks if chunk.name == name), None)


def parse(data: bytes) -> Structure:
    """Take a WebP file apart.

    Raises:
        InputError: If it is cut short.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise InputError(
            f"the WebP file is cut short: got {len(data)} bytes, expected {end}",
            hint="copy the file again from where it came from",
        )
    chunks: list[Chunk] = []
    at = 12
    while at + 8 <= end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if at + 8 + size > end:
            raise InputError(f"the WebP file is damaged: chunk {data[at : at + 4]!r} runs past the end")
        chunks.append(Chunk(data[at : at + 4], data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return Structure(tuple(chunks), data[end:])


def assemble(chunks: list[Chunk]) -> bytes:
    """Return a WebP file of these chunks."""
    body = b"WEBP" + b"".join(chunk.to_bytes() for chunk in chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
