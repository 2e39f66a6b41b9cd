"""TIFF files that are cut, damaged, made to hurt, or of kinds that could not be written back."""

from typing import Any

import numpy as np
import pytest

from kbnet_cli.errors import InputError, KBNetError, UnsupportedError
from kbnet_cli.formats import tiff
from tests.tiffs import KINDS, STORED, directories, make, scene


@pytest.mark.parametrize("kind", [np.int8, np.int16, np.uint32, np.int32, np.uint64, np.complex64])
def test_samples_that_could_not_be_written_back_are_refused(kind: Any) -> None:
    with pytest.raises(UnsupportedError, match="expected"):
        tiff.decode(make(np.ones((5, 6), kind), photometric="minisblack"))


@pytest.mark.parametrize("photometric", ["cielab", "icclab", "ycbcr"])
def test_colours_that_are_not_understood_are_refused(photometric: str) -> None:
    with pytest.raises(UnsupportedError, match="expected"):
        tiff.decode(make(scene(16, 16, 3), photometric=photometric))


def test_a_limit_is_kept_before_anything_is_decoded() -> None:
    with pytest.raises(InputError, match="expected at most") as caught:
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


@pytest.mark.parametrize(
    ("stored", "times"), [("deflate", 60), *(pytest.param(name, 120, marks=pytest.mark.slow) for name in STORED)]
)
def test_flipped_bytes_give_a_photo_or_an_error(stored: str, times: int, capfd: pytest.CaptureFixture[str]) -> None:
    data = make(scene(24, 24, 3), photometric="rgb", **STORED[stored])
    rng = np.random.default_rng(3)
    header = directories(data)[0]
    # The first directory is where a byte matters most; the rest of the file gets its share too.
    places = list(range(header.end)) + list(rng.integers(0, len(data), 100))
    for place in places[:: max(1, len(places) // times)]:
        damaged = bytearray(data)
        damaged[place] ^= int(rng.integers(1, 256))
        try:
            photo = tiff.decode(bytes(damaged), max_megapixels=1.0)
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
