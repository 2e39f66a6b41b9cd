"""What a raw file says about its photo: EXIF, XMP and IPTC from wherever its maker put them."""

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

from kbnet_cli.errors import InputError
from kbnet_cli.formats import boxes, exif, jpeg_metadata, segments
from kbnet_cli.formats.development import ColourSpace
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry, read_chain
from kbnet_cli.formats.raw.report import Report
from kbnet_cli.formats.tiff_blocks import read_blocks
from kbnet_cli.photo import Metadata

_CANON_METADATA = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
_XMP_BOX = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MAKE_AND_MODEL = 0x080A
_PANASONIC_JPEG = 46
_DATES = frozenset({306, 36867})
_SERIAL_NUMBER, _LENS = 42033, 42034
_DNG_SERIAL_NUMBER, _DNG_LENS, _NOISE_PROFILE = 50735, 50736, 51041
_OF_SAMPLES = frozenset({37121, 37122, 40962, 40963, 41730})
"""Components, compression, size and colour filters: of the raw samples or of the camera's own JPEG."""
_NOT_APPLIED = re.compile(rb"""(\bcrs:AlreadyApplied(?:\s*=\s*["']|>))False(?=["'<])""")


@dataclass(frozen=True)
class _Found:
    described: Description
    xmp: bytes | None = None
    iptc: bytes | None = None


_NOTHING = _Found(Description("<"))


def read_metadata(data: bytes, report: Report, *, shown_in: ColourSpace | None = "srgb") -> Metadata:
    """Collect a raw file's blocks; what LibRaw reports fills in what the file's EXIF does not say.

    For a developed photo, shown in a colour space, what speaks of the sensor's samples is left out. None: the photo
    stays raw, and so does what is said about it.
    """
    found = _NOTHING
    with suppress(InputError, struct.error):  # a developed photo is worth having without a damaged block
        found = _read(data)
    reported = _from_report(data, report, shown=shown_in is not None)
    described = _completed(found.described, reported) if found.described else reported
    xmp = found.xmp
    if shown_in is not None:
        described = _developed(described, shown_in)
        # Adobe's programs would put settings for the raw file upon the developed photo.
        xmp = _NOT_APPLIED.sub(rb"\1True", xmp) if xmp else None
    return Metadata(exif=exif.pack(described) if described else None, xmp=xmp, iptc=found.iptc)


def _read(data: bytes) -> _Found:
    if data.startswith(b"FUJIFILMCCD-RAW"):
        offset, size = struct.unpack_from(">II", data, 84)
        return _read_jpeg(data[offset : offset + size])
    if data[4:12] == b"ftypcrx ":
        return _read_boxes(data)
    if data.startswith(b"\0MRM"):
        return next((_read_tiff(block) for name, block in _minolta_blocks(data) if name == b"\0TTW"), _NOTHING)
    return _read_tiff(data)


def _read_jpeg(data: bytes) -> _Found:
    """Read the blocks of the JPEG that a camera puts into a raw file."""
    metadata = jpeg_metadata.read(segments.parse(data).segments).metadata
    described = exif.read(metadata.exif) if metadata.exif is not None else Description("<")
    return _Found(described, metadata.xmp, metadata.iptc)


def _read_tiff(data: bytes) -> _Found:
    first = next(read_chain(data), None)
    if first is None:
        return _NOTHING
    blocks = read_blocks(data, first)
    found = _Found(exif.describe(data, first), blocks.xmp, blocks.iptc)
    developed = first.value(_PANASONIC_JPEG)
    if developed is None or not developed.startswith(b"\xff\xd8"):
        return found
    with suppress(InputError):  # Panasonic tells of lens and exposure in the JPEG alone
        inner = _read_jpeg(developed)
        described = _completed(found.described, inner.described) if found.described else inner.described
        return _Found(described, found.xmp or inner.xmp, found.iptc or inner.iptc)
    return found


def _completed(described: Description, other: Description) -> Description:
    """Return a description with what another one knows beyond it."""
    other = exif.reorder(other, described.order)
    known = {entry.tag for entry in (*described.image, *described.exif)}
    if known & _DATES:
        known |= _DATES  # a date of changing may be that of taking, but not the other way round
    return replace(
        described,
        image=described.image + tuple(entry for entry in other.image if entry.tag not in known),
        exif=described.exif + tuple(entry for entry in other.exif if entry.tag not in known),
        gps=described.gps or other.gps,
        interop=described.interop or other.interop,
    )


