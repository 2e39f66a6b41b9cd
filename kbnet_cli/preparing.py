"""What a restoring verb is asked for, and what it goes by: weights, device, precision and tile, settled and told."""

import math
from dataclasses import dataclass, field
from typing import Literal

from kbnet_cli import checkpoint, console, tiles
from kbnet_cli.catalogue import Entry, Facts, Task
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Choice, Engine, choose
from kbnet_cli.errors import UsageError
from kbnet_cli.hub.library import Library
from kbnet_cli.kernels import running
from kbnet_cli.levels import Blend, Levels, Part, family
from kbnet_cli.photo import Transfer
from kbnet_cli.restore import Restoration
from kbnet_cli.selection import Selection
from kbnet_cli.settings import Places
from kbnet_cli.workers import AnyEngine, RemoteEngine, Workers


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


def prepare(wishes: Wishes, voice: Voice) -> tuple[Engine, Restoration]:
    """Load the weights, settle one device, precision and tile, and tell what was chosen."""
    choice = choose(wishes.device, wishes.precision).first
    loaded, settings = _one(wishes, choice, voice)
    return Engine(loaded, choice), settings


def _one(wishes: Wishes, choice: Choice, voice: Voice) -> tuple[Checkpoint, Restoration]:
    """Load weights that are no family, settle the tile, and tell what was chosen."""
    with console.fetching(quiet=voice.quiet) as announce:
        tell = None if voice.quiet else console.note
        loaded = _load(Library(wishes.places, announce, tell), wishes.weights, wishes, voice)
    _check_sigma(wishes.sigma, loaded.facts, loaded.name)
    settings = _settings(wishes, loaded.facts.tile)
    # Laid out once for nothing, so that a tile that does not fit is an error before the first photo.
    tiles.plan((1, 1), tile=settings.tile, overlap=settings.overlap, multiple=loaded.network.size_multiple)
    _tell_choice(f"{loaded.name} ({loaded.architecture})", choice, settings, voice)
    return loaded, settings


def _workers(choice: Choice, settings: Restoration, voice: Voice) -> Workers | None:
    """Return what shares tiles out to several devices; None for one."""
    if not choice.others:
        return None
    return Workers(choice, tile=settings.tile, tell=None if voice.quiet else console.warning)


def _engine(loaded: Checkpoint, choice: Choice, workers: Workers | None) -> AnyEngine:
    """Return what answers tiles: in this process on one device, or in others on several."""
    return Engine(loaded, choice) if workers is None else RemoteEngine(loaded, workers)


def _load(library: Library, weights: str | None, wishes: Wishes, voice: Voice) -> Checkpoint:
    loaded = checkpoint.load(library.obtain(weights, wishes.task))
    facts = loaded.facts
    if not voice.quiet and not facts.told:
        console.warning(
            f"{loaded.name} does not say what it was trained on: taking tiles of {facts.tile} and values 0 to 1"
        )
    if not voice.quiet and facts.task is not None and facts.task != wishes.task:
        console.warning(f"{loaded.name} is made to {facts.task}, not to {wishes.task}")
    return loaded


def _settings(wishes: Wishes, usual_tile: int) -> Restoration:
    tile = wishes.tile or usual_tile
    overlap = tiles.default_overlap(tile) if wishes.overlap is None else wishes.overlap
    return Restoration(tile, overlap, wishes.strength, wishes.transfer, keeps_means=wishes.task != "derain")


def _tell_choice(weights: str, choice: Choice, settings: Restoration, voice: Voice) -> None:
    if not voice.quiet:
        if choice.warning:
            console.warning(choice.warning)
        console.note(
            f"{weights} on {choice.name} in {choice.precision}, "
            f"tiles of {settings.tile} overlapping by {settings.overlap}"
        )
        if running.compiles_first(choice.device):
            console.note(f"the kernels for {choice.device} are compiled first, once: a minute or two")
    if voice.verbose:
        console.note(f"device: {choice.name} ({choice.reason})")
        if choice.precision_reason:
            console.note(f"precision: {choice.precision} ({choice.precision_reason})")
        console.note(f"kernels: {running.running().on(choice.device, choice.precision)}")


def networks_for(wishes: Wishes, voice: Voice) -> Selection:
    """Return what answers the photos of a call: the weights that are asked for, or a family of them.

    Raises:
        KBNetError: weights or device are not to be had.
    """
    entries = family(wishes.weights)
    if entries:
        return _family(entries, wishes, voice)
    choice = choose(wishes.device, wishes.precision)
    loaded, settings = _one(wishes, choice, voice)
    workers = _workers(choice, settings, voice)
    listens = wishes.task == "denoise" and (voice.json or not voice.quiet)
    source = Blend((Part(_engine(loaded, choice, workers), 1.0),))
    # Weights of one level may be given with it; no photo need be asked for that.
    return Selection(source.name, choice, settings, source, wishes.sigma, listens, workers)


def _family(entries: tuple[Entry, ...], wishes: Wishes, voice: Voice) -> Selection:
    if wishes.sigma is not None and not 0 <= wishes.sigma < math.inf:
        raise UsageError(f"--sigma {wishes.sigma:g} is no noise level", hint="expected 0 or more, in 1/255")
    choice = choose(wishes.device, wishes.precision)

    def announce(name: str) -> None:
        # A line and no bar: this may be within a photo, which has a bar of its own.
        if not voice.quiet:
            console.note(f"fetching {name}")

    def load(name: str) -> AnyEngine:
        engine = _engine(_load(library, name, wishes, voice), choice, workers)
        if voice.verbose:
            size = next(entry.parameters for entry in entries if entry.name == name) * 4 / 1e6
            console.note(f"{name} is loaded, and stays in memory: about {size:.0f} MB in fp32")
        return engine

    library = Library(wishes.places, announce, None if voice.quiet else console.note)
    source = Levels(entries, load)
    assert wishes.weights is not None
    settings = _settings(wishes, entries[0].facts.tile)
    workers = _workers(choice, settings, voice)
    made = ", ".join(f"{level:g}" for level in source.levels)
    _tell_choice(f"{wishes.weights} (noise levels {made})", choice, settings, voice)
    if wishes.sigma is not None:
        source.at(wishes.sigma)  # what is missing is an error before the first photo
    return Selection(wishes.weights, choice, settings, source, wishes.sigma, listens=True, workers=workers)


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
