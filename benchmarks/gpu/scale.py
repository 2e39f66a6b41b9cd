"""How much is measured: the published sizes on a GPU, or everything in a tiny form on the CPU."""

import os
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import randomise

REHEARSAL = "KBNET_BENCHMARK_REHEARSAL"
"""The environment variable by which a process knows that it rehearses."""


@dataclass(frozen=True)
class Scale:
    """Sizes of everything."""

    rehearsal: bool
    device: torch.device
    small: KBNetSSizes
    large: KBNetLSizes
    tile: int
    precisions: tuple[str, ...]
    batches: tuple[int, ...]
    large_batches: tuple[int, ...]
    published_batches: tuple[int, ...]
    """For spandrel's form, which takes gigabytes a tile."""
    batch: int
    """Where one batch will do."""
    photo: tuple[int, int]
    photos: int
    """Of a folder from disk to disk."""

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Channels and side of a tile's maps at each level of KBNet-S."""
        count = len(self.small.encoder_blocks) + 1
        return tuple((self.small.width << level, self.tile >> level) for level in range(count))

    def pictures(self, batch: int) -> Tensor:
        """Return a batch of noisy tiles, b×3×h×w, display-encoded, on the device."""
        generator = torch.Generator().manual_seed(batch)
        coarse = torch.rand(batch, 3, 8, 8, generator=generator)
        smooth = nn.functional.interpolate(coarse, size=(self.tile, self.tile), mode="bilinear")
        noise = torch.randn(smooth.shape, generator=generator)
        return (0.1 + 0.8 * smooth + 0.05 * noise).clamp(0, 1).to(self.device)


FULL = Scale(
    rehearsal=False,
    device=torch.device("cuda"),
    small=KBNetSSizes(lightweight=True, ffn_scale=1.5),
    large=KBNetLSizes(),
    tile=512,
    precisions=("bf16", "tf32", "fp32"),
    batches=(1, 2, 4, 8, 16),
    large_batches=(1, 4, 8),
    published_batches=(1, 4),
    batch=8,
    photo=(4000, 6000),
    photos=12,
)
TINY = replace(
    FULL,
    rehearsal=True,
    device=torch.device("cpu"),
    small=KBNetSSizes(width=8, encoder_blocks=(0,), middle_blocks=1, decoder_blocks=(0,), lightweight=True),
    large=KBNetLSizes(width=24, blocks=(1, 0, 0, 0), refinement_blocks=0),
    tile=8,
    precisions=("bf16",),
    batches=(1,),
    large_batches=(1,),
    published_batches=(1,),
    batch=1,
    photo=(12, 20),
    photos=2,
)


def scale() -> Scale:
    """Return what this process measures."""
    return TINY if os.environ.get(REHEARSAL) else FULL


def random_small(sizes: KBNetSSizes) -> KBNetS:
    """Return a KBNet-S on the CPU in which every block counts."""
    network = KBNetS(sizes).eval().requires_grad_(False)
    randomise(network, 0)
    _soften(network)
    return network


def random_large(sizes: KBNetLSizes) -> KBNetL:
    """Return a KBNet-L on the CPU in which every block counts."""
    network = KBNetL(sizes).eval().requires_grad_(False)
    randomise(network, 0)
    _soften(network)
    return network


def _soften(network: nn.Module) -> None:
    """Keep pictures near their range through all blocks: what a block adds is a part of what comes in, as trained."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.rpartition(".")[2] in ("beta", "gamma", "ga1", "attgamma"):
                parameter.mul_(0.5)
            elif name.startswith(("ending.", "output.")):
                parameter.mul_(0.05)
