"""A file whole or not at all: written beside its place under another name, flushed, renamed."""

import contextlib
import errno
import os
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from kbnet_cli.batch.order import STANDARD
from kbnet_cli.errors import OutputError

PARTIAL = (".kbnet-", ".partial")
"""How an unfinished file's name begins and ends. Short: the target's may be as long as file systems allow."""

_lock = threading.Lock()
_unfinished: set[Path] = set()
_abandoned = False


class Abandoned(BaseException):
    """The program ends now: nothing is written any more."""


def write(
    target: Path, data: bytes, *, overwrite: bool, promise: Callable[[os.stat_result], None] | None = None
) -> None:
    """Write a whole output: beside the target, flushed to the disk, then renamed.

    `promise` is told right before the rename what the file will be: its size, and its time of modification.

    Raises:
        OutputError: the folder cannot be made or written to, the disk is full, or the target appeared meanwhile.
    """
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _beside(target) as (file, partial):
            if overwrite and target.exists():  # who may read it stays as it was
                partial.chmod(target.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            if promise is not None:
                promise(os.fstat(file.fileno()))
            with _lock:  # held by who abandons everything: then no file gets its name any more
                if _abandoned:
                    raise Abandoned
                file.close()
                if overwrite:
                    partial.replace(target)
                else:
                    _rename_to_new(partial, target)
    except FileExistsError as error:
        raise OutputError(f"{target}: exists already", hint="add --overwrite to replace it") from error
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror}",
            hint="check the folder, its permissions and the free space",
        ) from error


def abandon() -> None:
    """Remove what is unfinished, and let nothing be written from now on: the program is about to end."""
    global _abandoned
    with _lock:
        _abandoned = True
        for partial in tuple(_unfinished):  # whoever has written one takes it out meanwhile
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a hidden file in the target's folder, and remove it unless it was renamed."""
    with _lock:
        if _abandoned:
            raise Abandoned
        partial = target.parent / secrets.token_hex(8).join(PARTIAL)
        # With the permissions of any new file, unlike those of `tempfile`.
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
        _unfinished.add(partial)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _hold(file, partial)
            yield file, partial
    finally:
        partial.unlink(missing_ok=True)
        _unfinished.discard(partial)


def _hold(file: BinaryIO, partial: Path) -> None:
    """Hold a lock on an unfinished file, by which others see that its writer is alive.

    Raises:
        FileNotFoundError: somebody took it for a dead one's and removed it before it was locked.
    """
    if sys.platform == "win32":  # there an open file cannot be removed anyway
        return
    import fcntl

    with contextlib.suppress(OSError):  # file systems without locks
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    if not os.fstat(file.fileno()).st_nlink:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(partial))


def _rename_to_new(partial: Path, target: Path) -> None:
    """Rename without replacing: a hard link fails where the target exists, a rename on POSIX does not."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links (FAT, some network drives).
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        partial.replace(target)
