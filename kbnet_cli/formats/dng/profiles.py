"""Further camera profiles inside a DNG file: streams of their own whose offsets count from their own beginning.

DNG specification 1.7, ExtraCameraProfiles. They speak of the camera's colours, so they hold for any of its samples.
"""

import struct
from contextlib import suppress

from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena
from kbnet_cli.formats.dng.source import Source
from kbnet_cli.formats.dng.values import longs
from kbnet_cli.formats.ifd import Entry, Layout, Order, read_directory

_EXTRA = 50933
_MAGIC = 0x4352
_HEAD_BYTES = 8
_MOST, _MOST_BYTES = 64, 2**22
"""Profiles of a file, and bytes of one: a large one with tables has a fifth of that."""


def plant(arena: Arena, source: Source | None) -> dict[int, Entry]:
    """Store the profiles of a file in a stream, and return the entry that leads to them; nothing if there are none."""
    offsets = source.integers(_EXTRA)[:_MOST] if source is not None else ()
    found = [_read(source.data, offset) for offset in offsets] if source is not None else []
    places = [arena.put(profile) for profile in found if profile is not None]
    return {_EXTRA: longs(_EXTRA, arena.layout.order, *places)} if places else {}


def _read(data: bytes, offset: int) -> bytes | None:
    """Return a profile as a stream without what lies around it; None where there is none that can be read."""
    head = data[offset : offset + _HEAD_BYTES]
    order: Order = "<" if head[:2] == b"II" else ">"
    if len(head) < _HEAD_BYTES or head[:2] not in (b"II", b"MM"):
        return None
    magic, first = struct.unpack(f"{order}HI", head[2:])
    layout = Layout(order)
    if magic != _MAGIC:
        return None
    with suppress(InputError):
        directory = read_directory(data[offset : offset + _MOST_BYTES], layout, first)
        profile = Arena(head, layout)
        start = profile.add_directory(exif.portable(directory.entries))
        profile.write(0, head[:4] + layout.pack_offset(start))
        return profile.to_bytes()
    return None
