"""How a degraded picture goes through the network: whole, as in papers, or in tiles, as photos do."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float32

from kbnet_cli.engine import Engine
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration, channel_groups, restore

PADDED_TO = 8
"""The published test scripts reflect a picture's right and bottom edge up to a multiple of this."""

Restore = Callable[[Float32[np.ndarray, "h w c"]], Float32[np.ndarray, "h w c"]]
"""A restoration of a picture; display-encoded, clipped neither on the way in nor out."""


def whole(engine: Engine) -> Restore:
    """Return a restoration of the whole picture at once."""
    return partial(restore_padded, partial(_restore_whole, engine))


def tiled(engine: Engine, settings: Restoration) -> Restore:
    """Return a restoration as a photo's, in tiles that are blended."""

    def restored(picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
        photo = Photo(picture, "grey" if picture.shape[2] == 1 else "rgb", depth=32)
        return restore(photo, engine, settings).pixels

    return restored


def restore_padded(restore: Restore, picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    """Restore a picture whose right and bottom edge is reflected up to a multiple of 8, and cut the rest off."""
    height, width = picture.shape[:2]
    padding = ((0, -height % PADDED_TO), (0, -width % PADDED_TO), (0, 0))
    return restore(np.pad(picture, padding, mode="reflect"))[:height, :width]


def _restore_whole(engine: Engine, picture: Float32[np.ndarray, "h w c"]) -> Float32[np.ndarray, "h w c"]:
    answer = picture.copy()
    for group in channel_groups(picture.shape[2], engine.image_channels):
        residual = engine.residual(picture[None, :, :, list(group)])[0]
        if len(set(group)) < len(group):
            residual = residual.mean(axis=2, keepdims=True, dtype=np.float32)
        answer[:, :, group[0] : group[-1] + 1] += residual
    return answer
