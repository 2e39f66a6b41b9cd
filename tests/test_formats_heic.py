"""HEIC: turned exactly once, with its depth and its blocks.

The pictures were made by code (x265 by way of libheif): red grows to the right, green downwards, 128×64 pixels.
"""

import base64

import numpy as np
import pytest

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import codec, exif, heic

TURNED = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAettZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAAEZpbG9jAAAA"
    "AERAAAMAAQAAAAACDwABAAAAAAAAAHwAAgAAAAACiwABAAAAAAAAACQAAwAAAAACrwABAAAAAAAAAAQAAABiaWluZgAAAAAAAwAAABVpbmZlAgAA"
    "AAABAABodmMxAAAAABVpbmZlAgAAAQACAABFeGlmAAAAACppbmZlAgAAAQADAABtaW1lAGFwcGxpY2F0aW9uL3JkZit4bWwAAAAAAA5waXRtAAAA"
    "AAABAAAA4GlwcnAAAADAaXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAr"
    "QgEBA3AAAAMAkAAAAwAAAwAeoBAgQWW6kkprm4CGgwIAAAMAMgAAAwACEGIAAQAHRAHBcrAiQAAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAA"
    "AAAAAACAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAJaXJvdAMAAAAYaXBtYQAAAAAAAAABAAEFgQIDBIUAAAAoaXJlZgAAAAAAAAAOY2RzYwACAAEA"
    "AQAAAA5jZHNjAAMAAQABAAAArG1kYXQAAAB4KAGvWPkadDp9yLGY3RHoJnc63MyDK4vkuwr19Uqvc0SzVeq3FTU7e+E9G8OE3TQePL6rcYHqrLW1"
    "n0S2CeqkjXgaHwh+KrheM/uyaOSZlTZ5He8/vHBujZCyxtZ9ADJ6ft33vyoGKnHELao+uYMxjEDuPzW8ZLjgAAAABkV4aWYAAE1NACoAAAAIAAEB"
    "EgADAAAAAQAGAAAAAAAAPHgvPg=="
)
"""8 bits, to be turned by a quarter to the right, with EXIF (orientation 6) and XMP."""
TEN_BITS = base64.b64decode(
    "AAAAHGZ0eXBoZWl4AAAAAG1pZjFoZWl4bWlhZgAAAVRtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAA"
    "AERAAAEAAQAAAAABeAABAAAAAAAAAHcAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA1GlwcnAAAAC1"
    "aXBjbwAAAHZodmNDAQQIAAAAnbgAAAAAHvAA/P36+gAADwNgAAEAF0ABDAH//wQIAAADAJ24AAADAAAeugJAYQABACpCAQEECAAAAwCduAAAAwAA"
    "HqAQIEE2W6kkprm4CGgwIAAAAwMgAAADACFiAAEAB0QBwXKwIkAAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAgAAAAEAAAAAQcGl4"
    "aQAAAAADCgoKAAAAF2lwbWEAAAAAAAAAAQABBIECAwQAAAB/bWRhdAAAAHMoAa9Y+Rp0On3IsZjdEegmdzrczIMri+TMWERXX5N18x6+IC1jrbVg"
    "EuuyLwRESHSrc53vAznV8hPUyka9eVV6DMWFtI6npHq9e6j/Erv2p+IjRclWWKUhQcu2ydERHvKRfBNdf38BjrAXjS84Cqal0azM"
)
TWO = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAYRtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAADRpbG9jAAAA"
    "AERAAAIAAQAAAAABqAABAAAAAAAAACkAAgAAAAAB0QABAAAAAAAAACkAAAA4aWluZgAAAAAAAgAAABVpbmZlAgAAAAABAABodmMxAAAAABVpbmZl"
    "AgAAAAACAABodmMxAAAAAA5waXRtAAAAAAABAAAA3WlwcnAAAAC3aXBjbwAAAHhodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH/"
    "/wNwAAADAJAAAAMAAAMAHroCQGEAAQArQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbqSSmubgIaDAgAAAMAyAAAAwAIQGIAAQAHRAHBcrAiQAAAABNj"
    "b2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAAABBwaXhpAAAAAAMICAgAAAAeaXBtYQAAAAAAAAACAAEEgQIDBAACBIECAwQAAABa"
    "bWRhdAAAACUoAa8EmPzNX7UUTAeqWdUi/XkkqjD4XFyCCqxEQU7uE+lQdp/kAAAAJSgBrwSY/M1ftRRMB6pZ1SL9eSSqMPhcXIIKrERBTu4T6VB2"
    "n+Q="
)
"""Two pictures of equal rank."""


def test_a_turned_picture_is_turned_once() -> None:
    photo = heic.decode(TURNED)
    assert photo.size == (128, 64)
    assert exif.orientation(photo.metadata.exif) == 1
    assert photo.metadata.xmp == b"<x/>"
    # What grew to the right now grows downwards.
    red, green = photo.pixels[:, :, 0].astype(int), photo.pixels[:, :, 1].astype(int)
    assert red[100].mean() > red[10].mean() + 100
    assert green[:, 10].mean() > green[:, 50].mean() + 100


@pytest.mark.parametrize("name", ["jpg", "png", "tif", "avif", "jxl", "webp"])
def test_what_is_written_says_that_nothing_is_left_to_turn(name: str) -> None:
    written = codec.decode(codec.encode(heic.decode(TURNED), name).data)
    assert written.size == (128, 64)
    assert exif.orientation(written.metadata.exif) == 1
    assert written.metadata.xmp == b"<x/>"


def test_ten_bits_are_ten_bits() -> None:
    photo = heic.decode(TEN_BITS)
    assert (photo.depth, photo.size) == (10, (64, 128))
    assert 960 < photo.pixels.max() <= 1023
    assert np.abs(photo.pixels[32, :, 0] - np.arange(128) * 2 * 1023 / 255).mean() < 20


def test_pixels_outlive_the_file_they_were_read_from() -> None:
    first = heic.decode(TEN_BITS).pixels
    kept = first.copy()
    for _ in range(20):
        heic.decode(TURNED)
    assert np.array_equal(first, kept)


def test_it_is_written_as_tiff_and_never_as_heic() -> None:
    assert codec.natural_output("heic") == "tif"
    with pytest.raises(UnsupportedError, match="read but not written"):
        codec.encode(heic.decode(TURNED), "heic")


def test_names_that_are_no_text_are_refused_before_the_library_sees_them() -> None:
    with pytest.raises(InputError, match="no text"):
        heic.decode(TURNED.replace(b"application/rdf+xml", b"applicatio\xb3/rdf+xml"))


def test_several_pictures_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="2 pictures"):
        heic.decode(TWO)


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.8, 0.99])
def test_a_cut_file_is_refused(kept: float) -> None:
    with pytest.raises(InputError):
        heic.decode(TURNED[: int(len(TURNED) * kept)])
