"""`--strip`: what is private survives nowhere, and the photo is shown as before."""

import io
import json
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from kbnet_cli.formats import bare, chunks, cicp, codec, exif, photoshop, provenance, riff, segments
from kbnet_cli.formats.boxes import Box
from kbnet_cli.formats.dng import writer as dng
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry
from kbnet_cli.formats.private import stripped, stripped_photo
from kbnet_cli.formats.raw import reader as raw
from kbnet_cli.formats.raw.metadata import read_metadata
from kbnet_cli.formats.raw.report import Report
from kbnet_cli.formats.segments import APP0, APP2, APP11, APP13, COM, Segment
from kbnet_cli.photo import CameraColour, Levels, Metadata, Origin, Photo
from tests.mosaics import mosaic_dng, patches
from tests.pictures import picture

SECRET = b"Secr3t"
"""Stands in every private value."""


def text(tag: int, value: bytes = SECRET + b" words") -> Entry:
    return Entry(tag, 2, len(value) + 1, value + b"\0")


def rationals(tag: int, *values: int) -> Entry:
    return Entry(tag, 5, len(values), b"".join(struct.pack("<II", value, 1) for value in values))


def telling() -> Description:
    """An EXIF block that tells all there is, private or not."""
    unknown = Entry(60000, 7, 10, SECRET + b"more")
    return Description(
        "<",
        image=(
            text(271, b"Maker"), text(272, b"Model\0" + SECRET), exif.short(274, 6, "<"), rationals(282, 300),
            text(270), text(305), text(306, b"2001:02:03 04:05:06"), text(315), text(316), text(33432), text(50735),
            text(50708, b"Maker Model"), Entry(50827, 1, 6, SECRET),
            Entry(40093, 1, 12, SECRET.decode().encode("utf-16-le")),
        ),
        exif=(
            rationals(33434, 3), exif.short(34855, 800, "<"), text(36867, b"2020:01:02 03:04:05"),
            text(36880, b"+09:00"), text(37521, b"987"), exif.short(40961, 1, "<"), text(42016), text(42032),
            text(42033), text(42037), text(42036, b"Lens 50mm"), Entry(37510, 7, 14, b"ASCII\0\0\0" + SECRET), unknown,
            Entry(exif.MAKER_NOTE, 7, 60, b"Canon\0" + SECRET * 9, offset=900),
            Entry(37396, 3, 2, struct.pack("<HH", 77, 78)),
        ),
        gps=(text(1, b"N"), rationals(2, 48, 51, 29), text(29, b"2020:01:02"), text(27)),
        interop=(text(1, b"R98"),),
    )  # fmt: skip


PACKET = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    b' rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Label="' + SECRET + b'"/></rdf:RDF></x:xmpmeta>'
)
ICC = cicp.profile(cicp.LINEAR_SRGB) or b""
BLOCKS = Metadata(exif=exif.pack(telling()), xmp=PACKET, iptc=b"\x1c\2\x50\0\x06" + SECRET, icc=ICC)


def jpeg() -> bytes:
    """A JPEG with something private in every segment, and a second picture behind its end."""
    data = codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "jpg").data
    index = b"MPF\0II*\0\x08\0\0\0\x01\0\x02\xb0\x07\0\x20\0\0\0\x1a\0\0\0" + bytes(4) + bytes(32)
    first, *rest = segments.parse(data).segments
    resources = photoshop.wrap_iptc(BLOCKS.iptc or b"") + b"8BIM\4\x22\0\0\0\0\0\x06" + SECRET
    added = [
        replace(first, payload=first.payload[:12] + b"\1\1" + SECRET[:3]),
        Segment(APP0, b"JFXX\0\x10" + SECRET),
        Segment(COM, SECRET),
        Segment(APP2, index),
        Segment(APP11, b"JP\0\1\0\0\0\1\0\0\0\x20jumb" + SECRET),
        Segment(APP13, b"Photoshop 3.0\0" + resources),
        Segment(0xE5, SECRET),
    ]
    begin = first.offset + len(first.to_bytes())
    blocks = b"".join(segment.to_bytes() for segment in (*added, *rest))
    stream = data[rest[-1].offset + len(rest[-1].to_bytes()) :]
    return data[: first.offset] + blocks + stream + data[:begin] + SECRET + stream


