"""What all kernels in Triton have in common: products of matrices, their precision, the types of maps."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import no_type_check

import torch
import triton
import triton.language as tl

from kbnet_cli.kernels.float32 import Precision

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether kernels run on the CPU, a numpy operation at a time, as tests want it."""


def map_type(precision: Precision) -> torch.dtype:
    """Return the type of feature maps and weights: products have it, sums are float32 in any case."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def dot_precision(precision: Precision) -> str:
    """Return how `product` is to multiply float32: as it is ("ieee"), or with tensor cores and 10 bits ("tf32").

    bfloat16 has no such choice; "tf32" is a word that AMD's compiler does not take.
    """
    return "tf32" if precision == "tf32" else "ieee"


@triton.jit
@no_type_check
def product(left, right, PRECISION: tl.constexpr):  # noqa: N803 - Triton's constants
    """Multiply two matrices, with float32 sums."""
    if INTERPRETED:
        # The interpreter takes bfloat16's bits for whole numbers; as float32 the products are the same.
        return tl.dot(left.to(tl.float32), right.to(tl.float32), input_precision="ieee")
    return tl.dot(left, right, input_precision=PRECISION)


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the one that kernels are launched on: Triton does not look where its tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@triton.jit
@no_type_check
def _doubled(numbers):
    place = tl.arange(0, 16)
    tl.store(numbers + place, tl.load(numbers + place) * 2)


def attempt(device: torch.device) -> None:
    """Run a small kernel on a device, and see to it that it did what it should.

    Raises:
        Exception: anything, where kernels do not run there.
    """
    numbers = torch.ones(16, device=device)
    with current(device):
        _doubled[(1,)](numbers)
    assert float(numbers.sum()) == 32, "wrong numbers"
