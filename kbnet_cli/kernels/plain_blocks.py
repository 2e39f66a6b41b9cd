"""The folded blocks in plain torch, for any device and floating type, without gradients.

Inside, a pixel's channels lie together (batch, height, width, channel): there the norm, the mixing of channels and the
depthwise convolutions of a CPU are several times faster than where each channel is a map of its own. What comes out
stays so in memory, under the usual order of axes, and the next block takes it as it is.
"""

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.folded import ChannelAttentionWeights, FeedForwardWeights, FusionWeights
from kbnet_cli.kernels.kba import kernel_basis_attention


def block_s(
    fusion_weights: FusionWeights, feed_forward_weights: FeedForwardWeights, features: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Compute a block of KBNet-S."""
    pixels = _pixels(features, fusion_weights.norm_weight)
    pixels = pixels + fusion(fusion_weights, pixels)
    pixels += feed_forward(feed_forward_weights, pixels)
    return pixels.permute(0, 3, 1, 2)


def block_l(
    fusion_weights: FusionWeights, attention_weights: ChannelAttentionWeights, features: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Compute a block of KBNet-L."""
    pixels = _pixels(features, fusion_weights.norm_weight)
    pixels = pixels + fusion(fusion_weights, pixels)
    pixels += channel_attention(attention_weights, pixels)
    return pixels.permute(0, 3, 1, 2)


def fusion(weights: FusionWeights, pixels: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Normalise, filter by three branches, multiply them and mix the channels."""
    normal = _normalised(pixels, weights.norm_weight, weights.norm_bias)
    count = weights.depthwise_bias.numel()
    expand = [
        (weights.expand_weight[rows], weights.expand_bias[rows])
        for rows in (slice(0, count), slice(count, 2 * count), slice(2 * count, None))
    ]
    scale = F.linear(normal.mean(dim=(1, 2)), weights.pool_weight, weights.pool_bias)
    attention = F.linear(normal, *expand[2])
    attention = attention + F.linear(_gated(_gate_maps(weights, normal)), weights.mix_weight)
    dynamic = _convolved(F.linear(normal, *expand[0]), weights.depthwise_weight.unsqueeze(1), weights.depthwise_bias)
    product = _convolved(F.linear(normal, *expand[1]), weights.spatial_weight, weights.spatial_bias)
    del normal
    if weights.gelu:
        product = F.gelu(product)
    dynamic = dynamic + kernel_basis_attention(
        dynamic.permute(0, 3, 1, 2),
        attention.permute(0, 3, 1, 2),
        weights.basis_weight,
        weights.basis_bias,
        group_size=weights.group_size,
    ).permute(0, 2, 3, 1)
    product = product * dynamic * scale[:, None, None]
    return F.linear(product, weights.project_weight, weights.project_bias)


def feed_forward(weights: FeedForwardWeights, pixels: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Normalise, widen, gate and narrow again."""
    hidden = F.linear(
        _normalised(pixels, weights.norm_weight, weights.norm_bias), weights.hidden_weight, weights.hidden_bias
    )
    return F.linear(_gated(hidden), weights.output_weight, weights.output_bias)


def channel_attention(weights: ChannelAttentionWeights, pixels: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
    """Let channels attend to each other over all pixels."""
    batch, height, width, channels = pixels.shape
    normal = _normalised(pixels, weights.norm_weight, weights.norm_bias)
    qkv = F.linear(normal, weights.qkv_weight, weights.qkv_bias)
    qkv = _convolved(qkv, weights.depthwise_weight.unsqueeze(1), weights.depthwise_bias)
    qkv = qkv.reshape(batch, height * width, 3, weights.heads, channels // weights.heads)
    query, key, value = qkv.permute(2, 0, 3, 4, 1)
    # Two short vectors of lengths divide the small product, rather than each pixel of query and key.
    lengths = query.norm(dim=-1).clamp_min(1e-12).unsqueeze(-1) * key.norm(dim=-1).clamp_min(1e-12).unsqueeze(-2)
    likeness = query @ key.transpose(-2, -1) / lengths
    mixture = (likeness * weights.temperature.view(-1, 1, 1)).softmax(dim=-1)
    # The projection takes the mixture in: one product a pixel instead of two.
    project = weights.project_weight.view(channels, weights.heads, -1).transpose(0, 1) @ mixture
    project = project.transpose(1, 2).reshape(batch, channels, channels)
    answer = value.reshape(batch, channels, -1).transpose(1, 2) @ project.transpose(1, 2)
    return answer.view(batch, height, width, channels) + weights.project_bias


def _pixels(features: Float[Tensor, "b c h w"], like: Tensor) -> Float[Tensor, "b h w c"]:
    """Put a pixel's channels together, in the weights' type: sums stay in it where autocast rounds the products."""
    return features.to(like.dtype).permute(0, 2, 3, 1).contiguous()


def _normalised(
    pixels: Float[Tensor, "b h w c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "b h w c"]:
    return F.layer_norm(pixels, (pixels.shape[-1],), weight, bias, eps=1e-6)


def _convolved(
    pixels: Float[Tensor, "b h w c"], kernels: Float[Tensor, "c g k k"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "b h w c"]:
    """Convolve in groups, with zeros outside the picture."""
    channels, group, size, _ = kernels.shape
    maps = F.conv2d(pixels.permute(0, 3, 1, 2), kernels, bias, padding=size // 2, groups=channels // group)
    return maps.permute(0, 2, 3, 1)


def _gate_maps(weights: FusionWeights, normal: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w m"]:
    """Convolve in m groups: depthwise, then add up each group, ten times as fast as torch's convolution in groups."""
    maps, group = weights.gate_weight.shape[:2]
    kernels = weights.gate_weight.view(maps * group, 1, 3, 3)
    filtered = _convolved(normal, kernels, torch.zeros_like(weights.norm_bias))
    adding = torch.eye(maps, dtype=kernels.dtype, device=kernels.device).repeat_interleave(group, dim=1)
    return F.linear(filtered, adding, weights.gate_bias)


def _gated(pixels: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w half"]:
    first, second = pixels.chunk(2, dim=-1)
    return first * second
