"""The blocks that ride in a TIFF page's directory: ICC, XMP, IPTC and what makes up EXIF."""

import struct

from kbnet_cli.formats import exif, photoshop
from kbnet_cli.formats.arena import Arena
from kbnet_cli.formats.ifd import Directory, Entry
from kbnet_cli.photo import Metadata

XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
_UNDEFINED, _BYTE, _LONG = 7, 1, 4


def read_blocks(data: bytes, directory: Directory) -> Metadata:
    """Collect the blocks of a directory; EXIF becomes a stream of its own."""
    description = exif.describe(data, directory)
    return Metadata(
        exif=exif.pack(description) if description else None,
        xmp=directory.value(XMP) or None,
        iptc=_read_iptc(directory),
        icc=directory.value(ICC) or None,
    )


def block_entries(metadata: Metadata) -> dict[int, Entry | None]:
    """Make the entries for ICC, XMP and IPTC; None stands for a block that is not there."""
    return {
        XMP: _entry(XMP, _BYTE, metadata.xmp),
        # XMP specification, part 3, and exiftool agree that readers take any type; UNDEFINED never swaps bytes.
        IPTC: _entry(IPTC, _UNDEFINED, metadata.iptc),
        ICC: _entry(ICC, _UNDEFINED, metadata.icc),
    }


def changed_entries(arena: Arena, before: Metadata, after: Metadata) -> dict[int, Entry | None]:
    """Make the entries of a directory that differ between two states of its metadata.

    Raises:
        InputError: the new EXIF is not EXIF.
    """
    blocks = block_entries(after)
    changed: dict[int, Entry | None] = {}
    for tag, was, becomes in (
        (XMP, before.xmp, after.xmp),
        (IPTC, before.iptc, after.iptc),
        (ICC, before.icc, after.icc),
    ):
        if was != becomes:
            changed[tag] = blocks[tag]
    if before.exif != after.exif:
        changed |= dict.fromkeys((*exif.DESCRIPTIVE, *exif.TAKEN, exif.EXIF_POINTER, exif.GPS_POINTER))
        if after.exif is not None:
            described = exif.read(after.exif)
            entries = exif.plant(arena, described)
            changed |= {entry.tag: entry for entry in entries}
    return changed


def _entry(tag: int, kind: int, value: bytes | None) -> Entry | None:
    return Entry(tag, kind, len(value), value) if value else None


def _read_iptc(directory: Directory) -> bytes | None:
    entry = directory.find(IPTC)
    if entry is None or not entry.value:
        resources = directory.value(PHOTOSHOP)
        return photoshop.read_iptc(resources) if resources else None
    if entry.type == _LONG and entry.value[3:4] == b"\x1c" != entry.value[:1]:
        # Some writers took the records for numbers and swapped their bytes on the way.
        count = len(entry.value) // 4
        return struct.pack(f">{count}I", *struct.unpack(f"<{count}I", entry.value))
    return entry.value
