"""Small networks for tests: one that changes nothing, one that changes everything."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import randomise

TINY = KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), lightweight=True)
TINY_GREY = KBNetSSizes(image_channels=1, width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,))

SMALL_S = KBNetSSizes(width=16, encoder_blocks=(2, 1, 1, 1), middle_blocks=1, decoder_blocks=(1, 1, 1, 2))
SMALL_L = KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=2)
PUBLISHED = [
    pytest.param(SMALL_S, id="gaussian-colour"),
    pytest.param(replace(SMALL_S, image_channels=1), id="gaussian-grey"),
    pytest.param(replace(SMALL_S, lightweight=True, ffn_scale=1.5), id="sidd"),
    pytest.param(SMALL_L, id="derain"),
]
"""The published configurations with fewer channels and blocks."""
ODD = [
    pytest.param(KBNetSSizes(width=4, encoder_blocks=(2,), middle_blocks=0, decoder_blocks=(0,)), id="narrow"),
    pytest.param(KBNetSSizes(width=64, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)), id="as-wide-as-s"),
    pytest.param(KBNetLSizes(width=48, blocks=(0, 0, 0, 1), refinement_blocks=1), id="as-wide-as-l"),
    pytest.param(replace(SMALL_L, heads=(2, 1, 4, 2), bias=True, expansion=1.25), id="biases"),
]


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
