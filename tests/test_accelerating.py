"""Networks in Triton against the plain networks they come from; interpreted on the CPU where there is no GPU."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import pytest
import torch
from torch import Tensor

from kbnet_cli import checkpoint
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.live_memory import peak_of
from tests.oracle import published_twin, randomise

pytest.importorskip("triton")

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.networks.accelerating import accelerated

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Sizes = KBNetSSizes | KBNetLSizes

NARROW = KBNetSSizes(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
TINY_S = KBNetSSizes(
    width=8, encoder_blocks=(1,), middle_blocks=0, decoder_blocks=(0,), lightweight=True, ffn_scale=1.5
)
TINY_L = KBNetLSizes(width=8, blocks=(0, 0, 0, 0), refinement_blocks=1, heads=(2, 1, 1, 1))
SIZES = [
    pytest.param(TINY_S, id="tiny-s"),
    pytest.param(TINY_L, id="tiny-l"),
    pytest.param(NARROW, marks=pytest.mark.slow, id="gaussian-colour"),
    pytest.param(
        replace(NARROW, image_channels=1, lightweight=True, ffn_scale=1.5), marks=pytest.mark.slow, id="sidd-grey"
    ),
    pytest.param(KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1), marks=pytest.mark.slow, id="derain"),
    pytest.param(
        KBNetLSizes(width=24, blocks=(1, 0, 0, 1), refinement_blocks=0, heads=(2, 1, 4, 2), bias=True, expansion=1.25),
        marks=pytest.mark.slow,
        id="biases",
    ),
]
"""The published configurations with far fewer channels and blocks: an interpreter is slow."""
ROCKS = Path(__file__).parent.parent / "examples" / "rocks.png"


def random_network(sizes: Sizes) -> KBNetS | KBNetL:
    """Return a network in which every parameter counts: no scale is near 0 or 1."""
    network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    randomise(network, seed=4)
    return network.eval().requires_grad_(False)


def picture(network: KBNetS | KBNetL, batch: int = 2) -> Tensor:
    """Return pictures; KBNet-S pads odd sizes by itself."""
    size = (7, 9) if isinstance(network, KBNetS) else (8, 16)
    if network.sizes in (TINY_S, TINY_L):
        batch, size = (2, (5, 3)) if isinstance(network, KBNetS) else (1, (8, 8))
    return torch.rand(batch, network.image_channels, *size, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("precision", ["fp32", pytest.param("tf32", marks=pytest.mark.slow)])
def test_it_gives_the_same_answer(sizes: Sizes, precision: Precision) -> None:
    network = random_network(sizes)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    given = picture(network)
    with torch.inference_mode():
        got = accelerated(network, precision, DEVICE)(given.to(DEVICE)).cpu()
    assert got.dtype == torch.float32
    assert got.shape == given.shape
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), "the network given stays as it is"
    expected = network.double()(given.double())
    assert (expected - given).abs().max() > 0.05, "the network must do something for this to be a test"
    # The interpreter multiplies as float32 does; a GPU's tf32 rounds to 10 bits.
    tolerance = 1e-2 if precision == "tf32" and DEVICE.type == "cuda" else 1e-5
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("sizes", [SIZES[0], pytest.param(TINY_L, marks=pytest.mark.slow, id="tiny-l"), *SIZES[2:]])
def test_in_bfloat16_it_is_a_little_noisier(sizes: Sizes) -> None:
    network = random_network(sizes)
    given = picture(network)
    with torch.inference_mode():
        got = accelerated(network, "bf16", DEVICE)(given.to(DEVICE)).cpu()
    assert got.dtype == torch.float32
    expected = network.double()(given.double())
    noise = float((got - expected).square().mean().sqrt())
    # The interpreter cuts off what a GPU rounds: twice the error (6 dB), all of it towards zero, so that it adds up.
    assert 20 * math.log10(float(expected.abs().max()) / noise) > (35 if DEVICE.type == "cuda" else 28)
    assert noise > 1e-4 * expected.abs().mean(), "it must be another arithmetic for this to be a test"


@pytest.mark.slow
def test_a_photo_in_bfloat16_is_that_of_float32() -> None:
    """55 dB: an error of less than half a step of 8 bits."""
    network = checkpoint.load(Path(__file__).parent.parent / "weights" / "denoise-small.safetensors").network
    pixels = imagecodecs.png_decode(ROCKS.read_bytes())[200:232, 300:332, :3]
    given = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        got = accelerated(network, "bf16", DEVICE)(given.to(DEVICE)).cpu()
        error = (got - network(given)).square().mean()
    assert -10 * math.log10(float(error)) > 55


@pytest.mark.slow
def test_pictures_of_a_batch_are_answered_apart() -> None:
    network = random_network(NARROW)
    given = picture(network, batch=3).to(DEVICE)
    ready = accelerated(network, "fp32", DEVICE)
    with torch.inference_mode():
        together, alone = ready(given), torch.cat([ready(one[None]) for one in given])
    assert (together - alone).abs().max() <= 1e-6 * alone.abs().max()


@pytest.fixture
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let kernels do nothing: what they write into is there all the same."""
    from kbnet_cli.kernels.gpu import arithmetic

    def launcher(_kernel: Any, _grid: Any) -> Any:
        return lambda *_given, **_named: None

    monkeypatch.setattr(type(arithmetic.product), "__getitem__", launcher)


SIDD = KBNetSSizes(lightweight=True, ffn_scale=1.5)


@pytest.mark.usefixtures("_no_kernels")
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.bfloat16, "bf16"), pytest.param(torch.float32, "fp32", marks=pytest.mark.slow)],
)
def test_a_tile_takes_a_seventh_of_the_published_networks_memory(dtype: torch.dtype, precision: Precision) -> None:
    meta = torch.device("meta")
    with meta:
        network, published = (
            KBNetS(SIDD),
            published_twin(SIDD).to(dtype),
        )
        ready = accelerated(network, precision, meta)
        tile = torch.empty(1, 3, 512, 512)
        ours, theirs = peak_of(lambda: ready(tile)), peak_of(lambda: published(tile.to(dtype)))
    assert ours <= 0.14 * theirs
    assert ours > 4 * tile[0, 0].numel() * 64 * dtype.itemsize, "maps that kernels write into are counted"


def test_memory_is_counted_while_it_is_held() -> None:
    def work() -> None:
        first = torch.empty(1000, dtype=torch.uint8, device="meta")
        second = first + 1
        del first
        view = (second + 1).view(10, 100)
        del second
        view * 2

    assert peak_of(work) == 2000
