"""Small files made to hang a reader, to fill the memory or to crash: each is read or refused at once."""

import io
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kbnet_cli.errors import InputError
from kbnet_cli.formats import chunks, codec, ifd, provenance, tiff_rewrite, xmp
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.boxes import Box, first, split
from kbnet_cli.formats.chunks import LARGEST_TEXT_BYTES, Chunk
from kbnet_cli.formats.extent import extent
from kbnet_cli.formats.ifd import Entry, Layout
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

MOST_SECONDS = 5
"""Of the processor. Each takes some hundredths; before, it was minutes or gigabytes."""
ENTRY = provenance.Entry("1", "denoise", "sidd", "0" * 64, 1.0)
RDF = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}">'.encode()
END = b"</rdf:RDF></x:xmpmeta>"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < MOST_SECONDS


@contextmanager
def peak_below(most_bytes: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most_bytes


def photo(packet: bytes | None = None) -> Photo:
    return Photo(np.ascontiguousarray(picture()), "rgb", 8, metadata=Metadata(xmp=packet))


def test_a_packet_of_blanks_is_searched_once() -> None:
    packet = RDF + b" " * 200_000 + END
    assert not xmp.lacks_extension(packet)
    assert xmp.lacks_extension(packet.replace(END, b" xmpNote:HasExtendedXMP = '0'" + END))
    signed = provenance.signed(photo(packet), ENTRY)
    assert b"kbnet:Restorations" in (signed.metadata.xmp or b"")


def test_a_pointer_is_taken_away_with_the_blanks_before_it() -> None:
    main = RDF + b'<rdf:Description xmlns:xmpNote="n"  \n xmpNote:HasExtendedXMP="0"/>' + END
    joined = xmp.join(main, RDF + b"<rdf:Description/>" + END)
    assert joined == RDF + b'<rdf:Description xmlns:xmpNote="n"/><rdf:Description/>' + END


def test_marks_without_an_end_are_searched_once() -> None:
    packet = b"<?xpacket " * 50_000
    written = codec.decode(codec.encode(photo(packet), "jpg").data)
    assert written.metadata.xmp is not None
    assert xmp.part(b"<?xpacket begin='?'?><a/><?xpacket end='w'?>")[1] == b"<a/>"


def test_an_extension_of_beginnings_is_searched_once() -> None:
    assert xmp.join(RDF + END, b"<rdf:RDF>" * 50_000) is None
    assert xmp.join(RDF + END, b"<rdf:RDF " * 50_000) is None


def test_elements_within_each_other_take_no_room_for_their_paths() -> None:
    packet = RDF + b"<a>" * 30_000 + b"</a>" * 30_000 + END
    paths = {("adobe:ns:meta/ xmpmeta", f"{xmp.RDF} RDF", *["a"] * depth) for depth in range(20)}
    assert len(xmp.elements(packet, paths) or ()) == 15  # of 2 to 16 names
    signed = provenance.signed(photo(packet), ENTRY)
    assert b"kbnet:Restorations" in (signed.metadata.xmp or b"")


def test_packed_metadata_is_not_inflated_without_end() -> None:
    packed = bytes(imagecodecs.brotli_encode(bytes(1 << 27)))
    data = codec.encode(photo(b"<x/>"), "jxl").data + Box(b"brob", b"xml " + packed).to_bytes()
    with pytest.raises(InputError, match="packed metadata"):
        codec.decode(data)


def test_packed_metadata_share_one_limit() -> None:
    # EXIF that is said to begin behind its end: nothing comes of it, however much is unpacked.
    packed = bytes(imagecodecs.brotli_encode(b"\xff" * (LARGEST_TEXT_BYTES // 2 - 1000)))
    bomb = Box(b"brob", b"Exif" + packed).to_bytes()
    plain = codec.encode(photo(b"<x/>"), "jxl").data
    assert codec.decode(plain + bomb * 2).metadata.xmp == b"<x/>"
    with pytest.raises(InputError, match="packed metadata"):
        codec.decode(plain + bomb * 3)


def with_chunks(*added: Chunk) -> bytes:
    first, *others = chunks.parse(codec.encode(photo(), "png").data).chunks
    return chunks.SIGNATURE + b"".join(each.to_bytes() for each in (first, *added, *others))


@pytest.mark.parametrize("name", [b"zTXt", b"iTXt", b"iCCP"])
def test_compressed_chunks_share_one_limit(name: bytes) -> None:
    keyword = {b"iCCP": b"a\0\0", b"zTXt": b"Raw profile type exif\0\0", b"iTXt": b"Raw profile type exif\0\1\0\0\0"}
    exif = Chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(b"\niptc\n 2\n" + b"1c02"))
    half = zlib.compress(bytes(LARGEST_TEXT_BYTES // 2))
    broken = Chunk(name, keyword[name] + half[:-1] + b"?")  # all is inflated, and then the checksum is wrong
    assert codec.decode(with_chunks(broken, exif)).metadata.iptc == b"\x1c\x02"
    assert codec.decode(with_chunks(broken, broken, broken, exif)).metadata.iptc is None


def test_a_compressed_block_may_take_all_that_is_left() -> None:
    inflation = chunks.Inflation()
    assert inflation.inflate(b"no stream") is None
    inflation.left = 2_500_000
    assert inflation.inflate(zlib.compress(bytes(1_500_000))) == bytes(1_500_000)
    assert inflation.left == 1_000_000
    assert inflation.inflate(zlib.compress(bytes(999_999))[:-1]) is None, "cut short"
    assert inflation.inflate(zlib.compress(b"")) == b""
    assert inflation.inflate(zlib.compress(bytes(2))) is None
    assert inflation.left == 0


def test_digits_of_a_profile_may_stand_in_many_pieces() -> None:
    structure = chunks.parse(codec.encode(photo(), "png").data)
    text = b"\nexif\n 8\n" + b"4 \n9 49 2a\t00 " + b"00" * 4
    chunk = Chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    first, *others = structure.chunks
    data = chunks.SIGNATURE + b"".join(each.to_bytes() for each in (first, chunk, *others))
    assert codec.decode(data).metadata.exif == b"II*\0" + bytes(4)


def test_a_width_of_many_digits_is_refused() -> None:
    with pytest.raises(InputError, match="bomb"):
        codec.decode(b"P7\nWIDTH " + b"9" * 400 + b"\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n")


@pytest.mark.parametrize(
    ("width", "known"), [(2**31, True), (2**31 + 1, False), pytest.param(10**399, False, id="long")]
)
def test_a_size_beyond_all_files_is_no_extent(width: int, known: bool) -> None:
    data = f"P7\nWIDTH {width}\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n".encode()
    found = extent(io.BytesIO(data), len(data))
    assert (found is not None) is known
    assert found is None or found.megapixels == width / 1e6


def below(data: bytes, count: int, contents: bytes) -> bytes:
    """Return a TIFF file with many sub-directories of these contents."""
    arena = Arena(data, ifd.read_layout(data))
    (page,) = ifd.read_chain(data)
    places = b"".join(arena.layout.pack_offset(arena.put(contents)) for _ in range(count))
    arena.replace_directory(page, [*page.entries, Entry(330, 4, count, places)])
    return arena.to_bytes()


def test_directories_that_each_hold_the_whole_file_are_not_held_together() -> None:
    data = codec.encode(photo(), "tif").data
    data = below(data, 1000, struct.pack("<HHHIII", 1, 700, 1, 18_000, 8, 0))
    with peak_below(1_000_000):
        assert codec.kind_of(data) == "tif"
    read = codec.decode(data)
    with peak_below(4_000_000):
        written = codec.encode(read, "tif").data
    np.testing.assert_array_equal(codec.decode(written).pixels, read.pixels)
    assert len(written) > len(data), "whatever such a file holds stays where it is"


def test_broken_directories_are_not_read_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    data = codec.encode(photo(), "tif").data
    thrice = struct.pack("<HHII", 700, 1, 40_000, 8) * 3  # refused when the third has been read
    data = below(data, 1000, struct.pack("<H", 3) + thrice + bytes(4))
    read, count = codec.decode(data), 0
    assert len(ifd.read_tree(data, ifd.read_layout(data))) == 1

    def counted(*arguments: object) -> ifd.Directory:
        nonlocal count
        count += 1
        return ifd.read_directory(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tiff_rewrite, "read_directory", counted)
    written = codec.encode(read, "tif").data
    np.testing.assert_array_equal(codec.decode(written).pixels, read.pixels)
    assert 1 < count < 30


def tiled(side: int, tile: bytes, count: int | None = None) -> bytes:
    """Return a TIFF file of JPEG tiles of 16×16 pixels that all lie in one place."""
    layout = Layout("<")
    arena = Arena(header(layout, 0), layout)
    place, many = arena.put(tile), (side // 16) ** 2
    numbers = {256: [side], 257: [side], 258: [8] * 3, 259: [7], 262: [6], 277: [3], 322: [16], 323: [16]}
    numbers |= {324: [place] * many, 325: [count or len(tile)] * many}
    entries = [Entry(tag, 4, len(n), struct.pack(f"<{len(n)}I", *n)) for tag, n in numbers.items()]
    arena.write(0, header(layout, arena.add_directory(entries)))
    return arena.to_bytes()


def test_tiles_may_share_their_bytes_but_not_lie_upon_each_other() -> None:
    blank = bytes(imagecodecs.jpeg8_encode(np.full((16, 16, 3), 90, np.uint8), level=90))
    assert (codec.decode(tiled(640, blank)).pixels == 90).all(), "1600 times the same tile"
    with pytest.raises(InputError, match="upon each other"):
        codec.decode(tiled(640, blank + bytes(100_000)))


def test_more_scans_than_any_jpeg_has_are_refused() -> None:
    file = io.BytesIO()
    Image.new("L", (16, 16), 90).save(file, "JPEG", progressive=True)
    table = b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\0"  # the code 0 ends a block
    scan = b"\xff\xda\0\x08\1\1\0\1\x3f\0" + b"\x0f"  # of four blocks, nothing in each
    for count, taken in ((200, True), (2000, False)):
        data = file.getvalue()[:-2] + table + scan * count + b"\xff\xd9"
        if taken:
            assert (codec.decode(data).pixels == 90).all()
        else:
            with pytest.raises(InputError, match="scans"):
                codec.decode(data)


@pytest.mark.parametrize("equals", ["=", " \n= "])
@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_long_namespace_is_not_written_out_before_each_name(quote: str, equals: str) -> None:
    inside = "".join(f"<a:c{i} a:d{i}=''/>" for i in range(500))
    for length, taken in ((250, True), (40_000, False)):
        packet = RDF + f"<b xmlns:a{equals}{quote}{'x' * length}{quote}>{inside}</b>".encode() + END
        plain = photo(packet)
        with peak_below(2_000_000):
            signed = provenance.signed(plain, ENTRY)
            assert xmp.is_well_formed(packet) is taken
        assert (b"kbnet:Restorations" in (signed.metadata.xmp or b"")) is taken


def test_a_packet_of_too_many_elements_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xmp, "_MOST_ELEMENTS", 40)
    monkeypatch.setattr(xmp, "_PIECE_BYTES", 7)
    packet = RDF + b"<a/>" * 38 + END
    assert xmp.is_well_formed(packet)
    assert not xmp.is_well_formed(packet + b"<")
    assert not xmp.is_well_formed(RDF + b"<a/>" * 39 + END)
    left = provenance.signed(photo(packet), ENTRY)
    assert left.metadata.xmp == packet
    assert left.notes


def test_a_property_said_many_times_is_written_once() -> None:
    data = codec.encode(photo(), "avif").data
    meta = split((first(split(data), b"meta") or b"")[4:])
    iprp = split(first(meta, b"iprp") or b"")
    known, links = first(iprp, b"ipco") or b"", first(iprp, b"ipma") or b""
    count, number = links[10], len(split(known)) + 1
    links = links[:10] + bytes((count + 200,)) + links[11 : 11 + count] + bytes((number,)) * 200
    known += Box(b"pasp", b"\0\0\0\1\0\0\0\1").to_bytes()
    said = Box(b"iprp", Box(b"ipco", known).to_bytes() + Box(b"ipma", links).to_bytes())
    boxes = (said if box.kind == b"iprp" else box for box in meta)
    # Of a source the directory alone is read again, so that the pixels' place need not be true.
    hostile = Box(b"meta", bytes(4) + b"".join(box.to_bytes() for box in boxes)).to_bytes()
    read = codec.decode(data)
    assert read.origin is not None
    written = codec.encode(replace(read, origin=replace(read.origin, data=hostile)), "avif").data
    assert written.count(b"pasp") == 1
