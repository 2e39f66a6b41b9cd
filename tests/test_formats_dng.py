"""DNG: another reader finds each sample where it was, and all that was said about the photo."""

import io
import shutil
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rawpy

from kbnet_cli.errors import OutputError, UnsupportedError
from kbnet_cli.formats import exif
from kbnet_cli.formats.dng import check as dng_check
from kbnet_cli.formats.dng import samples as dng_samples
from kbnet_cli.formats.dng import writer as dng
from kbnet_cli.formats.dng.identity import model_name
from kbnet_cli.formats.ifd import Order
from kbnet_cli.photo import Crop, Levels, Metadata
from tests.dngs import (
    BLACK,
    NEUTRAL,
    NOTE,
    SRGB_TO_XYZ,
    WHITE,
    XYZ_TO_CAMERA,
    camera,
    described,
    flat,
    numbers,
    photo,
    photos_of,
    previews,
    written,
)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what does not concern samples: reading back starts a process."""
    monkeypatch.setattr(dng, "check", lambda *_: None)


@pytest.mark.parametrize("size", [(48, 64), (22, 22), (23, 333), (300, 250), (301, 513)])
def test_libraw_reads_each_sample(size: tuple[int, int]) -> None:
    """At 250 pixels tiles of 256 would be wider than the picture, which LibRaw reads without a word and wrongly."""
    colours = photo(*size)
    with rawpy.imread(io.BytesIO(dng.encode(colours, depth=16))) as raw:
        expected = np.maximum(colours.pixels, 4096) - 4096
        np.testing.assert_array_equal(raw.raw_image_visible[..., :3], expected)
        assert (raw.black_level_per_channel[:3], raw.white_level) == ([0, 0, 0], WHITE - BLACK)
        assert raw.camera_whitebalance[:3] == pytest.approx([1 / 0.614, 1, 1 / 0.626], rel=1e-4)
        camera_of_srgb = np.array(XYZ_TO_CAMERA) @ SRGB_TO_XYZ
        camera_of_srgb /= camera_of_srgb.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(raw.color_matrix[:, :3], np.linalg.inv(camera_of_srgb), atol=1e-3)


def test_libraw_reads_each_sample_of_a_grey_sensor() -> None:
    grey = photo(37, 70, 1)
    with rawpy.imread(io.BytesIO(dng.encode(grey, depth=16))) as raw:
        np.testing.assert_array_equal(raw.raw_image_visible, grey.pixels[..., 0])
        assert (raw.black_level_per_channel[0], raw.white_level) == (BLACK, WHITE)
        assert raw.num_colors == 1


def test_the_same_photo_gives_the_same_file(unchecked: None) -> None:
    assert dng.encode(photo(300, 300), depth=16) == dng.encode(photo(300, 300), depth=16)


def test_pixels_are_tiles_of_lossless_jpeg_below_a_thumbnail(unchecked: None) -> None:
    found = written(dng.encode(photo(300, 520), depth=16))
    assert found.first.integers(254, "<") == (1,)
    assert len(found.integers(330)) == 2
    assert found.raw.integers(262, "<") == (34892,)
    assert (found.raw.integers(259, "<"), found.raw.integers(258, "<")) == ((7,), (16, 16, 16))
    assert len(found.raw.integers(324, "<")) == 2 * 3
    assert found.integers(50706) == (1, 4, 0, 0)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_orientation_is_said_and_not_done(orientation: int) -> None:
    turned = replace(photo(), metadata=Metadata(exif=described(orientation=orientation)))
    data = dng.encode(turned, depth=16)
    assert numbers(data, 274) == (orientation,)
    with rawpy.imread(io.BytesIO(data)) as raw:
        assert raw.sizes.flip == {3: 3, 6: 6, 8: 5}[orientation]
    assert [shown.shape for shown in previews(data)] == [(48, 64, 3)] * 2


@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_comes_along_and_the_maker_note_stays_in_its_place(order: Order) -> None:
    metadata = Metadata(exif=described(order), xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>", iptc=b"\x1c\2\x78\0\1A")
    data = dng.encode(replace(photo(), metadata=metadata), depth=16)
    found = written(data)
    assert data[1000 : 1000 + len(NOTE)] == NOTE
    again = exif.describe(data, found.first)
    before = exif.read(described(order))
    for name in ("exif", "gps"):
        assert {e.tag: e.value for e in getattr(again, name)} == {e.tag: e.value for e in getattr(before, name)}
    assert found.first.value(700) == metadata.xmp
    assert found.first.value(33723) == metadata.iptc
    assert found.first.value(271) == b"Maker\0"
    assert found.first.value(50708) == b"Maker Model 1\0"
    assert numbers(data, 50736) == (24, 105, 4, 4), "the lens, as EXIF has it"


def test_a_camera_of_which_nothing_is_known(unchecked: None) -> None:
    unknown = replace(camera(), make="", model="", neutral=(0.0, 0.0, 0.0), xyz_to_camera=None, camera_to_srgb=None)
    data = dng.encode(replace(photo(), camera=unknown, levels=None), depth=16)
    assert numbers(data, 50728) == (1, 1, 1)
    assert numbers(data, 50721)[0] == pytest.approx(3.2405, abs=1e-3)
    assert written(data).first.value(50708) == b"unknown camera\0"


def test_what_dng_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for size in ((1, 1), (5, 3), (21, 100)):
        with pytest.raises(UnsupportedError, match="below 22"):
            dng.encode(photo(*size), depth=16)
    with pytest.raises(UnsupportedError, match="developed"):
        dng.encode(replace(photo(), camera=None), depth=16)
    with pytest.raises(UnsupportedError, match="EXIF"):
        dng.encode(replace(photo(), metadata=Metadata(exif=b"II*\0\xff\xff\0\0")), depth=16)
    monkeypatch.setattr(dng, "_MOST_BYTES", 1000)
    with pytest.raises(OutputError, match="4 GB"):
        dng.encode(photo(), depth=16)


def test_the_preview_is_balanced_and_as_bright_as_the_network_saw_it(unchecked: None) -> None:
    """A fifth of the light is 124 in sRGB, IEC 61966-2-1; twice as bright 170."""
    grey = flat(tuple(0.2 * part for part in NEUTRAL), height=60, width=2560)
    for shown in previews(dng.encode(grey, depth=16)):
        np.testing.assert_allclose(shown, 124, atol=1.5)
    assert grey.levels is not None
    half = Levels(grey.levels.black, tuple(BLACK + (white - BLACK) / 2 for white in grey.levels.white))
    thumbnail, preview = previews(dng.encode(replace(grey, levels=half), depth=16))
    np.testing.assert_allclose(preview, 170, atol=1.5)
    assert (preview.shape, thumbnail.shape) == ((60, 2560, 3), (6, 256, 3))


def test_a_full_sensor_is_white_in_the_preview(unchecked: None) -> None:
    for shown in previews(dng.encode(flat((1.0, 1.0, 1.0)), depth=16)):
        assert shown.min() > 250
    for shown in previews(dng.encode(flat((0.5,)), depth=16)):
        assert shown.shape[2] == 1
        np.testing.assert_allclose(shown, 188, atol=1.5)


def test_the_preview_shows_the_crop_and_colours(unchecked: None) -> None:
    red = flat((0.3, 0.0, 0.0))
    cropped = replace(red, camera=replace(camera(), crop=Crop(8, 4, 30, 50)))
    data = dng.encode(cropped, depth=16)
    assert (numbers(data, 50719, raw=True), numbers(data, 50720, raw=True)) == ((4, 8), (50, 30))
    for shown in previews(data):
        assert shown.shape == (30, 50, 3)
        assert shown[..., 0].min() > 150 > 50 > shown[..., 1].max()
    outside = replace(red, camera=replace(camera(), crop=Crop(8, 4, 300, 50)))
    assert numbers(dng.encode(outside, depth=16), 50720, raw=True) == (64, 48)


def test_reading_back_finds_what_differs() -> None:
    made = replace(photo(), metadata=Metadata(exif=described()))
    stored = dng_samples.stored(made.pixels, camera())
    data = dng.encode(made, depth=16)
    page = written(data).raw
    (at,) = page.integers(324, "<")
    broken = bytearray(data)
    broken[at + 200] ^= 1
    level = bytearray(data)
    white = page.find(50717)
    assert white is not None
    assert white.offset is not None
    level[white.offset] ^= 1
    for other, words in (
        (bytes(broken), "samples|LibRaw|data"),
        (bytes(level), "levels"),
        (data.replace(b"2024:02:03", b"2024:02:04"), "tags of EXIF differ: 36867"),
        (data[:5000], "LibRaw"),
    ):
        with pytest.raises(OutputError, match=words) as caught:
            dng_check.check(other, made, stored)
        assert caught.value.message.endswith("; nothing was written")
    turned = replace(made, metadata=Metadata(exif=described(orientation=6)))
    with pytest.raises(OutputError, match="turned by 0, expected 6"):
        dng_check.check(data, turned, stored)


def exiftool(path: Path, *options: str) -> list[str]:
    command = ["exiftool", "-a", "-s", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_nothing_wrong(tmp_path: Path, unchecked: None) -> None:
    metadata = Metadata(exif=described(orientation=6, note=b""))
    for name, made in (("colour.dng", photo(300, 400)), ("grey.dng", photo(40, 50, 1))):
        path = tmp_path / name
        path.write_bytes(dng.encode(replace(made, metadata=metadata), depth=16))
        assert exiftool(path, "-validate", "-warning", "-error") == ["Validate                        : OK"]
        assert exiftool(path, "-GPSLatitude", "-n")[0].endswith("52.5001388888889")
        assert exiftool(path, "-PreviewImage", "-ThumbnailImage")


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_finds_no_more_wrong_than_the_source_had(testdata: Path, tmp_path: Path, unchecked: None) -> None:
    for path, made in photos_of(testdata / "free" / "raw")[::4]:
        after = tmp_path / path.name
        after.write_bytes(dng.encode(made, depth=16))
        before, complaints = (exiftool(each, "-warning", "-error", "-validate") for each in (path, after))
        assert {line for line in complaints if not line.startswith("Validate")} <= set(before), path
        described = ("-Make", "-Model", "-Orientation", "-DateTimeOriginal", "-ExposureTime", "-ISO", "-LensModel")
        assert exiftool(after, *described) == exiftool(path, *described), path


def test_damaged_exif_is_an_error_of_the_photo(unchecked: None) -> None:
    block = described()
    rng = np.random.default_rng(2)
    for _ in range(30):
        data = bytearray(block)
        for at in rng.integers(4, len(data), 6):
            data[at] = rng.integers(0, 256)
        made = replace(photo(24, 24), metadata=Metadata(exif=bytes(data)))
        with suppress(UnsupportedError):
            assert written(dng.encode(made, depth=16)).raw.integers(257, "<") == (24,)


@pytest.mark.parametrize(
    ("make", "model", "name"),
    [
        ("Canon", "Canon EOS 550D", "Canon EOS 550D"),
        ("Eastman Kodak Company", "Kodak DC120 Zoom", "Kodak DC120 Zoom"),
        ("SONY", "ILCE-7M3", "Sony ILCE-7M3"),
        ("NIKON CORPORATION", "NIKON D850", "Nikon D850"),
        ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", "Pentax K-1"),
        ("OLYMPUS IMAGING CORP.", "E-M1", "Olympus E-M1"),
        ("", "", "unknown camera"),
        ("Apple", "", "Apple"),
    ],
)
def test_a_camera_is_named_once(make: str, model: str, name: str) -> None:
    assert model_name(make, model) == name
