"""The blocks of both networks compiled for the CPU: whole blocks in small rectangles of the picture, in one pass.

A block of a network reads and writes its feature maps a dozen times when it is done layer by layer. Here a rectangle
(a unit) goes through all of a block's layers while it is in a core's cache, with the pixels around it that the 3×3
and 5×5 convolutions need. The source is kba.c and what it includes; the fields of each operation are in fused.h.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels import compiled, memory, threads
from kbnet_cli.kernels.folded import ChannelAttentionWeights, FeedForwardWeights, FusionWeights
from kbnet_cli.kernels.threads import Part

UNIT_PIXELS = 1024
"""Pixels of a unit, about: what its surroundings add to the work is a small part then."""

UNIT_FLOATS = 30 << 10
"""Floats of a unit's input where channels are few: all its maps fit a core's second cache (2 MB) then."""

FEW_CHANNELS = 64
"""Up to so many channels that pays; with more, the weights alone fill the cache."""

POOL_PIXELS = 4096
"""Pixels of a unit that is only summed up; fixed, so that the sums do not depend on the number of threads."""

Features = Float[Tensor, "b c h w"]
Resampled = Float[Tensor, "b o h2 w2"]


@dataclass(frozen=True)
class Grid:
    """The units that a batch of feature maps is cut into."""

    batch: int
    height: int
    width: int
    unit_height: int
    unit_width: int

    @property
    def count(self) -> int:
        """How many units there are."""
        return self.batch * -(-self.height // self.unit_height) * -(-self.width // self.unit_width)

    @property
    def fields(self) -> tuple[int, int, int, int]:
        """What the compiled code wants to know; the part of the units follows."""
        return self.height, self.width, self.unit_height, self.unit_width


def grid_of(size: tuple[int, int, int], pixels: int, *, at_least: int = 1) -> Grid:
    """Cut maps (batch, height, width) into units of about so many pixels, or less to have `at_least` so many units."""
    batch, height, width = size
    pixels = min(pixels, max(64, batch * height * width // at_least))
    # Whole runs of 48 pixels a row waste nothing; narrow maps are not cut across.
    unit_width = width if width <= 64 else 48
    return Grid(batch, height, width, min(height, max(1, pixels // unit_width)), unit_width)


def unit_pixels(channels: int) -> int:
    """Return about how many pixels a unit should have, as measured on full-size networks."""
    return min(UNIT_PIXELS, UNIT_FLOATS // channels) if channels <= FEW_CHANNELS else UNIT_PIXELS


def _size(features: Features) -> tuple[int, int, int]:
    return features.shape[0], features.shape[2], features.shape[3]


def run(form: str, operation: str, before: tuple[int, ...], grid: Grid, after: tuple[int, ...]) -> None:
    """Do an operation for all units of a grid: the fields before the grid's, and those after the scratch memory's."""
    need = _scratch_bytes(form, operation, before, grid, len(after))

    def work(units: Part, scratch: int) -> None:
        compiled.run(form, operation, (*before, *grid.fields, *units, scratch, *after))

    count = torch.get_num_threads()
    threads.share(work, threads.parts(grid.count, 8 * count if count > 1 else 1), scratch_bytes=need)


@lru_cache(maxsize=256)
def _scratch_bytes(form: str, operation: str, before: tuple[int, ...], grid: Grid, after: int) -> int:
    return compiled.run(form, operation, (*before, *grid.fields, 0, 0, 0, *(0,) * after))


def _packed(form: str, operation: str, sizes: tuple[int, ...], tensors: list[Tensor | None]) -> Tensor:
    """Lay weights out as a form reads them."""
    addresses = tuple(0 if tensor is None else tensor.data_ptr() for tensor in tensors)
    need = compiled.run(form, operation, (*sizes, 0, *addresses))
    packed = torch.empty(need, dtype=torch.uint8)
    compiled.run(form, operation, (*sizes, packed.data_ptr(), *addresses))
    return packed


class Fusion:
    """The fusion of the three branches added to its input, and in KBNet-S the feed-forward part after it."""

    def __init__(self, weights: FusionWeights, feed_forward: FeedForwardWeights | None, form: str) -> None:
        features, channels = weights.pool_weight.shape
        self.form = form
        self.pool_weight, self.pool_bias = weights.pool_weight, weights.pool_bias
        self.norm_weight, self.norm_bias = weights.norm_weight, weights.norm_bias
        hidden = feed_forward.hidden_weight.shape[0] if feed_forward else 0
        self.sizes = (
            channels,
            features,
            weights.group_size,
            weights.gate_weight.shape[0],
            weights.spatial_weight.shape[-1],
            weights.spatial_weight.shape[1],
            int(weights.gelu),
            hidden,
        )
        tensors: list[Tensor | None] = [
            weights.norm_weight,
            weights.norm_bias,
            weights.expand_weight,
            weights.expand_bias,
            weights.depthwise_weight,
            weights.depthwise_bias,
            weights.spatial_weight,
            weights.spatial_bias,
            weights.gate_weight,
            weights.gate_bias,
            weights.mix_weight,
            weights.basis_weight,
            weights.basis_bias[0].t().contiguous(),
            weights.project_weight,
            weights.project_bias,
        ]
        if feed_forward:
            tensors += [
                feed_forward.norm_weight,
                feed_forward.norm_bias,
                feed_forward.hidden_weight,
                feed_forward.hidden_bias,
                feed_forward.output_weight,
                feed_forward.output_bias,
            ]
        else:
            tensors += [None] * 6
        self.packed = _packed(form, "pack_fusion", self.sizes, tensors)

    def __call__(self, features: Features, answer: Features) -> Features:
        """Fill and return the answer."""
        # In float32 also under somebody's autocast: the compiled code is told an address, not a type.
        scale = torch.addmm(self.pool_bias, self._pooled(features), self.pool_weight.t()).float()
        grid = grid_of(_size(features), unit_pixels(features.shape[1]), at_least=torch.get_num_threads())
        addresses = (self.packed, features, scale, answer)
        run(self.form, "fuse", self.sizes, grid, tuple(tensor.data_ptr() for tensor in addresses))
        return answer

    def _pooled(self, features: Features) -> Float[Tensor, "b c"]:
        """Return the mean over the pixels of the normalised channels."""
        batch, channels, height, width = features.shape
        grid = grid_of(_size(features), POOL_PIXELS // 4 if channels > 256 else POOL_PIXELS)
        sums = memory.empty(grid.count, channels)
        addresses = (features, self.norm_weight, self.norm_bias, sums)
        run(self.form, "pool", (channels,), grid, tuple(tensor.data_ptr() for tensor in addresses))
        return sums.view(batch, -1, channels).sum(dim=1, dtype=torch.float64).div_(height * width).float()


class Pointwise:
    """A 1×1 convolution, and the two of its kind that change the resolution."""

    def __init__(
        self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None, form: str, *, resample: int = 0
    ) -> None:
        """Pack the weights.

        Args:
            weight: of the product. Where the size is halved, its columns are (channel, row, column) of the 2×2 square.
            bias: of the product, or None.
            form: one of `compiled.forms`.
            resample: 0, -1 for a 2×2 convolution with a stride of 2, or 1 for a 1×1 convolution and a pixel shuffle.
        """
        self.form, self.resample = form, resample
        self.rows, self.depth = weight.shape
        self.packed = _packed(form, "pack_pointwise", (self.rows, self.depth), [weight.contiguous(), bias])

    def __call__(self, features: Features, addend: Resampled | None = None) -> Resampled:
        """Return the product of contiguous float32 maps, plus an addend of the answer's shape."""
        batch, _, height, width = features.shape
        if self.resample < 0:
            assert height % 2 == width % 2 == 0
            height, width = height // 2, width // 2
            answer = memory.empty(batch, self.rows, height, width)
        elif self.resample > 0:
            answer = memory.empty(batch, self.rows // 4, 2 * height, 2 * width)
        else:
            answer = memory.empty(batch, self.rows, height, width)
        sizes = (self.rows, self.depth, int(self.resample < 0), int(self.resample > 0))
        grid = grid_of((batch, height, width), unit_pixels(features.shape[1]), at_least=torch.get_num_threads())
        more = 0 if addend is None else addend.data_ptr()
        run(
            self.form,
            "pointwise",
            sizes,
            grid,
            (self.packed.data_ptr(), 0, features.data_ptr(), more, answer.data_ptr()),
        )
        return answer


class ChannelAttention:
    """The attention between channels of KBNet-L, added to its input."""

    def __init__(self, weights: ChannelAttentionWeights, form: str) -> None:
        self.form, self.heads, self.temperature = form, weights.heads, weights.temperature
        self.project_weight, self.project_bias = weights.project_weight, weights.project_bias
        self.sizes = (weights.norm_weight.shape[0], weights.heads)
        self.packed = _packed(
            form,
            "pack_attention",
            self.sizes,
            [
                weights.norm_weight,
                weights.norm_bias,
                weights.qkv_weight,
                weights.qkv_bias,
                weights.depthwise_weight,
                weights.depthwise_bias,
            ],
        )

    def __call__(self, features: Features, answer: Features) -> Features:
        """Fill and return the answer."""
        batch, channels = features.shape[:2]
        heads = self.heads
        head = channels // heads
        # Not by the number of threads: the units' sums are added, and another order would be another answer.
        grid = grid_of(_size(features), unit_pixels(features.shape[1]), at_least=8)
        values = memory.empty(*features.shape)
        products = memory.empty(grid.count, heads, head, head)
        squares = memory.empty(grid.count, 2, channels)
        addresses = (self.packed, features, values, products, squares)
        run(self.form, "attend", self.sizes, grid, tuple(tensor.data_ptr() for tensor in addresses))
        product = products.view(batch, -1, heads, head, head).sum(dim=1)
        # As F.normalize does: no length is taken for smaller than 1e-12.
        lengths = squares.view(batch, -1, 2, heads, head).sum(dim=1).sqrt().clamp_min(1e-12)
        scaled = product / (lengths[:, 0, :, :, None] * lengths[:, 1, :, None, :])
        mixture = (scaled * self.temperature.view(1, heads, 1, 1)).softmax(dim=-1)
        project = self.project_weight.view(channels, heads, head)
        both = torch.einsum("ohi,bhij->bohj", project, mixture).reshape(batch, channels, channels)
        packed = [
            _packed(self.form, "pack_pointwise", (channels, channels), [one.contiguous(), self.project_bias])
            for one in both
        ]
        weights, step = torch.stack(packed), packed[0].numel()
        fields = (weights.data_ptr(), step, values.data_ptr(), features.data_ptr(), answer.data_ptr())
        run(self.form, "pointwise", (channels, channels, 0, 0), grid, fields)
        return answer


class BlockS:
    """A block of KBNet-S."""

    def __init__(self, fusion: FusionWeights, feed_forward: FeedForwardWeights, form: str) -> None:
        self.fusion = Fusion(fusion, feed_forward, form)

    def __call__(self, features: Features, answer: Features) -> Features:
        """Fill and return the answer for contiguous float32 maps."""
        return self.fusion(features, answer)


class BlockL:
    """A block of KBNet-L."""

    def __init__(self, fusion: FusionWeights, attention: ChannelAttentionWeights, form: str) -> None:
        self.fusion = Fusion(fusion, None, form)
        self.attention = ChannelAttention(attention, form)

    def __call__(self, features: Features, answer: Features) -> Features:
        """Fill and return the answer for contiguous float32 maps."""
        between = self.fusion(features, memory.empty(*features.shape))
        return self.attention(between, answer)
