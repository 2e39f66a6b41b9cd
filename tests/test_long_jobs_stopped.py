"""Jobs that are stopped by a signal: at the first what is in hand is finished, at the second nothing."""

import io
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kbnet_cli import console
from kbnet_cli.errors import InputError
from kbnet_cli.folder_lock import LOCK
from kbnet_cli.formats.raw import reader
from kbnet_cli.journal import NAME
from kbnet_cli.stopping import heeding
from tests.mosaics import mosaic_dng
from tests.pictures import write_picture
from tests.processes import children

if sys.platform == "win32":
    pytest.skip("signals, forks and small disks are POSIX's", allow_module_level=True)

from tests.launching import Launcher, Run
from tests.long_jobs import Bytes, Tail, Undisturbed, contents, events, quiet_run


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


def test_stopped_by_signals_and_resumed_to_the_same_tree(place: Launcher, undisturbed: Undisturbed) -> None:
    out = place.folder / "out"
    words = ("denoise", undisturbed.folder, "-r", "-o", "out/", "--resume", "--json")
    photos = sum(each.kind != "other" for each in undisturbed.planted)
    for numbers, code, said in (
        ((signal.SIGINT,), 130, "interrupted"),
        ((signal.SIGTERM,), 143, "terminated"),
        ((signal.SIGHUP,), 129, "terminated"),
        ((signal.SIGINT, signal.SIGINT), 130, None),
        ((signal.SIGTERM, signal.SIGTERM), 143, None),
        ((signal.SIGINT, signal.SIGTERM), 143, None),
    ):
        tail = Tail(out)
        run = place.start(*words)
        assert run.until(partial(tail.has, "photo", 8))
        for number in numbers:
            run.send(number)
            if number != numbers[-1]:
                run.until(run.was_asked)
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
            run.until(run.was_asked)
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


def test_whoever_was_stopped_is_not_at_the_mercy_of_python_s_end(place: Launcher) -> None:
    """One more Ctrl-C would be a traceback there, of torch's or of threading's."""
    (place.folder / "in").mkdir()
    write_picture(place.folder / "in" / "a.png")
    program = "import atexit; atexit.register(print, 'Python ends'); from kbnet_cli.cli import main; main()"
    words = ("denoise", "--watch", "in", "-o", "out/", "--json", "-w", str(place.weights))
    with subprocess.Popen([sys.executable, "-c", program, *words], cwd=place.folder, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert b'"done"' in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        (summary,) = run.stdout.read().splitlines()
    assert run.returncode == 130
    assert b'"stopped": "interrupted"' in summary


def test_what_follows_may_work_in_the_same_folder(place: Launcher) -> None:
    (place.folder / "in").mkdir()
    for name in ("a.png", "b.png"):
        write_picture(place.folder / "in" / name)
    words = ("-m", "kbnet_cli", "denoise", "in", "-r", "-o", "out/", "-w", str(place.weights))
    kbnet = shlex.join([sys.executable, *words])
    run = place.run("denoise", "in", "-r", "-o", "out/", "--then", f"{kbnet} --resume --json")
    assert run.code == 0, run.stderr
    assert (run.events[-1]["kept"], run.events[-1]["done"]) == (2, 0)
    assert not (place.folder / "out" / LOCK).exists()


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


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_before_a_child_has_its_own_session_is_made_good_once(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def start(*words: Any, **named: Any) -> "subprocess.Popen[bytes]":
        process = popen(*words, **named)
        started.append(process.pid)
        if len(started) <= times:
            process.send_signal(signal.SIGINT)
        return process

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", start)
    data = mosaic_dng(np.full((64, 96, 3), 0.3))
    if times == 1:
        assert reader.decode(data).size == (64, 96)
    else:
        with pytest.raises(InputError, match="LibRaw gave up on the raw file: "):
            reader.decode(data)
    assert len(started) == 2
