"""What a restoration will take, before it is done: tiles, memory, time. The numbers of --dry-run."""

import time
from dataclasses import dataclass, replace

import numpy as np

from kbnet_cli import tiles
from kbnet_cli.formats.extent import Extent
from kbnet_cli.machine import peak_of_all_time
from kbnet_cli.replaying import RECURS
from kbnet_cli.restore import Network, Restoration, channel_groups

ROUNDS = 4
"""So many tiles for each lane are timed, after one that pays for set-up."""
ROUNDS_BEFORE_ON_GPU = RECURS + 1
"""There a batch of some size is set up when it comes first, and later recorded."""


@dataclass(frozen=True)
class Probe:
    """Some tiles, done for their time and memory."""

    seconds_a_tile: float
    """Of a whole tile, as they come one after the other out of all lanes."""
    peak_bytes: int
    """Peak memory of the whole program, weights and these tiles included; 0 where the system does not tell."""


@dataclass(frozen=True)
class Forecast:
    """What one photo will take."""

    tiles: int
    tile_size: tuple[int, int]
    memory_bytes: int
    """Of the program while it restores this photo alone."""
    seconds: float
    """In the network, and of codecs what `with_codecs` has added."""

    def with_codecs(self, seconds: float) -> "Forecast":
        """Return the same with the time that decoding and encoding add."""
        return replace(self, seconds=self.seconds + seconds)


def probe(network: Network, settings: Restoration, lanes: tiles.Lanes, *, gpu: bool) -> Probe:
    """Answer tiles of noise in all lanes, and tell what one took."""
    noise = np.random.default_rng(0).random((1, settings.tile, settings.tile, network.image_channels))
    tile = noise.astype(np.float32)
    for _ in range(ROUNDS_BEFORE_ON_GPU if gpu else 1):
        list(lanes.pool.map(network.residual, [tile] * lanes.count))
    count = ROUNDS * lanes.count
    started = time.perf_counter()
    list(lanes.pool.map(network.residual, [tile] * count))
    return Probe((time.perf_counter() - started) / count, peak_of_all_time() or 0)


def forecast(extent: Extent, file_bytes: int, network: Network, settings: Restoration, measured: Probe) -> Forecast:
    """Tell what a photo will take: the probe's tile times its tiles, and what holds it, its result and one strip."""
    layout = tiles.plan(
        (extent.height, extent.width),
        tile=settings.tile,
        overlap=settings.overlap,
        multiple=network.size_multiple,
    )
    passes = 0 if settings.strength == 0 else len(channel_groups(extent.channels, network.image_channels))
    count = layout.tiles * passes
    area = layout.rows.tile * layout.columns.tile / settings.tile**2
    strip_bytes = 4 * 3 * layout.rows.tile * (layout.columns.length + layout.columns.tile)
    memory = measured.peak_bytes + 2 * extent.pixel_bytes + strip_bytes + 2 * file_bytes
    size = (layout.rows.tile, layout.columns.tile)
    return Forecast(count, size, memory, count * area * measured.seconds_a_tile)
