"""What the system tells of files: that something happened to one, through watchdog, and that one is open for writing.

Neither can be relied on: events get lost, network drives have none of what other computers do, and only Linux tells who
writes. `watch` goes by the files themselves, and takes what is told here to be quicker and surer.
"""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from watchdog import events
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

_KINDS: list[type[events.FileSystemEvent]] = [
    events.FileCreatedEvent,
    events.FileMovedEvent,
    events.FileClosedEvent,
    events.DirCreatedEvent,
    events.DirMovedEvent,
]
if sys.platform != "linux":
    # Linux tells when a file is closed; others tell of each piece that is written.
    _KINDS.append(events.FileModifiedEvent)

_NAP_SECONDS = 0.2
"""How long watchdog's threads may sleep before they look whether they are to end."""
_SHARING_VIOLATION = 32
"""Windows' number for a file that another program keeps for itself."""


@dataclass(frozen=True)
class Heard:
    """What was told since last time, in the order of the last news of each path."""

    closed: tuple[Path, ...]
    """Files that were closed after writing, or renamed: usually complete."""
    touched: tuple[Path, ...]
    """Files that are new or written to, and new folders."""
    lost: bool
    """Whether something was not told."""


class Ear(events.FileSystemEventHandler, logging.Handler):
    """Keep what watchdog tells, from its threads, until it is asked for; a path once, however often it is told of."""

    def __init__(self) -> None:
        logging.Handler.__init__(self, logging.WARNING)
        self._condition = threading.Condition()
        self._heard: dict[str, bool] = {}
        self._lost = False
        self._news = False

    def on_any_event(self, event: events.FileSystemEvent) -> None:
        """Keep where something happened, and whether a file was closed or renamed by it."""
        # Of a folder moved in, each file is told of as well. That may be very many, and the folder says enough.
        if event.is_synthetic:
            return
        path = os.fsdecode(event.dest_path or event.src_path)
        with self._condition:
            self._heard.pop(path, None)
            self._heard[path] = isinstance(event, events.FileClosedEvent | events.FileMovedEvent)
            self._ring()

    def emit(self, _record: logging.LogRecord) -> None:
        """Take a complaint for lost events: watchdog logs an overflow of inotify's queue, and goes on."""
        with self._condition:
            self._lost = True
            self._ring()

    def _ring(self) -> None:
        self._news = True
        self._condition.notify()

    def heard(self) -> Heard:
        """Give what was told since last time."""
        with self._condition:
            paths, self._heard = self._heard, {}
            lost, self._lost = self._lost, False
        closed = tuple(Path(path) for path, closed in paths.items() if closed)
        touched = tuple(Path(path) for path, closed in paths.items() if not closed)
        return Heard(closed, touched, lost)

    def wait(self, until: float) -> None:
        """Wait for news since the last wait, or for a time of the monotonic clock."""
        with self._condition:
            self._condition.wait_for(lambda: self._news, until - time.monotonic())
            self._news = False


@contextlib.contextmanager
def listening(folder: Path, ear: Ear, tell: Callable[[str], None]) -> Iterator[bool]:
    """Let watchdog speak to an ear of what happens below a folder; give whether it can, and tell if it cannot."""
    # A folder that was just made may be told of twice. watchdog watches it once, and warns of that on the terminal.
    warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
    logger = logging.getLogger("watchdog")
    logger.addHandler(ear)
    with contextlib.ExitStack() as ending:
        ending.callback(logger.removeHandler, ear)
        try:
            observer = Observer(timeout=_NAP_SECONDS)
            ending.callback(_end, observer)
            observer.schedule(ear, str(folder), recursive=True, event_filter=_KINDS)
            observer.start()
        except OSError as error:
            # Above all the limits of inotify. Where only folders below are over the limit, watchdog is silent.
            tell(f"{folder}: the system does not tell of new files ({error.strerror}); looking for them instead")
            yield False
        else:
            yield True


def _end(observer: BaseObserver) -> None:
    observer.stop()
    if observer.is_alive():
        observer.join()


def is_open_for_writing(path: Path) -> bool:
    """Tell whether anybody has a file open for writing; False where the system does not say."""
    if sys.platform == "win32":
        try:
            path.open("rb").close()
        except OSError as error:
            return error.winerror == _SHARING_VIOLATION
    elif sys.platform == "linux":
        import fcntl

        try:
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return False
        try:
            # A read lease is granted only while nobody has the file open for writing, and is given back at once. Who
            # opens it in between waits that long, and we get a signal: one that is ignored; the usual one would kill.
            fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            return error.errno == errno.EAGAIN
        finally:
            os.close(file)
    return False