def png() -> bytes:
    """A PNG with text of all kinds, a time, and something behind its end."""
    stream = codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "png").data
    packed = zlib.compress(SECRET)
    more = (
        (b"tEXt", b"Author\0" + SECRET), (b"zTXt", b"Comment\0\0" + packed), (b"iTXt", b"Title\0\0\0\0\0" + SECRET),
        (b"tEXt", b"Raw profile type iptc\0\niptc\n6\n" + SECRET.hex().encode()), (b"tIME", b"\x07\xd0\1\1\1\1\1"),
        (b"prVt", SECRET), (b"sPLT", SECRET + b"\0\x08"), (b"gAMA", struct.pack(">I", 45455)),
    )  # fmt: skip
    header, *rest = chunks.parse(stream).chunks
    whole = [header, *(chunks.Chunk(*each) for each in more), *rest]
    return chunks.SIGNATURE + b"".join(chunk.to_bytes() for chunk in whole) + SECRET


def tiff(*, colour: str = "rgb") -> bytes:
    """A TIFF of two pages with a thumbnail below the first, Photoshop's resources and text."""
    file = io.BytesIO()
    private = [
        (270, 2, 0, SECRET, True), (305, 2, 0, SECRET, True), (315, 2, 0, SECRET, True), (274, 3, 1, 6, True),
        (700, 1, len(PACKET), PACKET, True), (33723, 7, 11, BLOCKS.iptc, True), (34675, 7, len(ICC), ICC, True),
        (34377, 1, 18, b"8BIM\4\x22\0\0\0\0\0\x06" + SECRET, True), (37724, 7, 6, SECRET, True),
        (60001, 7, 6, SECRET, True),
    ]  # fmt: skip
    small = np.frombuffer((SECRET * 400)[:2400], np.uint8).reshape(40, 20, 3)
    samples = picture(depth=16)
    options = {"metadata": None, "software": False, "photometric": colour}
    with tifffile.TiffWriter(file) as out:
        out.write(samples, subifds=1, extratags=private, compression="deflate", tile=(16, 16), **options)
        out.write(small, subfiletype=1, metadata=None, software=False, photometric="rgb")
        out.write(small, metadata=None, software=False, photometric="rgb", extratags=[(270, 2, 0, SECRET, True)])
    return file.getvalue()


def webp() -> bytes:
    stream = codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "webp").data
    return riff.assemble([*riff.parse(stream).chunks, riff.Chunk(b"PRIV", SECRET)]) + SECRET


def avif() -> bytes:
    return codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "avif").data


def jxl() -> bytes:
    data = codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "jxl").data
    return data + Box(b"jumb", SECRET).to_bytes() + Box(b"brob", b"priv" + imagecodecs.brotli_encode(SECRET)).to_bytes()


FILES = {"jpg": jpeg, "png": png, "tif": tiff, "webp": webp, "avif": avif, "jxl": jxl}


def told(data: bytes) -> bool:
    """Say whether the secret is anywhere in a file, as it is, in hexadecimal, in UTF-16 or packed."""
    forms = (SECRET, SECRET.hex().encode(), SECRET.decode().encode("utf-16-le"), zlib.compress(SECRET))
    return any(form in data for form in (*forms, imagecodecs.brotli_encode(SECRET)))


@pytest.mark.parametrize("format", FILES)
def test_nothing_private_survives_in_the_same_format(format: str) -> None:
    data = FILES[format]()
    photo = codec.decode(data)
    assert told(codec.encode(photo, format).data), "without --strip it comes along"
    clean = stripped_photo(photo)
    written = codec.encode(clean, format)
    assert not told(written.data)
    if clean.origin is not None and format != "avif":
        assert not told(clean.origin.data)
    again = codec.decode(written.data)
    assert again.metadata.exif is not None
    assert exif.orientation(again.metadata.exif) == 6
    assert again.metadata.icc == ICC
    assert (again.metadata.xmp, again.metadata.iptc) == (None, None)
    assert exif.read(again.metadata.exif).gps == ()
    np.testing.assert_array_equal(again.pixels, codec.decode(codec.encode(photo, format).data).pixels)


@pytest.mark.parametrize("format", FILES)
@pytest.mark.parametrize("target", ["jpg", "png", "tif", "webp"])
def test_nothing_private_survives_in_another_format(format: str, target: str) -> None:
    clean = stripped_photo(codec.decode(FILES[format]()))
    assert not told(codec.encode(clean, target).data)


