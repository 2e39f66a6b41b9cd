"""TIFF: every kind of samples, and all that is not samples stays byte for byte."""

import io
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from kbnet_cli.errors import KBNetError, OutputError, UnsupportedError
from kbnet_cli.formats import exif, photoshop, tiff
from kbnet_cli.formats.depth import convert
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry
from kbnet_cli.photo import Metadata, Origin, Photo
from tests.tiffs import (
    ICC,
    IPTC,
    KINDS,
    NOTE,
    STORED,
    XMP,
    check_nothing_is_lost,
    directories,
    kept,
    make,
    pillow,
    same,
    scene,
)


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_lost(kind: str, stored: str) -> None:
    values, options = KINDS[kind]
    before = make(values, **options, **STORED[stored])
    photo = tiff.decode(before)
    assert photo.metadata.icc == ICC
    assert photo.metadata.xmp == XMP
    assert photo.metadata.iptc == IPTC
    assert exif.orientation(photo.metadata.exif) == 6
    after = tiff.encode(photo, depth=photo.depth)
    check_nothing_is_lost(before, after)
    again = tiff.decode(after)
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert (again.alpha is None) == (photo.alpha is None)
    assert photo.alpha is None or same(photo.alpha, again.alpha)
    assert again.metadata == photo.metadata
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(after), key=0), tifffile.imread(io.BytesIO(before), key=0))
    if STORED[stored].get("compression") is None:
        assert after == before, "an uncompressed picture goes back to where it was"
    assert len(after) < 1.2 * len(before) + 300


@pytest.mark.parametrize("planar", ["plain", "strips", "deflate", "tiles", "other end"])
def test_planes_stay_planes(planar: str) -> None:
    before = make(scene(3, 37, 53, kind=np.uint16), photometric="rgb", planarconfig="separate", **STORED[planar])
    photo = tiff.decode(before)
    assert photo.pixels.shape == (37, 53, 3)
    after = tiff.encode(photo, depth=16)
    check_nothing_is_lost(before, after)
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(after), key=0), tifffile.imread(io.BytesIO(before), key=0))
    assert directories(after)[0].integer(284, "<" if after[:2] == b"II" else ">", 1) == 2


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", ["rgb", "rgb 16", "rgb float", "grey 16 white is zero", "rgb channels"])
def test_other_pixels_are_written_and_read_by_others(kind: str, stored: str) -> None:
    values, options = KINDS[kind]
    before = make(values, **options, **STORED[stored])
    photo = tiff.decode(before)
    changed = photo.with_pixels(photo.pixels[::-1, ::-1].copy())
    after = tiff.encode(changed, depth=photo.depth)
    check_nothing_is_lost(before, after)
    np.testing.assert_array_equal(tiff.decode(after).pixels, changed.pixels)
    colours = changed.pixels.shape[2]
    theirs = tifffile.imread(io.BytesIO(after), key=0).reshape(37, 53, -1)
    expected = 65535 - changed.pixels if kind == "grey 16 white is zero" else changed.pixels
    np.testing.assert_array_equal(theirs[..., :colours], expected)
    np.testing.assert_array_equal(theirs[..., colours:], values.reshape(37, 53, -1)[..., colours:])
    if kind == "rgb" and stored != "zstd":
        np.testing.assert_array_equal(pillow(after), changed.pixels)


@pytest.mark.parametrize("depth", [8, 16, 32])
@pytest.mark.parametrize("kind", ["grey", "rgb 16", "rgb float", "rgb channels", "rgb alpha", "grey 16 white is zero"])
def test_another_depth_keeps_the_rest(kind: str, depth: Any) -> None:
    values, options = KINDS[kind]
    before = make(values, **options, compression="lzw")
    photo = tiff.decode(before)

    def other(samples: np.ndarray) -> np.ndarray:
        return convert(samples, from_depth=photo.depth, to_depth=depth)

    alpha = None if photo.alpha is None else other(photo.alpha)
    deeper = replace(photo, pixels=other(photo.pixels), alpha=alpha, depth=depth)
    after = tiff.encode(deeper, depth=depth)
    check_nothing_is_lost(before, after)
    again = tiff.decode(after)
    assert again.depth == depth
    np.testing.assert_array_equal(again.pixels, deeper.pixels)
    assert alpha is None or same(alpha, again.alpha)


