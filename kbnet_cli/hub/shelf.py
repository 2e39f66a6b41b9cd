"""The folder in which weights are kept: one safetensors file a name, and beside each a record of where it came from.

    sidd.safetensors     the weights
    sidd.json            its record
    weights.lock         the hashes seen first (`ledger`)
    .locks/              who is at work on what; a lock that its process has left behind holds nobody up

Weights that are safetensors in huggingface_hub's cache already stay there; then only the record lies here.
"""

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import filelock

from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub.ledger import Ledger, write_json


@dataclass(frozen=True)
class Record:
    """Where a file came from, and what it was then."""

    origin: str
    """An address, or the file it was imported from."""
    origin_sha256: str
    """Of the file that was fetched or imported, before it was converted."""
    file: str
    """Its name in the folder, or a whole path into huggingface_hub's cache."""
    sha256: str
    size_bytes: int
    modified_ns: int
    """Size and time are the same: so is the file. A hash of it is taken only where they are not."""
    obtained: str
    """The day, as 2026-11-22."""


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
    def lock(self, key: str = "", *, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Let one process at a time work on what has this key (without one: on the ledger); others wait and say so."""
        folder = self.folder / ".locks"
        with self.writing():
            folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(folder / f"{key or 'ledger'}.lock")
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
        item = self._item(key)
        if item is None:
            return None
        status, record = item.path.stat(), item.record
        if (status.st_size, status.st_mtime_ns) != (record.size_bytes, record.modified_ns):
            self.compare(item)
            # The same bytes at another time: they were copied or restored. A folder that is read-only stays as it is.
            with contextlib.suppress(OSError):
                self._write(key, _described(item.path, record))
        return item

    def compare(self, item: Item) -> None:
        """Read a file whole and compare it with its record.

        Raises:
            WeightsError: it is another.
        """
        found = sha256(item.path)
        if found != item.record.sha256:
            raise WeightsError(
                f"{item.path}: changed since it was kept: sha256 was {item.record.sha256}, is {found}",
                hint=f"kbnet weights remove {item.key}, and fetch or import it again",
            )

    def items(self) -> Iterator[Item]:
        """Return everything that is here, by name."""
        for path in sorted(self.folder.glob("*.json")):
            item = self._item(path.stem)
            if item is not None:
                yield item

    def put(self, key: str, file: Path, *, origin: str, origin_sha256: str) -> Item:
        """Keep a file: one that lies in the folder gets the name of its key, one elsewhere stays where it is."""
        with self.writing():
            path = file
            if file.parent == self.folder:
                path = self.place(key)
                file.replace(path)
            today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
            name = path.name if path.parent == self.folder else str(path)
            record = _described(path, Record(origin, origin_sha256, name, sha256(path), 0, 0, today))
            self._write(key, record)
        return Item(key, path, record)

    def place(self, key: str) -> Path:
        """Return where the weights of a key lie, if they lie in this folder."""
        return self.folder / f"{key}.safetensors"

    def remove(self, key: str) -> bool:
        """Forget the weights of a key, delete their file unless it is elsewhere, and say whether there were any."""
        there = False
        with self.writing():
            for path in (self._record_path(key), self.place(key)):
                there = there or path.exists()
                path.unlink(missing_ok=True)
        return there

    def _item(self, key: str) -> Item | None:
        try:
            record = Record(**json.loads(self._record_path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None  # what has no record that can be read is checked and recorded as if it were new
        path = self.folder / record.file
        return Item(key, path, record) if path.is_file() else None

    def _write(self, key: str, record: Record) -> None:
        write_json(self._record_path(key), asdict(record))

    def _record_path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _described(path: Path, record: Record) -> Record:
    status = path.stat()
    return replace(record, size_bytes=status.st_size, modified_ns=status.st_mtime_ns)


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
