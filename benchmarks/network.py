"""Whole networks and a block of one, as the program runs them, and as spandrel does, with the same random weights."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from benchmarks.turns import Array, Work
from kbnet_cli.bench import synthetic_tile
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint, Network
from kbnet_cli.engine import Engine, choose
from kbnet_cli.kernels import compiled
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import declare_missing_operators, published_twin

Tile = Float32[np.ndarray, "b h w c"]
Form = Literal["kbnet", "kbnet in bf16", "kbnet in plain torch", "spandrel"]

SIDD = KBNetSSizes(lightweight=True, ffn_scale=1.5)
DERAIN = KBNetLSizes()
BLOCK = KBNetSSizes(encoder_blocks=(), middle_blocks=1, decoder_blocks=(), lightweight=True, ffn_scale=1.5)
"""A KBNet-S of one block between its first and last convolution, so that it too goes the way of a network."""
SIZES: Mapping[str, KBNetSSizes | KBNetLSizes] = {"network-s": SIDD, "network-l": DERAIN, "block": BLOCK}
NAFNET: Mapping[str, Any] = {
    "img_channel": 3,
    "width": 64,
    "enc_blk_nums": [2, 2, 4, 8],
    "middle_blk_num": 12,
    "dec_blk_nums": [2, 2, 2, 2],
}
"""The published SIDD network of width 64."""


def published(network: Network) -> nn.Module:
    """Return spandrel's network with the weights of ours. To be called before an engine changes them in memory."""
    twin = published_twin(network.sizes)
    twin.load_state_dict(network.state_dict())
    return twin.eval().requires_grad_(False)


def residual(network: nn.Module, tile: Tile) -> Tile:
    """Do with a network of spandrel's what `Engine.residual` does with ours."""
    with torch.inference_mode():
        batch = torch.from_numpy(tile).permute(0, 3, 1, 2).contiguous()
        answer: Tensor = network(batch) - batch
        found: Tile = answer.permute(0, 2, 3, 1).numpy()
        return found


def whole(form: Form, sizes: KBNetSSizes | KBNetLSizes, *, size: int) -> Work:
    """Return a tile through a network in one of its forms."""
    torch.manual_seed(0)
    network = (KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)).eval().requires_grad_(False)
    if form == "spandrel":
        twin = published(network)
        return _work(lambda tile: residual(twin, tile), size)
    if form == "kbnet in plain torch":
        without_compiled_form()
    precision = "bf16" if form == "kbnet in bf16" else "fp32"
    # The tile's values are sent as they are, as spandrel's network gets them.
    facts = Facts(limit=(-100.0, 100.0))
    engine = Engine(Checkpoint(network, facts, "random"), choose("cpu", precision))
    return _work(engine.residual, size)


def without_compiled_form() -> None:
    """Be an installation that was built without a compiler."""
    vars(compiled)["available"] = lambda: False


def nafnet(*, size: int) -> Work:
    """Return a tile through spandrel's NAFNet, what people use instead."""
    declare_missing_operators()
    from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet

    torch.manual_seed(0)
    network: nn.Module = NAFNet(**NAFNET).eval().requires_grad_(False)
    return _work(lambda tile: residual(network, tile), size)


def _work(answer: Callable[[Tile], Array], size: int) -> Work:
    tile, small = (synthetic_tile(length, 3) for length in (size, min(size, 64)))
    return Work(lambda: answer(tile), lambda: answer(small))
