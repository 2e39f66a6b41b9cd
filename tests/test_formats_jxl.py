"""JPEG XL: every depth exact without loss, the right curve, profile and orientation in the header."""

import sys

import imagecodecs
import numpy as np
import pytest

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import cicp, codestream, exif, jxl
from kbnet_cli.formats.boxes import Box, first, split
from kbnet_cli.formats.depth import convert
from kbnet_cli.photo import Depth, Metadata, Photo
from tests.pictures import picture

XMP = b"<x/>"
P3 = cicp.profile(cicp.Numbers(12, 13))
GREY = cicp.profile(cicp.Numbers(1, 13), grey=True)


def photo_of(depth: Depth, *, grey: bool = False, with_alpha: bool = False, metadata: Metadata | None = None) -> Photo:
    pixels = picture(depth=16 if depth == 32 else depth)
    if depth == 32:
        pixels = convert(pixels, from_depth=16, to_depth=32)
    alpha = pixels[:, ::-1, 0].copy() if with_alpha else None
    kept = pixels[:, :, : 1 if grey else 3].copy()
    return Photo(kept, "grey" if grey else "rgb", depth, alpha=alpha, metadata=metadata or Metadata())


def header_of(data: bytes) -> codestream.Header:
    return codestream.parse(jxl._take_apart(data)[0])


@pytest.mark.parametrize("depth", [8, 10, 12, 16, 32])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("with_profile", [False, True])
def test_without_loss_everything_comes_back(depth: Depth, grey: bool, with_alpha: bool, with_profile: bool) -> None:
    if with_profile:
        pytest.importorskip("pylibjxl")
    icc = (GREY if grey else P3) if with_profile else None
    metadata = Metadata(exif=exif.with_orientation(None, 6), xmp=XMP, icc=icc)
    photo = photo_of(depth, grey=grey, with_alpha=with_alpha, metadata=metadata)
    read = jxl.decode(jxl.encode(photo, depth=depth, quality=100))
    again = jxl.decode(jxl.encode(read, depth=depth, quality=None))
    for other in (read, again):
        assert np.array_equal(other.pixels, photo.pixels)
        assert (other.alpha is None) == (photo.alpha is None)
        if photo.alpha is not None and other.alpha is not None:
            assert np.array_equal(other.alpha, photo.alpha)
        assert other.metadata == metadata
        assert (other.depth, other.colour, other.linear) == (depth, photo.colour, False)


@pytest.mark.parametrize("depth", [8, 10, 12, 16])
@pytest.mark.parametrize("grey", [False, True])
def test_with_loss_it_is_close_and_says_the_right_curve(depth: Depth, grey: bool) -> None:
    photo = photo_of(depth, grey=grey)
    data = jxl.encode(photo, depth=depth, quality=90)
    read = jxl.decode(data)
    assert (read.depth, read.linear) == (depth, False)
    assert header_of(data).colours.is_srgb
    assert np.abs(read.pixels.astype(float) - photo.pixels).mean() / photo.white < 0.04
    assert abs(read.pixels.mean() / photo.pixels.mean() - 1) < 0.01


def test_eight_bits_with_loss_keep_their_profile() -> None:
    pytest.importorskip("pylibjxl")
    photo = photo_of(8, metadata=Metadata(exif=exif.with_orientation(None, 8), icc=P3))
    read = jxl.decode(jxl.encode(photo, depth=8, quality=90))
    assert read.metadata == photo.metadata
    assert 0 < np.abs(read.pixels.astype(int) - photo.pixels).mean() < 12


def test_a_profile_is_refused_with_the_way_out_where_its_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    with pytest.raises(UnsupportedError, match="needs pylibjxl") as caught:
        jxl.encode(photo_of(16, metadata=Metadata(icc=P3)), depth=16, quality=None)
    assert "kbnet[jxl]" in caught.value.hint


def test_quality_is_refused_where_only_lossless_is_possible() -> None:
    with pytest.raises(UnsupportedError, match="16 bits with an ICC profile"):
        jxl.encode(photo_of(16, metadata=Metadata(icc=P3)), depth=16, quality=90)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_decoder_turns_the_picture_as_exif_said(orientation: int) -> None:
    photo = photo_of(16, metadata=Metadata(exif=exif.with_orientation(None, orientation)))
    data = jxl.encode(photo, depth=16, quality=100)
    assert jxl.decode(data).metadata == photo.metadata
    pixels = photo.pixels
    turned = {
        1: pixels, 2: pixels[:, ::-1], 3: pixels[::-1, ::-1], 4: pixels[::-1], 5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1), 7: np.rot90(pixels, 2).transpose(1, 0, 2), 8: np.rot90(pixels),
    }  # fmt: skip
    assert np.array_equal(imagecodecs.jpegxl_decode(data), turned[orientation])


def test_linear_light_stays_linear() -> None:
    photo = Photo(photo_of(32).pixels * 3 - 1, "rgb", 32, linear=True)
    read = jxl.decode(jxl.encode(photo, depth=32, quality=None))
    assert read.linear
    assert np.array_equal(read.pixels, photo.pixels)


def test_packed_blocks_and_foreign_boxes() -> None:
    block = exif.with_orientation(None, 1)
    boxes = split(jxl.encode(photo_of(8, metadata=Metadata(exif=block)), depth=8, quality=None))
    packed = [
        Box(b"brob", b"Exif" + bytes(imagecodecs.brotli_encode(b.content))) if b.kind == b"Exif" else b for b in boxes
    ]
    packed += [Box(b"jumb", b"content credentials"), Box(b"jbrd", b"what the JPEG file was")]
    photo = jxl.decode(b"".join(box.to_bytes() for box in packed))
    assert photo.metadata.exif == block
    written = split(jxl.encode(photo, depth=8, quality=None))
    assert first(written, b"Exif") == bytes(4) + block
    assert first(written, b"jumb") == b"content credentials"
    assert first(written, b"jbrd") is None
    assert first(written, b"brob") is None


@pytest.mark.parametrize("kept", [0.005, 0.05, 0.5, 0.95])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = jxl.encode(photo_of(16, metadata=Metadata(xmp=XMP)), depth=16, quality=None)
    with pytest.raises(InputError):
        jxl.decode(data[: int(len(data) * kept)])


def test_an_animation_is_refused() -> None:
    frames = np.stack([picture(), picture(seed=1)])
    with pytest.raises(UnsupportedError, match="animated"):
        jxl.decode(bytes(imagecodecs.jpegxl_encode(frames, lossless=True)))
