"""Raw files: what LibRaw makes of them, and that all they say about the photo comes along."""

import io
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from kbnet_cli.colour import srgb_decode
from kbnet_cli.errors import InputError, KBNetError
from kbnet_cli.formats import codec, exif, jpeg_metadata, tiff
from kbnet_cli.formats.development import ColourSpace, Development, RawMode
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry, read_chain
from kbnet_cli.formats.raw import metadata as raw_metadata
from kbnet_cli.formats.raw import profile as raw_profile
from kbnet_cli.formats.raw import reader as raw
from kbnet_cli.formats.raw.develop import answer
from kbnet_cli.formats.raw.report import Report, Wishes
from kbnet_cli.formats.segments import EOI, SOI
from kbnet_cli.photo import Metadata, Photo
from tests.mosaics import XTRANS, mosaic_dng, patches

NOTE = bytes(range(200))


def mosaic(height: int = 64, width: int = 96) -> np.ndarray:
    ramp = np.add.outer(np.arange(height), np.arange(width)) / (height + width)
    return (2000 + 50_000 * ramp).astype(np.uint16)


def dng(samples: np.ndarray | None = None, *, orientation: int = 1, photometric: int = 32803) -> bytes:
    """Make a DNG of a sensor with an RGGB pattern."""
    samples = mosaic() if samples is None else samples
    matrix: tuple[int, ...] = (9194, 10000, -2787, 10000, -1059, 10000, -8098, 10000, 15657, 10000, 2608, 10000)
    matrix += (-2610, 10000, 3064, 10000, 7867, 10000)
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    tags = [
        (271, 2, 0, "Maker", True),
        (272, 2, 0, "Model 1", True),
        (274, 3, 1, orientation, True),
        (33434, 5, 1, (1, 250), True),
        (700, 1, len(packet), packet, True),
        (50706, 1, 4, (1, 4, 0, 0), True),
        (50707, 1, 4, (1, 3, 0, 0), True),
        (50708, 2, 0, "Maker Model 1", True),
        (50717, 4, 1, 65535, True),
        (50721, 10, 9, matrix, True),
        (50778, 3, 1, 21, True),
    ]
    if photometric == 32803:
        tags += [
            (50728, 5, 3, (6, 10, 1, 1, 6, 10), True),
            (33421, 3, 2, (2, 2), True),
            (33422, 1, 4, (0, 1, 1, 2), True),
        ]
    buffer = io.BytesIO()
    options = {"metadata": None, "extratags": tags, "software": "firmware 1.0"}
    tifffile.imwrite(buffer, samples, photometric=32803 if samples.ndim == 2 else photometric, **options)
    data = buffer.getvalue()
    # tifffile writes linear raw of three channels only.
    return data.replace(struct.pack("<HHIH", 262, 3, 1, 32803), struct.pack("<HHIH", 262, 3, 1, photometric))


def described() -> Description:
    exposure = Entry(33434, 5, 1, struct.pack("<II", 1, 250))
    return Description("<", image=(Entry(271, 2, 6, b"Maker\0"),), exif=(exposure, exif.short(40961, 65535, "<")))


def test_a_raw_file_is_developed() -> None:
    data = dng()
    assert raw.looks_raw(data)
    photo = raw.decode(data)
    assert (photo.size, photo.colour, photo.depth, photo.linear) == ((64, 96), "rgb", 16, False)
    assert photo.metadata.icc == raw.srgb_profile()
    assert photo.metadata.xmp == b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>"
    assert photo.metadata.exif is not None
    found = exif.read(photo.metadata.exif)
    assert [entry.value for entry in found.image if entry.tag == 305] == [b"firmware 1.0\0"]
    assert [entry.value for entry in found.exif if entry.tag == 33434] == [struct.pack("<II", 1, 250)]
    assert not any(50706 <= entry.tag <= 50707 for entry in found.image), "the photo is no DNG any more"
    assert photo.origin is not None
    assert photo.origin.format == "raw"


