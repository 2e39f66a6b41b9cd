"""A whole photo from bytes to bytes with the bundled weights: decoding, tiles, network, blending, encoding."""

from collections.abc import Callable

import imagecodecs
import numpy as np
from jaxtyping import UInt8
from torch import nn

from benchmarks.network import Form, Tile, published, residual, without_compiled_form
from benchmarks.turns import Array, Work
from kbnet_cli import checkpoint, tiles
from kbnet_cli.engine import Engine, choose
from kbnet_cli.formats import codec
from kbnet_cli.hub.library import Library
from kbnet_cli.lanes import lanes, most_lanes
from kbnet_cli.restore import Restoration, restore
from kbnet_cli.settings import Places


class PublishedEngine(Engine):
    """The program's engine with spandrel's network in it, so that everything around the network is the same."""

    def __init__(self, engine: Engine, network: nn.Module) -> None:
        vars(self).update(vars(engine))
        self.published = network

    def residual(self, tiles: Tile, redone: Callable[[int], None] | None = None) -> Tile:  # noqa: ARG002
        """Return what spandrel's network would add to tiles; none is done again."""
        low, high = self.checkpoint.facts.limit
        return residual(self.published, np.clip(tiles, low, high))


def whole(form: Form, *, megapixels: float) -> Work:
    """Return a PNG of so many megapixels through the pipeline, in memory."""
    if form == "kbnet in plain torch":
        without_compiled_form()
    path = Library(Places()).obtain(None, "denoise")
    loaded = checkpoint.load(path)
    engine = Engine(loaded, choose("cpu", "bf16" if form == "kbnet in bf16" else "fp32"))
    if form == "spandrel":
        # Loaded anew: an engine may change the network it was given.
        engine = PublishedEngine(engine, published(checkpoint.load(path).network))
    tile = loaded.facts.tile
    settings = Restoration(tile=tile, overlap=tiles.default_overlap(tile))
    file, small = (bytes(imagecodecs.png_encode(picture(each), level=1)) for each in (megapixels, 0.005))

    at_once = most_lanes(engine.choice.device, engine.choice.precision)

    def run(data: bytes) -> Array:
        if form == "spandrel":  # fastest with all threads on one tile
            restored = restore(codec.decode(data), engine, settings)
        else:
            with lanes(at_once, shared=False) as own:
                restored = restore(codec.decode(data), engine, settings, lanes=own)
        codec.encode(restored, "png")
        return restored.pixels.astype(np.float32)

    return Work(lambda: run(file), lambda: run(small))


def picture(megapixels: float) -> UInt8[np.ndarray, "h w 3"]:
    """Return waves with noise of σ 25 on them, 3:2."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = np.stack([np.sin(x / 97), np.cos(y / 71), np.sin((x + y) / 53)], axis=-1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 25, smooth.shape)
    return np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)
