"""PNG: every sample exact, every chunk that stays true carried over, damage refused."""

import zlib

import imagecodecs
import numpy as np
import pytest
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import png
from kbnet_cli.formats.chunks import SIGNATURE, Chunk, parse
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

EXIF = b"II*\0\x08\0\0\0\0\0\0\0\0\0"


def file_of(samples: Shaped[np.ndarray, "..."], *extra: Chunk, behind: tuple[Chunk, ...] = ()) -> bytes:
    chunks = parse(bytes(imagecodecs.png_encode(np.ascontiguousarray(samples)))).chunks
    return SIGNATURE + b"".join(c.to_bytes() for c in (chunks[0], *extra, *chunks[1:-1], *behind, chunks[-1]))


def round_trip(data: bytes) -> tuple[Photo, Photo, bytes]:
    photo = png.decode(data)
    written = png.encode(photo, depth=photo.depth, quality=None)
    return photo, png.decode(written), written


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_every_sample_comes_back(depth: int, channels: int) -> None:
    samples = np.concatenate([picture(depth=depth), picture(depth=depth, seed=1)], axis=2)[:, :, :channels]
    photo, again, _ = round_trip(file_of(samples[:, :, 0] if channels == 1 else samples))
    assert photo.depth == depth
    assert photo.colour == ("grey" if channels < 3 else "rgb")
    assert np.array_equal(photo.pixels, samples[:, :, : 1 if channels < 3 else 3])
    assert np.array_equal(again.pixels, photo.pixels)
    if channels in (2, 4):
        assert photo.alpha is not None
        assert again.alpha is not None
        assert np.array_equal(photo.alpha, samples[:, :, -1])
        assert np.array_equal(again.alpha, photo.alpha)


def test_every_chunk_that_stays_true_comes_back() -> None:
    before = (
        Chunk(b"gAMA", (45455).to_bytes(4, "big")),
        Chunk(b"cICP", b"\x09\x10\0\1"),
        Chunk(b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1"),
        Chunk(b"tEXt", b"Author\0somebody"),
        Chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"),
        Chunk(b"eXIf", EXIF),
        Chunk(b"prVt", b"private, safe to copy"),
        Chunk(b"bKGD", b"\0\1\0\2\0\3"),
        Chunk(b"sBIT", b"\5\6\5"),
    )
    behind = (Chunk(b"tIME", b"\x07\xea\1\2\3\4\5"), Chunk(b"zTXt", b"Remark\0\0" + zlib.compress(b"after the pixels")))
    data = file_of(picture(), *before, behind=behind)
    photo, again, written = round_trip(data)
    assert photo.metadata == again.metadata == Metadata(exif=EXIF, xmp=b"<x/>")
    names = [chunk for chunk in parse(written).chunks if chunk.name != b"IDAT"]
    assert names == [chunk for chunk in parse(data).chunks if chunk.name != b"IDAT"]


def test_a_chunk_about_these_very_pixels_is_left_out_and_told() -> None:
    photo, _, written = round_trip(file_of(picture(), Chunk(b"caBX", b"signed")))
    assert photo.notes == ("content credentials (C2PA) speaks of these very pixels and does not come along",)
    assert parse(written).first(b"caBX") is None


def palette_file(*, transparent: bool) -> bytes:
    header = (4).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes((2, 3, 0, 0, 0))
    chunks = [Chunk(b"IHDR", header), Chunk(b"sBIT", b"\5\6\5"), Chunk(b"PLTE", bytes(range(10, 22)))]
    chunks += [Chunk(b"tRNS", b"\0\x80")] if transparent else []
    chunks += [Chunk(b"bKGD", b"\1"), Chunk(b"IDAT", zlib.compress(b"\0\x1b")), Chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks)


def test_a_palette_becomes_rgb_and_what_speaks_of_it_is_adapted() -> None:
    photo, again, written = round_trip(palette_file(transparent=True))
    assert photo.pixels.reshape(-1).tolist() == list(range(10, 22))
    assert photo.alpha is not None
    assert photo.alpha.tolist() == [[0, 0x80, 255, 255]]
    assert np.array_equal(photo.pixels, again.pixels)
    structure = parse(written)
    assert structure.first(b"PLTE") is None
    assert structure.first(b"tRNS") is None
    assert structure.first(b"sBIT") == b"\5\6\5\x08"
    assert structure.first(b"bKGD") == b"\0\x0d\0\x0e\0\x0f"


def test_old_raw_profiles_are_read() -> None:
    block = b"Exif\0\0" + EXIF
    text = b"\nexif\n" + str(len(block)).encode().rjust(8) + b"\n" + block.hex().encode() + b"\n"
    chunk = Chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    photo, again, written = round_trip(file_of(picture(), chunk))
    assert photo.metadata.exif == again.metadata.exif == EXIF
    assert parse(written).first(b"eXIf") is None


def test_blocks_from_another_format_become_chunks() -> None:
    metadata = Metadata(exif=EXIF, xmp=b"<x/>", icc=b"a profile" * 100)
    written = png.encode(Photo(picture(depth=16), "rgb", 16, metadata=metadata), depth=16, quality=None)
    assert png.decode(written).metadata == metadata


def test_a_profile_that_inflates_without_end_is_not_read() -> None:
    bomb = zlib.compress(bytes(70_000_000), 9)
    assert png.decode(file_of(picture(), Chunk(b"iCCP", b"x\0\0" + bomb))).metadata.icc is None


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.99])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = file_of(picture())
    with pytest.raises(InputError, match="cut short"):
        png.decode(data[: int(len(data) * kept)])


def test_a_wrong_checksum_is_refused() -> None:
    data = bytearray(file_of(picture()))
    data[60] ^= 1
    with pytest.raises(InputError, match=r"damaged|cut short"):
        png.decode(bytes(data))


def test_pixels_that_end_early_are_refused() -> None:
    header = (9).to_bytes(4, "big") + (9).to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    chunks = (Chunk(b"IHDR", header), Chunk(b"IDAT", zlib.compress(bytes(28))), Chunk(b"IEND", b""))
    with pytest.raises(InputError, match="broken"):
        png.decode(SIGNATURE + b"".join(chunk.to_bytes() for chunk in chunks))


def test_an_animation_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="animated"):
        png.decode(file_of(picture(), Chunk(b"acTL", bytes(8)), Chunk(b"fcTL", bytes(26))))
