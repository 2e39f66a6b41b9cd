"""The norm of a block, with the sums that its global branch wants, and the convolution in groups of channels."""

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

EPSILON = tl.constexpr(1e-6)
"""What the networks' norms add to the variance."""

PROGRAMS = 128
"""How many programs sum up one picture, at least, before one of them takes several blocks of pixels."""


@triton.jit(do_not_specialize=["pixels", "rounds"])  # one compilation for all pictures
@no_type_check
def normalise(
    maps,
    weight,
    bias,
    answer,
    sums,
    pixels,
    rounds,
    C: tl.constexpr,  # noqa: N803
    C_BLOCK: tl.constexpr,  # noqa: N803
    PIXELS: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
):
    """Normalise some blocks of pixels, and add them up."""
    program, picture = tl.program_id(0), tl.program_id(1)
    channels = tl.arange(0, C_BLOCK)
    scale = tl.load(weight + channels, mask=channels < C, other=0.0)
    shift = tl.load(bias + channels, mask=channels < C, other=0.0)
    total = tl.zeros((PIXELS, C_BLOCK), tl.float32)
    first = program * PIXELS * rounds
    for start in range(first, first + PIXELS * rounds, PIXELS):
        places = tl.arange(0, PIXELS)
        inside = (places < pixels - start)[:, None] & (channels < C)[None, :]
        base = picture.to(tl.int64) * pixels + start
        offsets = places[:, None] * STRIDE + channels[None, :]
        values = tl.load(maps + base * STRIDE + offsets, mask=inside, other=0.0).to(tl.float32)
        centred = values - tl.sum(values, axis=1)[:, None] * (1.0 / C)
        if C < C_BLOCK:
            centred = tl.where((channels < C)[None, :], centred, 0.0)
        normal = centred * tl.rsqrt(tl.sum(centred * centred, axis=1) * (1.0 / C) + EPSILON)[:, None]
        # Pixels behind the last one are zero, and stay so.
        total += normal
        normal = normal * scale[None, :] + shift[None, :]
        offsets = places[:, None] * C + channels[None, :]
        tl.store(answer + base * C + offsets, normal.to(answer.dtype.element_ty), mask=inside)
    count = tl.maximum(tl.minimum(pixels - first, PIXELS * rounds), 0)
    total_sum = tl.sum(total, axis=0) * scale + shift * count
    place = picture * tl.num_programs(0) + program
    tl.store(sums + place.to(tl.int64) * C + channels, total_sum, mask=channels < C)


