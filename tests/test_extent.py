"""The size that a header tells is the size that decoding gives, and takes little reading."""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from kbnet_cli.errors import KBNetError
from kbnet_cli.formats import chunks, codec, exif
from kbnet_cli.formats.chunks import Chunk
from kbnet_cli.formats.development import Development
from kbnet_cli.formats.extent import Extent, extent
from kbnet_cli.formats.raw.develop import answer
from kbnet_cli.formats.raw.report import Wishes
from kbnet_cli.formats.segments import Segment
from kbnet_cli.formats.table import FORMATS, Format
from kbnet_cli.photo import ColourModel, Depth, Metadata, Photo
from tests import dngs
from tests.headers import DEEP_ALPHA, GREY, GREY_ALPHA, RAW, Counting, of_fuji, photo_of, told
from tests.mosaics import BAYER, XTRANS, mosaic_dng, patches
from tests.pictures import picture
from tests.test_formats_heic import TEN_BITS, TURNED
from tests.test_formats_png import file_of, palette_file
from tests.tiffs import ICC, KINDS, STORED, XMP, make, scene

LINEAR = Development(mode="linear")
NEVER_DECODED = (".icc", ".md", ".txt")


def seen(photo: Photo, kind: str) -> Extent:
    """What `extent` has to say of a photo."""
    height, width, channels = photo.pixels.shape
    return Extent(kind, height, width, channels, photo.pixels.itemsize, photo.alpha is not None)


def check(data: bytes) -> Extent:
    found = told(data)
    assert found == seen(codec.decode(data), codec.kind_of(data))
    return found


def developed(data: bytes) -> tuple[int, ...]:
    """Decode camera raw without a process of its own, which takes longer than all else in a test."""
    return answer(data, Wishes(LINEAR))[1].shape


def written() -> Iterator[tuple[Format, Depth, ColourModel, bool]]:
    for format in FORMATS:
        for depth in format.depths if not format.camera else ():
            for colour in format.colours:
                yield format, depth, colour, False
                if format.alpha and (format.name, colour) != ("tif", "cmyk"):
                    yield format, depth, colour, True


@pytest.mark.parametrize(
    ("format", "depth", "colour", "alpha"),
    [pytest.param(*row, id=f"{row[0].name} {row[1]} {row[2]}{' alpha' * row[3]}") for row in written()],
)
def test_all_that_is_written(format: Format, depth: Depth, colour: ColourModel, alpha: bool) -> None:
    blocks = Metadata(exif=exif.with_orientation(None, 6), xmp=XMP) if "exif" in format.blocks else Metadata()
    for metadata in (Metadata(), blocks):
        photo = photo_of(depth, colour, alpha=alpha, metadata=metadata)
        found = check(codec.encode(photo, format.name, depth=depth).data)
        assert (found.height, found.width, found.kind, found.exact) == (33, 47, format.name, True)


def test_the_numbers_that_follow() -> None:
    found = Extent("png", 3000, 4000, 3, 2, alpha=True)
    assert found.megapixels == 12.0
    assert found.pixel_bytes == 3000 * 4000 * 4 * 2


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_and_lossless_jpeg(bits: int) -> None:
    data = bytes(imagecodecs.jpeg8_encode(picture(depth=bits), lossless=bits == 16, bitspersample=bits))
    assert check(data).sample_bytes == 2


def test_a_jpeg_s_own_frame_counts_and_not_that_of_its_preview() -> None:
    preview = bytes(imagecodecs.jpeg8_encode(picture(8, 12)))
    data = bytes(imagecodecs.jpeg8_encode(picture(40, 56)))
    blocks = [Segment(0xE1, b"Exif\0\0" + preview.ljust(60_000, b"\0")), *[Segment(0xE2, bytes(65_000))] * 20]
    long = data[:2] + b"".join(block.to_bytes() for block in blocks) + b"\xff\xff" + data[2:]
    file = Counting(long + bytes(10_000_000))
    assert extent(file, len(long) + 10_000_000) == check(data)
    assert file.read_bytes < 25 * 4096
    assert told(data.replace(b"\xff\xc0\x00\x11\x08\x00\x28", b"\xff\xc0\x00\x11\x08\x00\x00")) is None, "no height"


