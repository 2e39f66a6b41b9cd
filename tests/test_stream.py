"""Many pictures in one stream, apart again: what comes out is what went in, byte for byte and in time."""

import io
import itertools
import os
import queue
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kbnet_cli.errors import InputError, KBNetError, UnsupportedError
from kbnet_cli.formats import chunks, codec, ppm, segments, stream
from kbnet_cli.formats.stream import pictures
from kbnet_cli.photo import Origin, Photo
from tests.pictures import picture


def photo(depth: int = 8, *, grey: bool = False, alpha: bool = False) -> Photo:
    pixels = picture(20, 28, depth=depth)
    return Photo(
        pixels=pixels[:, :, :1] if grey else pixels,
        colour="grey" if grey else "rgb",
        depth=16 if depth == 16 else 8,
        alpha=np.ascontiguousarray(pixels[:, :, 0]) if alpha else None,
        origin=Origin("ppm", b""),
    )


def by_pillow(format: str, *, size: tuple[int, int] = (20, 28), **wishes: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(*size)).save(file, format, **wishes)
    return file.getvalue()


def with_thumbnail() -> bytes:
    """Return a JPEG with a whole JPEG inside its EXIF, and markers' bytes inside a comment."""
    thumbnail = by_pillow("JPEG", size=(8, 8))
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08\0\0\0\0\0\0" + thumbnail
    comment = b"\xff\xd9\xff\xd8\xff\xda"
    segments = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    segments += b"\xff\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment
    whole = by_pillow("JPEG", quality=95)
    return whole[:2] + segments + whole[2:]


def long_chunk() -> bytes:
    """Return a PNG with a chunk that holds a whole PNG, IEND and all."""
    whole = by_pillow("PNG")
    return whole[:33] + chunks.Chunk(b"prVt", whole).to_bytes() + whole[33:]


ALL: dict[str, bytes] = {
    "pgm": codec.encode(photo(grey=True), "ppm").data,
    "ppm": codec.encode(photo(), "ppm").data,
    "ppm of 16 bits": codec.encode(photo(16), "ppm").data,
    "pam": codec.encode(photo(alpha=True), "ppm").data,
    "pam of 16 bits": codec.encode(photo(16, grey=True, alpha=True), "ppm").data,
    "pgm with comments": b"P5# by hand\n#\n 3\t# wide\r2#high\n\n# white\n300#255\n\xff\xd8\xff\xd9P6\n\0\0\0\n\n",
    "ppm of nothing but marks": b"P6 1 1 255\nP6\n",
    "pam with comments": b"P7 \n# ENDHDR is far\nWIDTH 1\nHEIGHT\t 2\n\nDEPTH 1\nMAXVAL 255\nTUPLTYPE GREY\nENDHDR\nP7",
    "png": codec.encode(photo(16), "png").data,
    "png of Pillow": by_pillow("PNG"),
    "png in a png": long_chunk(),
    "jpeg": codec.encode(photo(), "jpg").data,
    "jpeg baseline": by_pillow("JPEG", quality=100, subsampling=0),
    "jpeg progressive": by_pillow("JPEG", progressive=True),
    "jpeg with restarts": by_pillow("JPEG", restart_marker_blocks=1, quality=30),
    "jpeg in a jpeg": with_thumbnail(),
    "jpeg of 12 bits": bytes(imagecodecs.jpeg8_encode(picture(20, 28, depth=16) >> 4, bitspersample=12)),
}
MIXED = [data for _ in range(2) for data in ALL.values()]


class Pieces:
    """A file that gives what it has in pieces of lengths of their own, and nothing else."""

    def __init__(self, data: bytes, lengths: Iterator[int]) -> None:
        self._data, self._lengths, self._at = data, lengths, 0

    def read(self, size: int, /) -> bytes:
        begin, self._at = self._at, self._at + min(size, next(self._lengths))
        return self._data[begin : self._at]


def apart(data: bytes, **wishes: int) -> list[bytes]:
    return list(pictures(io.BytesIO(data), **wishes))


def before_the_error(data: bytes) -> tuple[list[bytes], KBNetError]:
    found: list[bytes] = []
    apart = pictures(io.BytesIO(data))
    with pytest.raises(KBNetError) as raised:
        found.extend(apart)
    assert next(apart, None) is None, "after an error nothing more comes"
    return found, raised.value


@pytest.mark.parametrize("name", ALL)
def test_each_kind_comes_out_as_it_went_in(name: str) -> None:
    data = ALL[name]
    assert apart(data) == [data]
    assert apart(data * 3) == [data] * 3
    assert codec.decode(data).size[0] > 0, "the decoder takes it too"


def test_all_kinds_in_one_stream() -> None:
    assert apart(b"".join(MIXED)) == MIXED


