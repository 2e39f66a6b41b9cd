"""Every kernel compiled once, by several processes at a time, so that nothing is compiled while time is taken."""

from collections.abc import Iterable, Iterator
from functools import partial

import torch

from benchmarks.gpu.calls import synchronise
from benchmarks.gpu.report import Item, Told
from benchmarks.gpu.scale import Scale
from kbnet_cli.kernels.gpu import blocks
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.folding import channel_attention_of, feed_forward_of, fusion_of_l, fusion_of_s


def items(scale: Scale) -> Iterator[Item]:
    """Give the blocks of each level and precision; those that are measured most come first."""
    if scale.rehearsal:
        yield Item("KBNet-S", partial(small, scale, *scale.levels[0], "bf16"))
        return  # others take the interpreter minutes
    for precision in scale.precisions:
        for channels, size in scale.levels:
            yield Item(f"KBNet-S, {channels} channels, {precision}", partial(small, scale, channels, size, precision))
        for level, heads in enumerate(scale.large.heads):
            for factor in (1, 2) if level == 0 else (1,):  # its last level is twice as wide
                channels, size = (scale.large.width << level) * factor, scale.tile >> level
                name = f"KBNet-L, {channels} channels of side {size}, {precision}"
                yield Item(name, partial(large, scale, channels, size, heads, precision))


def small(scale: Scale, channels: int, size: int, precision: str) -> Iterable[Told]:
    """Run a block of KBNet-S."""
    block = kbnet_s.KBBlock(channels, lightweight=scale.small.lightweight, ffn_scale=scale.small.ffn_scale)
    block = block.to(scale.device).requires_grad_(False)
    return _run(blocks.BlockS(fusion_of_s(block), feed_forward_of(block), precision), scale, channels, size, precision)  # type: ignore[arg-type]


def large(scale: Scale, channels: int, size: int, heads: int, precision: str) -> Iterable[Told]:
    """Run a block of KBNet-L."""
    expansion, bias = scale.large.expansion, scale.large.bias
    block = kbnet_l.KBBlock(channels, heads=heads, expansion=expansion, bias=bias)
    block = block.to(scale.device).requires_grad_(False)
    fast = blocks.BlockL(fusion_of_l(block), channel_attention_of(block), precision)  # type: ignore[arg-type]
    return _run(fast, scale, channels, size, precision)


def _run(
    block: blocks.BlockS | blocks.BlockL, scale: Scale, channels: int, size: int, precision: str
) -> Iterable[Told]:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with torch.inference_mode():
        for batch in (1 << power for power in range(scale.batch.bit_length())):  # blocks go by how much there is
            block(torch.randn(batch, size, size, channels, device=scale.device).to(dtype))
            synchronise()
    return ()
