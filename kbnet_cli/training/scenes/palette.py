"""The colours that a scene is painted with."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Palette:
    """Colours that occur together, display-encoded 0…255."""

    colours: UInt8[np.ndarray, "n 3"]

    def some(self, generator: np.random.Generator, count: int) -> Float32[np.ndarray, "{count} 3"]:
        """Draw colours, each as often as it stands in the palette."""
        return self.colours[generator.integers(len(self.colours), size=count)].astype(np.float32)
