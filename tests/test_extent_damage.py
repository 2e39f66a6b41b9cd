"""No file is so broken that asking for its size is an exception, or takes long."""

import io
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kbnet_cli.formats.boxes import Box
from kbnet_cli.formats.chunks import Chunk
from kbnet_cli.formats.extent import extent
from tests.headers import SAMPLES, told


def test_what_the_header_does_not_tell() -> None:
    quattro = b"FOVb" + struct.pack("<I", 0x40000) + bytes(60)
    for data in (b"", b"no picture", b"GIF89a" + bytes(50), quattro, b"II*\0", b"\xff\xd8\xff\xd9", b"\xff\x0a"):
        assert told(data) is None


@pytest.mark.parametrize("name", SAMPLES)
def test_a_cut_file_tells_the_same_or_nothing(name: str) -> None:
    data = SAMPLES[name]
    whole = told(data)
    assert whole is not None
    for length in {*range(0, min(len(data), 600), 19), *range(0, len(data), 1 + len(data) // 40)}:
        part = told(data[:length])
        if part is not None and part.kind == whole.kind:
            assert (part.height, part.width) == (whole.height, whole.width)
        # A file that was cut while it was copied, after its size was asked for.
        assert extent(io.BytesIO(data[:length]), len(data)) in (None, part, whole)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=8))
@example("tif", [])
def test_damaged_files_are_no_exception(name: str, damage: list[tuple[int, int]]) -> None:
    data = bytearray(SAMPLES[name])
    for at, value in damage:
        data[at % min(len(data), 700)] = value
    found = told(bytes(data))
    assert damage or found is not None
    assert found is None or min(found.height, found.width) > 0


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(SAMPLES)), st.integers(0, 48), st.binary(max_size=300))
def test_noise_is_no_exception(name: str, kept: int, noise: bytes) -> None:
    found = told(SAMPLES[name][:kept] + noise)
    assert found is None or min(found.height, found.width) > 0


def endless() -> Iterator[tuple[str, bytes]]:
    yield "pages that lead to each other", b"II*\0\x08\0\0\0\0\0\x0e\0\0\0\0\0\x08\0\0\0"
    below = struct.pack("<HHHII", 1, 330, 4, 1, 8)
    yield "a page below itself", b"II*\0\x08\0\0\0" + below + bytes(20)
    yield "many segments", b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000
    yield "many far segments", b"\xff\xd8" + (b"\xff\xe0\xff\xff" + bytes(65533)) * 300
    yield "many marks", b"\xff\xd8" + b"\xff\xd0" * 400_000
    yield "many chunks", SAMPLES["png"][:25] + b"\3" + bytes(7) + Chunk(b"tEXt", b"").to_bytes() * 200_000
    yield "many boxes", b"\0\0\0\x0cftypheic" + b"\0\0\0\x08free" * 200_000
    # One item of 65535 parts that take no room, again and again.
    places = bytes(8) + struct.pack(">HHH", 1, 0, 65535) * 20_000
    places = places[:6] + struct.pack(">H", 20_000) + places[8:]
    inner = Box(b"pitm", b"\0\0\0\0\0\1").to_bytes() + Box(b"iloc", places).to_bytes()
    yield "many parts", b"\0\0\0\x0cftypheic" + Box(b"meta", bytes(4) + inner).to_bytes()


@pytest.mark.parametrize(("what", "data"), [pytest.param(*case, id=case[0]) for case in endless()])
def test_nothing_goes_on_without_end(what: str, data: bytes) -> None:
    started = time.process_time()
    assert told(data) is None
    assert time.process_time() - started < 2


def test_a_file_that_cannot_be_read_is_no_exception(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(SAMPLES["png"])
    with path.open("rb", buffering=0) as file:
        assert extent(file, path.stat().st_size) == told(SAMPLES["png"])
    assert extent(file, path.stat().st_size) is None, "it is closed"
