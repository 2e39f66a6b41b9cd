"""Jobs of many photos that are killed, stopped, run out of disk, are started twice, and go on: all is done once, whole."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile

from kbnet_cli import console
from kbnet_cli.console import one_line
from kbnet_cli.folder_lock import LOCK
from kbnet_cli.formats import codec
from kbnet_cli.journal import NAME
from kbnet_cli.stopping import heeding
from tests.mosaics import mosaic_dng
from tests.networks import random_network, save
from tests.pictures import picture, write_picture

if sys.platform == "win32":
    pytest.skip("signals, forks and small disks are POSIX's", allow_module_level=True)

from tests.launching import Launcher, Run
from tests.trees import Planted, plant

Bytes = dict[str, bytes]


@pytest.fixture
def place(tmp_path: Path, random_weights: Path) -> Iterator[Launcher]:
    """A folder of its own, and runs of kbnet in it."""
    launcher = Launcher(tmp_path, random_weights)
    yield launcher
    launcher.close()


@dataclass(frozen=True)
class Undisturbed:
    """A tree, and what one quiet run made of it."""

    folder: Path
    planted: list[Planted]
    outputs: Bytes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, random_weights: Path) -> Undisturbed:
    """120 pictures, 4 of them broken."""
    return quiet_run(tmp_path_factory.mktemp("undisturbed"), random_weights, 120)


def quiet_run(folder: Path, weights: Path, count: int) -> Undisturbed:
    planted = plant(folder / "in", count)
    done = Launcher(folder, weights).run("denoise", "in", "-r", "-o", "out/", "--json")
    assert done.code == 1, done.stderr
    outputs = contents(folder / "out")
    assert outputs.keys() == {each.output for each in planted if each.kind == "good"}
    return Undisturbed(folder / "in", planted, outputs)


def contents(folder: Path) -> Bytes:
    """Return everything in a folder but the journal."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path != folder / NAME}


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal that are whole, which all are but one that a kill has cut off."""
    if not (folder / NAME).exists():
        return []
    found = []
    for line in (folder / NAME).read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in journal(folder) if record["event"] == event]


class Tail:
    """What is added to a journal from now on, without reading again what was there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._at = self._path.stat().st_size if self._path.exists() else 0
        self._seen = b""

    def count(self, event: str) -> int:
        """Return how many lines of an event there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                more = file.read()
            self._at += len(more)
            self._seen += more
        return self._seen.count(f'"event":"{event}"'.encode())


# A tree of many small pictures.


@pytest.mark.parametrize("count", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_tree_with_broken_pictures_is_done_whole_and_exactly_in_steady_memory(
    count: int, tmp_path: Path, identity_weights: Path
) -> None:
    planted = plant(tmp_path / "in", count)
    good = {each.output: each for each in planted if each.kind == "good"}
    broken = {f"{tmp_path}/in/{each.below}" for each in planted if each.kind == "broken"}
    words = [sys.executable, "-m", "kbnet_cli", "denoise", f"{tmp_path}/in", "-r", "-o", f"{tmp_path}/out/", "--json"]
    said, peaks = [], {}
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
    print({number: peaks[number] // 1_000_000 for number in (100, 200, 300, 500, 1000, 2000) if number in peaks})
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


def peak_bytes(process: int) -> int:
    """Return the most memory a process has held so far; 0 where the system does not tell, or it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


# Killed.


