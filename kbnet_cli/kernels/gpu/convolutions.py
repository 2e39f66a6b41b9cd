"""The 3×3 convolutions of a block: depthwise, and those of the gated branch, which end in its coefficients.

They are as fast as memory. A program has some columns of pixels and walks down the rows: it gives each row to the three
rows of the answer that it is part of, so that a pixel is read once from memory and three times, with its neighbours to
both sides, from the nearest cache.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.arithmetic import dot_precision, product
from kbnet_cli.kernels.gpu.maps import pixel_stride

PROGRAMS = 1056
"""How many programs keep an H100 busy: 8 for each of its 132 processors."""


@triton.jit
@no_type_check
def _part(strips, across, height, rows, BLOCKS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    """Return what a program does: a block of channels, a picture, its rows up to one behind, and its first column."""
    block, part = tl.program_id(0) % BLOCKS, tl.program_id(0) // BLOCKS
    top = part // across % strips * rows
    return block, part // (across * strips), top, tl.minimum(top + rows, height), part % across * COLUMNS


@triton.jit
@no_type_check
def _sides(columns, width, inside):
    """Return where there are pixels to the left of columns, in them and to their right."""
    left = ((columns > 0) & (columns <= width))[:, None] & inside[None, :]
    middle = (columns < width)[:, None] & inside[None, :]
    right = (columns < width - 1)[:, None] & inside[None, :]
    return left, middle, right


@triton.jit
@no_type_check
def _weights(weight, places, inside, COUNT: tl.constexpr):  # noqa: N803
    """Load a row of 3×3 weights."""
    left = tl.load(weight + places, mask=inside, other=0.0)[None, :]
    middle = tl.load(weight + COUNT + places, mask=inside, other=0.0)[None, :]
    right = tl.load(weight + 2 * COUNT + places, mask=inside, other=0.0)[None, :]
    return left, middle, right


@triton.jit
@no_type_check
def _first_row(top):
    """Return the row before the first, as a block: the interpreter wants masks made of blocks, not of single values."""
    return tl.full((1, 1), 0, tl.int32) + (top - 1)


@triton.jit
@no_type_check
def _row(source, inside, left, middle, right, STRIDE: tl.constexpr):  # noqa: N803
    """Load a row of pixels, and those to their left and right, with zeros around the picture."""
    before = tl.load(source - STRIDE, mask=left & inside, other=0.0)
    here = tl.load(source, mask=middle & inside, other=0.0)
    after = tl.load(source + STRIDE, mask=right & inside, other=0.0)
    return before, here, after


@triton.jit
@no_type_check
def _added(total, before, here, after, left, middle, right):
    """Add to sums what a row of pixels gives with a row of weights."""
    total += before * left
    total += here * middle
    total += after * right
    return total


@triton.jit
@no_type_check
def _curved(total, channels, GELU_FROM: tl.constexpr):  # noqa: N803
    """Put channels from one on through the GELU."""
    curved = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    return tl.where((channels >= GELU_FROM)[None, :], curved, total)


@triton.jit(do_not_specialize=["height", "width", "strips", "across", "rows"])  # one compilation for all pictures
@no_type_check
def convolve_depthwise(
    maps,
    weight,
    bias,
    answer,
    height,
    width,
    strips,
    across,
    rows,
    F: tl.constexpr,  # noqa: N803
    GELU_FROM: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
):
    """Walk down some rows of some columns and channels."""
    blocks: tl.constexpr = (F + CHANNELS - 1) // CHANNELS
    block, picture, top, bottom, column = _part(strips, across, height, rows, blocks, COLUMNS)
    columns = column + tl.arange(0, COLUMNS)
    channels = block * CHANNELS + tl.arange(0, CHANNELS)
    left, middle, right = _sides(columns, width, channels < F)
    w00, w01, w02 = _weights(weight, channels, channels < F, F)
    w10, w11, w12 = _weights(weight + 3 * F, channels, channels < F, F)
    w20, w21, w22 = _weights(weight + 6 * F, channels, channels < F, F)
    start = tl.zeros((COLUMNS, CHANNELS), tl.float32)
    start += tl.load(bias + channels, mask=channels < F, other=0.0)[None, :]
    # Each row of pixels goes to the sums of three rows of the answer; two of these are under way between the rows.
    upper, lower = start, start
    line = picture.to(tl.int64) * height + top
    source = maps + (line - 1) * width * STRIDE + (columns[:, None] * STRIDE + channels[None, :])
    target = answer + (line - 2) * width * F + (columns[:, None] * F + channels[None, :])
    row = _first_row(top)
    for _ in range(top - 1, bottom + 1, 2):
        # Two rows at a time, so that more loads are under way at once.
        a, b, c = _row(source, (row >= 0) & (row < height), left, middle, right, STRIDE)
        d, e, f = _row(source + width * STRIDE, row + 1 < height, left, middle, right, STRIDE)
        a, b, c = a.to(tl.float32), b.to(tl.float32), c.to(tl.float32)
        first = _added(upper, a, b, c, w20, w21, w22)
        second = _added(lower, a, b, c, w10, w11, w12)
        upper = _added(start, a, b, c, w00, w01, w02)
        d, e, f = d.to(tl.float32), e.to(tl.float32), f.to(tl.float32)
        second = _added(second, d, e, f, w20, w21, w22)
        upper = _added(upper, d, e, f, w10, w11, w12)
        lower = _added(start, d, e, f, w00, w01, w02)
        if block * CHANNELS + CHANNELS > GELU_FROM:
            first, second = _curved(first, channels, GELU_FROM), _curved(second, channels, GELU_FROM)
        tl.store(target, first.to(answer.dtype.element_ty), mask=middle & (row > top))
        inside = (row >= top) & (row < bottom)
        tl.store(target + width * F, second.to(answer.dtype.element_ty), mask=middle & inside)
        source += 2 * width * STRIDE
        target += 2 * width * F
        row += 2


@dataclass(frozen=True)
class Depthwise:
    """A 3×3 convolution of each channel by itself, and where the GELU begins behind it."""

    weight: Float[Tensor, "9 f"]
    bias: Float[Tensor, " f"]
    gelu_from: int
    """From this channel on; f where there is none."""

    @staticmethod
    def packed(
        weight: Float[Tensor, "f 3 3"], bias: Float[Tensor, " f"], *, gelu_from: int | None = None
    ) -> "Depthwise":
        """Lay weights out for the kernel, in float32."""
        flat = weight.detach().float().flatten(1).t().contiguous()
        return Depthwise(flat, bias.detach().float().contiguous(), len(bias) if gelu_from is None else gelu_from)


def depthwise(maps: Float[Tensor, "b h w f"], layer: Depthwise) -> Float[Tensor, "b h w f"]:
    """Convolve each channel by itself, with zeros around, and put the last ones through the exact GELU."""
    batch, height, width, count = maps.shape
    answer = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    together = next(size for size in (64, 32, 16) if count % size == 0 or size == 16)
    columns = 1024 // together
    blocks, across = triton.cdiv(count, together), triton.cdiv(width, columns)
    rows = _rows(height, batch * across * blocks)
    strips = triton.cdiv(height, rows)
    convolve_depthwise[(blocks * across * strips * batch,)](
        maps,
        layer.weight,
        layer.bias,
        answer,
        height,
        width,
        strips,
        across,
        rows,
        F=count,
        GELU_FROM=layer.gelu_from,
        COLUMNS=columns,
        CHANNELS=together,
        STRIDE=pixel_stride(maps),
        num_warps=4,
    )
    return answer


@triton.jit
@no_type_check
def _multiply(left, right):
    return left * right


@triton.jit
@no_type_check
def _gated(total, COLUMNS: tl.constexpr, PAIRS: tl.constexpr, GROUP_BLOCK: tl.constexpr):  # noqa: N803
    """Add up each group's channels, and multiply the maps of both halves."""
    gates = tl.reshape(total, (COLUMNS, 2, PAIRS, GROUP_BLOCK))
    return tl.reduce(tl.sum(gates, axis=3), 1, _multiply)


