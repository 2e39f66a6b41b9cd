"""Accelerating: a network for inference on a GPU, whose blocks and changes of resolution are kernels in Triton.

Feature maps have the type of the precision and a pixel's channels together, torch's channels_last; what is left of
torch's own convolutions takes them so.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import blocks, resampling
from kbnet_cli.kernels.gpu.arithmetic import map_type
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.folding import (
    Network,
    channel_attention_of,
    feed_forward_of,
    fusion_of_l,
    fusion_of_s,
    replaced,
)

BLOCKS = (kbnet_s.KBBlock, kbnet_l.KBBlock)
FIRST, LAST = ("intro", "patch_embed.proj"), ("ending", "output")
"""Published names of the first and the last convolution."""


def accelerated(network: Network, precision: Precision, device: torch.device) -> Network:
    """Return the network with folded weights on a device where `kernels.gpu.launching.available`, for inference.

    Its pictures are float32 as before. The network given stays as it is and where it is.
    """

    def replacement(module: nn.Module) -> nn.Module | None:
        if isinstance(module, kbnet_s.Up):
            return AcceleratedUp(module, precision, device)
        if isinstance(module, kbnet_s.Down):
            return AcceleratedDown(module, precision, device)
        whole = isinstance(module, nn.Sequential) and len(module) and all(isinstance(one, BLOCKS) for one in module)
        return AcceleratedBlocks(module, precision, device) if whole else None

    answer = replaced(network, replacement)
    for name, module in list(answer.named_modules()):
        if not isinstance(module, nn.Conv2d):
            continue
        module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        if name in FIRST + LAST:
            parent, _, child = name.rpartition(".")
            edge = Edge(module, map_type(precision) if name in FIRST else torch.float32)
            setattr(answer.get_submodule(parent), child, edge)
        else:
            module.to(map_type(precision))
    answer.to(device)
    return answer


class Edge(nn.Module):
    """The first or the last convolution, in float32: pictures have more than the 8 bits of bfloat16.

    They are a thousandth of the network's work.
    """

    def __init__(self, convolution: nn.Conv2d, answers: torch.dtype) -> None:
        super().__init__()
        self.convolution, self.answers = convolution, answers

    def forward(self, maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return self.convolution(maps.float()).to(self.answers)


class AcceleratedBlocks(nn.Module):
    """The blocks of one level, one after the other."""

    def __init__(self, level: nn.Module, precision: Precision, device: torch.device) -> None:
        super().__init__()
        self.dtype = map_type(precision)
        self.blocks = [
            blocks.BlockS(
                blocks.moved(fusion_of_s(block), device), blocks.moved(feed_forward_of(block), device), precision
            )
            if isinstance(block, kbnet_s.KBBlock)
            else blocks.BlockL(
                blocks.moved(fusion_of_l(block), device), blocks.moved(channel_attention_of(block), device), precision
            )
            for block in level.children()
            if isinstance(block, BLOCKS)
        ]

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        maps = _pixels(features, self.dtype)
        for block in self.blocks:
            maps = block(maps)
        return maps.permute(0, 3, 1, 2)


class AcceleratedDown(nn.Module):
    """Half the resolution, twice the channels."""

    def __init__(self, down: kbnet_s.Down, precision: Precision, device: torch.device) -> None:
        super().__init__()
        assert down.bias is not None
        self.precision, self.dtype = precision, map_type(precision)
        weight, bias = down.weight.detach().to(device), down.bias.detach().to(device)
        self.matrix = resampling.Halving.packed(weight, bias, dtype=self.dtype)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        maps = resampling.halved(_pixels(features, self.dtype), self.matrix, precision=self.precision)
        return maps.permute(0, 3, 1, 2)


class AcceleratedUp(nn.Module):
    """Twice the resolution, half the channels, and what is skipped to here added."""

    def __init__(self, up: kbnet_s.Up, precision: Precision, device: torch.device) -> None:
        super().__init__()
        convolution = up[0]
        assert isinstance(convolution, nn.Conv2d)
        self.precision, self.dtype = precision, map_type(precision)
        self.matrix = resampling.Doubling.packed(convolution.weight.detach().flatten(1).to(device), dtype=self.dtype)

    def forward(
        self, features: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c2 h2 w2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        maps, more = _pixels(features, self.dtype), _pixels(skip, self.dtype)
        return resampling.doubled(maps, self.matrix, adds=more, precision=self.precision).permute(0, 3, 1, 2)


def _pixels(features: Float[Tensor, "b c h w"], dtype: torch.dtype) -> Float[Tensor, "b h w c"]:
    """Return maps with a pixel's channels together: as they are, if they come from one of these modules."""
    return features.to(dtype).permute(0, 2, 3, 1).contiguous()
