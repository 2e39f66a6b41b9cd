"""What a journal's lines say: one photo that was restored, and how to see that its files are still what they were."""

import hashlib
import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from os import stat_result
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stamp:
    """A file's content, and how to see quickly that it is still that."""

    size_bytes: int
    modified_ns: int
    sha256: str

    @classmethod
    def of(cls, data: bytes, status: stat_result) -> "Stamp":
        """Return the stamp of a file with this content and status.

        The status is that from before an input was read, so that a change while it is read does not go unseen.
        """
        return cls(len(data), status.st_mtime_ns, hashlib.sha256(data).hexdigest())

    def holds(self, path: Path) -> bool:
        """Tell whether a file has this content: by size and time, and by its hash only where the time is another.

        False where it is not there, is no file or cannot be read.
        """
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode) or status.st_size != self.size_bytes:
                return False
            return status.st_mtime_ns == self.modified_ns or _hash_of(path) == self.sha256
        except (OSError, ValueError):  # a name with a NUL in it
            return False


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Used:
    """Weights that a photo was restored with."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One photo that was restored."""

    output: Path
    """Absolute."""
    source: Path
    """As it was given, absolute; - is standard input."""
    input: Stamp
    result: Stamp
    settings: str
    """Their `digest`."""
    weights: tuple[Used, ...]
    megapixels: float
    seconds: float
    task: str = ""


def digest(settings: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits that are the same for the same settings, in whatever order they stand.

    Values are what JSON holds: words, numbers, true, false, null, lists and mappings of such.
    """
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def written(source: Path) -> str:
    """Return how an input stands in a journal: absolute, or - for standard input."""
    return "-" if source == Path("-") else str(source.absolute())


def facts_of(entry: Entry) -> Record:
    """Return what a record `photo` says, but for its output, which stands relative to a folder."""
    return {
        "input": written(entry.source),
        "input_bytes": entry.input.size_bytes,
        "input_modified_ns": entry.input.modified_ns,
        "input_sha256": entry.input.sha256,
        "output_bytes": entry.result.size_bytes,
        "output_modified_ns": entry.result.modified_ns,
        "output_sha256": entry.result.sha256,
        "task": entry.task,
        "settings": entry.settings,
        "weights": [{"name": used.name, "sha256": used.sha256} for used in entry.weights],
        "megapixels": round(entry.megapixels, 6),
        "seconds": round(entry.seconds, 3),
    }


def entry_of(record: Record, folder: Path) -> Entry | None:
    """Return what a record `photo` says; None where it does not say all."""
    try:
        return Entry(
            output=folder / _of(record, "output", str),
            source=Path(_of(record, "input", str)),
            input=_stamp(record, "input"),
            result=_stamp(record, "output"),
            settings=_of(record, "settings", str),
            weights=tuple(Used(_of(each, "name", str), _of(each, "sha256", str)) for each in record["weights"]),
            megapixels=float(_of(record, "megapixels", int, float)),
            seconds=float(_of(record, "seconds", int, float)),
            task=_of(record, "task", str),
        )
    except (KeyError, TypeError, OverflowError):
        return None


def _stamp(record: Record, which: str) -> Stamp:
    return Stamp(
        _of(record, f"{which}_bytes", int),
        _of(record, f"{which}_modified_ns", int),
        _of(record, f"{which}_sha256", str),
    )


def _of(record: Record, key: str, *kinds: type) -> Any:
    value = record[key]
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r}")
    return value


def lines(file: Iterable[bytes]) -> Iterator[tuple[int, Record | None]]:
    """Give the records of a journal with where they begin in it; None for each that cannot be read.

    A last line that is not whole is passed over: it was cut off, or is being written just now.
    """
    offset = 0
    for line in file:
        record = record_of(line)
        if record is not None or (line.endswith(b"\n") and line.strip()):
            yield offset, record
        offset += len(line)


def record_of(line: bytes) -> Record | None:
    """Return what a line says; None where it is not whole."""
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
