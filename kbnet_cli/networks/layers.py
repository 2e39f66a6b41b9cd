"""Layers that both KBNets share."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.kernels.kba import kernel_basis_attention

BASES = 32
"""Basis kernels an operator mixes; the same in every published network."""


class ChannelNorm(nn.Module):
    """Normalise each pixel over its channels: biased variance, epsilon 1e-6, then an affine map a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # Two means over the channels: on a CPU four times as fast as torch's var_mean or layer_norm in this layout.
        centred = features - features.mean(dim=1, keepdim=True)
        spread = (centred * centred).mean(dim=1, keepdim=True)
        normal = centred * torch.rsqrt(spread + 1e-6)
        return torch.addcmul(self.bias.view(-1, 1, 1), normal, self.weight.view(-1, 1, 1))


class Gate(nn.Module):
    """Multiply the first half of the channels by the second."""

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b half h w"]:
        first, second = features.chunk(2, dim=1)
        return first * second


class BasisAttention(nn.Module):
    """Hold an operator's basis kernels, the branch that predicts their coefficients, and apply them.

    Published names: `w`, `b`, `attgamma`, `ga1`, `conv2`, `conv211`. The networks inherit rather than own it, because
    the published state dicts have these names beside the block's other ones.
    """

    def __init__(self, channels: int, *, features: int, group_size: int, gate_width: int) -> None:
        super().__init__()
        self.group_size = group_size
        self.w = nn.Parameter(torch.empty(1, BASES, features * group_size * 9))
        self.b = nn.Parameter(torch.empty(1, BASES, features))
        # As published: kaiming_uniform(a = sqrt 5) of the three-dimensional tensor, whose fan-in is n · k.
        fan_in = BASES * features * group_size * 9
        nn.init.uniform_(self.w, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        nn.init.uniform_(self.b, -1 / math.sqrt(fan_in), 1 / math.sqrt(fan_in))
        self.ga1 = nn.Parameter(torch.full((1, features, 1, 1), 1e-2))
        self.attgamma = nn.Parameter(torch.full((1, BASES, 1, 1), 1e-2))
        self.conv2 = nn.Sequential(
            nn.Conv2d(channels, gate_width, 3, padding=1, groups=gate_width),
            Gate(),
            nn.Conv2d(gate_width // 2, BASES, 1),
        )
        self.conv211 = nn.Conv2d(channels, BASES, 1)

    def coefficients(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n h w"]:
        """Predict how much of each basis kernel every pixel takes."""
        return torch.addcmul(self.conv211(features), self.conv2(features), self.attgamma)

    def filtered(
        self, features: Float[Tensor, "b f h w"], attention: Float[Tensor, "b n h w"]
    ) -> Float[Tensor, "b f h w"]:
        """Apply each pixel's own kernel, scaled by ga1, and add what went in."""
        answer = kernel_basis_attention(features, attention, self.w, self.b, group_size=self.group_size)
        return torch.addcmul(features, answer, self.ga1)
