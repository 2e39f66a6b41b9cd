"""From any format to any other: what is kept, what is told, what is refused; and real files, kept whole or refused."""

import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from kbnet_cli.errors import InputError, PhotoError, UnsupportedError
from kbnet_cli.formats import chunks, cicp, codec, exif, iptc, items, multipicture, segments
from kbnet_cli.formats.chunks import Chunk
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture
from tests.test_formats_png import file_of

EXIF = exif.with_orientation(None, 8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">'
    b"<dc:title><rdf:Alt><rdf:li>kept</rdf:li></rdf:Alt></dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\2\x05\0\4lost" + b"\x1c\2\x19\0\3one" + b"\x1c\2\x19\0\5tw<o>" + b"\x1c\2\x37\0\x0820260102"
P3 = cicp.profile(cicp.Numbers(12, 13))
WRITTEN = [format.name for format in codec.FORMATS if format.written and not format.camera]


@pytest.mark.parametrize("name", [name for name in WRITTEN if name != "ppm"])
@pytest.mark.parametrize("depth", [8, 16])
def test_blocks_survive_the_way_into_every_format(name: str, depth: int) -> None:
    if name == "jxl":
        pytest.importorskip("pylibjxl")
    photo = Photo(picture(depth=depth), "rgb", 8 if depth == 8 else 16, metadata=Metadata(EXIF, XMP, None, P3))
    encoded = codec.encode(photo, name)
    read = codec.decode(encoded.data)
    assert read.size == photo.size
    assert (read.metadata.xmp, read.metadata.icc) == (XMP, P3)
    assert exif.orientation(read.metadata.exif) == 8
    lost = encoded.depth < depth
    assert any("bits became" in note for note in encoded.notes) == lost
    assert np.abs(read.pixels / read.white - photo.pixels / photo.white).mean() < 0.05


@pytest.mark.parametrize("name", ["png", "webp", "avif", "jxl"])
def test_iptc_goes_into_xmp_where_only_that_has_a_place(name: str) -> None:
    encoded = codec.encode(Photo(picture(), "rgb", 8, metadata=Metadata(xmp=XMP, iptc=IPTC)), name)
    packet = codec.decode(encoded.data).metadata.xmp
    assert packet is not None
    assert b"kept" in packet
    assert b"lost" not in packet
    assert b"<rdf:li>one</rdf:li><rdf:li>tw&lt;o&gt;</rdf:li>" in packet
    assert b"2026-01-02" in packet
    assert any("IPTC" in note for note in encoded.notes)


def test_iptc_alone_makes_a_packet_and_latin_letters_are_read() -> None:
    packet = iptc.into_xmp(b"\x1c\2\x5a\0\4K\xf6ln", None)
    assert packet is not None
    assert "<photoshop:City>Köln</photoshop:City>".encode() in packet


def test_iptc_stays_where_a_png_file_has_it() -> None:
    text = b"\niptc\n" + str(len(IPTC)).encode().rjust(8) + b"\n" + IPTC.hex().encode() + b"\n"
    photo = codec.decode(file_of(picture(), Chunk(b"tEXt", b"Raw profile type iptc\0" + text)))
    assert photo.metadata == Metadata(iptc=IPTC)
    encoded = codec.encode(photo, "png")
    assert codec.decode(encoded.data).metadata == photo.metadata
    assert encoded.notes == ()


@pytest.mark.parametrize("name", ["jpg", "tif"])
def test_iptc_stays_iptc_where_it_has_a_place(name: str) -> None:
    encoded = codec.encode(Photo(picture(), "rgb", 8, metadata=Metadata(iptc=IPTC)), name)
    assert codec.decode(encoded.data).metadata.iptc == IPTC


def test_transparency_is_refused_where_it_has_no_place_and_opaque_alpha_is_told() -> None:
    alpha = np.full((40, 56), 255, np.uint8)
    assert "alpha" in codec.encode(Photo(picture(), "rgb", 8, alpha=alpha), "jpg").notes[0]
    alpha[3, 4] = 254
    with pytest.raises(UnsupportedError, match="transparency"):
        codec.encode(Photo(picture(), "rgb", 8, alpha=alpha), "jpg")


def test_cmyk_is_refused_where_it_has_no_place() -> None:
    ink = np.dstack([picture(), picture()[:, :, :1]])
    with pytest.raises(UnsupportedError, match="CMYK"):
        codec.encode(Photo(ink, "cmyk", 8), "png")


def test_metadata_that_has_no_place_is_told() -> None:
    encoded = codec.encode(Photo(picture(), "rgb", 8, metadata=Metadata(EXIF, XMP)), "ppm")
    assert encoded.notes == ("PPM does not hold EXIF, XMP",)


def test_a_depth_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="expected 8 or 16"):
        codec.encode(Photo(picture(), "rgb", 8), "png", depth=12)


def test_clipped_float_is_told() -> None:
    photo = Photo(np.full((4, 4, 3), 1.5, np.float32), "rgb", 32)
    encoded = codec.encode(photo, "png")
    assert encoded.depth == 16
    assert any("clipped" in note for note in encoded.notes)


def test_linear_light_says_so_in_a_profile() -> None:
    photo = Photo(np.full((4, 4, 3), 0.5, np.float32), "rgb", 32, linear=True)
    encoded = codec.encode(photo, "png")
    read = codec.decode(encoded.data)
    assert read.pixels[0, 0, 0] == 32768
    assert read.metadata.icc == cicp.profile(cicp.LINEAR_SRGB)


def test_pixels_need_not_be_contiguous() -> None:
    photo = Photo(picture()[::2, ::-1], "rgb", 8)
    assert np.array_equal(codec.decode(codec.encode(photo, "png").data).pixels, photo.pixels)


