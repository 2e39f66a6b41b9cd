"""Metadata blocks in JPEG's application segments, and back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kbnet_cli.errors import UnsupportedError
from kbnet_cli.formats import photoshop, xmp
from kbnet_cli.formats.segments import APP1, APP2, APP13, LARGEST_PAYLOAD, Segment
from kbnet_cli.photo import Metadata

EXIF = b"Exif\0\0"
XMP = b"http://ns.adobe.com/xap/1.0/\0"
EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
ICC = b"ICC_PROFILE\0"
PHOTOSHOP = b"Photoshop 3.0\0"

_EXTENDED_HEAD = len(EXTENDED_XMP) + 32 + 4 + 4
"""Signature, GUID, full length, offset."""


@dataclass(frozen=True)
class Found:
    """The blocks of a file and what is odd about them."""

    metadata: Metadata
    notes: tuple[str, ...]


def read(segments: Sequence[Segment]) -> Found:
    """Find the blocks in a file's segments. Of blocks that are there twice the first counts, as with other readers."""
    notes: list[str] = []
    exif = next(_payloads(segments, APP1, EXIF), None)
    main = next(_payloads(segments, APP1, XMP), None)
    extension = _extension(segments)
    if main is not None and extension is not None:
        joined = xmp.join(main, extension)
        if joined is None:
            notes.append("the extended XMP could not be joined with the main packet; only JPEG output keeps it")
        main = joined or main
    icc = _icc(segments)
    if icc is None and any(_payloads(segments, APP2, ICC)):
        notes.append("the ICC profile is incomplete and is not used")
    resources = b"".join(_payloads(segments, APP13, PHOTOSHOP))
    return Found(Metadata(exif or None, main or None, photoshop.read_iptc(resources), icc), tuple(notes))


def build(metadata: Metadata) -> list[Segment]:
    """Return the segments that hold these blocks, in the order in which cameras write them.

    Raises:
        UnsupportedError: If the EXIF block is longer than one segment, and JPEG allows only one.
    """
    segments: list[Segment] = []
    if metadata.exif is not None:
        longest = LARGEST_PAYLOAD - len(EXIF)
        if len(metadata.exif) > longest:
            raise UnsupportedError(
                f"got {len(metadata.exif)} bytes of EXIF, expected at most {longest}, which is all JPEG holds",
                hint="write it with --format tif or --format png",
            )
        segments.append(Segment(APP1, EXIF + metadata.exif))
    if metadata.xmp is not None:
        segments += _build_xmp(metadata.xmp)
    if metadata.iptc is not None:
        resources = photoshop.wrap_iptc(metadata.iptc)
        segments += [Segment(APP13, PHOTOSHOP + piece) for piece in _pieces(resources, len(PHOTOSHOP))]
    if metadata.icc is not None:
        pieces = _pieces(metadata.icc, len(ICC) + 2)
        if len(pieces) > 255:
            raise UnsupportedError(f"got an ICC profile of {len(metadata.icc)} bytes, expected at most 16 MB in JPEG")
        segments += [Segment(APP2, ICC + bytes((i + 1, len(pieces))) + piece) for i, piece in enumerate(pieces)]
    return segments


def kind(segment: Segment) -> str | None:
    """Name the field of Metadata that a segment belongs to, or None."""
    if segment.marker == APP1 and segment.payload.startswith(EXIF):
        return "exif"
    if segment.marker == APP1 and segment.payload.startswith((XMP, EXTENDED_XMP)):
        return "xmp"
    if segment.marker == APP2 and segment.payload.startswith(ICC):
        return "icc"
    if segment.marker == APP13 and segment.payload.startswith(PHOTOSHOP):
        return "iptc"
    return None


def _payloads(segments: Sequence[Segment], marker: int, signature: bytes) -> Iterator[bytes]:
    """Yield what follows the signature in each segment that has it."""
    return (s.payload[len(signature) :] for s in segments if s.marker == marker and s.payload.startswith(signature))


def _build_xmp(packet: bytes) -> list[Segment]:
    if len(XMP) + len(packet) <= LARGEST_PAYLOAD:
        return [Segment(APP1, XMP + packet)]
    main, extension, guid = xmp.part(packet)
    segments = [Segment(APP1, XMP + main)]
    offset = 0
    for piece in _pieces(extension, _EXTENDED_HEAD):
        numbers = len(extension).to_bytes(4, "big") + offset.to_bytes(4, "big")
        segments.append(Segment(APP1, EXTENDED_XMP + guid + numbers + piece))
        offset += len(piece)
    return segments


def _extension(segments: Sequence[Segment]) -> bytes | None:
    """Return the extended XMP packet if all its pieces are there."""
    pieces: dict[int, bytes] = {}
    full = 0
    for payload in _payloads(segments, APP1, EXTENDED_XMP):
        full = int.from_bytes(payload[32:36], "big")
        pieces[int.from_bytes(payload[36:40], "big")] = payload[40:]
    packet = b"".join(piece for _, piece in sorted(pieces.items()))
    return packet if packet and len(packet) == full else None


def _icc(segments: Sequence[Segment]) -> bytes | None:
    """Return the ICC profile if all its pieces are there (ICC.1, annex B.4)."""
    pieces = {payload[0]: payload[2:] for payload in _payloads(segments, APP2, ICC) if len(payload) > 2}
    count = next((payload[1] for payload in _payloads(segments, APP2, ICC) if len(payload) > 2), 0)
    if not pieces or sorted(pieces) != list(range(1, count + 1)):
        return None
    return b"".join(piece for _, piece in sorted(pieces.items()))


def _pieces(block: bytes, head: int) -> list[bytes]:
    size = LARGEST_PAYLOAD - head
    return [block[at : at + size] for at in range(0, len(block), size)]
