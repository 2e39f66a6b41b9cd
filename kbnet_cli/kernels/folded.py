"""The weights of a block as inference wants them: every scale multiplied into the matrix or kernel beside it.

Plain values, contiguous and of one floating type, which the forms of the fused blocks take. Written with c channels of
the block, f filtered features (c in KBNet-S, int(c · expansion) in KBNet-L), n basis kernels, m gated maps and the
group size s. What is multiplied into what: `networks.folding`.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class FusionWeights:
    """Norm, three branches multiplied, and the mixing of channels: all of a block up to its first residual."""

    group_size: int
    gelu: bool
    """Whether the invariant branch ends in a GELU."""
    norm_weight: Float[Tensor, " c"]
    norm_bias: Float[Tensor, " c"]
    expand_weight: Float[Tensor, "rows c"]
    """Rows: f of the dynamic branch, f of the invariant branch, n coefficients."""
    expand_bias: Float[Tensor, " rows"]
    depthwise_weight: Float[Tensor, "f 3 3"]
    """Of the dynamic branch, before the kernel basis attention."""
    depthwise_bias: Float[Tensor, " f"]
    spatial_weight: Float[Tensor, "f g k k"]
    """Of the invariant branch: depthwise (g = 1, k = 3) or in groups (g = 4, k = 5)."""
    spatial_bias: Float[Tensor, " f"]
    gate_weight: Float[Tensor, "m c_by_m 3 3"]
    """A convolution in m groups of the normalised features; its first half is multiplied by its second."""
    gate_bias: Float[Tensor, " m"]
    mix_weight: Float[Tensor, "n half_m"]
    """What the gated maps add to the coefficients."""
    basis_weight: Float[Tensor, "1 n f_s_9"]
    """Laid out as in `kernels.plain`: f · s · 9 numbers a basis."""
    basis_bias: Float[Tensor, "1 n f"]
    pool_weight: Float[Tensor, "f c"]
    """The global branch: of the normalised features' mean over all pixels."""
    pool_bias: Float[Tensor, " f"]
    project_weight: Float[Tensor, "c f"]
    project_bias: Float[Tensor, " c"]


@dataclass(frozen=True)
class FeedForwardWeights:
    """Norm, widening, gate and narrowing: the second half of a block of KBNet-S."""

    norm_weight: Float[Tensor, " c"]
    norm_bias: Float[Tensor, " c"]
    hidden_weight: Float[Tensor, "hidden c"]
    hidden_bias: Float[Tensor, " hidden"]
    output_weight: Float[Tensor, "c half_hidden"]
    output_bias: Float[Tensor, " c"]


@dataclass(frozen=True)
class ChannelAttentionWeights:
    """Norm and the attention between channels: the second half of a block of KBNet-L."""

    heads: int
    norm_weight: Float[Tensor, " c"]
    norm_bias: Float[Tensor, " c"]
    qkv_weight: Float[Tensor, "rows c"]
    """Rows: c of the query, c of the key, c of the value; a head's channels lie together."""
    qkv_bias: Float[Tensor, " rows"]
    depthwise_weight: Float[Tensor, "rows 3 3"]
    depthwise_bias: Float[Tensor, " rows"]
    temperature: Float[Tensor, " heads"]
    project_weight: Float[Tensor, "c c"]
    project_bias: Float[Tensor, " c"]
