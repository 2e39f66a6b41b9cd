"""The feed-forward of KBNet-S in one pass over memory: for narrow maps, where memory is what takes the time."""

from typing import no_type_check

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.arithmetic import dot_precision
from kbnet_cli.kernels.gpu.arithmetic import product as dot
from kbnet_cli.kernels.gpu.maps import pixel_stride
from kbnet_cli.kernels.gpu.products import EPSILON, Matrix, Shape, parts, power_of_two

WIDEST = 64
"""Channels of the maps: a program holds all of a pixel's, twice over; with more, registers run out."""


def fits(channels: int, precision: Precision) -> bool:
    """Say whether `feed_forward` is for maps of so many channels. Otherwise `products` does it in two passes."""
    return channels <= WIDEST and precision != "fp32"


def feed_forward(
    maps: Float[Tensor, "b h w c"],
    norm: tuple[Float[Tensor, " c"], Float[Tensor, " c"]],
    hidden: Matrix,
    output: Matrix,
    *,
    precision: Precision,
    shape: Shape | None = None,
) -> Float[Tensor, "b h w c"]:
    """Normalise, widen, gate and narrow each pixel's channels, and add them as they were.

    `hidden` is gated, and both matrices have a bias. For what `fits`; a shape's depth is not used.
    """
    pictures, height, width, channels = maps.shape
    rows, count = pictures * height * width, output.weight.shape[1]
    answer = maps.new_empty(maps.shape)
    assert hidden.gated, "the first matrix is not gated"
    assert hidden.weight.shape == (2 * count, channels), "the first matrix has other sizes"
    assert output.weight.shape == (channels, count), "the second matrix has other sizes"
    if shape is None:
        # Columns twice over, so that 16 at least are left after the gate.
        shape = Shape(64, min(128 if precision == "bf16" else 64, 2 * power_of_two(count)), 16, 4, 2)
    widen_and_narrow[(parts(rows, shape.rows),)](
        maps,
        *norm,
        hidden.weight,
        hidden.bias,
        output.weight,
        output.bias,
        answer,
        rows,
        K=channels,
        HIDDEN=count,
        STRIDE=pixel_stride(maps),
        PRECISION=dot_precision(precision),
        ROWS=shape.rows,
        COLUMNS=shape.columns,
        DEPTH=power_of_two(channels),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return answer


@triton.jit(do_not_specialize=["rows"])  # one compilation for all pictures
@no_type_check
def widen_and_narrow(
    maps,
    norm_weight,
    norm_bias,
    wide,
    wide_bias,
    narrow,
    narrow_bias,
    answer,
    rows,
    K: tl.constexpr,  # noqa: N803
    HIDDEN: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
):
    """Normalise the K channels of ROWS pixels, widen to HIDDEN pairs, gate, narrow, and add what came in.

    COLUMNS numbers are widened to at a time; half as many are left of them after the gate.
    """
    first_row = tl.program_id(0) * ROWS
    row = first_row + tl.arange(0, ROWS)
    near = tl.minimum(row, rows - 1) - first_row
    channel = tl.arange(0, DEPTH)
    here = channel < K
    maps += first_row.to(tl.int64) * STRIDE
    places = maps + near[:, None] * STRIDE + channel[None, :]

    numbers = tl.load(places, mask=here[None, :], other=0.0).to(tl.float32)
    mean = tl.sum(numbers, axis=1) / K
    numbers = tl.where(here[None, :], numbers - mean[:, None], 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(numbers * numbers, axis=1) / K + EPSILON)
    across = tl.load(norm_weight + channel, mask=here, other=0.0)
    up = tl.load(norm_bias + channel, mask=here, other=0.0)
    normal = (numbers * scale[:, None] * across[None, :] + up[None, :]).to(maps.dtype.element_ty)

    total = tl.zeros((ROWS, DEPTH), tl.float32)
    for step in range((2 * HIDDEN + COLUMNS - 1) // COLUMNS):
        column = step * COLUMNS + tl.arange(0, COLUMNS)
        some = column < 2 * HIDDEN
        inside = here[:, None] & some[None, :]
        matrix = tl.load(wide + column[None, :] * K + channel[:, None], mask=inside, other=0.0)
        pairs = dot(normal, matrix, PRECISION) + tl.load(wide_bias + column, mask=some, other=0.0)[None, :]
        first, second = tl.split(tl.reshape(pairs, (ROWS, COLUMNS // 2, 2)))
        gated = (first * second).to(maps.dtype.element_ty)
        hidden = step * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
        inside = (hidden[:, None] < HIDDEN) & here[None, :]
        matrix = tl.load(narrow + channel[None, :] * HIDDEN + hidden[:, None], mask=inside, other=0.0)
        total += dot(gated, matrix, PRECISION)

    total += tl.load(narrow_bias + channel, mask=here, other=0.0)[None, :]
    total += tl.load(places, mask=here[None, :], other=0.0).to(tl.float32)
    answer += first_row.to(tl.int64) * K
    inside = (row[:, None] < rows) & here[None, :]
    tl.store(answer + near[:, None] * K + channel[None, :], total.to(answer.dtype.element_ty), mask=inside)