def test_the_answer_is_the_same_every_time() -> None:
    one, other = raw.decode(dng()), raw.decode(dng())
    np.testing.assert_array_equal(one.pixels, other.pixels)
    assert one.metadata == other.metadata


@pytest.mark.parametrize("orientation", [1, 2, 5, 7])
def test_pixels_are_never_turned_and_the_tag_says_how(orientation: int) -> None:
    photo = raw.decode(dng(orientation=orientation))
    assert photo.size == (64, 96)
    assert exif.orientation(photo.metadata.exif) == orientation
    np.testing.assert_array_equal(photo.pixels, raw.decode(dng()).pixels)


def test_linear_and_monochrome_raw() -> None:
    linear = dng(np.stack([mosaic()] * 3, axis=-1), photometric=34892)
    assert raw.looks_raw(linear)
    assert raw.decode(linear).colour == "rgb"
    grey = raw.decode(dng(photometric=34892))
    assert grey.colour == "grey"
    assert grey.metadata.icc is not None
    assert grey.metadata.icc[16:20] == b"GRAY"


def test_the_curve_is_that_of_srgb() -> None:
    """A quarter of the sensor's white is 0.537 in sRGB: IEC 61966-2-1."""
    samples = np.full((64, 96), 65535 // 4, np.uint16)
    photo = raw.decode(dng(samples, photometric=34892))
    assert photo.pixels[32, 48, 0] / 65535 == pytest.approx(1.055 * 0.25 ** (1 / 2.4) - 0.055, abs=2e-3)


def developed(data: bytes, **wishes: object) -> np.ndarray:
    """Develop without a process of its own, which takes longer than all else in a test."""
    return answer(data, Wishes(Development(**wishes)))[1]  # type: ignore[arg-type]


def test_a_hot_pixel_does_not_change_the_exposure() -> None:
    samples = mosaic() // 2
    dark = developed(dng(samples))
    samples[20, 30] = 65535
    difference = dark.astype(int) - developed(dng(samples))
    assert np.count_nonzero(difference) < 200
    assert (dark > 5000).mean() > 0.9


def test_the_wishes_of_a_development_are_kept() -> None:
    rng = np.random.default_rng(4)
    scene = rng.uniform(0.05, 0.3, (12, 16, 3)).repeat(6, axis=0).repeat(6, axis=1)
    data = mosaic_dng(scene)
    plain = developed(data)
    shown = {
        way: developed(data, demosaic=way) for way in ("auto", "linear", "vng", "ppg", "ahd", "dcb", "dht", "aahd")
    }
    np.testing.assert_array_equal(shown.pop("auto"), plain)
    np.testing.assert_array_equal(shown.pop("ahd"), plain)
    assert len({samples.tobytes() for samples in shown.values()} | {plain.tobytes()}) == 7
    light = srgb_decode(plain[20:-20, 20:-20].astype(np.float32) / 65535)
    brighter = srgb_decode(developed(data, brightness=1.5)[20:-20, 20:-20].astype(np.float32) / 65535)
    assert np.median(brighter[light > 0.01] / light[light > 0.01]) == pytest.approx(1.5, rel=2e-3)
    balances = [developed(data, white_balance=way).mean((0, 1)) for way in ("camera", "auto", "daylight")]
    assert np.abs(np.diff(balances, axis=0)).max(axis=1).min() > 300
    bright = mosaic_dng(np.clip(scene * 6, 0, 1))
    ways = {developed(bright, highlights=way).tobytes() for way in ("clip", "ignore", "blend", "rebuild")}
    assert len(ways) == 4


@pytest.mark.parametrize("space", ["display-p3", "rec2020", "prophoto"])
def test_a_colour_space_and_its_profile_say_the_same_colours(space: ColourSpace) -> None:
    """Colours inside sRGB are the same, whatever the space they are written in: LittleCMS says so by the profiles."""
    light = [(0.30, 0.55, 0.35), (0.25, 0.5, 0.3), (0.12, 0.24, 0.15), (0.2, 0.35, 0.15), (0.02, 0.04, 0.025)]
    data = mosaic_dng(patches(light))
    wide = Image.fromarray((developed(data, colour_space=space) >> 8).astype(np.uint8))
    profile = raw_profile.profile(space)
    assert profile[24:36] in (struct.pack(">6H", 2000, 1, 1, 0, 0, 0), struct.pack(">6H", 2026, 1, 1, 0, 0, 0))
    sources = [ImageCms.ImageCmsProfile(io.BytesIO(icc)) for icc in (profile, raw.srgb_profile())]
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    shown = np.asarray(ImageCms.profileToProfile(wide, sources[0], sources[1], renderingIntent=intent))
    expected = developed(data) >> 8
    places = 24 + 48 * np.arange(len(light))
    assert np.abs(shown[24, places].astype(int) - expected[24, places]).max() <= 2
    assert np.abs(np.asarray(wide)[24, places].astype(int) - expected[24, places]).max() > 4


def test_a_photo_has_the_profile_of_the_space_it_was_developed_to() -> None:
    photo = raw.decode(dng(), development=Development(colour_space="rec2020"))
    assert photo.metadata.icc == raw_profile.profile("rec2020")
    assert photo.camera is None
    assert photo.levels is None


def test_gopro_gpr_is_told_by_name() -> None:
    data = dng().replace(struct.pack("<HHIH", 259, 3, 1, 1), struct.pack("<HHIH", 259, 3, 1, 9))
    with pytest.raises(InputError, match="GoPro GPR is not supported") as caught:
        raw.decode(data)
    assert "DNG" in caught.value.hint


def test_a_process_that_ends_before_it_has_read_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("false")
    if program is None:
        pytest.skip("there is no program that does nothing and fails")
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(InputError, match="gave up on the raw file: exit code 1"):
        raw.decode(dng(mosaic(512, 512)))


def test_small_xtrans_is_developed_in_another_way() -> None:
    photo = raw.decode(mosaic_dng(patches([(0.2, 0.4, 0.3)], 96), pattern=XTRANS))
    assert photo.size == (96, 96)
    assert any("VNG" in note for note in photo.notes)


def test_a_raw_photo_becomes_tiff_with_all_it_said() -> None:
    photo = raw.decode(dng(orientation=6))
    again = tiff.decode(tiff.encode(photo, depth=16))
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert again.metadata == photo.metadata


def test_a_tiff_is_not_raw() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((5, 6, 3), np.uint8), photometric="rgb")
    assert not raw.looks_raw(buffer.getvalue())
    assert not raw.looks_raw(b"")
    assert not raw.looks_raw(b"\xff\xd8\xff\xe0")


