"""One call of a restoring verb: settle what `auto` means, hand the photos to the pipeline, tell what became of each."""

import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kbnet_cli import __version__, batch, checkpoint, console, forecast, tiles
from kbnet_cli.catalogue import Entry, Facts, Task
from kbnet_cli.engine import Choice, Engine, choose
from kbnet_cli.errors import UsageError
from kbnet_cli.formats import codec, provenance
from kbnet_cli.formats.private import stripped_photo
from kbnet_cli.formats.provenance import signed
from kbnet_cli.hub.library import Library
from kbnet_cli.kernels import running
from kbnet_cli.levels import Blend, Levels, Part, family
from kbnet_cli.photo import Photo, Transfer
from kbnet_cli.restore import Restoration, restore
from kbnet_cli.selection import Answer, Selection
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
    provenance: bool = True
    """Whether the output's XMP tells what was done."""
    strip: bool = False
    """Whether private metadata is left out."""


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
    networks = _networks(wishes, voice)
    settings = networks.settings
    teller = Teller(voice, networks)
    usual = networks.usual() if dry_run else None
    measured = None if usual is None else forecast.probe(usual, settings)
    try:
        with console.reporting(len(found), quiet=voice.quiet or voice.json) as reporter:

            def restored(job: batch.Job, photo: Photo) -> Photo:
                if wishes.strip:
                    photo = stripped_photo(photo)
                answer = teller.answer = networks.answer(photo)
                if answer.network is None or wishes.strength == 0:
                    return photo
                progress = reporter.photo(_name(job.source), photo.megapixels)
                answered = restore(photo, answer.network, settings, progress=progress)
                assert job.format is not None
                if not wishes.provenance or "xmp" not in codec.format_named(job.format).blocks:
                    return answered
                return signed(answered, _entry(wishes, answer.network))

            outcomes = batch.process(found, order, restored) if measured is None else batch.inspect(found, order)
            for outcome in outcomes:
                if usual is not None and measured is not None and outcome.photo is not None:
                    teller.forecast(outcome, forecast.forecast(outcome.photo, usual, settings, measured))
                else:
                    teller.photo(outcome)
    except KeyboardInterrupt:
        teller.summary(len(found))
        return 130
    teller.summary(len(found))
    return 1 if teller.failed else 0


def _entry(wishes: Wishes, network: Blend) -> provenance.Entry:
    weights = (part.engine.checkpoint for part in network.parts)
    return provenance.Entry(
        version=__version__,
        task=wishes.task,
        weights=network.name,
        weights_sha256=" ".join(each.sha256 for each in weights),
        strength=float(wishes.strength),
    )


def prepare(wishes: Wishes, voice: Voice) -> tuple[Engine, Restoration]:
    """Load the weights, settle device, precision and tile, and tell what was chosen."""
    choice = choose(wishes.device, wishes.precision)
    with console.fetching(quiet=voice.quiet) as announce:
        tell = None if voice.quiet else console.note
        engine = _load(Library(wishes.places, announce, tell), wishes.weights, choice, wishes, voice)
    loaded = engine.checkpoint
    facts = loaded.facts
    _check_sigma(wishes.sigma, facts, loaded.name)
    settings = _settings(wishes, facts.tile)
    # Laid out once for nothing, so that a tile that does not fit is an error before the first photo.
    tiles.plan((1, 1), tile=settings.tile, overlap=settings.overlap, multiple=engine.size_multiple)
    _tell_choice(f"{loaded.name} ({loaded.architecture})", choice, settings, voice)
    return engine, settings


def _load(library: Library, weights: str | None, choice: Choice, wishes: Wishes, voice: Voice) -> Engine:
    loaded = checkpoint.load(library.obtain(weights, wishes.task))
    facts = loaded.facts
    if not voice.quiet and not facts.told:
        console.warning(
            f"{loaded.name} does not say what it was trained on: taking tiles of {facts.tile} and values 0 to 1"
        )
    if not voice.quiet and facts.task is not None and facts.task != wishes.task:
        console.warning(f"{loaded.name} is made to {facts.task}, not to {wishes.task}")
    return Engine(loaded, choice)


def _settings(wishes: Wishes, usual_tile: int) -> Restoration:
    tile = wishes.tile or usual_tile
    overlap = tiles.default_overlap(tile) if wishes.overlap is None else wishes.overlap
    return Restoration(tile, overlap, wishes.strength, wishes.transfer, keeps_means=wishes.task != "derain")


def _tell_choice(weights: str, choice: Choice, settings: Restoration, voice: Voice) -> None:
    if not voice.quiet:
        console.note(
            f"{weights} on {choice.device} in {choice.precision}, "
            f"tiles of {settings.tile} overlapping by {settings.overlap}"
        )
    if voice.verbose:
        console.note(f"device: {choice.device} ({choice.reason})")
        console.note(f"kernels: {running.running().on(choice.device, choice.precision)}")


