"""What each kernel is to answer, in float64 and torch's own words, for the very maps that it was called with."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from torch import Tensor

from benchmarks.gpu.calls import Call
from kbnet_cli.kernels.folded import FusionWeights


def expected(call: Call, weights: FusionWeights) -> Tensor | None:
    """Return what a call in a block with some weights is to answer; None where nothing is known of it."""
    reference = REFERENCES.get(call.function.__name__)
    return None if reference is None else reference(call, weights)


def answered(answer: Any) -> Tensor:
    """Return the maps of an answer."""
    maps: Tensor = answer[0] if isinstance(answer, tuple) else answer
    return maps.double()


def _normalised(call: Call, _weights: FusionWeights) -> Tensor:
    maps, weight, bias = (tensor.double() for tensor in call.given[:3])
    return F.layer_norm(maps, (maps.shape[-1],), weight, bias, eps=1e-6)


def _product(call: Call, _weights: FusionWeights) -> Tensor:
    maps, matrix, named = call.given[0].double(), call.given[1], call.named
    if named.get("norm") is not None:
        weight, bias = (tensor.double() for tensor in named["norm"])
        maps = F.layer_norm(maps, (maps.shape[-1],), weight, bias, eps=1e-6)
    weight = matrix.weight.double()
    answer = torch.einsum("bhwk,bnk->bhwn" if weight.dim() == 3 else "bhwk,nk->bhwn", maps, weight)
    if matrix.bias is not None:
        answer = answer + matrix.bias.double()
    if matrix.gated:
        answer = answer.unflatten(-1, (-1, 2)).prod(dim=-1)
    return answer if named.get("adds") is None else answer + named["adds"].double()


def _feed_forward(call: Call, _weights: FusionWeights) -> Tensor:
    maps, norm, hidden, output = call.given[0].double(), *call.given[1:4]
    normal = F.layer_norm(maps, (maps.shape[-1],), norm[0].double(), norm[1].double(), eps=1e-6)
    wide = F.linear(normal, hidden.weight.double(), hidden.bias.double()).unflatten(-1, (-1, 2)).prod(dim=-1)
    return maps + F.linear(wide, output.weight.double(), output.bias.double())


def _depthwise(call: Call, _weights: FusionWeights) -> Tensor:
    maps, layer = call.given[0].double(), call.given[1]
    count = maps.shape[-1]
    answer = _convolved(maps, layer.weight.double().t().reshape(count, 1, 3, 3), layer.bias.double())
    straight, curved = answer[..., : layer.gelu_from], answer[..., layer.gelu_from :]
    return torch.cat([straight, F.gelu(curved)], dim=-1)


def _grouped(call: Call, weights: FusionWeights) -> Tensor:
    return _convolved(call.given[0].double(), weights.spatial_weight.double(), weights.spatial_bias.double())


def _coefficients(call: Call, weights: FusionWeights) -> Tensor:
    normal, plain = call.given[0].double(), call.given[1].double()
    gates = _convolved(normal, weights.gate_weight.double(), weights.gate_bias.double())
    first, second = gates.chunk(2, dim=-1)
    return plain + F.linear(first * second, weights.mix_weight.double())


def _filtered(call: Call, weights: FusionWeights) -> Tensor:
    features, named = call.given[0].double(), call.named
    answer = attention(features, call.given[1], weights.basis_weight, weights.basis_bias, weights.group_size)
    if named.get("adds"):
        answer = answer + features
    return answer if named.get("times") is None else answer * named["times"].double()


REFERENCES: dict[str, Callable[[Call, FusionWeights], Tensor]] = {
    "normalised": _normalised,
    "product": _product,
    "feed_forward": _feed_forward,
    "depthwise": _depthwise,
    "grouped": _grouped,
    "coefficients": _coefficients,
    "filtered": _filtered,
}


def attention(features: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, group_size: int) -> Tensor:
    """Return the kernel basis attention in float64, b×h×w×c: row by row, for its memory."""
    features, coefficients, weight, bias = (tensor.double() for tensor in (features, coefficients, weight, bias))
    batch, height, width, channels = features.shape
    groups, bases = channels // group_size, coefficients.shape[-1]
    padded = F.pad(features, (0, 0, 1, 1, 1, 1))
    answer = torch.empty_like(features)
    for row in range(height):
        mixed = (coefficients[:, row] @ weight.view(bases, -1)).view(batch, width, groups, group_size, group_size, 9)
        places = [padded[:, row + place // 3, place % 3 : place % 3 + width] for place in range(9)]
        around = torch.stack(places, dim=-1).view(batch, width, groups, group_size, 9)
        sums = torch.einsum("bwgoit,bwgit->bwgo", mixed, around).reshape(batch, width, channels)
        answer[:, row] = sums + coefficients[:, row] @ bias.view(bases, -1)
    return answer


def _convolved(maps: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    _, group, size, _ = kernels.shape
    inputs = maps.shape[-1]
    answer = F.conv2d(maps.permute(0, 3, 1, 2), kernels, bias, padding=size // 2, groups=inputs // group)
    return answer.permute(0, 2, 3, 1)
