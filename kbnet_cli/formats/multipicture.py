"""The multi-picture index of a JPEG file (CIPA DC-007): previews and gain maps that stand behind the picture."""

import struct

from kbnet_cli.formats.segments import APP2, Segment, Structure, parse

SIGNATURE = b"MPF\0"
_ENTRIES = 0xB002
_ENTRY_BYTES = 16


def move(whole: bytes, old: bytes, source: Structure, trailing: bytes) -> bytes:
    """Return a newly written picture with the sizes and offsets in its index made right again.

    `whole` is the new file up to its end-of-image marker; `trailing` will follow it unchanged. Offsets in the index
    count from the index itself. An index that cannot be read is left as it is.
    """
    before = _index(source)
    if before is None or not trailing:
        return whole
    after = _index(parse(whole))
    assert after is not None
    assert before.payload == after.payload
    start_before = before.offset + 4 + len(SIGNATURE)
    start_after = after.offset + 4 + len(SIGNATURE)
    shift = (len(whole) - start_after) - (source.end - start_before)
    payload = bytearray(after.payload)
    view = memoryview(payload)[len(SIGNATURE) :]
    found = _entries(bytes(view))
    if found is None:
        return whole
    order, first, count = found
    for entry in range(first, first + count * _ENTRY_BYTES, _ENTRY_BYTES):
        size, offset = struct.unpack_from(order + "II", view, entry + 4)
        if offset == 0:
            # The picture itself. Some writers count what trails it as its own; the difference stays the same.
            size += len(whole) - source.end
        elif start_before + offset >= source.end and start_before + offset < len(old):
            offset += shift
        struct.pack_into(order + "II", view, entry + 4, size & 0xFFFFFFFF, offset & 0xFFFFFFFF)
    begin = after.offset + 4
    return whole[:begin] + bytes(payload) + whole[begin + len(payload) :]


def _index(structure: Structure) -> Segment | None:
    return next((s for s in structure.segments if s.marker == APP2 and s.payload.startswith(SIGNATURE)), None)


def _entries(block: bytes) -> tuple[str, int, int] | None:
    """Return the byte order, where the entries begin and how many there are."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None or len(block) < 8:
        return None
    at = int(struct.unpack_from(order + "I", block, 4)[0])
    if at + 2 > len(block):
        return None
    (count,) = struct.unpack_from(order + "H", block, at)
    for tag_at in range(at + 2, min(at + 2 + 12 * count, len(block) - 11), 12):
        tag, _, size, offset = struct.unpack_from(order + "HHII", block, tag_at)
        if tag == _ENTRIES and offset + size <= len(block):
            return order, int(offset), int(size) // _ENTRY_BYTES
    return None
