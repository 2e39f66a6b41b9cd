"""How near restored pictures are to clean ones, and how near they were before."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from kbnet_cli.evaluate.trial import Trial

WORSE = 0.1
"""A picture that has lost more dB than this counts as made worse."""


@dataclass(frozen=True)
class Likeness:
    """How near a picture is to the clean one, both of 8 bits."""

    psnr: float
    """In dB. Infinite if they are equal."""
    ssim: float
    """1 if they are equal."""


@dataclass(frozen=True)
class Score:
    """One picture before and after restoration."""

    trial: Trial
    name: str
    before: Likeness
    after: Likeness

    @property
    def gain(self) -> float:
        """By how many dB it has come nearer; 0 if it was equal and still is."""
        return 0.0 if self.before.psnr == self.after.psnr else self.after.psnr - self.before.psnr

    def as_json(self) -> str:
        """Write it as one line; what is infinite is null."""
        return _line({"event": "picture", **_trial(self.trial), "picture": self.name, **_likenesses(self)})


@dataclass(frozen=True)
class Evaluation:
    """All pictures of one trial; means are means of the pictures' figures, as papers give them."""

    trial: Trial
    scores: tuple[Score, ...]

    @property
    def before(self) -> Likeness:
        """The mean before restoration."""
        return _mean_likeness(score.before for score in self.scores)

    @property
    def after(self) -> Likeness:
        """The mean after restoration."""
        return _mean_likeness(score.after for score in self.scores)

    @property
    def gain(self) -> float:
        """The mean gain in dB."""
        return _mean([score.gain for score in self.scores])

    @property
    def least_gain(self) -> float:
        """The gain in dB of the picture that gained least."""
        return min(score.gain for score in self.scores)

    @property
    def worse(self) -> int:
        """How many pictures were made worse by more than 0.1 dB."""
        return sum(score.gain < -WORSE for score in self.scores)

    def as_json(self, *, weights: str, precision: str, tile: int | None) -> str:
        """Write the means as one line, with what they were taken with; what is infinite is null."""
        counts = {"pictures": len(self.scores), **_likenesses(self)}
        ends = {"least_gain": _finite(self.least_gain, 4), "worse": self.worse}
        taken = {"weights": weights, "precision": precision, "tile": tile}
        return _line({"event": "mean", **_trial(self.trial), **counts, **ends, **taken})


def _trial(trial: Trial) -> dict[str, object]:
    level = None if trial.kind == "pairs" else trial.level
    return {"kind": trial.kind, "level": level, "channel": trial.channel}


def _likenesses(found: Score | Evaluation) -> dict[str, object]:
    return {
        "psnr_in": _finite(found.before.psnr, 4),
        "psnr_out": _finite(found.after.psnr, 4),
        "gain": _finite(found.gain, 4),
        "ssim_in": _finite(found.before.ssim, 6),
        "ssim_out": _finite(found.after.ssim, 6),
    }


def _finite(value: float, digits: int) -> float | None:
    return round(value, digits) if math.isfinite(value) else None


def _line(event: dict[str, object]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _mean_likeness(likenesses: Iterable[Likeness]) -> Likeness:
    found = list(likenesses)
    return Likeness(_mean([each.psnr for each in found]), _mean([each.ssim for each in found]))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
