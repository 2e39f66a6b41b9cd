"""The directory of a HEIF file: whatever it says, reading it takes work in proportion to its bytes."""

from typing import Any, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet_cli.errors import InputError
from kbnet_cli.formats import codec
from kbnet_cli.formats.boxes import Box
from kbnet_cli.formats.items import Collection, Item, parse
from kbnet_cli.photo import Photo
from tests.pictures import picture

READS_A_BYTE = 8
COPIES_A_BYTE = 32
SOME = 1000


class Counted(bytes):
    """Bytes that count what is read of them and of the pieces cut out of them, and fail where it is too much."""

    whole: "Counted | None" = None
    reads = copied = 0

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        whole = self.whole or self
        whole.reads += 1
        if isinstance(found, bytes):
            whole.copied += len(found)
            found = self._piece(found, whole)
        if whole.reads > READS_A_BYTE * len(whole) + SOME:
            pytest.fail(f"{whole.reads} reads of a file of {len(whole)} bytes")
        if whole.copied > COPIES_A_BYTE * len(whole) + SOME:
            pytest.fail(f"{whole.copied} bytes copied of a file of {len(whole)}")
        return found

    @classmethod
    def _piece(cls, content: bytes, whole: "Counted") -> Self:
        piece = cls(content)
        piece.whole = whole
        return piece


def heif(
    *,
    iloc: bytes | None = None,
    iref: bytes | None = None,
    iprp: bytes | None = None,
    items: bytes = b"",
    idat: bytes = b"",
) -> bytes:
    """Make a file of a directory alone, whose main picture is item 1."""
    boxes = [Box(b"pitm", bytes(4) + b"\0\1"), Box(b"iinf", bytes(6) + items)]
    parts = {b"iloc": iloc, b"iref": iref, b"iprp": iprp, b"idat": idat}
    boxes += [Box(kind, content) for kind, content in parts.items() if content is not None]
    meta = Box(b"meta", bytes(4) + b"".join(box.to_bytes() for box in boxes))
    return Box(b"ftyp", b"avif\0\0\0\0avif").to_bytes() + meta.to_bytes()


def item(identifier: int, kind: bytes) -> bytes:
    return Box(b"infe", b"\2\0\0\0" + identifier.to_bytes(2, "big") + b"\0\0" + kind + b"\0").to_bytes()


def places(version: int, sizes: bytes, *entries: tuple[int, bytes]) -> bytes:
    """Write a table of places: for each item how many parts it has, and where they lie."""
    wide = 4 if version == 2 else 2
    content = bytes((version, 0, 0, 0)) + sizes + len(entries).to_bytes(wide, "big")
    for number, (parts, stored) in enumerate(entries):
        method = b"" if version == 0 else bytes(2)
        content += (number + 1).to_bytes(wide, "big") + method + bytes(2) + parts.to_bytes(2, "big") + stored
    return content


def counted(data: bytes) -> Collection | None:
    """Read a file, and fail where that takes more work than its bytes are worth; None if it is refused."""
    try:
        return parse(Counted(data))
    except InputError:
        return None


@pytest.mark.parametrize("version", [0, 1, 2])
def test_parts_that_take_no_bytes_are_not_repeated(version: int) -> None:
    one = heif(iloc=places(version, b"\0\0", (1, b"")), items=item(1, b"av01"))
    assert parse(one).items == (Item(1, b"av01", extents=((0, 0),)),)
    for most in (2, 65535):
        hostile = heif(iloc=places(version, b"\0\0", *[(most, b"")] * 200), items=item(1, b"av01"))
        with pytest.raises(InputError, match="damaged"):
            parse(Counted(hostile))
        with pytest.raises(InputError, match="damaged"):
            codec.decode(hostile)


@pytest.mark.parametrize(("version", "sizes"), [(0, b"\x40\0"), (0, b"\x04\0"), (1, b"\0\4"), (0, b"\0\xf0")])
def test_parts_are_no_more_than_the_table_has_bytes_for(version: int, sizes: bytes) -> None:
    hostile = heif(iloc=places(version, sizes, *[(65535, b"")] * 200), items=item(1, b"av01"))
    with pytest.raises(InputError, match="damaged"):
        parse(Counted(hostile))


def test_many_parts_are_read_in_order() -> None:
    stored = b"".join(number.to_bytes(4, "big") + b"\0\0\0\1" for number in range(5000))
    found = parse(Counted(heif(iloc=places(0, b"\x44\0", (5000, stored)), items=item(1, b"av01"))))
    assert found.items[0].extents == tuple((number, 1) for number in range(5000))


