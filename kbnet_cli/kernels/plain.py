"""The kernel basis attention in plain torch, in bands of rows and so in bounded memory."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor

BAND_FLOATS = 1 << 19
"""How many features a band holds: 2 MB, so that features, kernels and sums stay in the cores' caches."""
GPU_BAND_FLOATS = 1 << 24
"""The same on other devices: 64 MB, so that there is enough to do for each of the dozens of small steps."""
GRADIENT_FLOATS = 1 << 24
"""How many floats a band may keep for its gradient: 64 MB. Each band costs three dozen small steps there and back."""


def band_height(*, batch: int, width: int, channels: int, bases: int) -> int:
    """Return the rows of a band whose kernels (as many floats as bases × channels a pixel, or fewer) autograd keeps."""
    return max(1, GRADIENT_FLOATS // max(1, batch * width * channels * bases))


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

    The published form mixes whole kernels, 9.2 kB a pixel at 64 channels, and then applies them. Here one tap of the
    kernels (an input channel of the group at one of the nine places) is mixed for a band of rows by one matrix product,
    multiplied with the features it falls on and added, and only then the next: no pixel's kernel is ever whole.

    Args:
        features: what is filtered, any range; outside the picture it counts as zero.
        attention: the coefficient of each basis at each pixel, any sign, no softmax.
        weight: basis kernels, k = c · group_size · 9, each laid out as a grouped 3×3 convolution (c, group_size, 3, 3).
        bias: one offset a basis and channel, mixed like the kernels.
        group_size: channels that are mixed with each other (4 in KBNet-S, 2 in KBNet-L).
        rows: rows of a band; chosen by the device if None. The result does not depend on it.

    Source: KBNet, arXiv 2303.02881, equation 3.
    """
    batch, channels, height, width = features.shape
    bases, groups = attention.shape[1], channels // group_size
    band = BAND_FLOATS if features.device.type == "cpu" else GPU_BAND_FLOATS
    rows = rows or max(1, band // max(1, channels * width))
    attention, weight, bias = (tensor.to(features.dtype) for tensor in (attention, weight, bias))
    kernels = weight.view(bases, groups, group_size, -1).permute(3, 1, 2, 0).contiguous()
    offsets = bias.view(bases, groups, group_size).permute(1, 2, 0)
    answer = torch.empty_like(features)
    for picture in range(batch):
        padded = _padded(features[picture]).view(groups, group_size, -1)
        for top in range(0, height, rows):
            bottom = min(top + rows, height)
            mixture = F.pad(attention[picture, :, top:bottom], (0, 1)).flatten(1)
            pixels = mixture.shape[1]
            sums = torch.matmul(offsets, mixture)
            if sums.dtype == torch.bfloat16:
                sums = sums.float()
            for tap, kernel in enumerate(kernels):
                channel, place = divmod(tap, 9)
                first = (top + place // 3) * (width + 1) + place % 3
                shifted = padded[:, channel : channel + 1, first : first + pixels]
                sums.addcmul_(torch.matmul(kernel, mixture), shifted)
            answer[picture, :, top:bottom] = sums.view(channels, bottom - top, width + 1)[:, :, :width]
    return answer


def _padded(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "c h3 w1"]:
    """Put zeros around the rows, so that a picture shifted by a row or column is one piece of the memory.

    One column is enough: it is the right border of one row and the left border of the next.
    """
    # As a matrix, because torch turns matrices quickly whose channels lie together.
    planes = picture.flatten(1).contiguous().view(picture.shape)
    return F.pad(planes, (1, 0, 1, 2))
