"""What is done already survives processes that die, lines that are cut, and names of any kind."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet_cli.errors import InputError, OutputError, UsageError
from kbnet_cli.folder_lock import LOCK, holder
from kbnet_cli.journal import NAME, Entry, Journal, Stamp, Used, digest, locked, remove_stale_partials
from kbnet_cli.journal_entry import lines

SETTINGS = {"strength": 1.0, "format": "tif", "tile": None}
posix = pytest.mark.skipif(os.name == "nt", reason="asks for POSIX")
not_as_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")


def journal(folder: Path, **settings: object) -> Journal:
    return Journal(folder, SETTINGS | settings, photos=3)


def write(path: Path, data: bytes) -> Stamp:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Stamp.of(data, path.stat())


def entry(folder: Path, name: str = "a.tif", content: bytes = b"restored", settings: str = "0" * 16) -> Entry:
    return Entry(
        output=folder.absolute() / name,
        source=folder.absolute().parent / "in" / "a.jpg",
        input=Stamp(3, 123456789012345678, "1" * 64),
        result=write(folder / name, content),
        settings=settings,
        weights=(Used("one", "2" * 64), Used("two", "3" * 64)),
        megapixels=0.25,
        seconds=1.5,
    )


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / NAME).read_bytes().splitlines() if line]


def spawn(code: str, *words: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def heard(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


HOLD = """
import sys
from pathlib import Path
from kbnet_cli.journal import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock on the folder `out` until its standard input ends."""
    with spawn(HOLD, tmp_path / "out") as process:
        assert heard(process) == "held"
        yield process
        process.kill()


# What is promised is found again


def test_what_was_promised_is_found_by_the_next_run_and_by_this_one(tmp_path: Path) -> None:
    made = entry(tmp_path / "out", "deep/er/a.tif")
    first = journal(tmp_path / "out")
    assert first.entry(made.output) is None
    first.promise(made)
    assert first.entry(made.output) == made
    assert journal(tmp_path / "out").entry(made.output) == made
    assert journal(tmp_path / "out").entry(tmp_path / "out" / "a.tif") is None


def test_a_promise_made_before_anything_was_asked_is_found_as_well(tmp_path: Path) -> None:
    made = entry(tmp_path)
    only = journal(tmp_path)
    only.promise(made)
    assert list(only.entries(made.output)) == [made]


def test_the_newest_promise_comes_first_and_the_one_that_was_kept_is_present(tmp_path: Path) -> None:
    old = entry(tmp_path, content=b"old")
    # As after a kill between the promise and the rename: what lies there is still the old output.
    promised = replace(old, result=Stamp(3, 1, "4" * 64), settings="f" * 16)
    first = journal(tmp_path)
    first.promise(old)
    first.promise(promised)
    for again in (first, journal(tmp_path)):
        assert list(again.entries(old.output)) == [promised, old]
        assert again.entry(old.output) == promised
        assert again.present(old.output) == old
    old.output.write_bytes(b"new")
    assert first.present(old.output) is None


def test_a_folder_that_is_moved_keeps_its_journal(tmp_path: Path) -> None:
    made = entry(tmp_path / "out", "sub/a.tif")
    journal(tmp_path / "out").promise(made)
    (tmp_path / "out").rename(tmp_path / "moved")
    found = journal(tmp_path / "moved").entry(tmp_path / "moved" / "sub" / "a.tif")
    assert found == replace(made, output=tmp_path / "moved" / "sub" / "a.tif")


@posix
def test_a_folder_is_the_same_by_another_way_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = entry(tmp_path / "out", "sub/a.tif")
    journal(tmp_path / "out").promise(made)
    (tmp_path / "link").symlink_to("out")
    assert journal(tmp_path / "out").entry(tmp_path / "link" / "sub" / "a.tif") == made
    assert journal(tmp_path / "out").entry(tmp_path / "out" / ".." / "out" / "sub" / "a.tif") == made
    monkeypatch.chdir(tmp_path)
    assert journal(Path("out")).entry(Path("out/sub/a.tif")) == made


def test_outputs_stand_relative_with_slashes_and_inputs_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journal(tmp_path / "out").promise(replace(entry(tmp_path / "out", "sub/a.tif"), source=Path("in/a.jpg")))
    journal(tmp_path / "out").failed(Path("-"), None, InputError("standard input: is empty"))
    photo, failed = records(tmp_path / "out")[1], records(tmp_path / "out")[3]
    assert photo["output"] == "sub/a.tif"
    assert photo["input"] == str(tmp_path / "in" / "a.jpg")
    assert (failed["input"], failed["output"]) == ("-", None)


@posix
@settings(max_examples=40, deadline=None)
@given(
    name=st.binary(min_size=1, max_size=80).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))
)
def test_every_name_survives(name: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    path, stamp = folder / os.fsdecode(name), Stamp(0, 0, "")
    made = Entry(path, path, stamp, stamp, "", (), megapixels=1.0, seconds=1.0)
    journal(folder).promise(made)
    found = journal(folder).entry(path)
    assert found == made
    assert os.fsencode(found.output.name) == name
    assert (folder / NAME).read_bytes().isascii()


@settings(max_examples=40, deadline=None)
@given(name=st.text(min_size=1).filter(lambda name: not {"\0", "/", "\\"} & set(name) and name not in (".", "..")))
def test_every_name_in_any_script_survives(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("names")
    stamp = Stamp(0, 0, "")
    made = Entry(folder / name, folder / name, stamp, stamp, "", (), megapixels=1.0, seconds=1.0)
    journal(folder).promise(made)
    assert journal(folder).entry(folder / name) == made


# What it says of a run


def test_a_run_is_told_from_its_begin_to_its_end(tmp_path: Path) -> None:
    with locked(tmp_path / "out"):
        told = journal(tmp_path / "out")
        told.kept(tmp_path / "out" / "b.tif")
        told.skipped(tmp_path / "out" / "c.tif")
        told.failed(tmp_path / "d.jpg", tmp_path / "out" / "d.tif", InputError("d.jpg: cut off", hint="copy it"))
        told.end(stopped=True, done=0, kept=1, skipped=1, failed=1)
    run, kept, skipped, failed, end = records(tmp_path / "out")
    assert next(iter(run)) == "event"
    assert (run["event"], run["photos"], run["settings"], run["digest"]) == ("run", 3, SETTINGS, told.settings)
    assert (run["process"], run["locked"]) == (os.getpid(), True)
    assert (kept["event"], kept["output"]) == ("kept", "b.tif")
    assert (skipped["event"], skipped["output"]) == ("skipped", "c.tif")
    assert (failed["event"], failed["code"], failed["output"]) == ("failed", "input", "d.tif")
    assert (failed["message"], failed["hint"]) == ("d.jpg: cut off", "copy it")
    assert (end["event"], end["stopped"], end["kept"]) == ("end", True, 1)
    assert len({record["run"] for record in records(tmp_path / "out")}) == 1


def test_settings_have_one_digest_in_whatever_order(tmp_path: Path) -> None:
    assert digest({"a": 1, "b": {"c": 2.5, "d": None}}) == digest({"b": {"d": None, "c": 2.5}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})
    assert len(digest({})) == 16
    assert journal(tmp_path).settings == digest(SETTINGS)
    assert journal(tmp_path, strength=0.5).settings != digest(SETTINGS)


# Stamps


def test_a_stamp_holds_for_the_same_content_whatever_the_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stamp = write(path, b"content")
    assert stamp.holds(path)
    os.utime(path, ns=(1, 1))
    assert stamp.holds(path)
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(1, 1))
    assert not stamp.holds(path)
    path.write_bytes(b"content, longer")
    os.utime(path, ns=(stamp.modified_ns, stamp.modified_ns))
    assert not stamp.holds(path)


def test_a_stamp_holds_without_reading_where_size_and_time_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a"
    stamp = write(path, b"content")
    assert replace(stamp, sha256="of nothing").holds(path)


def test_a_stamp_does_not_hold_for_what_is_no_file(tmp_path: Path) -> None:
    stamp = Stamp(0, 0, "")
    assert not stamp.holds(tmp_path / "missing")
    assert not stamp.holds(tmp_path / "missing" / "deeper")
    assert not stamp.holds(tmp_path / "with\0nul")
    assert not Stamp(tmp_path.stat().st_size, 0, "").holds(tmp_path)


@posix
def test_a_stamp_waits_for_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not Stamp(0, 0, "").holds(tmp_path / "pipe")


# Damage


def test_a_journal_cut_at_any_byte_of_its_last_lines_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of them
    made = [replace(entry(tmp_path / "out", f"{number}.tif"), weights=()) for number in range(3)]
    whole = journal(tmp_path / "out")
    for each in made:
        whole.promise(each)
    data = whole.path.read_bytes()
    ends = [place for place, byte in enumerate(data, 1) if byte == ord("\n")]
    for cut in range(ends[-3], len(data) + 1):
        whole.path.write_bytes(data[:cut])
        again = journal(tmp_path / "out")
        # A line without its end is whole where only the end is missing.
        there = [each for each, end in zip(made, ends[1:], strict=True) if cut >= end - 1]
        assert [each for each in made if again.entry(each.output)] == there
        assert again.damaged == (cut not in (*ends, *(end - 1 for end in ends)))
        again.promise(made[2])
        with whole.path.open("rb") as file:
            assert [record["output"] for _, record in lines(file) if record and record["event"] == "photo"] == [
                each.output.name for each in (*there, made[2])
            ]


@pytest.mark.parametrize("tail", [b"\0" * 5000, b"\0" * 512 + b"\n", b'{"event":"photo"', b"\xff\xfe{}", b"[" * 100000])
def test_what_a_power_cut_leaves_at_the_end_is_passed_over(tmp_path: Path, tail: bytes) -> None:
    made = entry(tmp_path)
    before = journal(tmp_path)
    before.promise(made)
    with before.path.open("ab") as file:
        file.write(tail)
    again = journal(tmp_path)
    assert again.entry(made.output) == made
    again.promise(replace(made, seconds=2.5))
    assert journal(tmp_path).entry(made.output) == replace(made, seconds=2.5)
    assert journal(tmp_path).damaged == 1


def test_a_last_line_that_is_being_written_is_no_damage() -> None:
    assert list(lines([b'{"event":"run"}\n', b'{"event":"pho'])) == [(0, {"event": "run"})]
    assert list(lines([b"\n", b'{"a"\n', b"3\n", b'{"b":1}'])) == [(1, None), (6, None), (8, {"b": 1})]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("input_bytes", "3"),
        ("input_bytes", True),
        ("weights", None),
        ("weights", ["sidd"]),
        ("weights", [{"name": "sidd"}]),
        ("output_sha256", 7),
        ("megapixels", None),
        ("megapixels", 10**400),
    ],
)
def test_a_photo_of_which_not_all_is_told_is_unknown(tmp_path: Path, key: str, value: object) -> None:
    made = entry(tmp_path)
    before = journal(tmp_path)
    before.promise(made)
    changed = records(tmp_path)[-1] | {key: value}
    before.path.write_text(json.dumps(changed) + "\n")
    assert journal(tmp_path).entry(made.output) is None


def test_a_newer_kbnets_journal_is_read_as_far_as_it_is_understood(tmp_path: Path) -> None:
    made = entry(tmp_path)
    before = journal(tmp_path)
    before.promise(made)
    extended = records(tmp_path)[-1] | {"mood": {"good": True}}
    with before.path.open("a") as file:
        file.write('{"event":"dreamt","of":[1,2]}\n' + json.dumps(extended) + "\n")
    again = journal(tmp_path)
    assert again.entry(made.output) == made
    assert again.damaged == 0


def test_an_output_named_by_another_line_is_not_taken_for_it(tmp_path: Path) -> None:
    made = entry(tmp_path)
    told = journal(tmp_path)
    told.promise(made)
    assert told.entry(made.output) == made
    data = told.path.read_bytes()
    told.path.write_bytes(data.replace(b'"a.tif"', b'"b.tif"'))
    assert told.entry(made.output) is None


# Folders that take nothing


@posix
@not_as_root
def test_a_folder_that_cannot_be_written_to_is_told_at_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(0o500)
    with pytest.raises(UsageError, match="Permission denied"):
        journal(folder)
    with pytest.raises(UsageError, match="Permission denied"), locked(folder):
        pytest.fail("it is not locked")


def test_a_journal_that_is_no_file_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(UsageError, match="the journal cannot be read and written"):
        journal(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file: cannot be written to"), locked(tmp_path / "file"):
        pytest.fail("it is not locked")


FULL = """
import resource, signal, sys
from pathlib import Path
from kbnet_cli.errors import InputError, OutputError, UsageError
from kbnet_cli.journal import Entry, Journal, Stamp

