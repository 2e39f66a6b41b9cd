"""The folder in which weights are kept, and beside them records of where they came from.

    sidd.json                       what is kept under this name, where it came from, and which file it is
    0123456789ab/sidd.safetensors   the file, in a folder named by the beginning of its hash
    weights.lock                    the hashes seen first (`ledger`)
    .locks/                         who is at work on what; a lock that its process has left behind holds nobody up

A record is replaced in one step, and the file that it names is there before: so whoever reads finds the old or the
new, at any moment, and after any crash. What a user puts into the folder by hand is never replaced.
"""

import contextlib
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub.ledger import Ledger, today, write_json


@dataclass(frozen=True)
class Record:
    """Where a file came from, and what it was then."""

    origin: str
    """An address, or the file it was imported from."""
    origin_sha256: str
    """Of the file that was fetched or imported, before it was converted."""
    file: str
    """Its place in the folder."""
    sha256: str
    size_bytes: int
    modified_ns: int
    """Size and time are the same: so is the file. A hash of it is taken only where they are not."""
    obtained: str
    """The day, as 2026-11-22."""
    etag: str | None = None
    """What the Hub calls these bytes, so that it can be asked whether it has others."""


@dataclass(frozen=True)
class Item:
    """Weights on the shelf."""

    key: str
    path: Path
    record: Record


class FolderError(FetchError):
    """Say that the folder cannot be written to: another source would be fetched in vain."""


class Shelf:
    """The folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ledger = Ledger(folder / "weights.lock")

    @contextlib.contextmanager
    def lock(self, key: str, *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let one process at a time work on what has this key; others wait, and are told that they do."""
        folder = self.folder / ".locks"
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / f"{key}.lock")
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                waiting()
                lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Say in one line why the folder cannot be written to."""
        try:
            yield
        except OSError as error:
            raise FolderError(
                f"{self.folder}: weights cannot be kept there: {error.strerror or error}",
                hint="make it writable or make room, or keep weights elsewhere: --weights-folder",
            ) from error

    def find(self, key: str) -> Item | None:
        """Return the weights of a key, if they are here and as they were.

        Raises:
            WeightsError: the file is another than the one that was put here.
        """
        item = self.item(key)
        status = None if item is None else status_of(item.path)
        if item is None or status is None:
            return None
        if (status.st_size, status.st_mtime_ns) != (item.record.size_bytes, item.record.modified_ns):
            self.compare(item)
        return item

    def compare(self, item: Item) -> None:
        """Read a file whole and compare it with its record.

        Raises:
            WeightsError: it is another, or gone.
        """
        again = f"kbnet weights remove {item.key}, and fetch or import it again"
        if status_of(item.path) is None:
            raise WeightsError(f"{item.key}: its file is gone: {item.path}", hint=again)
        found = sha256(item.path)
        if found != item.record.sha256:
            raise WeightsError(
                f"{item.path}: changed since it was kept: sha256 was {item.record.sha256}, is {found}", hint=again
            )

    def items(self) -> Iterator[Item]:
        """Return everything that has a record, by name; its file may be gone."""
        for path in sorted(self.folder.glob("*.json")):
            item = self.item(path.stem)
            if item is not None:
                yield item

    def item(self, key: str) -> Item | None:
        """Return what has a record under this key. One that cannot be read is none: what it is of is kept anew."""
        try:
            record = Record(**json.loads(self._record_path(key).read_text(encoding="utf-8")))
            texts = (record.origin, record.origin_sha256, record.file, record.sha256, record.obtained)
            place = rf"[0-9a-f]{{12}}/{re.escape(key)}\.safetensors"
            if not all(isinstance(text, str) for text in texts) or not re.fullmatch(place, record.file):
                return None
            return Item(key, self.folder / record.file, record)
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def put(self, key: str, file: Path, *, origin: str, origin_sha256: str, etag: str | None = None) -> Item:
        """Move a file of the folder to its place, and record it there instead of what had this key."""
        found = sha256(file)
        place = self.folder / found[:12] / f"{key}.safetensors"
        with self.writing():
            status = file.stat()
            place.parent.mkdir(exist_ok=True)
            file.replace(place)
            name = place.relative_to(self.folder).as_posix()
            times = (status.st_size, status.st_mtime_ns, today())
            record = Record(origin, origin_sha256, name, found, *times, etag)
            write_json(self._record_path(key), asdict(record))
        self._sweep(key, place)
        return Item(key, place, record)

    def remove(self, key: str) -> bool:
        """Forget weights, delete their file and whatever a crash has left of it, and say whether there was a record."""
        with self.writing():
            there = self._record_path(key).exists()
            self._record_path(key).unlink(missing_ok=True)
        self._sweep(key, None)
        return there

    def _files(self, key: str) -> set[Path]:
        """Return the files of a key, of which one is the recorded one."""
        return set(self.folder.glob(f"{'[0-9a-f]' * 12}/{key}.safetensors"))

    def _sweep(self, key: str, but: Path | None) -> None:
        for path in self._files(key) - {but}:
            with contextlib.suppress(OSError):  # it may be in use; the next time will do
                path.unlink()
                path.parent.rmdir()  # unless another name has weights there as well

    def _record_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def status_of(path: Path) -> os.stat_result | None:
    """Return what the system says of a file that can be looked at; None if there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Raises:
        WeightsError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
