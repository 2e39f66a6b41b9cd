"""Make the pictures of the model cards: degraded, restored and clean crops at 100 %, what works above what does not.

python examples/card_pictures.py FOLDER weights/pictures

FOLDER holds `prairie_falcon.jpg`, `silver_fir.jpg` and `wood_anemones.jpg` of immich-app/test-assets, public domain.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from kbnet_cli.catalogue import find
from kbnet_cli.checkpoint import load
from kbnet_cli.engine import Engine, choose
from kbnet_cli.evaluate.degradation import compressed, defocused, from_uint8, to_uint8, with_gaussian_noise
from kbnet_cli.evaluate.restoring import whole
from kbnet_cli.training.degradations.rain import Rain

CROP_HEIGHT, CROP_WIDTH, GAP = 200, 260, 6


@dataclass(frozen=True)
class Crop:
    """Where a crop is taken."""

    photo: str
    top: int
    left: int


WORKS, FAILS = Crop("prairie_falcon.jpg", 170, 215), Crop("wood_anemones.jpg", 60, 130)
WOOD = Crop("silver_fir.jpg", 90, 120)
"""Dark enough for rain to be seen."""


def rain(seed: int, coverage: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return rain that falls the same each time."""
    strong = Rain(
        kinds=(0.0, 1.0, 0.0),
        dry_share=0.0,
        sharp_coverage=(coverage, coverage),
        sharp_brightness=(0.6, 0.9),
        jpeg_share=0.0,
    )
    return lambda clean: strong.apply(from_uint8(clean), np.random.default_rng(seed)).degraded


DEGRADATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "denoise-small": (
        lambda clean: with_gaussian_noise(clean, sigma=25),
        lambda clean: with_gaussian_noise(clean, sigma=50),
    ),
    "derain-small": (rain(8, 0.15), rain(4, 0.5)),
    "deblur-small": (lambda clean: defocused(clean, radius=1.5), lambda clean: defocused(clean, radius=4)),
    "dejpeg-small": (lambda clean: compressed(clean, quality=20), lambda clean: compressed(clean, quality=8)),
}


def row(name: str, degrade: Callable[[np.ndarray], np.ndarray], photo: Path, crop: Crop) -> np.ndarray:
    """Put three crops beside each other, one pixel a pixel."""
    entry = find(name)
    assert entry is not None
    assert entry.path is not None
    clean = np.asarray(Image.open(photo).convert("RGB"))
    degraded = degrade(clean)
    restored = whole(Engine(load(entry.path), choose("cpu", "fp32")))(degraded)
    here = (slice(crop.top, crop.top + CROP_HEIGHT), slice(crop.left, crop.left + CROP_WIDTH))
    gap = np.full((CROP_HEIGHT, GAP, 3), 255, np.uint8)
    return np.concatenate([to_uint8(degraded)[here], gap, to_uint8(restored)[here], gap, clean[here]], axis=1)


def main(folder: str, output: str) -> None:
    """Write NAME.jpg for all bundled weights."""
    Path(output).mkdir(parents=True, exist_ok=True)
    for name, degradations in DEGRADATIONS.items():
        crops = zip(degradations, (WOOD if name == "derain-small" else WORKS, FAILS), strict=True)
        rows = [row(name, degrade, Path(folder) / crop.photo, crop) for degrade, crop in crops]
        gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
        page = Image.fromarray(np.concatenate([rows[0], gap, rows[1]]))
        page.save(Path(output) / f"{name}.jpg", quality=92, subsampling=0)


if __name__ == "__main__":
    main(*sys.argv[1:])