folder = Path(sys.argv[1])
told = Journal(folder, {}, photos=1)
stamp = Stamp(0, 0, "")
entry = Entry(folder / "a.tif", folder / "a.jpg", stamp, stamp, "", (), megapixels=1.0, seconds=1.0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = told.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
try:
    told.promise(entry)
except OutputError as error:
    print(error.message, flush=True)
print(told.path.stat().st_size - size, told.entry(entry.output))
told.failed(Path("a.jpg"), None, InputError("a"))
told.end(stopped=False, done=0, kept=0, skipped=0, failed=1)
try:
    Journal(folder, {}, photos=1)
except UsageError as error:
    print(error.message)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
told.promise(entry)
print(told.entry(entry.output) == entry, Journal(folder, {}, photos=1).entry(entry.output) == entry)
"""


@posix
def test_a_full_disk_fails_the_promise_and_later_lines_are_whole(tmp_path: Path) -> None:
    with spawn(FULL, tmp_path / "out") as process:
        said = process.communicate()[0].splitlines()
    name = tmp_path / "out" / NAME
    assert said == [
        f"{name}: cannot be written: File too large",
        "40 None",
        f"{name}: the journal cannot be read and written: File too large",
        "True True",
    ]


def test_a_journal_that_vanishes_is_an_error_of_the_photo(tmp_path: Path) -> None:
    told = journal(tmp_path / "out")
    told.path.unlink()
    (tmp_path / "out").rmdir()
    with pytest.raises(OutputError, match="cannot be read: No such file"):
        told.entry(tmp_path / "out" / "a.tif")
    (tmp_path / "out").touch()
    told.kept(tmp_path / "out" / "a.tif")  # resuming does without that line


# Many at once


def test_threads_write_whole_lines(tmp_path: Path) -> None:
    told = journal(tmp_path)
    assert told.damaged == 0
    made = [[entry(tmp_path, f"{thread}-{number}.tif") for number in range(20)] for thread in range(4)]

    def promise(some: list[Entry]) -> None:
        for each in some:
            told.promise(each)

    threads = [threading.Thread(target=promise, args=(some,)) for some in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again = journal(tmp_path)
    for each in (each for some in made for each in some):
        assert told.entry(each.output) == each
        assert again.entry(each.output) == each
    assert again.damaged == 0


PROMISE = """
import sys
from pathlib import Path
from kbnet_cli.journal import Entry, Journal, Stamp

folder, name = Path(sys.argv[1]), sys.argv[2]
told = Journal(folder, {}, photos=100)
print("ready", flush=True)
sys.stdin.readline()
stamp = Stamp(0, 0, "")
for number in range(100):
    told.promise(Entry(folder / f"{name}-{number}", folder / "a", stamp, stamp, "", (), megapixels=1.0, seconds=1.0))
"""


@posix
def test_processes_without_a_lock_write_whole_lines_into_one_journal(tmp_path: Path) -> None:
    processes = [spawn(PROMISE, tmp_path, name) for name in "abc"]
    assert [heard(process) for process in processes] == ["ready"] * 3
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    again = journal(tmp_path)
    assert again.damaged == 0
    assert all(again.entry(tmp_path / f"{name}-{number}") for name in "abc" for number in range(100))


# One run at a time


def test_a_second_run_is_told_of_the_first_and_gets_in_after_it(
    tmp_path: Path, elsewhere: "subprocess.Popen[str]"
) -> None:
    folder = tmp_path / "out"
    with pytest.raises(UsageError) as caught, locked(folder):
        pytest.fail("it is locked twice")
    assert caught.value.message.startswith(f"{folder}: another kbnet (process {elsewhere.pid}, since 2")
    assert caught.value.message.endswith(") is working there")
    assert f"kbnet status {folder}" in caught.value.hint
    at_work = holder(folder)
    assert at_work is not None
    assert at_work.process == elsewhere.pid
    elsewhere.communicate("")
    assert list(folder.iterdir()) == []
    assert holder(folder) is None
    with locked(folder) as held:
        assert held
    assert list(folder.iterdir()) == []


@posix
def test_a_killed_run_keeps_nobody_out(tmp_path: Path, elsewhere: "subprocess.Popen[str]") -> None:
    elsewhere.send_signal(signal.SIGKILL)
    elsewhere.wait()
    assert (tmp_path / "out" / LOCK).exists()
    assert holder(tmp_path / "out") is None
    with locked(tmp_path / "out"):
        at_work = holder(tmp_path / "out")
        assert at_work is not None
        assert at_work.process == os.getpid()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_lock_file_that_was_removed_and_made_anew_stays_its_new_holders(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with locked(tmp_path):
            (tmp_path / LOCK).unlink()
            stack.enter_context(locked(tmp_path))
        assert holder(tmp_path) is not None
    assert list(tmp_path.iterdir()) == []


@posix
def test_a_lock_on_a_file_that_is_gone_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take = filelock.lock_descriptor
    taken: list[int] = []

    def take_late(descriptor: int, *, blocking: bool) -> bool:
        if not taken:
            (tmp_path / LOCK).unlink()  # by who had the lock, between our opening and our locking
        taken.append(descriptor)
        return take(descriptor, blocking=blocking)

    monkeypatch.setattr(filelock, "lock_descriptor", take_late)
    with locked(tmp_path):
        assert holder(tmp_path) is not None
    assert len(taken) == 3


CROWD = """
import os, sys
from pathlib import Path
from kbnet_cli.errors import UsageError
from kbnet_cli.journal import locked

folder, inside, entered = Path(sys.argv[1]), Path(sys.argv[2]), 0
print("ready", flush=True)
sys.stdin.readline()
while entered < 30:
    try:
        with locked(folder):
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another is inside
            inside.unlink()
            entered += 1
    except UsageError:
        pass
print(entered)
"""


@posix
def test_of_many_that_come_and_go_only_one_is_ever_inside(tmp_path: Path) -> None:
    processes = [spawn(CROWD, tmp_path / "out", tmp_path / "inside") for _ in range(3)]
    assert [heard(process) for process in processes] == ["ready"] * 3
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.communicate()[0] for process in processes] == ["30\n"] * 3
    assert list((tmp_path / "out").iterdir()) == []


@posix
def test_a_file_system_without_locks_is_told_and_worked_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, *, blocking: bool) -> bool:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with locked(tmp_path) as held:
        assert not held
        assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


# Partial files


PARTIAL = """
import fcntl, os, sys
from pathlib import Path
file = open(Path(sys.argv[1]) / ".kbnet-living.partial", "wb")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@posix
def test_partial_files_of_dead_processes_are_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = {".kbnet-living.partial", "a.partial", ".kbnet-a", ".kbnet-folder.partial", ".kbnet-link.partial", "below"}
    for name in (".kbnet-dead.partial", ".kbnet-.partial", "a.partial", ".kbnet-a", "below/.kbnet-deep.partial"):
        write(tmp_path / name, b"half")
    (tmp_path / ".kbnet-folder.partial").mkdir()
    (tmp_path / ".kbnet-link.partial").symlink_to("a.partial")
    with spawn(PARTIAL, tmp_path) as process:
        assert heard(process) == "held"
        assert remove_stale_partials([tmp_path, tmp_path / "missing"]) == 2
        assert {path.name for path in tmp_path.iterdir()} == kept
        assert (tmp_path / "below" / ".kbnet-deep.partial").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert remove_stale_partials([tmp_path]) == 1
    assert not (tmp_path / ".kbnet-living.partial").exists()
