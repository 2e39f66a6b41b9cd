"""What is done already in a folder of outputs: a journal beside them, one JSON object a line, only ever added to.

A line says first what it tells of (`event`), then when (`at`, UTC) and by which run (`run`):

    run       version, photos, process, locked, settings, digest: a run began; whatever changes pixels or files
    photo     output, input, input_bytes, …, output_sha256, settings, weights, megapixels, seconds: promised, see below
    kept      output: --resume found it done
    skipped   output: it was there, and --skip-existing
    failed    input, output, code, message, hint
    end       stopped (whether it was interrupted), done, kept, skipped, failed: a run ended

A photo is told of just before its output is renamed into place: what lies there and is as the line says is done.
Outputs stand relative to the folder, which may be moved; inputs as they were given, absolute. Lines that were cut off,
and what a newer kbnet wrote, are passed over.
"""

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from kbnet_cli import __version__
from kbnet_cli.errors import KBNetError, OutputError, UsageError
from kbnet_cli.folder_lock import holder, locked, remove_stale_partials
from kbnet_cli.journal_entry import Entry, Record, Stamp, Used, digest, entry_of, facts_of, lines, record_of, written

__all__ = ["NAME", "Entry", "Journal", "Stamp", "Used", "digest", "locked", "remove_stale_partials"]

NAME = ".kbnet-journal.jsonl"
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
_Places = dict[str, int | tuple[int, ...]]
"""Where the lines about each output begin, the newest last: some hundred bytes a photo, whatever its line holds."""