def test_nothing_private_survives_of_the_directories_in_a_tiff() -> None:
    data = codec.encode(Photo(picture(), "rgb", 8, metadata=BLOCKS), "tif").data
    written = codec.encode(stripped_photo(codec.decode(data)), "tif").data
    assert told(data)
    assert not told(written)
    assert codec.decode(written).metadata == stripped(BLOCKS)


def test_what_it_takes_to_show_the_photo_and_the_exposure_stay() -> None:
    kept = stripped(BLOCKS)
    assert kept.icc == ICC
    assert kept.exif is not None
    found = exif.read(kept.exif)
    assert {entry.tag: entry.value for entry in found.image} == {
        271: b"Maker\0", 272: b"Model\0", 274: b"\6\0", 282: struct.pack("<II", 300, 1), 50708: b"Maker Model\0",
    }  # fmt: skip
    assert {entry.tag for entry in found.exif} == {33434, 34855, 36867, 40961, 42036}
    assert [entry.value for entry in found.interop] == [b"R98\0"]
    assert len(kept.exif) < 400, "no hole is left where the maker note was"


def test_a_photo_without_anything_stays_without() -> None:
    assert stripped(Metadata()) == Metadata()
    assert stripped(Metadata(exif=b"no TIFF", xmp=PACKET)) == Metadata()
    photo = Photo(picture(), "rgb", 8)
    clean = stripped_photo(photo)
    assert (clean.metadata, clean.origin, clean.notes) == (Metadata(), None, ())


@pytest.mark.parametrize("format", FILES)
def test_a_bare_file_shows_the_same_pixels(format: str) -> None:
    photo = codec.decode(FILES[format]())
    assert photo.origin is not None
    origin = bare.bare(photo.origin)
    assert origin is not None
    again = codec.decode(origin.data)
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert origin.lossless == photo.origin.lossless


def test_how_the_source_was_stored_stays() -> None:
    samples = picture()
    data = bytes(imagecodecs.jpeg8_encode(samples, level=90, subsampling="420"))
    clean = stripped_photo(codec.decode(data))
    frame = segments.parse(codec.encode(clean, "jpg").data).frame
    assert [factor[1:] for factor in frame.components] == [(2, 2), (1, 1), (1, 1)]
    lossless = io.BytesIO()
    Image.fromarray(samples).save(lossless, "WEBP", lossless=True)
    clean = stripped_photo(codec.decode(lossless.getvalue()))
    np.testing.assert_array_equal(codec.decode(codec.encode(clean, "webp").data).pixels, samples)


def test_colours_by_number_stay() -> None:
    photo = Photo(picture(), "rgb", 8)
    data = codec.encode(photo, "png").data
    header, *rest = chunks.parse(data).chunks
    numbered = chunks.SIGNATURE + b"".join(
        c.to_bytes() for c in (header, chunks.Chunk(b"cICP", b"\x09\x10\0\1"), *rest)
    )
    clean = stripped_photo(codec.decode(numbered))
    assert cicp.of(clean.origin) == cicp.Numbers(9, 16)
    assert cicp.of(codec.decode(codec.encode(clean, "avif").data).origin) == cicp.Numbers(9, 16)


def test_channels_beside_the_colours_stay() -> None:
    samples = np.concatenate([picture(), picture(seed=1)[..., :2]], axis=2)
    file = io.BytesIO()
    planes = np.ascontiguousarray(np.moveaxis(samples, 2, 0))
    tifffile.imwrite(file, planes, photometric="rgb", extrasamples=(0, 0), planarconfig="separate", bigtiff=True)
    clean = stripped_photo(codec.decode(file.getvalue()))
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(codec.encode(clean, "tif").data)), planes)


def test_premultiplied_alpha_and_palettes_stay() -> None:
    samples = np.concatenate([picture(), np.full((40, 56, 1), 99, np.uint8)], axis=2)
    file = io.BytesIO()
    tifffile.imwrite(file, samples, photometric="rgb", extrasamples=("assocalpha",), software=SECRET.decode())
    written = codec.encode(stripped_photo(codec.decode(file.getvalue())), "tif").data
    assert not told(written)
    assert tifffile.TiffFile(io.BytesIO(written)).pages[0].tags[338].value == (1,)
    file = io.BytesIO()
    Image.fromarray(picture()).quantize(16).save(file, "TIFF", software=SECRET.decode())
    photo = codec.decode(file.getvalue())
    written = codec.encode(stripped_photo(photo), "tif").data
    assert not told(written)
    np.testing.assert_array_equal(codec.decode(written).pixels, photo.pixels)


