"""A photo of 24 megapixels through the program's own tiles and engine, from array to array."""

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

ROUNDS = 2


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
    """Measure a precision: a first photo pays for what is built once, then the same again."""
    network = engine(scale, precision)
    given = picture(scale)
    restored = np.empty_like(given)
    overlap = tiles.default_overlap(scale.tile)
    layout = tiles.plan(scale.photo, tile=scale.tile, overlap=overlap, multiple=network.size_multiple)
    pixels, through = given.shape[0] * given.shape[1], layout.tiles * scale.tile**2

    def write(top: int, rows: Float32[np.ndarray, "h w c"]) -> None:
        restored[top : top + len(rows)] = rows

    count = most_lanes(network.choice.device, network.choice.precision)
    for turn in range(ROUNDS):
        with lanes(count, shared=False) as own:
            started = time.perf_counter()
            tiles.run(
                layout,
                read=lambda rows, columns: given[np.ix_(rows, columns)],
                answer=network.residual,
                write=write,
                lanes=own,
            )
            seconds = time.perf_counter() - started
        speed = pixels / seconds / 1e6
        figures = {"photo, MP/s": speed} if precision == "bf16" and turn == ROUNDS - 1 else {}
        yield Told(
            (
                {
                    "precision": precision,
                    "turn": "first" if turn == 0 else "again",
                    "lanes": count,
                    "tiles": layout.tiles,
                    "seconds": seconds,
                    "MP/s of the photo": speed,
                    "MP/s of tiles": through / seconds / 1e6,
                },
            ),
            figures,
        )
    assert np.isfinite(restored).all()
