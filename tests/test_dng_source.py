"""DNG from DNG: what the source says of its colours and its lens stays, as far as it holds for the new samples."""

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kbnet_cli.formats import exif
from kbnet_cli.formats.arena import Arena, header
from kbnet_cli.formats.dng import opcodes as dng_opcodes
from kbnet_cli.formats.dng import writer as dng
from kbnet_cli.formats.dng.values import doubles, floats, longs, octets, rationals, shorts, text
from kbnet_cli.formats.ifd import Entry, Layout, Order, read_directory
from kbnet_cli.photo import Metadata, Origin
from tests.dngs import camera, gain_map, numbers, opcodes, photo, photos_of, source_file, undefined, written


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what does not concern samples: reading back starts a process."""
    monkeypatch.setattr(dng, "check", lambda *_: None)


def test_a_dng_keeps_its_colours(unchecked: None) -> None:
    order: Order = ">"
    matrices = {tag: tuple((tag % 7 + i) / 10 for i in range(9)) for tag in (50721, 50722, 50964, 50965, 50723)}
    first = [rationals(tag, order, values, signed=True) for tag, values in matrices.items()]
    first += [rationals(50728, order, (0.4, 1, 0.7)), shorts(50778, order, 17), shorts(50779, order, 21)]
    first += [rationals(50730, order, (-0.5,), signed=True), rationals(50727, order, (1.1, 1, 1.2))]
    first += [
        text(50936, "Portrait"),
        longs(50937, order, 2, 2, 1),
        Entry(50938, 11, 12, struct.pack(">12f", *range(12))),
    ]
    first += [longs(50981, order, 9, 9, 9), Entry(50982, 11, 3, bytes(12)), text(50708, "Maker One of China")]
    samples = [rationals(50719, order, (4.5, 2)), rationals(50720, order, (55, 40.25)), rationals(50718, order, (1, 2))]
    data = dng.encode(photo(source=source_file(first, samples, order=order)), depth=16)
    assert written(data).layout.order == "<"
    for tag, values in matrices.items():
        assert numbers(data, tag) == pytest.approx(values)
    assert numbers(data, 50728) == pytest.approx((0.4, 1, 0.7))
    assert (numbers(data, 50778), numbers(data, 50779), numbers(data, 50730)) == ((17,), (21,), (-0.5,))
    assert numbers(data, 50938) == tuple(range(12))
    assert written(data).first.value(50936) == b"Portrait\0"
    assert written(data).find(50982) is None, "a table that is not as large as it says"
    assert numbers(data, 50719, raw=True) == (4.5, 2)
    assert numbers(data, 50720, raw=True) == (55, 40.25)
    assert numbers(data, 50718, raw=True) == (1, 2)


def test_a_crop_of_another_size_is_not_carried(unchecked: None) -> None:
    samples = [rationals(50719, "<", (4, 2)), rationals(50720, "<", (50, 40))]
    data = dng.encode(photo(source=source_file((), samples, size=(96, 128))), depth=16)
    assert numbers(data, 50720, raw=True) == (64, 48)
    outside = [rationals(50719, "<", (40, 2)), rationals(50720, "<", (50, 40))]
    data = dng.encode(photo(source=source_file((), outside)), depth=16)
    assert numbers(data, 50720, raw=True) == (64, 48)


def test_the_noise_profile_is_lowered(unchecked: None) -> None:
    made = photo(source=source_file([doubles(51041, "<", (2e-4, 1e-6))]))
    assert numbers(dng.encode(made, depth=16), 51041, raw=True) == (2e-4, 1e-6)
    assert numbers(dng.encode(made, depth=16), 50935, raw=True) == ()
    quiet = replace(made, camera=replace(camera(), noise_left=0.25))
    data = dng.encode(quiet, depth=16)
    assert numbers(data, 51041, raw=True) == pytest.approx((5e-5, 2.5e-7))
    assert numbers(data, 51041) == ()
    assert numbers(data, 50935, raw=True) == (0.75,)


def test_lens_corrections_that_still_apply_come_along(unchecked: None) -> None:
    warp = dng_opcodes.Opcode(1, 0x01030000, 1, bytes(50))
    pixels = dng_opcodes.Opcode(5, 0x01030000, 1, bytes(12))
    sites = [gain_map(0, 0, 1.0), gain_map(0, 1, 2.0), gain_map(1, 0, 4.0), gain_map(1, 1, 5.0)]
    table = dng_opcodes.Opcode(7, 0x01030000, 0, bytes(38))
    lists = [opcodes(pixels), opcodes(*sites, table), opcodes(warp)]
    made = photo(source=source_file((), map(undefined, (51008, 51009, 51022), lists)))
    found = written(dng.encode(made, depth=16)).raw
    assert found.find(51008) is None
    assert found.value(51022) == opcodes(warp)
    second = found.value(51009)
    assert second is not None
    assert struct.unpack_from(">I", second) == (3,)
    size = 16 + 32 + 44 + 8
    for channel, gain in enumerate((1.0, 3.0, 5.0)):  # the two greens' mean
        step = second[4 + channel * size :]
        assert struct.unpack_from(">8I", step, 16) == (0, 0, 48, 64, channel, 1, 1, 1)
        assert struct.unpack_from(">2f", step, 16 + 76) == (gain, gain + 1)
    assert dng.notes(made) == (
        "corrections that the camera asks for on its mosaic are left out: FixBadPixelsList, MapTable",
    )


def test_corrections_of_another_place_are_left_out(unchecked: None) -> None:
    warp = dng_opcodes.Opcode(1, 0x01030000, 1, bytes(50))
    lists = [undefined(51009, opcodes(gain_map(0, 0, 1.0))), undefined(51022, opcodes(warp))]
    other = photo(source=source_file((), lists, size=(50, 64)))
    assert written(dng.encode(other, depth=16)).raw.find(51022) is None
    assert dng.notes(other)[0].endswith("GainMap, WarpRectilinear")
    damaged = photo(source=source_file((), [undefined(51022, opcodes(warp)[:-1])]))
    assert written(dng.encode(damaged, depth=16)).raw.find(51022) is None
    assert dng.notes(damaged)[0].endswith("OpcodeList3, which is damaged")
    linear = [shorts(262, "<", 34892), undefined(51009, opcodes(gain_map(0, 0, 1.0)))]
    assert dng.notes(photo(source=source_file((), linear))) == ()


def test_private_data_of_the_maker_goes_with_the_rest(unchecked: None) -> None:
    private = [octets(50740, *b"Adobe\0MakN"), text(305, "Converter"), text(50735, "123")]
    data = source_file(private)
    whole = Metadata(exif=exif.pack(exif.describe(data, written(data).first)))
    made = replace(photo(source=data), metadata=whole)
    assert written(dng.encode(made, depth=16)).first.value(50740) == b"Adobe\0MakN"
    stripped = dng.encode(replace(made, metadata=Metadata()), depth=16)
    assert b"MakN" not in stripped
    assert b"123\0" not in stripped


def test_further_camera_profiles_come_along(unchecked: None) -> None:
    order: Order = ">"
    profile = Arena(b"MM\0\0\0\0\0\0", Layout(order))
    first = profile.add_directory([text(50936, "Landscape"), rationals(50721, order, range(9), signed=True)])
    profile.write(0, struct.pack(">2sHI", b"MM", 0x4352, first))
    plain = source_file([longs(50933, "<", 0, 10, 2**31)])
    at = len(plain) + len(plain) % 2
    data = source_file([longs(50933, "<", at, 10, 2**31)]).ljust(at, b"\0") + profile.to_bytes()
    after = dng.encode(photo(source=data), depth=16)
    (found,) = written(after).integers(50933)
    layout = Layout(order)
    assert struct.unpack_from(">2sH", after, found) == (b"MM", 0x4352)
    directory = read_directory(after[found:], layout, layout.unpack_offset(after, found + 4))
    assert directory.value(50936) == b"Landscape\0"
    assert floats(directory.find(50721), order) == tuple(range(9))


def test_other_pictures_are_told_of(unchecked: None) -> None:
    layout = Layout("<")
    arena = Arena(source_file(), layout)
    masks = [arena.add_directory([longs(254, "<", 65540)]) for _ in range(2)]
    raw = written(bytes(arena.data)).raw.offset
    first = arena.add_directory([octets(50706, 1, 6, 0, 0), longs(330, "<", raw, *masks)])
    arena.write(0, header(layout, first))
    made = photo(source=arena.to_bytes())
    assert dng.notes(made) == ("pictures beside the photo are left out: a semantic mask",)
    assert written(dng.encode(made, depth=16)).integers(50706) == (1, 6, 0, 0)


def test_hostile_directories_break_nothing(unchecked: None) -> None:
    rng = np.random.default_rng(1)
    tables = [undefined(tag, bytes(rng.integers(0, 256, 40, dtype=np.uint8))) for tag in (51008, 51009, 51022, 50740)]
    first = [rationals(tag, "<", (1,) * 9) for tag in (50721, 50722, 50964)] + [rationals(50728, "<", (1, 1, 1))]
    samples = [*tables, rationals(50719, "<", (1, 1)), rationals(50720, "<", (9, 9)), doubles(51041, "<", (1e-4, 1e-6))]
    plain = source_file(first, samples)
    made = photo(24, 24)
    for _ in range(40):
        data = bytearray(plain)
        for at in rng.integers(8, len(data), 12):
            data[at] = rng.integers(0, 256)
        hostile = replace(made, origin=Origin("raw", bytes(data)))
        dng.notes(hostile)
        assert written(dng.encode(hostile, depth=16)).raw.integers(257, "<") == (24,)


def carried(data: bytes) -> dict[int, tuple[float, ...]]:
    """Return the tags of colours that a DNG has."""
    found = written(data)
    tags = (50721, 50722, 50723, 50727, 50728, 50729, 50778, 50779, 50730, 50964, 51041, 274)
    return {tag: floats(found.find(tag), found.layout.order) for tag in tags}


def test_real_files_keep_their_colours(testdata: Path, unchecked: None) -> None:
    photos = photos_of(testdata / "free" / "raw")
    assert len(photos) >= 13
    for path, made in photos:
        before, after = carried(path.read_bytes()), carried(dng.encode(made, depth=16))
        before[50730] = before[50730] or after[50730]  # 0/0 is not carried
        for tag, values in before.items():
            assert after[tag] == pytest.approx(values), (path, tag)
