"""What kbnet says of its own work in a photo's XMP.

The namespace is `urn:uuid:115e6744-20a9-4324-a2e9-147e998edd6c#`, its usual prefix `kbnet`; a UUID needs no domain that
could change hands. `kbnet:Restorations` is an ordered array (rdf:Seq) with one structure for each time, the last one
at its end:

| field | value |
|---|---|
| `kbnet:software` | the program: kbnet |
| `kbnet:version` | its version |
| `kbnet:task` | the verb: denoise, derain, deblur, dejpeg |
| `kbnet:weights` | the name of the weights |
| `kbnet:weightsSHA256` | the hash of their file, 64 hexadecimal digits |
| `kbnet:strength` | 0 to 1: how much of the network's answer was added |

There is no time among them: equal work gives equal files.
"""

from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

from kbnet_cli.formats import xmp
from kbnet_cli.photo import Metadata, Photo

NAMESPACE = "urn:uuid:115e6744-20a9-4324-a2e9-147e998edd6c#"
_META = "adobe:ns:meta/ xmpmeta"
_RDF = f"{xmp.RDF} RDF"
_DESCRIPTION = f"{xmp.RDF} Description"
_PROPERTY = f"{NAMESPACE} Restorations"
_ARRAY = f"{xmp.RDF} Seq"
_TO_ARRAY = (_RDF, _DESCRIPTION, _PROPERTY, _ARRAY)
_PATHS = frozenset((*around, *_TO_ARRAY[:length]) for around in ((), (_META,)) for length in range(len(_TO_ARRAY) + 1))
_SPACES = f'xmlns:rdf="{xmp.RDF}" xmlns:kbnet="{NAMESPACE}"'
_EMPTY = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}"></rdf:RDF></x:xmpmeta>\n'
    '<?xpacket end="w"?>'
).encode()


@dataclass(frozen=True)
class Entry:
    """One restoration."""

    version: str
    task: str
    weights: str
    weights_sha256: str
    strength: float
    software: str = "kbnet"


def signed(photo: Photo, entry: Entry) -> Photo:
    """Return the photo with an entry in its XMP, or with a note where its packet cannot take one."""
    metadata = with_provenance(photo.metadata, entry)
    if metadata == photo.metadata:
        note = "the XMP packet is damaged or built oddly: it stays as it is, and says nothing of this restoration"
        return replace(photo, notes=(*photo.notes, note))
    return replace(photo, metadata=metadata)


def with_provenance(metadata: Metadata, entry: Entry) -> Metadata:
    """Return the metadata with an entry at the end of its list; what others wrote stays byte for byte.

    Without a packet a small one is made. One that is not well-formed, or whose extension is missing, is left alone.
    """
    packet = _extended(metadata.xmp or _EMPTY, entry)
    return metadata if packet is None else replace(metadata, xmp=packet)


def _extended(packet: bytes, entry: Entry) -> bytes | None:
    text = xmp.read(packet)
    if text is None or xmp.lacks_extension(text.xml):
        return None
    found = xmp.elements(text.xml, _PATHS)
    if found is None:
        return None
    array, said, rdf = (_first(found, *_TO_ARRAY[:length]) for length in (4, 3, 1))
    meta = _first(found, _META)
    # Each piece declares its own prefixes: in what others wrote they may stand for something else.
    if array is not None:
        changed = xmp.put_last(text.xml, array, _item(entry, _SPACES))
    elif said is not None:
        return None  # somebody made something else of the list, and XMP allows no second one
    elif rdf is not None:
        changed = xmp.put_last(text.xml, rdf, _description(entry))
    elif meta is not None:
        whole = f'<rdf:RDF xmlns:rdf="{xmp.RDF}">'.encode() + _description(entry) + b"</rdf:RDF>"
        changed = xmp.put_last(text.xml, meta, whole)
    else:
        return None
    packet = replace(text, xml=changed).to_bytes()
    return packet if xmp.is_well_formed(packet) else None


def _first(found: list[xmp.Element], *path: str) -> xmp.Element | None:
    """Return the first element at a path, which may stand in the element that XMP puts around it, but in no other."""
    wanted = (path, (_META, *path))
    return min((element for element in found if element.path in wanted), key=lambda each: each.begin, default=None)


def _description(entry: Entry) -> bytes:
    item = _item(entry, "").decode()
    listed = f"<kbnet:Restorations><rdf:Seq>{item}</rdf:Seq></kbnet:Restorations>"
    return f'<rdf:Description rdf:about="" {_SPACES}>{listed}</rdf:Description>\n'.encode()


def _item(entry: Entry, spaces: str) -> bytes:
    fields = {
        "software": entry.software,
        "version": entry.version,
        "task": entry.task,
        "weights": entry.weights,
        "weightsSHA256": entry.weights_sha256,
        "strength": f"{entry.strength:g}",
    }
    inside = "".join(f"<kbnet:{name}>{_text(value)}</kbnet:{name}>" for name, value in fields.items())
    return f'<rdf:li {spaces}{" " if spaces else ""}rdf:parseType="Resource">{inside}</rdf:li>'.encode()


def _text(value: str) -> str:
    """Return a value as XML can hold it: it has no control characters, and no name of a file that is no Unicode."""
    return escape("".join(letter if letter.isprintable() else "?" for letter in value))
