"""Folded blocks on a GPU: a few kernels each, one picture's pixels after the other, a pixel's channels together."""

import math
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.folded import ChannelAttentionWeights, FeedForwardWeights, FusionWeights
from kbnet_cli.kernels.gpu import attention, convolutions, feed_forward, layers, products
from kbnet_cli.kernels.gpu.arithmetic import map_type

Weights = TypeVar("Weights", FusionWeights, FeedForwardWeights, ChannelAttentionWeights)
Maps = Float[Tensor, "b h w c"]

NARROW = 128
"""Channels up to which a norm costs less where it is needed than a pass of its own over the memory."""

PARTS = 1 << 18
"""Numbers that a picture's products of channels may be, over all parts of its pixels: a megabyte in float32."""


def moved(weights: Weights, device: torch.device) -> Weights:
    """Return the same weights on a device."""
    tensors: dict[str, Any] = {
        field.name: value.to(device)
        for field in fields(weights)
        if isinstance(value := getattr(weights, field.name), Tensor)
    }
    return replace(weights, **tensors)


class Fusion:
    """Norm, three branches multiplied, and the mixing of channels, added to what came in."""

    def __init__(self, weights: FusionWeights, precision: Precision) -> None:
        dtype = map_type(precision)
        self.precision, self.dtype = precision, dtype
        self.filtered = weights.depthwise_bias.numel()
        self.norm = weights.norm_weight, weights.norm_bias
        self.pool = weights.pool_weight, weights.pool_bias
        self.expand = products.Matrix.packed(weights.expand_weight, weights.expand_bias, dtype=dtype)
        self.gates = convolutions.Gates.packed(weights.gate_weight, weights.gate_bias, weights.mix_weight, dtype=dtype)
        self.bases = attention.Bases.packed(
            weights.basis_weight, weights.basis_bias, group_size=weights.group_size, dtype=dtype
        )
        self.project_weight, self.project_bias = weights.project_weight, weights.project_bias
        spatial = weights.spatial_weight
        self.spatial = None
        if spatial.shape[1:] == (1, 3, 3):
            # Both branches are depthwise: one pass for the two.
            both = torch.cat([weights.depthwise_weight, spatial[:, 0]])
            bias = torch.cat([weights.depthwise_bias, weights.spatial_bias])
            self.depthwise = convolutions.Depthwise.packed(
                both, bias, gelu_from=self.filtered if weights.gelu else None
            )
        else:
            assert not weights.gelu
            self.depthwise = convolutions.Depthwise.packed(weights.depthwise_weight, weights.depthwise_bias)
            self.spatial = layers.Grouped.packed(spatial, weights.spatial_bias, dtype=dtype)

    def __call__(self, maps: Maps) -> Maps:
        """Return the answer for contiguous maps."""
        count, pixels = self.filtered, maps.shape[1] * maps.shape[2]
        normal, sums = layers.normalised(maps, *self.norm, dtype=self.dtype)
        expanded = products.product(normal, self.expand, precision=self.precision)
        coefficients = convolutions.coefficients(
            normal, expanded[..., 2 * count :], self.gates, precision=self.precision
        )
        del normal
        if self.spatial is None:
            both = convolutions.depthwise(expanded[..., : 2 * count], self.depthwise)
            dynamic, invariant = both[..., :count], both[..., count:]
            del both
        else:
            dynamic = convolutions.depthwise(expanded[..., :count], self.depthwise)
            invariant = layers.grouped(expanded[..., count : 2 * count], self.spatial, precision=self.precision)
        del expanded  # its memory serves what comes next
        multiplied = attention.filtered(
            dynamic, coefficients, self.bases, precision=self.precision, adds=True, times=invariant
        )
        del dynamic, invariant, coefficients
        # The global branch scales what the projection takes in: so it scales the projection, not each pixel.
        scale = torch.addmm(self.pool[1], sums / pixels, self.pool[0].t())
        project = products.Matrix.packed(self.project_weight * scale[:, None, :], self.project_bias, dtype=self.dtype)
        return products.product(multiplied, project, precision=self.precision, adds=maps)


