"""XMP packets as text: what it takes to join, part and extend them, without rewriting what others wrote."""

import codecs
import hashlib
import re
from collections.abc import Container
from dataclasses import dataclass
from xml.parsers import expat

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"

_INSIDE_RDF = re.compile(rb"\A(?>.*?<rdf:RDF\b[^<>]*>)(.*)</rdf:RDF\s*>", re.DOTALL)
_END_OF_RDF = re.compile(rb"</rdf:RDF\s*>")
_POINTER = re.compile(
    rb"""(?<!\s)\s*xmpNote:HasExtendedXMP\s*=\s*(?:"[^"]*"|'[^']*')|<xmpNote:HasExtendedXMP>[^<]*</xmpNote:HasExtendedXMP>"""
)
_PACKET_MARKS = re.compile(rb"<\?xpacket\b[^<]*?\?>")
_START_TAG = re.compile(rb"""<([^\s/>"']+)(?:[^"'>]|"[^"]*"|'[^']*')*>""")
_LONG_NAMESPACE = re.compile(rb"""\sxmlns(?::[^\s=]*+)?\s*+=\s*+(?:"[^"]{256}|'[^']{256})""")
"""Parsers write it out before each name: with a long one a file of 100 kB would take a gigabyte."""
_DEEPEST = 16
_MOST_ELEMENTS = 1_000_000
_PIECE_BYTES = 1 << 20
_BLANK = "\0 \t\r\n"
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
"""How a packet begins that is not UTF-8: with a byte order mark, or with the first sign of XML."""


@dataclass(frozen=True)
class Element:
    """Where an element stands in a packet's UTF-8 text."""

    path: tuple[str, ...]
    """Its name and those of the elements around it, outermost first, each as "namespace name"."""
    begin: int
    """Where its start tag begins."""
    end: int
    """Where its end tag begins. Without meaning for an element that is one tag alone."""


@dataclass(frozen=True)
class Text:
    """A packet's XML as UTF-8, and what it takes to write it back as it was."""

    before: str
    xml: bytes
    after: str
    codec: str

    def to_bytes(self) -> bytes:
        """Return the packet in its own encoding, with the blanks and zeros that stood around it."""
        if self.codec == "utf-8":  # without a way through text, so that what is no UTF-8 stays as well
            return self.before.encode() + self.xml + self.after.encode()
        return (self.before + self.xml.decode() + self.after).encode(self.codec)


def is_well_formed(packet: bytes) -> bool:
    """Say whether a packet is XML that can be read. A document type is refused: XMP has none, attacks do."""
    text = read(packet)
    return text is not None and elements(text.xml, ()) is not None


def read(packet: bytes) -> Text | None:
    """Return a packet's text.

    None where it is not in an encoding of Unicode, has a document type, or a namespace much longer than any in use.
    """
    codec = next((codec for mark, codec in _WIDE if packet.startswith(mark)), "utf-8")
    try:
        text = packet.decode(codec)
    except UnicodeDecodeError:
        return None
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    behind = text.lstrip(_BLANK)
    xml = behind.rstrip(_BLANK)
    before = text[: len(text) - len(behind)]
    found = Text(before, xml.encode(), behind[len(xml) :], codec)
    return None if _LONG_NAMESPACE.search(found.xml) else found


def elements(xml: bytes, wanted: Container[tuple[str, ...]]) -> list[Element] | None:
    """List the elements at these paths in the order in which they end.

    None where the packet is not well-formed or has more than a million elements. Paths end at 16 names.
    """
    parser = expat.ParserCreate("utf-8", " ", None)  # which keeps no name longer than needed
    path: list[str] = []
    begins: list[int] = []
    found: list[Element] = []
    count = 0

    def start(name: str, _attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > _MOST_ELEMENTS:
            raise expat.ExpatError("made to hang a reader")
        path.append(name)
        begins.append(parser.CurrentByteIndex)

    def end(_name: str) -> None:
        if len(path) <= _DEEPEST and tuple(path) in wanted:
            found.append(Element(tuple(path), begins[-1], parser.CurrentByteIndex))
        begins.pop()
        path.pop()

    parser.StartElementHandler, parser.EndElementHandler = start, end
    try:
        for at in range(
            0, len(xml), _PIECE_BYTES
        ):  # the parser goes on to the end of a piece whatever it has been told
            parser.Parse(xml[at : at + _PIECE_BYTES], False)
        parser.Parse(b"", True)
    except expat.ExpatError:
        return None
    return found


def put_last(xml: bytes, element: Element, inside: bytes) -> bytes:
    """Return the text with something more at the end of an element; every other byte stays what it was."""
    tag = _START_TAG.match(xml, element.begin)
    assert tag is not None
    if not tag.group().endswith(b"/>"):
        return xml[: element.end] + inside + xml[element.end :]
    opened = tag.group()[:-2] + b">"
    return xml[: tag.start()] + opened + inside + b"</" + tag.group(1) + b">" + xml[tag.end() :]


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


def lacks_extension(packet: bytes) -> bool:
    """Say whether a packet points to an extension that could not be joined with it."""
    return b"HasExtendedXMP" in packet and _POINTER.search(packet) is not None


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