def normalised(
    maps: Float[Tensor, "b h w c"], weight: Float[Tensor, " c"], bias: Float[Tensor, " c"], *, dtype: torch.dtype
) -> tuple[Float[Tensor, "b h w c"], Float[Tensor, "b c"]]:
    """Normalise each pixel over its channels; return that, of a type, and its sums over all pixels of a picture.

    The sums are float32, and do not depend on how many pictures there are.
    """
    batch, height, width, channels = maps.shape
    answer = torch.empty(maps.shape, dtype=dtype, device=maps.device)
    block = triton.next_power_of_2(channels)
    together = max(1, 4096 // block)
    blocks = triton.cdiv(height * width, together)
    rounds = max(1, min(8, blocks // PROGRAMS))
    programs = triton.cdiv(blocks, rounds)
    sums = torch.empty(batch, programs, channels, device=maps.device)
    normalise[programs, batch](
        maps,
        weight,
        bias,
        answer,
        sums,
        height * width,
        rounds,
        C=channels,
        C_BLOCK=block,
        PIXELS=together,
        STRIDE=pixel_stride(maps),
        num_warps=4,
    )
    return answer, sums.sum(dim=1)


@triton.jit(do_not_specialize=["height", "width", "across"])  # one compilation for all pictures
@no_type_check
def convolve_grouped(
    maps,
    weight,
    bias,
    answer,
    height,
    width,
    across,
    F: tl.constexpr,  # noqa: N803
    SIZE: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
    K: tl.constexpr,  # noqa: N803
    STRIPS: tl.constexpr,  # noqa: N803
    STRIDE: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    """Convolve some channels of some strips, each of which is some neighbouring columns of a row."""
    blocks: tl.constexpr = (F + CHANNELS - 1) // CHANNELS
    outputs: tl.constexpr = COLUMNS * CHANNELS
    block, part = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    parts = (height * across + STRIPS - 1) // STRIPS
    picture = part // parts
    first = part % parts * STRIPS
    strips = first + tl.arange(0, STRIPS)
    rows, columns = strips // across, strips % across * COLUMNS
    # Offsets are counted from the program's first row, so that 32 bits hold them.
    line = picture.to(tl.int64) * height + first // across
    down = rows - first // across
    k, n = tl.arange(0, K), tl.arange(0, outputs)
    near = columns[:, None] + (k // CHANNELS - SIZE // 2)[None, :]
    channels = block * CHANNELS + k % CHANNELS
    inside = (near >= 0) & (near < width) & ((channels < F) & (k < (COLUMNS + SIZE - 1) * CHANNELS))[None, :]
    source = maps + line * width * STRIDE + ((down * width)[:, None] + near) * STRIDE + channels[None, :]
    matrix = weight + block * SIZE * K * outputs + k[:, None] * outputs + n[None, :]
    total = tl.zeros((STRIPS, outputs), tl.float32)
    for place in range(SIZE):
        shift = place - SIZE // 2
        there = (rows + shift >= 0) & (rows + shift < height)
        pixels = tl.load(source + shift * width * STRIDE, mask=there[:, None] & inside, other=0.0)
        total += product(pixels, tl.load(matrix + place * K * outputs), PRECISION)
    channels = block * CHANNELS + n % CHANNELS
    total += tl.load(bias + channels, mask=channels < F, other=0.0)[None, :]
    near = columns[:, None] + (n // CHANNELS)[None, :]
    target = answer + line * width * F + ((down * width)[:, None] + near) * F + channels[None, :]
    mask = (rows < height)[:, None] & (near < width) & (channels < F)[None, :]
    tl.store(target, total.to(answer.dtype.element_ty), mask=mask)


@dataclass(frozen=True)
class Grouped:
    """A k×k convolution in groups of channels, as products of matrices for tensor cores.

    A matrix a row of the kernel. It takes some channels of neighbouring columns of pixels and gives those of the
    columns in their middle; what belongs to other groups or is further than the kernel reaches is zero.
    """

    size: int
    """k, odd."""
    channels: int
    """How many channels a matrix takes: some groups."""
    columns: int
    """How many columns it gives."""
    weight: Float[Tensor, "blocks k inputs outputs"]
    bias: Float[Tensor, " f"]

    @staticmethod
    def packed(weight: Float[Tensor, "f g k k"], bias: Float[Tensor, " f"], *, dtype: torch.dtype) -> "Grouped":
        """Lay weights out for the kernel, in the maps' type; g divides f and is a power of two."""
        count, group, size, _ = weight.shape
        assert group == triton.next_power_of_2(group), f"groups of {group}"
        assert count % group == 0, f"{count} channels in groups of {group}"
        assert size % 2 == 1, f"a kernel without a middle: {size}"
        channels = max(16, group)
        columns = max(1, 64 // channels)
        blocks = triton.cdiv(count, channels)
        dense = weight.new_zeros(blocks * channels, channels, size, size, dtype=dtype)
        output = torch.arange(count, device=weight.device)
        for member in range(group):
            dense[output, output % channels // group * group + member] = weight.detach()[:, member].to(dtype)
        dense = dense.view(blocks, channels, channels, size, size).permute(0, 3, 4, 2, 1)
        reach = triton.next_power_of_2(columns + size - 1)
        matrix = dense.new_zeros(blocks, size, reach, channels, columns, channels)
        for column in range(columns):
            matrix[:, :, column : column + size, :, column] = dense
        flat = matrix.view(blocks, size, reach * channels, columns * channels)
        return Grouped(size, channels, columns, flat, bias.detach().float().contiguous())


def grouped(maps: Float[Tensor, "b h w f"], layer: Grouped, *, precision: Precision) -> Float[Tensor, "b h w f"]:
    """Convolve in groups, with zeros around."""
    batch, height, width, count = maps.shape
    answer = torch.empty(maps.shape, dtype=maps.dtype, device=maps.device)
    across = triton.cdiv(width, layer.columns)
    strips = 128 if maps.dtype == torch.bfloat16 else 32
    parts = triton.cdiv(height * across, strips)
    convolve_grouped[(layer.weight.shape[0] * parts * batch,)](
        maps,
        layer.weight,
        layer.bias,
        answer,
        height,
        width,
        across,
        F=count,
        SIZE=layer.size,
        CHANNELS=layer.channels,
        COLUMNS=layer.columns,
        K=layer.weight.shape[2],
        STRIPS=strips,
        STRIDE=pixel_stride(maps),
        PRECISION=dot_precision(precision),
        num_warps=8 if strips == 128 else 4,
        num_stages=2,
    )
    return answer