@pytest.mark.parametrize(("format", "lost"), [("tif", True), ("jpg", True), ("png", False)])
def test_notes_tell_what_became_of_further_pictures(format: str, lost: bool) -> None:
    notes = stripped_photo(codec.decode(FILES[format]())).notes
    assert any("further pictures" in note and "left out" in note for note in notes) == lost
    assert not any("kept as" in note or "come along" in note for note in notes if "does not" not in note)


def private_dng() -> bytes:
    """A DNG that tells whose camera made it, where, and which file it was made of."""
    words = SECRET.decode()
    tags = [
        (50735, 2, 0, words, True), (50827, 1, 6, SECRET, True), (50740, 1, 6, SECRET, True), (315, 2, 0, words, True),
        (700, 1, len(PACKET), PACKET, True), (33723, 7, 11, BLOCKS.iptc, True), (50709, 2, 0, "Model 1", True),
        (37500, 7, 6, SECRET, True), (50831, 7, 4, b"ICCP", True), (42033, 2, 0, words, True),
        (50736, 5, 4, (24, 1, 70, 1, 28, 10, 28, 10), True),
    ]  # fmt: skip
    return mosaic_dng(patches([(0.2, 0.3, 0.1), (0.5, 0.5, 0.5)]), orientation=6, extratags=tuple(tags))


def test_a_dng_of_a_private_dng_tells_nothing() -> None:
    data = private_dng()
    photo = Photo(
        picture(depth=16), "rgb", 16,
        metadata=read_metadata(data, Report(), shown_in=None), origin=Origin("raw", data), linear=True,
        levels=Levels((4096.0,) * 3, (61440.0,) * 3),
        camera=CameraColour("Maker", "Model 1", 4096.0, 61440.0, (0.5, 1.0, 0.625)),
    )  # fmt: skip
    assert told(dng.encode(photo, depth=16))
    clean = stripped_photo(photo)
    written = dng.encode(clean, depth=16)
    assert not told(written)
    signature = provenance.Entry("1", "denoise", "bundled", "ab" * 32, 1.0)
    assert not told(dng.encode(provenance.signed(clean, signature), depth=16))
    assert clean.origin is not None
    assert not told(clean.origin.data)
    np.testing.assert_array_equal(raw.decode(clean.origin.data).pixels, raw.decode(data).pixels)
    assert exif.orientation(clean.metadata.exif) == 6
    assert struct.pack("<HHI", 50736, 5, 4) in written, "the lens stays"


def test_a_developed_photo_of_a_private_dng_tells_nothing() -> None:
    photo = raw.decode(private_dng())
    assert told(codec.encode(photo, "jpg").data)
    for format in ("jpg", "tif", "jxl"):
        assert not told(codec.encode(stripped_photo(photo), format).data)


def test_a_camera_raw_that_is_no_dng_keeps_its_file() -> None:
    origin = Origin("raw", b"II*\0" + SECRET)
    assert bare.bare(origin) == origin


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_nothing_private(tmp_path: Path) -> None:
    for format, make in FILES.items():
        (tmp_path / f"clean.{format}").write_bytes(codec.encode(stripped_photo(codec.decode(make())), format).data)
    command = ["exiftool", "-j", "-a", "-G1", "-u", "-U", "-ee", *(str(tmp_path / f"clean.{name}") for name in FILES)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(found) == len(FILES)
    for tags in found:
        assert SECRET.decode() not in str(tags)
        groups = {key.split(":")[0] for key in tags}
        assert not groups & {"GPS", "IPTC", "Photoshop", "Canon", "MPF0", "IFD1", "SubIFD", "JFXX"}, tags["SourceFile"]
        assert not any(group.startswith(("XMP", "MakerNotes", "PNG-tEXt")) for group in groups)
        if not tags["SourceFile"].endswith("tif"):
            assert tags["ExifIFD:LensModel"] == "Lens 50mm"
        assert tags["IFD0:Orientation"] == "Rotate 90 CW"
