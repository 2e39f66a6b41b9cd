"""One call of a restoring verb: settle what `auto` means, hand the photos to the pipeline, tell what became of each."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32

from kbnet_cli import batch, checkpoint, console, forecast, tiles
from kbnet_cli.catalogue import Facts, Task
from kbnet_cli.engine import Engine, choose
from kbnet_cli.errors import UsageError
from kbnet_cli.evaluate import evaluate_gaussian
from kbnet_cli.hub.library import Library
from kbnet_cli.kernels import running
from kbnet_cli.photo import Photo, Transfer
from kbnet_cli.restore import Restoration, restore
from kbnet_cli.settings import Places


@dataclass(frozen=True)
class Wishes:
    """What the command line says of the restoration; None is `auto`."""

    task: Task
    weights: str | None = None
    sigma: float | None = None
    strength: float = 1.0
    transfer: Literal["auto"] | Transfer = "auto"
    tile: int | None = None
    overlap: int | None = None
    device: str = "auto"
    precision: str = "auto"
    places: Places = field(default_factory=Places)


@dataclass(frozen=True)
class Voice:
    """How much is told, and how."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False


def run(order: batch.Order, wishes: Wishes, voice: Voice, *, dry_run: bool) -> int:
    """Restore every photo of an order and return the exit code: 0 all done, 1 at least one failed, 130 interrupted.

    Raises:
        KBNetError: something is wrong that would fail every photo: usage, weights, device.
    """
    if order.output == batch.STANDARD and sys.stdout.isatty():
        raise UsageError("a picture would be written to the terminal", hint="pipe it: -o - | other-program")
    found = batch.jobs(order)
    if not found:
        raise UsageError("no photos found", hint="check the folder; names and first bytes both show no picture")
    engine, settings = prepare(wishes, voice)
    teller = Teller(voice, engine, settings)
    measured = forecast.probe(engine, settings) if dry_run else None
    try:
        with console.reporting(len(found), quiet=voice.quiet or voice.json) as reporter:

            def restored(job: batch.Job, photo: Photo) -> Photo:
                progress = reporter.photo(_name(job.source), photo.megapixels)
                return restore(photo, engine, settings, progress=progress)

            outcomes = batch.process(found, order, restored) if measured is None else batch.inspect(found, order)
            for outcome in outcomes:
                if measured is not None and outcome.photo is not None:
                    teller.forecast(outcome, forecast.forecast(outcome.photo, engine, settings, measured))
                else:
                    teller.photo(outcome)
    except KeyboardInterrupt:
        teller.summary(len(found))
        return 130
    teller.summary(len(found))
    return 1 if teller.failed else 0


