"""What makes a clean patch a degraded one."""

import numpy as np
from jaxtyping import Float32


def add_gaussian_noise(
    patches: Float32[np.ndarray, "b c h w"], generator: np.random.Generator, *, sigma: tuple[float, float]
) -> Float32[np.ndarray, "b c h w"]:
    """Add Gaussian noise of one strength a patch, drawn uniformly from a range in 1/255.

    Display-encoded values, 0…1. The sum is not clipped, as in the protocol of the Gaussian papers.
    """
    low, high = sigma
    strengths = generator.uniform(low / 255, high / 255, size=(len(patches), 1, 1, 1)).astype(np.float32)
    noise = generator.standard_normal(patches.shape, dtype=np.float32)
    noisy: Float32[np.ndarray, "b c h w"] = patches + strengths * noise
    return noisy
