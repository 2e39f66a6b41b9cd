"""The folded blocks in plain torch, for any device and floating type, without gradients.

A pixel's channels lie together here (height, width, channel): so the norm, the mixing of channels and the depthwise
convolutions of a CPU are several times faster than where each channel is a map of its own. The work goes in bands of
rows that stay in the caches; only what a later step needs of the whole picture is kept whole. A block's answer keeps
this layout under torch's usual order of axes, and the next block takes it as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.folded import ChannelAttentionWeights, FeedForwardWeights, FusionWeights
from kbnet_cli.kernels.kba import kernel_basis_attention
from kbnet_cli.kernels.plain import GPU_BAND_FLOATS

BAND_FLOATS = 1 << 20
"""How many features a band holds: 4 MB. Larger bands leave the caches, smaller ones compute more rows twice."""


def block_s(
    fusion: FusionWeights, feed_forward: FeedForwardWeights, features: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Compute a block of KBNet-S."""
    pictures = _pictures(features, fusion.norm_weight)
    answer = torch.empty_like(pictures)
    for given, result in zip(pictures, answer, strict=True):
        _fuse(fusion, given, result)
        for band in _bands(result):
            result[band.own] += _feed_forward(feed_forward, result[band.own])
    return answer.permute(0, 3, 1, 2)


