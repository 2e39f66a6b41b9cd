"""Photos of a folder as they arrive: real files, real threads, and no test that has to be quick."""

import errno
import logging
import os
import queue
import shutil
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kbnet_cli import file_events, watch
from kbnet_cli.errors import InputError, UsageError

PATIENCE_SECONDS = 60
"""How long a test waits for what must happen, on the slowest machine."""
NEVER_SECONDS = 3600.0
"""A rescan that does not happen in a test: what comes is brought by events."""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who writes to a file")


class Watching:
    """A watch in a thread of its own, and what it has given so far."""

    def __init__(self, folder: Path, *, settle_seconds: float, rescan_seconds: float) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.asked = threading.Semaphore(0)
        self._stop = threading.Event()
        self._given: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(settle_seconds, rescan_seconds))
        self._thread.start()

    def _run(self, settle_seconds: float, rescan_seconds: float) -> None:
        try:
            for path in watch.arrivals(
                self.folder,
                accept=lambda path: path.suffix == ".jpg",
                into=lambda folder: folder.name != "out",
                stop=self._asked,
                settle_seconds=settle_seconds,
                rescan_seconds=rescan_seconds,
                tell=self.notes.append,
            ):
                self._given.put(path.relative_to(self.folder).as_posix())
        except BaseException as error:
            self._given.put(error)
        else:
            self._given.put(None)

    def _asked(self) -> bool:
        self.asked.release()
        return self._stop.is_set()

    def next(self) -> str:
        """Wait for the next photo."""
        given = self._given.get(timeout=PATIENCE_SECONDS)
        assert isinstance(given, str), given
        return given

    def several(self, count: int) -> list[str]:
        return [self.next() for _ in range(count)]

    def error(self) -> BaseException:
        given = self._given.get(timeout=PATIENCE_SECONDS)
        assert isinstance(given, BaseException), given
        return given

    def idle(self) -> None:
        """Wait until it goes round with nothing to do: what was there has been gone through."""
        while self.asked.acquire(blocking=False):
            pass
        for _ in range(3):
            assert self.asked.acquire(timeout=PATIENCE_SECONDS)

    def rest(self) -> list[str]:
        """Give what comes before two more photos, one after the other: by then all that waited has settled."""
        found: list[str] = []
        for name in ("last but one.jpg", "last.jpg"):
            photo(self.folder / name)
            while (given := self.next()) != name:
                found.append(given)
        return found

    def end(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()


@contextmanager
def watching(folder: Path, *, settle_seconds: float = 0.3, rescan_seconds: float = NEVER_SECONDS) -> Iterator[Watching]:
    found = Watching(folder, settle_seconds=settle_seconds, rescan_seconds=rescan_seconds)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


def photo(path: Path, data: bytes = b"photo") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no event through, as on a network drive, or where a queue overflowed."""
    monkeypatch.setattr(file_events.Ear, "on_any_event", lambda _self, _event: None)


def test_what_is_there_comes_first_in_natural_order_files_before_folders(folder: Path) -> None:
    for name in ("b 10/1.jpg", "IMG_10.jpg", "IMG_9.jpg", "b 9/2.jpg", "b 9/deep/1.jpg", "notes.txt", "out/IMG_9.jpg"):
        photo(folder / name)
    with watching(folder) as found:
        assert found.several(5) == ["IMG_9.jpg", "IMG_10.jpg", "b 9/2.jpg", "b 9/deep/1.jpg", "b 10/1.jpg"]
        photo(folder / "a.jpg")
        assert found.next() == "a.jpg"
        assert found.rest() == []


def test_paths_are_below_the_folder_as_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    photo(folder / "sub" / "a.jpg")
    with watching(Path()) as found:
        assert found.next() == "sub/a.jpg"
        photo(folder / "sub" / "b.jpg")
        assert found.next() == "sub/b.jpg"


def test_photo_written_in_pieces_comes_when_it_is_closed(folder: Path) -> None:
    with watching(folder) as found:
        found.idle()
        with (folder / "slow.jpg").open("wb", buffering=0) as file:
            for piece in range(3):
                file.write(b"piece")
                # Others are complete meanwhile.
                photo(folder / f"{piece}.jpg")
                assert found.next() == f"{piece}.jpg"
        assert found.next() == "slow.jpg"
        assert found.rest() == []


@linux_only
@pytest.mark.usefixtures("deaf")
def test_file_open_for_writing_waits_without_events_too(folder: Path) -> None:
    with (folder / "slow.jpg").open("wb", buffering=0) as file:
        file.write(b"piece")
        photo(folder / "whole.jpg")
        with watching(folder, rescan_seconds=0.05) as found:
            assert found.next() == "whole.jpg"
            photo(folder / "whole 2.jpg")
            assert found.next() == "whole 2.jpg"
            file.close()
            assert found.next() == "slow.jpg"


@linux_only
def test_file_that_stays_open_is_given_in_the_end(folder: Path) -> None:
    with (folder / "held.jpg").open("wb", buffering=0) as file, watching(folder, settle_seconds=0.02) as found:
        file.write(b"photo")
        # Closing and opening it again is what an event tells of.
        os.close(os.open(folder / "held.jpg", os.O_WRONLY))
        assert found.next() == "held.jpg"


@linux_only
def test_asking_who_writes_disturbs_nobody(folder: Path) -> None:
    path = photo(folder / "a.jpg")
    assert not file_events.is_open_for_writing(path)
    with path.open("ab") as file:
        assert file_events.is_open_for_writing(path)
        file.write(b" and more")
    assert not file_events.is_open_for_writing(path)
    assert path.read_bytes() == b"photo and more"
    assert not file_events.is_open_for_writing(folder / "vanished.jpg")


def test_rename_makes_a_photo_of_a_temporary_file(folder: Path) -> None:
    with watching(folder) as found:
        found.idle()
        part = photo(folder / "a.jpg.part")
        photo(folder / "b.jpg")
        assert found.next() == "b.jpg"
        part.rename(folder / "a.jpg")
        assert found.next() == "a.jpg"


def test_renamed_photo_is_a_new_one(folder: Path) -> None:
    path = photo(folder / "a.jpg")
    with watching(folder) as found:
        assert found.next() == "a.jpg"
        path.rename(folder / "b.jpg")
        assert found.next() == "b.jpg"
        assert found.rest() == []


def test_vanished_photo_is_forgotten(folder: Path) -> None:
    with watching(folder, settle_seconds=0.5) as found:
        found.idle()
        for number in range(20):
            photo(folder / f"short {number}.jpg").unlink()
        photo(folder / "stays.jpg")
        assert found.next() == "stays.jpg"
        assert found.rest() == []


def test_changed_photo_is_given_again_and_an_unchanged_one_is_not(folder: Path) -> None:
    path = photo(folder / "a.jpg")
    with watching(folder, rescan_seconds=0.05) as found:
        assert found.next() == "a.jpg"
        os.close(os.open(path, os.O_WRONLY))  # closed after writing nothing
        photo(folder / "b.jpg")
        assert found.next() == "b.jpg"
        photo(path, b"another photo")
        assert found.next() == "a.jpg"
        assert found.rest() == []


def test_empty_file_waits(folder: Path) -> None:
    path = photo(folder / "a.jpg", b"")
    with watching(folder) as found:
        photo(folder / "b.jpg")
        assert found.next() == "b.jpg"
        photo(path)
        assert found.next() == "a.jpg"


def test_folder_moved_in_brings_its_photos_in_natural_order(folder: Path, tmp_path: Path) -> None:
    names = [f"day/roll {roll}/{number}.jpg" for roll in (2, 10) for number in (1, 9, 10, 100)]
    for name in reversed(names):
        photo(tmp_path / name)
    with watching(folder) as found:
        found.idle()
        (tmp_path / "day").rename(folder / "day")
        assert found.several(len(names)) == names
        photo(folder / "day" / "roll 2" / "11.jpg")
        assert found.next() == "day/roll 2/11.jpg"
        assert found.rest() == []


def test_tree_copied_in_comes_whole_and_once(folder: Path, tmp_path: Path) -> None:
    names = [f"{'/'.join('abcdef'[:depth])}/{number}.jpg" for depth in range(1, 7) for number in range(10)]
    for name in names:
        photo(tmp_path / "day" / name)
    with watching(folder) as found:
        found.idle()
        shutil.copytree(tmp_path / "day", folder / "day")
        assert sorted(found.several(len(names))) == sorted(f"day/{name}" for name in names)
        assert found.rest() == []


def test_archive_that_sets_times_after_closing_comes_whole(folder: Path, tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(20)]
    with tarfile.open(tmp_path / "photos.tar", "w") as archive:
        for name in names:
            os.utime(photo(tmp_path / name), (1, 1))
            archive.add(tmp_path / name, name)
    with watching(folder, rescan_seconds=0.05) as found:
        found.idle()
        with tarfile.open(tmp_path / "photos.tar") as archive:
            archive.extractall(folder, filter="data")
        given = found.several(len(names))
        # A machine that pauses for long between the two may see a photo twice, and never none.
        assert {*given, *found.rest()} == set(names)


def test_burst_comes_in_order_and_each_once(folder: Path) -> None:
    names = [f"IMG_{number}.jpg" for number in range(1, 201)]
    with watching(folder) as found:
        found.idle()
        for name in names:
            photo(folder / name)
        assert found.several(len(names)) == names
        assert found.rest() == []


@pytest.mark.usefixtures("deaf")
def test_rescan_finds_what_no_event_told_of_in_natural_order(folder: Path, tmp_path: Path) -> None:
    names = [f"day/IMG_{number}.jpg" for number in range(1, 31)]
    for name in names:
        photo(tmp_path / name)
    with watching(folder, rescan_seconds=0.05) as found:
        found.idle()
        (tmp_path / "day").rename(folder / "day")
        assert found.several(len(names)) == names
        assert found.rest() == []


@pytest.mark.usefixtures("deaf")
def test_complaint_of_the_watcher_brings_a_rescan(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with watching(folder) as found:
        found.idle()
        photo(folder / "first.jpg")
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
        assert found.next() == "first.jpg"
    assert capfd.readouterr().err == ""


def test_folder_is_looked_through_where_the_system_tells_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: float) -> None:
        raise OSError(errno.EMFILE, "too many of them")

    monkeypatch.setattr(file_events, "Observer", refuse)
    with watching(folder) as found:
        found.idle()
        (note,) = found.notes
        assert note.startswith(f"{folder}: the system does not tell of new files (too many of them)")
        photo(folder / "a.jpg")
        assert found.next() == "a.jpg"


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    photo(tmp_path / "elsewhere" / "1.jpg")
    linked = photo(tmp_path / "far.jpg")
    try:
        (folder / "a.jpg").symlink_to(linked)
        (folder / "there").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (folder / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
        (folder / "sub").mkdir()
        (folder / "sub" / "back").symlink_to(folder, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    with watching(folder, rescan_seconds=0.05) as found:
        assert found.several(2) == ["a.jpg", "there/1.jpg"]
        photo(tmp_path / "elsewhere" / "2.jpg")
        assert found.next() == "there/2.jpg"
        (folder / "sub" / "round").symlink_to(folder / "sub", target_is_directory=True)
        photo(linked, b"another photo")
        assert found.next() == "a.jpg"
        assert found.rest() == []


def test_many_photos_wait_a_few_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MOST_WAITING", 7)
    names = [f"{number}.jpg" for number in range(1, 61)]
    for name in names:
        photo(folder / name)
    with watching(folder, settle_seconds=0.01) as found:
        assert found.several(len(names)) == names
        assert found.rest() == []


def test_forgets_what_is_gone(folder: Path) -> None:
    path = photo(folder / "day" / "a.jpg")
    os.utime(path, ns=(1, 1))
    with watching(folder, rescan_seconds=0.05) as found:
        assert found.next() == "day/a.jpg"
        shutil.rmtree(folder / "day")
        photo(folder / "b.jpg")
        assert found.next() == "b.jpg"
        photo(folder / "c.jpg")
        assert found.next() == "c.jpg"
        # The same file with the same time is a new one once a rescan has missed it.
        os.utime(photo(path), ns=(1, 1))
        assert found.next() == "day/a.jpg"


def test_stops_while_nothing_happens(folder: Path) -> None:
    stop = threading.Event()
    ended = threading.Event()

    def run() -> None:
        found = watch.arrivals(folder, accept=lambda _: True, into=lambda _: True, stop=stop.is_set)
        assert list(found) == []
        ended.set()

    before = threading.active_count()
    thread = threading.Thread(target=run)
    thread.start()
    assert not ended.wait(0.5)
    stop.set()
    assert ended.wait(5)
    thread.join(PATIENCE_SECONDS)
    # watchdog's threads end with it.
    assert threading.active_count() == before


def test_closing_it_ends_it(folder: Path) -> None:
    photo(folder / "a.jpg")
    photo(folder / "b.jpg")
    before = threading.active_count()
    found = watch.arrivals(folder, accept=lambda _: True, into=lambda _: True, stop=lambda: False, settle_seconds=0.01)
    assert next(found) == folder / "a.jpg"
    assert isinstance(found, Iterator)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def remove(folder: Path) -> None:
    shutil.rmtree(folder)


def move_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replace(folder: Path) -> None:
    # As when a drive is unmounted, and its empty mount point is there.
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()


@pytest.mark.parametrize("end", [remove, move_away, replace])
def test_folder_that_goes_away_ends_the_watch(folder: Path, end: Callable[[Path], None]) -> None:
    photo(folder / "a.jpg")
    with watching(folder) as found:
        assert found.next() == "a.jpg"
        end(folder)
        error = found.error()
    assert isinstance(error, InputError)
    assert error.message.startswith(f"{folder}: the watched folder ")


def test_no_folder_is_wrong_usage(folder: Path) -> None:
    path = photo(folder / "a.jpg")
    for wrong in (path, folder / "none"):
        with pytest.raises(UsageError, match="is no folder"):
            next(watch.arrivals(wrong, accept=lambda _: True, into=lambda _: True, stop=lambda: False))
