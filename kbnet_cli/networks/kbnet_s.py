"""KBNet-S (arXiv 2303.02881): a U-Net of gated blocks around the kernel basis attention."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor, nn

from kbnet_cli.networks.layers import BasisAttention, ChannelNorm, Gate


@dataclass(frozen=True)
class KBNetSSizes:
    """Sizes of a KBNet-S. The defaults are the published Gaussian networks'; SIDD's are lightweight, ffn_scale 1.5."""

    image_channels: int = 3
    width: int = 64
    encoder_blocks: tuple[int, ...] = (2, 2, 4, 8)
    middle_blocks: int = 12
    decoder_blocks: tuple[int, ...] = (2, 2, 2, 2)
    lightweight: bool = False
    """Whether the spatially invariant branch is a 3×3 depthwise convolution instead of a 5×5 one in groups of 4."""
    ffn_scale: float = 2.0


class KBBlock(BasisAttention):
    """One block: three branches multiplied (invariant, dynamic, global), then a gated feed-forward part."""

    def __init__(self, channels: int, *, lightweight: bool, ffn_scale: float) -> None:
        super().__init__(channels, features=channels, group_size=4, gate_width=min(channels, 32))
        hidden = int(channels * ffn_scale)
        self.norm1 = ChannelNorm(channels)
        self.norm2 = ChannelNorm(channels)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1))
        spatial = (
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
            if lightweight
            else nn.Conv2d(channels, channels, 5, padding=2, groups=channels // 4)
        )
        self.conv11 = nn.Sequential(nn.Conv2d(channels, channels, 1), spatial)
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.conv21 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.conv3 = nn.Conv2d(channels, channels, 1)
        self.conv4 = nn.Conv2d(channels, hidden, 1)
        self.conv5 = nn.Conv2d(hidden // 2, channels, 1)
        self.gate = Gate()
        self.beta = nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))
        self.gamma = nn.Parameter(torch.full((1, channels, 1, 1), 1e-2))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        features = torch.addcmul(features, self.branches(self.norm1(features)), self.beta)
        return torch.addcmul(features, self.conv5(self.gate(self.conv4(self.norm2(features)))), self.gamma)

    def branches(self, normal: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Multiply the dynamic branch by the invariant and the global one, and mix the channels."""
        dynamic = self.filtered(self.conv21(self.conv1(normal)), self.coefficients(normal))
        return self.conv3(dynamic * self.conv11(normal) * self.sca(normal))


class Down(nn.Conv2d):
    """Halve the resolution and double the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2 * channels, 2, stride=2)


class Up(nn.Sequential):
    """Double the resolution, halve the channels, and add what the encoder had there."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 2 * channels, 1, bias=False), nn.PixelShuffle(2))

    def forward(  # type: ignore[override] # a Sequential for its published names, with a second input
        self, features: Float[Tensor, "b c h w"], skip: Float[Tensor, "b c2 h2 w2"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        convolution, shuffle = self
        return shuffle(convolution(features)) + skip


class KBNetS(nn.Module):
    """Map a degraded picture to a restored one of the same size.

    Values: float, display-encoded, 0…1 is black to white; values outside pass through as the weights treat them. A size
    that is no multiple of `size_multiple` is padded with zeros at the right and bottom, as published.
    """

    def __init__(self, sizes: KBNetSSizes = KBNetSSizes()) -> None:
        super().__init__()
        self.sizes = sizes
        channels = sizes.width

        def blocks(count: int, channels: int) -> nn.Sequential:
            return nn.Sequential(
                *(KBBlock(channels, lightweight=sizes.lightweight, ffn_scale=sizes.ffn_scale) for _ in range(count))
            )

        self.intro = nn.Conv2d(sizes.image_channels, channels, 3, padding=1)
        self.encoders, self.downs = nn.ModuleList(), nn.ModuleList()
        for count in sizes.encoder_blocks:
            self.encoders.append(blocks(count, channels))
            self.downs.append(Down(channels))
            channels *= 2
        self.middle_blks = blocks(sizes.middle_blocks, channels)
        self.ups, self.decoders = nn.ModuleList(), nn.ModuleList()
        for count in sizes.decoder_blocks:
            self.ups.append(Up(channels))
            channels //= 2
            self.decoders.append(blocks(count, channels))
        self.ending = nn.Conv2d(sizes.width, sizes.image_channels, 3, padding=1)

    @property
    def image_channels(self) -> int:
        """Channels of the pictures it takes: 1 or 3."""
        return self.sizes.image_channels

    @property
    def size_multiple(self) -> int:
        """The number that height and width must be multiples of so that nothing is padded: 16 for four levels."""
        return int(2 ** len(self.sizes.encoder_blocks))

    def forward(self, picture: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        height, width = picture.shape[-2:]
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            picture = F.pad(picture, (0, -width % multiple, 0, -height % multiple))
        features = self.intro(picture)
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            features = encoder(features)
            skips.append(features)
            features = down(features)
        features = self.middle_blks(features)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            features = decoder(up(features, skips.pop()))
        restored: Tensor = self.ending(features) + picture
        return restored[..., :height, :width]