@pytest.mark.parametrize(("channels", "content"), [(1, b"\0\1"), (3, bytes(6)), (1, b"\0\1\2"), (3, b"")])
@pytest.mark.parametrize("depth", [8, 16])
def test_transparent_colours_of_png_are_alpha(channels: int, content: bytes, depth: int) -> None:
    samples = picture(depth=depth)[:, :, :channels].squeeze()
    profile = Chunk(b"iCCP", b"icc\0\0" + zlib.compress(ICC))
    found = check(file_of(samples, profile, Chunk(b"tEXt", b"Comment\0" + b"long" * 5000), Chunk(b"tRNS", content)))
    assert found.alpha == (len(content) == 2 * channels)


@pytest.mark.parametrize("transparent", [False, True])
def test_palettes_and_few_bits_of_png(transparent: bool) -> None:
    assert check(palette_file(transparent=transparent)).alpha == transparent
    assert check(palette_file(transparent=transparent).replace(Chunk(b"sBIT", b"\5\6\5").to_bytes(), b"")).channels == 3
    header = struct.pack(">IIBBBBB", 9, 2, 1, 0, 0, 0, 0)
    parts = (Chunk(b"IHDR", header), Chunk(b"IDAT", zlib.compress(bytes(6))), Chunk(b"IEND", b""))
    found = check(chunks.SIGNATURE + b"".join(part.to_bytes() for part in parts))
    assert (found.height, found.width, found.channels, found.sample_bytes) == (2, 9, 1, 1)


@pytest.mark.parametrize("quality", [50, 100])
def test_webp_with_and_without_loss(quality: int) -> None:
    for alpha in (False, True):
        photo = photo_of(8, "rgb", alpha=alpha, metadata=Metadata(icc=ICC, xmp=XMP))
        assert check(codec.encode(photo, "webp", quality=quality).data).alpha == alpha


@pytest.mark.parametrize(
    "head",
    [
        b"P5\n# a remark\n3 2 # another\n255\n",
        b"P6 3 2 1023 ",
        b"P6\n3\n2\n7\n",
        b"P5\r3 2 65535\n",
        b"P5 3 2 300\n",
        b"P7\nWIDTH 3\nHEIGHT 2\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n",
        b"P7\n# a remark\nHEIGHT 2\nWIDTH 3\nDEPTH 2\nMAXVAL 4095\nENDHDR\n",
    ],
)
def test_netpbm_s_headers(head: bytes) -> None:
    found = check(head + bytes(48 if head.startswith(b"P6 ") or b"4095" in head or b"5535" in head else 36))
    assert (found.height, found.width) == (2, 3)


@pytest.mark.parametrize(
    ("kind", "stored"), [*((kind, "plain") for kind in KINDS), *(("rgb 16", way) for way in STORED)]
)
def test_tiff_however_it_is_stored(kind: str, stored: str) -> None:
    values, options = KINDS[kind]
    check(make(values, **options | STORED[stored]))


@pytest.mark.parametrize(("bits", "kind"), [(1, bool), (2, np.uint8), (4, np.uint8), (12, np.uint16)])
def test_depths_between_of_tiff(bits: int, kind: type) -> None:
    samples = (np.arange(40 * 48).reshape(40, 48) % 2**bits).astype(kind)
    options = {} if kind is bool else {"bitspersample": bits}
    assert check(make(samples, photometric="minisblack", **options)).sample_bytes == (2 if bits == 12 else 1)


