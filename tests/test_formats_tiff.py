"""TIFF: every kind of samples, and all that is not samples stays byte for byte."""

import io
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from kbnet_cli.errors import InputError, KBNetError, UnsupportedError
from kbnet_cli.formats import exif, tiff
from kbnet_cli.formats.depth import convert
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Directory, Entry, read_chain, read_layout
from kbnet_cli.formats.tiff_rewrite import STORAGE
from kbnet_cli.photo import Metadata, Origin, Photo

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\x00\x05title"
NOTE = bytes(range(250)) * 2


def scene(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    """Draw something that compresses, with noise on it."""
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (shape[0] + shape[1])
    values = ramp.reshape(*shape[:2], *(1 for _ in shape[2:])) + np.random.default_rng(1).normal(0, 0.02, shape)
    if np.dtype(kind).kind == "f":
        return values.astype(kind)
    return (np.clip(values, 0, 1) * np.iinfo(kind).max).astype(kind)


def make(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tags = [
        (37500, 7, len(NOTE), NOTE, True),
        (65000, 12, 2, (0.1, -1e300), True),
        (65001, 5, 1, (0, 0), True),
        (700, 1, len(XMP), XMP, True),
        (33723, 7, len(IPTC), IPTC, True),
        (34675, 7, len(ICC), ICC, True),
        (274, 3, 1, 6, True),
    ]
    with tifffile.TiffWriter(
        buffer, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as out:
        options = {"metadata": None, "software": "a camera", "extratags": tags, "resolution": (300, 300)} | options
        out.write(values, **options)
        out.write(scene(20, 30), metadata=None, subfiletype=1, compression="deflate")
        out.write(scene(11, 13, 3, kind=np.uint16), photometric="rgb", metadata=None, description="second page")
    return buffer.getvalue()


def directories(data: bytes) -> list[Directory]:
    return list(read_chain(data))


def kept(page: Directory) -> list[tuple[int, int, int, bytes | None]]:
    """List what a directory says beside how its samples are stored."""
    return sorted((e.tag, e.type, e.count, e.value) for e in page.entries if e.tag not in STORAGE)


def check_nothing_is_lost(before: bytes, after: bytes) -> None:
    """Compare all but the photo's samples, byte for byte."""
    old, new = directories(before), directories(after)
    assert len(old) == len(new)
    assert kept(new[0]) == kept(old[0])
    order = read_layout(before).order
    for was, becomes in zip(old[1:], new[1:], strict=True):
        assert (becomes.offset, becomes.entries) == (was.offset, was.entries)
        for at, size in zip(was.integers(273, order), was.integers(279, order), strict=True):
            assert before[at : at + size] == after[at : at + size]


KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "grey": (scene(37, 53), {"photometric": "minisblack"}),
    "grey 16 white is zero": (scene(37, 53, kind=np.uint16), {"photometric": "miniswhite"}),
    "rgb": (scene(37, 53, 3), {"photometric": "rgb"}),
    "rgb 16": (scene(37, 53, 3, kind=np.uint16), {"photometric": "rgb"}),
    "rgb float": (scene(37, 53, 3, kind=np.float32), {"photometric": "rgb"}),
    "grey float": (scene(37, 53, kind=np.float32), {"photometric": "minisblack"}),
    "cmyk": (scene(37, 53, 4), {"photometric": "separated"}),
    "cmyk 16 alpha": (scene(37, 53, 5, kind=np.uint16), {"photometric": "separated", "extrasamples": [2]}),
    "rgb alpha": (scene(37, 53, 4), {"photometric": "rgb", "extrasamples": [2]}),
    "rgb 16 multiplied": (scene(37, 53, 4, kind=np.uint16), {"photometric": "rgb", "extrasamples": [1]}),
    "rgb channels": (scene(37, 53, 6), {"photometric": "rgb", "extrasamples": [0, 2, 0]}),
    "grey alpha": (scene(37, 53, 2), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [2]}),
    "one pixel": (scene(1, 1, 3), {"photometric": "rgb"}),
    "three rows": (scene(3, 3, 3), {"photometric": "rgb"}),
}
STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "deflate": {"compression": "deflate", "predictor": True, "rowsperstrip": 7},
    "lzw": {"compression": "lzw"},
    "packbits": {"compression": "packbits", "rowsperstrip": 1},
    "zstd": {"compression": "zstd"},
    "tiles": {"tile": (16, 32)},
    "deflated tiles": {"tile": (32, 16), "compression": "deflate"},
    "big": {"bigtiff": True, "compression": "deflate"},
    "other end": {"byteorder": ">", "rowsperstrip": 5},
    "other end, deflate": {"byteorder": ">", "compression": "deflate", "predictor": True},
}


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
    assert photo.alpha is None or np.array_equal(photo.alpha, again.alpha)
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
        with Image.open(io.BytesIO(after)) as picture:
            np.testing.assert_array_equal(np.asarray(picture), changed.pixels)


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
    assert alpha is None or np.array_equal(alpha, again.alpha)


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
        with Image.open(io.BytesIO(after)) as picture:
            np.testing.assert_array_equal(np.asarray(picture), photo.pixels)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"rowsperstrip": 16}])
