"""Make the noisy example: Gaussian noise of σ 25 on a clean photo, rounded to 8 bits, ICC profile and EXIF kept.

python examples/add_noise.py examples/rocks_clean.jpg examples/rocks.png
"""

import sys

import numpy as np
from PIL import Image

SIGMA = 25.0


def main(clean_path: str, noisy_path: str) -> None:
    """Read a clean photo and write a noisy one."""
    with Image.open(clean_path) as clean:
        pixels = np.asarray(clean.convert("RGB"), dtype=np.float64)
        noise = np.random.default_rng(0).normal(0, SIGMA, pixels.shape)
        noisy = Image.fromarray(np.clip(np.rint(pixels + noise), 0, 255).astype(np.uint8))
        noisy.save(noisy_path, optimize=True, icc_profile=clean.info.get("icc_profile"), exif=clean.getexif())


if __name__ == "__main__":
    main(*sys.argv[1:])
