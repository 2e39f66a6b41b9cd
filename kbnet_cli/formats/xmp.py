"""XMP packets as text: what it takes to join and part them, without rewriting what others wrote."""

import hashlib
import re
from xml.etree import ElementTree

_INSIDE_RDF = re.compile(rb"<rdf:RDF\b[^>]*>(.*)</rdf:RDF\s*>", re.DOTALL)
_END_OF_RDF = re.compile(rb"</rdf:RDF\s*>")
_POINTER = re.compile(
    rb"""\s*xmpNote:HasExtendedXMP\s*=\s*(?:"[^"]*"|'[^']*')|<xmpNote:HasExtendedXMP>[^<]*</xmpNote:HasExtendedXMP>"""
)
_PACKET_MARKS = re.compile(rb"<\?xpacket\b.*?\?>", re.DOTALL)


def is_well_formed(packet: bytes) -> bool:
    """Say whether a packet is XML that can be read. A document type is refused: XMP has none, attacks do."""
    if b"<!DOCTYPE" in packet or b"<!ENTITY" in packet:
        return False
    try:
        ElementTree.fromstring(packet.strip(b"\0 \t\r\n"))  # noqa: S314 - entities were refused above
    except (ElementTree.ParseError, ValueError):
        return False
    return True


def join(main: bytes, extension: bytes) -> bytes | None:
    """Put what stands in an extended packet into the main one; None where either is not built as XMP is.

    JPEG parts a packet that is too long for one segment; other formats hold it in one piece.
    """
    inside = _INSIDE_RDF.search(extension)
    ends = list(_END_OF_RDF.finditer(main))
    if inside is None or not ends:
        return None
    joined = main[: ends[-1].start()] + inside.group(1) + main[ends[-1].start() :]
    joined = _POINTER.sub(b"", joined)
    return joined if is_well_formed(joined) else None


def part(packet: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a short main packet that points to an extension, the extension, and its GUID.

    The extension is the whole packet without its marks, as the XMP specification, part 3, section 1.1.3.1 wants it.
    """
    extension = _PACKET_MARKS.sub(b"", packet).strip()
    guid = hashlib.md5(extension, usedforsecurity=False).hexdigest().upper().encode()
    main = (
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        b'<rdf:Description rdf:about="" xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="'
        + guid
        + b'"/></rdf:RDF></x:xmpmeta>'
    )
    return main, extension, guid
