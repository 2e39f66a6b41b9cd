"""What a photographer reads the next morning: kbnet status."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from kbnet_cli.cli import status as command
from kbnet_cli.errors import InputError, OutputError, UsageError
from kbnet_cli.journal import NAME, Entry, Journal, Stamp, locked
from kbnet_cli.status import Status, status_of

app = typer.Typer()
app.command()(command.status)
COUNTS = {"done": 0, "kept": 0, "skipped": 0, "failed": 0}
posix = pytest.mark.skipif(os.name == "nt", reason="asks for POSIX")


def done(told: Journal, name: str, source: str = "", *, there: bool = True) -> None:
    """Promise an output of 2 megapixels, and put it there unless the promise is not kept."""
    stamp = Stamp(4, 1, "0" * 64)
    source_path = Path("/in") / (source or name)
    told.promise(Entry(told.folder / name, source_path, stamp, stamp, told.settings, (), megapixels=2.0, seconds=1.0))
    if there:
        (told.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (told.folder / name).write_bytes(b"done")


def failed(told: Journal, name: str, why: str = "cut off") -> None:
    told.failed(Path("/in") / name, told.folder / name, InputError(f"/in/{name}: {why}", hint="copy it again"))


def counts(found: Status) -> dict[str, object]:
    return {
        "done": found.done,
        "kept": found.kept,
        "skipped": found.skipped,
        "failed": len(found.failures),
        "left": found.left,
    }


def shown(folder: Path, *words: str) -> str:
    result = CliRunner().invoke(app, [str(folder), *words])
    assert result.exception is None
    return result.stdout


@pytest.fixture
def told(tmp_path: Path) -> Journal:
    """The journal of a run of ten photos without a lock."""
    return Journal(tmp_path / "out", {"strength": 1.0}, photos=10)


def spent(folder: Path, seconds: int) -> None:
    """Make the journal's last line that much later than its first."""
    *head, last = (json.loads(line) for line in (folder / NAME).read_text().splitlines())
    begun, ended = "2026-01-31T23:00:00.000+00:00", f"2026-01-31T23:00:{seconds:02d}.000+00:00"
    lines = [*(record | {"at": begun} for record in head), last | {"at": ended}]
    (folder / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))


# What the journal comes to


def test_each_photo_is_counted_once_as_what_became_of_it(told: Journal) -> None:
    done(told, "a.tif")
    done(told, "sub/b.tif")
    told.kept(told.folder / "c.tif")
    told.skipped(told.folder / "d.tif")
    failed(told, "e.tif")
    told.end(stopped=False, **COUNTS)
    spent(told.folder, 8)
    found = status_of(told.folder)
    assert counts(found) == {"done": 2, "kept": 1, "skipped": 1, "failed": 1, "left": 5}
    assert (found.state, found.photos, found.runs, found.photos_of_all_runs) == ("ended", 10, 1, 2)
    assert (found.megapixels, found.seconds, found.megapixels_a_second) == (4.0, 8.0, 0.5)
    assert found.settings == {"strength": 1.0}
    failure = found.failures[0]
    assert (failure.input, failure.output, failure.code) == (str(Path("/in/e.tif").absolute()), "e.tif", "input")
    assert (failure.message, failure.hint) == ("/in/e.tif: cut off", "copy it again")


def test_a_photo_that_failed_and_was_done_later_is_done(told: Journal) -> None:
    failed(told, "a.cr2")
    done(told, "a.dng", source="a.cr2")  # its ending was not settled when it failed
    assert counts(status_of(told.folder)) == {"done": 1, "kept": 0, "skipped": 0, "failed": 0, "left": 9}


def test_a_photo_that_was_promised_and_then_failed_has_failed(told: Journal) -> None:
    done(told, "a.tif")
    told.failed(Path("/in/a.tif"), told.folder / "a.tif", OutputError("a.tif: cannot be renamed"))
    found = status_of(told.folder)
    assert counts(found) == {"done": 0, "kept": 0, "skipped": 0, "failed": 1, "left": 9}
    assert found.megapixels == 0.0
    assert found.megapixels_a_second is None


def test_a_photo_that_fails_again_is_told_once_with_its_newest_reason(told: Journal) -> None:
    failed(told, "a.tif", "cut off")
    failed(told, "b.tif")
    failed(told, "a.tif", "is empty")
    assert [failure.message for failure in status_of(told.folder).failures] == [
        "/in/b.tif: cut off",
        "/in/a.tif: is empty",
    ]


def test_pictures_through_one_pipe_are_told_apart_by_their_outputs(told: Journal) -> None:
    for name in ("1.png", "2.png"):
        told.failed(Path("-"), told.folder / name, InputError("cut off"))
    assert len(status_of(told.folder).failures) == 2