@pytest.mark.parametrize(("kills", "seed"), [(5, 1), pytest.param(50, 2, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_all_is_done_once(
    kills: int, seed: int, place: Launcher, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kills > 5:
        undisturbed = quiet_run(tmp_path_factory.mktemp("more"), place.weights, 600)
    print(f"seed {seed}")  # shown if it fails
    luck = random.Random(seed)
    out = place.folder / "out"
    words = ("denoise", undisturbed.folder, "-r", "-o", "out/", "--resume", "--json")
    each = 1.4 * len(undisturbed.outputs) / kills  # so that the last kills still find work
    promised_in_vain: Counter[str] = Counter()
    settled: dict[str, tuple[int, int]] = {}
    leftovers = 0
    for kill in range(kills):
        tail = Tail(out)
        run = place.start(*words)
        after = round(luck.random() * each)
        assert run.until(lambda tail=tail, after=after: tail.count("run") and tail.count("photo") >= after), (
            f"the run ended before kill {kill}: {run.stderr}"
        )
        time.sleep(luck.random() * 0.03)  # within a photo
        run.kill()
        assert run.code == -signal.SIGKILL
        present = {name: data for name, data in contents(out).items() if "/.kbnet-" not in f"/{name}"}
        leftovers += len(contents(out)) - len(present)
        for name, data in present.items():
            assert data == undisturbed.outputs[name], f"{name} is not whole"
        promised = Counter(record["output"] for record in events(out, "photo"))
        assert present.keys() <= promised.keys()
        for name in promised.keys() - present.keys():
            promised_in_vain[name] = promised[name]
        for name, known in settled.items():
            assert identity(out / name) == known, f"{name} was done twice"
        settled = {name: identity(out / name) for name in present}
    assert leftovers, "a killed run leaves its lock at least"
    run = place.run(*words)
    assert run.code == 1
    assert contents(out) == undisturbed.outputs
    assert {name: identity(out / name) for name in settled} == settled
    for name, times in Counter(record["output"] for record in events(out, "photo")).items():
        assert times == promised_in_vain[name] + 1, f"{name} was done twice"
    assert run.events[-1]["kept"] >= len(settled)
    before = len(events(out, "photo"))
    again = place.run(*words)
    assert (again.code, again.events[-1]["kept"], again.events[-1]["done"]) == (1, len(undisturbed.outputs), 0)
    assert len(events(out, "photo")) == before


def identity(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again, even with the same content."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_killed_while_large_outputs_are_written(extension: str, place: Launcher) -> None:
    folder = place.folder / "in"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):  # noise, so that there is much to write
        pixels = generator.integers(0, 65536, (700, 1000, 3), dtype=np.uint16)
        tifffile.imwrite(folder / f"{number}.tif", pixels if extension == "png" else (pixels >> 8).astype(np.uint8))
    words = ("denoise", "in", "-r", "--strength", "0", "--format", extension, "--quality", "100", "--json")
    assert place.run(*words, "-o", "whole/").code == 0
    whole = contents(place.folder / "whole")
    out = place.folder / "out"
    luck = random.Random(3)
    torn = 0
    for _ in range(4):
        run = place.start(*words, "-o", "out/", "--resume")
        before = {path.name for path in out.glob(".kbnet-*.partial")} if out.exists() else set()
        if run.until(lambda before=before: {path.name for path in out.glob(".kbnet-*.partial")} - before):
            time.sleep(luck.random() * 0.004)
            run.kill()
        found = contents(out)
        torn += sum(name.endswith(".partial") for name in found)
        assert all(data == whole[name] for name, data in found.items() if not name.startswith(".kbnet-"))
    assert torn, "no kill came while something was written"
    last = place.run(*words, "-o", "out/", "--resume")
    assert last.code == 0, last.stderr
    assert contents(out) == whole


# A full disk.


@dataclass
class SmallDisk:
    """A folder that holds only so much."""

    folder: Path
    file_bytes: int | None
    """Where no small disk can be mounted, files may not be longer than this."""

    def make_room(self) -> None:
        if self.file_bytes is None:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self.folder)], check=True)
        self.file_bytes = None

    def fill(self) -> None:
        """Leave no room at all."""
        with (self.folder / "filling").open("wb", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue


@pytest.fixture(params=["mounted", "limited"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limited":
        yield SmallDisk(folder, 64 * 1024)
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=640k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no small disk can be mounted here: {error}")
    yield SmallDisk(folder, None)
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_fails_photos_clearly_and_resume_completes(small_disk: SmallDisk, place: Launcher) -> None:
    source = place.folder / "in"
    source.mkdir()
    for number in range(16):
        # Noise of 16 bits does not get smaller: 20 to 110 KB each.
        size = 60 + 5 * number
        noise = np.random.default_rng(number).integers(0, 65536, (size, size, 3), dtype=np.uint16)
        (source / f"{number}.png").write_bytes(imagecodecs.png_encode(noise))
    words = ("denoise", "in", "-r", "--json", "--strength", "0")
    assert place.run(*words, "-o", "whole/").code == 0
    whole = contents(place.folder / "whole")
    out = small_disk.folder / "out"
    words = (*words, "-o", f"{out}/")

    full = place.run(*words, file_bytes=small_disk.file_bytes)
    assert full.code == 1
    summary = full.events[-1]
    done, failed = summary["done"], summary["failed"]
    assert done > 0
    assert failed > 0
    assert done + failed == len(whole)
    found = contents(out)
    assert len(found) == done
    assert all(data == whole[name] for name, data in found.items())
    lines = full.stderr.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == failed
    for number in errors:
        assert (
            "cannot be written: No space left" in lines[number] or "cannot be written: File too large" in lines[number]
        )
        assert "space" in lines[number + 1] or "room" in lines[number + 1], lines[number + 1]
    assert "Traceback" not in full.stderr

    again = place.run(*words, "--resume", file_bytes=small_disk.file_bytes)
    assert again.code in (1, 2), "still full"
    assert contents(out).items() <= whole.items()
    small_disk.make_room()
    last = place.run(*words, "--resume")
    assert last.code == 0, last.stderr
    assert last.events[-1]["kept"] >= done
    assert contents(out) == whole
    status = place.run("status", out, "--json").events[0]
    assert [status[key] for key in ("state", "failed", "left")] == ["ended", 0, 0]


def test_no_room_for_the_journal_itself_is_told_before_anything_is_done(place: Launcher) -> None:
    write_picture(place.folder / "1.png")
    write_picture(place.folder / "2.png")
    done = place.run("denoise", "1.png", "2.png", "-o", "out/", file_bytes=600)  # enough for what stderr says
    assert done.code == 2
    assert "the journal cannot be read and written" in done.stderr
    assert contents(place.folder / "out") == {}
    assert place.run("denoise", "1.png", "2.png", "-o", "out/").code == 0
    assert len(events(place.folder / "out", "photo")) == 2


# Two at once.


def test_a_second_run_on_a_folder_says_so_and_touches_nothing(place: Launcher, undisturbed: Undisturbed) -> None:
    out = place.folder / "out"
    words = ("denoise", undisturbed.folder, "-r", "--json")
    tail = Tail(out)
    first = place.start(*words, "-o", "out/")
    assert first.until(lambda: tail.count("photo") >= 5)
    first.send(signal.SIGSTOP)  # it holds still, in the midst of it
    (place.folder / "link").symlink_to("out")
    before = contents(out), (out / NAME).read_bytes()
    for output, more in (("out/", "--resume"), ("link/", "--resume"), ("out/", "--overwrite")):
        second = place.run(*words, "-o", output, more)
        assert second.code == 2
        assert f"another kbnet (process {first.pid}, since " in second.stderr
        assert second.stderr.splitlines()[-1].startswith("hint: ")
        assert second.stdout == ""
    status = place.run("status", out, "--json").events[0]
    assert (status["state"], status["process"]) == ("running", first.pid)
    assert (contents(out), (out / NAME).read_bytes()) == before
    first.kill()
    assert (out / LOCK).exists()
    next_one = place.run(*words, "-o", "out/", "--resume")
    assert next_one.code == 1, next_one.stderr
    assert contents(out) == undisturbed.outputs


def test_calls_that_name_their_photos_share_a_folder(place: Launcher) -> None:
    names = [f"{number}.png" for number in range(30)]
    for name in names:
        write_picture(place.folder / name)
    runs = [place.start("denoise", *names[at : at + 10], "-o", "out/", "--json") for at in (0, 10, 20)]
    assert [run.end() for run in runs] == [0, 0, 0]
    out = place.folder / "out"
    assert sorted(contents(out)) == sorted(names)
    lines = [json.loads(line) for line in (out / NAME).read_bytes().splitlines()]
    assert Counter(line["event"] for line in lines) == {"run": 3, "photo": 30, "end": 3}
    assert sorted(line["output"] for line in lines if line["event"] == "photo") == sorted(names)
    again = place.run("denoise", *names, "-o", "out/", "--resume", "--json")
    assert (again.code, again.events[-1]["kept"]) == (0, 30)


# Stopped.


def test_stopped_by_signals_and_resumed_to_the_same_tree(place: Launcher, undisturbed: Undisturbed) -> None:
    out = place.folder / "out"
    words = ("denoise", undisturbed.folder, "-r", "-o", "out/", "--resume", "--json")
    photos = sum(each.kind != "other" for each in undisturbed.planted)
    for numbers, code, said in (
        ((signal.SIGINT,), 130, "interrupted"),
        ((signal.SIGTERM,), 143, "terminated"),
        ((signal.SIGINT, signal.SIGINT), 130, None),
        ((signal.SIGTERM, signal.SIGTERM), 143, None),
        ((signal.SIGINT, signal.SIGTERM), 143, None),
    ):
        tail = Tail(out)
        run = place.start(*words)
        assert run.until(lambda tail=tail: tail.count("photo") >= 8)
        for number in numbers:
            run.send(number)
            if number != numbers[-1]:
                run.until(lambda run=run: "stopping when" in run.stderr)
        assert run.end(30) == code, run.stderr
        assert "Traceback" not in run.stderr
        found = contents(out)
        assert found.items() <= undisturbed.outputs.items(), "nothing half-written, and no lock"
        if said is None:
            continue
        summary = run.events[-1]
        assert summary["stopped"] == said
        told = sum(summary[key] for key in ("done", "kept", "skipped", "failed"))
        assert told + summary["left"] == photos
        assert summary["left"] > 0
        assert summary["done"] + summary["kept"] == len(found), "what is there was told of"
        assert len(run.events) == told + 1
        assert events(out, "end")[-1]["stopped"]
        status = place.run("status", out, "--json").events[0]
        assert (status["state"], status["left"]) == ("stopped", summary["left"])
    last = place.run(*words)
    assert last.code == 1
    assert contents(out) == undisturbed.outputs
    assert (last.events[-1]["stopped"], last.events[-1]["left"]) == (None, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_photo_in_the_network_is_finished_at_the_first_signal_and_left_at_the_second(
    number: signal.Signals, place: Launcher
) -> None:
    # With two in hand the third begins only where the second, a large one, is in the network, and holds up the rest.
    sizes = [(16, 16), (500, 700), (16, 16), (500, 700), (16, 16), (16, 16)]
    for at, size in enumerate(sizes):
        write_picture(place.folder / f"{at}.png", size=size)
    words = ("denoise", *(f"{at}.png" for at in range(len(sizes))), "--json", "--jobs", "2")

    def stopped(output: str, times: int) -> tuple[Run, Bytes]:
        run = place.start(*words, "-o", f"{output}/")
        assert run.until((place.folder / output / "2.png").exists)
        for _ in range(times):
            run.send(number)
            run.until(lambda: "stopping when" in run.stderr)
        assert run.end(60) == 128 + number
        assert "Traceback" not in run.stderr
        return run, contents(place.folder / output)

    run, found = stopped("once", 1)
    assert {"0.png", "1.png", "2.png"} <= found.keys()
    assert not {"4.png", "5.png"} & found.keys()
    assert [event["output"] for event in run.events[:-1]] == [f"once/{name}" for name in sorted(found)]
    assert run.events[-1]["left"] == len(sizes) - len(found)
    run, found = stopped("twice", 2)
    assert found.keys() == {"0.png", "2.png"}, "it did not stop at once"


def test_ctrl_c_while_something_is_printed_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    class Stderr(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            if data == b"hello\n":
                signal.raise_signal(signal.SIGINT)
            return len(data)

    def ask() -> None:
        console.note("stopping")
        asked.set()

    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Stderr()), line_buffering=True))
    with heeding(ask) as signals:
        console.note("hello")
        assert asked.wait(10)
    assert signals.exit_code == 130


def test_one_photo_alone_stops_at_the_first_signal(place: Launcher) -> None:
    write_picture(place.folder / "a.png", size=(1500, 2000))
    run = place.start("denoise", "a.png", "-o", "b.png")
    assert run.until(lambda: "on cpu" in run.stderr)
    run.send(signal.SIGINT)
    assert run.end(30) == 130
    assert "Traceback" not in run.stderr
    assert sorted(path.suffix for path in place.folder.glob("*.p*")) == [".png"]


@pytest.mark.parametrize(
    "words", [("-", "-o", "b.png"), ("-", "--stream", "-o", "out/"), ("--watch", "in", "-o", "out/")]
)
def test_ctrl_c_ends_what_only_waits(words: tuple[str, ...], place: Launcher) -> None:
    (place.folder / "in").mkdir()
    pipe = place.folder / "pipe"
    os.mkfifo(pipe)
    watches = "--watch" in words
    run = place.start("denoise", *words, stdin=None if watches else pipe)
    # Opened once the run reads from it; nothing is ever written, and it stays open.
    descriptor = None if watches else os.open(pipe, os.O_WRONLY)
    assert run.until(lambda: "on cpu" in run.stderr)
    if watches:
        assert run.until((place.folder / "out" / NAME).exists)
    run.send(signal.SIGINT)
    assert run.end(20) == 130
    assert "Traceback" not in run.stderr
    assert not (place.folder / "b.png").exists()
    assert contents(place.folder / "out") == {}
    if descriptor is not None:
        os.close(descriptor)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's list of a process's children")
def test_ctrl_c_of_a_terminal_does_not_fail_a_raw_file_in_hand(place: Launcher) -> None:
    source = place.folder / "in"
    source.mkdir()
    light = np.clip(np.random.default_rng(0).normal(0.3, 0.03, (64, 96, 3)), 0, 1)
    for number in range(6):
        (source / f"{number}.cr2").write_bytes(mosaic_dng(light))
    words = ("denoise", "in", "-r", "-o", "out/", "--format", "tif", "--json")
    run = place.start(*words)
    assert run.until(lambda: children(run.pid))
    run.send(signal.SIGINT, group=True)
    assert run.end(30) == 130
    summary = run.events[-1]
    assert (summary["stopped"], summary["failed"]) == ("interrupted", 0), run.stderr
    assert summary["left"] > 0
    last = place.run(*words, "--resume")
    assert last.code == 0, last.stderr
    assert len(contents(place.folder / "out")) == 6


def children(process: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            found += task.read_text().split()
        except OSError:
            continue
    return found


# What is done again.


def test_exactly_what_changed_is_done_again(place: Launcher, identity_weights: Path) -> None:
    source, out = place.folder / "in", place.folder / "out"
    (source / "b").mkdir(parents=True)
    names = [f"{number}.png" for number in range(4)] + [f"b/{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        (source / name).write_bytes(imagecodecs.png_encode(picture(24, 32, seed=number)))
    weights = place.folder / "weights.safetensors"
    shutil.copy(place.weights, weights)
    words = ["denoise", "in", "-r", "-o", "out/", "-w", weights, "--json", "--resume"]

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
    for megabytes in (1000, 1500):
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
        print(megabytes, peak // 1_000_000)
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
