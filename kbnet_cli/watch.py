"""Photos of a folder as they arrive: those that are there first, then each new one as soon as it is complete.

Events tell where something happened; whether a photo is complete is always asked of the file itself, and a rescan now
and then finds what no event told of. So a lost event costs time, never a photo.
"""

import contextlib
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kbnet_cli.errors import InputError, UsageError
from kbnet_cli.file_events import Ear, Heard, is_open_for_writing, listening
from kbnet_cli.naming import natural_key

_TICK_SECONDS = 0.2
"""How long `stop` may go unasked. It is asked, not waited for: a signal handler may set a flag, but take no lock."""
_SLICE_SECONDS = 0.1
"""How long folders are gone through before complete photos have their turn."""
_GRACE_SECONDS = 0.2
"""How long a closed file waits: unzip, tar and gphoto2 set the time of a file just after closing it."""
_CHECK_SECONDS = 1.0
"""How often the watched folder itself is looked at."""
_SOON_SECONDS = 2.0
"""How long until the next rescan where events are known to be missing."""
_IDLE_SHARE = 20
"""Going through all folders takes at most one part in so many of the time."""
_HELD = 10
"""How many times `settle_seconds` an unchanged file that is open for writing is waited for. Not for ever: some programs
keep files open, and some network drives call every file open."""
_MOST_WAITING = 1000
"""How many files of a folder wait before the rest of it is gone through: memory stays flat where a caller is slow."""

Identity = tuple[int, int]
"""What tells a folder from others by whatever path it is reached: its device and inode."""