def test_the_last_run_counts_and_older_failures_are_kept_apart(told: Journal) -> None:
    done(told, "a.tif")
    failed(told, "b.tif")
    failed(told, "c.tif")
    failed(told, "d.tif")
    again = Journal(told.folder, {}, photos=4)
    again.kept(told.folder / "a.tif")
    done(again, "b.tif")
    failed(again, "c.tif")
    found = status_of(told.folder)
    assert counts(found) == {"done": 1, "kept": 1, "skipped": 0, "failed": 1, "left": 1}
    assert [failure.output for failure in found.failures] == ["c.tif"]
    assert [failure.output for failure in found.earlier_failures] == ["d.tif"]
    assert (found.runs, found.photos_of_all_runs, found.photos) == (2, 2, 4)


def test_lines_of_a_run_beside_it_are_not_the_last_runs(told: Journal) -> None:
    beside = Journal(told.folder, {}, photos=2)
    done(told, "a.tif")
    failed(told, "b.tif")
    told.kept(told.folder / "k.tif")
    told.end(stopped=True, **COUNTS)
    done(beside, "c.tif")
    found = status_of(told.folder)
    assert counts(found) == {"done": 1, "kept": 0, "skipped": 0, "failed": 0, "left": 1}
    assert (found.state, found.photos_of_all_runs, len(found.earlier_failures)) == ("unfinished", 2, 1)


def test_what_is_left_is_unknown_where_photos_come_as_they_come(tmp_path: Path) -> None:
    done(Journal(tmp_path, {}, photos=None), "a.tif")
    found = status_of(tmp_path)
    assert (found.photos, found.left, found.seconds_left) == (None, None, None)
    assert "left     unknown" in " ".join(shown(tmp_path).split(" ")).replace("\n", " ")


def test_a_promise_that_a_killed_run_did_not_keep_is_left(told: Journal) -> None:
    done(told, "a.tif")
    done(told, "b.tif", there=False)
    assert counts(status_of(told.folder)) == {"done": 1, "kept": 0, "skipped": 0, "failed": 0, "left": 9}


def test_outputs_that_were_taken_away_after_the_end_were_done(told: Journal) -> None:
    done(told, "a.tif")
    told.end(stopped=False, **COUNTS)
    (told.folder / "a.tif").unlink()
    assert status_of(told.folder).done == 1


@pytest.mark.parametrize(
    "line",
    [
        '{"event":"photo","output":"x.tif","run":"?","megapixels":"many"}',
        '{"event":"failed"}',
        '{"event":"dreamt","at":"tomorrow"}',
        '{"event":"end","stopped":[],"run":"other"}',
        '{"event":["run"]}',
    ],
)
def test_odd_lines_do_no_harm(told: Journal, line: str) -> None:
    done(told, "a.tif")
    with told.path.open("a") as file:
        file.write(f"{line}\n{{\n")
    found = status_of(told.folder)
    assert (found.done, found.damaged) == (1, 1)
    assert "1 line cut off or damaged" in shown(told.folder)


@pytest.mark.parametrize("begin", ["", '{"event":"run"}\n', '{"event":"run","at":7,"photos":true,"settings":[]}\n'])
def test_a_run_that_says_little_is_told_all_the_same(tmp_path: Path, begin: str) -> None:
    (tmp_path / NAME).write_text(begin)
    found = status_of(tmp_path)
    assert (found.state, found.photos, found.seconds, dict(found.settings)) == ("unfinished", None, 0.0, {})
    assert "unknown" in shown(tmp_path)


# Whether it goes on

WORK = """
import os, signal, sys
from pathlib import Path
from kbnet_cli.journal import Entry, Journal, Stamp, locked

folder = Path(sys.argv[1])
with locked(folder):
    print("locked", flush=True)
    sys.stdin.readline()
    told = Journal(folder, {}, photos=3)
    stamp = Stamp(0, 0, "")
    told.promise(Entry(folder / "a", folder / "in", stamp, stamp, "", (), megapixels=1.0, seconds=1.0))
    (folder / "a").touch()
    print("told", flush=True)
    sys.stdin.readline()
    told.end(stopped=sys.argv[2] == "stopped", done=1, kept=0, skipped=0, failed=0)
"""


