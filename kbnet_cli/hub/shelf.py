"""The folder in which weights are kept, and beside them records of where they came from.

    sidd.json                       what is kept under this name, where it came from, and which file it is
    0123456789ab/sidd.safetensors   the file, in a folder named by the beginning of its hash
    weights.lock                    the hashes seen first (`ledger`)
    .locks/                         who is at work on what; a lock that its process has left behind holds nobody up

A record is replaced in one step, and the file that it names is there before: so whoever reads finds the old or the
new, at any moment, and after any crash. Weights that are safetensors in huggingface_hub's cache already stay there, and
only the record lies here. What a user puts into the folder by hand is never replaced.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
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
    """Its place in the folder, or a whole path into huggingface_hub's cache."""
    sha256: str
    size_bytes: int
    modified_ns: int
    """Size and time are the same: so is the file. A hash of it is taken only where they are not."""
    obtained: str
    """The day, as 2026-11-22."""
    fetched: bool
    """Whether kbnet has put the file where it is. What was there before is not deleted with the record."""
    converted_from: str | None = None
    """A file in huggingface_hub's cache that kbnet has fetched and converted, and that goes with this one."""


@dataclass(frozen=True)
class Item:
    """Weights on the shelf."""

    key: str
    path: Path
    record: Record

    @property
    def is_elsewhere(self) -> bool:
        """Whether the file lies in huggingface_hub's cache."""
        return Path(self.record.file).is_absolute()


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
            raise FetchError(
                f"{self.folder}: weights cannot be kept there: {error.strerror or error}",
                hint="make it writable or make room, or keep weights elsewhere: --weights-folder",
            ) from error

    def find(self, key: str) -> Item | None:
        """Return the weights of a key, if they are here and as they were.

        Raises:
            WeightsError: the file is another than the one that was put here.
        """
        item = self.item(key)
        if item is None or not item.path.is_file():
            return None
        status = item.path.stat()
        if (status.st_size, status.st_mtime_ns) == (item.record.size_bytes, item.record.modified_ns):
            return item
        self.compare(item)
        # The same bytes at another time: they were copied or restored. A folder that is read-only stays as it is.
        record = replace(item.record, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)
        with contextlib.suppress(OSError):
            write_json(self._record_path(key), asdict(record))
        return item

    def compare(self, item: Item) -> None:
        """Read a file whole and compare it with its record.

        Raises:
            WeightsError: it is another, or gone.
        """
        again = f"kbnet weights remove {item.key}, and fetch or import it again"
        if not item.path.is_file():
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
            return Item(key, self.folder / record.file, record)
        except (OSError, ValueError, TypeError, RecursionError):
            return None

    def put(
        self,
        key: str,
        file: Path,
        *,
        origin: str,
        origin_sha256: str,
        fetched: bool,
        converted_from: Path | None = None,
    ) -> Item:
        """Keep a file: one that lies in the folder moves to its place, one elsewhere stays where it is."""
        before = self.item(key)
        found = sha256(file)
        with self.writing():
            status = file.stat()
            place = str(file)
            if file.parent == self.folder:
                place = f"{found[:12]}/{key}.safetensors"
                (self.folder / place).parent.mkdir(exist_ok=True)
                file.replace(self.folder / place)
            record = Record(
                origin,
                origin_sha256,
                place,
                found,
                status.st_size,
                status.st_mtime_ns,
                today(),
                fetched,
                None if converted_from is None else str(converted_from),
            )
            write_json(self._record_path(key), asdict(record))
        item = Item(key, self.folder / place, record)
        if before is not None and before.path != item.path:
            self._delete(before)
        return item

    def remove(self, item: Item) -> None:
        """Forget weights, and delete their file unless it lies elsewhere."""
        with self.writing():
            self._record_path(item.key).unlink(missing_ok=True)
            self._delete(item)

    def _delete(self, item: Item) -> None:
        if not item.is_elsewhere and item.path.parent.parent == self.folder:
            item.path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another name has weights there as well
                item.path.parent.rmdir()

    def _record_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


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
