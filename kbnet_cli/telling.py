"""What becomes of photos, told as lines on stderr or as JSON on stdout, and counted."""

import json
import sys
from dataclasses import replace

from kbnet_cli import batch, console, progress
from kbnet_cli.choosing import Choice
from kbnet_cli.forecast import Forecast
from kbnet_cli.outlook import Totals
from kbnet_cli.preparing import Voice
from kbnet_cli.progress import Reporter
from kbnet_cli.selection import Answer, Selection

Key = tuple[object, int | None]


def key_of(job: batch.Job) -> Key:
    """Return what a photo is known by, from its plan to its outcome."""
    return job.source, job.number


class Teller:
    """Tell what became of each photo."""

    def __init__(self, voice: Voice, networks: Selection, reporter: Reporter) -> None:
        self.voice = voice
        self.networks = networks
        self.reporter = reporter
        self.answers: dict[Key, Answer] = {}
        """To photos whose outcomes are still to come."""

    def photo(self, outcome: batch.Outcome) -> None:
        """Tell the outcome of one photo."""
        job, extent = outcome.job, outcome.extent
        key = key_of(job)
        answer = self.answers.pop(key, None)
        if outcome.error is not None:
            self.reporter.failures.add(job.name, outcome.error.message, target=str(job.target))
            console.error(outcome.error, cause=outcome.unexpected if self.voice.verbose else None)
        elif not self.voice.quiet:
            told = (answer.text,) if answer is not None and answer.text else ()
            for text in (*told, *outcome.notes, *_redone(outcome.redone, self.networks.choice)):
                console.note(f"note: {job.name}: {text}")
            # Of what an earlier run has done the table tells the number.
            if not self.voice.json and (outcome.status != "kept" or self.voice.verbose):
                console.note(_sentence(outcome, alone=self.reporter.outlook.photos == 1))
        self.reporter.finish(key, outcome.status, None if extent is None else extent.megapixels)
        if self.voice.json:
            write(self._event(outcome, answer))

    def _event(self, outcome: batch.Outcome, answer: Answer | None) -> dict[str, object]:
        extent, problem = outcome.extent, outcome.error
        choice, settings = self.networks.choice, self.networks.settings
        sigma = None if answer is None or answer.sigma is None else round(answer.sigma, 2)
        return {
            "event": "photo",
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
            "width": extent and extent.width,
            "height": extent and extent.height,
            "megapixels": extent and round(extent.megapixels, 6),
            "weights": self.networks.weights if answer is None else answer.weights,
            "sigma": sigma,
            "device": choice.name,
            "precision": choice.precision,
            "tile": settings.tile,
            "overlap": settings.overlap,
            "error": problem and {"code": problem.code, "message": problem.message, "hint": problem.hint},
        } | ({"redone_tiles": outcome.redone} if outcome.redone else {})

    def summary(self, totals: Totals) -> None:
        """Tell what became of all of them, and what is to be known of the networks."""
        notes = self.networks.notes
        _tell(notes, self.voice)
        if self.voice.json:
            write(totals.as_event() | _settled(self.networks.choice, notes))
        elif not self.voice.quiet and self.reporter.outlook.photos != 1:
            progress.conclude(totals, self.reporter.failures)


class Foreteller:
    """Tell what each photo would take, and what all would."""

    def __init__(self, voice: Voice, choice: Choice) -> None:
        self.voice = voice
        self.choice = choice
        self.totals = Totals()
        self._tiles = 0

    def photo(self, outcome: batch.Outcome, expected: Forecast | None) -> None:
        """Tell what a photo would take, or why it would not be done."""
        job, extent, totals = outcome.job, outcome.extent, self.totals
        counts = {outcome.status: getattr(totals, outcome.status) + 1}
        self.totals = replace(totals, **counts)
        if outcome.error is not None:
            console.error(outcome.error, cause=outcome.unexpected if self.voice.verbose else None)
        if extent is None or expected is None:
            if self.voice.json:
                problem = outcome.error
                said = problem and {"code": problem.code, "message": problem.message, "hint": problem.hint}
                write({"event": "plan", "input": str(job.source), "status": outcome.status, "error": said})
            elif outcome.error is None and not self.voice.quiet:
                console.note(_sentence(outcome, alone=False))
            return
        self.totals = replace(
            self.totals,
            megapixels=self.totals.megapixels + extent.megapixels,
            seconds=self.totals.seconds + expected.seconds,
        )
        self._tiles += expected.tiles
        height, width = expected.tile_size
        if self.voice.json:
            write(
                {
                    "event": "plan",
                    "input": str(job.source),
                    "output": str(job.target),
                    "width": extent.width,
                    "height": extent.height,
                    "megapixels": round(extent.megapixels, 6),
                    "tiles": expected.tiles,
                    "tile_width": width,
                    "tile_height": height,
                    "memory_bytes": expected.memory_bytes,
                    "seconds": round(expected.seconds, 3),
                }
            )
        else:
            console.note(
                f"{job.name} → {job.target}: {extent.megapixels:.2f} megapixels, "
                f"{expected.tiles} tiles of {width}×{height}, about {expected.memory_bytes / 1e6:.0f} MB "
                f"and {console.duration(expected.seconds)}"
            )

    def summary(self, memory_bytes: int, notes: tuple[str, ...]) -> None:
        """Tell what the whole job would take, and what is to be known of the networks."""
        totals = self.totals
        _tell(notes, self.voice)
        if self.voice.json:
            own = {"tiles": self._tiles, "memory_bytes": memory_bytes}
            write(totals.as_event() | own | _settled(self.choice, notes))
        elif not self.voice.quiet and totals.photos > 1:
            others = "".join(
                f", {count} {word}"
                for count, word in ((totals.kept, "kept"), (totals.skipped, "skipped"), (totals.failed, "failed"))
                if count
            )
            console.note(
                f"{totals.done} to do{others}: {totals.megapixels:.1f} megapixels, {self._tiles:,} tiles, "
                f"about {console.duration(totals.seconds)} and at most {memory_bytes / 1e6:.0f} MB"
            )


def _redone(tiles: int, choice: Choice) -> tuple[str, ...]:
    if not tiles:
        return ()
    some, were = ("1 tile", "was") if tiles == 1 else (f"{tiles:,} tiles", "were")
    return (f"{some} {were} not finite in {choice.precision} and {were} done again in fp32",)


def _tell(notes: tuple[str, ...], voice: Voice) -> None:
    if not voice.quiet:
        for note in notes:
            console.note(f"note: {note}")


def _settled(choice: Choice, notes: tuple[str, ...]) -> dict[str, object]:
    """Return what `auto` came to, and why, and notes if there are some."""
    settled: dict[str, object] = {
        "device": choice.name,
        "device_reason": choice.reason,
        "precision": choice.precision,
        "precision_reason": choice.precision_reason or "asked for",
    }
    return settled | ({"notes": list(notes)} if notes else {})


def write(event: dict[str, object]) -> None:
    """Write an event as a line of JSON on stdout."""
    sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _sentence(outcome: batch.Outcome, *, alone: bool) -> str:
    job, extent = outcome.job, outcome.extent
    if outcome.status == "kept":
        return f"{job.name}: kept, {job.goal} is done already"
    if extent is None:
        return f"{job.name}: skipped, {job.goal} exists"
    # Photos that are done side by side each take longer than their share.
    speed = f" ({extent.megapixels / outcome.seconds:.2f} MP/s)" if alone else ""
    return f"{job.name} → {job.goal}: {extent.megapixels:.2f} megapixels in {console.duration(outcome.seconds)}{speed}"
