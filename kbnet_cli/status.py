"""How far the work in a folder of outputs is, by its journal: the last run, and what all runs did."""

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from kbnet_cli.errors import UsageError
from kbnet_cli.folder_lock import Holder, holder
from kbnet_cli.journal import NAME
from kbnet_cli.journal_entry import Record, lines

State = Literal["running", "starting", "ended", "stopped", "killed", "unfinished"]
"""starting: another run has the folder, and nothing is told of it yet. stopped: by Ctrl-C or SIGTERM. unfinished: it
still runs or was killed, which cannot be told, because it took no lock."""
_IN_FLIGHT = 64
"""How many outputs may have been promised by a run that was killed before they were in place, at most."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A photo that failed, and was not done since."""

    input: str
    output: str | None
    """Relative to the folder; None where it was not settled."""
    code: str
    message: str
    hint: str


@dataclass(frozen=True)
class Status:
    """What a journal says. Counts, times and megapixels are the last run's, unless they say otherwise."""

    folder: Path
    state: State
    version: str | None
    """Of the kbnet that ran."""
    process: int | None
    """The one that works there now, or the last run's."""
    started: datetime | None
    last: datetime | None
    """When something was told last."""
    seconds: float
    """How long it has run, or ran."""
    photos: int | None
    """How many there were to do; None where that is not known before the end."""
    done: int
    kept: int
    skipped: int
    megapixels: float
    """Of the photos done."""
    failures: tuple[Failure, ...]
    earlier_failures: tuple[Failure, ...]
    """Of the runs before, and not done since."""
    runs: int
    photos_of_all_runs: int
    """How many outputs were made here, ever."""
    damaged: int
    """How many lines of the journal cannot be read."""
    settings: Mapping[str, object]

    @property
    def left(self) -> int | None:
        """How many photos nothing is told of yet; None where their number is not known."""
        if self.photos is None:
            return None
        return max(0, self.photos - self.done - self.kept - self.skipped - len(self.failures))

    @property
    def megapixels_a_second(self) -> float | None:
        """How fast it was over all; None where nothing was done."""
        return self.megapixels / self.seconds if self.seconds > 0 and self.done else None

    @property
    def seconds_left(self) -> float | None:
        """About how long it still takes, if the photos left are as those done; None where that cannot be told."""
        if self.state != "running" or self.left is None or not self.done:
            return None
        return self.left * self.seconds / self.done

    def as_json(self) -> str:
        """Return one line of JSON."""
        event = {"event": "status"} | asdict(self)
        event |= {"folder": str(self.folder), "started": _said(self.started), "last": _said(self.last)}
        event |= {"seconds": round(self.seconds, 3), "megapixels": round(self.megapixels, 6)}
        event |= {"failed": len(self.failures), "left": self.left, "seconds_left": self.seconds_left}
        event |= {"megapixels_a_second": self.megapixels_a_second}
        return json.dumps(event, ensure_ascii=False)


def _said(time: datetime | None) -> str | None:
    return None if time is None else time.isoformat()