@triton.jit(do_not_specialize=["height", "width", "strips", "across", "rows"])  # one compilation for all pictures
@no_type_check
def find_coefficients(
    maps,
    plain,
    weight,
    bias,
    mix,
    answer,
    height,
    width,
    strips,
    across,
    rows,
    C: tl.constexpr,  # noqa: N803
    M: tl.constexpr,  # noqa: N803
    N: tl.constexpr,  # noqa: N803
    PAIRS: tl.constexpr,  # noqa: N803
    GROUP_BLOCK: tl.constexpr,  # noqa: N803
    N_BLOCK: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
    PLAIN_STRIDE: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    """Walk down some rows of some columns, all channels at once."""
    _, picture, top, bottom, column = _part(strips, across, height, rows, 1, COLUMNS)
    columns = column + tl.arange(0, COLUMNS)
    # Both halves and each group are padded to powers of two.
    count: tl.constexpr = 2 * PAIRS * GROUP_BLOCK
    group: tl.constexpr = C // M
    places = tl.arange(0, count)
    within = places % (PAIRS * GROUP_BLOCK)
    if group == GROUP_BLOCK:
        inside = within < C // 2
    else:
        inside = (within // GROUP_BLOCK < M // 2) & (within % GROUP_BLOCK < group)
        within = within // GROUP_BLOCK * group + within % GROUP_BLOCK
    channels = places // (PAIRS * GROUP_BLOCK) * (C // 2) + within
    left, middle, right = _sides(columns, width, inside)
    w00, w01, w02 = _weights(weight, places, places < count, count)
    w10, w11, w12 = _weights(weight + 3 * count, places, places < count, count)
    w20, w21, w22 = _weights(weight + 6 * count, places, places < count, count)
    start = tl.zeros((COLUMNS, count), tl.float32) + tl.load(bias + places)[None, :]
    # The mixing is one product for both rows. Tensor cores want 16 pixels at least: fewer are there more than once.
    repeats: tl.constexpr = (16 + 2 * COLUMNS - 1) // (2 * COLUMNS)
    both, outputs = tl.arange(0, repeats * 2 * COLUMNS), tl.arange(0, N_BLOCK)
    behind, beside = both // COLUMNS, column + both % COLUMNS
    pixels = behind * width + beside
    present = ((behind < 2) & (beside < width))[:, None] & (outputs < N)[None, :]
    mixing = tl.load(mix + tl.arange(0, PAIRS)[:, None] * N_BLOCK + outputs[None, :])
    upper, lower = start, start
    line = picture.to(tl.int64) * height + top
    source = maps + (line - 1) * width * STRIDE + (columns[:, None] * STRIDE + channels[None, :])
    added = plain + (line - 2) * width * PLAIN_STRIDE + (pixels[:, None] * PLAIN_STRIDE + outputs[None, :])
    target = answer + (line - 2) * width * N + (pixels[:, None] * N + outputs[None, :])
    row = _first_row(top)
    for _ in range(top - 1, bottom + 1, 2):  # as in convolve_depthwise
        a, b, c = _row(source, (row >= 0) & (row < height), left, middle, right, STRIDE)
        d, e, f = _row(source + width * STRIDE, row + 1 < height, left, middle, right, STRIDE)
        made = row - 1 + behind[:, None]
        mask = present & (made >= top) & (made < bottom)
        total = tl.load(added, mask=mask, other=0.0).to(tl.float32)
        a, b, c = a.to(tl.float32), b.to(tl.float32), c.to(tl.float32)
        first = _added(upper, a, b, c, w20, w21, w22)
        second = _added(lower, a, b, c, w10, w11, w12)
        upper = _added(start, a, b, c, w00, w01, w02)
        d, e, f = d.to(tl.float32), e.to(tl.float32), f.to(tl.float32)
        second = _added(second, d, e, f, w20, w21, w22)
        upper = _added(upper, d, e, f, w10, w11, w12)
        lower = _added(start, d, e, f, w00, w01, w02)
        first, second = _gated(first, COLUMNS, PAIRS, GROUP_BLOCK), _gated(second, COLUMNS, PAIRS, GROUP_BLOCK)
        gated = tl.permute(tl.join(first, second), (2, 0, 1))
        if repeats > 1:
            gated = tl.broadcast_to(gated[None, :, :, :], (repeats, 2, COLUMNS, PAIRS))
        gated = tl.reshape(gated, (repeats * 2 * COLUMNS, PAIRS))
        total += product(gated.to(mixing.dtype), mixing, PRECISION)
        tl.store(target, total.to(answer.dtype.element_ty), mask=mask)
        source += 2 * width * STRIDE
        added += 2 * width * PLAIN_STRIDE
        target += 2 * width * N
        row += 2


@dataclass(frozen=True)
class Gates:
    """The gated branch of the coefficients: a 3×3 convolution in m groups, halves multiplied, and their mixing.

    Written with p gated maps and s channels a group, both padded to powers of two, and n outputs, padded as well.
    """

    channels: int
    maps: int
    outputs: int
    group: int
    """s."""
    weight: Float[Tensor, "9 two_p_s"]
    bias: Float[Tensor, " two_p_s"]
    """In each group's first channel."""
    mix: Float[Tensor, "p n"]

    @staticmethod
    def packed(
        gate_weight: Float[Tensor, "m group 3 3"],
        gate_bias: Float[Tensor, " m"],
        mix_weight: Float[Tensor, "n half_m"],
        *,
        dtype: torch.dtype,
    ) -> "Gates":
        """Lay weights out for the kernel; only the mixing has the maps' type, the rest is float32."""
        maps, group = gate_weight.shape[:2]
        assert maps % 2 == 0, f"{maps} maps have no halves"
        outputs, half = mix_weight.shape
        pairs, padded = max(16, triton.next_power_of_2(half)), triton.next_power_of_2(group)
        weight = gate_weight.new_zeros(9, 2, pairs, padded, dtype=torch.float32)
        weight[:, :, :half, :group] = gate_weight.detach().float().view(2, half, group, 9).permute(3, 0, 1, 2)
        bias = weight.new_zeros(2, pairs, padded)
        bias[:, :half, 0] = gate_bias.detach().float().view(2, half)
        mix = weight.new_zeros(pairs, max(16, triton.next_power_of_2(outputs)), dtype=dtype)
        mix[:half, :outputs] = mix_weight.detach().t()
        return Gates(maps * group, maps, outputs, padded, weight.flatten(1), bias.flatten(), mix)


def coefficients(
    normal: Float[Tensor, "b h w c"], plain: Float[Tensor, "b h w n"], gates: Gates, *, precision: Precision
) -> Float[Tensor, "b h w n"]:
    """Return coefficients of the basis kernels: the plain ones, and what the gated branch adds to them."""
    batch, height, width, channels = normal.shape
    assert channels == gates.channels
    answer = torch.empty(plain.shape, dtype=plain.dtype, device=plain.device)
    columns = max(1, 1024 // len(gates.bias))
    across = triton.cdiv(width, columns)
    rows = _rows(height, batch * across)
    strips = triton.cdiv(height, rows)
    find_coefficients[(across * strips * batch,)](
        normal,
        plain,
        gates.weight,
        gates.bias,
        gates.mix,
        answer,
        height,
        width,
        strips,
        across,
        rows,
        C=channels,
        M=gates.maps,
        N=gates.outputs,
        PAIRS=gates.mix.shape[0],
        GROUP_BLOCK=gates.group,
        N_BLOCK=gates.mix.shape[1],
        COLUMNS=columns,
        STRIDE=pixel_stride(normal),
        PLAIN_STRIDE=pixel_stride(plain),
        PRECISION=dot_precision(precision),
        num_warps=4,
        num_stages=1,
    )
    return answer


def _rows(height: int, programs: int) -> int:
    """Return how many rows a program walks down: many spare reading a row twice, few keep all processors busy."""
    rows = 32
    while rows > 4 and triton.cdiv(height, rows) * programs < PROGRAMS:
        rows //= 2
    return rows
