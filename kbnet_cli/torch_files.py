"""What a .pth says is in it, and whether that can be: zip archives of torch 1.6 and later, and the files of older ones.

All this is found out before torch loads the file, because torch believes it.
"""

import struct
import zipfile
from io import BytesIO
from typing import BinaryIO, cast

from kbnet_cli.pickles import UnreadableError, described, quoted

TABLE_BYTES_AT_MOST = 4 << 20
"""What a file's table of contents may take: a published KBNet's takes 0.2 MB."""
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LOCAL_HEADER = struct.Struct("<4s22xHH")
"""Of an entry of a zip: its mark, and the lengths of its name and of what is between name and content."""


def describe_archive(file: BinaryIO, size: int) -> object:
    """Return what the pickle in a zip archive describes, after a look at the archive itself.

    Raises:
        UnreadableError: it is damaged, compressed, overlapping, a program, or wants something run.
    """
    entries = _entries(file, size)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnreadableError(
            "a zip archive, but not one that torch wrote", hint="expected a .safetensors or .pth file; unpack it first"
        )
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in entries:
        raise UnreadableError(
            "holds a TorchScript program, which is never run", hint="expected a .pth with nothing but the state dict"
        )
    if f"{folder}byteorder" in entries:
        position, length = entries[f"{folder}byteorder"]
        if _bytes(file, position, min(length, 16)) != b"little":
            raise UnreadableError("written by a big-endian machine", hint="save it as .safetensors there")
    position, length = entries[pickles[0]]
    if length > TABLE_BYTES_AT_MOST:
        raise UnreadableError(
            f"its table of contents has {length:,} bytes, expected {TABLE_BYTES_AT_MOST:,} at most",
            hint="expected a .pth with nothing but the state dict of a KBNet",
        )
    content, storages = described(BytesIO(_bytes(file, position, length)))
    for key, storage in storages.items():
        _, length = entries.get(f"{folder}data/{key}", (0, -1))
        if length != storage.elements * storage.item_bytes:
            raise UnreadableError(
                f"storage {quoted(key)} has {max(length, 0)} bytes in it, expected {storage.elements} numbers of "
                f"{storage.item_bytes}"
            )
    return content


class _Limited:
    """A file of which the zip module gets to read so much and no more: it believes any size of its directory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.left = TABLE_BYTES_AT_MOST
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        data = self.file.read(self.left + 1 if count < 0 else min(count, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise UnreadableError("a zip archive with more entries than any KBNet has tensors")
        return data


def _entries(file: BinaryIO, size: int) -> dict[str, tuple[int, int]]:
    """Return where each entry's content lies: stored as it is, none twice, none over another."""
    try:
        archive = zipfile.ZipFile(cast("BinaryIO", _Limited(file)))
        entries, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError, struct.error) as error:
        raise UnreadableError("a zip archive that is cut off or damaged") from error
    if len({entry.filename for entry in entries}) < len(entries):
        raise UnreadableError("a zip archive that has entries of the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.file_size != entry.compress_size:
            raise UnreadableError(
                f"a zip archive with compressed or encrypted entries ({quoted(entry.filename)}), which torch never "
                "writes: it may be a zip bomb",
                hint="if you trust it, unpack it and pack it again without compression",
            )
    if sum(entry.file_size for entry in entries) > size:
        raise UnreadableError("a zip bomb: its entries are larger than the file", hint="do not use it")
    entries.sort(key=lambda entry: entry.header_offset)
    # Where there is something in front or behind, another reader may find another directory.
    if archive.comment or not entries or entries[0].header_offset:
        raise UnreadableError("a zip archive with something before its first entry or behind its directory")
    places = {}
    for entry, next_start in zip(entries, [*(entry.header_offset for entry in entries[1:]), end], strict=True):
        start = entry.header_offset
        mark, name_length, extra_length = (
            LOCAL_HEADER.unpack(_bytes(file, start, LOCAL_HEADER.size)) if start >= 0 else (b"", 0, 0)
        )
        position = start + LOCAL_HEADER.size + name_length + extra_length
        if mark != b"PK\x03\x04" or position + entry.file_size > next_start:
            raise UnreadableError("a zip archive whose entries overlap or are damaged: it may be a zip bomb")
        places[entry.filename] = (position, entry.file_size)
    return places


def describe_legacy(file: BinaryIO, size: int) -> object:
    """Return what a file of torch 1.5 or older describes: pickles, one after the other, then storages.

    Raises:
        UnreadableError: it is damaged, none that torch wrote, or wants something run.
    """
    front = BytesIO(_bytes(file, 0, min(size, TABLE_BYTES_AT_MOST)))
    magic, _ = described(front)
    if magic != LEGACY_MAGIC:
        raise UnreadableError(
            "a bare pickle, not a checkpoint of tensors only", hint="save it again with torch.save, or as .safetensors"
        )
    described(front)  # the version, always the same
    system, _ = described(front)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnreadableError("written by a big-endian machine", hint="save it as .safetensors there")
    content, storages = described(front)
    keys, _ = described(front)
    position = front.tell()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*keys} != {*storages}:
        raise UnreadableError("its list of storages is damaged")
    for key in keys:
        storage = storages[key]
        # Each begins with the number of its elements.
        if _bytes(file, position, 8) != struct.pack("<q", storage.elements):
            raise UnreadableError(f"storage {quoted(key)} has not the {storage.elements} numbers it should have")
        position += 8 + storage.elements * storage.item_bytes
        if position > size:
            raise UnreadableError("cut off: there is less in it than it says")
    return content


def _bytes(file: BinaryIO, position: int, count: int) -> bytes:
    file.seek(position)
    data = file.read(count)
    if len(data) < count:
        raise UnreadableError("cut off: there is less in it than it says")
    return data
