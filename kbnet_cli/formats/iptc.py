"""IPTC-IIM records as XMP, for formats that hold only XMP.

The pairs are those of the IPTC Photo Metadata Standard, "IIM to XMP mapping": what captions, names and places need.
"""

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from kbnet_cli.formats import xmp

_UTF8_MARK = b"\x1b%G"
_CHARACTER_SET = (1, 90)
_LARGEST_PLAIN_SIZE = 0x7FFF

_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
}
_FIELDS: dict[int, tuple[str, str]] = {
    5: ("dc:title", "Alt"),
    25: ("dc:subject", "Bag"),
    40: ("photoshop:Instructions", ""),
    55: ("photoshop:DateCreated", "date"),
    80: ("dc:creator", "Seq"),
    85: ("photoshop:AuthorsPosition", ""),
    90: ("photoshop:City", ""),
    92: ("Iptc4xmpCore:Location", ""),
    95: ("photoshop:State", ""),
    100: ("Iptc4xmpCore:CountryCode", ""),
    101: ("photoshop:Country", ""),
    103: ("photoshop:TransmissionReference", ""),
    105: ("photoshop:Headline", ""),
    110: ("photoshop:Credit", ""),
    115: ("photoshop:Source", ""),
    116: ("dc:rights", "Alt"),
    120: ("dc:description", "Alt"),
    122: ("photoshop:CaptionWriter", ""),
}
"""Data set of record 2 → XMP property and the kind of its value."""


def records(block: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield record number, data set number and value; a broken block ends early."""
    at = 0
    while at + 5 <= len(block) and block[at] == 0x1C:
        record, dataset = block[at + 1], block[at + 2]
        size = int.from_bytes(block[at + 3 : at + 5], "big")
        at += 5
        if size > _LARGEST_PLAIN_SIZE:
            count = size & _LARGEST_PLAIN_SIZE
            size = int.from_bytes(block[at : at + count], "big")
            at += count
        yield record, dataset, block[at : at + size]
        at += size


def into_xmp(block: bytes, packet: bytes | None) -> bytes | None:
    """Return the packet with the records' fields that it does not have yet, or None where that cannot be done."""
    found = list(records(block))
    is_utf8 = any((record, dataset) == _CHARACTER_SET and value == _UTF8_MARK for record, dataset, value in found)
    values: dict[str, list[str]] = {}
    kinds: dict[str, str] = {}
    for record, dataset, value in found:
        if record == 2 and dataset in _FIELDS:
            name, kind = _FIELDS[dataset]
            kinds[name] = kind
            values.setdefault(name, []).append(_text(value, is_utf8=is_utf8))
    base = packet or _EMPTY
    new = {name: texts for name, texts in values.items() if name.encode() not in base}
    if not new:
        return packet
    inside = "".join(_property(name, kinds[name], texts) for name, texts in new.items())
    spaces = "".join(f" xmlns:{prefix}={quoteattr(address)}" for prefix, address in _NAMESPACES.items())
    extension = f'<rdf:RDF><rdf:Description rdf:about=""{spaces}>{inside}</rdf:Description></rdf:RDF>'
    return xmp.join(base, extension.encode())


_EMPTY = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b"</rdf:RDF></x:xmpmeta>"
)


def _text(value: bytes, *, is_utf8: bool) -> str:
    """Decode a value; without a mark most writers meant UTF-8 or Latin 1."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = value.decode("utf-8", "replace") if is_utf8 else value.decode("latin-1")
    # XML 1.0 has no control characters but these three.
    return "".join(letter for letter in text if letter >= " " or letter in "\t\n\r")


def _property(name: str, kind: str, texts: list[str]) -> str:
    if kind == "date":
        day = texts[0]
        value = f"{day[:4]}-{day[4:6]}-{day[6:8]}" if len(day) == 8 and day.isdigit() else escape(day)
    elif kind == "":
        value = escape(texts[0])
    else:
        language = ' xml:lang="x-default"' if kind == "Alt" else ""
        entries = "".join(f"<rdf:li{language}>{escape(text)}</rdf:li>" for text in texts)
        value = f"<rdf:{kind}>{entries}</rdf:{kind}>"
    return f"<{name}>{value}</{name}>"