class FeedForward:
    """Norm, widening, gate and narrowing, added to what came in."""

    def __init__(self, weights: FeedForwardWeights, precision: Precision) -> None:
        dtype = map_type(precision)
        self.precision, self.dtype = precision, dtype
        self.norm = weights.norm_weight, weights.norm_bias
        self.hidden = products.Matrix.packed(weights.hidden_weight, weights.hidden_bias, dtype=dtype, gated=True)
        self.output = products.Matrix.packed(weights.output_weight, weights.output_bias, dtype=dtype)

    def __call__(self, maps: Maps) -> Maps:
        """Return the answer for contiguous maps."""
        channels, precision = maps.shape[3], self.precision
        if feed_forward.fits(channels, precision):
            return feed_forward.feed_forward(maps, self.norm, self.hidden, self.output, precision=precision)
        if channels <= NARROW:
            gated = products.product(maps, self.hidden, precision=precision, norm=self.norm)
        else:
            normal, _ = layers.normalised(maps, *self.norm, dtype=self.dtype)
            gated = products.product(normal, self.hidden, precision=precision)
        return products.product(gated, self.output, precision=precision, adds=maps)


class ChannelAttention:
    """The attention between channels of KBNet-L, added to what came in."""

    def __init__(self, weights: ChannelAttentionWeights, precision: Precision) -> None:
        dtype = map_type(precision)
        self.precision, self.dtype, self.heads = precision, dtype, weights.heads
        self.norm = weights.norm_weight, weights.norm_bias
        self.qkv = products.Matrix.packed(weights.qkv_weight, weights.qkv_bias, dtype=dtype)
        self.depthwise = convolutions.Depthwise.packed(weights.depthwise_weight, weights.depthwise_bias)
        self.temperature = weights.temperature
        self.project_weight, self.project_bias = weights.project_weight, weights.project_bias

    def __call__(self, maps: Maps) -> Maps:
        """Return the answer for contiguous maps."""
        batch, _, _, channels = maps.shape
        heads, head = self.heads, channels // self.heads
        normal, _ = layers.normalised(maps, *self.norm, dtype=self.dtype)
        qkv = convolutions.depthwise(products.product(normal, self.qkv, precision=self.precision), self.depthwise)
        del normal
        query, key = qkv[..., :channels].flatten(1, 2), qkv[..., channels : 2 * channels].flatten(1, 2)
        # Dividing the sums by the vectors' lengths is the same as normalising the vectors, without touching each pixel.
        lengths = [
            torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float32).clamp_min(1e-12).view(batch, heads, head)
            for vectors in (query, key)
        ]
        likeness = _products_of_heads(query, key, heads) / (lengths[0][..., None] * lengths[1][..., None, :])
        mixture = (likeness * self.temperature[:, None, None]).softmax(dim=-1)
        # The projection takes the mixture in: one product a pixel instead of two.
        weight = self.project_weight.view(channels, heads, head)
        project = torch.einsum("ohi,bhij->bohj", weight, mixture).reshape(batch, channels, channels)
        matrix = products.Matrix.packed(project, self.project_bias, dtype=self.dtype)
        return products.product(qkv[..., 2 * channels :], matrix, precision=self.precision, adds=maps)


def _products_of_heads(
    query: Float[Tensor, "b pixels c"], key: Float[Tensor, "b pixels c"], heads: int
) -> Float[Tensor, "b heads d d"]:
    """Return the products of each head's channels over all pixels.

    All channels are multiplied with all, for each part of the pixels: taking heads apart would copy the maps, and one
    sum over a quarter of a million pixels is work for a few of a GPU's processors only.
    """
    batch, pixels, channels = query.shape
    parts = math.gcd(pixels, 1 << max(0, (PARTS // channels**2).bit_length() - 1))
    rows, columns = (one.reshape(batch * parts, pixels // parts, channels) for one in (query, key))
    sums = (rows.transpose(1, 2) @ columns).float().view(batch, parts, heads, channels // heads, heads, -1).sum(1)
    return sums.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)


class BlockS:
    """A block of KBNet-S."""

    def __init__(self, fusion: FusionWeights, feed_forward: FeedForwardWeights, precision: Precision) -> None:
        self.fusion, self.feed_forward = Fusion(fusion, precision), FeedForward(feed_forward, precision)

    def __call__(self, maps: Maps) -> Maps:
        """Return the answer for contiguous maps."""
        return self.feed_forward(self.fusion(maps))


class BlockL:
    """A block of KBNet-L."""

    def __init__(self, fusion: FusionWeights, attention: ChannelAttentionWeights, precision: Precision) -> None:
        self.fusion, self.attention = Fusion(fusion, precision), ChannelAttention(attention, precision)

    def __call__(self, maps: Maps) -> Maps:
        """Return the answer for contiguous maps."""
        return self.attention(self.fusion(maps))
