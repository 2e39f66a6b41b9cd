"""The kernel basis attention in Triton: kernels mixed, laid on the neighbourhood and summed in one pass.

A program holds the kernels of a block of input channels at all nine places in shared memory and walks over tiles of
pixels. At each place one product on the tensor cores mixes, for every pixel and every channel of the block, the kernels
to all output channels of its group; they are multiplied with the features that lie there, and added up.

The orders of pixels and channels inside a tile are those in which tensor cores hand out their sums: each thread gets
the sums for just those pixels and channels whose features it has loaded, 16 bytes at a time, so that nothing is
exchanged between threads. As mixed radices: a load's pixel (high, half, warp, 8) is the product's (high, warp, half,
8), and a block's channel (4, pair, 2) is the product's column (pair, 4, 2). Any other order would be right, and slower.
"""

from dataclasses import dataclass
from typing import no_type_check

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.arithmetic import dot_precision, map_type, product
from kbnet_cli.kernels.gpu.maps import pixel_stride

GROUP_SIZES = (1, 2, 4, 8)
"""How many channels may be mixed with each other."""
TILE_WIDTH = 16
MOST_PROGRAMS = 65535
"""In the grid's second direction; each does every so manieth tile."""
OPERANDS_IN_SHARED_MEMORY = (9, 10)
"""Major compute capabilities whose tensor cores read kernels where they are kept. Others need them in registers."""
KEPT_BYTES = 150 << 10
"""How much of the H100's 227 kB of shared memory a block's kernels may take."""


@dataclass(frozen=True)
class Shape:
    """How the work is cut; an answer depends on it in its last bits at most."""

    pixels: int
    """Of a tile, a power of two, at least 16 a warp."""
    warps: int
    stages: int
    """How far ahead coefficients (kept) or kernels (not kept) are fetched."""
    kept: bool
    """Whether a program keeps its kernels in shared memory for many tiles; tensor cores read it from Hopper on."""
    at_once: int = 1
    """How many programs a multiprocessor has registers and shared memory for; as many are started if kept."""


