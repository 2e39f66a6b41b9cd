"""From the names and shapes of tensors to the sizes of the KBNet that has them."""

import re
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from kbnet_cli.pickles import quoted

WIDTH_AT_MOST = 1024
"""Channels at full resolution; the published networks have 48 and 64. Limits keep a hostile file from naming giants."""
BLOCKS_AT_MOST = 512
"""In the whole network; the published ones have 36 and 44."""
LEVELS_AT_MOST = 8
"""Resolutions; the published networks have four, and the bottom."""
SCALE_AT_MOST = 16.0
"""The inner width of a block's second half, in channels; published: 1.5 and 2."""
IMAGE_CHANNELS_AT_MOST = 64

Sizes = KBNetSSizes | KBNetLSizes


@runtime_checkable
class HasShape(Protocol):
    """A tensor, or what stands for one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""


Shapes = Mapping[str, HasShape]


def sizes_of(shapes: Shapes) -> Sizes:
    """Read the sizes of a network off its tensors' names and shapes; a file's name says nothing.

    Raises:
        KeyError, IndexError, ValueError, ZeroDivisionError: a tensor is missing, or has a shape that no KBNet has.
    """
    return _sizes_of_l(shapes) if _looks_like_l(shapes) else _sizes_of_s(shapes)


def first_surprise(shapes: Shapes) -> str:
    """Return what is the first sign that tensors are no KBNet's."""
    pattern = re.compile(
        r"(intro|ending|encoders|decoders|middle_blks|downs|ups"
        r"|patch_embed|output|encoder_level\d|decoder_level\d|latent|refinement|(down|up)\d_\d|reduce_chan_level\d)\."
    )
    for key in shapes:
        if not pattern.match(key):
            return f"unexpected key {quoted(key)}"
    landmark = "patch_embed.proj.weight" if _looks_like_l(shapes) else "encoders.0.0.attgamma"
    return f"missing key {landmark!r}" if landmark not in shapes else "the tensors' shapes fit no KBNet"


def _looks_like_l(shapes: Shapes) -> bool:
    return "patch_embed.proj.weight" in shapes


def _counts(shapes: Shapes) -> Mapping[str, int]:
    """Return one more than the highest number behind each prefix of one or two parts in the keys."""
    counts: dict[str, int] = {}
    for key in shapes:
        parts = key.split(".", 3)
        for depth, number in enumerate(parts[1:-1], 1):
            if number.isdecimal():
                prefix = ".".join(parts[:depth])
                counts[prefix] = max(counts.get(prefix, 0), _limited(int(number[:9]) + 1, BLOCKS_AT_MOST))
    return counts


def _limited(value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise ValueError(f"{value} is not in 1 to {most}")
    return value


def _sizes_of_s(shapes: Shapes) -> KBNetSSizes:
    intro = shapes["intro.weight"]
    counts = _counts(shapes)
    levels = _limited(counts["downs"], LEVELS_AT_MOST)
    if counts["ups"] != levels:
        raise ValueError(levels)
    encoders = tuple(counts.get(f"encoders.{level}", 0) for level in range(levels))
    decoders = tuple(counts.get(f"decoders.{level}", 0) for level in range(levels))
    middle = counts.get("middle_blks", 0)
    _limited(sum(encoders) + middle + sum(decoders), BLOCKS_AT_MOST)
    blocks = [key.removesuffix(".attgamma") for key in shapes if key.endswith(".attgamma")]
    block = max(blocks, key=lambda name: shapes[f"{name}.conv4.weight"].shape[1])
    width = _limited(intro.shape[0], WIDTH_AT_MOST)
    scale = _scale(*shapes[f"{block}.conv4.weight"].shape[:2])
    # Kernels work on groups of four channels, and gates multiply halves.
    if width % 4 or any(shapes[key].shape[0] % 2 for key in shapes if key.endswith(".conv4.weight")):
        raise ValueError(width, scale)
    return KBNetSSizes(
        image_channels=_limited(intro.shape[1], IMAGE_CHANNELS_AT_MOST),
        width=width,
        encoder_blocks=encoders,
        middle_blocks=middle,
        decoder_blocks=decoders,
        lightweight=shapes[f"{block}.conv11.1.weight"].shape[-1] == 3,
        ffn_scale=scale,
    )


def _scale(hidden: int, channels: int) -> float:
    """Return the factor whose product with the channels, rounded down as in the networks, is the hidden width.

    It is read at the deepest level: rounding down there rounds every level above it alike.
    """
    factor = hidden / channels
    if not 0 < factor <= SCALE_AT_MOST:
        raise ValueError(f"{factor} is not in 0 to {SCALE_AT_MOST}")
    return factor if int(channels * factor) == hidden else (hidden + 1e-6) / channels


def _deepest_fusion(shapes: Shapes) -> tuple[int, int]:
    weights = [tensor for key, tensor in shapes.items() if key.endswith("attn.project_out.weight")]
    deepest = max(weights, key=lambda tensor: tensor.shape[0])
    return deepest.shape[1], deepest.shape[0]


def _sizes_of_l(shapes: Shapes) -> KBNetLSizes:
    width, input_channels = shapes["patch_embed.proj.weight"].shape[:2]
    _limited(width, WIDTH_AT_MOST)
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    counts = _counts(shapes)
    blocks = [counts.get(level, 0) for level in levels]
    refinement = counts.get("refinement", 0)
    _limited(sum(blocks) + sum(blocks[:3]) + refinement, BLOCKS_AT_MOST)
    published = KBNetLSizes().heads
    # A level without blocks has no heads to count, and needs none.
    heads = [
        shapes[f"{level}.0.ffn.temperature"].shape[0] if blocks[index] else published[index]
        for index, level in enumerate(levels)
    ]
    if any(count and width * 2**index % head for index, (count, head) in enumerate(zip(blocks, heads, strict=True))):
        raise ValueError(heads)
    expansion = _scale(*_deepest_fusion(shapes))
    # Kernels work on groups of two channels, and the answer is added to the picture.
    if any(shapes[key].shape[1] % 2 for key in shapes if key.endswith(".attn.project_out.weight")):
        raise ValueError(width, expansion)
    if shapes["output.weight"].shape[0] != input_channels:
        raise ValueError(input_channels)
    return KBNetLSizes(
        input_channels=_limited(input_channels, IMAGE_CHANNELS_AT_MOST),
        output_channels=input_channels,
        width=width,
        blocks=(blocks[0], blocks[1], blocks[2], blocks[3]),
        refinement_blocks=refinement,
        heads=(heads[0], heads[1], heads[2], heads[3]),
        expansion=expansion,
        bias="output.bias" in shapes,
    )