def _networks(wishes: Wishes, voice: Voice) -> Selection:
    entries = family(wishes.weights)
    if entries:
        return _family(entries, wishes, voice)
    engine, settings = prepare(wishes, voice)
    listens = wishes.task == "denoise" and (voice.json or not voice.quiet)
    source = Blend((Part(engine, 1.0),))
    # Weights of one level may be given with it; no photo need be asked for that.
    return Selection(source.name, engine.choice, settings, source, wishes.sigma, listens)


def _family(entries: tuple[Entry, ...], wishes: Wishes, voice: Voice) -> Selection:
    if wishes.sigma is not None and not 0 <= wishes.sigma < math.inf:
        raise UsageError(f"--sigma {wishes.sigma:g} is no noise level", hint="expected 0 or more, in 1/255")
    choice = choose(wishes.device, wishes.precision)

    def announce(name: str) -> None:
        # A line and no bar: this may be within a photo, which has a bar of its own.
        if not voice.quiet:
            console.note(f"fetching {name}")

    def load(name: str) -> Engine:
        engine = _load(library, name, choice, wishes, voice)
        if voice.verbose:
            size = next(entry.parameters for entry in entries if entry.name == name) * 4 / 1e6
            console.note(f"{name} is loaded, and stays in memory: about {size:.0f} MB in fp32")
        return engine

    library = Library(wishes.places, announce, None if voice.quiet else console.note)
    source = Levels(entries, load)
    assert wishes.weights is not None
    settings = _settings(wishes, entries[0].facts.tile)
    made = ", ".join(f"{level:g}" for level in source.levels)
    _tell_choice(f"{wishes.weights} (noise levels {made})", choice, settings, voice)
    if wishes.sigma is not None:
        source.at(wishes.sigma)  # what is missing is an error before the first photo
    return Selection(wishes.weights, choice, settings, source, wishes.sigma, listens=True)


def _check_sigma(sigma: float | None, facts: Facts, name: str) -> None:
    if sigma is None or (facts.sigma is not None and facts.sigma[0] == facts.sigma[1] == sigma):
        return
    if facts.sigma is None:
        raise UsageError(
            f"{name} does not say which noise level it is for, got --sigma {sigma:g}",
            hint="leave --sigma out",
        )
    low, high = facts.sigma
    if low < high:
        raise UsageError(
            f"{name} is made for any noise from {low:g} to {high:g} and sees for itself how much there is, "
            f"got --sigma {sigma:g}",
            hint="leave --sigma out, or choose weights of fixed levels: -w gaussian-color",
        )
    kind = name.rpartition("-")[0]
    raise UsageError(
        f"{name} is made for noise of {low:g}, got --sigma {sigma:g}",
        hint=f"leave --sigma out, or take the weights of all levels: -w {kind}"
        if family(kind)
        else "leave --sigma out, or choose other --weights",
    )


class Teller:
    """Tell what became of each photo, as lines on stderr or as JSON on stdout, and count."""

    def __init__(self, voice: Voice, networks: Selection) -> None:
        self.voice = voice
        self.networks = networks
        self.answer: Answer | None = None
        """To the photo whose outcome comes next."""
        self.done = self.skipped = self.failed = 0

    def photo(self, outcome: batch.Outcome) -> None:
        """Tell the outcome of one photo."""
        setattr(self, outcome.status, getattr(self, outcome.status) + 1)
        answer, self.answer = self.answer, None
        if outcome.error is not None:
            console.error(outcome.error, cause=outcome.unexpected if self.voice.verbose else None)
        elif not self.voice.quiet:
            told = (answer.text,) if answer is not None and answer.text else ()
            for text in (*told, *outcome.notes):
                console.note(f"note: {_name(outcome.job.source)}: {text}")
            if not self.voice.json:
                console.note(_sentence(outcome))
        if self.voice.json:
            self._json(self._event(outcome, answer))

    def _event(self, outcome: batch.Outcome, answer: Answer | None) -> dict[str, object]:
        photo, problem = outcome.photo, outcome.error
        choice, settings = self.networks.choice, self.networks.settings
        sigma = None if answer is None or answer.sigma is None else round(answer.sigma, 2)
        return {
            "event": "photo",
            "input": str(outcome.job.source),
            "output": str(outcome.job.target),
            "status": outcome.status,
            "seconds": round(outcome.seconds, 3),
            "width": photo and photo.size[1],
            "height": photo and photo.size[0],
            "megapixels": photo and round(photo.megapixels, 6),
            "weights": self.networks.weights if answer is None else answer.weights,
            "sigma": sigma,
            "device": str(choice.device),
            "precision": choice.precision,
            "tile": settings.tile,
            "overlap": settings.overlap,
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
