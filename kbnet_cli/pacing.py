"""How much is done at once: photos in hand, the memory they may take, tiles side by side."""

from dataclasses import dataclass

from kbnet_cli import machine
from kbnet_cli.batch import STANDARD, Job, Pace
from kbnet_cli.batch.preview import peek
from kbnet_cli.errors import UsageError
from kbnet_cli.lanes import MOST, most_lanes
from kbnet_cli.photo import Photo
from kbnet_cli.restore import channel_groups, plan
from kbnet_cli.selection import Selection

USUAL_PHOTOS = (4, 16)
"""The least and the most that are in hand unless told otherwise: two a core. With several GPUs, the most for each."""
IN_NETWORK = 2
"""Photos whose tiles are answered at once on a CPU, which is busy with the tiles: the next one's wait already."""
IN_NETWORK_ON_GPU = 6
"""A GPU takes about a second for a photo of 24 megapixels; the photo's own thread one for blending, five in linear
light."""
TIMES_HELD = 7
"""How often a photo is held at most: as decoded, as restored, and while it is encoded; measured of TIFF and PNG."""
TIMES_HELD_OF_JPEG = 4
TIMES_FILE = 12
"""What a photo holds, by its file, where the header does not tell: a JPEG of 0.3 bytes a pixel."""
USUAL_WIDTH = 64
"""Channels of the published networks' first level."""
BYTES_A_TILE = 30
"""Of feature maps, for each pixel of a tile and each channel of the first level: measured 15 to 25 for KBNet-S."""

BYTES_A_TILE_ON_GPU = 4 * 3 * (4 + 2 * IN_NETWORK_ON_GPU)
"""For each of its pixels: the tile and its answer as float32, each once more in the memory that a GPU copies from; and
answers that wait to be blended, two a lane for each photo in the network."""


@dataclass(frozen=True)
class Means:
    """What the command line gives; None is `auto`."""

    photos: int | None = None
    """In hand at once."""
    memory_bytes: int | None = None
    """What the program may hold."""


def lane_count(means: Means, networks: Selection) -> int:
    """Return how many tiles are answered at once: no more than half of the memory that is left holds."""
    choice = networks.choice
    most = sum(most_lanes(device, choice.precision) for device in choice.devices)
    given = means.memory_bytes
    free = machine.memory().free_bytes if given is None else max(0, given - machine.held_bytes())
    return most if free is None else max(1, min(most, free // 2 // tile_bytes(networks)))


def tile_bytes(networks: Selection) -> int:
    """Return about what one tile takes of the main memory while it is answered."""
    if networks.choice.device.type == "cuda":
        return BYTES_A_TILE_ON_GPU * networks.settings.tile**2
    loaded = networks.loaded
    width = USUAL_WIDTH if loaded is None else loaded.checkpoint.network.sizes.width
    return BYTES_A_TILE * width * networks.settings.tile**2


def pace_for(means: Means, networks: Selection, photos: int | None) -> Pace:
    """Settle how many photos are in hand at once, and what they may hold together.

    Raises:
        UsageError: the memory given does not hold the program itself.
    """
    least, most = USUAL_PHOTOS
    gpus = sum(device.type == "cuda" for device in networks.choice.devices)
    at_once = means.photos or min(most * max(1, gpus), max(least, 2 * machine.cores()))
    if photos is not None:
        at_once = min(at_once, photos)
    lanes = lane_count(means, networks)
    return Pace(
        at_once,
        _for_photos(means, networks),
        cost,
        lanes,
        lambda photo: tiles_of(photo, networks),
        IN_NETWORK_ON_GPU if gpus else IN_NETWORK,
    )


def tiles_of(photo: Photo, networks: Selection) -> int:
    """Return how many tiles a photo has."""
    network = networks.loaded
    if network is None:
        return MOST
    groups = channel_groups(photo.pixels.shape[2], network.image_channels)
    return plan(photo, network, networks.settings).tiles * len(groups)


def _for_photos(means: Means, networks: Selection) -> int:
    if means.memory_bytes is None:
        free = machine.memory().free_bytes
        return free // 2 if free is not None else 1 << 31
    own = machine.held_bytes() + lane_count(means, networks) * tile_bytes(networks)
    if own >= means.memory_bytes:
        raise UsageError(
            f"--memory {means.memory_bytes / 1e6:.0f}M is less than the program takes with these weights, "
            f"about {own / 1e6:.0f}M, without any photo",
            hint="give it more, or leave --memory out",
        )
    return means.memory_bytes - own


def cost(job: Job) -> int:
    """Return about what a photo takes while it is in hand, told from its header or its file's size."""
    try:
        size = len(job.data or b"") if job.source == STANDARD else job.source.stat().st_size
    except OSError:
        return 0  # reading it will say why
    seen = peek(job)
    if seen is None:
        return TIMES_FILE * size
    return size + seen.pixel_bytes * (TIMES_HELD_OF_JPEG if seen.kind == "jpg" else TIMES_HELD)