def test_colours_by_number_cross_into_formats_that_know_them_and_become_a_profile_elsewhere() -> None:
    photo = codec.decode(file_of(picture(), Chunk(b"cICP", b"\x0c\x0d\0\1")))
    assert items.parse(codec.encode(photo, "avif").data).cicp == (12, 13, 6)
    assert codec.decode(codec.encode(photo, "jpg").data).metadata.icc == P3
    back = codec.encode(codec.decode(codec.encode(photo, "avif").data), "png").data
    assert chunks.parse(back).first(b"cICP") == b"\x0c\x0d\0\1"


def test_colours_of_hdr_are_refused_where_nothing_can_say_them() -> None:
    photo = codec.decode(file_of(picture(), Chunk(b"cICP", b"\x09\x10\0\1")))
    with pytest.raises(UnsupportedError, match="primaries 9, transfer 16"):
        codec.encode(photo, "jpg")


def test_an_odd_gamma_becomes_a_profile_and_the_usual_one_does_not() -> None:
    odd = codec.encode(codec.decode(file_of(picture(), Chunk(b"gAMA", (100_000).to_bytes(4, "big")))), "jpg")
    assert any("gamma" in note for note in odd.notes)
    assert codec.decode(odd.data).metadata.icc is not None
    usual = codec.encode(codec.decode(file_of(picture(), Chunk(b"gAMA", (45_455).to_bytes(4, "big")))), "jpg")
    assert usual.notes == ()


@pytest.mark.parametrize(("data", "message"), [(b"", "empty"), (b"hello, world", "begins with"), (b"GIF89a", "GIF")])
def test_what_is_no_picture_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PhotoError, match=message):
        codec.decode(data)


def test_names_tell_formats() -> None:
    assert codec.format_of_name("Holiday.JPEG") == "jpg"
    assert codec.format_of_name("a/b.c/x.CR3") == "raw"
    assert codec.format_of_name("x.txt") is None


def test_bytes_that_were_hit_by_chance_never_crash() -> None:
    generator = np.random.default_rng(0)
    photo = Photo(picture(24, 24), "rgb", 8, metadata=Metadata(EXIF, XMP))
    for name in ("jpg", "png", "webp", "avif", "jxl", "ppm"):
        whole = codec.encode(photo, name).data
        for _ in range(60):
            hit = bytearray(whole)
            for place in generator.integers(0, len(hit), 3):
                hit[place] = generator.integers(0, 256)
            with contextlib.suppress(PhotoError):
                codec.decode(bytes(hit), max_megapixels=1.0)


def real_files(testdata: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted((testdata / "free").rglob("*")):
        if path.is_file() and path.suffix not in (".icc", ".md", ".txt") and path.stem.lower() != "license":
            yield path, path.read_bytes()


@pytest.mark.slow
def test_real_files_come_back_whole_or_are_refused(testdata: Path) -> None:
    seen: dict[str, int] = {}
    for path, data in real_files(testdata):
        try:
            name = codec.kind_of(data)
            if name in ("tif", "raw"):
                continue
            photo = codec.decode(data)
        except PhotoError:
            seen["refused"] = seen.get("refused", 0) + 1
            continue
        seen[name] = seen.get(name, 0) + 1
        if photo.megapixels > 3 and seen[name] > 3:
            continue
        written = codec.encode(photo, name).data
        again = codec.decode(written)
        assert again.metadata == photo.metadata, path
        assert photo.origin is not None
        if photo.origin.lossless:
            assert np.array_equal(again.pixels, photo.pixels), path
        else:
            assert np.abs(again.pixels.astype(int) - photo.pixels).mean() < 3, path
        assert (again.alpha is None) == (photo.alpha is None), path
        if photo.alpha is not None and again.alpha is not None:
            assert np.array_equal(again.alpha, photo.alpha), path
        if name == "jpg":
            assert around_jpeg(written) == around_jpeg(data), path
        if name == "png":
            assert around_png(written) == around_png(data), path
    assert seen["jpg"] > 70
    assert seen["png"] > 200
    assert seen["refused"] > 60


def around_jpeg(data: bytes) -> list[bytes]:
    structure = segments.parse(data)
    kept = [s.to_bytes() for s in structure.segments if not s.payload.startswith((b"MPF\0", b"Adobe"))]
    return [*kept, data[structure.end :]]


def around_png(data: bytes) -> list[Chunk]:
    structure = chunks.parse(data)
    adapted = (b"PLTE", b"tRNS", b"hIST", b"sBIT", b"bKGD")
    return [c for c in structure.chunks if c.ancillary and c.name not in adapted] + [Chunk(b"tail", structure.trailing)]


def test_a_gain_map_is_found_where_the_index_says(testdata: Path) -> None:
    data = (testdata / "free/odd_images/libvips/ultra-hdr.jpg").read_bytes()
    photo = codec.decode(data)
    written = codec.encode(photo, "jpg", quality=60).data
    assert len(written) != len(data)
    index = multipicture._index(segments.parse(written))
    assert index is not None
    order, first, count = multipicture._entries(index.payload[4:]) or ("", 0, 0)
    assert count == 2
    size, offset = struct.unpack_from(order + "II", index.payload, 4 + first + 16 + 4)
    start = index.offset + 8 + offset
    gain_map = written[start : start + size]
    assert gain_map in data
    assert codec.decode(gain_map).size[0] > 100


def test_bombs_are_refused_before_anything_is_allocated(testdata: Path) -> None:
    for path in (testdata / "free/odd_images/derived_bombs").glob("*.png"):
        with pytest.raises(InputError, match="bomb"):
            codec.decode(path.read_bytes())