@pytest.mark.parametrize(
    ("bits", "kind", "depth"), [(1, bool, 8), (2, np.uint8, 8), (4, np.uint8, 8), (12, np.uint16, 16)]
)
def test_depths_between_become_the_next_and_can_be_undone(bits: int, kind: Any, depth: int) -> None:
    stored = (np.arange(40 * 48).reshape(40, 48) % 2**bits).astype(kind)
    options = {} if kind is bool else {"bitspersample": bits}
    photo = tiff.decode(make(stored, photometric="minisblack", **options))
    assert photo.depth == depth
    np.testing.assert_array_equal(np.rint(photo.pixels[..., 0] / photo.white * (2**bits - 1)), stored)
    assert any(f"{bits}-bit samples" in note for note in photo.notes)
    after = tiff.encode(photo, depth=photo.depth)
    np.testing.assert_array_equal(tiff.decode(after).pixels, photo.pixels)


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_floats_become_32_bit_floats(kind: Any) -> None:
    photo = tiff.decode(make(scene(20, 30, 3, kind=kind), photometric="rgb"))
    assert photo.depth == 32
    assert any("float samples" in note for note in photo.notes)
    np.testing.assert_array_equal(tiff.decode(tiff.encode(photo, depth=32)).pixels, photo.pixels)


def test_float_is_linear_where_no_profile_says_otherwise() -> None:
    assert not tiff.decode(make(scene(20, 30, 3, kind=np.float32), photometric="rgb")).linear
    assert tiff.decode(make(scene(20, 30, 3, kind=np.float32), photometric="rgb", extratags=[])).linear
    assert not tiff.decode(make(scene(20, 30, 3), photometric="rgb", extratags=[])).linear


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 1e-40])
def test_odd_floats_survive(special: float) -> None:
    values = np.full((5, 6, 3), special, np.float32)
    for compression in (None, "deflate"):
        photo = tiff.decode(make(values, photometric="rgb", compression=compression, predictor=compression is not None))
        after = tiff.encode(photo, depth=32)
        assert tiff.decode(after).pixels.tobytes() == values.tobytes()


@pytest.mark.parametrize("shape", ["8-bit", "16-bit", "times 256"])
def test_a_palette_becomes_rgb(shape: str) -> None:
    table = np.random.default_rng(2).integers(0, 256, (3, 256), dtype=np.uint16)
    table = {"8-bit": table * 257, "times 256": table * 256, "16-bit": table * 257 // 2}[shape].astype(np.uint16)
    index = scene(37, 53)
    before = make(index, photometric="palette", colormap=table)
    photo = tiff.decode(before)
    assert photo.depth == (16 if shape == "16-bit" else 8)
    expected = table.T[index] if shape == "16-bit" else (table.T[index] // 256)
    np.testing.assert_array_equal(photo.pixels, expected)
    after = tiff.encode(photo, depth=photo.depth)
    check_nothing_is_lost(before, after)
    np.testing.assert_array_equal(tiff.decode(after).pixels, photo.pixels)
    if shape != "16-bit":
        np.testing.assert_array_equal(pillow(after), photo.pixels)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 16}])
def test_jpeg_in_tiff_is_read_and_written_without_loss(options: dict[str, Any]) -> None:
    before = make(scene(48, 64, 3), photometric="ycbcr", compression="jpeg", subsampling=(2, 2), **options)
    photo = tiff.decode(before)
    assert photo.origin is not None
    assert not photo.origin.lossless
    assert np.abs(pillow(before).astype(int) - photo.pixels).max() <= 2
    after = tiff.encode(photo, depth=8)
    np.testing.assert_array_equal(tiff.decode(after).pixels, photo.pixels)
    np.testing.assert_array_equal(pillow(after), photo.pixels)
    assert not {347, 529, 530, 531, 532} & {entry.tag for entry in directories(after)[0].entries}
    ours = {entry[0]: entry for entry in kept(directories(after)[0])}
    theirs = {entry[0]: entry for entry in kept(directories(before)[0]) if entry[0] not in (529, 530, 531, 532)}
    assert ours == theirs


def test_a_small_copy_in_front_is_not_the_photo() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as out:
        out.write(scene(10, 12, 3), photometric="rgb", subfiletype=1, metadata=None)
        out.write(scene(40, 48, 3), photometric="rgb", compression="deflate", metadata=None)
    before = buffer.getvalue()
    photo = tiff.decode(before)
    assert photo.size == (40, 48)
    after = tiff.encode(photo.with_pixels(255 - photo.pixels), depth=8)
    assert kept(directories(after)[1]) == kept(directories(before)[1])
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(after), key=0), scene(10, 12, 3))
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(after), key=1), 255 - scene(40, 48, 3))


def test_strips_that_two_pages_share_are_not_overwritten() -> None:
    before = bytearray(make(scene(20, 30), photometric="minisblack", rowsperstrip=20))
    first, small, _ = directories(bytes(before))
    # The small page gets the photo's strip as its own.
    place = small.offset + 2 + 12 * next(i for i, entry in enumerate(small.entries) if entry.tag == 273)
    before[place + 8 : place + 12] = first.integer(273, "<", 0).to_bytes(4, "little")
    photo = tiff.decode(bytes(before))
    after = tiff.encode(photo.with_pixels(255 - photo.pixels), depth=8)
    at = first.integer(273, "<", 0)
    assert after[at : at + 600] == bytes(before[at : at + 600])
    np.testing.assert_array_equal(tiff.decode(after).pixels, 255 - photo.pixels)


