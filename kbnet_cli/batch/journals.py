"""What is done already, asked of the journals of the folders that outputs go to."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from kbnet_cli.batch.order import STANDARD, Job, Order, Outcome
from kbnet_cli.errors import OutputError, UsageError
from kbnet_cli.journal import Entry, Journal, Stamp, Used, remove_stale_partials

Unchanged = Callable[[tuple[Used, ...]], bool]
"""Tells whether weights that once answered a photo are still the same."""


class Journals:
    """The journals of one run: that of the output folder, or one for each folder of outputs beside their inputs."""

    def __init__(
        self,
        order: Order,
        settings: Mapping[str, object],
        *,
        photos: int | None,
        unchanged: Unchanged,
        device: str | None = None,
        read_only: bool = False,
    ) -> None:
        self._root = order.output if order.into_folder else None
        self._tidies = order.existing == "resume" and not read_only
        self._read_only = read_only
        self._settings = settings
        self._task = str(settings.get("task", ""))
        self._photos, self._device = photos, device
        self._unchanged = unchanged
        self._open: dict[Path, Journal] = {}
        self._clean: set[Path] = set()
        self._lock = threading.Lock()
        if self._root is not None:
            self.of(self._root / "any")
        self._identity = _identity(self._root)

    def check_place(self) -> None:
        """Refuse to go on where the output folder is another one by now: what was mounted there has gone, say.

        Raises:
            OutputError: it is.
        """
        if self._root is not None and not self._read_only and _identity(self._root) != self._identity:
            raise OutputError(
                f"{self._root}: the output folder has gone, or is another one now",
                hint="mount it again, and go on with --resume",
            )

    def make_ready(self, job: Job) -> None:
        """See to the folder of an output that is about to be written: what a killed run left there goes now.

        Not later: then it could be mistaken for what another photo's thread has just begun.

        Raises:
            OutputError: the output folder is another one by now, or its journal cannot be opened.
        """
        self.check_place()
        self.of(job.target)

    def of(self, target: Path) -> Journal:
        """Return the journal that an output stands in."""
        folder = self._root or target.parent
        with self._lock:
            if self._tidies and target.parent not in self._clean:
                self._clean.add(target.parent)
                remove_stale_partials((target.parent,))
            if folder not in self._open:
                try:
                    self._open[folder] = Journal(
                        folder,
                        self._settings,
                        photos=self._photos,
                        device=self._device,
                        read_only=self._read_only,
                    )
                except UsageError as error:
                    if folder == self._root:
                        raise
                    raise OutputError(error.message, hint=error.hint) from error  # one of many folders
            return self._open[folder]

    def kept(self, job: Job) -> bool:
        """Tell whether a photo is done already, exactly as this run would do it; False: its output may be replaced.

        Raises:
            OutputError: what stands in the output's place was not made by kbnet, or was changed since.
        """
        journal = self.of(job.target)
        entry = journal.present(job.target)
        if entry is None:
            why = "was changed since kbnet wrote it" if journal.entry(job.target) else "is not in the journal"
            raise OutputError(
                f"{job.source}: the output {job.target} exists already and {why}",
                hint="move it away to have it made again, or add --overwrite instead of --resume",
            )
        if entry.task != self._task:
            raise OutputError(
                f"{job.source}: the output {job.target} was made to {entry.task}, not to {self._task}",
                hint="choose another folder with -o or other names with --name; --overwrite replaces it",
            )
        same = entry.input.holds(job.source)
        if not same and entry.source != job.source.absolute():
            raise OutputError(
                f"{job.source}: the output {job.target} is that of {entry.source}",
                hint="choose another folder with -o or other names with --name; --overwrite replaces it",
            )
        return same and entry.settings == journal.settings and self._unchanged(entry.weights)

    def promise(
        self, job: Job, source: Stamp, result: Stamp, used: tuple[Used, ...], *, megapixels: float, seconds: float
    ) -> None:
        """Tell of a photo whose output is about to get its name.

        Raises:
            OutputError: that cannot be written down, so the output must not be put there.
        """
        self.check_place()
        journal = self.of(job.target)
        output = job.target.absolute()
        entry = Entry(output, job.source, source, result, journal.settings, used, megapixels, seconds, self._task)
        journal.promise(entry)

    def tell(self, outcome: Outcome) -> None:
        """Tell of a photo that is not done anew; one that is was told of when its output got its name."""
        job = outcome.job
        if outcome.status == "done" or job.target == STANDARD:
            return
        with contextlib.suppress(OutputError):
            self.check_place()
            journal = self.of(job.target)
            if outcome.error is not None:
                journal.failed(job.source, job.target, outcome.error)
            elif outcome.status == "kept":
                journal.kept(job.target)
            else:
                journal.skipped(job.target)

    def end(self, *, stopped: bool, done: int, kept: int, skipped: int, failed: int) -> None:
        """Tell how the run ended."""
        for journal in self._open.values():
            journal.end(stopped=stopped, done=done, kept=kept, skipped=skipped, failed=failed)


def _identity(folder: Path | None) -> tuple[int, int] | None:
    try:
        status = None if folder is None else folder.stat()
    except OSError:
        return None
    return None if status is None else (status.st_dev, status.st_ino)
