"""KBNet-L (arXiv 2303.02881): a Restormer-shaped U-Net whose blocks filter with the kernel basis attention."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.networks.layers import BasisAttention, ChannelNorm


@dataclass(frozen=True)
class KBNetLSizes:
    """Sizes of a KBNet-L. The defaults are the published deraining and defocus networks'."""

    input_channels: int = 3
    output_channels: int = 3
    width: int = 48
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    refinement_blocks: int = 4
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    expansion: float = 1.5
    bias: bool = False


class MultiAxisFusion(BasisAttention):
    """Multiply a GELU-gated invariant branch, the dynamic branch and a global one. Published name: `attn`."""

    def __init__(self, channels: int, *, expansion: float, bias: bool) -> None:
        hidden = int(channels * expansion)
        super().__init__(channels, features=hidden, group_size=2, gate_width=min(channels, 24))

        def pointwise_then_depthwise() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(channels, hidden, 1, bias=bias),
                nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=bias),
            )

        self.dwconv = pointwise_then_depthwise()
        self.conv1 = pointwise_then_depthwise()
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1))
        self.project_out = nn.Conv2d(hidden, channels, 1, bias=bias)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        dynamic = self.filtered(self.conv1(features), self.coefficients(features))
        invariant = F.gelu(self.dwconv(features))
        return self.project_out(invariant * dynamic * self.sca(features))


class ChannelAttention(nn.Module):
    """Let channels attend to each other over all pixels (Restormer, arXiv 2111.09881). Published name: `ffn`."""

    def __init__(self, channels: int, *, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * channels, 3 * channels, 3, padding=1, groups=3 * channels, bias=bias)
        self.project_out = nn.Conv2d(channels, channels, 1, bias=bias)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        batch, channels, height, width = features.shape
        qkv = self.qkv_dwconv(self.qkv(features)).view(batch, 3, self.heads, channels // self.heads, -1)
        query, key, value = qkv.unbind(dim=1)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        mixture = (query @ key.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        return self.project_out((mixture @ value).view(batch, channels, height, width))


class KBBlock(nn.Module):
    """One block: the fusion first, then the channel attention, although their published names are swapped."""

    def __init__(self, channels: int, *, heads: int, expansion: float, bias: bool) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(channels)
        self.attn = MultiAxisFusion(channels, expansion=expansion, bias=bias)
        self.norm2 = ChannelNorm(channels)
        self.ffn = ChannelAttention(channels, heads=heads, bias=bias)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        features = features + self.attn(self.norm1(features))
        return features + self.ffn(self.norm2(features))


class PatchEmbed(nn.Module):
    """The first convolution, under its published name."""

    def __init__(self, input_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(input_channels, width, 3, padding=1, bias=False)

    def forward(self, picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return self.proj(picture)


class Resample(nn.Module):
    """Halve or double the resolution; channels go the other way. Published name of the inside: `body`."""

    def __init__(self, channels: int, *, up: bool) -> None:
        super().__init__()
        between = 2 * channels if up else channels // 2
        shuffle = nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2)
        self.body = nn.Sequential(nn.Conv2d(channels, between, 3, padding=1, bias=False), shuffle)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        return self.body(features)


class KBNetL(nn.Module):
    """Map a degraded picture to a restored one of the same size, whose height and width are multiples of 8.

    Values: float, display-encoded, 0…1 is black to white.
    """

    size_multiple = 8

    def __init__(self, sizes: KBNetLSizes = KBNetLSizes()) -> None:
        super().__init__()
        self.sizes = sizes
        width, bias = sizes.width, sizes.bias

        def level(count: int, channels: int, heads: int) -> nn.Sequential:
            return nn.Sequential(
                *(KBBlock(channels, heads=heads, expansion=sizes.expansion, bias=bias) for _ in range(count))
            )

        first, second, third, fourth = sizes.blocks
        heads = sizes.heads
        self.patch_embed = PatchEmbed(sizes.input_channels, width)
        self.encoder_level1 = level(first, width, heads[0])
        self.down1_2 = Resample(width, up=False)
        self.encoder_level2 = level(second, 2 * width, heads[1])
        self.down2_3 = Resample(2 * width, up=False)
        self.encoder_level3 = level(third, 4 * width, heads[2])
        self.down3_4 = Resample(4 * width, up=False)
        self.latent = level(fourth, 8 * width, heads[3])
        self.up4_3 = Resample(8 * width, up=True)
        self.reduce_chan_level3 = nn.Conv2d(8 * width, 4 * width, 1, bias=bias)
        self.decoder_level3 = level(third, 4 * width, heads[2])
        self.up3_2 = Resample(4 * width, up=True)
        self.reduce_chan_level2 = nn.Conv2d(4 * width, 2 * width, 1, bias=bias)
        self.decoder_level2 = level(second, 2 * width, heads[1])
        self.up2_1 = Resample(2 * width, up=True)
        # As published, the last level keeps both halves of the concatenation and the first level's heads.
        self.decoder_level1 = level(first, 2 * width, heads[0])
        self.refinement = level(sizes.refinement_blocks, 2 * width, heads[0])
        self.output = nn.Conv2d(2 * width, sizes.output_channels, 3, padding=1, bias=bias)

    @property
    def image_channels(self) -> int:
        """Channels of the pictures it takes: 1 or 3."""
        return self.sizes.input_channels

    def forward(self, picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        first = self.encoder_level1(self.patch_embed(picture))
        second = self.encoder_level2(self.down1_2(first))
        third = self.encoder_level3(self.down2_3(second))
        features = self.latent(self.down3_4(third))
        features = self.reduce_chan_level3(torch.cat([self.up4_3(features), third], dim=1))
        features = self.decoder_level3(features)
        features = self.reduce_chan_level2(torch.cat([self.up3_2(features), second], dim=1))
        features = self.decoder_level2(features)
        features = self.decoder_level1(torch.cat([self.up2_1(features), first], dim=1))
        return self.output(self.refinement(features)) + picture