@pytest.fixture
def work(tmp_path: Path) -> "subprocess.Popen[str]":
    """A run that has the lock and one of three photos done, and goes on when it hears a line."""
    Journal(tmp_path / "out", {}, photos=7)
    words = [sys.executable, "-c", WORK, str(tmp_path / "out"), "stopped"]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def hear(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@posix
def test_a_run_is_starting_then_running_then_stopped(tmp_path: Path, work: "subprocess.Popen[str]") -> None:
    with work:
        assert hear(work) == "locked"
        starting = status_of(tmp_path / "out")
        assert (starting.state, starting.photos, starting.process) == ("starting", 7, work.pid)
        assert f"a run is starting (process {work.pid})" in shown(tmp_path / "out")
        go_on(work)
        assert hear(work) == "told"
        running = status_of(tmp_path / "out")
        assert (running.state, running.photos, running.process) == ("running", 3, work.pid)
        assert running.seconds_left is not None
        assert running.seconds_left == pytest.approx(2 * running.seconds)
        text = shown(tmp_path / "out")
        assert f"running now (process {work.pid})" in text
        assert "2, about " in text
        assert "--resume" not in text
        go_on(work)
    stopped = status_of(tmp_path / "out")
    assert (stopped.state, stopped.done, stopped.left) == ("stopped", 1, 2)
    text = shown(tmp_path / "out")
    assert "stopped by Ctrl-C or a signal" in text
    assert "go on with the same command and --resume" in text


@posix
def test_a_killed_run_is_told_as_killed(tmp_path: Path, work: "subprocess.Popen[str]") -> None:
    with work:
        hear(work)
        go_on(work)
        hear(work)
        work.send_signal(signal.SIGKILL)
    found = status_of(tmp_path / "out")
    assert (found.state, found.done, found.left, found.seconds_left) == ("killed", 1, 2, None)
    assert "killed, or the machine went down" in shown(tmp_path / "out")


def test_looking_leaves_the_folder_as_it_is(told: Journal) -> None:
    with locked(told.folder):
        before = {path.name: path.stat().st_mtime_ns for path in told.folder.iterdir()}
        status_of(told.folder)
        assert {path.name: path.stat().st_mtime_ns for path in told.folder.iterdir()} == before


# How it looks


def test_the_table_tells_all_of_a_night(told: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    for number in range(7):
        done(told, f"{number}.tif")
    for number in range(2):
        failed(told, f"bad{number}.tif")
    told.kept(told.folder / "k.tif")
    told.end(stopped=False, **COUNTS)
    spent(told.folder, 28)
    rows = [line.rstrip() for line in shown(told.folder).splitlines()]
    assert [row.split()[0] for row in rows[:8]] == [
        "state", "started", "photos", "done", "kept", "failed", "left", "speed",
    ]  # fmt: skip
    assert rows[4].split(None, 1) == ["kept", "1 done before"]
    assert rows[7].split(None, 1) == ["speed", "0.5 MP/s: 14.0 megapixels in 28 s"]
    assert rows[8:] == [
        "",
        "failed:",
        "/in/bad0.tif: cut off",
        "/in/bad1.tif: cut off",
        "",
        "→ try the failed ones again with the same command and --resume",
    ]


def test_all_done_needs_no_hint(tmp_path: Path) -> None:
    told = Journal(tmp_path, {}, photos=1)
    done(told, "a.tif")
    told.end(stopped=False, **COUNTS)
    assert "→" not in shown(tmp_path)
    assert "failed:" not in shown(tmp_path)


def test_many_failures_are_cut_in_the_table_and_whole_in_json(told: Journal) -> None:
    for number in range(1020):
        failed(told, f"{number:04}.tif")
    Journal(told.folder, {}, photos=1).failed(Path("/in/x.tif"), None, InputError("cut off"))
    text = shown(told.folder)
    assert "/in/x.tif: cut off" in text  # its name was not said
    assert "failed before, and not done since:" in text
    assert "/in/0019.tif: cut off" in text
    assert "/in/0020.tif" not in text
    assert "and 1,000 more, all with --json" in text
    assert len(json.loads(shown(told.folder, "--json"))["earlier_failures"]) == 1020


def test_json_is_one_object(told: Journal) -> None:
    done(told, "a.tif")
    failed(told, "b.tif")
    told.end(stopped=False, **COUNTS)
    spent(told.folder, 4)
    text = shown(told.folder, "--json")
    assert text.count("\n") == 1
    found = json.loads(text)
    expected = {
        "event": "status",
        "folder": str(told.folder),
        "state": "ended",
        "started": "2026-01-31T23:00:00+00:00",
        "last": "2026-01-31T23:00:04+00:00",
        "seconds": 4.0,
        "photos": 10,
        "done": 1,
        "kept": 0,
        "skipped": 0,
        "failed": 1,
        "left": 8,
        "megapixels": 2.0,
        "megapixels_a_second": 0.5,
        "seconds_left": None,
        "earlier_failures": [],
        "runs": 1,
        "photos_of_all_runs": 1,
        "damaged": 0,
        "settings": {"strength": 1.0},
        "process": os.getpid(),
    }
    assert {key: found[key] for key in expected} == expected
    assert set(found) == {*expected, "version", "failures"}
    assert found["failures"][0]["message"] == "/in/b.tif: cut off"


def test_names_cannot_move_the_cursor(told: Journal) -> None:
    failed(told, "a\x1b[2J\n.tif")
    text = shown(told.folder)
    assert "\x1b" not in text
    assert "a\\x1b[2J\\n.tif: cut off" in text


# Where there is none


def test_a_folder_without_a_journal_is_told_with_a_way_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        status_of(tmp_path / "missing")
    (tmp_path / "a.jpg").touch()
    with pytest.raises(UsageError, match=r"a\.jpg: is a file, expected a folder"):
        status_of(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="has no journal") as caught:
        status_of(tmp_path)
    assert "-o" in caught.value.hint
    Journal(tmp_path, {}, photos=1)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    with pytest.raises(UsageError, match="its runs wrote into") as caught:
        status_of(tmp_path / "deep" / "er")
    assert caught.value.hint == f"kbnet status {tmp_path}"
    assert caught.value.exit_code == 2


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(UsageError, match="the journal cannot be read"):
        status_of(tmp_path)