@dataclass(frozen=True)
class Bases:
    """Basis kernels and offsets in the order in which `filtered` reads them."""

    kernels: Float[Tensor, "blocks 9 columns bases"]
    """A column is a kernel number: (output channel of the group, channel of the block in the order of products)."""
    offsets: Float[Tensor, "blocks channels bases"]
    group_size: int
    """2 for a true size of 1, whose channels then have nothing but zeros for each other."""
    count: int
    """How many bases there are before padding."""

    @classmethod
    def packed(
        cls,
        weight: Float[Tensor, "1 n k"],
        bias: Float[Tensor, "1 n f"],
        *,
        group_size: int,
        dtype: torch.dtype,
    ) -> "Bases":
        """Pack the published layout (`kernels.plain`) for maps of a type, bfloat16 or float32.

        Raises:
            ValueError: the group size is none of GROUP_SIZES.
        """
        if group_size not in GROUP_SIZES:
            raise ValueError(f"group size {group_size} is none of {GROUP_SIZES}")
        count, channels = bias.shape[1:]
        kernels = weight.view(count, channels // group_size, group_size, group_size, 9)
        if group_size == 1:
            kernels = F.pad(kernels, (0, 0, 0, 0, 0, 0, 0, channels % 2)).unflatten(1, (-1, 2))[:, :, :, 0, 0]
            kernels = torch.diag_embed(kernels.movedim(2, -1)).movedim(2, -1)
            group_size = 2
        kernels = kernels.transpose(1, 2).flatten(2, 3)  # n, output channel of the group, input channel, place
        block = max(64 // dtype.itemsize, 4 * group_size)
        blocks, bases = -(-channels // block), max(16, triton.next_power_of_2(count))
        kernels = F.pad(kernels, (0, 0, 0, blocks * block - kernels.shape[2], 0, 0, 0, bases - count))
        kernels = kernels.view(bases, group_size, blocks, 4, block // 8, 2, 9).permute(2, 6, 1, 4, 3, 5, 0)
        offsets = F.pad(bias[0], (0, blocks * block - channels, 0, bases - count))
        offsets = offsets.view(bases, blocks, 4, block // 8, 2).permute(1, 3, 2, 4, 0)
        return cls(
            kernels.reshape(blocks, 9, group_size * block, bases).to(dtype).contiguous(),
            offsets.reshape(blocks, block, bases).to(dtype).contiguous(),
            group_size,
            count,
        )


def default_shape(bases: Bases, precision: Precision, capability: tuple[int, int]) -> Shape:
    """Return the shape that fits kernels and GPU, by what the compiler says of registers and shared memory.

    Kept: about 180 registers at 128 columns, 150 at 64, so that eight warps or thrice four fit a multiprocessor. Tiles
    without tensor cores (fp32) are small, because every thread then holds a part of both operands.
    """
    columns = bases.kernels.shape[2]
    room = bases.kernels[0].numel() * bases.kernels.element_size() <= KEPT_BYTES
    if precision == "fp32":
        return Shape(64, 4, 1, False)
    if capability[0] in OPERANDS_IN_SHARED_MEMORY and columns <= 128 and room:
        return Shape(64, 4, 2, True, at_once=3) if columns <= 64 and bases.group_size == 2 else Shape(128, 8, 2, True)
    return Shape(64, 4, 2, False) if columns > 128 else Shape(128, 8, 3, False)


def filtered(
    features: Float[Tensor, "b h w f"],
    coefficients: Float[Tensor, "b h w n"],
    bases: Bases,
    *,
    precision: Precision,
    adds: bool = False,
    times: Float[Tensor, "b h w f"] | None = None,
    shape: Shape | None = None,
) -> Float[Tensor, "b h w f"]:
    """Filter each pixel's neighbourhood with its own mixture of the basis kernels.

    Args:
        features: what is filtered, in the type of the precision; outside the picture it counts as zero.
        coefficients: how much of each basis there is at each pixel.
        bases: packed for that type.
        precision: of the products; sums are float32.
        adds: whether the features themselves are added to the answer.
        times: what the answer (with the features, if added) is multiplied by.
        shape: how the work is cut, if not by default.
    """
    pictures, height, width, channels = features.shape
    answer = torch.empty(features.shape, dtype=map_type(precision), device=features.device)
    others = [coefficients, *([] if times is None else [times])]
    rows = [pixel_stride(one) for one in (features, *others)]
    sizes = (*rows, channels)
    # In units of 8, so that the compiler knows that 16 bytes of bfloat16 never straddle a border.
    unit = 8 if all(size % 8 == 0 for size in sizes) else 1
    on_gpu = features.is_cuda
    capability = torch.cuda.get_device_capability(features.device) if on_gpu else (9, 0)
    shape = shape or default_shape(bases, precision, capability)
    blocks = bases.offsets.shape[0]
    tiles = pictures * -(-height // (shape.pixels // TILE_WIDTH)) * -(-width // TILE_WIDTH)
    programs = min(tiles, MOST_PROGRAMS)
    if shape.kept:
        processors = torch.cuda.get_device_properties(features.device).multi_processor_count if on_gpu else 2
        programs = min(programs, max(1, processors * shape.at_once // blocks))
    _filtered[(blocks, programs)](
        features,
        coefficients,
        bases.kernels,
        bases.offsets,
        features if times is None else times,
        answer,
        pictures,
        height,
        width,
        rows[0] // unit,
        rows[1] // unit,
        rows[-1] // unit,
        channels // unit,
        **constants(bases, shape, precision, channels=channels, unit=unit, adds=adds, multiplied=times is not None),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return answer


def constants(
    bases: Bases, shape: Shape, precision: Precision, *, channels: int, unit: int, adds: bool, multiplied: bool
) -> dict[str, object]:
    """Return the kernel's constants: what it is compiled for."""
    block = bases.offsets.shape[1]
    return {
        "UNIT": unit,
        "COUNT": bases.count,
        "BASES": bases.kernels.shape[3],
        "GROUP": bases.group_size,
        "BLOCK": block,
        "WHOLE": channels % block == 0,
        "PIXELS": shape.pixels,
        "WIDE": TILE_WIDTH,
        "WARPS": shape.warps,
        "KEPT": shape.kept,
        "ADDS": adds,
        "TIMES": multiplied,
        "PRECISION": dot_precision(precision),
    }


@triton.jit
@no_type_check
def _block(matrices, number, COLUMNS: tl.constexpr, BASES: tl.constexpr):  # noqa: N803 - Triton's constants
    column = tl.arange(0, COLUMNS)[:, None]
    return tl.load(matrices + (number * COLUMNS + column) * BASES + tl.arange(0, BASES)[None, :])


@triton.jit
@no_type_check
def _mixed(
    sums,
    coefficients,
    kernels,
    features,
    PIXELS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    WARPS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    """Add one place: kernels mixed, times features, summed over the input channels of each group."""
    mixture = tl.reshape(product(coefficients, tl.trans(kernels), PRECISION), (PIXELS, GROUP, BLOCK))
    pairs: tl.constexpr = BLOCK // 8
    features = tl.reshape(features, (PIXELS // (16 * WARPS), 2, WARPS, 8, 4, pairs, 2))
    features = tl.reshape(tl.permute(features, (0, 2, 1, 3, 5, 4, 6)), (PIXELS, 1, BLOCK)).to(tl.float32)
    in_group: tl.constexpr = GROUP // 2
    terms = tl.reshape(mixture * features, (PIXELS, GROUP, pairs // in_group, in_group, 4, 2))
    terms = tl.reshape(tl.permute(terms, (0, 1, 2, 4, 3, 5)), (PIXELS, GROUP, pairs // in_group, 4, GROUP))
    return sums + tl.sum(terms, axis=4)


@triton.jit
@no_type_check
def _place(
    sums,
    coefficients,
    kernels,
    features,
    inside,
    is_there,
    PIXELS: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    WARPS: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    """Add one place, if there can be any neighbour there.

    The condition is hardly ever false. It is there because ptxas moves nothing across it; without it the products of
    several places are computed ahead of the sums, and registers run out.
    """
    here = tl.load(features, mask=inside, other=0.0)
    if is_there:
        sums = _mixed(sums, coefficients, kernels, here, PIXELS, GROUP, BLOCK, WARPS, PRECISION)
    return sums


@triton.jit(do_not_specialize=["pictures", "height", "width"])  # one compilation for all pictures
@no_type_check
def _filtered(
    features,
    coefficients,
    kernels,
    offsets,
    times,
    answer,
    pictures,
    height,
    width,
    features_row,
    coefficients_row,
    times_row,
    channels,
    UNIT: tl.constexpr,  # noqa: N803
    COUNT: tl.constexpr,  # noqa: N803
    BASES: tl.constexpr,  # noqa: N803
    GROUP: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
    WHOLE: tl.constexpr,  # noqa: N803
    PIXELS: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr,  # noqa: N803
    WARPS: tl.constexpr,  # noqa: N803
    KEPT: tl.constexpr,  # noqa: N803
    ADDS: tl.constexpr,  # noqa: N803
    TIMES: tl.constexpr,  # noqa: N803
    PRECISION: tl.constexpr,  # noqa: N803
):
    TALL: tl.constexpr = PIXELS // WIDE  # noqa: N806
    COLUMNS: tl.constexpr = GROUP * BLOCK  # noqa: N806
    PAIRS: tl.constexpr = BLOCK // 8  # noqa: N806
    block = tl.program_id(0)
    kernels += block * 9 * COLUMNS * BASES
    offset = _block(offsets, block, BLOCK, BASES)
    if KEPT:
        kernels0 = _block(kernels, 0, COLUMNS, BASES)
        kernels1 = _block(kernels, 1, COLUMNS, BASES)
        kernels2 = _block(kernels, 2, COLUMNS, BASES)
        kernels3 = _block(kernels, 3, COLUMNS, BASES)
        kernels4 = _block(kernels, 4, COLUMNS, BASES)
        kernels5 = _block(kernels, 5, COLUMNS, BASES)
        kernels6 = _block(kernels, 6, COLUMNS, BASES)
        kernels7 = _block(kernels, 7, COLUMNS, BASES)
        kernels8 = _block(kernels, 8, COLUMNS, BASES)
    row = features_row * UNIT
    channels = channels * UNIT
    pixel = tl.arange(0, PIXELS)
    down = pixel // WIDE
    right = pixel % WIDE
    channel = block * BLOCK + tl.arange(0, BLOCK)[None, :]
    place = (down * width + right)[:, None]
    # The coefficients' pixels in the order of products.
    turned = pixel // (16 * WARPS) * (16 * WARPS) + pixel // 8 % 2 * (8 * WARPS) + pixel // 16 % WARPS * 8 + pixel % 8
    turned_down = turned // WIDE
    turned_right = turned % WIDE
    basis = tl.arange(0, BASES)[None, :]
    turned_place = (turned_down * width + turned_right)[:, None] * (coefficients_row * UNIT) + basis
    across = tl.cdiv(width, WIDE)
    tiles = tl.cdiv(height, TALL) * across
    for tile in range(tl.program_id(1), pictures * tiles, tl.num_programs(1)):
        top = tile % tiles // across * TALL
        left = tile % across * WIDE
        origin = ((tile // tiles).to(tl.int64) * height + top) * width + left
        mixed = ((top + turned_down < height) & (left + turned_right < width))[:, None] & (basis < COUNT)
        mix = tl.load(coefficients + origin * (coefficients_row * UNIT) + turned_place, mask=mixed, other=0.0)
        y = (top + down)[:, None]
        x = (left + right)[:, None]
        above = (y > 0) & (y <= height)
        level = y < height
        below = y < height - 1
        before = (x > 0) & (x <= width)
        along = x < width
        behind = x < width - 1
        if not WHOLE:
            before = before & (channel < channels)
            along = along & (channel < channels)
            behind = behind & (channel < channels)
        here = features + origin * row + (place * row + channel)
        sums = tl.zeros((PIXELS, GROUP, PAIRS // (GROUP // 2), 4), dtype=tl.float32)
        if KEPT:
            tall = height > 1
            broad = width > 1
            # fmt: off
            sums = _place(sums, mix, kernels0, here - width * row - row, above & before, tall & broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels1, here - width * row, above & along, tall,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels2, here - width * row + row, above & behind, tall & broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels3, here - row, level & before, broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels4, here, level & along, height > 0,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels5, here + row, level & behind, broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels6, here + width * row - row, below & before, tall & broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels7, here + width * row, below & along, tall,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            sums = _place(sums, mix, kernels8, here + width * row + row, below & behind, tall & broad,
                          PIXELS, GROUP, BLOCK, WARPS, PRECISION)
            # fmt: on
        else:
            for number in tl.range(0, 9):
                up = number // 3 - 1
                aside = number % 3 - 1
                inside = (y + up >= 0) & (y + up < height) & (x + aside >= 0) & (x + aside < width)
                if not WHOLE:
                    inside = inside & (channel < channels)
                there = tl.load(here + (up * width + aside) * row, mask=inside, other=0.0)
                some = _block(kernels, number, COLUMNS, BASES)
                sums = _mixed(sums, mix, some, there, PIXELS, GROUP, BLOCK, WARPS, PRECISION)
        # Back to the order of loads: pixels, then channels as (4, group, channel of the group).
        sums = tl.reshape(sums, (PIXELS // (16 * WARPS), WARPS, 2, 8, GROUP, PAIRS // (GROUP // 2), 4))
        sums = tl.reshape(tl.permute(sums, (0, 2, 1, 3, 6, 5, 4)), (PIXELS, BLOCK))
        shift = tl.reshape(
            product(mix, tl.trans(offset), PRECISION), (PIXELS // (16 * WARPS), WARPS, 2, 8, PAIRS, 4, 2)
        )
        sums += tl.reshape(tl.permute(shift, (0, 2, 1, 3, 5, 4, 6)), (PIXELS, BLOCK))
        inside = level & along
        if ADDS:
            sums += tl.load(here, mask=inside, other=0.0).to(tl.float32)
        if TIMES:
            by = times + origin * (times_row * UNIT) + (place * (times_row * UNIT) + channel)
            sums *= tl.load(by, mask=inside, other=0.0).to(tl.float32)
        sums = sums.to(answer.dtype.element_ty)
        tl.store(answer + origin * channels + (place * channels + channel), sums, mask=inside)
