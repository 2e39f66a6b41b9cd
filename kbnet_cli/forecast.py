"""What a restoration will take, before it is done: tiles, memory, time. The numbers of --dry-run."""

import time
from dataclasses import dataclass

import numpy as np

from kbnet_cli.machine import peak_of_all_time
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Network, Restoration, channel_groups, plan


@dataclass(frozen=True)
class Probe:
    """One tile, done for its time and memory."""

    seconds_a_tile: float
    peak_bytes: int
    """Peak memory of the whole program with the weights loaded and one tile done; 0 where the system does not tell."""


@dataclass(frozen=True)
class Forecast:
    """What one photo will take."""

    tiles: int
    tile_size: tuple[int, int]
    memory_bytes: int
    seconds: float


def probe(network: Network, settings: Restoration) -> Probe:
    """Run a tile of noise three times and take the fastest: the first also pays for set-up."""
    noise = np.random.default_rng(0).random((1, settings.tile, settings.tile, network.image_channels))
    tile = noise.astype(np.float32)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        network.residual(tile)
        seconds.append(time.perf_counter() - started)
    return Probe(min(seconds), peak_of_all_time() or 0)


def forecast(photo: Photo, network: Network, settings: Restoration, measured: Probe) -> Forecast:
    """Tell what a photo will take: the probe's tile times its tiles, and what holds it, its result and one strip."""
    layout = plan(photo, network, settings)
    passes = 0 if settings.strength == 0 else len(channel_groups(photo.pixels.shape[2], network.image_channels))
    count = layout.tiles * passes
    area = layout.rows.tile * layout.columns.tile / settings.tile**2
    strip_bytes = 4 * 3 * layout.rows.tile * (layout.columns.length + layout.columns.tile)
    held = 2 * photo.pixels.nbytes + (0 if photo.alpha is None else photo.alpha.nbytes)
    file_bytes = 0 if photo.origin is None else 2 * len(photo.origin.data)
    memory = measured.peak_bytes + held + strip_bytes + file_bytes
    size = (layout.rows.tile, layout.columns.tile)
    return Forecast(count, size, memory, count * area * measured.seconds_a_tile)