def status_of(folder: Path) -> Status:
    """Read how far the work in a folder is. It may go on meanwhile.

    Raises:
        UsageError: the folder has no journal, or it cannot be read.
    """
    path = folder / NAME
    # Before the journal is read: a run that ends meanwhile is found ended.
    at_work = holder(folder)
    tally = _Tally()
    try:
        with path.open("rb") as file:
            for _, record in lines(file):
                tally.take(record)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_journal(folder) from error
    except OSError as error:
        raise UsageError(
            f"{path}: the journal cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from error
    return tally.status(folder, at_work)


def _no_journal(folder: Path) -> UsageError:
    if not folder.is_dir():
        why = "is a file, expected a folder" if folder.exists() else "no such folder"
        return UsageError(f"{folder}: {why}", hint="give the folder that outputs are in")
    above = next((each for each in folder.absolute().parents if (each / NAME).is_file()), None)
    if above is not None:
        return UsageError(f"{folder}: has no journal, its runs wrote into {above}", hint=f"kbnet status {above}")
    return UsageError(
        f"{folder}: has no journal",
        hint="give the folder that was given with -o; outputs beside their inputs have one after --resume only",
    )


@dataclass
class _Tally:
    """What a journal's lines come to, line by line."""

    run: Record = field(default_factory=dict)
    end: Record | None = None
    last: datetime | None = None
    runs: int = 0
    damaged: int = 0
    done: dict[str, float] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)
    failures: dict[str, tuple[Failure, bool]] = field(default_factory=dict)
    """By photo, and whether it is the last run's."""
    newest: deque[tuple[str, object]] = field(default_factory=lambda: deque(maxlen=_IN_FLIGHT))
    """The outputs promised last, with their bytes."""

    def take(self, record: Record | None) -> None:
        """Go by one more line; None is a damaged one."""
        if record is None:
            self.damaged += 1
            return
        event = record.get("event")
        if event == "run":
            self._begin(record)
        ours = record.get("run") == self.run.get("run")
        if ours:
            self.last = _time(record.get("at")) or self.last
        output = record.get("output")
        if event == "photo" and isinstance(output, str):
            self._photo(record, output, ours=ours)
        elif event == "failed":
            self._failed(record, ours=ours)
        elif event == "kept" and ours:
            self.kept.add(str(output))
        elif event == "skipped" and ours:
            self.skipped.add(str(output))
        elif event == "end" and ours:
            self.end = record

    def _begin(self, record: Record) -> None:
        self.run, self.end = record, None
        self.runs += 1
        self.done, self.kept, self.skipped = {}, set(), set()
        self.newest.clear()
        self.failures = {photo: (failure, False) for photo, (failure, _) in self.failures.items()}

    def _photo(self, record: Record, output: str, *, ours: bool) -> None:
        self.ever.add(output)
        self.failures.pop(_photo_of(record), None)
        if ours:
            megapixels = record.get("megapixels")
            self.done[output] = float(megapixels) if isinstance(megapixels, int | float) else 0.0
            self.newest.append((output, record.get("output_bytes")))

    def _failed(self, record: Record, *, ours: bool) -> None:
        output = record.get("output")
        failure = Failure(
            input=str(record.get("input")),
            output=output if isinstance(output, str) else None,
            code=str(record.get("code", "error")),
            message=str(record.get("message", "")),
            hint=str(record.get("hint", "")),
        )
        photo = _photo_of(record)
        self.failures.pop(photo, None)  # the newest stands last
        self.failures[photo] = (failure, ours)
        if ours and failure.output is not None:
            self.done.pop(failure.output, None)  # promised, and not kept

    def status(self, folder: Path, at_work: Holder | None) -> Status:
        """Return what it all comes to."""
        state = self._state(at_work)
        if state not in ("ended", "stopped"):
            for output, size_bytes in self.newest:
                if output in self.done and not _is_there(folder / output, size_bytes):
                    del self.done[output]
        started = _time(self.run.get("at"))
        until = datetime.now(UTC) if state == "running" else self.last
        settings = self.run.get("settings")
        at_work_now = None if at_work is None else at_work.process
        return Status(
            folder=folder,
            state=state,
            version=_text(self.run.get("version")),
            process=at_work_now or _count(self.run.get("process")),
            started=started,
            last=self.last,
            seconds=max(0.0, (until - started).total_seconds()) if started and until else 0.0,
            photos=_count(self.run.get("photos")),
            done=len(self.done),
            kept=len(self.kept),
            skipped=len(self.skipped),
            megapixels=sum(self.done.values(), 0.0),
            failures=tuple(failure for failure, ours in self.failures.values() if ours),
            earlier_failures=tuple(failure for failure, ours in self.failures.values() if not ours),
            runs=self.runs,
            photos_of_all_runs=len(self.ever),
            damaged=self.damaged,
            settings=settings if isinstance(settings, dict) else {},
        )

    def _state(self, at_work: Holder | None) -> State:
        if at_work is not None and self.end is None and at_work.process in (None, self.run.get("process")):
            return "running"
        if at_work is not None and at_work.process != self.run.get("process"):
            return "starting"
        if self.end is not None:
            return "stopped" if self.end.get("stopped") else "ended"
        return "killed" if self.run.get("locked") else "unfinished"


def _photo_of(record: Record) -> str:
    """Return what tells a photo from the others: its input, or its output where it came through a pipe."""
    source = record.get("input")
    return source if isinstance(source, str) and source != "-" else f"-\0{record.get('output')}"


def _is_there(path: Path, size_bytes: object) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except (OSError, ValueError):  # a name with a NUL in it
        return False


def _time(value: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