def test_many_references_and_properties_take_no_longer_a_piece() -> None:
    """Both were copied from each number to the end."""
    targets = b"".join(number.to_bytes(2, "big") for number in range(5000))
    references = bytes(4) + Box(b"dimg", b"\0\1\x13\x88" + targets).to_bytes() * 2
    links = bytes(4) + (5000).to_bytes(4, "big") + b"".join(n.to_bytes(2, "big") + b"\2\1\1" for n in range(5000))
    properties = Box(b"ipco", Box(b"irot", b"\1").to_bytes()).to_bytes() + Box(b"ipma", links).to_bytes()
    found = parse(Counted(heif(iref=references, iprp=properties)))
    assert [reference.targets for reference in found.references] == [tuple(range(5000))] * 2
    assert found.properties == {number: (Box(b"irot", b"\1"),) * 2 for number in range(5000)}


def test_a_block_is_not_larger_than_the_file() -> None:
    """Its parts may lie upon each other, so that 64 kB of directory would make 4 GB of it."""
    stored = b"\0\0\0\0\0\1\0\0" * 8000
    data = heif(iloc=places(0, b"\x44\0", (8000, stored)), items=item(1, b"Exif"))
    with pytest.raises(InputError, match="more bytes than the file"):
        parse(data).block(data, b"Exif")
    inside = b"\1\0\0\0" + b"\x44\0\0\1" + b"\0\1\0\1\0\0\0\2" + (b"\0\0\0\0\0\0\0\6" + b"\0\0\0\6\0\0\0\4")
    whole = heif(iloc=inside, items=item(1, b"Exif"), idat=bytes(4) + b"II*\0\1\2")
    assert parse(whole).block(whole, b"Exif") == b"II*\0\1\2"
    short = heif(iloc=inside, items=item(1, b"Exif"), idat=b"II*\0")
    with pytest.raises(InputError, match="more bytes than the file"):
        parse(short).block(short, b"Exif")


def test_an_auxiliary_picture_is_named_once_and_shortly() -> None:
    references = bytes(4) + Box(b"auxl", b"\0\2\0\1\0\1").to_bytes() * 5000
    kind = Box(b"auxC", bytes(4) + b"urn:depth" + b"x" * 100_000).to_bytes()
    links = bytes(4) + b"\0\0\0\1" + b"\0\2\1\1"
    found = parse(heif(iref=references, iprp=Box(b"ipco", kind).to_bytes() + Box(b"ipma", links).to_bytes()))
    (name,) = found.auxiliaries()
    assert name.startswith("depthxxx")
    assert len(name) < 300


sizes = st.sampled_from((b"\0\0", b"\x44\0", b"\x44\x44", b"\x48\x80", b"\0\x40", b"\0\1", b"\x10\0")) | st.binary(
    min_size=2, max_size=2
)
tables = st.builds(
    lambda version, sizes, count, rest: bytes((version, 0, 0, 0)) + sizes + count + rest,
    st.integers(0, 3), sizes, st.sampled_from((b"\0\1", b"\0\0\0\1", b"\xff\xff", b"\xff\xff\xff\xff")),
    st.binary(max_size=300) | st.builds(bytes.__mul__, st.binary(min_size=1, max_size=12), st.integers(0, 200)),
)  # fmt: skip
references = st.lists(
    st.builds(Box, st.sampled_from((b"dimg", b"auxl", b"cdsc")), st.binary(max_size=40)).map(Box.to_bytes), max_size=20
).map(b"".join)
links = st.builds(
    lambda version, flags, count, rest: bytes((version, 0, 0, flags)) + count + rest,
    st.integers(0, 1), st.integers(0, 1), st.sampled_from((b"\0\0\0\1", b"\0\0\0\4", b"\xff\xff\xff\xff")),
    st.builds(bytes.__mul__, st.binary(max_size=12), st.integers(0, 100)),
)  # fmt: skip


@given(tables, st.integers(0, 1), references, links)
@settings(max_examples=200, deadline=None)
def test_any_directory_is_read_or_refused_in_proportion_to_its_bytes(
    iloc: bytes, version: int, iref: bytes, ipma: bytes
) -> None:
    properties = Box(b"ipco", Box(b"irot", b"\1").to_bytes() * 3).to_bytes() + Box(b"ipma", ipma).to_bytes()
    data = heif(iloc=iloc, iref=bytes((version, 0, 0, 0)) + iref, iprp=properties, items=item(1, b"Exif"))
    found = counted(data)
    if found is not None:
        assert sum(len(each.extents) for each in found.items) <= len(data)
        assert sum(len(each.targets) for each in found.references) <= len(data)
        found.top_level()
        found.auxiliaries()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_directory_of_a_real_file_is_read_or_refused(data: st.DataObject) -> None:
    damaged = bytearray(REAL)
    end = REAL.index(b"mdat")
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, end))] = data.draw(st.sampled_from((0, 1, 2, 127, 128, 254, 255)))
    counted(bytes(damaged))


REAL = codec.encode(Photo(np.ascontiguousarray(picture()), "rgb", 8), "avif").data