def test_real_pictures_in_one_stream(testdata: Path) -> None:
    folders = ("free/photos", "free/exif_orientation", "free/PngSuite")
    files = [path for folder in folders for path in sorted((testdata / folder).rglob("*")) if path.is_file()]
    whole = [data for path in files if sound(data := path.read_bytes())]
    assert len(whole) > 150
    assert apart(b"".join(whole)) == whole


def sound(data: bytes) -> bool:
    """Tell whether a file is a JPEG or PNG picture that ends where the file does, by our decoders' parsers."""
    try:
        if data.startswith(b"\xff\xd8\xff"):
            return segments.parse(data).end == len(data)
        return data.startswith(chunks.SIGNATURE) and not chunks.parse(data).trailing
    except InputError:
        return False


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.permutations(sorted(ALL)))
def test_where_pieces_end_makes_no_difference(lengths: list[int], names: Sequence[str]) -> None:
    expected = [ALL[name] for name in names[:6]]

    assert list(pictures(Pieces(b"".join(expected), itertools.cycle(lengths)))) == expected


@pytest.mark.parametrize("buffering", [0, -1])
def test_a_picture_is_given_before_the_next_one_begins(buffering: int) -> None:
    """The sender writes byte by byte, and goes on only when it is told that the picture has arrived."""
    reading, writing = os.pipe()
    arrived: queue.Queue[bytes] = queue.Queue()

    def send() -> None:
        with os.fdopen(writing, "wb", buffering=0) as out:
            for data in ALL.values():
                for at in range(len(data)):
                    out.write(data[at : at + 1])
                if arrived.get(timeout=20) != data:
                    return

    sender = threading.Thread(target=send)
    sender.start()
    found = []
    with os.fdopen(reading, "rb", buffering=buffering) as file:
        for data in pictures(file):
            found.append(data)
            arrived.put(data)
    sender.join()
    assert found == list(ALL.values())


@pytest.mark.skipif(sys.platform == "win32", reason="needs pipes that do not wait")
def test_a_pipe_that_does_not_wait_is_waited_for() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    empty = threading.Event()

    class Impatient:
        def read(self, size: int, /) -> bytes | None:
            piece = file.read(size)
            if piece is None:
                empty.set()
            return piece

        def fileno(self) -> int:
            return file.fileno()

    def send() -> None:
        with os.fdopen(writing, "wb", buffering=0) as out:
            out.write(ALL["png"][:50])
            assert empty.wait(timeout=20)
            out.write(ALL["png"][50:] + ALL["ppm"])

    with os.fdopen(reading, "rb", buffering=0) as file:
        sender = threading.Thread(target=send)
        sender.start()
        assert list(pictures(Impatient())) == [ALL["png"], ALL["ppm"]]
        sender.join()
    assert empty.is_set()


def test_padding_between_pictures_is_passed_over() -> None:
    first, second = ALL["jpeg"], ALL["ppm"]
    assert apart(b"\0\0" + first + b"\n\0\r\n" + second + b"\n") == [first, second]
    found, error = before_the_error(first + b"\0" * (1 << 21) + second)
    assert found == [first]
    assert "padding" in error.message


@pytest.mark.parametrize("name", ALL)
def test_a_torn_stream_says_which_picture_and_where(name: str) -> None:
    data = ALL[name]
    for end in [*range(1, min(len(data), 200), 3), *range(200, len(data), 97), len(data) - 1]:
        found, error = before_the_error(ALL["png"] + data + data[:end])
        assert found == [ALL["png"], data]
        assert isinstance(error, InputError)
        assert error.message.startswith("picture 3 ")
        if end > 1:
            assert error.message == f"picture 3 ends after {end} bytes"


def test_a_jpeg_that_is_torn_does_not_swallow_the_next() -> None:
    found, error = before_the_error(ALL["jpeg"][:-2] + ALL["jpeg"])
    assert found == []
    assert error.message == "picture 1 is cut short: another one begins before its end"


def with_format(format: str) -> bytes:
    return codec.encode(photo(), format).data


