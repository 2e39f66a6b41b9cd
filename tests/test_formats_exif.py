"""EXIF blocks: read, written, patched; nothing rounded, nothing moved that may not move."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image, TiffImagePlugin

from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry, Layout, Order, read_chain, read_layout

NOTE = bytes(range(256)) * 3


def rational(order: Order, *pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(order + "II", *pair) for pair in pairs)


def description(order: Order = "<", *, note_offset: int | None = None) -> Description:
    return Description(
        order,
        image=(
            Entry(271, 2, 6, b"Canon\0"),
            exif.short(exif.ORIENTATION, 6, order),
            Entry(282, 5, 1, rational(order, (0, 0))),
        ),
        exif=(
            Entry(33434, 5, 1, rational(order, (1, 4294967295))),
            Entry(36864, 7, 4, b"0232"),
            Entry(37380, 10, 1, struct.pack(order + "ii", -1, 3)),
            Entry(exif.MAKER_NOTE, 7, len(NOTE), NOTE, offset=note_offset),
        ),
        gps=(Entry(0, 1, 4, b"\2\3\0\0"), Entry(2, 5, 3, rational(order, (48, 1), (51, 1), (2947, 100)))),
        interop=(Entry(1, 2, 4, b"R98\0"),),
    )


def values(described: Description) -> list[tuple[int, int, int, bytes | None]]:
    every = (*described.image, *described.exif, *described.gps, *described.interop)
    return [(entry.tag, entry.type, entry.count, entry.value) for entry in every]


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_is_packed_is_read_again(order: Order) -> None:
    block = exif.pack(description(order))
    assert values(exif.read(block)) == values(description(order))
    assert exif.orientation(block) == 6


def test_another_reader_understands_it() -> None:
    pillow = Image.Exif()
    pillow.load(b"Exif\0\0" + exif.pack(description()))
    assert pillow[271] == "Canon"
    assert pillow[exif.ORIENTATION] == 6
    inner = pillow.get_ifd(exif.EXIF_POINTER)
    assert inner[33434] == TiffImagePlugin.IFDRational(1, 4294967295)
    assert inner[exif.MAKER_NOTE] == NOTE
    assert pillow.get_ifd(exif.GPS_POINTER)[2][2] == TiffImagePlugin.IFDRational(2947, 100)


@pytest.mark.parametrize("offset", [8, 9, 200, 1234])
def test_a_maker_note_stays_where_it_was(offset: int) -> None:
    block = exif.pack(description(note_offset=offset))
    assert block[offset : offset + len(NOTE)] == NOTE
    assert values(exif.read(block)) == values(description())


def test_a_maker_note_from_far_behind_does_not_fill_the_block_with_zeros() -> None:
    assert len(exif.pack(description(note_offset=1_000_000))) < 2000


def test_byte_orders_are_swapped_value_by_value() -> None:
    swapped = exif.reorder(description("<"), ">")
    assert values(swapped) == values(description(">"))
    assert values(exif.reorder(swapped, "<")) == values(description("<"))


def test_orientation_is_patched_in_place() -> None:
    block = exif.pack(description())
    turned = exif.with_orientation(block, 3)
    assert exif.orientation(turned) == 3
    assert len(turned) == len(block)
    assert sum(a != b for a, b in zip(block, turned, strict=True)) == 1


def test_orientation_is_added_where_there_is_none() -> None:
    without = exif.pack(Description(">", image=(Entry(271, 2, 6, b"Canon\0"),), gps=description(">").gps))
    turned = exif.with_orientation(without, 8)
    assert exif.orientation(turned) == 8
    assert turned[8 : len(without)] == without[8:]
    assert exif.read(turned).gps == exif.read(without).gps


def test_a_block_is_made_for_an_orientation_alone() -> None:
    assert exif.orientation(exif.with_orientation(None, 5)) == 5
    empty = header(Layout("<"), 0)
    assert exif.orientation(exif.with_orientation(empty, 5)) == 5


@pytest.mark.parametrize(
    "block", [None, b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"nonsense, of some length", header(Layout("<"), 0)]
)
def test_damaged_blocks_say_nothing_about_orientation(block: bytes | None) -> None:
    assert exif.orientation(block) == 1


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_none(value: int) -> None:
    assert exif.orientation(exif.pack(Description("<", image=(exif.short(exif.ORIENTATION, value, "<"),)))) == 1


def test_what_is_no_exif_is_refused() -> None:
    with pytest.raises(InputError, match="where a TIFF header was expected"):
        exif.read(b"Exif\0\0 and more of it")


def test_a_chain_without_an_end_is_refused() -> None:
    layout = Layout("<")
    arena = Arena(header(layout, 8), layout)
    arena.add_directory([Entry(271, 2, 2, b"A\0")], next_offset=8)
    with pytest.raises(InputError, match="it has no end"):
        list(read_chain(arena.to_bytes()))


def test_values_that_lie_upon_each_other_do_not_fill_the_memory() -> None:
    layout = Layout("<")
    stored = layout.pack_offset(0)
    arena = Arena(header(layout, 8), layout)
    arena.add_directory([Entry(1000 + i, 7, 40_000, None, stored=stored) for i in range(4000)])
    with pytest.raises(InputError, match="more bytes than"):
        list(read_chain(arena.to_bytes()))


def test_exposure_in_the_first_directory_goes_where_exif_has_it() -> None:
    layout = Layout(">")
    arena = Arena(header(layout, 8), layout)
    arena.add_directory([Entry(271, 2, 2, b"K\0"), Entry(33434, 5, 1, rational(">", (1, 270)))])
    data = arena.to_bytes()
    described = exif.describe(data, next(read_chain(data)))
    assert [entry.tag for entry in described.image] == [271]
    assert [entry.tag for entry in described.exif] == [33434]


def test_broken_anywhere_gives_an_error_or_a_block() -> None:
    block = exif.pack(description(note_offset=300))
    places = [place for place in range(len(block)) if not 300 <= place < 300 + len(NOTE)]
    for position in places[::3]:
        for value in (0, 255):
            damaged = block[:position] + bytes([value]) + block[position + 1 :]
            try:
                exif.pack(exif.read(damaged))
                exif.with_orientation(damaged, 2)
            except InputError:
                continue
    for length in range(0, len(block), 7):
        try:
            exif.pack(exif.read(block[:length]))
        except InputError:
            continue


def test_blocks_of_real_cameras_are_packed_without_loss(testdata: Path) -> None:
    seen = 0
    for path in sorted((testdata / "free" / "photos").glob("*/*.[jJ][pP][gG]")):
        with Image.open(path) as picture:
            block = picture.info.get("exif", b"").removeprefix(b"Exif\0\0")
        if not block:
            continue
        seen += 1
        described = exif.read(block)
        again = exif.read(exif.pack(described))
        assert values(again) == values(described), path
        assert note_offset(again) == note_offset(described), path
        assert read_layout(block).order == again.order
        with Image.open(io.BytesIO(as_jpeg(exif.pack(described)))) as picture:
            assert picture.getexif().get(271) is not None or not any(e.tag == 271 for e in described.image)
    assert seen > 10


def as_jpeg(block: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", exif=b"Exif\0\0" + block)
    return buffer.getvalue()


def note_offset(described: Description) -> int | None:
    return next((entry.offset for entry in described.exif if entry.tag == exif.MAKER_NOTE), None)
