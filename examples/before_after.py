"""Make the README's picture: a crop at 100 % before and after, side by side.

python examples/before_after.py examples/rocks.png examples/rocks_denoised.png examples/before-after.png
"""

import sys

from PIL import Image

CROP = (60, 40, 440, 320)
"""Left, top, right, bottom."""
GAP = 8


def main(before_path: str, after_path: str, page_path: str) -> None:
    """Put two crops beside each other, one pixel a pixel."""
    crops = [Image.open(path).convert("RGB").crop(CROP) for path in (before_path, after_path)]
    width, height = crops[0].size
    page = Image.new("RGB", (2 * width + GAP, height), "white")
    page.paste(crops[0], (0, 0))
    page.paste(crops[1], (width + GAP, 0))
    page.save(page_path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
