"""WebP: lossless stays lossless, blocks and foreign chunks stay, animations and damage are refused."""

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from jaxtyping import UInt8
from PIL import Image

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import webp
from kbnet_cli.formats.riff import Chunk, assemble, parse
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

METADATA = Metadata(exif=b"II*\0\x08\0\0\0\0\0", xmp=b"<x/>", icc=b"an odd profile")


def file_of(pixels: UInt8[np.ndarray, "h w c"], **options: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", **options)
    return file.getvalue()


def alpha() -> UInt8[np.ndarray, "h w"]:
    return np.where(picture(seed=1)[:, :, 0] > 128, 200, 0).astype(np.uint8)


def test_lossless_stays_lossless_even_under_full_transparency() -> None:
    samples = np.dstack([picture(), alpha()])
    photo = webp.decode(file_of(samples, lossless=True, exact=True))
    again = webp.decode(webp.encode(photo, depth=8, quality=None))
    assert photo.origin is not None
    assert photo.origin.lossless
    assert np.array_equal(photo.pixels, samples[:, :, :3])
    assert np.array_equal(again.pixels, photo.pixels)
    assert again.alpha is not None
    assert np.array_equal(again.alpha, samples[:, :, 3])


def test_lossy_stays_close() -> None:
    photo = webp.decode(file_of(picture(), quality=90))
    again = webp.decode(webp.encode(photo, depth=8, quality=None))
    assert photo.origin is not None
    assert not photo.origin.lossless
    assert np.abs(photo.pixels.astype(int) - again.pixels).mean() < 4


@pytest.mark.parametrize("with_alpha", [False, True])
def test_blocks_from_another_format_come_along(with_alpha: bool) -> None:
    photo = Photo(picture(), "rgb", 8, alpha=alpha() if with_alpha else None, metadata=METADATA)
    data = webp.encode(photo, depth=8, quality=None)
    assert webp.decode(data).metadata == METADATA
    read = Image.open(BytesIO(data))
    assert (read.info["icc_profile"], read.info["exif"], read.info["xmp"]) == (
        METADATA.icc,
        METADATA.exif,
        METADATA.xmp,
    )
    assert read.mode == ("RGBA" if with_alpha else "RGB")


def test_foreign_chunks_and_odd_exif_come_back_byte_for_byte() -> None:
    data = webp.encode(Photo(picture(), "rgb", 8, metadata=METADATA), depth=8, quality=None)
    chunks = [Chunk(b"EXIF", b"Exif\0\0" + c.content) if c.name == b"EXIF" else c for c in parse(data).chunks]
    odd = assemble([*chunks, Chunk(b"OWN ", b"odd")]) + b"trailing"
    photo = webp.decode(odd)
    assert photo.metadata == METADATA
    written = parse(webp.encode(photo, depth=8, quality=None))
    assert written.first(b"EXIF") == b"Exif\0\0" + (METADATA.exif or b"")
    assert written.first(b"OWN ") == b"odd"
    assert written.trailing == b"trailing"


def test_grey_becomes_rgb_of_equal_channels() -> None:
    grey = Photo(picture()[:, :, :1].copy(), "grey", 8)
    pixels = webp.decode(webp.encode(grey, depth=8, quality=None)).pixels.astype(int)
    assert np.abs(pixels - grey.pixels).mean() < 4


def test_an_animation_is_refused() -> None:
    file = BytesIO()
    frames = [Image.fromarray(picture(seed=i)) for i in range(2)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedError, match="animated"):
        webp.decode(file.getvalue())


@pytest.mark.parametrize("kept", [0.03, 0.5, 0.99])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = file_of(picture())
    with pytest.raises(InputError, match="cut short"):
        webp.decode(data[: int(len(data) * kept)])


def test_a_picture_wider_than_webp_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="16383"):
        webp.encode(Photo(np.zeros((1, 16384, 3), np.uint8), "rgb", 8), depth=8, quality=None)