def check(folder: Path) -> Path:
    """Return a folder that can be watched.

    Raises:
        UsageError: it is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: is no folder, expected one to watch", hint="check the name, or make the folder")
    return folder


def arrivals(
    folder: Path,
    *,
    accept: Callable[[Path], bool],
    into: Callable[[Path], bool],
    stop: Callable[[], bool],
    settle_seconds: float = 1.0,
    rescan_seconds: float = 30.0,
    tell: Callable[[str], None] = lambda _note: None,
) -> Iterator[Path]:
    """Give the photos below a folder, then those that arrive, each as it is complete, until `stop` says so.

    What is there already, and what is found at once, comes in natural order, files before folders; the rest in the
    order in which it was completed. A file is complete when it is not empty, its size and time have stayed the same for
    `settle_seconds`, and nobody has it open for writing as far as the system tells. One that was closed or renamed just
    now, where the system tells that, does not wait so long.

    A file that changes after it was given, because a slow copy paused for longer or somebody edited it, is given again;
    without a change it is not. Files that vanish are forgotten. What lies behind symbolic links is found by rescans; no
    link leads in a circle.

    Args:
        folder: what is watched. Paths are given below it as it is written here.
        accept: whether a file is wanted, by its path alone.
        into: whether a folder below is gone into, by its path alone.
        stop: asked five times a second while nothing happens, and before each photo.
        settle_seconds: how long a file must not have changed.
        rescan_seconds: how often everything is looked through for what no event told of: every 2 seconds while that
            finds photos or there are no events, more rarely where looking takes more than a twentieth of the time.
        tell: is given a note where the system does not tell of new files.

    Raises:
        UsageError: the folder is none at the start.
        InputError: the folder cannot be read, or was removed, replaced or unmounted while it was watched.
    """
    check(folder)
    ear = Ear()
    # Events first, so that nothing falls between them and the first look.
    with listening(folder, ear, tell) as hears:
        watch = _Watch(folder, accept, into, settle_seconds, rescan_seconds if hears else _soon(rescan_seconds))
        while not stop():
            watch.check_folder()
            if not watch.beginning:
                watch.take(ear.heard())
            busy = watch.look(time.monotonic() + _SLICE_SECONDS)
            for path in watch.complete():
                yield path
                if stop():
                    return
            if not busy:
                ear.wait(min(watch.next_due(), time.monotonic() + _TICK_SECONDS))


@dataclass(slots=True)
class _Waiting:
    """A file that is not known to be complete."""

    stamp: int
    since: float
    """When it was first seen as it is."""
    due: float
    """When it is looked at again."""
    told: bool
    """Whether an event or the first look found it, and not a rescan."""


class _Watch:
    """What is known of a folder: what was given, what is waited for, and where is still to be looked.

    Of a file that was given, its name and one number are kept.
    """

    def __init__(
        self,
        folder: Path,
        accept: Callable[[Path], bool],
        into: Callable[[Path], bool],
        settle_seconds: float,
        rescan_seconds: float,
    ) -> None:
        self._folder = folder
        self._accept = accept
        self._into = into
        self._settle_seconds = settle_seconds
        self._rescan_seconds = rescan_seconds
        self._identity: Identity | None = None
        self._given: dict[Path, dict[str, int]] = {}
        """Folder to name to stamp."""
        self._waiting: dict[Path, _Waiting] = {}
        """In the order in which they will be given."""
        self._walks = deque([self._rescan(first=True)])
        self._walked_seconds = 0.0
        self._next_check = 0.0
        self._next_rescan = float("inf")
        self._missing_until = 0.0
        self.beginning = True
        """Whether what was there at the start is still gone through."""

    def check_folder(self) -> None:
        """Look whether the watched folder is still there, once a second.

        Raises:
            InputError: it is not, or another is in its place.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_SECONDS
        try:
            here = _identity(self._folder)
            os.scandir(self._folder).close()
        except OSError as error:
            raise self._gone(f"cannot be read: {error.strerror}") from error
        if here != (self._identity or here):
            raise self._gone("is another one now: it was replaced or unmounted")
        self._identity = here

    def _gone(self, what: str) -> InputError:
        hint = "when it is there again, run the same command again"
        return InputError(f"{self._folder}: the watched folder {what}", hint=hint)

    def take(self, heard: Heard) -> None:
        """Take what was heard: files that were closed, in that order, then anything else in natural order."""
        if heard.lost:
            self._next_rescan = min(self._next_rescan, time.monotonic() + _soon(self._rescan_seconds))
        for path in heard.closed:
            self._take_path(path, min(_GRACE_SECONDS, self._settle_seconds))
        for path in sorted(heard.touched, key=lambda path: [natural_key(part) for part in path.parts]):
            self._take_path(path, self._settle_seconds)

    def _take_path(self, path: Path, seconds: float) -> None:
        if not self._is_inside(path):
            return
        with contextlib.suppress(OSError):
            status = path.stat()
            if stat.S_ISDIR(status.st_mode):
                if self._into(path):
                    self._walks.appendleft(self._walk(path, told=True))
            elif self._accept(path):
                self._wait(path, _stamp(status), seconds, told=True)

    def _is_inside(self, path: Path) -> bool:
        """Tell whether each folder between the watched one and a path is gone into."""
        if path == self._folder or not path.is_relative_to(self._folder):
            return False
        below = path.relative_to(self._folder).parents
        return all(self._into(self._folder / folder) for folder in below if folder.name)

    def _wait(self, path: Path, stamp: int, seconds: float, *, told: bool) -> None:
        """Wait for a file that is new or changed; it comes after all that are waited for already."""
        now = time.monotonic()
        known = self._waiting.pop(path, None)
        since = known.since if known and known.stamp == stamp else now
        self._waiting[path] = _Waiting(stamp, since, now + seconds, told or bool(known and known.told))

    def look(self, until: float) -> bool:
        """Go through folders until a time; tell whether more of that can be done now."""
        started = time.monotonic()
        if started >= self._next_rescan:
            self._next_rescan = float("inf")
            self._walked_seconds = 0.0
            self._walks.append(self._rescan(first=False))
        while (more := bool(self._walks) and len(self._waiting) < _MOST_WAITING) and time.monotonic() < until:
            for _ in self._walks[0]:
                break
            else:
                self._walks.popleft()
        self._walked_seconds += time.monotonic() - started
        return more

    def _rescan(self, *, first: bool) -> Iterator[None]:
        """Go through everything; then forget folders that are gone, and settle when to do it again."""
        yield from self._walk(self._folder, told=first)
        for folder in list(self._given):
            if not os.path.lexists(folder):
                del self._given[folder]
            yield
        self.beginning = False
        now = time.monotonic()
        pause = _soon(self._rescan_seconds) if now < self._missing_until else self._rescan_seconds
        self._next_rescan = min(self._next_rescan, now + max(pause, _IDLE_SHARE * self._walked_seconds))

    def _walk(self, top: Path, *, told: bool) -> Iterator[None]:
        """Find what is new or changed below a folder, in natural order, files before folders; pause after each step."""
        ways = [(top, self._above(top))]
        while ways:
            folder, above = ways.pop()
            try:
                here = _identity(folder)
                with os.scandir(folder) as entries:
                    names = [entry.name for entry in entries]
            except OSError:
                continue
            if here in above:
                continue  # a link that leads back
            given = self._given.get(folder, {})
            found: list[str] = []
            folders: list[str] = []
            for name in names:
                with contextlib.suppress(OSError):
                    path = folder / name
                    status = path.stat()
                    if stat.S_ISDIR(status.st_mode):
                        if self._into(path):
                            folders.append(name)
                    elif given.get(name) != _stamp(status) and self._accept(path):
                        found.append(name)
                yield
            # Some were given only since the folder was listed.
            for name in given.keys() - names:
                if not os.path.lexists(folder / name):
                    del given[name]
            for name in sorted(found, key=natural_key):
                path = folder / name
                with contextlib.suppress(OSError):
                    if path not in self._waiting:
                        self._wait(path, _stamp(path.stat()), self._settle_seconds, told=told)
                yield
            ways += ((folder / name, above | {here}) for name in sorted(folders, key=natural_key, reverse=True))

    def _above(self, top: Path) -> frozenset[Identity]:
        """Give the folders that a folder lies in, up to the watched one."""
        found = set()
        while top != self._folder:
            top = top.parent
            with contextlib.suppress(OSError):
                found.add(_identity(top))
        return frozenset(found)

    def next_due(self) -> float:
        """Give when there is something to do again, if nothing is heard until then."""
        return min(self._next_rescan, self._next_check, *(waiting.due for waiting in self._waiting.values()))

    def complete(self) -> Iterator[Path]:
        """Give what is complete now, and remember it as given."""
        now = time.monotonic()
        for path in [path for path, waiting in self._waiting.items() if waiting.due <= now]:
            if self._is_complete(path):
                yield path

    def _is_complete(self, path: Path) -> bool:
        """Tell whether a file is complete; if not, wait for it again, unless an event or a rescan will tell of it."""
        waiting = self._waiting.pop(path)
        try:
            status = path.stat()
        except OSError:
            return False
        stamp = _stamp(status)
        given = self._given.setdefault(path.parent, {})
        if not stat.S_ISREG(status.st_mode) or not status.st_size or given.get(path.name) == stamp:
            return False
        patient = time.monotonic() - waiting.since < _HELD * self._settle_seconds
        if stamp != waiting.stamp or (patient and is_open_for_writing(path)):
            self._waiting[path] = waiting
            self._wait(path, stamp, self._settle_seconds, told=waiting.told)
            return False
        given[path.name] = stamp
        if not waiting.told:
            # Where events are missing once, they will be missing for the next photos too.
            self._missing_until = time.monotonic() + _HELD * self._rescan_seconds
        return True


def _soon(rescan_seconds: float) -> float:
    return min(_SOON_SECONDS, rescan_seconds)


def _identity(folder: Path) -> Identity:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _stamp(status: os.stat_result) -> int:
    """Give size and time of a file as one number, which takes less memory than two."""
    return status.st_mtime_ns << 64 | status.st_size
