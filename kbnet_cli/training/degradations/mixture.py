"""Which degradations a training is made of, and how often each is taken."""

from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from kbnet_cli.training.degradations.camera import Camera
from kbnet_cli.training.degradations.defocus import Defocus
from kbnet_cli.training.degradations.gaussian import Gaussian
from kbnet_cli.training.degradations.jpeg import Jpeg
from kbnet_cli.training.degradations.pair import Pair
from kbnet_cli.training.degradations.rain import Rain


@runtime_checkable
class Degradation(Protocol):
    """What makes a clean patch a degraded one, at random."""

    @property
    def share(self) -> float:
        """How often it is taken, relative to the others."""

    @property
    def margin(self) -> int:
        """Pixels that `apply` needs on each side beyond what it returns."""

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Degrade one RGB patch, display-encoded 0…1."""


@dataclass(frozen=True)
class Mixture:
    """The degradations of a recipe; a patch gets one of them."""

    gaussian: Gaussian | None = None
    camera: Camera | None = None
    rain: Rain | None = None
    defocus: Defocus | None = None
    jpeg: Jpeg | None = None

    @property
    def parts(self) -> tuple[Degradation, ...]:
        """Those that the recipe has."""
        return tuple(part for field in fields(self) if (part := getattr(self, field.name)) is not None)

    @property
    def margin(self) -> int:
        """The largest margin that any of them needs."""
        return max((part.margin for part in self.parts), default=0)

    def choose(self, generator: np.random.Generator) -> Degradation:
        """Take one of them, by their shares."""
        shares = np.array([part.share for part in self.parts])
        return self.parts[generator.choice(len(shares), p=shares / shares.sum())]
