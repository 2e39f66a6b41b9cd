"""Compiling: a network for inference on the CPU, whose blocks and changes of resolution run compiled."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.kernels import fused, memory
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.folding import (
    Network,
    channel_attention_of,
    feed_forward_of,
    folded,
    fusion_of_l,
    fusion_of_s,
    replaced,
)

BLOCKS = (kbnet_s.KBBlock, kbnet_l.KBBlock)


def compiled(network: Network, form: str | None) -> Network:
    """Return the network with folded weights, compiled in one of `kernels.compiled.forms`: for inference on the CPU.

    Without a form, the network is folded and runs in plain torch, on any device. The network given stays as it is.
    """
    if form is None:
        return folded(network)

    def replacement(module: nn.Module) -> nn.Module | None:
        if isinstance(module, kbnet_s.Up):
            return CompiledUp(module, form)
        if isinstance(module, kbnet_s.Down):
            return CompiledDown(module, form)
        blocks = isinstance(module, nn.Sequential) and len(module) and all(isinstance(one, BLOCKS) for one in module)
        return CompiledBlocks(module, form) if blocks else None

    return replaced(network, replacement)


class CompiledBlocks(nn.Module):
    """The blocks of one level, one after the other."""

    def __init__(self, blocks: nn.Module, form: str) -> None:
        super().__init__()
        self.blocks = [
            fused.BlockS(fusion_of_s(block), feed_forward_of(block), form)
            if isinstance(block, kbnet_s.KBBlock)
            else fused.BlockL(fusion_of_l(block), channel_attention_of(block), form)
            for block in blocks.children()
            if isinstance(block, BLOCKS)
        ]

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Run the blocks; two maps take turns as their outputs, because new memory costs more than what fills it."""
        features = features.float().contiguous()
        spare: list[Tensor] = []
        for number, block in enumerate(self.blocks):
            answer = block(features, spare.pop() if spare else memory.empty(*features.shape))
            if number:  # the first input belongs to the caller
                spare.append(features)
            features = answer
        return features


class CompiledDown(nn.Module):
    """Half the resolution, twice the channels."""

    def __init__(self, down: kbnet_s.Down, form: str) -> None:
        super().__init__()
        self.pointwise = fused.Pointwise(down.weight.detach().flatten(1), _bias(down), form, resample=-1)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.pointwise(features.float().contiguous())


class CompiledUp(nn.Module):
    """Twice the resolution, half the channels, and what is skipped to here added."""

    def __init__(self, up: kbnet_s.Up, form: str) -> None:
        super().__init__()
        convolution = up[0]
        assert isinstance(convolution, nn.Conv2d)
        weight = convolution.weight.detach().flatten(1)
        self.pointwise = fused.Pointwise(weight, _bias(convolution), form, resample=1)

    def forward(
        self, features: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c2 h2 w2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        return self.pointwise(features.float().contiguous(), skip.float().contiguous())


def _bias(convolution: nn.Conv2d) -> torch.Tensor | None:
    return None if convolution.bias is None else convolution.bias.detach()
