"""From one level of KBNet-S to the next: half the sides with twice the channels, and back."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.products import Matrix, Places, Shape, product


@dataclass(frozen=True)
class Halving:
    """A 2×2 convolution of stride 2, as a matrix: a square's four pixels one after the other."""

    matrix: Matrix

    @staticmethod
    def packed(
        weight: Float[Tensor, "n c 2 2"], bias: Float[Tensor, " n"] | None = None, *, dtype: torch.dtype
    ) -> "Halving":
        """Bring a convolution's weights into this order, and into the type of the maps."""
        return Halving(Matrix.packed(weight.permute(0, 2, 3, 1).flatten(1), bias, dtype=dtype))


@dataclass(frozen=True)
class Doubling:
    """A 1×1 convolution before a pixel shuffle, as a matrix: all channels of one place in the square, then the next."""

    matrix: Matrix

    @staticmethod
    def packed(
        weight: Float[Tensor, "n c"], bias: Float[Tensor, " n"] | None = None, *, dtype: torch.dtype
    ) -> "Doubling":
        """Bring a convolution's weights into this order, and into the type of the maps."""
        # torch's pixel shuffle takes the four places of a channel from four channels that lie together.
        places = weight.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)
        biases = None if bias is None else bias.unflatten(0, (-1, 4)).t().flatten()
        return Doubling(Matrix.packed(places, biases, dtype=dtype))


def halved(
    maps: Float[Tensor, "b h w c"], halving: Halving, *, precision: Precision, shape: Shape | None = None
) -> Float[Tensor, "b h2 w2 n"]:
    """Make maps of half the height and width, which are even."""
    places = Places(source=4)
    return product(maps, halving.matrix, precision=precision, places=places, shape=shape)


def doubled(
    maps: Float[Tensor, "b h w c"],
    doubling: Doubling,
    *,
    precision: Precision,
    adds: Float[Tensor, "b h2 w2 n"] | None = None,
    shape: Shape | None = None,
) -> Float[Tensor, "b h2 w2 n"]:
    """Make maps of twice the height and width, and add those that skipped the levels below."""
    places = Places(target=4)
    return product(maps, doubling.matrix, precision=precision, places=places, adds=adds, shape=shape)
