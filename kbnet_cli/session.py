"""One call of a restoring verb: what is asked for, handed to the pipeline, and told."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from kbnet_cli import __version__, afterwards, batch, console, journal, rehearsal
from kbnet_cli.batch.preview import peek
from kbnet_cli.errors import KBNetError, UsageError
from kbnet_cli.folder_lock import locked
from kbnet_cli.formats import codec, provenance, stream
from kbnet_cli.formats.private import stripped_photo
from kbnet_cli.formats.provenance import signed
from kbnet_cli.lanes import lanes
from kbnet_cli.levels import Blend
from kbnet_cli.outlook import Stopped, Totals
from kbnet_cli.pacing import Means, lane_count, pace_for
from kbnet_cli.photo import Photo
from kbnet_cli.preparing import Voice, Wishes, networks_for
from kbnet_cli.progress import Reporter, reporting, waiting
from kbnet_cli.restore import restore
from kbnet_cli.selection import Selection
from kbnet_cli.stopping import Ended, heeding
from kbnet_cli.telling import Teller, key_of
from kbnet_cli.tiles import Lanes

MOST_LOCKS = 50


def run(order: batch.Order, wishes: Wishes, voice: Voice, means: Means, *, dry_run: bool, then: str | None) -> int:
    """Restore every photo of an order and return the exit code: 0 all done, 1 at least one failed.

    Raises:
        KBNetError: something is wrong that would fail every photo: usage, weights, device.
        Ended: the program was told to end, and has: at once, or when what was in hand was done.
    """
    if order.output == batch.STANDARD and sys.stdout.isatty():
        raise UsageError("a picture would be written to the terminal", hint="pipe it: -o - | other-program")
    typed = order.list_file == batch.STANDARD  # perhaps on this very line
    with waiting("looking for photos", quiet=voice.quiet or voice.json or typed):
        listed = None if order.stream or order.watch else batch.jobs(order)
    if listed is not None and not listed:
        raise UsageError("no photos found", hint="check the folder; names and first bytes both show no picture")
    networks = networks_for(wishes, voice)
    with contextlib.ExitStack() as stack:
        # Who asked twice to stop waits for nothing more; what is left ends with the program.
        stack.push(lambda kind, _error, _trace: None if kind is Ended else networks.close())
        call = _Call(order, wishes, voice, means, networks, None if listed is None else len(listed))
        if dry_run:
            journals = call.journals(read_only=True)
            return rehearsal.run(listed or (), order, networks, voice, means, journals)
        for folder in _exclusive(order, listed):
            stack.enter_context(locked(folder))
        over = call.run(listed)
    # Without the locks, and with the device's memory given back: the command may be a kbnet that works there too.
    return call.follow(over, then)


def _exclusive(order: batch.Order, listed: Sequence[batch.Job] | None) -> list[Path]:
    """Return the folders that no other run may work in meanwhile.

    Calls that name their photos come many at a time, by xargs or GNU parallel: they may share a folder.
    """
    if order.into_folder:
        alone = order.recursive or order.watch or order.list_file is not None or order.existing == "resume"
        return [order.output] if alone and order.output is not None else []
    if order.existing != "resume" or listed is None:
        return []
    folders = sorted({job.target.parent.absolute() for job in listed if job.target != batch.STANDARD})
    # Each lock is an open file, and systems allow some hundred.
    return folders if len(folders) <= MOST_LOCKS else [Path(os.path.commonpath(folders))]


def journal_settings(order: batch.Order, wishes: Wishes, networks: Selection) -> dict[str, object]:
    """Return everything that changes pixels or files, as journals tell it.

    Not the device, whose answers differ by rounding, nor the version of the program.
    """
    return {
        "task": wishes.task,
        "weights": [used.sha256 for used in networks.used] or networks.weights,
        "sigma": wishes.sigma,
        "strength": wishes.strength,
        "transfer": wishes.transfer,
        "tile": networks.settings.tile,
        "overlap": networks.settings.overlap,
        "precision": networks.choice.precision,
        "format": order.format,
        "depth": order.depth,
        "quality": order.quality,
        "raw_mode": order.raw_mode,
        "development": asdict(order.development),
        "provenance": wishes.provenance,
        "strip": wishes.strip,
    }


@dataclass(frozen=True)
class _Over:
    """How a call went."""

    totals: Totals
    signalled: int | None
    """The exit code for the signal that stopped it."""
    problem: KBNetError | None

    @property
    def exit_code(self) -> int:
        return self.signalled or (self.problem.exit_code if self.problem else 1 if self.totals.failed else 0)


class _Call:
    def __init__(
        self,
        order: batch.Order,
        wishes: Wishes,
        voice: Voice,
        means: Means,
        networks: Selection,
        photos: int | None,
    ) -> None:
        self.order, self.wishes, self.voice, self.means = order, wishes, voice, means
        self.networks, self.photos = networks, photos
        self.pace = pace_for(means, networks, photos)
        self.stop = batch.Stop()

    def run(self, listed: Sequence[batch.Job] | None) -> _Over:
        journals = self.journals()
        # Of one photo the photo in hand is all there is, so that nobody waits for its end who has asked it to stop.
        several = self.photos != 1
        problem: KBNetError | Ended | None = None
        with heeding(self._ask if several else None) as signals:
            with reporting(self.photos, quiet=self.voice.quiet or self.voice.json) as reporter:
                teller = Teller(self.voice, self.networks, reporter)
                try:
                    self._restore(self._jobs(listed, reporter), teller, journals)
                except (KBNetError, Ended) as error:
                    problem = error
                except BaseException:
                    batch.abandon()  # nobody reads what is written, say
                    raise
                if isinstance(problem, Ended):
                    batch.abandon()
                totals = reporter.outlook.totals(_STOPPED.get(signals.exit_code or 0))
                if journals is not None:
                    counts = {name: getattr(totals, name) for name in ("done", "kept", "skipped", "failed")}
                    journals.end(stopped=signals.exit_code is not None, **counts)
            if problem is None or totals.photos or isinstance(problem, Ended):
                teller.summary(totals)
            if isinstance(problem, Ended):
                raise problem
        return _Over(totals, signals.exit_code, problem)

    def follow(self, over: _Over, then: str | None) -> int:
        """Run the command that is to follow, and return the exit code."""
        code = over.exit_code
        if then is not None and (over.problem is None or over.totals.photos):
            data = self.voice.json or self.order.output == batch.STANDARD
            code = afterwards.run(then, over.totals, status=code, output=self.order.output, data_on_stdout=data)
        if over.problem is not None:
            raise over.problem
        if over.signalled is not None:
            raise Ended(over.signalled)
        return code

    def _ask(self) -> None:
        asked = bool(self.stop)
        self.stop.ask()
        if not self.voice.quiet and not asked:
            console.note("stopping when the photos in hand are done; once more to stop at once")

    def journals(self, *, read_only: bool = False) -> batch.Journals | None:
        """Return the journals that this call goes by, if any."""
        order = self.order
        if order.stream or order.output == batch.STANDARD:
            return None  # nothing stays that a later run could find
        if order.existing != "resume" and not self._begins_journal():
            return None
        settings = journal_settings(order, self.wishes, self.networks)
        unchanged = self.networks.unchanged
        device = self.networks.choice.name
        return batch.Journals(
            order, settings, photos=self.photos, unchanged=unchanged, device=device, read_only=read_only
        )

    def _begins_journal(self) -> bool:
        """Tell whether a journal is kept without --resume: of folders of outputs, but not for a photo that is named."""
        order = self.order
        if order.output is None or not order.into_folder:
            return False
        found = order.recursive or order.list_file is not None
        return found or self.photos != 1 or (order.output / journal.NAME).exists()

    def _jobs(self, listed: Sequence[batch.Job] | None, reporter: Reporter) -> Iterable[batch.Job]:
        """Give the photos to restore; what is known of them ahead is looked up meanwhile."""
        order = self.order
        if order.stream:
            return batch.pictures(order, stream.pictures(stream.standard_input()))
        if listed is None:
            return batch.watched(order, stop=lambda: bool(self.stop), tell=self._tell)
        if len(listed) > 1 and not (self.voice.quiet or self.voice.json):
            threading.Thread(target=self._survey, args=(listed, reporter), name="survey", daemon=True).start()
        return listed

    def _tell(self, text: str) -> None:
        if not self.voice.quiet:
            console.note(text)

    def _survey(self, listed: Sequence[batch.Job], reporter: Reporter) -> None:
        for job in listed:
            if self.stop:
                return
            extent = peek(job)
            with contextlib.suppress(OSError):
                size = 0 if job.source == batch.STANDARD else job.source.stat().st_size
                reporter.expect(
                    key_of(job), None if extent is None else extent.megapixels, size, job.source.suffix.lower()
                )

    def _restore(self, jobs: Iterable[batch.Job], teller: Teller, journals: batch.Journals | None) -> None:
        with lanes(
            lane_count(self.means, self.networks), shared=self.photos != 1, device=self.networks.choice.device
        ) as own:
            outcomes = batch.process(
                jobs,
                self.order,
                lambda job, photo: self._restored(job, photo, teller, own),
                pace=self.pace,
                journals=journals,
                stop=self.stop,
            )
            with contextlib.closing(outcomes):
                for outcome in outcomes:
                    teller.photo(outcome)

    def _restored(self, job: batch.Job, photo: Photo, teller: Teller, own: Lanes) -> batch.Restored:
        wishes = self.wishes
        if wishes.strip:
            photo = stripped_photo(photo)
        answer = teller.answers[key_of(job)] = self.networks.answer(photo)
        if answer.network is None or wishes.strength == 0:
            return batch.Restored(photo)
        advance = teller.reporter.photo(key_of(job), job.name, photo.megapixels)
        answered = restore(photo, answer.network, self.networks.settings, lanes=own, progress=advance)
        assert job.format is not None
        if wishes.provenance and "xmp" in codec.format_named(job.format).blocks:
            answered = signed(answered, _entry(wishes, answer.network))
        return batch.Restored(answered, answer.network.used, answer.network.redone.total)


_STOPPED: dict[int, Stopped] = {129: "terminated", 130: "interrupted", 143: "terminated"}


def _entry(wishes: Wishes, network: Blend) -> provenance.Entry:
    return provenance.Entry(
        version=__version__,
        task=wishes.task,
        weights=network.name,
        weights_sha256=" ".join(used.sha256 for used in network.used),
        strength=float(wishes.strength),
    )
