"""One kbnet at a time in a folder of outputs, and what a killed one left there.

The lock is the system's own on an open file, so it dies with its process. It lies on a file of its own and not on the
journal: Windows, and Linux on Windows shares, let nobody else read what is locked, and `kbnet status` reads the journal
while a run goes on.
"""

import contextlib
import errno
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from kbnet_cli.errors import UsageError

LOCK = ".kbnet-lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What a file system without locks answers."""
_TRIES, _PAUSE_SECONDS = 10, 0.02
"""Who only looks whether a folder is locked holds the lock for an instant."""
_OPEN = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
_WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class Holder:
    """Who works in a folder, as far as it says so itself."""

    process: int | None = None
    since: datetime | None = None

    def __str__(self) -> str:
        told = [] if self.process is None else [f"process {self.process}"]
        told += [] if self.since is None else [f"since {self.since.astimezone():%Y-%m-%d %H:%M}"]
        return ", ".join(told)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Keep other runs out of a folder while the block runs; give False where its file system has no locks.

    The folder is made if it is missing. Nothing stays in it unless the process is killed, and then it stops nobody.

    Raises:
        UsageError: another kbnet is working there, or the folder cannot be written to.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = _take(path)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written to: {error.strerror or error}",
            hint="make it writable or make room, or choose another folder with -o",
        ) from error
    if taken is None:
        other = str(holder(folder) or "")
        raise UsageError(
            f"{folder}: another kbnet{f' ({other})' if other else ''} is working there",
            hint=f"wait for it, kbnet status {folder} tells how far it is; or choose another folder with -o",
        )
    descriptor, held = taken
    try:
        _sign(descriptor)
        yield held
    finally:
        _release(path, descriptor)


def _take(path: Path) -> tuple[int, bool] | None:
    """Return the open lock file and whether it is locked; None where another process has it."""
    for _ in range(_TRIES):
        descriptor = os.open(path, _OPEN | os.O_CREAT, 0o666)
        try:
            got = filelock.lock_descriptor(descriptor, blocking=False)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor, False
            os.close(descriptor)
            raise
        # Who had it may have removed the file between our opening and our locking: that lock would guard no name.
        if got and _is_at(path, descriptor):
            return descriptor, True
        os.close(descriptor)
        if not got:
            time.sleep(_PAUSE_SECONDS)
    return None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write who has the lock, for the others' message. It is no more than that: a full disk stops nobody here."""
    said = json.dumps({"process": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")})
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"\n{said}\n".encode())  # Windows lets nobody read the first byte


def _release(path: Path, descriptor: int) -> None:
    # While it is still locked: whoever waits for this file sees that it is gone and makes another. Windows removes no
    # open file, so there it is closed first, and stays if another has it open by then.
    if _WINDOWS:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()
        return
    with contextlib.suppress(OSError):
        if _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)


def holder(folder: Path) -> Holder | None:
    """Return who works in a folder now; None where nobody does, or where that cannot be told."""
    path = folder / LOCK
    try:
        try:
            descriptor = os.open(path, _OPEN)
        except PermissionError:  # a folder of another user
            descriptor = os.open(path, _OPEN & ~os.O_RDWR)
    except OSError:
        return None
    try:
        if filelock.lock_descriptor(descriptor, blocking=False):
            return None
    except OSError:
        return None
    else:
        return _signature(descriptor)
    finally:
        os.close(descriptor)


def _signature(descriptor: int) -> Holder:
    try:
        os.lseek(descriptor, 1, os.SEEK_SET)
        said = json.loads(os.read(descriptor, 1024))
        return Holder(int(said["process"]), datetime.fromisoformat(said["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder()


def remove_stale_partials(folders: Iterable[Path]) -> int:
    """Remove the partial files that killed runs left directly in folders, and return how many.

    Whoever writes one holds the lock on it, so those of living processes stay. A file system without locks does not
    tell them apart, and all stay.
    """
    return sum(_remove_stale(path) for folder in folders for path in _partials(folder))


def _partials(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as found:
            return [Path(each.path) for each in found if _is_partial(each.name)]
    except OSError:
        return []


def _is_partial(name: str) -> bool:
    return name.startswith(".kbnet-") and name.endswith(".partial")


def _remove_stale(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        if _WINDOWS:  # an open file cannot be removed
            path.unlink()
            return True
        descriptor = os.open(path, _OPEN)
    except OSError:
        return False
    try:
        if not filelock.lock_descriptor(descriptor, blocking=False):
            return False
        path.unlink()
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
