"""What a file is, what its header may ask for, and samples of one depth as samples of another."""

import numpy as np
import pytest

from kbnet_cli.errors import InputError
from kbnet_cli.formats.depth import convert, nearest, scale
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.sniff import sniff
from kbnet_cli.photo import Depth


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\xff\xd8\xff\xe1\x00\x10Exif", "jpg"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "png"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\x10\0\0\0WAVEfmt ", None),
        (b"II*\0\x08\0\0\0", "tif"),
        (b"MM\0+\0\x08\0\0", "tif"),
        (b"II*\0\x10\0\0\0CR\x02\0", "raw"),
        (b"II\x1a\0\0\0HEAPCCDR", "raw"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "raw"),
        (b"FUJIFILMCCD-RAW 0201", "raw"),
        (b"IIRO\x08\0\0\0", "raw"),
        (b"IIU\0\x18\0\0\0", "raw"),
        (b"\xff\x0a\xfa\x1f", "jxl"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf", "avif"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heic\0\0\0\0", "heic"),
        (b"\0\0\0\x1cftypheix\0\0\0\0mif1heix\0\0\0\0", "heic"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", None),
        (b"P6\n3 2\n255\n", "ppm"),
        (b"P5# a remark\n3 2\n255\n", "ppm"),
        (b"P60 is a road", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_a_file_is_known_by_how_it_begins(head: bytes, name: str | None) -> None:
    assert sniff(head) == name


@pytest.mark.parametrize(("height", "width"), [(0, 5), (5, 0)])
def test_a_picture_without_pixels_is_refused(height: int, width: int) -> None:
    with pytest.raises(InputError, match="at least 1×1"):
        check_size(height, width, 100, None)


def test_a_bomb_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match="bomb") as caught:
        check_size(40_000, 40_000, 194_216, None)
    assert "--max-megapixels 1600" in caught.value.hint
    check_size(40_000, 40_000, 194_216, 1600.0)


def test_an_honest_scan_of_500_megapixels_passes() -> None:
    check_size(20_000, 25_000, 90_000_000, None)


def test_a_limit_of_the_user_holds_for_honest_pictures_too() -> None:
    with pytest.raises(InputError, match="at most 10"):
        check_size(4000, 3000, 9_000_000, 10.0)


def test_from_8_to_16_bits_is_times_257() -> None:
    samples = np.arange(256, dtype=np.uint8)
    assert np.array_equal(convert(samples, from_depth=8, to_depth=16), samples.astype(np.uint16) * 257)


@pytest.mark.parametrize(("low", "high"), [(8, 10), (8, 12), (8, 16), (10, 12), (10, 16), (12, 16), (16, 32), (8, 32)])
def test_more_bits_and_back_is_the_identity(low: Depth, high: Depth) -> None:
    samples = np.arange(2**low).astype(np.uint8 if low == 8 else np.uint16)
    there = convert(samples, from_depth=low, to_depth=high)
    assert there[0] == 0
    assert there[-1] == (1.0 if high == 32 else 2**high - 1)
    assert np.array_equal(convert(there, from_depth=high, to_depth=low), samples)


def test_fewer_bits_are_the_nearest() -> None:
    samples = np.arange(65536, dtype=np.uint16)
    expected = np.rint(samples / 257.0).astype(np.uint8)
    assert np.array_equal(convert(samples, from_depth=16, to_depth=8), expected)


def test_float_is_clipped_and_never_garbage() -> None:
    samples = np.array([-1.0, 0.0, 0.5, 1.0, 7.0, np.nan, np.inf, -np.inf], np.float32)
    assert convert(samples, from_depth=32, to_depth=8).tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


def test_equal_depths_give_the_same_array() -> None:
    samples = np.array([0.25, -3.0], np.float32)
    assert convert(samples, from_depth=32, to_depth=32) is samples


def test_an_odd_white_is_scaled_exactly() -> None:
    assert scale(np.array([0, 1, 3, 7, 9], np.uint16), from_white=7, to_depth=8).tolist() == [0, 36, 109, 255, 255]


def test_the_nearest_depth_keeps_every_bit_if_it_can() -> None:
    assert nearest(10, (8, 16)) == 16
    assert nearest(16, (8, 10, 12)) == 12
    assert nearest(8, (8, 10)) == 8
