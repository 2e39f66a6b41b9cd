"""What is told of a run: of a photo what its network had to do again, of all what is to be known of the networks."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from kbnet_cli import engine
from kbnet_cli.networks import inference
from tests import test_cli
from tests.fragile import FOR_OTHER_PROCESSES, NOTE, make_fragile, write_spoiled
from tests.test_cli import Call

kbnet = test_cli.kbnet
UPPER_RIGHT, LOWER_LEFT = (0, -1), (-1, 0)


@pytest.fixture
def _fragile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let networks fail in bfloat16 at white pixels, here and in other processes."""
    monkeypatch.setattr(inference, "ready", inference.ready)  # so that it is put back
    monkeypatch.setattr(engine.Engine, "notes", engine.Engine.notes)
    make_fragile()
    (tmp_path / "start").mkdir()
    (tmp_path / "start/sitecustomize.py").write_text(FOR_OTHER_PROCESSES)
    monkeypatch.syspath_prepend(tmp_path / "start")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Photos of no, one and two tiles that will not be numbers."""
    found = [tmp_path / f"{name}.png" for name in ("none", "one", "two")]
    for path, corners in zip(found, ((), (UPPER_RIGHT,), (UPPER_RIGHT, LOWER_LEFT)), strict=True):
        write_spoiled(path, *corners)
    return found


@pytest.mark.usefixtures("_fragile")
@pytest.mark.parametrize("device", ["cpu", "cpu,cpu"])
def test_tiles_that_were_done_again_are_counted_for_their_photo(
    device: str, kbnet: Call, photos: list[Path], tmp_path: Path, random_weights: Path
) -> None:
    words = ("derain", *photos, "-w", random_weights, "-o", f"{tmp_path}/out/", "--device", device, "--json")
    done = kbnet(*words, "--precision", "bf16")
    assert done.code == 0, done.stderr
    *events, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert [event.get("redone_tiles", "no word") for event in events] == ["no word", 1, 2]
    assert summary["notes"] == [NOTE]
    told = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    assert told == [
        f"note: {photos[1]}: 1 tile was not finite in bf16 and was done again in fp32",
        f"note: {photos[2]}: 2 tiles were not finite in bf16 and were done again in fp32",
        f"note: {NOTE}",
    ]
    rough = [imagecodecs.png_decode((tmp_path / "out" / path.name).read_bytes()) for path in photos]
    assert kbnet(*words, "--precision", "fp32", "--overwrite").code == 0
    exact = [imagecodecs.png_decode((tmp_path / "out" / path.name).read_bytes()) for path in photos]
    in_upper_right_tile_only = np.s_[:20, -20:]
    for number in (1, 2):
        np.testing.assert_array_equal(rough[number][in_upper_right_tile_only], exact[number][in_upper_right_tile_only])
        assert (rough[number] != exact[number]).any(), "other tiles are as bf16 has them"


@pytest.mark.usefixtures("_fragile")
def test_notes_are_told_of_one_photo_and_of_a_plan_but_not_quietly(
    kbnet: Call, photos: list[Path], random_weights: Path
) -> None:
    words = ("derain", photos[0], "-w", random_weights, "--precision", "fp32")
    planned = kbnet(*words, "--dry-run")
    assert planned.stderr.count(f"note: {NOTE}\n") == 1
    summary = json.loads(kbnet(*words, "--dry-run", "--json").stdout.splitlines()[-1])
    assert summary["notes"] == [NOTE]
    assert kbnet(*words).stderr.count(f"note: {NOTE}\n") == 1
    assert kbnet(*words, "--overwrite", "-q").stderr == ""