@pytest.mark.parametrize(
    ("rest", "kind", "said"),
    [
        (lambda: b"hello, world", InputError, "picture 2 begins with b'hello, w', expected binary PGM"),
        (lambda: b"\0\0\0\x18ftypmp42" + bytes(30), InputError, "picture 2 begins with b'\\x18ftypmp4'"),
        (lambda: b"\x89PNX\r\n\x1a\n", InputError, "PNG signature"),
        (lambda: ALL["png"][:33] + b"\0\0\0\1I\0AT", InputError, "is damaged: got b'I\\x00AT' of 1 bytes"),
        (lambda: ALL["png"][:33] + b"\xff\0\0\0IDAT", InputError, "is damaged"),
        (lambda: b"\xff\xd8\xff\xe0\0\1", InputError, "segment of length 1"),
        (lambda: b"\xff\xd8\xff\xf7\0\2", UnsupportedError, "JPEG-LS"),
        (lambda: b"P6\nabc", InputError, "header that cannot be read"),
        (lambda: b"P612 12 255\n", InputError, "header that cannot be read"),
        (lambda: b"P5 1 1 255x", InputError, "header that cannot be read"),
        (lambda: b"P5 " + b"9" * 5000, InputError, "header that cannot be read"),
        (lambda: b"P5 1 1 0\nx", InputError, "has 0 for white"),
        (lambda: b"P5 1 1 70000\nx", InputError, "has 70000 for white"),
        (lambda: b"P7 332\nx", InputError, "header that cannot be read"),
        (lambda: b"P7\nWIDTH 1\nENDHDR\nx", InputError, "header that cannot be read"),
        (lambda: b"P4 1 1\n\0", UnsupportedError, "is P4 of Netpbm"),
        (lambda: with_format("tif"), UnsupportedError, "picture 2 is of the format tif"),
        (lambda: with_format("webp"), UnsupportedError, "picture 2 is of the format webp"),
        (lambda: with_format("avif"), UnsupportedError, "picture 2 is of the format avif"),
        (lambda: with_format("jxl"), UnsupportedError, "picture 2 is of the format jxl"),
        (lambda: b"GIF89a" + bytes(20), UnsupportedError, "picture 2 is of the format gif"),
    ],
)
def test_what_is_no_picture_of_these_formats_ends_it(
    rest: Callable[[], bytes], kind: type[KBNetError], said: str
) -> None:
    data = rest()
    found, error = before_the_error(ALL["ppm"] + data + ALL["ppm"])
    assert found == [ALL["ppm"]]
    assert isinstance(error, kind)
    assert said in error.message
    assert error.message.startswith("picture 2 ")
    if "is of the format" in said:
        assert "without --stream" in error.hint


def test_a_header_without_an_end_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_LONGEST_HEADER", 3000)
    found, error = before_the_error(ALL["ppm"] + b"P5 #" + b" " * 4000)
    assert found == [ALL["ppm"]]
    assert error.message == "picture 2 has a Netpbm header that cannot be read"


def test_a_stream_without_a_picture_is_an_error() -> None:
    for data in (b"", b"\n\0"):
        found, error = before_the_error(data)
        assert not found
        assert error.message == "got no picture, expected at least one"


def test_a_folder_as_stream_is_an_error_of_ours() -> None:
    class Broken:
        def read(self, _size: int, /) -> bytes:
            raise OSError(21, "Is a directory")

    with pytest.raises(InputError, match="picture 1 cannot be read: Is a directory"):
        next(pictures(Broken()))


@pytest.mark.parametrize(
    "head",
    [
        b"P6 100000 100000 255\n",
        b"P7\nWIDTH 90000\nHEIGHT 90000\nDEPTH 4\nMAXVAL 65535\nENDHDR\n",
        ALL["png"][:33] + b"\x7f\xff\xff\xffIDAT",
    ],
)
def test_a_picture_larger_than_the_limit_takes_no_memory(head: bytes) -> None:
    tracemalloc.start()
    try:
        _, error = before_the_error(head + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 4e6
    finally:
        tracemalloc.stop()
    assert error.message == "picture 1 has more than 1073741824 bytes"
    assert "without --stream" in error.hint


@pytest.mark.parametrize("name", ["ppm", "png", "jpeg"])
def test_the_limit_is_exact(name: str) -> None:
    data = ALL[name]
    assert apart(data * 2, largest_bytes=len(data)) == [data] * 2
    with pytest.raises(InputError, match="picture 1 has more than"):
        apart(data * 2, largest_bytes=len(data) - 1)


def test_memory_is_one_picture_and_one_buffer() -> None:
    """Forty pictures of 4 MB: what is held grows with none of them, and none is copied whole."""
    ppm_picture = b"P6 1000 1333 255\n" + bytes(range(256)) * 15621 + bytes(24)
    scan = by_pillow("JPEG", size=(64, 64), quality=100)
    jpeg_picture = scan[:-2] + b"\x12\xff\x00\x34" * 1_000_000 + scan[-2:]
    file = Pieces((ppm_picture + jpeg_picture) * 20, itertools.repeat(65536))
    tracemalloc.start()
    try:
        count = sum(1 for _ in pictures(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 40
    # The picture in hand outlives the next one's first step; growth by an eighth is BytesIO's.
    assert peak < 2.2 * len(jpeg_picture) + 1e6


def test_the_header_ends_where_the_decoder_ends_it() -> None:
    for name in ("pgm with comments", "ppm of nothing but marks", "pam with comments"):
        decoded = ppm.decode(ALL[name])
        assert decoded.size in ((2, 3), (1, 1), (2, 1))
