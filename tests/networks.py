"""Small networks for tests: one that changes nothing, one that changes everything."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import randomise

TINY = KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), lightweight=True)
TINY_GREY = KBNetSSizes(image_channels=1, width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))


def random_network(sizes: KBNetSSizes = TINY, seed: int = 0) -> KBNetS:
    """Return a network in which every parameter counts."""
    network = KBNetS(sizes).eval().requires_grad_(False)
    randomise(network, seed)
    return network


def identity_network(sizes: KBNetSSizes = TINY) -> KBNetS:
    """Return a network that works through all its layers and then adds nothing: its last layer is zero."""
    network = random_network(sizes)
    network.ending.weight.zero_()
    assert network.ending.bias is not None
    network.ending.bias.zero_()
    return network


def save(network: KBNetS, path: Path, **facts: str) -> Path:
    """Write a network as kbnet's own weights are written, with metadata under `kbnet.`."""
    tensors: dict[str, torch.Tensor] = dict(network.state_dict())
    save_file(tensors, path, {f"kbnet.{key}": value for key, value in facts.items()})
    return path
