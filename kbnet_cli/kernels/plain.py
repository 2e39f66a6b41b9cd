"""The kernel basis attention in plain torch, in bands of rows and so in bounded memory."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor

BAND_FLOATS = 1 << 20
"""How many intermediate floats a band may hold: 4 MB, about a core's share of the cache."""


def band_height(*, batch: int, width: int, channels: int, bases: int) -> int:
    """Return the rows of a band whose intermediate (bases × channels floats a pixel) fits BAND_FLOATS; at least 1."""
    return max(1, BAND_FLOATS // max(1, batch * width * channels * bases))


def kernel_basis_attention(
    features: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "b n h w"],
    weight: Float[Tensor, "1 n k"],
    bias: Float[Tensor, "1 n c"],
    *,
    group_size: int,
    rows: int | None = None,
) -> Float[Tensor, "b c h w"]:
    """Filter each pixel's neighbourhood with its own mixture of the basis kernels.

    The published form mixes n basis kernels into one per pixel and then applies it. Convolution is linear in its
    kernel, so applying all n bases to a band of rows and mixing the answers is the same sum in another order, needs no
    kernel per pixel, and is what a convolution library does well.

    Args:
        features: what is filtered, any range; outside the picture it counts as zero.
        attention: the coefficient of each basis at each pixel, any sign, no softmax.
        weight: basis kernels, k = c · group_size · 9, each laid out as a grouped 3×3 convolution (c, group_size, 3, 3).
        bias: one offset a basis and channel, mixed like the kernels.
        group_size: channels that are mixed with each other (4 in KBNet-S, 2 in KBNet-L).
        rows: rows of a band; chosen from BAND_FLOATS if None. The result does not depend on it.

    Source: KBNet, arXiv 2303.02881, equation 3.
    """
    batch, channels, height, width = features.shape
    bases = attention.shape[1]
    rows = rows or band_height(batch=batch, width=width, channels=channels, bases=bases)
    kernels = weight.reshape(bases * channels, group_size, 3, 3)
    kernels = _bases_within_groups(kernels, bases, channels, group_size)
    if rows >= height:
        return _band(F.pad(features, (0, 0, 1, 1)), attention, kernels, bias[0], group_size)
    answer = features.new_empty(batch, channels, height, width)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        halo = F.pad(
            features[:, :, max(top - 1, 0) : min(bottom + 1, height)],
            (0, 0, int(top == 0), int(bottom == height)),
        )
        answer[:, :, top:bottom] = _band(halo, attention[:, :, top:bottom], kernels, bias[0], group_size)
    return answer


def _bases_within_groups(
    kernels: Float[Tensor, "nc s 3 3"], bases: int, channels: int, group_size: int
) -> Float[Tensor, "nc s 3 3"]:
    """Order the kernels as a grouped convolution wants them: group, then basis, then channel within the group."""
    groups = channels // group_size
    ordered = kernels.view(bases, groups, group_size, group_size, 3, 3).transpose(0, 1)
    return ordered.reshape(bases * channels, group_size, 3, 3)


def _band(
    halo: Float[Tensor, "b c h2 w"],
    attention: Float[Tensor, "b n h w"],
    kernels: Float[Tensor, "nc s 3 3"],
    bias: Float[Tensor, "n c"],
    group_size: int,
) -> Float[Tensor, "b c h w"]:
    batch, bases, height, width = attention.shape
    channels = halo.shape[1]
    groups = channels // group_size
    answers = F.conv2d(halo, kernels, padding=(0, 1), groups=groups)
    answers = answers.view(batch, groups, bases, group_size, height, width)
    mixed = (answers * attention.view(batch, 1, bases, 1, height, width)).sum(dim=2)
    offset = torch.einsum("bnhw,nc->bchw", attention, bias)
    return mixed.view(batch, channels, height, width) + offset
