"""Folding: a network for inference, whose blocks have their scales multiplied into the weights beside them.

The blocks' norms, branches and residuals stay what they are; `beta`, `gamma`, `ga1` and `attgamma` disappear, and
convolutions of the same input become one matrix. The U-Net around the blocks is the network's own.
"""

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.kernels import plain_blocks
from kbnet_cli.kernels.folded import ChannelAttentionWeights, FeedForwardWeights, FusionWeights
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.layers import BasisAttention, ChannelNorm

Weights = TypeVar("Weights", FusionWeights, FeedForwardWeights, ChannelAttentionWeights)
Network = TypeVar("Network", bound=kbnet_s.KBNetS | kbnet_l.KBNetL)


def folded(network: Network) -> Network:
    """Return the network with folded blocks: the same answer to rounding, for inference only.

    The network given stays as it is. What folding does not change is shared with it in memory, not copied.
    """

    def replacement(module: nn.Module) -> nn.Module | None:
        if isinstance(module, kbnet_s.KBBlock):
            return FoldedBlockS(module)
        return FoldedBlockL(module) if isinstance(module, kbnet_l.KBBlock) else None

    return replaced(network, replacement)


def replaced(network: Network, replacement: Callable[[nn.Module], nn.Module | None]) -> Network:
    """Return the network with some modules replaced, all others sharing their weights with it; None keeps a module."""
    shared = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    answer = copy.deepcopy(network, dict(shared))
    answer.eval()
    for parent in list(answer.modules()):
        for name, child in parent.named_children():
            other = replacement(child)
            if other is not None:
                setattr(parent, name, other)
    return answer


class FoldedBlockS(nn.Module):
    """A block of KBNet-S with folded weights."""

    def __init__(self, block: kbnet_s.KBBlock) -> None:
        super().__init__()
        self.fusion = Held(fusion_of_s(block))
        self.feed_forward = Held(feed_forward_of(block))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return plain_blocks.block_s(self.fusion.weights, self.feed_forward.weights, features)


class FoldedBlockL(nn.Module):
    """A block of KBNet-L with folded weights."""

    def __init__(self, block: kbnet_l.KBBlock) -> None:
        super().__init__()
        self.fusion = Held(fusion_of_l(block))
        self.attention = Held(channel_attention_of(block))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return plain_blocks.block_l(self.fusion.weights, self.attention.weights, features)


class Held(nn.Module, Generic[Weights]):
    """Hold folded weights as buffers, so that they follow the network to its device."""

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.kind: type[Weights] = type(weights)
        for field in fields(weights):
            value = getattr(weights, field.name)
            if isinstance(value, Tensor):
                self.register_buffer(field.name, value.contiguous())
            else:
                setattr(self, field.name, value)

    @property
    def weights(self) -> Weights:
        """The weights, where the network is now."""
        return self.kind(**{field.name: getattr(self, field.name) for field in fields(self.kind)})


def fusion_of_s(block: kbnet_s.KBBlock) -> FusionWeights:
    """Fold the first half of a block of KBNet-S."""
    pointwise, spatial = _convolutions(block.conv11)
    return _fusion(
        block,
        norm=block.norm1,
        gelu=False,
        dynamic=block.conv1,
        depthwise=block.conv21,
        invariant=pointwise,
        spatial=spatial,
        pool=_convolutions(block.sca)[0],
        project=block.conv3,
        project_scale=block.beta.flatten(),
    )


def fusion_of_l(block: kbnet_l.KBBlock) -> FusionWeights:
    """Fold the first half of a block of KBNet-L."""
    dynamic, depthwise = _convolutions(block.attn.conv1)
    invariant, spatial = _convolutions(block.attn.dwconv)
    return _fusion(
        block.attn,
        norm=block.norm1,
        gelu=True,
        dynamic=dynamic,
        depthwise=depthwise,
        invariant=invariant,
        spatial=spatial,
        pool=_convolutions(block.attn.sca)[0],
        project=block.attn.project_out,
        project_scale=torch.ones_like(block.norm1.bias),
    )


