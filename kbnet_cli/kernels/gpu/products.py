"""Products of maps with a matrix, and what stands around them: norm, gate, residual, and pixels gathered in fours.

One kernel. A program makes some rows (pixels) and some columns (channels) of the answer and goes through the channels
of the maps. Programs of the same rows are neighbours, so that the maps come from memory once; the matrix always stays
in the GPU's cache.
"""

from dataclasses import dataclass
from typing import Literal, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.arithmetic import dot_precision
from kbnet_cli.kernels.gpu.arithmetic import product as dot
from kbnet_cli.kernels.gpu.maps import pixel_stride

EPSILON = tl.constexpr(1e-6)
"""What the networks' norms add to the variance."""

MULTIPROCESSORS = 132
"""Of an H100."""


@dataclass(frozen=True)
class Matrix:
    """What maps are multiplied with: contiguous, the weight of the maps' type, the bias float32."""

    weight: Float[Tensor, "*pictures n k"]
    """A row an output channel; one matrix for all pictures, or one each."""
    bias: Float[Tensor, " n"] | None = None
    gated: bool = False
    """Whether the products of rows 0 and 1 are multiplied, of rows 2 and 3 and so on: half as many output channels."""

    @staticmethod
    def packed(
        weight: Float[Tensor, "*pictures n k"],
        bias: Float[Tensor, " n"] | None = None,
        *,
        dtype: torch.dtype,
        gated: bool = False,
    ) -> "Matrix":
        """Bring weights of any type into the types that the kernel wants for maps of a type.

        Gated: the products of the first half of the rows (with their bias) are multiplied by those of the second.
        """
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        if gated:
            # Side by side, both factors come out of the tensor cores in the same thread.
            weight = weight.unflatten(-2, (2, -1)).transpose(-3, -2).flatten(-3, -2)
            bias = None if bias is None else bias.unflatten(0, (2, -1)).t().flatten()
        return Matrix(weight.to(dtype).contiguous(), None if bias is None else bias.float().contiguous(), gated)


@dataclass(frozen=True)
class Shape:
    """How the work is cut: powers of two, 16 at least."""

    rows: int
    columns: int
    depth: int
    """Channels of the maps at a time."""
    warps: int
    stages: int


@dataclass(frozen=True)
class Places:
    """Which pixels a row reads and writes: one of each, unless the answer has other sides than the maps."""

    source: Literal[1, 4] = 1
    """4: a row reads the four pixels of a square; the matrix takes the channels of one after the other."""
    target: Literal[1, 4] = 1
    """4: a row writes the four pixels of a square; the matrix has the rows of one after the other."""


