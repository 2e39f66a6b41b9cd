"""Metadata blocks in PNG's chunks, and back."""

import string
import zlib

from kbnet_cli.formats import photoshop
from kbnet_cli.formats.chunks import Chunk, Inflation, Structure
from kbnet_cli.photo import Metadata

XMP_KEYWORD = b"XML:com.adobe.xmp"
_RAW_PROFILES = {
    b"Raw profile type exif": "exif",
    b"Raw profile type APP1": "exif",
    b"Raw profile type xmp": "xmp",
    b"Raw profile type iptc": "iptc",
    b"Raw profile type 8bim": "iptc",
}
"""ImageMagick's and older exiftool's way, from before PNG had eXIf: hexadecimal text."""


def read(structure: Structure) -> Metadata:
    """Find the blocks in a file's chunks; where two chunks hold the same block, the first counts."""
    found: dict[str, bytes] = {}
    inflation = Inflation()
    for chunk in structure.chunks:
        name = kind(chunk)
        if name is None or name in found:
            continue
        block = _block(chunk, inflation)
        if block:
            found[name] = block
    return Metadata(**found)


def build(metadata: Metadata) -> list[Chunk]:
    """Return the chunks that hold these blocks; all belong before the pixels. IPTC has no place in PNG."""
    chunks: list[Chunk] = []
    if metadata.icc is not None:
        chunks.append(Chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(metadata.icc, 9)))
    if metadata.exif is not None:
        chunks.append(Chunk(b"eXIf", metadata.exif))
    if metadata.xmp is not None:
        chunks.append(Chunk(b"iTXt", XMP_KEYWORD + b"\0\0\0\0\0" + metadata.xmp))
    return chunks


def kind(chunk: Chunk) -> str | None:
    """Name the field of Metadata that a chunk belongs to, or None."""
    if chunk.name == b"iCCP":
        return "icc"
    if chunk.name == b"eXIf":
        return "exif"
    keyword = chunk.content.split(b"\0", 1)[0]
    if chunk.name == b"iTXt" and keyword == XMP_KEYWORD:
        return "xmp"
    if chunk.name in (b"tEXt", b"zTXt", b"iTXt"):
        return _RAW_PROFILES.get(keyword)
    return None


def _block(chunk: Chunk, inflation: Inflation) -> bytes | None:
    keyword, _, rest = chunk.content.partition(b"\0")
    if chunk.name == b"eXIf":
        return chunk.content.removeprefix(b"Exif\0\0")
    if chunk.name == b"iCCP":
        return inflation.inflate(rest[1:])
    text = _text(chunk.name, rest, inflation)
    if text is None or keyword == XMP_KEYWORD:
        return text
    return _raw_profile(text)


def _text(name: bytes, rest: bytes, inflation: Inflation) -> bytes | None:
    """Return the text behind a keyword, inflated where it is compressed."""
    if name == b"tEXt":
        return rest
    if name == b"zTXt":
        return inflation.inflate(rest[1:])
    compressed = rest[:1] == b"\1"
    _, _, behind_language = rest[2:].partition(b"\0")
    _, _, text = behind_language.partition(b"\0")
    return inflation.inflate(text) if compressed else text


def _raw_profile(text: bytes) -> bytes | None:
    """Read a name, a length and hexadecimal digits, each on lines of its own."""
    fields = text.split(None, 2)
    if len(fields) != 3:
        return None
    try:
        block = bytes.fromhex(fields[2].translate(None, string.whitespace.encode()).decode("ascii"))
    except ValueError:
        return None
    if block.startswith(b"Exif\0\0"):
        return block[6:]
    if block.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
        return block[29:]
    return photoshop.read_iptc(block) if block.startswith(photoshop.SIGNATURE) else block