def test_the_old_picture_does_not_stay_in_the_file() -> None:
    before = make(scene(200, 300, 3), photometric="rgb", compression="lzw")
    photo = tiff.decode(before)
    old = directories(before)[0]
    black = tiff.encode(photo.with_pixels(photo.pixels * 0), depth=8)
    for at, size in zip(old.integers(273, "<"), old.integers(279, "<"), strict=True):
        assert black[at + 2000 : at + size] == bytes(len(black[at + 2000 : at + size]))


def test_a_file_that_ends_with_its_picture_shrinks_and_grows_with_it() -> None:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, scene(200, 300, 3), photometric="rgb", compression="deflate", metadata=None)
    photo = tiff.decode(buffer.getvalue())
    black = tiff.encode(photo.with_pixels(photo.pixels * 0), depth=8)
    assert len(black) < 0.1 * len(buffer.getvalue())
    noise = np.random.default_rng(0).integers(0, 256, photo.pixels.shape, dtype=np.uint8)
    louder = tiff.encode(replace(tiff.decode(black), pixels=noise), depth=8)
    assert len(louder) < 1.02 * noise.nbytes
    np.testing.assert_array_equal(tiff.decode(louder).pixels, noise)


def test_changed_metadata_is_written() -> None:
    before = make(scene(20, 30, 3), photometric="rgb")
    photo = tiff.decode(before)
    block = exif.with_orientation(photo.metadata.exif, 8)
    changed = Metadata(exif=block, xmp=XMP + b" ", iptc=None, icc=photo.metadata.icc)
    after = tiff.encode(replace(photo, metadata=changed), depth=8)
    again = tiff.decode(after).metadata
    assert exif.orientation(again.exif) == 8
    assert (again.xmp, again.iptc, again.icc) == (XMP + b" ", None, ICC)
    assert directories(after)[0].value(65000) == directories(before)[0].value(65000)
    assert len(directories(after)) == 3


@pytest.mark.parametrize("written", ["bytes", "numbers", "swapped numbers", "photoshop"])
def test_iptc_is_found_however_it_was_written(written: str) -> None:
    records = IPTC + b"\0\0"
    order = ">" if written == "swapped numbers" else "<"
    numbers = struct.unpack(order + "3I", records)
    tag: tuple[Any, ...] = (33723, 4, 3, numbers, True)
    if written == "bytes":
        tag = (33723, 1, len(records), records, True)
    elif written == "photoshop":
        resources = photoshop.wrap_iptc(records)
        tag = (34377, 1, len(resources), resources, True)
    before = make(scene(20, 30, 3), photometric="rgb", extratags=[tag])
    photo = tiff.decode(before)
    assert photo.metadata.iptc == records
    assert tiff.encode(photo, depth=8) == before


def foreign(**changes: Any) -> Photo:
    described = Description(
        ">",
        image=(Entry(271, 2, 6, b"Canon\0"), Entry(305, 2, 4, b"abc\0"), exif.short(274, 8, ">")),
        exif=(Entry(37500, 7, len(NOTE), NOTE, offset=400), Entry(33434, 5, 1, b"\0\0\0\1\0\0\1\0")),
        gps=(Entry(0, 1, 4, b"\2\3\0\0"),),
    )
    metadata = Metadata(exif=exif.pack(described), xmp=XMP, iptc=IPTC, icc=ICC)
    return replace(Photo(scene(37, 53, 3), "rgb", 8, metadata=metadata, origin=Origin("png", b"")), **changes)


@pytest.mark.parametrize("depth", [8, 16, 32])
@pytest.mark.parametrize(("colour", "channels"), [("grey", 1), ("rgb", 3), ("cmyk", 4)])
@pytest.mark.parametrize("alpha", [False, True])
def test_a_photo_from_elsewhere_becomes_tiff(colour: Any, channels: int, depth: Any, alpha: bool) -> None:
    kind = {8: np.uint8, 16: np.uint16, 32: np.float32}[depth]
    see_through = scene(37, 53, kind=kind) if alpha else None
    photo = foreign(pixels=scene(37, 53, channels, kind=kind), colour=colour, depth=depth, alpha=see_through)
    data = tiff.encode(photo, depth=depth)
    again = tiff.decode(data)
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert alpha == (again.alpha is not None)
    assert see_through is None or same(again.alpha, see_through)
    assert replace(again.metadata, exif=None) == replace(photo.metadata, exif=None)
    assert photo.metadata.exif is not None
    assert again.metadata.exif == photo.metadata.exif, "the same entries, the maker note at the same place"
    assert data[400 : 400 + len(NOTE)] == NOTE
    assert directories(data)[0].value(305) == b"abc\0"
    theirs = tifffile.imread(io.BytesIO(data)).reshape(37, 53, -1)
    np.testing.assert_array_equal(theirs[..., :channels], photo.pixels)
    if depth == 8 and (colour != "cmyk" or not alpha):
        np.testing.assert_array_equal(pillow(data).reshape(theirs.shape), theirs)
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.getexif()[271] == "Canon"