class Journal:
    """The journal of one folder, for one run. All its methods may be called from any thread; nothing needs closing.

    Attributes:
        settings: the digest of this run's settings.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, object],
        *,
        photos: int | None,
        device: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Tell in the journal of a folder that a run begins. What it says is read when it is first asked.

        Args:
            folder: made if it is missing.
            settings: everything that changes pixels or files, of what JSON holds.
            photos: how many photos this run has; None where that is not known.
            device: what the network runs on, as a reader may want to know; photos done on another one stay done.
            read_only: tell nothing, and make no folder: a journal that is not there is empty.

        Raises:
            UsageError: the folder or the journal cannot be read or written.
        """
        self.folder = folder.absolute()
        self.path = self.folder / NAME
        self.settings = digest(settings)
        self._damaged = 0
        self._run = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._places: _Places | None = None
        if read_only:
            if not self.path.exists():
                self._places = {}
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            is_new = not self.path.exists()
            with self._appending() as descriptor:
                self._append(descriptor, "run", self._beginning(settings, photos, device))
                os.fsync(descriptor)
            if is_new:
                _keep_name(self.folder)
        except OSError as error:
            raise UsageError(
                f"{self.path}: the journal cannot be read and written: {error.strerror or error}",
                hint="make the folder writable or make room, or choose another with -o",
            ) from error

    def _beginning(self, settings: Mapping[str, object], photos: int | None, device: str | None) -> Record:
        facts: Record = {"version": __version__, "photos": photos, "process": os.getpid(), "device": device}
        return facts | {
            "locked": holder(self.folder) is not None,
            "digest": self.settings,
            "settings": dict(settings),
        }

    @property
    def damaged(self) -> int:
        """How many lines could not be read when it was first asked, but for a last one that was cut off."""
        self._read()
        return self._damaged

    def entries(self, target: Path) -> Iterator[Entry]:
        """Give what was promised of an output, newest first.

        The newest need not be what lies there: a run may have been killed between a promise and its keeping.

        Raises:
            OutputError: the journal cannot be read any more.
        """
        name = self._name(target)
        places = self._read().get(name, ())
        for place in reversed(places if isinstance(places, tuple) else (places,)):
            record = self._record_at(place)
            found = None if record is None or record.get("output") != name else entry_of(record, self.folder)
            if found is not None:
                yield found

    def _read(self) -> _Places:
        with self._lock:
            if self._places is None:
                places: _Places = {}
                damaged = 0
                with self._reading() as file:
                    for place, record in lines(file):
                        if record is None:
                            damaged += 1
                        elif record.get("event") == "photo" and isinstance(record.get("output"), str):
                            _remember(places, record["output"], place)
                self._places, self._damaged = places, damaged
            return self._places

    def _record_at(self, place: int) -> Record | None:
        with self._reading() as file:
            file.seek(place)
            return record_of(file.readline())

    @contextlib.contextmanager
    def _reading(self) -> Iterator[BinaryIO]:
        try:
            with self.path.open("rb") as file:
                yield file
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def entry(self, target: Path) -> Entry | None:
        """Return what was promised last of an output; None where nothing was."""
        return next(self.entries(target), None)

    def present(self, target: Path) -> Entry | None:
        """Return how the output that lies there was made; None where there is none, or it is another."""
        return next((entry for entry in self.entries(target) if entry.result.holds(target)), None)

    def promise(self, entry: Entry) -> None:
        """Tell of a photo whose output is about to be renamed into place; it is on the disk when this returns.

        Raises:
            OutputError: the line cannot be written, so that the output must not be put there.
        """
        name = self._name(entry.output)
        try:
            with self._appending() as descriptor:
                place = self._append(descriptor, "photo", {"output": name} | facts_of(entry))
                os.fsync(descriptor)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        with self._lock:
            if self._places is not None:  # else it will be found when it is read
                _remember(self._places, name, place)

    def kept(self, target: Path) -> None:
        """Tell of an output that --resume found done."""
        self._mention("kept", {"output": self._name(target)})

    def skipped(self, target: Path) -> None:
        """Tell of an output that was there already, and was to be left alone."""
        self._mention("skipped", {"output": self._name(target)})

    def failed(self, source: Path, target: Path | None, error: KBNetError) -> None:
        """Tell of a photo that failed, with its output as far as it is known."""
        output = None if target is None else self._name(target)
        reason = {"code": error.code, "message": error.message, "hint": error.hint}
        self._mention("failed", {"input": written(source), "output": output} | reason)

    def end(self, *, stopped: bool, done: int, kept: int, skipped: int, failed: int) -> None:
        """Tell that the run ended, whether it was interrupted, and what became of how many photos."""
        self._mention("end", {"stopped": stopped, "done": done, "kept": kept, "skipped": skipped, "failed": failed})

    def _mention(self, event: str, facts: Record) -> None:
        with contextlib.suppress(OSError), self._appending() as descriptor:  # resuming does without such lines
            self._append(descriptor, event, facts)

    @contextlib.contextmanager
    def _appending(self) -> Iterator[int]:
        # Nothing stays open: beside their inputs, outputs may have thousands of folders, each with a journal.
        descriptor = os.open(self.path, _APPEND, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _append(self, descriptor: int, event: str, facts: Record) -> int:
        """Write a line in one piece, and return where it begins."""
        head = {"event": event, "at": datetime.now(UTC).isoformat(timespec="milliseconds"), "run": self._run}
        # Escapes for all but ASCII: also for what is no character in a name, and for line breaks of any kind.
        line = json.dumps(head | facts, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            whole = line if _ends_whole(descriptor) else b"\n" + line
            written = os.write(descriptor, whole)
            if written < len(whole):  # a full disk takes a part; what it says comes with the rest
                os.write(descriptor, whole[written:])
        return os.lseek(descriptor, 0, os.SEEK_CUR) - len(line)

    def _name(self, target: Path) -> str:
        """Return how an output stands in the journal: relative to its folder, if it is in it."""
        whole = target.absolute()
        if whole.is_relative_to(self.folder):
            below = whole.relative_to(self.folder)
            if ".." not in below.parts:
                return below.as_posix()
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # by another way to the same folder
            return (whole.parent.resolve() / whole.name).relative_to(self.folder.resolve()).as_posix()
        return whole.as_posix()


def _remember(places: _Places, name: str, place: int) -> None:
    before = places.get(name)
    known = before if isinstance(before, tuple) else () if before is None else (before,)
    if place not in known:
        places[name] = (*known, place) if known else place


def _keep_name(folder: Path) -> None:
    """Put a new file's name on the disk, where the system has a way to say that."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _ends_whole(descriptor: int) -> bool:
    """Tell whether a file is empty or ends in a line's end. One whose writer was killed may not."""
    if os.lseek(descriptor, 0, os.SEEK_END) == 0:
        return True
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) == b"\n"