def block_l(
    fusion: FusionWeights, attention: ChannelAttentionWeights, features: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Compute a block of KBNet-L."""
    pictures = _pictures(features, fusion.norm_weight)
    answer = torch.empty_like(pictures)
    for given, result in zip(pictures, answer, strict=True):
        _fuse(fusion, given, result)
        _attend(attention, result)
    return answer.permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Band:
    """A band of rows, and the rows around it that a convolution looks at."""

    own: slice
    """Its rows in the picture."""
    around: slice
    """The same and their neighbours, as far as the picture goes."""
    inner: slice
    """Its own rows counted from the first of those."""


def _bands(picture: Float[Tensor, "h w c"], halo: int = 0) -> Iterator[Band]:
    height, width, channels = picture.shape
    band = BAND_FLOATS if picture.device.type == "cpu" else GPU_BAND_FLOATS
    rows = max(1, band // max(1, width * channels))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first = max(top - halo, 0)
        yield Band(slice(top, bottom), slice(first, min(bottom + halo, height)), slice(top - first, bottom - first))


def _fuse(weights: FusionWeights, picture: Float[Tensor, "h w c"], answer: Float[Tensor, "h w c"]) -> None:
    """Write the picture, and added to it its three branches, multiplied and mixed."""
    height, width, _ = picture.shape
    count, bases = weights.depthwise_bias.numel(), weights.mix_weight.shape[0]
    to_dynamic, to_invariant, to_attention = weights.expand_weight.split([count, count, bases])
    dynamic_bias, invariant_bias, attention_bias = weights.expand_bias.split([count, count, bases])
    # The kernel basis attention takes maps, the rest takes pixels.
    dynamic, attention = picture.new_empty(count, height, width), picture.new_empty(bases, height, width)
    invariant, total = picture.new_empty(height, width, count), torch.zeros_like(weights.norm_bias)
    for band in _bands(picture, halo=weights.spatial_weight.shape[-1] // 2):
        normal = _normalised(picture[band.around], weights.norm_weight, weights.norm_bias)
        total += normal[band.inner].sum(dim=(0, 1))
        maps = _convolved(
            F.linear(normal, to_dynamic, dynamic_bias), weights.depthwise_weight.unsqueeze(1), weights.depthwise_bias
        )
        dynamic[:, band.own] = _as_maps(maps[band.inner])
        maps = _convolved(F.linear(normal, to_invariant, invariant_bias), weights.spatial_weight, weights.spatial_bias)
        invariant[band.own] = F.gelu(maps[band.inner]) if weights.gelu else maps[band.inner]
        gates = _gated(_gate_maps(weights, normal)[band.inner])
        coefficients = F.linear(normal[band.inner], to_attention, attention_bias) + F.linear(gates, weights.mix_weight)
        attention[:, band.own] = _as_maps(coefficients)
    # The global branch scales what the projection takes in: so it scales the projection, not each pixel.
    project = weights.project_weight * F.linear(total / (height * width), weights.pool_weight, weights.pool_bias)
    for band in _bands(picture, halo=1):
        around = dynamic[None, :, band.around], attention[None, :, band.around]
        filtered = kernel_basis_attention(
            *around, weights.basis_weight, weights.basis_bias, group_size=weights.group_size
        )[0, :, band.inner]
        dynamics = dynamic[:, band.own] + filtered
        product = invariant[band.own].mul_(dynamics.permute(1, 2, 0))
        torch.add(picture[band.own], F.linear(product, project, weights.project_bias), out=answer[band.own])


def _feed_forward(weights: FeedForwardWeights, pixels: Float[Tensor, "h w c"]) -> Float[Tensor, "h w c"]:
    """Normalise, widen, gate and narrow again."""
    normal = _normalised(pixels, weights.norm_weight, weights.norm_bias)
    hidden = F.linear(normal, weights.hidden_weight, weights.hidden_bias)
    return F.linear(_gated(hidden), weights.output_weight, weights.output_bias)


def _attend(weights: ChannelAttentionWeights, picture: Float[Tensor, "h w c"]) -> None:
    """Let channels attend to each other over all pixels, and add what comes of it to the picture."""
    channels, heads = picture.shape[-1], weights.heads
    likeness = picture.new_zeros(heads, channels // heads, channels // heads)
    lengths, value = picture.new_zeros(2 * channels), torch.empty_like(picture)
    for band in _bands(picture, halo=1):
        normal = _normalised(picture[band.around], weights.norm_weight, weights.norm_bias)
        maps = F.linear(normal, weights.qkv_weight, weights.qkv_bias)
        maps = _convolved(maps, weights.depthwise_weight.unsqueeze(1), weights.depthwise_bias)[band.inner]
        value[band.own] = maps[..., 2 * channels :]
        both = maps[..., : 2 * channels].flatten(0, 1)
        query, key = both.view(-1, 2, heads, channels // heads).permute(1, 2, 3, 0)
        likeness += query @ key.transpose(1, 2)
        lengths += (both * both).sum(dim=0)
    # Dividing the sums by the vectors' lengths is the same as normalising the vectors, without touching each pixel.
    of_query, of_key = lengths.sqrt().clamp_min(1e-12).view(2, heads, -1)
    likeness = likeness / (of_query[:, :, None] * of_key[:, None, :])
    mixture = (likeness * weights.temperature[:, None, None]).softmax(dim=-1)
    # The projection takes the mixture in: one product a pixel instead of two.
    project = (weights.project_weight.view(channels, heads, -1).transpose(0, 1) @ mixture).transpose(0, 1).flatten(1)
    for band in _bands(picture):
        picture[band.own] += F.linear(value[band.own], project, weights.project_bias)


def _pictures(features: Float[Tensor, "b c h w"], like: Tensor) -> Float[Tensor, "b h w c"]:
    """Put a pixel's channels together, in the weights' type: sums stay in it where autocast rounds the products."""
    return features.to(like.dtype).permute(0, 2, 3, 1).contiguous()


def _as_maps(pixels: Float[Tensor, "h w c"]) -> Float[Tensor, "c h w"]:
    """Put each channel's pixels together: as a matrix, which torch turns fastest."""
    height, width, channels = pixels.shape
    return pixels.reshape(-1, channels).t().contiguous().view(channels, height, width)


def _normalised(
    pixels: Float[Tensor, "h w c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "h w c"]:
    return F.layer_norm(pixels, (pixels.shape[-1],), weight, bias, eps=1e-6)


def _convolved(
    pixels: Float[Tensor, "h w c"], kernels: Float[Tensor, "c g k k"], bias: Float[Tensor, " c"]
) -> Float[Tensor, "h w c"]:
    """Convolve in groups, with zeros around."""
    channels, group, size, _ = kernels.shape
    maps = F.conv2d(pixels[None].permute(0, 3, 1, 2), kernels, bias, padding=size // 2, groups=channels // group)
    return maps.permute(0, 2, 3, 1)[0]


def _gate_maps(weights: FusionWeights, normal: Float[Tensor, "h w c"]) -> Float[Tensor, "h w m"]:
    """Convolve in m groups: depthwise, then add up each group, several times faster than torch's own in groups."""
    maps, group = weights.gate_weight.shape[:2]
    kernels = weights.gate_weight.view(maps * group, 1, 3, 3)
    filtered = _convolved(normal, kernels, torch.zeros_like(weights.norm_bias))
    adding = torch.eye(maps, dtype=kernels.dtype, device=kernels.device).repeat_interleave(group, dim=1)
    return F.linear(filtered, adding, weights.gate_bias)


def _gated(pixels: Float[Tensor, "h w c"]) -> Float[Tensor, "h w half"]:
    first, second = pixels.chunk(2, dim=-1)
    return first * second
