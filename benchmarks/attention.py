"""The kernel basis attention by itself: kbnet's dispatcher and the published autograd function."""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.turns import Array, Work
from kbnet_cli.kernels.kba import kernel_basis_attention

BASES, GROUP_SIZE = 32, 4

Operator = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def inputs(batch: int, channels: int, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return random features, attention, weight and bias, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, channels, size, size, generator=generator),
        torch.randn(batch, BASES, size, size, generator=generator),
        torch.randn(1, BASES, channels * GROUP_SIZE * 9, generator=generator) / 6,
        torch.randn(1, BASES, channels, generator=generator),
    )


def operator(whose: str) -> Operator:
    """Return kbnet's operator or the one that spandrel carries."""
    if whose == "kbnet":
        return lambda features, attention, weight, bias: kernel_basis_attention(
            features, attention, weight, bias, group_size=GROUP_SIZE
        )
    from tests.oracle import declare_missing_operators

    declare_missing_operators()
    from spandrel.architectures.KBNet.__arch.kb_utils import KBAFunction

    return lambda features, attention, weight, bias: KBAFunction.apply(
        features, attention, 3, features.shape[1] // GROUP_SIZE, bias, weight
    )


def forward(whose: str, *, channels: int, size: int) -> Work:
    """Return one picture through the operator, without a gradient."""
    chosen = operator(whose)

    def run(size: int) -> Callable[[], Array]:
        tensors = inputs(1, channels, size)

        def once() -> Array:
            with torch.inference_mode():
                return chosen(*tensors).numpy()

        return once

    return Work(run(size), run(16))


def training(whose: str, *, batch: int, channels: int, size: int) -> Work:
    """Return a batch through the operator and all gradients back."""
    chosen = operator(whose)

    def run(size: int) -> Callable[[], Array]:
        tensors = [tensor.requires_grad_() for tensor in inputs(batch, channels, size)]
        gradient = torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))

        def once() -> Array:
            answer = chosen(*tensors)
            found = torch.autograd.grad(answer, tensors, gradient)
            return torch.cat([part.reshape(-1) / part.abs().max() for part in (answer.detach(), *found)]).numpy()

        return once

    return Work(run(size), run(16))
