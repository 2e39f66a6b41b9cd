"""Gaussian noise of unknown strength: that of the denoising papers."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from kbnet_cli.training.degradations.pair import Pair


@dataclass(frozen=True)
class Gaussian:
    """White Gaussian noise of one strength a patch, not clipped, as in the protocol of the Gaussian papers."""

    share: float = 1.0
    """How often it is taken, relative to the recipe's other degradations."""
    sigma: tuple[float, float] = (0.0, 55.0)
    """The range of standard deviations in 1/255, drawn uniformly for each patch."""

    @property
    def margin(self) -> int:
        """Pixels needed on each side beyond what is returned."""
        return 0

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Add the noise."""
        strength = np.float32(generator.uniform(*self.sigma) / 255)
        return Pair(clean + strength * generator.standard_normal(clean.shape, dtype=np.float32), clean)
