"""The published networks and their operator: spandrel's, or the same form written anew where spandrel is missing."""

import contextlib
from collections.abc import Callable, Iterator

import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from torch import Tensor, nn

from benchmarks.gpu.absent import installed
from kbnet_cli.networks import layers
from kbnet_cli.networks.kbnet_l import KBNetL
from kbnet_cli.networks.kbnet_s import KBNetS
from tests.oracle import published_twin

Operator = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def has_spandrel() -> bool:
    """Say whether spandrel can be imported, and what it needs."""
    if not installed("spandrel"):
        return False
    try:
        operator_of_spandrel()
    except (ImportError, RuntimeError):  # torchvision's compiled part may not fit this torch
        return False
    return True


def whose() -> str:
    """Name what is compared with."""
    return "spandrel" if has_spandrel() else "the published form, written anew"


def operator() -> Operator:
    """Return the published operator: maps b×c×h×w, coefficients b×n×h×w, weights, biases, group size."""
    return operator_of_spandrel() if has_spandrel() else whole_kernels


def operator_of_spandrel() -> Operator:
    """Return spandrel's operator."""
    from tests.oracle import declare_missing_operators

    declare_missing_operators()
    from spandrel.architectures.KBNet.__arch.kb_utils import KBAFunction

    return lambda maps, coefficients, weight, bias, group_size: KBAFunction.apply(
        maps, coefficients, 3, maps.shape[1] // group_size, bias, weight
    )


def whole_kernels(maps: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, group_size: int) -> Tensor:
    """Filter as equation 3 of the paper says it: each pixel's kernel is made whole, then applied to its neighbours."""
    batch, channels, height, width = maps.shape
    groups = channels // group_size
    mixture = coefficients.flatten(2).transpose(1, 2)
    kernels = (mixture @ weight).view(batch, height * width, groups, group_size, group_size * 9)
    around = F.unfold(maps, 3, padding=1).view(batch, groups, group_size * 9, height * width).permute(0, 3, 1, 2)
    sums = (kernels @ around.unsqueeze(-1)).flatten(2) + mixture @ bias
    return sums.transpose(1, 2).reshape(maps.shape)


def network(ours: KBNetS | KBNetL) -> nn.Module:
    """Return the published network with the weights of ours, on the CPU."""
    if has_spandrel():
        twin = published_twin(ours.sizes)
        twin.load_state_dict(ours.state_dict())
        return twin.eval().requires_grad_(False)
    return WithWholeKernels(ours)


class WithWholeKernels(nn.Module):
    """Our network as it is trained, with the operator in its published form."""

    def __init__(self, network: KBNetS | KBNetL) -> None:
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> Tensor:
        """Restore pictures."""
        with _as_published():
            answer: Tensor = self.network(picture)
        return answer


@contextlib.contextmanager
def _as_published() -> Iterator[None]:
    name = "kernel_basis_attention"
    before = vars(layers)[name]
    vars(layers)[name] = lambda maps, coefficients, weight, bias, *, group_size: whole_kernels(
        maps, coefficients, weight, bias, group_size
    )
    try:
        yield
    finally:
        vars(layers)[name] = before
