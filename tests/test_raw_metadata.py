"""What raw files say of a photo reaches every output, and what they say of their samples does not."""

import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kbnet_cli.formats import codec, exif
from kbnet_cli.formats.arena import Arena
from kbnet_cli.formats.exif import Description, pack
from kbnet_cli.formats.ifd import Entry, Layout, read_chain
from kbnet_cli.formats.raw import metadata as raw_metadata
from kbnet_cli.formats.raw.metadata import read_metadata
from kbnet_cli.formats.raw.report import Report
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

REPORT = Report(iso=200.0, exposure_seconds=0.5, aperture=4.0, focal_length_mm=35.0, timestamp="2020:01:02 03:04:05")
EDITED = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b'<rdf:Description xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/" crs:Exposure2012="+1.00" '
    b'crs:AlreadyApplied="False"/></rdf:RDF></x:xmpmeta>'
)


def text(tag: int, words: bytes) -> Entry:
    return Entry(tag, 2, len(words) + 1, words + b"\0")


def block(
    image: tuple[Entry, ...] = (),
    exif: tuple[Entry, ...] = (),
    gps: tuple[Entry, ...] = (),
    interop: tuple[Entry, ...] = (),
) -> bytes:
    return pack(Description("<", image, exif, gps, interop))


def with_tags(data: bytes, *entries: Entry) -> bytes:
    """Return a TIFF stream with more in its first directory than EXIF has a place for."""
    first = next(read_chain(data))
    arena = Arena(data, Layout("<"))
    arena.write(4, struct.pack("<I", arena.add_directory((*first.entries, *entries))))
    return arena.to_bytes()


def tags(metadata: Metadata) -> dict[int, bytes | None]:
    assert metadata.exif is not None
    found = exif.read(metadata.exif)
    return {entry.tag: entry.value for entry in (*found.image, *found.exif)}


def test_what_speaks_of_the_sensor_is_not_said_of_a_developed_photo() -> None:
    data = block(
        image=(
            text(271, b"Maker"),
            text(50735, b"12345"),
            Entry(50736, 5, 4, bytes(32)),
            Entry(51041, 12, 2, bytes(16)),
        ),
        exif=(Entry(41730, 7, 8, bytes(8)), exif.short(40962, 160, "<"), exif.short(exif.COLOUR_SPACE, 1, "<")),
        interop=(text(1, b"R03"),),
    )
    developed = read_metadata(data, Report())
    assert tags(developed) == {
        271: b"Maker\0", 42033: b"12345\0", 42034: bytes(32), exif.COLOUR_SPACE: b"\1\0",
    }  # fmt: skip
    wide = tags(read_metadata(data, Report(), shown_in="prophoto"))
    assert wide[exif.COLOUR_SPACE] == b"\xff\xff"
    assert read_metadata(data, Report(), shown_in=None).exif == data


def test_settings_for_the_raw_file_are_not_put_upon_the_developed_photo() -> None:
    packets = [
        EDITED,
        EDITED.replace(
            b' crs:AlreadyApplied="False"/>', b"><crs:AlreadyApplied>False</crs:AlreadyApplied></rdf:Description>"
        ),
    ]
    for packet in packets:
        data = with_tags(block(image=(text(271, b"Maker"),)), Entry(700, 1, len(packet), packet))
        assert read_metadata(data, Report(), shown_in=None).xmp == packet
        assert read_metadata(data, Report()).xmp == packet.replace(b"False", b"True")


def test_what_the_file_does_not_say_libraw_says() -> None:
    found = tags(read_metadata(block(image=(text(271, b"Maker"),), exif=(exif.short(34855, 100, "<"),)), REPORT))
    assert found[34855] == struct.pack("<H", 100)
    assert found[33434] == struct.pack("<II", 1, 2)
    assert found[36867] == b"2020:01:02 03:04:05\0"
    dated = tags(read_metadata(block(image=(text(306, b"2019:01:01 00:00:00"),)), REPORT))
    assert 36867 not in dated


def test_panasonic_tells_of_the_lens_in_its_jpeg() -> None:
    inner = Metadata(exif=block(exif=(text(42036, b"Lens"), text(36867, b"2018")), gps=(text(1, b"N"),)), xmp=EDITED)
    jpeg = codec.encode(Photo(picture(), "rgb", 8, metadata=inner), "jpg").data
    outer = block(image=(text(272, b"DC-1"), exif.short(274, 8, "<")), exif=(exif.short(34855, 100, "<"),))
    data = b"IIU\0" + with_tags(outer, Entry(46, 7, len(jpeg), jpeg))[4:]
    found = read_metadata(data, REPORT)
    assert found.exif is not None
    assert {tag: tags(found)[tag] for tag in (272, 34855, 42036, 36867)} == {
        272: b"DC-1\0", 34855: b"d\0", 42036: b"Lens\0", 36867: b"2018\0",
    }  # fmt: skip
    assert exif.orientation(found.exif) == 8
    assert len(exif.read(found.exif).gps) == 1
    assert found.xmp == EDITED.replace(b"False", b"True")
    damaged = b"IIU\0" + with_tags(outer, Entry(46, 7, 9, b"\xff\xd8 broken"))[4:]
    assert tags(raw_metadata.read_metadata(damaged, Report()))[272] == b"DC-1\0"


def test_iptc_whose_bytes_were_swapped_is_put_right() -> None:
    records = b"\x1c\2\x69\0\x03abc"
    swapped = struct.pack("<2I", *struct.unpack(">2I", records))
    data = with_tags(block(image=(text(271, b"Maker"),)), Entry(33723, 4, 2, swapped))
    assert read_metadata(data, Report()).iptc == records


NAMES = ("Make", "Model", "Orientation", "ExposureTime", "FNumber", "ISO", "DateTimeOriginal", "FocalLength")
SENSOR = ("DNGVersion", "ColorMatrix1", "CFAPattern", "CFAPattern2", "NoiseProfile", "BlackLevel", "WhiteLevel")
FILES = (
    "free/raw/canon_550d_magiclantern/colorchart.dng", "free/raw/kodak_dc120/P003909.KDC",
    "free/raw/derived_dng_CC0/g2_bayer_rggb_orient6_480x320.dng",
    "free/raw/derived_dng_CC0/g2_bayer_iso_noiseprofile_256.dng", "research/raw_unstated_licence/canon_eos_6d.dng",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("name", FILES)
def test_exiftool_sees_the_same_in_every_output(name: str, testdata: Path, tmp_path: Path) -> None:
    source = testdata / name
    photo = codec.decode(source.read_bytes())
    photo = replace(photo, pixels=photo.pixels[:32, :32].copy())
    paths = [source]
    for format in ("tif", "jpg", "png", "webp", "avif", "jxl"):
        paths.append(tmp_path / f"developed.{format}")
        paths[-1].write_bytes(codec.encode(photo, format).data)
    command = ["exiftool", "-j", "-a", "-n", "-EXIF:all", "-GPS:all", "-XMP:all", *map(str, paths)]
    raw, *developed = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for found in developed:
        assert {each: found.get(each) for each in NAMES if each in raw} == {
            each: raw[each] for each in NAMES if each in raw
        }
        assert not set(SENSOR) & set(found)
        for private in (
            "Rating",
            "CreatorTool",
            "LensModel",
            "LensInfo",
            "SerialNumber",
            "GPSLatitude",
            "Exposure2012",
        ):
            assert found.get(private) == raw.get(private)
        assert str(found.get("AlreadyApplied", True)) == "True"
