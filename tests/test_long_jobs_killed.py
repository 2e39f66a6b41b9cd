"""Jobs that are killed, run out of disk or meet each other: nothing is half-written, and all is done once."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from kbnet_cli.folder_lock import LOCK
from kbnet_cli.journal import NAME
from tests.pictures import write_picture

if sys.platform == "win32":
    pytest.skip("signals, forks and small disks are POSIX's", allow_module_level=True)

from tests.launching import Launcher
from tests.long_jobs import Tail, Undisturbed, contents, events, identity, quiet_run


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


# Killed.


@pytest.mark.parametrize(("kills", "seed"), [(5, 1), pytest.param(50, 2, marks=pytest.mark.slow)])
def test_killed_at_any_moment_and_resumed_all_is_done_once(
    kills: int, seed: int, place: Launcher, undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kills > 5:
        undisturbed = quiet_run(tmp_path_factory.mktemp("more"), place.weights, 600)
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
        assert run.until(partial(tail.has, "photo", after)), (
            f"seed {seed}: the run ended before kill {kill}: {run.stderr}"
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


def partials(folder: Path) -> set[str]:
    return {path.name for path in folder.glob(".kbnet-*.partial")}


def new_partial(folder: Path, before: set[str]) -> bool:
    return bool(partials(folder) - before)


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
        if run.until(partial(new_partial, out, partials(out))):
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
    into = ("-o", f"{out}/")

    full = place.run(*words, *into, file_bytes=small_disk.file_bytes)
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

    again = place.run(*words, *into, "--resume", file_bytes=small_disk.file_bytes)
    assert again.code in (1, 2), "still full"
    assert contents(out).items() <= whole.items()
    small_disk.make_room()
    last = place.run(*words, *into, "--resume")
    assert last.code == 0, last.stderr
    assert last.events[-1]["kept"] >= done
    assert contents(out) == whole
    status = place.run("status", out, "--json").events[0]
    assert [status[key] for key in ("state", "failed", "left")] == ["ended", 0, 0]


def test_no_room_for_the_journal_itself_is_told_before_anything_is_done(place: Launcher) -> None:
    write_picture(place.folder / "1.png")
    write_picture(place.folder / "2.png")
    out = place.folder / "out"
    out.mkdir()
    (out / NAME).write_bytes(b'{"event":"kept","output":"older.png"}\n' * 1000)
    words = ("denoise", "1.png", "2.png", "-o", "out/", "--json")
    full = (out / NAME).stat().st_size + 1
    begun = place.run(*words, file_bytes=full)
    assert begun.code == 2
    assert "the journal cannot be read and written: File too large" in begun.stderr
    assert begun.stderr.splitlines()[-1].startswith("hint: make the folder writable or make room")
    assert contents(out) == {}
    # It begins, but not each promise can be written: what is not in the journal must not be there.
    promised = place.run(*words, file_bytes=full + 1500)
    failed = promised.events[-1]["failed"]
    assert promised.code == 1
    assert failed >= 1, "there was room"
    assert promised.stderr.count(f"{NAME}: cannot be written: File too large") == failed
    assert promised.stderr.count("hint: ") == failed
    assert len(contents(out)) == 2 - failed
    assert contents(out).keys() == {record["output"] for record in events(out, "photo")}
    assert place.run(*words, "--resume").code == 0
    assert contents(out).keys() == {"1.png", "2.png"}
    assert len(events(out, "photo")) == 2


# Two at once.


def test_a_second_run_on_a_folder_says_so_and_touches_nothing(place: Launcher, undisturbed: Undisturbed) -> None:
    out = place.folder / "out"
    words = ("denoise", undisturbed.folder, "-r", "--json")
    tail = Tail(out)
    first = place.start(*words, "-o", "out/")
    assert first.until(partial(tail.has, "photo", 5))
    first.send(signal.SIGSTOP)  # it holds still, in the midst of it
    assert first.until(partial(stands_still, first.pid))
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


def stands_still(process: int) -> bool:
    """Tell whether all threads of a process have stopped, which takes a moment; where nobody can tell, yes."""
    try:
        lines = [path.read_text() for path in Path(f"/proc/{process}/task").glob("*/stat")]
    except OSError:
        return False  # one has just ended
    return all(line.rpartition(")")[2].split()[0] == "T" for line in lines)


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
