"""Files whose headers tell how large their pictures are, of every kind, and a file that counts what is read of it."""

import base64
import io
import struct

import numpy as np
import tifffile

from kbnet_cli.formats import codec, exif
from kbnet_cli.formats.boxes import Box
from kbnet_cli.formats.depth import convert
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.extent import Extent, extent
from kbnet_cli.formats.ifd import Entry
from kbnet_cli.photo import CHANNELS, ColourModel, Depth, Metadata, Photo
from tests.mosaics import mosaic_dng, patches
from tests.pictures import picture
from tests.test_formats_heic import TURNED
from tests.tiffs import ICC, XMP

# Made by code (x265 by way of libheif): black, 40×30 pixels; grey, grey with alpha, and colour with alpha at 10 bits.
GREY = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAXZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERA"
    "AAEAAQAAAAABmgABAAAAAAAAACEAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA9mlwcnAAAADWaXBjbwAA"
    "AHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrpr"
    "mwIAAAMAMgAAAwACEGIAAQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRpc3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAoAAAAAQAAAB4AAAAB"
    "////6AAAAAL////eAAAAAgAAAA5waXhpAAAAAAEIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAKW1kYXQAAAAdKAGuCCQkGcDbKDSP90rLluSyoQHw"
    "podtwJcoqIA="
)
GREY_ALPHA = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAeZtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA"
    "AAIAAQAAAAACCgABAAAAAAAAACEAAgAAAAACKwABAAAAAAAAACEAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAAAC"
    "AABodmMxAAAAAA5waXRtAAAAAAABAAABJWlwcnAAAAD9aXBjbwAAAHFodmNDAQQIAAAAn/gAAAAAHvAA/Pz4+AAADwNgAAEAF0ABDAH//wQIAAADAJ/4"
    "AAADAAAeugJAYQABACZCAQEECAAAAwCf+AAAAwAAHsCCBBZbqrprmwIAAAMAMgAAAwACEGIAAQAGRAHBc8GJAAAAE2NvbHJuY2x4AAEADQAGgAAAABRp"
    "c3BlAAAAAAAAAEAAAABAAAAAKGNsYXAAAAAoAAAAAQAAAB4AAAAB////6AAAAAL////eAAAAAgAAAA5waXhpAAAAAAEIAAAAJ2F1eEMAAAAAdXJuOm1w"
    "ZWc6aGV2YzoyMDE1OmF1eGlkOjEAAAAAIGlwbWEAAAAAAAAAAgABBYECAwWEAAIFgQMFhoQAAAAaaXJlZgAAAAAAAAAOYXV4bAACAAEAAQAAAEptZGF0"
    "AAAAHSgBrggkJBnA2yg0j/dKy5bksqEB8KaHbcCXKKiAAAAAHSgBrggkJBnA2yg0j/dKy5bksqEB8KaHbcCXKKiA"
)
DEEP_ALPHA = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAmttZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAAAERA"
    "AAIAAQAAAAACjwABAAAAAAAAACIAAgAAAAACsQABAAAAAAAAACEAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZlAgAAAAAC"
    "AABodmMxAAAAAA5waXRtAAAAAAABAAABqmlwcnAAAAGCaXBjbwAAAHVodmNDAQQIAAAAnbgAAAAAHvAA/P36+gAADwNgAAEAF0ABDAH//wQIAAADAJ24"
    "AAADAAAeugJAYQABACpCAQEECAAAAwCduAAAAwAAHqAggQTZbqrprm4CGgwIAAADAMgAAAMACEBiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAA"
    "AAAUaXNwZQAAAAAAAABAAAAAQAAAAChjbGFwAAAAKAAAAAEAAAAeAAAAAf///+gAAAAC////3gAAAAIAAAAQcGl4aQAAAAADCgoKAAAAcWh2Y0MBBAgA"
    "AACd+AAAAAAe8AD8/Pr6AAAPA2AAAQAXQAEMAf//BAgAAAMAnfgAAAMAAB66AkBhAAEAJkIBAQQIAAADAJ34AAADAAAewIIEE2W6q6a5sCAAAAMDIAAA"
    "AwAhYgABAAZEAcFzwYkAAAAOcGl4aQAAAAABCgAAACdhdXhDAAAAAHVybjptcGVnOmhldmM6MjAxNTphdXhpZDoxAAAAACBpcG1hAAAAAAAAAAIAAQWB"
    "AgMFhAACBYYDB4iEAAAAGmlyZWYAAAAAAAAADmF1eGwAAgABAAEAAABLbWRhdAAAAB4oAa8EEhJM4PgEdIP/SSRVASCs6LR0ociXEJO7asAAAAAdKAGu"
    "CCQkGcDbKZiP+klLluSyoQHwpodtwJcoqIA="
)


