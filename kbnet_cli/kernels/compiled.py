"""The kernel basis attention compiled for the CPU: in float32, on as many threads as torch uses.

The source is kba.c. A build without a compiler has no extension; `available` says so and the plain form runs instead.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

try:
    from kbnet_cli.kernels import kba_extension
except ImportError:
    HAS_EXTENSION = False
else:
    HAS_EXTENSION = True

SMALLEST_PART = 1 << 22
"""Multiplications below which a job is not worth another thread: about a tenth of a millisecond."""

Rows = tuple[int, int]


def available() -> bool:
    """Say whether this installation has the compiled form."""
    return HAS_EXTENSION


def forms() -> tuple[str, ...]:
    """Name the instruction sets that this machine can run it with, the fastest first; nothing without extension."""
    return tuple(kba_extension.forms()) if HAS_EXTENSION else ()


@cache
def fastest_form() -> str:
    """Name the one that runs unless another is asked for."""
    return forms()[0]


def kernel_basis_attention(
    features: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "b n h w"],
    weight: Float[Tensor, "1 n k"],
    bias: Float[Tensor, "1 n c"],
    *,
    group_size: int,
    form: str | None = None,
) -> Float[Tensor, "b c h w"]:
    """Filter each pixel's neighbourhood with its own mixture of basis kernels, on the CPU, without a gradient.

    Shapes, ranges and the formula: `kernels.plain`. `form` is one of `forms()`. Computed in float32, whatever the
    inputs' type; the answer has that of the features.
    """
    inputs = [tensor.detach().float().contiguous() for tensor in (features, attention, weight, bias)]
    answer = torch.empty_like(inputs[0])
    addresses = [tensor.data_ptr() for tensor in (*inputs, answer)]
    sizes = _sizes(inputs, group_size)
    chosen = form or fastest_form()

    def work(rows: Rows) -> None:
        kba_extension.forward(
            chosen, (addresses[0], addresses[1], addresses[2], addresses[3], addresses[4]), (*sizes, *rows)
        )

    # More parts than threads: a thread that the machine holds up must not hold up the others.
    _share(work, _parts(inputs, group_size, parts_a_thread=4))
    return answer.to(features.dtype)


def gradients(
    gradient: Float[Tensor, "b c h w"],
    features: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "b n h w"],
    weight: Float[Tensor, "1 n k"],
    bias: Float[Tensor, "1 n c"],
    *,
    group_size: int,
    form: str | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, attention, weight and bias, given that of the answer.

    Nothing is kept from the forward pass: the kernels are mixed anew, a few pixels at a time.
    """
    inputs = [tensor.detach().float().contiguous() for tensor in (features, attention, weight, bias)]
    gradient = gradient.detach().float().contiguous()
    parts = _parts(inputs, group_size, parts_a_thread=1)
    height, channels, width = features.shape[2], features.shape[1], features.shape[3]
    d_features, d_attention = torch.zeros_like(inputs[0]), torch.empty_like(inputs[1])
    # Each part sums the weights' gradients by itself, and keeps apart what it owes to the rows of its neighbours.
    d_weight = inputs[2].new_empty(len(parts), *inputs[2].shape[1:])
    d_bias = inputs[3].new_empty(len(parts), *inputs[3].shape[1:])
    d_above = inputs[0].new_zeros(len(parts), channels, width)
    d_below = torch.zeros_like(d_above)
    fixed = tuple(tensor.data_ptr() for tensor in (*inputs, gradient, d_features, d_attention))
    sizes = _sizes(inputs, group_size)
    chosen = form or fastest_form()

    def work(rows: Rows) -> None:
        part = parts.index(rows)
        own = tuple(tensor[part].data_ptr() for tensor in (d_weight, d_bias, d_above, d_below))
        kba_extension.backward(
            chosen,
            (fixed[0], fixed[1], fixed[2], fixed[3], fixed[4], fixed[5], fixed[6], own[0], own[1], own[2], own[3]),
            (*sizes, *rows),
        )

    _share(work, parts)
    for part, (first, last) in enumerate(parts):
        if first % height:
            d_features[first // height, :, first % height - 1] += d_above[part]
        if last % height:
            d_features[last // height, :, last % height] += d_below[part]
    return (
        d_features.to(features.dtype),
        d_attention.to(attention.dtype),
        d_weight.sum(0, keepdim=True).to(weight.dtype),
        d_bias.sum(0, keepdim=True).to(bias.dtype),
    )


def _sizes(inputs: list[Tensor], group_size: int) -> tuple[int, int, int, int, int]:
    """Check the shapes, on which the addresses' safety hangs, and return what the C code asks for."""
    features, attention, weight, bias = inputs
    batch, channels, height, width = features.shape
    bases = attention.shape[1]
    assert all(tensor.dtype == torch.float32 and tensor.device.type == "cpu" for tensor in inputs)
    assert attention.shape == (batch, bases, height, width)
    assert group_size >= 1
    assert channels % group_size == 0
    assert weight.shape == (1, bases, channels * group_size * 9)
    assert bias.shape == (1, bases, channels)
    return channels, height, width, bases, group_size


def _parts(inputs: list[Tensor], group_size: int, *, parts_a_thread: int) -> list[Rows]:
    """Split the batch's rows, (first, last + 1) a part, so that each part is worth a thread."""
    batch, channels, height, width = inputs[0].shape
    rows, bases = batch * height, inputs[1].shape[1]
    multiplications = rows * width * channels * group_size * 9 * (bases + 1)
    threads = torch.get_num_threads()
    count = min(rows, max(1, multiplications // SMALLEST_PART), threads * parts_a_thread if threads > 1 else 1)
    edges = [rows * part // count for part in range(count + 1)] if count else []
    return list(pairwise(edges))


def _share(work: Callable[[Rows], None], parts: list[Rows]) -> None:
    """Do every part, on as many threads as torch uses; the caller's is one of them."""
    others = min(torch.get_num_threads(), len(parts)) - 1
    if others < 1:
        for part in parts:
            work(part)
        return
    waiting = iter(parts)

    def work_on() -> None:
        for part in waiting:  # next() of a list's iterator is atomic: no part is done twice
            work(part)

    running = [_pool(others).submit(work_on) for _ in range(others)]
    work_on()
    for thread in running:
        thread.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kba")