def _developed(described: Description, space: ColourSpace) -> Description:
    """Return what a description says of the developed photo: DNG's own tags become EXIF's where it has the same."""
    srgb = space == "srgb"
    number = exif.short(exif.COLOUR_SPACE, 1 if srgb else 0xFFFF, described.order)
    taken = [number if e.tag == exif.COLOUR_SPACE else e for e in described.exif if e.tag not in _OF_SAMPLES]
    known = {entry.tag for entry in taken}
    image = {entry.tag: entry for entry in described.image}
    for old, new in ((_DNG_SERIAL_NUMBER, _SERIAL_NUMBER), (_DNG_LENS, _LENS)):
        entry = image.pop(old, None)
        if entry is not None and new not in known:
            taken.append(replace(entry, tag=new))
    image.pop(_NOISE_PROFILE, None)
    # The camera's own JPEG may have been in Adobe RGB, which is said there as well.
    adobe = any((entry.value or b"").startswith(b"R03") for entry in described.interop)
    return replace(
        described,
        image=tuple(image.values()),
        exif=tuple(taken),
        interop=described.interop if srgb and not adobe else (),
    )


def _read_boxes(data: bytes) -> _Found:
    """Read Canon's CR3: the directories are TIFF streams of their own in boxes CMT1 to CMT4."""
    file = boxes.split(data)
    xmp = next((box.content[16:] for box in file if box.kind == b"uuid" and box.content[:16] == _XMP_BOX), None)
    movie = boxes.split(boxes.first(file, b"moov") or b"")
    canon = next((b.content[16:] for b in movie if b.kind == b"uuid" and b.content[:16] == _CANON_METADATA), b"")
    streams = boxes.split(canon)
    image = boxes.first(streams, b"CMT1")
    first = next(read_chain(image), None) if image else None
    if image is None or first is None:
        return replace(_NOTHING, xmp=xmp)
    described = replace(
        exif.describe(image, first),
        exif=_entries(boxes.first(streams, b"CMT2")) + _maker_note(boxes.first(streams, b"CMT3")),
        gps=_entries(boxes.first(streams, b"CMT4")),
    )
    return _Found(described, xmp)


def _entries(stream: bytes | None) -> tuple[Entry, ...]:
    first = next(read_chain(stream), None) if stream else None
    return exif.portable(first.entries) if first else ()


def _maker_note(stream: bytes | None) -> tuple[Entry, ...]:
    """Return Canon's maker note: a directory whose offsets count from the header of the stream that it is in.

    Put right behind the header of another stream, as it is here, its offsets still hold.
    """
    if not stream or stream[4:8] not in (b"\x08\0\0\0", b"\0\0\0\x08"):
        return ()
    return (Entry(exif.MAKER_NOTE, 7, len(stream) - 8, stream[8:], offset=8),)


def _minolta_blocks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    end = 8 + int.from_bytes(data[4:8], "big")
    at = 8
    while at + 8 <= min(end, len(data)):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        yield data[at : at + 4], data[at + 8 : at + 8 + size]
        at += 8 + size


def _from_report(data: bytes, report: Report, *, shown: bool) -> Description:
    """Describe a photo by what LibRaw found out, and by the camera's name where a CRW file says it."""
    make, model = _make_and_model(data)
    if not (make or report.timestamp or report.iso or report.exposure_seconds):
        return Description("<")
    image = (_text(271, make), _text(272, model), _text(306, report.timestamp))
    taken = (
        _rational(33434, report.exposure_seconds),
        _rational(33437, report.aperture),
        exif.short(34855, round(report.iso), "<") if 0 < report.iso < 65536 else None,
        Entry(36864, 7, 4, b"0232"),  # the version of EXIF that these tags follow
        _text(36867, report.timestamp),
        _rational(37386, report.focal_length_mm),
        exif.short(exif.COLOUR_SPACE, 1, "<") if shown else None,
    )
    return Description(
        "<",
        image=tuple(entry for entry in image if entry is not None),
        exif=tuple(entry for entry in taken if entry is not None),
    )


def _text(tag: int, text: str) -> Entry | None:
    value = text.encode() + b"\0"
    return Entry(tag, 2, len(value), value) if text else None


def _rational(tag: int, value: float) -> Entry | None:
    # LibRaw hands out 32-bit floats: a denominator beyond this would only spell out their rounding.
    fraction = Fraction(value).limit_denominator(10_000) if 0 < value < 1e5 else None
    return Entry(tag, 5, 1, struct.pack("<II", *fraction.as_integer_ratio())) if fraction else None


def _make_and_model(data: bytes) -> tuple[str, str]:
    """Read the camera's name out of Canon's CRW, a heap whose directory stands at its end (CIFF 1.0)."""
    if data[6:14] != b"HEAPCCDR":
        return "", ""
    waiting = [data[int.from_bytes(data[2:6], "little") :]]
    for _ in range(100):
        if not waiting:
            break
        heap = waiting.pop()
        start = int.from_bytes(heap[-4:], "little")
        count = int.from_bytes(heap[start : start + 2], "little")
        for at in range(start + 2, min(start + 2 + 10 * count, len(heap) - 9), 10):
            tag, size, offset = struct.unpack_from("<HII", heap, at)
            value = heap[offset : offset + size]
            if tag == _MAKE_AND_MODEL:
                make, _, rest = value.partition(b"\0")
                return make.decode(errors="replace"), rest.partition(b"\0")[0].decode(errors="replace")
            if tag & 0xF800 in (0x2800, 0x3000):  # a heap within the heap
                waiting.append(value)
    return "", ""
