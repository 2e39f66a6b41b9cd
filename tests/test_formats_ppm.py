"""Netpbm: exact at every depth, with odd whites scaled, and short files refused."""

import numpy as np
import pytest

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import ppm
from kbnet_cli.photo import Depth, Photo
from tests.pictures import picture


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_every_sample_comes_back(depth: Depth, channels: int, with_alpha: bool) -> None:
    pixels = picture(depth=depth)[:, :, :channels].copy()
    alpha = picture(depth=depth, seed=1)[:, :, 0].copy() if with_alpha else None
    photo = Photo(pixels, "grey" if channels == 1 else "rgb", depth, alpha=alpha)
    data = ppm.encode(photo, depth=depth, quality=None)
    assert data[:2] == (b"P7" if with_alpha else b"P5" if channels == 1 else b"P6")
    again = ppm.decode(data)
    assert again.depth == depth
    assert np.array_equal(again.pixels, pixels)
    assert (again.alpha is None) == (alpha is None)
    if alpha is not None and again.alpha is not None:
        assert np.array_equal(again.alpha, alpha)


def test_remarks_and_odd_whites_are_read() -> None:
    photo = ppm.decode(b"P5 # made by hand\n2\t# wide\n 2\n7\n\0\1\3\7")
    assert photo.pixels[:, :, 0].tolist() == [[0, 36], [109, 255]]
    assert ppm.decode(b"P5 1 1 300\n\1\x2c").pixels.tolist() == [[[65535]]]


def test_missing_pixels_are_refused() -> None:
    with pytest.raises(InputError, match="got 3 bytes of pixels, expected 4"):
        ppm.decode(b"P5 2 2 255\n\0\1\2")


@pytest.mark.parametrize("head", [b"P5", b"P6\n3\n", b"P5 2 2 0\n....", b"P5 0 2 255\n", b"P7\nWIDTH 2\nENDHDR\n"])
def test_headers_without_sense_are_refused(head: bytes) -> None:
    with pytest.raises(InputError):
        ppm.decode(head)


def test_a_header_that_promises_too_much_allocates_nothing() -> None:
    with pytest.raises(InputError, match="bomb"):
        ppm.decode(b"P6 1000000 1000000 255\n")


def test_several_pictures_are_refused() -> None:
    one = b"P5 1 1 255\n\x07"
    with pytest.raises(UnsupportedError, match="several pictures"):
        ppm.decode(one + one)
