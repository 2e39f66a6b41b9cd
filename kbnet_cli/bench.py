"""How fast weights are on this machine: seconds a tile, megapixels a second, memory."""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float32

from kbnet_cli import checkpoint, tiles
from kbnet_cli.engine import Engine, choose
from kbnet_cli.errors import UsageError
from kbnet_cli.hub.library import Library
from kbnet_cli.hub.transfer import Announce
from kbnet_cli.kernels import running
from kbnet_cli.lanes import lanes, most_lanes
from kbnet_cli.machine import PeakMemory, processor
from kbnet_cli.replaying import RECURS
from kbnet_cli.restore import channel_groups
from kbnet_cli.settings import Places

PHOTO = (4000, 6000)
"""The size of the photo whose time is estimated: 24 megapixels."""
AT_ONCE_ROUNDS, AT_ONCE_ROUNDS_ON_GPU = 2, 8
"""So often as many tiles as are answered at once. On a GPU the last of them go in smaller batches."""
DROPPED, DROPPED_ON_GPU = 1, RECURS + 1
"""Rounds that do not count. On a GPU a batch of a size is set up when it comes first, and later recorded."""
SMALL = 64
"""A first picture of this size pays for what loading does not: pages of libraries, threads."""


@dataclass(frozen=True)
class Measurement:
    """How fast weights were."""

    weights: str
    architecture: str
    device: str
    precision: str
    processor: str
    threads: int
    kernels: str
    torch: str
    size: int
    seconds: tuple[float, ...]
    """Of each round that counts."""
    peak_memory_bytes: int | None
    """Above what the program held with the weights loaded; on a GPU, of its own memory. None: unknown."""
    tile: int
    """The weights' own, of which the photo's estimate is made."""
    tiles_at_once: int
    """As photos are restored."""
    at_once_megapixels_a_second: float
    """With so many tiles at once."""
    photo_seconds: float
    """What a photo of 24 megapixels would take in the network."""
    notes: tuple[str, ...]
    """What costs time here."""

    @property
    def median_seconds(self) -> float:
        """The middle one of the rounds."""
        return statistics.median(self.seconds)

    @property
    def megapixels_a_second(self) -> float:
        """The tile's megapixels by the median."""
        return self.size**2 / 1e6 / self.median_seconds

    def as_json(self) -> str:
        """Return one line of JSON."""
        event = {
            "event": "bench",
            **asdict(self),
            "median_seconds": self.median_seconds,
            "megapixels_a_second": self.megapixels_a_second,
        }
        return json.dumps(event, ensure_ascii=False)


def load(
    weights: str | None,
    *,
    device: str,
    precision: str,
    places: Places | None = None,
    announce: Announce | None = None,
) -> Engine:
    """Load weights by a name, an address or a path, or the bundled ones; on the first of several devices.

    Raises:
        KBNetError: the weights or the device are not there.
    """
    choice = choose(device, precision).first
    return Engine(checkpoint.load(Library(places or Places(), announce).obtain(weights, "denoise")), choice)


def measure(
    engine: Engine, *, size: int, rounds: int, progress: Callable[[int, int], None] | None = None
) -> Measurement:
    """Send a synthetic tile through a network for so many rounds; last, several at once.

    Of both the first do not count: one, or on a GPU some more. `progress` is told (tiles done, tiles in all).

    Raises:
        UsageError: the network has no tiles of that size.
    """
    multiple = engine.size_multiple
    if size < multiple or size % multiple:
        raise UsageError(
            f"a tile of {size} pixels does not fit these weights: expected a multiple of {multiple}",
            hint=f"use --size {max(multiple, round(size / multiple) * multiple)}",
        )
    engine.residual(synthetic_tile(min(size, multiple * -(-SMALL // multiple)), engine.image_channels))
    tile = synthetic_tile(size, engine.image_channels)
    peak = watch_memory(engine)
    on_cuda = engine.choice.device.type == "cuda"
    dropped, at_once = (DROPPED_ON_GPU, AT_ONCE_ROUNDS_ON_GPU) if on_cuda else (DROPPED, AT_ONCE_ROUNDS)
    seconds = []
    for turn in range(dropped + rounds):
        started = time.perf_counter()
        engine.residual(tile)
        seconds.append(time.perf_counter() - started)
        if progress:
            progress(turn + 1, dropped + rounds)
    peak_bytes = peak()
    loaded, choice, kernels = engine.checkpoint, engine.choice, running.running()
    count = most_lanes(choice.device, choice.precision)
    with lanes(count, shared=True, device=choice.device) as own:
        for _ in range(dropped):
            list(own.pool.map(engine.residual, [tile] * count))
        started = time.perf_counter()
        list(own.pool.map(engine.residual, [tile] * (at_once * count)))
        speed = at_once * count * size**2 / (time.perf_counter() - started)
    return Measurement(
        weights=loaded.name,
        architecture=loaded.architecture,
        device=str(choice.device),
        precision=choice.precision,
        processor=processor(),
        threads=kernels.threads,
        kernels=engine.kernels,
        torch=running.torch_build(),
        size=size,
        seconds=tuple(seconds[dropped:]),
        peak_memory_bytes=peak_bytes,
        tile=loaded.facts.tile,
        tiles_at_once=count,
        at_once_megapixels_a_second=speed / 1e6,
        photo_seconds=_pixels_of_photo(engine) / speed,
        notes=engine.notes,
    )


def synthetic_tile(size: int, channels: int) -> Float32[np.ndarray, "1 h w c"]:
    """Return smooth waves with noise on them, display-encoded, about 0…1."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    waves = [0.5 + 0.35 * np.sin(x / (29 + 11 * c)) * np.cos(y / (23 + 7 * c)) for c in range(channels)]
    noise = np.random.default_rng(0).normal(0, 0.1, (size, size, channels))
    return (np.stack(waves, axis=-1) + noise).astype(np.float32)[None]


def watch_memory(engine: Engine) -> Callable[[], int | None]:
    """Begin to watch the memory of where the network runs; what is returned tells the peak."""
    device = engine.choice.device
    if device.type == "cuda":
        held = running.forget_peak(device)
        return lambda: running.peak_bytes(device) - held
    if device.type == "cpu":
        return PeakMemory().bytes_above_start
    return lambda: None


def _pixels_of_photo(engine: Engine) -> int:
    """Return the pixels that go through the network for a colour photo, in tiles of the weights' own size."""
    tile = engine.checkpoint.facts.tile
    # Rounded up for weights whose card names a tile that they cannot take: a photo would be refused, an estimate not.
    tile = -(-tile // engine.size_multiple) * engine.size_multiple
    layout = tiles.plan(PHOTO, tile=tile, overlap=tiles.default_overlap(tile), multiple=engine.size_multiple)
    return layout.tiles * layout.rows.tile * layout.columns.tile * len(channel_groups(3, engine.image_channels))
