"""The kernel basis attention compiled for the CPU, on as many threads as torch uses.

The source is kba.c. A build without a compiler has no extension; `available` says so and the plain form runs instead.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels import threads
from kbnet_cli.kernels.threads import Part

try:
    from kbnet_cli.kernels import kba_extension
except ImportError:
    HAS_EXTENSION = False
else:
    HAS_EXTENSION = True

SMALLEST_PART = 1 << 22
"""Multiplications below which a job is not worth another thread: about a tenth of a millisecond."""

BFLOAT16_FORMS = ("amx", "avx512_bf16")

TILE_BASES = 32
"""The most bases that the operator takes in the form amx: what one tile holds."""

NO_GRADIENTS = (0,) * 6
"""Addresses that filtering alone does without."""


def available() -> bool:
    """Say whether this installation has the compiled form."""
    return HAS_EXTENSION


def forms(precision: str = "fp32") -> tuple[str, ...]:
    """Name the instruction sets that this machine can run it with, the fastest first; nothing without extension.

    Those of bf16 multiply in bfloat16 and sum in float32; besides whole blocks, only amx has the operator alone.
    """
    found = kba_extension.forms() if HAS_EXTENSION else []
    return tuple(form for form in found if (form in BFLOAT16_FORMS) == (precision == "bf16"))


def fastest_form(precision: str = "fp32") -> str | None:
    """Name the one that runs unless another is asked for; None where there is none."""
    return next(iter(forms(precision)), None) if available() else None


def bfloat16_pays() -> bool:
    """Say whether bf16 is much faster than float32 here: with tiles (amx) it is, with pairs alone not everywhere."""
    return fastest_form("bf16") == "amx"


def operator_form(precision: str, bases: int) -> str:
    """Name the form for the operator alone; that of fp32 where this machine has no tiles or they are too small."""
    return "amx" if precision == "bf16" and bfloat16_pays() and bases <= TILE_BASES else forms()[0]


def run(form: str, operation: str, fields: tuple[int, ...]) -> int:
    """Do one of the compiled operations, given the fields of its structure in fused.h or kba.c; see there."""
    return kba_extension.run(form, operation, fields)


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

    Shapes, ranges and the formula: `kernels.plain`. `form` is one of `forms()`, or amx where `forms("bf16")` has it and
    a tile the bases: then kernels are mixed by products of bfloat16 with sums in float32. All else is computed in
    float32, whatever the inputs' type; the answer has that of the features.
    """
    inputs = [tensor.detach().float().contiguous() for tensor in (features, attention, weight, bias)]
    answer = torch.empty_like(inputs[0])
    addresses = tuple(tensor.data_ptr() for tensor in (*inputs, answer))
    sizes = _sizes(inputs, group_size)
    chosen = form or forms()[0]
    assert chosen != "amx" or attention.shape[1] <= TILE_BASES

    def work(rows: Part, scratch: int) -> int:
        return run(chosen, "filter", (*addresses, *NO_GRADIENTS, scratch, *sizes, *rows))

    # More parts than threads: a thread that the machine holds up must not hold up the others.
    threads.share(work, _parts(inputs, group_size, parts_a_thread=4), scratch_bytes=work((0, 0), 0))
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

    Nothing is kept from the forward pass: the kernels are mixed anew, a few pixels at a time. In the form amx the
    attention, the weight, the bias, the kernels' gradients, and the answer's where the bias falls on it, are rounded to
    bfloat16; all sums are float32.
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
    chosen = form or forms()[0]
    assert chosen != "amx" or attention.shape[1] <= TILE_BASES

    def work(rows: Part, scratch: int) -> int:
        part = parts.index(rows)
        own = tuple(tensor[part].data_ptr() for tensor in (d_weight, d_bias, d_above, d_below))
        return run(chosen, "differentiate", (*fixed, *own, scratch, *sizes, *rows))

    threads.share(work, parts, scratch_bytes=work(parts[0], 0) if parts else 0)
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


def _parts(inputs: list[Tensor], group_size: int, *, parts_a_thread: int) -> list[Part]:
    """Split the batch's rows, (first, last + 1) a part, so that each part is worth a thread."""
    batch, channels, height, width = inputs[0].shape
    rows, bases = batch * height, inputs[1].shape[1]
    multiplications = rows * width * channels * group_size * 9 * (bases + 1)
    running = torch.get_num_threads()
    most = running * parts_a_thread if running > 1 else 1
    return threads.parts(rows, min(most, multiplications // SMALLEST_PART))
