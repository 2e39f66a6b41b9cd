"""The pipeline: a photo in, a restored photo out. The only module that knows the order of its steps."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Shaped

from kbnet_cli import noise_level, tiles
from kbnet_cli.colour import add_display, scale_of, to_display, transfer_of
from kbnet_cli.local_means import keep_means
from kbnet_cli.photo import CameraColour, Photo, Transfer

Group = tuple[int, ...]
ROUNDING = 2
"""How far a full sensor's samples may lie below `CameraColour.white`, in 16 bits."""
Progress = Callable[[int, int], None]


@runtime_checkable
class Network(Protocol):
    """What answers tiles with residuals: an engine, or several."""

    @property
    def image_channels(self) -> int:
        """Channels of the tiles it takes: 1 or 3."""

    @property
    def size_multiple(self) -> int:
        """What a tile's height and width must be multiples of."""

    def residual(self, tiles: Float32[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        """Return what it would add to display-encoded tiles."""


@dataclass(frozen=True)
class Restoration:
    """How a photo is to be restored: each of these changes pixels, and each is an option a user can see."""

    tile: int
    overlap: int
    strength: float = 1.0
    """1 is the network's answer, 0 is the input."""
    transfer: Literal["auto"] | Transfer = "auto"
    keeps_means: bool = True
    """Whether local means of linear photos stay what they were: noise and blur have none of their own, rain has."""


def restore(
    photo: Photo,
    network: Network,
    settings: Restoration,
    *,
    lanes: tiles.Lanes | None = None,
    progress: Progress | None = None,
) -> Photo:
    """Return the photo with the network's residual added, in its own type, depth and colour space.

    The answer is `in + strength · (network(limit(in)) - limit(in))` on display-encoded values. Strength 0 goes past
    colour and network and is the input to the bit. Linear photos keep their local means (`local_means`). Alpha and
    metadata are carried over untouched. `lanes` answer several tiles at once; without them the caller answers one after
    the other. `progress` is told (tiles done, tiles in all).
    """
    if settings.strength == 0:
        return photo
    transfer = _transfer(photo, settings)
    layout = plan(photo, network, settings)
    groups = channel_groups(photo.pixels.shape[2], network.image_channels)
    restored = np.empty_like(photo.pixels)
    for number, group in enumerate(groups):
        tiles.run(
            layout,
            read=partial(_read, photo, group, transfer),
            answer=network.residual,
            write=partial(_write, photo, group, transfer, settings.strength, restored),
            lanes=lanes,
            progress=progress and partial(_report, progress, number, len(groups)),
        )
    _keep_clipped(photo, restored)
    if transfer == "linear" and settings.keeps_means:
        keep_means(photo.pixels, restored)
        _keep_clipped(photo, restored)
    answer = photo.with_pixels(restored)
    return answer if photo.camera is None else replace(answer, camera=_quieter(photo, answer, photo.camera, settings))


def _keep_clipped(photo: Photo, restored: Shaped[np.ndarray, "h w c"]) -> None:
    """Put back samples at which a sensor is full: what reconstructs highlights has to find them so.

    One that is full by itself, without neighbours above or below and beside it, is a hot pixel and no highlight.
    """
    if photo.camera is None:
        return
    full = photo.pixels >= photo.camera.white - ROUNDING
    if full.any():
        np.copyto(restored, photo.pixels, where=full & _has_neighbour(full, 0) & _has_neighbour(full, 1))


def _has_neighbour(full: Bool[np.ndarray, "h w c"], axis: int) -> Bool[np.ndarray, "h w c"]:
    """Tell of each sample whether the one before or behind it along an axis is set."""
    along = np.moveaxis(full, axis, 0)
    found = np.zeros_like(along)
    found[1:] = along[:-1]
    found[:-1] |= along[1:]
    return np.moveaxis(found, 0, axis)


def _quieter(before: Photo, after: Photo, camera: CameraColour, settings: Restoration) -> CameraColour:
    """Tell how much of a camera's noise is left, by what is seen of it before and after."""
    strong, weak = noise_of(before, settings), noise_of(after, settings)
    if not strong or weak is None:
        return camera
    return replace(camera, noise_left=camera.noise_left * min(1.0, (weak / strong) ** 2))


def noise_of(photo: Photo, settings: Restoration) -> float | None:
    """Return how strong a photo's white noise is, display-encoded and in 1/255; None if the photo is too small."""
    full = None if photo.camera is None else photo.camera.white
    patches = noise_level.draw(photo.pixels, white=photo.white, full=full)
    if patches is None:
        return None
    scale = scale_of(photo, tuple(range(patches.shape[1])))
    display = to_display(np.moveaxis(patches, 1, -1), scale, transfer=_transfer(photo, settings))
    return noise_level.estimate(np.moveaxis(display, -1, 1))


def _transfer(photo: Photo, settings: Restoration) -> Transfer:
    return transfer_of(photo) if settings.transfer == "auto" else settings.transfer


def _read(
    photo: Photo, group: Group, transfer: Transfer, rows: tiles.Indices, columns: tiles.Indices
) -> Float32[np.ndarray, "h w 3"] | Float32[np.ndarray, "h w 1"]:
    inside = _span(rows), _span(columns)
    # Tiles that reach over the border are gathered; of all others a view will do.
    samples = photo.pixels[np.ix_(rows, columns) if None in inside else inside]
    if group != tuple(range(samples.shape[2])):
        samples = samples[:, :, group]
    return to_display(samples, scale_of(photo, group), transfer=transfer)


def _span(indices: tiles.Indices) -> slice | None:
    """Return indices that follow each other as a slice; None for others."""
    first, last = int(indices[0]), int(indices[-1])
    straight = last - first == len(indices) - 1 and bool((np.diff(indices) == 1).all())
    return slice(first, last + 1) if straight else None


def _write(
    photo: Photo,
    group: Group,
    transfer: Transfer,
    strength: float,
    restored: Shaped[np.ndarray, "h w c"],
    top: int,
    residual: Float32[np.ndarray, "rows w k"],
) -> None:
    if len(set(group)) < len(group):
        # Equal channels went in; what came out is averaged back.
        residual = residual.mean(axis=2, keepdims=True, dtype=np.float32)
    channels = tuple(sorted(set(group)))
    here = np.s_[top : top + residual.shape[0], :, channels[0] : channels[-1] + 1]
    if strength != 1:
        residual = residual * np.float32(strength)
    restored[here] = add_display(photo.pixels[here], residual, scale_of(photo, channels), transfer=transfer)


def _report(progress: Progress, number: int, passes: int, done: int, tiles_of_pass: int) -> None:
    progress(number * tiles_of_pass + done, passes * tiles_of_pass)


def plan(photo: Photo, network: Network, settings: Restoration) -> tiles.Plan:
    """Return the tiles that a photo is cut into.

    Raises:
        UsageError: the tile or overlap does not fit the weights.
    """
    return tiles.plan(photo.size, tile=settings.tile, overlap=settings.overlap, multiple=network.size_multiple)


def channel_groups(channels: int, image_channels: int) -> list[Group]:
    """Tell which channels go to the network together, for a photo of 1, 3 or 4 channels.

    A grey network takes each channel by itself. A colour network takes three: RGB as they are, a grey channel three
    times, CMYK as CMY together and K three times.
    """
    if image_channels == 1:
        return [(channel,) for channel in range(channels)]
    if channels == 1:
        return [(0, 0, 0)]
    return [(0, 1, 2), *((channel,) * 3 for channel in range(3, channels))]
