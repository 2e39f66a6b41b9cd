"""One trial of weights: what is done to the clean pictures, and what of the answers is measured."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from kbnet_cli.evaluate import degradation

Kind = Literal["gaussian", "jpeg", "defocus", "pairs"]
Channel = Literal["rgb", "y"]


@dataclass(frozen=True)
class Trial:
    """A degradation of one strength, or pairs as they are, measured over all channels or on luma."""

    kind: Kind
    level: float = 0.0
    """σ in 1/255, JPEG's quality, or the radius in pixels; of no meaning for pairs."""
    channel: Channel = "rgb"

    @property
    def title(self) -> str:
        """What it is called in a table."""
        words = {"gaussian": "σ {:g}", "jpeg": "quality {:g}", "defocus": "radius {:g}", "pairs": "pairs"}
        return words[self.kind].format(self.level)

    def degraded(self, clean: UInt8[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
        """Return what the network is to see: display-encoded, 0…1 except for Gaussian noise, which is not clipped."""
        match self.kind:
            case "gaussian":
                return degradation.with_gaussian_noise(clean, sigma=self.level)
            case "jpeg":
                return degradation.compressed(clean, quality=round(self.level))
            case "defocus":
                return degradation.defocused(clean, radius=self.level)
            case "pairs":
                raise AssertionError("pairs have a degraded picture")
