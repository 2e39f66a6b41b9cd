"""Weights of several fixed noise levels as one: a level in between is a blend of the two nearest answers."""

import threading
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Entry
from kbnet_cli.journal import Used
from kbnet_cli.workers import AnyEngine


@dataclass(frozen=True)
class Part:
    """A network's part in a blend."""

    engine: AnyEngine
    share: float
    """Of its residual: 0 is none of it, 1 the whole."""


class Count:
    """How many there were of something, told from any thread."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, number: int) -> None:
        """Count so many more."""
        with self._lock:
            self.total += number


@dataclass(frozen=True)
class Blend:
    """Networks whose residuals are added by their shares. It takes an engine's place."""

    parts: tuple[Part, ...]
    """At least one. What their shares lack of 1 is the input."""
    redone: Count = field(default_factory=Count, init=False, compare=False)
    """Tiles that were done again in float32. Engines are shared by photos; this is the blend's own, a copy's anew."""

    @property
    def name(self) -> str:
        """The weights and their shares: "a", or "0.5 a + 0.5 b"."""
        if self.whole:
            return self.parts[0].engine.checkpoint.name
        return " + ".join(f"{part.share:.2g} {part.engine.checkpoint.name}" for part in self.parts)

    @property
    def used(self) -> tuple[Used, ...]:
        """The weights, as journals name them."""
        return tuple(Used(part.engine.checkpoint.name, part.engine.checkpoint.sha256) for part in self.parts)

    @property
    def whole(self) -> bool:
        """Whether it is one network's answer as it is."""
        return len(self.parts) == 1 and self.parts[0].share == 1

    @property
    def engines(self) -> tuple[AnyEngine, ...]:
        """The networks themselves."""
        return tuple(part.engine for part in self.parts)

    @property
    def image_channels(self) -> int:
        """Channels of the tiles it takes: 1 or 3."""
        return self.parts[0].engine.image_channels

    @property
    def size_multiple(self) -> int:
        """What a tile's height and width must be multiples of."""
        return max(part.engine.size_multiple for part in self.parts)

    def residual(self, tiles: Float32[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        """Return what the networks would add to tiles, as `Engine.residual` does."""
        first, *others = self.parts
        total = _scaled(first.engine.residual(tiles, self.redone.add), first.share)
        for part in others:
            total = total + _scaled(part.engine.residual(tiles, self.redone.add), part.share)
        return total


def _scaled(residual: Float32[np.ndarray, "b h w c"], share: float) -> Float32[np.ndarray, "b h w c"]:
    return residual if share == 1 else residual * np.float32(share)


def family(name: str | None) -> tuple[Entry, ...]:
    """Return the entries of one kind for different noise levels, weakest first; none if the name is no family's.

    Those of gaussian-color are gaussian-color-15 and so on.
    """
    found = [
        entry for entry in catalogue.ENTRIES if _level(entry) is not None and entry.name.rpartition("-")[0] == name
    ]
    return tuple(sorted(found, key=level))


def level(entry: Entry) -> float:
    """Return the one noise level that weights are made for, in 1/255."""
    found = _level(entry)
    assert found is not None, entry.name
    return found


def _level(entry: Entry) -> float | None:
    ends = entry.facts.sigma
    return ends[0] if ends is not None and ends[0] == ends[1] > 0 else None


def shares(levels: Sequence[float], sigma: float) -> dict[float, float]:
    """Tell which of some fixed levels answer a noise level, and the share of each.

    Between two levels both do, linearly by how near they are. Above the highest it alone does. Below the lowest it does
    too, but only a part of its residual is taken, as small as the noise is against its level: the whole would smooth
    more than there is to take out. Nothing is taken out where there is no noise.

    Args:
        levels: rising, above 0.
        sigma: 0 or more, in the same units.
    """
    if sigma >= levels[-1]:
        return {levels[-1]: 1.0}
    above = bisect(levels, sigma)
    low, high = levels[above - 1] if above else 0.0, levels[above]
    upper = (sigma - low) / (high - low)
    return {at: share for at, share in ((low, 1 - upper), (high, upper)) if at and share}


class Levels:
    """A family of weights, each loaded when a photo needs it first, and kept."""

    def __init__(self, entries: tuple[Entry, ...], load: Callable[[str], AnyEngine]) -> None:
        self.entries = {level(entry): entry for entry in entries}
        self._load = load
        self._engines: dict[float, AnyEngine] = {}
        self._lock = threading.Lock()

    @property
    def levels(self) -> tuple[float, ...]:
        """Their noise levels, rising."""
        return tuple(self.entries)

    def at(self, sigma: float) -> Blend | None:
        """Return what answers a noise level, in 1/255; None if there is nothing to take out.

        Raises:
            KBNetError: weights that are needed are not to be had.
        """
        found = shares(self.levels, sigma)
        return Blend(tuple(Part(self._engine(at), share) for at, share in found.items())) if found else None

    def widest(self) -> Blend:
        """Return a blend of the two lowest levels: as slow and as large as any that a photo may need."""
        lowest = self.levels[:2]
        return Blend(tuple(Part(self._engine(at), 1 / len(lowest)) for at in lowest))

    @property
    def engines(self) -> tuple[AnyEngine, ...]:
        """Those that are loaded; all of a family are of one size."""
        return tuple(self._engines.values())

    def unchanged(self, used: Used) -> bool:
        """Tell whether weights that once answered a photo are still those of that name."""
        at = next((at for at, entry in self.entries.items() if entry.name == used.name), None)
        return at is not None and self._engine(at).checkpoint.sha256 == used.sha256

    def _engine(self, at: float) -> AnyEngine:
        with self._lock:  # photos are restored side by side
            if at not in self._engines:
                self._engines[at] = self._load(self.entries[at].name)
            return self._engines[at]
