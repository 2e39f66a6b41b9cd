"""Files with their picture alone: what encoders of the same format need of where a photo came from, and no more.

An encoder carries over from `Origin.data` what no other format knows: sampling, colours by number, the depth of each
channel, but also comments, text, previews and further pages. A bare file has only the former. AVIF needs no such file:
of its source only properties of the picture come along. HEIC and Netpbm leave nothing but pixels and colours. Of camera
raw a DNG carries over what its own kind knows, so a DNG loses the tags that are not about samples and their colours.
"""

from dataclasses import replace

from kbnet_cli.errors import KBNetError
from kbnet_cli.formats import boxes, chunks, codestream, exif, multipicture, riff, segments
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.dng.source import read_source
from kbnet_cli.formats.ifd import Entry
from kbnet_cli.formats.segments import APP0, APP2, APP14
from kbnet_cli.formats.tiff_blocks import IPTC, PHOTOSHOP, XMP
from kbnet_cli.formats.tiff_rewrite import STORAGE, Picture, add_page
from kbnet_cli.formats.tiff_structure import check_whole, read_file, read_structure
from kbnet_cli.photo import Origin

_JFIF_BYTES, _ADOBE_BYTES = 14, 12
_OF_PNG = (
    b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND",
    b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"bKGD", b"hIST", b"pHYs",
)  # fmt: skip
"""Pixels, colours by number, background, resolution."""
_OF_WEBP = (b"VP8X", b"VP8 ", b"VP8L", b"ALPH")
_OF_JXL = (b"jxlc", b"jxlp")
_ALPHA_FLAG = 0x10
_OF_TIFF = STORAGE | {529, 530, 531, 532} | {280, 281, 290, 291, 301, 332, 336, 340, 341}
"""How samples are stored, and what they mean: YCbCr, inks, response curves, ranges."""
_PLACES, _SIZES = (273, 324), (279, 325)
_OLD_JPEG = 6
_PRIVATE_OF_DNG = (
    (exif.DESCRIPTIVE - {271, 272, 274, 282, 283, 296, 50708, 50736, 51041})
    | {XMP, IPTC, PHOTOSHOP, exif.EXIF_POINTER, exif.GPS_POINTER}
    | {exif.MAKER_NOTE, 42032, 42033, 42037}  # owner and serial numbers, which belong into EXIF's own directory
    | {50740, 50741, 50781, 50828, 50972, 50973}  # the maker's private data; what tells the raw file from others
)
_SUB_DIRECTORIES = 330


def bare(origin: Origin) -> Origin | None:
    """Return where a photo came from with the picture alone, or None where it takes more than that to read it."""
    maker = {"jpg": _jpeg, "png": _png, "tif": _tiff, "webp": _webp, "jxl": _jxl, "raw": _dng}.get(origin.format)
    if maker is None:
        return origin
    data = maker(origin.data)
    return None if data is None else replace(origin, data=data)


def holds_more_pictures(origin: Origin) -> bool:
    """Say whether a file holds pictures beside the photo that its format's encoder would carry over."""
    try:
        if origin.format == "jpg":
            structure = segments.parse(origin.data)
            behind = len(origin.data) > structure.end
            return behind and any(
                s.marker == APP2 and s.payload.startswith(multipicture.SIGNATURE) for s in structure.segments
            )
        if origin.format == "tif":
            file = read_file(origin.data)
            return len(file.pages) > 1 or file.directory.find(_SUB_DIRECTORIES) is not None
    except KBNetError:
        return False
    return False


def _jpeg(data: bytes) -> bytes:
    """Keep the heads of JFIF and Adobe, which tell how the components are meant; both may hold more than that."""
    structure = segments.parse(data)
    heads = []
    for segment in structure.segments:
        if segment.marker == APP0 and segment.payload.startswith(b"JFIF\0"):
            # The last two of its bytes are the size of a thumbnail, which stands behind them.
            heads.append(replace(segment, payload=segment.payload[: _JFIF_BYTES - 2].ljust(_JFIF_BYTES, b"\0")))
        if segment.marker == APP14 and segment.payload.startswith(b"Adobe"):
            heads.append(replace(segment, payload=segment.payload[:_ADOBE_BYTES]))
    coded = (data[begin:end] for begin, end in structure.coded)
    return b"".join([data[:2], *(head.to_bytes() for head in heads), *coded])


def _png(data: bytes) -> bytes:
    kept = (chunk for chunk in chunks.parse(data).chunks if chunk.name in _OF_PNG)
    return chunks.SIGNATURE + b"".join(chunk.to_bytes() for chunk in kept)


def _webp(data: bytes) -> bytes:
    kept = [chunk for chunk in riff.parse(data).chunks if chunk.name in _OF_WEBP]
    return riff.assemble([_only_alpha(chunk) if chunk.name == b"VP8X" else chunk for chunk in kept])


def _only_alpha(chunk: riff.Chunk) -> riff.Chunk:
    """Return the header of a WebP file that promises no profile and no metadata."""
    return replace(chunk, content=bytes((chunk.content[0] & _ALPHA_FLAG,)) + chunk.content[1:])


def _jxl(data: bytes) -> bytes:
    """Return the codestream without the boxes around it."""
    if data.startswith(codestream.SIGNATURE):
        return data
    # A codestream may be parted; each part begins with four bytes that count the parts.
    parts = (box.content[4 if box.kind == b"jxlp" else 0 :] for box in boxes.split(data) if box.kind in _OF_JXL)
    return b"".join(parts)


def _dng(data: bytes) -> bytes:
    """Take private tags out of a DNG's directories and leave everything else where it is; other raw files stay."""
    source = read_source(data)
    if source is None:
        return data
    arena = Arena(data, source.layout)
    for page in {page.offset: page for page in (source.first, source.raw, *source.others)}.values():
        gone = [entry for entry in page.entries if entry.tag in _PRIVATE_OF_DNG]
        for entry in gone:
            if entry.offset is not None and entry.value is not None:
                arena.write(entry.offset, bytes(len(entry.value)))
        if gone:
            arena.replace_directory(page, (entry for entry in page.entries if entry.tag not in _PRIVATE_OF_DNG))
    return arena.to_bytes()


def _tiff(data: bytes) -> bytes | None:
    """Make a file of the photo's page alone, its strips or tiles as they are."""
    file = read_file(data)
    structure = check_whole(data, read_structure(file))
    if structure.compression == _OLD_JPEG:
        return None  # its tags point at tables all over the file
    layout = file.layout
    place, size = (_PLACES[1], _SIZES[1]) if file.directory.find(_PLACES[1]) else (_PLACES[0], _SIZES[0])
    counted = b"".join(map(layout.pack_offset, structure.byte_counts))
    kept = [
        replace(entry, stored=None)
        for entry in file.directory.entries
        if entry.tag in _OF_TIFF and entry.tag not in (*_PLACES, *_SIZES) and entry.value is not None
    ]
    picture = Picture(
        segments=tuple(data[begin:end] for begin, end in structure.spans),
        entries=(*kept, Entry(size, 16 if layout.big else 4, len(structure.byte_counts), counted)),
        offsets_tag=place,
        bits=(structure.bits,) * structure.samples,
    )
    arena = Arena(header(layout, 0), layout)
    arena.write(0, header(layout, add_page(arena, picture, ())))
    return arena.to_bytes()
