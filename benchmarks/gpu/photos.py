"""A photo of 24 megapixels and 8 bits through the program's own `restore`, from array to array."""

import time
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np
from jaxtyping import Float32

from benchmarks.gpu.report import Item, Told
from benchmarks.gpu.scale import Scale, random_small
from kbnet_cli import tiles
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Engine, choose
from kbnet_cli.lanes import lanes, most_lanes
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration, plan, restore

ROUNDS = 4
"""The first sets up, the next may still record batches of the last tiles; the last counts."""


def items(scale: Scale) -> Iterator[Item]:
    """Give each precision that the device has."""
    for precision in scale.precisions if scale.device.type == "cuda" else ("fp32",):
        yield Item(precision, partial(whole, scale, precision))


def engine(scale: Scale, precision: str) -> Engine:
    """Return the program's engine with random weights in the published sizes."""
    facts = Facts(tile=scale.tile)
    return Engine(Checkpoint(random_small(scale.small), facts, "random"), choose(scale.device.type, precision))


def picture(scale: Scale, seed: int = 0) -> Float32[np.ndarray, "h w 3"]:
    """Return a smooth picture with noise on it, display-encoded."""
    height, width = scale.photo
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [0.5 + 0.35 * np.sin(x / (290 + 110 * c)) * np.cos(y / (230 + 70 * c)) for c in range(3)]
    noise = np.random.default_rng(seed).standard_normal((height, width, 3), dtype=np.float32)
    return (np.stack(waves, axis=-1) + 0.05 * noise).clip(0, 1).astype(np.float32)


def whole(scale: Scale, precision: str) -> Iterable[Told]:
    """Measure a precision: the first rounds pay for what is built once."""
    network = engine(scale, precision)
    photo = Photo((picture(scale) * 255).round().astype(np.uint8), "rgb", 8)
    settings = Restoration(scale.tile, tiles.default_overlap(scale.tile))
    count_of_tiles = plan(photo, network, settings).tiles
    count = most_lanes(network.choice.device, network.choice.precision)
    for turn in range(ROUNDS):
        with lanes(count, shared=False) as own:
            started = time.perf_counter()
            restored = restore(photo, network, settings, lanes=own)
            seconds = time.perf_counter() - started
        speed = photo.megapixels / seconds
        figures = {"photo, MP/s": speed} if precision == "bf16" and turn == ROUNDS - 1 else {}
        yield Told(
            (
                {
                    "precision": precision,
                    "turn": turn + 1,
                    "lanes": count,
                    "tiles": count_of_tiles,
                    "seconds": seconds,
                    "MP/s of the photo": speed,
                    "MP/s of tiles": count_of_tiles * scale.tile**2 / seconds / 1e6,
                },
            ),
            figures,
        )
        assert (restored.pixels != photo.pixels).any()
