"""One call of `kbnet evaluate`: trial after trial, and how each went is told."""

import sys

from kbnet_cli import console, progress
from kbnet_cli.evaluate.collection import Collection
from kbnet_cli.evaluate.restoring import tiled, whole
from kbnet_cli.evaluate.score import Evaluation, Score
from kbnet_cli.evaluate.scoring import scores
from kbnet_cli.evaluate.trial import Trial
from kbnet_cli.preparing import Voice, Wishes, prepare


def evaluate(collection: Collection, trials: tuple[Trial, ...], wishes: Wishes, voice: Voice) -> None:
    """Tell how near the weights bring degraded pictures to clean ones, one trial after the other.

    Raises:
        KBNetError: something is wrong with the pictures, the weights or the device.
    """
    samples = collection.samples()
    engine, settings = prepare(wishes, voice)
    restored = whole(engine) if wishes.tile is None else tiled(engine, settings)
    if wishes.tile is None and not voice.quiet:
        console.note("each picture goes whole, as in papers; --tile cuts it as photos are cut")
    found: list[Evaluation] = []
    try:
        with progress.stepping(quiet=voice.quiet, unit="pictures") as begin:
            for number, trial in enumerate(trials, 1):
                advance = begin(f"[{number}/{len(trials)}] {trial.title}" if len(trials) > 1 else trial.title)
                done: list[Score] = []
                for score in scores(restored, samples, trial):
                    done.append(score)
                    advance(len(done), len(samples))
                    if voice.json:
                        _write(score.as_json())
                found.append(Evaluation(trial, tuple(done)))
                if voice.json:
                    name, precision = engine.checkpoint.name, engine.choice.precision
                    _write(found[-1].as_json(weights=name, precision=precision, tile=wishes.tile))
    finally:
        for text in () if voice.quiet else engine.notes:
            console.warning(text)
        # Trials that are done are told, whatever becomes of the others.
        if found and not voice.json:
            console.evaluations(found, each=voice.verbose)


def _write(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
