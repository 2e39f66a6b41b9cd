"""How much is done at once: as given, else by what the machine has."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from kbnet_cli import machine, pacing
from kbnet_cli.batch import STANDARD, Job
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.cli import restoring
from kbnet_cli.engine import Choice, Engine
from kbnet_cli.errors import UsageError
from kbnet_cli.levels import Blend, Part
from kbnet_cli.machine import Memory
from kbnet_cli.pacing import Means, cost, lane_count, pace_for, tile_bytes, tiles_of
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration
from kbnet_cli.selection import Selection
from tests.mosaics import mosaic_dng
from tests.networks import random_network
from tests.pictures import picture, write_picture

HELD = 500_000_000
"""What the program takes without any photo, in these tests."""


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Selection:
    """A network of 8 channels with tiles of 512, on a machine of 8 cores with 4 GB free."""
    monkeypatch.setattr(machine, "cores", lambda: 8)
    monkeypatch.setattr(machine, "held_bytes", lambda: HELD)
    monkeypatch.setattr(machine, "memory", lambda: Memory(8_000_000_000, 4_000_000_000))
    monkeypatch.setattr(pacing, "most_lanes", lambda _device, _precision: 8)
    choice = Choice(torch.device("cpu"), "fp32", "asked for")
    engine = Engine(Checkpoint(random_network(), Facts(), "random"), choice)
    return Selection("random", choice, Restoration(512, 64), Blend((Part(engine, 1.0),)), None, listens=False)


def test_unless_told_otherwise_the_machine_says_how_many_photos_are_in_hand(
    networks: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for cores in (1, 2, 4, 8, 64):
        monkeypatch.setattr(machine, "cores", lambda cores=cores: cores)
        found[cores] = pace_for(Means(), networks, None).photos
    least, most = pacing.USUAL_PHOTOS
    assert found[1] == least
    assert found[64] == most
    assert list(found.values()) == sorted(found.values())
    assert pace_for(Means(photos=200), networks, None).photos == 200
    assert pace_for(Means(), networks, 1).photos == pace_for(Means(photos=200), networks, 1).photos == 1


def test_photos_have_what_the_program_and_its_tiles_leave(networks: Selection) -> None:
    assert pace_for(Means(), networks, None).memory_bytes == 2_000_000_000, "half of what is free"
    for given in (600_000_000, 1_000_000_000, 5_000_000_000):
        pace = pace_for(Means(memory_bytes=given), networks, None)
        assert pace.memory_bytes == given - HELD - pace.lanes * tile_bytes(networks)
        assert 0 < pace.memory_bytes < given - HELD


def test_little_memory_means_few_lanes_and_too_little_is_said(networks: Selection) -> None:
    tile = tile_bytes(networks)
    assert tile < 100_000_000
    assert lane_count(Means(memory_bytes=HELD + 2 * 5 * tile), networks) == 5, "half of what is left"
    assert lane_count(Means(memory_bytes=HELD + 100 * tile), networks) == 8
    assert lane_count(Means(memory_bytes=HELD), networks) == lane_count(Means(memory_bytes=1), networks) == 1
    # Whatever holds the program and one tile is enough: lanes are given up first.
    for more in (1.5, 2, 3, 4, 7, 20):
        pace = pace_for(Means(memory_bytes=int(HELD + more * tile)), networks, None)
        assert pace.memory_bytes > 0, more
    for little in (1, HELD, HELD + tile):
        with pytest.raises(UsageError, match="less than the program takes") as caught:
            pace_for(Means(memory_bytes=little), networks, None)
        assert "--memory" in caught.value.message


def test_on_a_gpu_tiles_take_their_copies_only_of_the_main_memory(networks: Selection) -> None:
    on_gpu = replace(networks, choice=replace(networks.choice, device=torch.device("cuda")))
    as_float32 = 512 * 512 * 3 * 4
    pace = pace_for(Means(), on_gpu, None)
    assert tile_bytes(on_gpu) == (2 * 2 + 2 * pace.in_network) * as_float32 < tile_bytes(networks)


def test_several_gpus_have_more_photos_in_hand_and_in_the_network(
    networks: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 64)
    _, most = pacing.USUAL_PHOTOS
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for devices, photos, in_network in (
        ((cpu,), most, pacing.IN_NETWORK),
        ((cpu, cpu), most, pacing.IN_NETWORK),
        ((gpu,), most, pacing.IN_NETWORK_ON_GPU),
        ((gpu, gpu, gpu), 3 * most, pacing.IN_NETWORK_ON_GPU),
    ):
        on_them = replace(networks, choice=replace(networks.choice, device=devices[0], others=devices[1:]))
        pace = pace_for(Means(), on_them, None)
        assert (pace.photos, pace.in_network) == (photos, in_network)


def test_lanes_take_half_of_what_is_free_where_nothing_is_given(
    networks: Selection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile = tile_bytes(networks)
    for free, count in ((6 * tile, 3), (0, 1), (1000 * tile, 8)):
        monkeypatch.setattr(machine, "memory", lambda free=free: Memory(None, free))
        assert lane_count(Means(), networks) == count
    monkeypatch.setattr(machine, "memory", lambda: Memory(None, None))
    assert lane_count(Means(), networks) == 8
    assert pace_for(Means(), networks, None).memory_bytes > 0


def test_tiles_are_counted_as_they_will_be(networks: Selection) -> None:
    small = replace(networks, settings=Restoration(64, 16))
    assert tiles_of(Photo(picture(64, 64), "rgb", 8), small) == 1
    assert tiles_of(Photo(picture(100, 150), "rgb", 8), small) == 12
    cmyk = Photo(picture(64, 64)[:, :, [0, 1, 2, 2]], "cmyk", 8)
    assert tiles_of(cmyk, small) == 2, "once for CMY, once for K"
    assert pace_for(Means(), small, None).tiles(cmyk) == 2


def test_a_photo_costs_what_its_header_says_or_else_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def job(name: str) -> Job:
        return Job(tmp_path / name, tmp_path / "out.png", natural=False)

    write_picture(tmp_path / "a.png", depth=16, size=(100, 150))
    size = (tmp_path / "a.png").stat().st_size
    assert cost(job("a.png")) == size + pacing.TIMES_HELD * 100 * 150 * 6
    Image.new("RGB", (150, 100)).save(tmp_path / "a.jpg")
    jpeg = (tmp_path / "a.jpg").stat().st_size
    assert cost(job("a.jpg")) == jpeg + pacing.TIMES_HELD_OF_JPEG * 100 * 150 * 3
    (tmp_path / "raw.dng").write_bytes(mosaic_dng(np.full((48, 64, 3), 0.3)))
    raw = (tmp_path / "raw.dng").stat().st_size
    assert cost(job("raw.dng")) >= raw + pacing.TIMES_HELD * 48 * 64 * 6
    (tmp_path / "odd.jpg").write_bytes(b"text" * 100)
    assert cost(job("odd.jpg")) == pacing.TIMES_FILE * 400
    assert cost(job("missing.jpg")) == 0
    assert cost(Job(STANDARD, STANDARD, natural=True, data=b"1234")) == pacing.TIMES_FILE * 4
    assert cost(Job(STANDARD, STANDARD, natural=True)) == 0

    def explode(*_: object) -> None:
        raise ZeroDivisionError("an odd header")

    monkeypatch.setattr(import_module("kbnet_cli.batch.preview"), "extent", explode)
    assert cost(job("a.png")) == pacing.TIMES_FILE * size, "one odd file does not end a run"


@pytest.mark.parametrize(
    ("text", "count_bytes"),
    [
        ("auto", None),
        ("4G", 4 * 10**9),
        ("4g", 4 * 10**9),
        ("4GB", 4 * 10**9),
        ("4gb", 4 * 10**9),
        ("800M", 800 * 10**6),
        ("1.5GB", 1_500_000_000),
        ("0.25G", 250_000_000),
        ("2T", 2 * 10**12),
        ("64K", 64_000),
        ("123456789", 123_456_789),
        ("123B", 123),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, count_bytes: int | None) -> None:
    assert restoring._size("--memory", text) == count_bytes


@pytest.mark.parametrize(
    "text",
    ["", "0", "0G", "0.0M", "-4G", "4 G", "4X", "GB", "4GiB", "1,5G", "1e9", "nan", "inf", "٤G", "4G\n", "."],
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="--memory"):
        restoring._size("--memory", text)


@pytest.mark.parametrize(("text", "count"), [("auto", None), ("1", 1), ("8", 8), ("256", 256)])
def test_jobs_are_a_number_or_auto(text: str, count: int | None) -> None:
    assert restoring._count("--jobs", text) == count


@pytest.mark.parametrize("text", ["0", "257", "-1", "1.5", "many", "", "²", "1 "])
def test_any_other_number_of_jobs_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected auto or a number from 1 to 256"):
        restoring._count("--jobs", text)
