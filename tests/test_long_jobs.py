"""Jobs of many photos: all is done once, exactly, in steady memory, and what changed is done again."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from kbnet_cli.console import one_line
from kbnet_cli.formats import codec
from kbnet_cli.journal import NAME
from tests.mosaics import mosaic_dng
from tests.networks import random_network, save
from tests.pictures import picture, write_picture

if sys.platform == "win32":
    pytest.skip("signals, forks and small disks are POSIX's", allow_module_level=True)

from tests.launching import Launcher
from tests.long_jobs import Undisturbed, contents, events, identity, peak_bytes, quiet_run
from tests.trees import Planted, plant


@pytest.fixture
def place(tmp_path: Path, random_weights: Path) -> Iterator[Launcher]:
    """A folder of its own, and runs of kbnet in it."""
    launcher = Launcher(tmp_path, random_weights)
    yield launcher
    launcher.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, random_weights: Path) -> Undisturbed:
    """120 pictures, 4 of them broken."""
    return quiet_run(tmp_path_factory.mktemp("undisturbed"), random_weights, 120)


# A tree of many small pictures.


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_tree_with_broken_pictures_is_done_whole_and_exactly_in_steady_memory(
    count: int, tmp_path: Path, identity_weights: Path
) -> None:
    planted = plant(tmp_path / "in", count)
    good = {each.output: each for each in planted if each.kind == "good"}
    broken = {f"{tmp_path}/in/{each.below}" for each in planted if each.kind == "broken"}
    words = [sys.executable, "-m", "kbnet_cli", "denoise", f"{tmp_path}/in", "-r", "-o", f"{tmp_path}/out/", "--json"]
    said: list[dict[str, Any]] = []
    peaks: dict[int, int] = {}
    with (
        (tmp_path / "stderr").open("w+", encoding="utf-8") as stderr,
        subprocess.Popen(
            [*words, "-w", str(identity_weights)],
            stdout=subprocess.PIPE, stderr=stderr, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as running,
    ):  # fmt: skip
        assert running.stdout is not None
        for line in running.stdout:
            said.append(json.loads(line))
            peaks[len(said)] = peak_bytes(running.pid) or peaks.get(len(said) - 1, 0)
    errors = (tmp_path / "stderr").read_text(encoding="utf-8")
    assert running.returncode == 1

    assert (tmp_path / "out" / NAME).exists()
    outputs = contents(tmp_path / "out")
    assert outputs.keys() == good.keys()
    for output, each in good.items():
        assert output is not None
        check_exact((tmp_path / "in" / each.below).read_bytes(), outputs[output], each)

    lines = errors.splitlines()
    told = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(told) == len(broken) == round(count * 0.03)
    for name in broken:
        at = [number for number in told if one_line(name) in lines[number]]
        assert len(at) == 1, name
        assert lines[at[0] + 1].startswith("hint: ")
    assert {event["input"] for event in said[:-1] if event["status"] == "failed"} == broken
    assert {record["input"] for record in events(tmp_path / "out", "failed")} == broken
    assert len(said) == count + 1
    assert [said[-1][key] for key in ("done", "failed", "left", "stopped")] == [len(good), len(broken), 0, None]
    status = Launcher(tmp_path, identity_weights).run("status", "out", "--json").events[0]
    assert [status[key] for key in ("state", "done", "failed", "left")] == ["ended", len(good), len(broken), 0]
    assert {failure["input"] for failure in status["failures"]} == broken
    if peaks[200]:
        assert peaks[count] < 1.05 * peaks[200]


def check_exact(data: bytes, output: bytes, each: Planted) -> None:
    """See that an output holds what its input holds; JPEG as far as it can be compressed again."""
    restored = codec.decode(output)
    photo = codec.decode(data)
    if each.pixels is None:
        photo = codec.decode(codec.encode(photo, "jpg").data)
    else:
        np.testing.assert_array_equal(photo.pixels.squeeze(), each.pixels)
    assert (restored.depth, restored.colour) == (photo.depth, photo.colour)
    np.testing.assert_array_equal(restored.pixels, photo.pixels, err_msg=each.below)


# What is done again.


def test_exactly_what_changed_is_done_again(place: Launcher, identity_weights: Path) -> None:
    source, out = place.folder / "in", place.folder / "out"
    (source / "b").mkdir(parents=True)
    names = [f"{number}.png" for number in range(4)] + [f"b/{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        (source / name).write_bytes(imagecodecs.png_encode(picture(24, 32, seed=number)))
    weights = place.folder / "weights.safetensors"
    shutil.copy(place.weights, weights)
    words: list[str | Path] = ["denoise", "in", "-r", "-o", "out/", "-w", weights, "--json", "--resume"]

    def resumed(*more: str) -> dict[str, set[str]]:
        before = {name: identity(out / name) for name in contents(out)}
        run = place.run(*words, *more)
        statuses: dict[str, set[str]] = {}
        for event in run.events[:-1]:
            statuses.setdefault(event["status"], set()).add(Path(event["output"]).relative_to("out").as_posix())
        after = {name: identity(out / name) for name in contents(out)}
        assert {name for name in after if before.get(name) != after[name]} == statuses.get("done", set())
        assert run.code == (1 if "failed" in statuses else 0), run.stderr
        return statuses

    everything = set(names)
    assert resumed() == {"done": everything}
    first = contents(out)
    assert resumed() == {"kept": everything}
    os.utime(source / "1.png", ns=(1, 1))  # as a copy or a checkout does
    os.utime(out / "b/1.png", ns=(1, 1))
    assert resumed() == {"kept": everything}
    (source / "b/2.png").write_bytes(imagecodecs.png_encode(picture(24, 32, seed=99)))
    assert resumed() == {"done": {"b/2.png"}, "kept": everything - {"b/2.png"}}
    # As large as before and of the same time is told by nothing but that: another size, or another time, is seen.
    (out / "0.png").unlink()
    (out / "b/3.png").unlink()
    assert resumed() == {"done": {"0.png", "b/3.png"}, "kept": everything - {"0.png", "b/3.png"}}
    assert (out / "0.png").read_bytes() == first["0.png"]
    assert resumed("--strength", "0.5") == {"done": everything}
    assert resumed() == {"done": everything}
    assert contents(out).items() >= {name: first[name] for name in everything - {"b/2.png"}}.items()
    save(random_network(seed=7), weights, task="denoise", tile="64", limit="-0.5,1.5", card="none")
    assert resumed() == {"done": everything}
    assert contents(out)["0.png"] != first["0.png"]
    (out / "2.png").write_bytes(b"edited")
    (source / "new.png").write_bytes(imagecodecs.png_encode(picture(24, 32)))
    (out / "new.png").write_bytes(b"foreign")
    refused = {"2.png", "new.png"}
    assert resumed() == {"failed": refused, "kept": everything - refused}
    assert resumed("--strength", "0.25") == {"failed": refused, "done": everything - refused}
    assert ((out / "2.png").read_bytes(), (out / "new.png").read_bytes()) == (b"edited", b"foreign")
    (source / "1.png").unlink()  # an input that is gone takes nothing with it
    assert resumed("--strength", "0.25") == {"failed": refused, "kept": everything - refused - {"1.png"}}
    assert (out / "1.png").exists()


# However much is done at once.


def test_jobs_and_memory_change_nothing_in_the_outputs(place: Launcher, undisturbed: Undisturbed) -> None:
    words = ("denoise", undisturbed.folder, "-r", "--json")
    for number, more in enumerate((("--jobs", "1"), ("--jobs", "8"), ("--memory", "900M"))):
        run = place.run(*words, *more, "-o", f"{number}/")
        assert run.code == 1, run.stderr
        assert contents(place.folder / str(number)) == undisturbed.outputs
        assert [event["input"] for event in run.events[:-1]] == sorted(
            (event["input"] for event in run.events[:-1]), key=[event["input"] for event in run.events[:-1]].index
        )
    small = place.run(*words, "--memory", "40M", "-o", "none/")
    assert small.code == 2
    assert "--memory 40M is less than the program takes" in small.stderr
    assert not (place.folder / "none").exists(), contents(place.folder / "none")


@pytest.mark.slow
def test_memory_is_kept_to(tmp_path: Path, identity_weights: Path) -> None:
    (tmp_path / "in").mkdir()
    pixels = picture(2000, 3000, depth=16)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"in/{number}.tif", pixels)
    words = [sys.executable, "-m", "kbnet_cli", "denoise", f"{tmp_path}/in", "-r", "-o", f"{tmp_path}/out/", "--json"]
    words += ["-w", str(identity_weights), "--strength", "0"]
    peaks = {}
    for megabytes in (800, 1200):  # one photo alone takes some 750
        peak = 0
        with subprocess.Popen(
            [*words, "--memory", f"{megabytes}M", "--overwrite"],
            stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
        ) as running:  # fmt: skip
            assert running.stdout is not None
            for _line in running.stdout:
                peak = max(peak, peak_bytes(running.pid))
        assert running.returncode == 0
        peaks[megabytes] = peak
    assert all(peak <= 1.1 * megabytes * 1e6 for megabytes, peak in peaks.items()), peaks


# Names.


def test_two_inputs_of_one_output_are_told_before_anything_is_done(place: Launcher) -> None:
    for folder in ("x", "y"):
        (place.folder / folder).mkdir()
        write_picture(place.folder / folder / "a.png")
        write_picture(place.folder / folder / f"{folder}.png")
    before = contents(place.folder).keys()
    done = place.run("denoise", "x/a.png", "x/x.png", "y/y.png", "y/a.png", "-o", "out/")
    assert done.code == 2
    assert "x/a.png and y/a.png would both become out/a.png" in done.stderr
    assert not (place.folder / "out").exists()
    assert {name for name in contents(place.folder) if not name.startswith("std")} == {
        name for name in before if not name.startswith("std")
    }


def test_an_output_folder_within_the_input_is_no_input(place: Launcher) -> None:
    deep = place.folder / "in" / Path(*["deeper"] * 100)
    deep.mkdir(parents=True)
    write_picture(place.folder / "in/a.png")
    write_picture(deep / "b.png")
    (deep / "circle").symlink_to(place.folder / "in")
    (place.folder / "in/self").symlink_to(".")
    words = ("denoise", "in", "-r", "-o", "in/out/", "--json")
    once = place.run(*words)
    assert (once.code, once.events[-1]["done"]) == (0, 2), once.stderr
    first = contents(place.folder / "in/out")
    assert len(first) == 2
    twice = place.run(*words, "--resume")
    assert (twice.code, twice.events[-1]["kept"], twice.events[-1]["done"]) == (0, 2, 0)
    refused = place.run(*words)
    assert (refused.code, refused.events[-1]["failed"]) == (1, 2)
    assert contents(place.folder / "in/out") == first


def test_raw_and_jpeg_and_dng_of_one_name_become_files_of_their_own(place: Launcher) -> None:
    source = place.folder / "in"
    source.mkdir()
    raw = mosaic_dng(np.clip(np.random.default_rng(0).normal(0.3, 0.03, (64, 96, 3)), 0, 1))
    (source / "a.cr2").write_bytes(raw)
    (source / "a.dng").write_bytes(raw)
    (source / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(picture()))
    words = ("denoise", "in", "-r", "--json")
    as_jpeg = place.run(*words, "-o", "jpg/", "--format", "jpg")
    assert as_jpeg.code == 0, as_jpeg.stderr
    assert sorted(contents(place.folder / "jpg")) == ["a.cr2.jpg", "a.dng.jpg", "a.jpg"]
    usual = place.run(*words, "-o", "usual/")
    assert usual.code == 0, usual.stderr
    assert sorted(contents(place.folder / "usual")) == ["a.cr2.dng", "a.dng", "a.jpg"]
    assert place.run(*words, "-o", "usual/", "--resume").events[-1]["kept"] == 3