def test_a_photo_without_metadata_becomes_tiff() -> None:
    photo = foreign(metadata=Metadata(), origin=None)
    again = tiff.decode(tiff.encode(photo, depth=8))
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert again.metadata == Metadata()


def test_a_file_of_more_than_4_gb_is_a_big_tiff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiff, "_CLASSIC_BYTES", 1000)
    photo = foreign()
    data = tiff.encode(photo, depth=8)
    assert data[:4] == b"MM\0+"
    again = tiff.decode(data)
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert replace(again.metadata, exif=None) == replace(photo.metadata, exif=None)
    assert photo.metadata.exif is not None
    assert again.metadata.exif is not None
    theirs, ours = exif.read(photo.metadata.exif), exif.read(again.metadata.exif)
    for was, becomes in ((theirs.image, ours.image), (theirs.exif, ours.exif), (theirs.gps, ours.gps)):
        assert [(e.tag, e.type, e.value) for e in was] == [(e.tag, e.type, e.value) for e in becomes]
    with pytest.raises(OutputError, match="at most 4 GB"):
        tiff.encode(tiff.decode(make(scene(37, 53, 3), photometric="rgb")), depth=8)


def test_a_thumbnail_does_not_become_a_page() -> None:
    picture = io.BytesIO()
    whole = Image.Exif()
    whole[271] = "Canon"
    Image.new("RGB", (8, 8)).save(picture, "JPEG", exif=whole)
    block = whole.tobytes().removeprefix(b"Exif\0\0")
    assert len(directories(tiff.encode(foreign(metadata=Metadata(exif=block)), depth=8))) == 1


def test_damaged_exif_is_not_left_out_in_silence() -> None:
    with pytest.raises(UnsupportedError, match="EXIF cannot be carried over"):
        tiff.encode(foreign(metadata=Metadata(exif=b"II*\0\xff\xff\xff\xff")), depth=8)


def real_files(testdata: Path) -> list[Path]:
    return sorted(path for path in (testdata / "free").rglob("*") if path.suffix.lower() in (".tif", ".tiff"))


def test_real_files_lose_nothing(testdata: Path) -> None:
    decoded = 0
    for path in real_files(testdata):
        before = path.read_bytes()
        try:
            photo = tiff.decode(before)
        except KBNetError:
            continue
        decoded += 1
        after = tiff.encode(photo, depth=photo.depth)
        again = tiff.decode(after)
        np.testing.assert_array_equal(again.pixels, photo.pixels)
        assert photo.alpha is None or same(photo.alpha, again.alpha)
        assert again.metadata == photo.metadata
        check_nothing_is_lost(before, after)
        if photo.depth == 8 and photo.alpha is None:
            np.testing.assert_array_equal(pillow(after).reshape(photo.pixels.shape), photo.pixels)
    assert decoded >= 18


STRUCTURE = (
    "BitsPerSample", "Compression", "FileSize", "JPEGTables", "PhotometricInterpretation", "Predictor", "RowsPerStrip",
    "SampleFormat", "StripByteCounts", "StripOffsets", "TileByteCounts", "TileOffsets", "T4Options", "T6Options",
    "FillOrder", "PlanarConfiguration", "FileName", "FileModifyDate", "FileAccessDate", "FileInodeChangeDate",
)  # fmt: skip


def exiftool(path: Path) -> list[str]:
    command = ["exiftool", "-a", "-G1", "-s", "--System:all", str(path)]
    lines = subprocess.run(command, capture_output=True, check=False).stdout.decode("latin-1").splitlines()
    return [line for line in lines if line.split("]", 1)[1].split(":", 1)[0].strip() not in STRUCTURE]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
def test_exiftool_sees_no_difference(testdata: Path, tmp_path: Path) -> None:
    for path in real_files(testdata):
        try:
            photo = tiff.decode(path.read_bytes())
        except KBNetError:
            continue
        after = tmp_path / "after.tif"
        after.write_bytes(tiff.encode(photo, depth=photo.depth))
        assert exiftool(after) == exiftool(path), path