def test_other_tiffs() -> None:
    for kind in (np.float16, np.float64):
        assert check(make(scene(20, 30, 3, kind=kind), photometric="rgb")).sample_bytes == 4
    assert check(make(scene(3, 37, 53), photometric="rgb", planarconfig="separate", bigtiff=True)).channels == 3
    assert check(make(scene(48, 64, 3), photometric="ycbcr", compression="jpeg", subsampling=(2, 2))).channels == 3
    values = np.random.default_rng(2).integers(0, 256, (3, 256), dtype=np.uint16)
    for table, expected in ((values * 257, 1), (values * 256, 1), (values, 1), (values * 257 // 2, 2)):
        data = make(scene(37, 53), photometric="palette", colormap=table.astype(np.uint16))
        assert check(data).sample_bytes == expected


def test_a_small_copy_in_front_is_not_the_photo() -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as out:
        out.write(scene(10, 12, 3), photometric="rgb", subfiletype=1, metadata=None)
        out.write(scene(40, 48, 3), photometric="rgb", compression="deflate", metadata=None)
        for _ in range(30):
            out.write(scene(7, 5), photometric="minisblack", metadata=None)
    assert check(buffer.getvalue()).height == 40


@pytest.mark.parametrize("data", [TURNED, TEN_BITS, GREY, GREY_ALPHA, DEEP_ALPHA])
def test_heic(data: bytes) -> None:
    check(data)


def test_an_avif_that_is_to_be_turned() -> None:
    photo = photo_of(10, "rgb", alpha=True, metadata=Metadata(exif=exif.with_orientation(None, 8), icc=ICC))
    found = check(codec.encode(photo, "avif", depth=10).data)
    assert (found.height, found.width, found.sample_bytes, found.alpha) == (33, 47, 2, True)


@pytest.mark.parametrize("pattern", [*BAYER, XTRANS, "MONO", "LINEAR"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_dng_without_its_masked_borders(pattern: str, orientation: int) -> None:
    light = patches([(0.2, 0.4, 0.3), (0.3, 0.2, 0.1)], 60)
    data = mosaic_dng(
        light[:, :, 0] if pattern == "MONO" else light,
        pattern=pattern,
        orientation=orientation,
        margins=(6, 12, 18, 6),
        crop=(4, 4, 100, 50),
    )
    found = told(data)
    assert found is not None
    assert (found.height, found.width, found.channels) == developed(data)
    assert (found.height, found.width) == (60, 120)
    assert (found.kind, found.sample_bytes, found.alpha, found.exact) == ("raw", 2, False, True)


@pytest.mark.parametrize("scale", [(2, 1, 1, 1), (1, 1, 3, 2), (1000, 1001, 1, 1)])
def test_a_dng_of_pixels_that_are_not_square(scale: tuple[int, ...]) -> None:
    data = mosaic_dng(patches([(0.2, 0.4, 0.3)], 60), extratags=((50718, 5, 2, scale, True),))
    found = told(data)
    assert found is not None
    height, width, _ = developed(data)
    assert abs(found.height - height) <= 1
    assert abs(found.width - width) <= 1
    assert found.exact == (scale[0] == 1000)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_dng_as_it_is_written_here(channels: int) -> None:
    data = codec.encode(dngs.photo(channels=channels), "dng").data
    found = told(data)
    assert found == Extent("raw", 48, 64, channels, 2)
    assert (found.height, found.width, found.channels) == developed(data)


@pytest.mark.parametrize("maker", RAW)
def test_other_makers_files_tell_nearly(maker: str) -> None:
    data = RAW[maker].ljust(2000, b"\0") if maker != "crw" else RAW[maker]
    assert codec.kind_of(data) == "raw"
    assert told(data) == Extent("raw", 52, 70, 3, 2, exact=False)


def test_fuji_s_sizes_in_the_order_of_what_they_show() -> None:
    found = told(of_fuji(0x100, 0x111))
    assert found is not None
    assert (found.height, found.width) == (53, 71)
    assert told(of_fuji(0x200)) is None


def agrees(path: Path) -> bool | None:
    """Compare a real file; None: it cannot be decoded."""
    data = path.read_bytes()
    found = told(data)
    try:
        photo = codec.decode(data, development=LINEAR)
    except KBNetError:
        return None
    if found is None:
        return False
    if not found.exact:
        assert found.kind == "raw"
        near = (found.height / photo.size[0], found.width / photo.size[1])
        return all(0.95 < ratio < 1.05 for ratio in near) and found.channels == photo.pixels.shape[2]
    return found == seen(photo, codec.kind_of(data))


def test_small_real_files_agree(testdata: Path) -> None:
    paths = sorted((testdata / "free" / "PngSuite").rglob("*.png"))
    answers = [agrees(path) for path in paths]
    assert answers.count(True) > 140
    assert answers.count(False) == 0


@pytest.mark.slow
def test_all_real_files_agree(testdata: Path) -> None:
    paths = [path for path in sorted(testdata.rglob("*")) if path.is_file() and path.suffix not in NEVER_DECODED]
    answers = {path: agrees(path) for path in paths}
    assert [path for path, agreed in answers.items() if agreed is False] == []
    assert sum(agreed is True for agreed in answers.values()) > 500