def test_jpeg_in_tiff_is_read_and_written_without_loss(options: dict[str, Any]) -> None:
    before = make(scene(48, 64, 3), photometric="ycbcr", compression="jpeg", subsampling=(2, 2), **options)
    photo = tiff.decode(before)
    assert photo.origin is not None
    assert not photo.origin.lossless
    with Image.open(io.BytesIO(before)) as picture:
        assert np.abs(np.asarray(picture).astype(int) - photo.pixels).max() <= 2
    after = tiff.encode(photo, depth=8)
    np.testing.assert_array_equal(tiff.decode(after).pixels, photo.pixels)
    with Image.open(io.BytesIO(after)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), photo.pixels)
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
    assert see_through is None or np.array_equal(again.alpha, see_through)
    assert replace(again.metadata, exif=None) == replace(photo.metadata, exif=None)
    assert photo.metadata.exif is not None
    assert again.metadata.exif == photo.metadata.exif, "the same entries, the maker note at the same place"
    assert data[400 : 400 + len(NOTE)] == NOTE
    assert directories(data)[0].value(305) == b"abc\0"
    theirs = tifffile.imread(io.BytesIO(data)).reshape(37, 53, -1)
    np.testing.assert_array_equal(theirs[..., :channels], photo.pixels)
    if depth == 8 and (colour != "cmyk" or not alpha):
        with Image.open(io.BytesIO(data)) as picture:
            np.testing.assert_array_equal(np.asarray(picture).reshape(theirs.shape), theirs)
            assert picture.getexif()[271] == "Canon"


def test_a_photo_without_metadata_becomes_tiff() -> None:
    photo = foreign(metadata=Metadata(), origin=None)
    again = tiff.decode(tiff.encode(photo, depth=8))
    np.testing.assert_array_equal(again.pixels, photo.pixels)
    assert again.metadata == Metadata()


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


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.int32, np.uint64, np.complex64])
def test_samples_that_could_not_be_written_back_are_refused(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match="expected"):
        tiff.decode(make(np.ones((5, 6), kind), photometric="minisblack"))


@pytest.mark.parametrize("photometric", ["cielab", "icclab", "ycbcr"])
def test_colours_that_are_not_understood_are_refused(photometric: str) -> None:
    with pytest.raises(UnsupportedError, match="expected"):
        tiff.decode(make(scene(16, 16, 3), photometric=photometric))


def test_a_limit_is_kept_before_anything_is_decoded() -> None:
    with pytest.raises(InputError, match="--max-megapixels|expected at most") as caught:
        tiff.decode(make(scene(200, 300), photometric="minisblack"), max_megapixels=0.05)
    assert "--max-megapixels" in caught.value.hint


@pytest.mark.parametrize("stored", STORED)
def test_cut_anywhere_gives_an_error_or_the_whole_photo(stored: str) -> None:
    values, options = KINDS["rgb"]
    data = make(values, **options, **STORED[stored])
    photo = tiff.decode(data)
    for length in range(0, len(data), max(1, len(data) // 97)):
        try:
            cut = tiff.decode(data[:length])
        except InputError:
            continue
        np.testing.assert_array_equal(cut.pixels, photo.pixels)


def test_a_strip_that_is_shorter_than_it_says_gives_an_error() -> None:
    for compression in ("deflate", "lzw", "packbits", "zstd", "jpeg"):
        data = make(scene(64, 64, 3), photometric="rgb", compression=compression, rowsperstrip=64)
        page = directories(data)[0]
        place = page.offset + 2 + 12 * next(i for i, entry in enumerate(page.entries) if entry.tag == 279)
        half = (page.integer(279, "<", 0) // 2).to_bytes(4, "little")
        with pytest.raises(InputError, match="damaged"):
            tiff.decode(data[: place + 8] + half + data[place + 12 :])


@pytest.mark.parametrize("stored", ["plain", "deflate", "tiles", "big", "other end"])
def test_flipped_bytes_give_a_photo_or_an_error(stored: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = make(scene(24, 24, 3), photometric="rgb", **STORED[stored])
    rng = np.random.default_rng(3)
    header = directories(data)[0]
    # The first directory is where a byte matters most; the rest of the file gets its share too.
    places = list(range(header.end)) + list(rng.integers(0, len(data), 100))
    for place in places[:: max(1, len(places) // 400)]:
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            photo = tiff.decode(bytes(damaged), max_megapixels=1)
            again = tiff.decode(tiff.encode(photo, depth=photo.depth))
            np.testing.assert_array_equal(again.pixels, photo.pixels)
        except KBNetError:
            continue
    assert capfd.readouterr() == ("", "")


def test_a_bomb_is_refused() -> None:
    data = bytearray(make(scene(24, 24, 3), photometric="rgb", compression="deflate"))
    page = directories(bytes(data))[0]
    for index, entry in enumerate(page.entries):
        if entry.tag in (256, 257, 278):
            place = page.offset + 2 + 12 * index
            data[place + 2 : place + 12] = b"\4\0\1\0\0\0" + (40_000).to_bytes(4, "little")
    with pytest.raises(InputError, match="bomb"):
        tiff.decode(bytes(data))


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
        assert photo.alpha is None or np.array_equal(photo.alpha, again.alpha)
        assert again.metadata == photo.metadata
        check_nothing_is_lost(before, after)
        with Image.open(io.BytesIO(after)) as picture:
            assert picture.size == photo.size[::-1]
            if photo.depth == 8 and photo.alpha is None:
                np.testing.assert_array_equal(np.asarray(picture).reshape(photo.pixels.shape), photo.pixels)
    assert decoded >= 18


STRUCTURE = (
    "BitsPerSample", "Compression", "FileSize", "JPEGTables", "PhotometricInterpretation", "Predictor", "RowsPerStrip",
    "SampleFormat", "StripByteCounts", "StripOffsets", "TileByteCounts", "TileOffsets", "T4Options", "T6Options",
    "FillOrder", "PlanarConfiguration", "FileName", "FileModifyDate", "FileAccessDate", "FileInodeChangeDate",
)  # fmt: skip


def exiftool(path: Path) -> list[str]:
    command = ["exiftool", "-a", "-G1", "-s", "--System:all", str(path)]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [line for line in lines if line.split("]", 1)[1].split(":", 1)[0].strip() not in STRUCTURE]


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
