"""AVIF: depth, alpha, blocks, colours by number and orientation, as this program and as another one reads them."""

from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import avif, codec, exif
from kbnet_cli.formats.attachment import attach, orientation_properties
from kbnet_cli.formats.boxes import Box
from kbnet_cli.formats.items import parse
from kbnet_cli.photo import Depth, Metadata, Photo
from tests.pictures import picture

XMP, ICC = b"<x/>", b"\0\0\2\0profile" * 40


def metadata(orientation: int = 1) -> Metadata:
    return Metadata(exif=exif.with_orientation(None, orientation), xmp=XMP, icc=ICC)


@pytest.mark.parametrize("depth", [8, 10, 12])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_depth_channels_and_blocks_come_back(depth: Depth, grey: bool, with_alpha: bool) -> None:
    pixels = picture(depth=depth)[:, :, : 1 if grey else 3].copy()
    alpha = np.where(pixels[:, :, 0] > 2 ** (depth - 1), pixels.dtype.type(2**depth - 1), pixels.dtype.type(0))
    photo = Photo(pixels, "grey" if grey else "rgb", depth, alpha=alpha if with_alpha else None, metadata=metadata())
    first = avif.decode(avif.encode(photo, depth=depth, quality=None))
    second = avif.decode(avif.encode(first, depth=depth, quality=None))
    for read in (first, second):
        assert (read.depth, read.colour, read.size) == (depth, photo.colour, photo.size)
        assert read.metadata == photo.metadata
        assert np.abs(read.pixels.astype(int) - pixels).mean() / photo.white < 0.02
        assert (read.alpha is not None) == with_alpha


@pytest.mark.parametrize("orientation", range(1, 9))
def test_another_program_turns_the_picture_the_same_way(orientation: int) -> None:
    photo = Photo(picture(), "rgb", 8, metadata=metadata(orientation))
    data = avif.encode(photo, depth=8, quality=None)
    assert parse(data).orientation == orientation
    assert avif.decode(data).size == photo.size
    read = Image.open(BytesIO(data))
    assert read.getexif().get(274, 1) == orientation
    assert (read.info["icc_profile"], read.info["xmp"]) == (ICC, XMP)


def test_the_container_s_orientation_wins_over_exif() -> None:
    file = bytes(imagecodecs.avif_encode(picture(), level=90))
    block = exif.with_orientation(None, 3)
    data = attach(file, exif=block, xmp=None, properties=orientation_properties(6))
    photo = avif.decode(data)
    assert exif.orientation(photo.metadata.exif) == 6
    # Written as AVIF again, the block is the one that stood there; for JPEG it says what is true.
    written = avif.encode(photo, depth=8, quality=None)
    assert parse(written).block(written, b"Exif") == block
    assert parse(written).orientation == 6
    assert exif.orientation(codec.decode(codec.encode(photo, "jpg").data).metadata.exif) == 6


def test_colours_by_number_and_light_levels_come_back() -> None:
    file = bytes(imagecodecs.avif_encode(picture(depth=10), bitspersample=10, primaries=9, transfer=16, matrix=9))
    data = attach(file, exif=None, xmp=None, properties=[Box(b"clli", b"\3\xe8\1\x90")])
    written = parse(avif.encode(avif.decode(data), depth=10, quality=None))
    assert written.cicp == (9, 16, 9)
    assert written.of_primary(b"clli") == b"\3\xe8\1\x90"


@pytest.mark.parametrize("sampling", ["444", "422", "420"])
def test_the_source_s_chroma_sampling_is_kept(sampling: str) -> None:
    data = bytes(imagecodecs.avif_encode(picture(), level=90, pixelformat=sampling, matrix=6))
    written = avif.encode(avif.decode(data), depth=8, quality=None)
    assert avif._configuration(parse(written))[1] == sampling


def test_lossless_stays_lossless() -> None:
    data = bytes(imagecodecs.avif_encode(picture(depth=12), level=100, bitspersample=12, pixelformat="444", matrix=0))
    photo = avif.decode(data)
    assert np.array_equal(photo.pixels, picture(depth=12))
    assert np.array_equal(avif.decode(avif.encode(photo, depth=12, quality=None)).pixels, photo.pixels)


@pytest.mark.parametrize("kept", [0.02, 0.4, 0.98])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = avif.encode(Photo(picture(), "rgb", 8), depth=8, quality=None)
    with pytest.raises(InputError):
        avif.decode(data[: int(len(data) * kept)])


def test_a_sequence_is_refused() -> None:
    file = BytesIO()
    frames = [Image.fromarray(picture(seed=i)) for i in range(2)]
    frames[0].save(file, "AVIF", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedError, match="sequence"):
        avif.decode(file.getvalue())