def evaluate(folder: Path, sigmas: tuple[float, ...], wishes: Wishes, voice: Voice) -> None:
    """Print the mean PSNR of the weights on a folder of clean pictures, one line a noise level."""
    engine, _ = prepare(wishes, voice)

    def restored(picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
        return picture + engine.residual(picture[None])[0]

    for sigma in sigmas:
        with console.reporting(1, quiet=voice.quiet) as reporter:
            progress = reporter.photo(f"σ {sigma:g}", 0.0) or (lambda _done, _total: None)
            found = evaluate_gaussian(restored, folder, sigma=sigma, progress=progress)
        event = {"sigma": sigma, "psnr": round(found.psnr, 3), "pictures": len(found.pictures)}
        line = (
            json.dumps(event) if voice.json else f"σ {sigma:g}: {found.psnr:.2f} dB over {len(found.pictures)} pictures"
        )
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


def prepare(wishes: Wishes, voice: Voice) -> tuple[Engine, Restoration]:
    """Load the weights, settle device, precision and tile, and tell what was chosen."""
    choice = choose(wishes.device, wishes.precision)
    with console.fetching(quiet=voice.quiet) as announce:
        tell = None if voice.quiet else console.note
        path = Library(wishes.places, announce, tell).obtain(wishes.weights, wishes.task)
    loaded = checkpoint.load(path)
    facts = loaded.facts
    _check_sigma(wishes.sigma, facts, loaded.name)
    if not voice.quiet and not facts.told:
        console.warning(
            f"{loaded.name} does not say what it was trained on: taking tiles of {facts.tile} and values 0 to 1"
        )
    if not voice.quiet and facts.task is not None and facts.task != wishes.task:
        console.warning(f"{loaded.name} is made to {facts.task}, not to {wishes.task}")
    engine = Engine(loaded, choice)
    tile = wishes.tile or facts.tile
    overlap = tiles.default_overlap(tile) if wishes.overlap is None else wishes.overlap
    # Laid out once for nothing, so that a tile that does not fit is an error before the first photo.
    tiles.plan((1, 1), tile=tile, overlap=overlap, multiple=engine.size_multiple)
    settings = Restoration(tile, overlap, wishes.strength, wishes.transfer)
    if not voice.quiet:
        console.note(
            f"{loaded.name} ({loaded.architecture}) on {choice.device} in {choice.precision}, "
            f"tiles of {tile} overlapping by {overlap}"
        )
    if voice.verbose:
        console.note(f"device: {choice.device} ({choice.reason})")
        console.note(f"kernels: {running.running().on(choice.device, choice.precision)}")
    return engine, settings


def _check_sigma(sigma: float | None, facts: Facts, name: str) -> None:
    if sigma is None or (facts.sigma is not None and facts.sigma[0] == facts.sigma[1] == sigma):
        return
    if facts.sigma is None:
        raise UsageError(
            f"{name} does not say which noise level it is for, got --sigma {sigma:g}",
            hint="leave --sigma out",
        )
    low, high = facts.sigma
    made = f"noise of {low:g}" if low == high else f"any noise from {low:g} to {high:g}"
    raise UsageError(
        f"{name} is made for {made}, got --sigma {sigma:g}",
        hint="leave --sigma out, or choose other --weights",
    )


class Teller:
    """Tell what became of each photo, as lines on stderr or as JSON on stdout, and count."""

    def __init__(self, voice: Voice, engine: Engine, settings: Restoration) -> None:
        self.voice = voice
        self.engine = engine
        self.settings = settings
        self.done = self.skipped = self.failed = 0

    def photo(self, outcome: batch.Outcome) -> None:
        """Tell the outcome of one photo."""
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        if outcome.error is not None:
            console.error(outcome.error, cause=outcome.unexpected if self.voice.verbose else None)
        elif not self.voice.quiet:
            for text in outcome.notes:
                console.note(f"note: {_name(outcome.job.source)}: {text}")
            if not self.voice.json:
                console.note(_sentence(outcome))
        if self.voice.json:
            self._json(self._event(outcome))

    def _event(self, outcome: batch.Outcome) -> dict[str, object]:
        photo, problem = outcome.photo, outcome.error
        choice = self.engine.choice
        return {
            "event": "photo",
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
            "width": photo and photo.size[1],
            "height": photo and photo.size[0],
            "megapixels": photo and round(photo.megapixels, 6),
            "weights": self.engine.checkpoint.name,
            "device": str(choice.device),
            "precision": choice.precision,
            "tile": self.settings.tile,
            "overlap": self.settings.overlap,
            "error": problem and {"code": problem.code, "message": problem.message, "hint": problem.hint},
        }

    def forecast(self, outcome: batch.Outcome, expected: forecast.Forecast) -> None:
        """Tell what a photo would take."""
        job, photo = outcome.job, outcome.photo
        assert photo is not None
        self.done += 1
        height, width = expected.tile_size
        if self.voice.json:
            event: dict[str, object] = {
                "event": "plan",
                "input": str(job.source),
                "output": str(job.target),
                "width": photo.size[1],
                "height": photo.size[0],
                "megapixels": round(photo.megapixels, 6),
                "tiles": expected.tiles,
                "tile_width": width,
                "tile_height": height,
                "memory_bytes": expected.memory_bytes,
                "seconds": round(expected.seconds, 3),
            }
            self._json(event)
        else:
            console.note(
                f"{_name(job.source)} → {job.target}: {photo.megapixels:.2f} megapixels, "
                f"{expected.tiles} tiles of {width}×{height}, about {expected.memory_bytes / 1e6:.0f} MB "
                f"and {console.duration(expected.seconds)}"
            )

    def summary(self, photos: int) -> None:
        """Tell the counts, of so many photos in all."""
        left = photos - self.done - self.skipped - self.failed
        if self.voice.json:
            counts = {"done": self.done, "skipped": self.skipped, "failed": self.failed, "left": left}
            self._json({"event": "summary", **counts})
        elif not self.voice.quiet and photos > 1:
            parts = [f"{self.done} done", f"{self.skipped} skipped", f"{self.failed} failed"]
            console.note(", ".join(parts + ([f"{left} left"] if left else [])))

    @staticmethod
    def _json(event: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(event, ensure_ascii=False) + "\n")
        sys.stdout.flush()


def _name(source: Path) -> str:
    return "standard input" if source == batch.STANDARD else str(source)


def _sentence(outcome: batch.Outcome) -> str:
    target = "standard output" if outcome.job.target == batch.STANDARD else str(outcome.job.target)
    if outcome.photo is None:
        return f"{_name(outcome.job.source)}: skipped, {target} exists"
    megapixels, seconds = outcome.photo.megapixels, outcome.seconds
    return (
        f"{_name(outcome.job.source)} → {target}: {megapixels:.2f} megapixels in {console.duration(seconds)} "
        f"({megapixels / seconds:.2f} MP/s)"
    )