class Counting(io.BytesIO):
    """A file that counts what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads = 0
        self.read_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.reads += 1
        self.read_bytes += len(found)
        return found


def told(data: bytes) -> Extent | None:
    file = Counting(data)
    found = extent(file, len(data))
    assert file.reads <= 2 * 256
    assert file.read_bytes <= 1 << 20
    return found


def photo_of(depth: Depth, colour: ColourModel, *, alpha: bool, metadata: Metadata | None = None) -> Photo:
    pixels = picture(33, 47, depth=16 if depth == 32 else depth)
    pixels = np.concatenate([pixels, pixels[:, :, :1]], axis=2)
    if depth == 32:
        pixels = convert(pixels, from_depth=16, to_depth=32)
    opacity = pixels[:, ::-1, 0].copy() if alpha else None
    kept = pixels[:, :, : CHANNELS[colour]].copy()
    return Photo(kept, colour, depth, alpha=opacity, metadata=metadata or Metadata())


def stream(*entries: Entry) -> bytes:
    return exif.pack(Description("<", image=entries))


def long(tag: int, value: int) -> Entry:
    return Entry(tag, 4, 1, struct.pack("<I", value))


def nef() -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as out:
        out.write(np.zeros((8, 12, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=2, metadata=None)
        out.write(np.zeros((48, 64, 3), np.uint8), photometric="rgb", subfiletype=1, metadata=None)
        out.write(np.zeros((52, 70), np.uint16), photometric=32803, metadata=None)
    return buffer.getvalue()


def of_canon() -> bytes:
    data = bytearray(exif.pack(Description("<", exif=(long(40962, 70), long(40963, 52)))))
    assert struct.unpack_from("<I", data, 4) == (8,)
    # Behind the header stands Canon's mark, so the directories move on by eight bytes.
    moved = bytearray(stream_moved(bytes(data), 8))
    moved[4:16] = struct.pack("<I", 16) + b"CR\2\0" + bytes(4)
    return bytes(moved)


def stream_moved(data: bytes, by: int) -> bytes:
    """Move a stream that has nothing but a pointer to EXIF's directory, whose values are in its entries."""
    moved = bytearray(data[:8] + bytes(by) + data[8:])
    (count,) = struct.unpack_from("<H", moved, 8 + by)
    for at in range(10 + by, 10 + by + 12 * count, 12):
        if struct.unpack_from("<H", moved, at) == (34665,):
            struct.pack_into("<I", moved, at + 8, struct.unpack_from("<I", moved, at + 8)[0] + by)
    return bytes(moved)


def of_canon_boxes() -> bytes:
    inner = Box(b"CMT1", stream(long(256, 70), long(257, 52))).to_bytes()
    canon = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48") + inner
    parts = (Box(b"ftyp", b"crx \0\0\0\1crx "), Box(b"moov", Box(b"uuid", canon).to_bytes()), Box(b"mdat", bytes(9)))
    return b"".join(part.to_bytes() for part in parts)


def of_canon_heap() -> bytes:
    def heap(*records: tuple[int, bytes]) -> bytes:
        values, table = b"", struct.pack("<H", len(records))
        for tag, value in records:
            table += struct.pack("<HII", tag, len(value), len(values))
            values += value
        return values + table + struct.pack("<I", len(values))

    image = heap((0x1810, struct.pack("<IIf", 70, 52, 1.0) + bytes(16)))
    return b"II" + struct.pack("<I", 26) + b"HEAPCCDR" + bytes(12) + heap((0x2005, bytes(99)), (0x300A, image))


def of_fuji(*tags: int) -> bytes:
    records = b"".join(struct.pack(">HHHH", tag, 4, 52 + i, 70 + i) for i, tag in enumerate(tags))
    header = b"FUJIFILMCCD-RAW ".ljust(92, b"\0") + struct.pack(">II", 200, 4 + len(records))
    return (
        header.ljust(200, b"\0") + struct.pack(">I", len(tags) + 1) + struct.pack(">HH", 0x2000, 3) + b"abc" + records
    )


def of_panasonic() -> bytes:
    borders = (long(2, 80), long(3, 60), long(4, 4), long(5, 6), long(6, 56), long(7, 76))
    tail = stream(*(long(300 + i, 0) for i in range(6)))
    assert len(tail) > 8
    table = struct.pack("<H", 6) + b"".join(struct.pack("<HHI", e.tag, 4, 1) + (e.value or b"") for e in borders)
    return b"IIU\0" + struct.pack("<I", 8) + table + bytes(4)


RAW = {
    "nef": nef(),
    "cr2": of_canon(),
    "cr3": of_canon_boxes(),
    "crw": of_canon_heap(),
    "raf": of_fuji(0x121, 0x111, 0x100),
    "rw2": of_panasonic(),
    "orf": b"IIRO" + stream(long(256, 70), long(257, 52))[4:],
    "mrw": b"\0MRM" + bytes(4) + b"\0PRD" + bytes(4) + b"27730001" + struct.pack(">4H", 60, 80, 52, 70),
    "x3f": b"FOVb" + struct.pack("<I", 0x20001) + bytes(20) + struct.pack("<II", 70, 52),
    "qtk": b"qktk".ljust(544, b"\0") + struct.pack(">HH", 52, 70),
}
"""Files of camera makers as far as their sizes go."""


SAMPLES = {
    "jpg": codec.encode(photo_of(8, "rgb", alpha=False, metadata=Metadata(icc=ICC)), "jpg").data,
    "png": codec.encode(photo_of(16, "rgb", alpha=True, metadata=Metadata(icc=ICC)), "png").data,
    "tif": codec.encode(photo_of(16, "rgb", alpha=True, metadata=Metadata(icc=ICC)), "tif").data,
    "webp": codec.encode(photo_of(8, "rgb", alpha=True, metadata=Metadata(icc=ICC)), "webp").data,
    "avif": codec.encode(photo_of(10, "rgb", alpha=True), "avif").data,
    "jxl": codec.encode(photo_of(16, "grey", alpha=True, metadata=Metadata(xmp=XMP)), "jxl").data,
    "ppm": codec.encode(photo_of(16, "rgb", alpha=True), "ppm").data,
    "heic": TURNED,
    "dng": mosaic_dng(patches([(0.2, 0.4, 0.3)], 12)),
    **RAW,
}
