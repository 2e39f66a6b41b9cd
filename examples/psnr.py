"""Tell how close two 8-bit pictures are, as PSNR in dB; fail if it is less than asked for.

python examples/psnr.py examples/rocks_denoised.png examples/rocks_clean.jpg --at-least 28.9
"""

import argparse
import sys

import numpy as np
from PIL import Image


def psnr(first_path: str, second_path: str) -> float:
    """Return 10 · log10(255² / mean squared difference) over all pixels and channels."""
    first, second = (
        np.asarray(Image.open(path).convert("RGB"), dtype=np.float64) for path in (first_path, second_path)
    )
    return float(10 * np.log10(255**2 / np.mean((first - second) ** 2)))


def main() -> int:
    """Print the PSNR of two pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    parser.add_argument("--at-least", type=float, default=0.0, metavar="DB")
    arguments = parser.parse_args()
    found = psnr(arguments.first, arguments.second)
    sys.stdout.write(f"{found:.2f} dB\n")
    return 0 if found >= arguments.at_least else 1


if __name__ == "__main__":
    sys.exit(main())