def _fusion(
    operator: BasisAttention,
    *,
    norm: ChannelNorm,
    gelu: bool,
    dynamic: nn.Conv2d,
    depthwise: nn.Conv2d,
    invariant: nn.Conv2d,
    spatial: nn.Conv2d,
    pool: nn.Conv2d,
    project: nn.Conv2d,
    project_scale: Float[Tensor, " c"],
) -> FusionWeights:
    gate, mix = _convolutions(operator.conv2)
    coefficient_scale, filter_scale = operator.attgamma.detach().flatten(), operator.ga1.detach().flatten()
    coefficient_bias = _bias(operator.conv211) + _bias(mix) * coefficient_scale
    basis = operator.w.detach().unflatten(-1, (filter_scale.numel(), -1))
    return FusionWeights(
        group_size=operator.group_size,
        gelu=gelu,
        norm_weight=norm.weight.detach(),
        norm_bias=norm.bias.detach(),
        expand_weight=torch.cat([_matrix(dynamic), _matrix(invariant), _matrix(operator.conv211)]),
        expand_bias=torch.cat([_bias(dynamic), _bias(invariant), coefficient_bias]),
        depthwise_weight=depthwise.weight.detach().squeeze(1),
        depthwise_bias=_bias(depthwise),
        spatial_weight=spatial.weight.detach(),
        spatial_bias=_bias(spatial),
        gate_weight=gate.weight.detach(),
        gate_bias=_bias(gate),
        mix_weight=_matrix(mix) * coefficient_scale[:, None],
        basis_weight=(basis * filter_scale[:, None]).flatten(2),
        basis_bias=operator.b.detach() * filter_scale,
        pool_weight=_matrix(pool),
        pool_bias=_bias(pool),
        project_weight=_matrix(project) * project_scale.detach()[:, None],
        project_bias=_bias(project) * project_scale.detach(),
    )


def feed_forward_of(block: kbnet_s.KBBlock) -> FeedForwardWeights:
    """Fold the second half of a block of KBNet-S."""
    scale = block.gamma.detach().flatten()
    return FeedForwardWeights(
        norm_weight=block.norm2.weight.detach(),
        norm_bias=block.norm2.bias.detach(),
        hidden_weight=_matrix(block.conv4),
        hidden_bias=_bias(block.conv4),
        output_weight=_matrix(block.conv5) * scale[:, None],
        output_bias=_bias(block.conv5) * scale,
    )


def channel_attention_of(block: kbnet_l.KBBlock) -> ChannelAttentionWeights:
    """Fold the second half of a block of KBNet-L."""
    attention = block.ffn
    return ChannelAttentionWeights(
        heads=attention.heads,
        norm_weight=block.norm2.weight.detach(),
        norm_bias=block.norm2.bias.detach(),
        qkv_weight=_matrix(attention.qkv),
        qkv_bias=_bias(attention.qkv),
        depthwise_weight=attention.qkv_dwconv.weight.detach().squeeze(1),
        depthwise_bias=_bias(attention.qkv_dwconv),
        temperature=attention.temperature.detach().flatten(),
        project_weight=_matrix(attention.project_out),
        project_bias=_bias(attention.project_out),
    )


def _convolutions(chain: nn.Sequential) -> list[nn.Conv2d]:
    """Return the convolutions of a chain, in their order."""
    return [part for part in chain if isinstance(part, nn.Conv2d)]


def _matrix(pointwise: nn.Conv2d) -> Float[Tensor, "rows columns"]:
    """Return a 1×1 convolution's weight as the matrix it is."""
    return pointwise.weight.detach().flatten(1)


def _bias(convolution: nn.Conv2d) -> Float[Tensor, " rows"]:
    """Return a convolution's bias, zeros where it has none."""
    if convolution.bias is None:
        return convolution.weight.new_zeros(convolution.weight.shape[0])
    return convolution.bias.detach()