def test_the_directory_below_tells_a_raw_file() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as out:
        out.write(np.zeros((8, 8, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1, metadata=None)
        out.write(np.zeros((16, 16), np.uint16), photometric=32803, metadata=None)
    assert raw.looks_raw(buffer.getvalue())


def test_the_profile_does_not_know_what_day_it_is() -> None:
    profile = raw.srgb_profile()
    assert profile[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    assert profile[36:40] == b"acsp"


@pytest.mark.parametrize("cut", [0, 8, 100, 700, 5000, -1])
def test_cut_raw_files_are_errors(cut: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="raw file"):
        raw.decode(dng()[:cut])
    assert capfd.readouterr() == ("", "")


def test_a_limit_is_kept_before_anything_is_developed() -> None:
    with pytest.raises(InputError, match="expected at most") as caught:
        raw.decode(dng(), max_megapixels=0.001)
    assert "--max-megapixels" in caught.value.hint


def boxes(*parts: tuple[bytes, bytes]) -> bytes:
    return b"".join(struct.pack(">I4s", 8 + len(content), kind) + content for kind, content in parts)


def test_canon_boxes_give_exif_with_the_maker_note_whose_offsets_hold() -> None:
    note = exif.pack(Description("<", image=(Entry(270, 2, 20, b"a long text of note\0"),)))
    camera = exif.pack(Description("<", image=described().image))
    taken = exif.pack(Description("<", image=(exif.short(274, 1, "<"),)))
    canon = bytes.fromhex("85c0b687820f11e08111f4ce462b6a48")
    inner = boxes((b"CMT1", camera), (b"CMT2", taken), (b"CMT3", note), (b"CMT4", taken))
    packet = bytes.fromhex("be7acfcb97a942e89c71999491e3afac") + b"<xmp/>"
    data = boxes((b"ftyp", b"crx \0\0\0\1"), (b"moov", boxes((b"uuid", canon + inner))), (b"uuid", packet))
    assert raw.looks_raw(data)
    found = raw_metadata.read_metadata(data, Report())
    assert found.xmp == b"<xmp/>"
    assert found.exif is not None
    assert found.exif[8 : len(note)] == note[8:], "offsets in it count from the header"
    read = exif.read(found.exif)
    assert [entry.tag for entry in read.image] == [271]
    assert {entry.tag for entry in read.exif} == {274, exif.MAKER_NOTE}


def test_fuji_and_minolta_carry_their_blocks_elsewhere() -> None:
    block = exif.pack(described())
    segments = b"".join(segment.to_bytes() for segment in jpeg_metadata.build(Metadata(exif=block)))
    frame = bytes.fromhex("ffc0000b080001000101011100") + bytes.fromhex("ffda0008010100003f0000")
    jpeg = bytes((0xFF, SOI)) + segments + frame + bytes((0xFF, EOI))
    fuji = b"FUJIFILMCCD-RAW ".ljust(84, b"\0") + struct.pack(">II", 92, len(jpeg)) + jpeg
    minolta = b"\0MRM" + struct.pack(">I", len(block) + 8) + b"\0TTW" + struct.pack(">I", len(block)) + block
    for data in (fuji, minolta):
        assert raw.looks_raw(data)
        found = raw_metadata.read_metadata(data, Report()).exif
        assert found is not None
        assert exif.read(found).image[0].value == b"Maker\0"


def test_what_libraw_reports_stands_in_where_a_file_has_no_exif() -> None:
    report = Report(
        iso=50.0, exposure_seconds=1 / 250, aperture=2.8, focal_length_mm=7.09375, timestamp="2021:03:26 21:14:52"
    )
    found = raw_metadata.read_metadata(b"qktk of Apple", report).exif
    assert found is not None
    values = {entry.tag: entry.value for entry in exif.read(found).exif}
    assert values[33434] == struct.pack("<II", 1, 250)
    assert values[37386] == struct.pack("<II", 227, 32)
    assert values[36867] == b"2021:03:26 21:14:52\0"
    assert raw_metadata.read_metadata(b"qktk of Apple", Report()).exif is None


def test_the_colour_space_is_that_of_the_developed_photo() -> None:
    block = exif.pack(described())
    found = raw_metadata.read_metadata(block, Report()).exif
    assert found is not None
    assert [entry.value for entry in exif.read(found).exif if entry.tag == 40961] == [struct.pack("<H", 1)]


def test_a_dng_that_ends_one_byte_early_is_an_error() -> None:
    data = dng()
    first = next(read_chain(data))
    assert first.integer(273, "<", 0) + first.integer(279, "<", 0) == len(data)
    with pytest.raises(InputError, match="cut short"):
        raw.decode(data[:-1])


def decode(path: Path) -> Photo:
    return raw.decode(path.read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["linear", "developed"])
def test_every_real_raw_file_is_developed_or_refused(
    testdata: Path, mode: RawMode, capfd: pytest.CaptureFixture[str]
) -> None:
    developed = 0
    for path in sorted((testdata / "free" / "raw").rglob("*.*")):
        try:
            photo = raw.decode(path.read_bytes(), development=Development(mode=mode))
        except InputError:
            assert "BROKEN" in path.name or path.suffix == ".nef"
            continue
        assert "BROKEN" not in path.name
        developed += 1
        assert photo.depth == 16
        assert (photo.linear, photo.camera is not None, photo.metadata.icc is None) == (mode == "linear",) * 3
        assert photo.metadata.exif is not None
        assert any(entry.tag == 271 for entry in exif.read(photo.metadata.exif).image), path
    assert developed == 19
    assert capfd.readouterr() == ("", "")


def test_the_four_phases_of_a_bayer_pattern_give_the_same_picture(testdata: Path) -> None:
    folder = testdata / "free" / "raw" / "derived_dng_CC0"
    shown = {
        phase: decode(folder / f"g2_bayer_{phase}_512.dng").pixels.astype(float)
        for phase in ("rggb", "bggr", "grbg", "gbrg")
    }
    shifts = {"rggb": (0, 0), "grbg": (0, 1), "gbrg": (1, 0), "bggr": (1, 1)}
    for phase, (down, right) in shifts.items():
        ours = shown[phase][8:496, 8:496]
        theirs = shown["rggb"][8 + down : 496 + down, 8 + right : 496 + right]
        assert np.abs(ours - theirs).mean() < 655, phase


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_turned_raw_files_carry_the_tag(testdata: Path, orientation: int) -> None:
    photo = decode(testdata / "free" / "raw" / "derived_dng_CC0" / f"g2_bayer_rggb_orient{orientation}_480x320.dng")
    assert photo.size == (320, 480)
    assert exif.orientation(photo.metadata.exif) == orientation


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_canon_crw_says_its_camera_and_exposure(testdata: Path, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    photo = decode(testdata / "free" / "raw" / "canon_powershot_crw" / "CRW_0113.CRW")
    assert photo.metadata.exif is not None
    found = exif.read(photo.metadata.exif)
    assert {entry.value for entry in found.image} >= {b"Canon\0", b"Canon PowerShot S40\0"}
    assert b"2021:03:26 21:14:52\0" in {entry.value for entry in found.exif}


def test_pixels_that_are_not_square_are_told_of(testdata: Path) -> None:
    photo = decode(testdata / "free" / "raw" / "kodak_dc120" / "P003909.KDC")
    assert any("1.53 times as wide as high" in note for note in photo.notes)


@pytest.mark.slow
def test_odd_raw_files_do_not_crash(testdata: Path) -> None:
    for path in sorted((testdata / "research").glob("*unstated_licence/**/*.*")):
        try:
            photo = decode(path)
            tiff.encode(photo, depth=16)
        except KBNetError:
            continue


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_damaged_raw_files_give_a_photo_or_an_error(times: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = dng()
    rng = np.random.default_rng(5)
    for place in rng.integers(0, 700, times):
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        raw.looks_raw(bytes(damaged))
        try:
            raw.decode(bytes(damaged), max_megapixels=5.0)
        except KBNetError:
            continue
    assert capfd.readouterr() == ("", "")


def test_no_code_runs_that_lies_beside_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rawpy", "calendar", "imagecodecs"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('from the folder of the photo')")
    monkeypatch.chdir(tmp_path)
    photo = raw.decode(mosaic_dng(patches([(0.2, 0.3, 0.1)])), development=Development(mode="linear"))
    assert codec.encode(photo, "dng").data[:2] in (b"II", b"MM")


@pytest.mark.parametrize(("stated", "expected"), [(0, 1), (9, 1), (6, 6), (1, 1)])
def test_an_orientation_that_is_none_turns_nothing(stated: int, expected: int) -> None:
    photo = raw.decode(mosaic_dng(patches([(0.2, 0.3, 0.1)]), orientation=stated))
    assert exif.orientation(photo.metadata.exif) == expected


def test_wishes_for_developed_pictures_are_told_of_where_they_say_nothing() -> None:
    wishes = Development(mode="linear", brightness=2.0, colour_space="prophoto")
    photo = raw.decode(mosaic_dng(patches([(0.2, 0.3, 0.1)])), development=wishes)
    assert any("--brightness, --colour-space left aside" in note for note in photo.notes)
