"""Which networks answer which photo, and why."""

from dataclasses import dataclass, replace

from kbnet_cli.choosing import Choice
from kbnet_cli.errors import PhotoError
from kbnet_cli.journal import Used
from kbnet_cli.levels import Blend, Levels
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration, noise_of
from kbnet_cli.workers import AnyEngine, Workers

FAINT = 0.5
"""Noise below this, in 1/255, is less than the rounding to 8 bits."""


@dataclass(frozen=True)
class Answer:
    """What answers one photo, and the noise level that it was chosen by."""

    network: Blend | None
    """None where there is nothing to take out."""
    weights: str
    sigma: float | None = None
    """As given, else as found in the photo; in 1/255. None where nobody asked, or the photo is too small."""
    text: str | None = None
    """The same for a user."""


@dataclass(frozen=True)
class Selection:
    """The networks of one call: those of the weights named, or of a family those for each photo's noise."""

    weights: str
    choice: Choice
    settings: Restoration
    source: Blend | Levels
    sigma: float | None
    listens: bool
    """Whether the noise of a photo is to be found out."""
    workers: Workers | None = None
    """What shares tiles out, where there are several devices."""

    def close(self) -> None:
        """Give back what the networks hold besides themselves, and end other processes. No photo is answered then."""
        for engine in self.source.engines:
            engine.close()
        if self.workers is not None:
            self.workers.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the networks run, each thing once."""
        return tuple(dict.fromkeys(note for engine in self.source.engines for note in engine.notes))

    def answer(self, photo: Photo) -> Answer:
        """Settle what answers a photo.

        Raises:
            PhotoError: the photo is too small to tell its noise, and weights are to be chosen by it.
        """
        sigma = self.sigma
        if sigma is None and self.listens:
            sigma = noise_of(photo, self.settings)
        if isinstance(self.source, Blend):
            own = replace(self.source)  # so that it counts for this photo
            return Answer(own, self.weights, sigma, self._text(sigma))
        if sigma is None:
            raise PhotoError("is too small to tell its noise level", hint="add --sigma N")
        network = self.source.at(sigma)
        name = self.weights if network is None else network.name
        text = self._text(sigma) or f"noise level {sigma:g}"
        return Answer(network, name, sigma, f"{text}: {'left as it is' if network is None else name}")

    def _text(self, sigma: float | None) -> str | None:
        if sigma is None or self.sigma is not None:
            return None
        # Less cannot be seen, and may be far more that a camera has smoothed and compressed.
        return (
            "no white noise found" if sigma < FAINT else f"noise of about {sigma:.{1 if sigma < 10 else 0}f} (in 1/255)"
        )

    @property
    def used(self) -> tuple[Used, ...]:
        """The weights that any photo is answered with; of a family none, since it is each photo's own that count."""
        return self.source.used if isinstance(self.source, Blend) else ()

    @property
    def loaded(self) -> AnyEngine | None:
        """A network that is loaded, to tell how much others take; None where the first photo has to come first."""
        return next(iter(self.source.engines), None)

    def unchanged(self, used: tuple[Used, ...]) -> bool:
        """Tell whether weights that once answered a photo are still the same."""
        source = self.source
        return used in ((), source.used) if isinstance(source, Blend) else all(map(source.unchanged, used))

    def usual(self) -> Blend:
        """Return what answers a photo of which nothing is known; of a family a blend, which takes longest."""
        if isinstance(self.source, Blend):
            return self.source
        given = None if self.sigma is None else self.source.at(self.sigma)
        return given or self.source.widest()