@triton.jit(do_not_specialize=["rows", "width"])  # one compilation for all pictures
@no_type_check
def multiply(
    maps,
    weight,
    bias,
    adds,
    norm_weight,
    norm_bias,
    answer,
    rows,
    width,
    K: tl.constexpr,  # noqa: N803
    N: tl.constexpr,  # noqa: N803
    MAPS_STRIDE: tl.constexpr,  # noqa: N803
    ADDS_STRIDE: tl.constexpr,  # noqa: N803
    SOURCES: tl.constexpr,  # noqa: N803
    TARGETS: tl.constexpr,  # noqa: N803
    GATED: tl.constexpr,  # noqa: N803
    OWN_WEIGHTS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    DEPTH: tl.constexpr,  # noqa: N803
):
    """Make a block of the answer: ROWS pixels, COLUMNS of the matrix's N rows for one target.

    K channels of each of SOURCES pixels; `rows` and `width` are of one picture, and of the smaller of its two sizes.
    """
    BLOCKS: tl.constexpr = (N + COLUMNS - 1) // COLUMNS  # noqa: N806
    DEPTHS: tl.constexpr = (K + DEPTH - 1) // DEPTH  # noqa: N806
    block = tl.program_id(0) % (BLOCKS * TARGETS)
    target = block // BLOCKS
    first_column = block % BLOCKS * COLUMNS
    first_row = tl.program_id(0) // (BLOCKS * TARGETS) * ROWS
    picture = tl.program_id(1).to(tl.int64)

    # Rows and columns past the end do the last one's work again and are not stored: so no load of theirs needs a mask.
    row = tl.minimum(first_row + tl.arange(0, ROWS), rows - 1)
    column = tl.minimum(first_column + tl.arange(0, COLUMNS), N - 1)
    channel = tl.arange(0, DEPTH)

    # Where a row reads, counted from the block's first one: that can be far into memory, the others are near to it.
    if SOURCES == 1:
        start = first_row
        near = row - first_row
    else:
        start = 4 * first_row - 2 * (first_row % width)
        near = 4 * row - 2 * (row % width) - start
    maps += (picture * rows * SOURCES + start) * MAPS_STRIDE
    left = maps + near[:, None] * MAPS_STRIDE + channel[None, :]

    if OWN_WEIGHTS:
        weight += picture * (N * TARGETS * K * SOURCES)
    right = weight + (target * N + column)[None, :] * (K * SOURCES) + channel[:, None]

    if norm_weight is not None:
        mean = tl.zeros((ROWS,), tl.float32)
        for depth in range(DEPTHS):
            numbers = _loaded(left, channel[None, :], depth, K, DEPTH).to(tl.float32)
            mean += tl.sum(numbers, axis=1)
        mean = mean / K
        variance = tl.zeros((ROWS,), tl.float32)
        for depth in range(DEPTHS):
            numbers = _loaded(left, channel[None, :], depth, K, DEPTH).to(tl.float32)
            numbers = tl.where(depth * DEPTH + channel[None, :] < K, numbers - mean[:, None], 0.0)
            variance += tl.sum(numbers * numbers, axis=1)
        scale = 1.0 / tl.sqrt(variance / K + EPSILON)

    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for step in range(SOURCES * DEPTHS):
        depth = step % DEPTHS
        source = step // DEPTHS
        # Of a square's four pixels: across, then down.
        pixel = (source // 2 * 2 * width + source % 2) * MAPS_STRIDE
        numbers = _loaded(left + pixel, channel[None, :], depth, K, DEPTH)
        if norm_weight is not None:
            across = _loaded(norm_weight + channel, channel, depth, K, DEPTH)
            up = _loaded(norm_bias + channel, channel, depth, K, DEPTH)
            numbers = (numbers.to(tl.float32) - mean[:, None]) * scale[:, None] * across[None, :] + up[None, :]
            numbers = numbers.to(maps.dtype.element_ty)
        total += dot(numbers, _loaded(right + source * K, channel[:, None], depth, K, DEPTH), PRECISION)

    row = first_row + tl.arange(0, ROWS)
    if bias is not None:
        column = first_column + tl.arange(0, COLUMNS)
        total += tl.load(bias + target * N + column, mask=column < N, other=0.0)[None, :]
    PAIR: tl.constexpr = 2 if GATED else 1  # noqa: N806
    if GATED:
        first, second = tl.split(tl.reshape(total, (ROWS, COLUMNS // 2, 2)))
        total = first * second
    column = first_column // PAIR + tl.arange(0, COLUMNS // PAIR)
    inside = (row[:, None] < rows) & (column[None, :] < N // PAIR)
    if TARGETS == 1:
        start = first_row
        near = row - first_row
    else:
        start = 4 * first_row - 2 * (first_row % width)
        near = 4 * row - 2 * (row % width) - start + target // 2 * 2 * width + target % 2
    if adds is not None:
        adds += (picture * rows * TARGETS + start) * ADDS_STRIDE
        more = tl.load(adds + near[:, None] * ADDS_STRIDE + column[None, :], mask=inside, other=0.0)
        total += more.to(tl.float32)
    answer += (picture * rows * TARGETS + start) * (N // PAIR)
    places = answer + near[:, None] * (N // PAIR) + column[None, :]
    tl.store(places, total.to(answer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def _loaded(places, channel, depth, K: tl.constexpr, DEPTH: tl.constexpr):  # noqa: N803
    """Load some of K channels, zeros after the last."""
    if K % DEPTH == 0:
        return tl.load(places + depth * DEPTH)
    return tl.load(places + depth * DEPTH, mask=depth * DEPTH + channel < K, other=0.0)


def product(
    maps: Float[Tensor, "b h w k"],
    matrix: Matrix,
    *,
    precision: Precision,
    adds: Float[Tensor, "b h2 w2 n"] | None = None,
    norm: tuple[Float[Tensor, " k"], Float[Tensor, " k"]] | None = None,
    places: Places = Places(),
    answer_type: torch.dtype | None = None,
    shape: Shape | None = None,
) -> Float[Tensor, "b h2 w2 n"]:
    """Multiply each pixel's channels with a matrix and add its bias.

    Maps may be a slice of the last axis of wider ones, with an even height and width where squares of pixels are read.
    `adds` comes on top, of any type. A norm (weight and bias, float32) comes before the product, over the channels of
    each pixel; every program of the same rows computes it anew, so that it is for narrow maps or few columns. The
    answer has the maps' type, unless told otherwise. `shape` is for measurements.
    """
    pictures, height, width, channels = maps.shape
    count = matrix.weight.shape[-2] // places.target
    if places.source == 4:
        assert height % 2 == width % 2 == 0, "squares of four pixels do not fill the maps"
        height, width = height // 2, width // 2
    side = 2 if places.target == 4 else 1
    answer = maps.new_empty(
        pictures, side * height, side * width, count // (2 if matrix.gated else 1), dtype=answer_type
    )
    assert matrix.weight.shape[-1] == channels * places.source, "the matrix is not as wide as the maps"
    assert matrix.weight.dtype == maps.dtype, "the matrix is of another type than the maps"
    assert matrix.weight.is_contiguous(), "the matrix is not packed"
    assert adds is None or adds.shape == answer.shape, "what is added has other sizes"
    rows = height * width
    own = matrix.weight.dim() == 3
    if not own:
        rows, pictures = rows * pictures, 1
    if shape is None:
        shape = shape_for(rows * pictures * places.target, count, channels, precision, normed=norm is not None)
    programs = parts(rows, shape.rows) * parts(count, shape.columns) * places.target
    norm_weight, norm_bias = norm or (None, None)
    multiply[(programs, pictures)](
        maps,
        matrix.weight,
        matrix.bias,
        adds,
        norm_weight,
        norm_bias,
        answer,
        rows,
        width,
        K=channels,
        N=count,
        MAPS_STRIDE=pixel_stride(maps),
        ADDS_STRIDE=0 if adds is None else pixel_stride(adds),
        SOURCES=places.source,
        TARGETS=places.target,
        GATED=matrix.gated,
        OWN_WEIGHTS=own,
        PRECISION=dot_precision(precision),
        ROWS=shape.rows,
        COLUMNS=shape.columns,
        DEPTH=shape.depth,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return answer


def shape_for(rows: int, columns: int, channels: int, precision: Precision, *, normed: bool = False) -> Shape:
    """Return a good shape for an H100, within the 99 KB of shared memory that smaller GPUs have.

    Blocks are large where there are enough of them to keep all of the GPU busy.
    """
    if precision == "fp32":  # without tensor cores, registers are what is scarce
        return Shape(64, 64, 16, 4, 2 if normed else 3)
    bytes_each = 2 if precision == "bf16" else 4
    depth = 128 // bytes_each
    if channels <= (2 * depth if normed else depth):
        depth = power_of_two(channels)  # at one go: for the norm, pixels are loaded once
    elif channels % depth:
        depth //= 2
    high, wide = 128, min(128, power_of_two(columns))
    if not normed and columns > 128 and 5 * columns < 4 * 128 * parts(columns, 128):
        wide = 64  # more than a fifth of the columns of larger blocks would be past the end

    def few() -> bool:
        return 2 * parts(rows, high) * parts(columns, wide) < 3 * MULTIPROCESSORS

    def large() -> bool:
        return (high + wide) * depth * bytes_each > 96 << 10

    if few() or large():
        wide = min(wide, 64)
    if few() or large():
        high = 64
    # Smaller blocks leave room for three or four programs at a time on a multiprocessor.
    stages = max(1, min(3 if high == 128 else 4, (96 << 10) // ((high + wide) * depth * bytes_each)))
    return Shape(high, wide, depth, 8 if high * wide > 64 * 128 else 4, stages)


def parts(whole: int, part: int) -> int:
    """Return how many parts cover the whole."""
    return -(-whole // part)


def power_of_two(least: int) -> int:
    """Return the smallest power of two that is no less, and that tensor cores take: 16 or more."""
    return max(16, 1 << (least - 1).bit_length())
