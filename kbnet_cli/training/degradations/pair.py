"""What a degradation makes of a clean patch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32


@dataclass(frozen=True)
class Pair:
    """What a network sees and what it must answer, display-encoded, 0 is black and 1 is white."""

    degraded: Float32[np.ndarray, "h w c"]
    """May reach outside 0…1 where the degradation does not clip."""
    clean: Float32[np.ndarray, "h w c"]
