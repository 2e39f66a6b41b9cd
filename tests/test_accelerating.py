"""Networks in Triton against the plain networks they come from; interpreted on the CPU where there is no GPU."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.live_memory import peak_of
from tests.oracle import published_network, randomise

pytest.importorskip("triton")

from kbnet_cli.kernels.gpu.arithmetic import Precision
from kbnet_cli.networks.accelerating import accelerated

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Sizes = KBNetSSizes | KBNetLSizes

NARROW = KBNetSSizes(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1))
SIZES = [
    pytest.param(NARROW, id="gaussian-colour"),
    pytest.param(replace(NARROW, image_channels=1, lightweight=True, ffn_scale=1.5), id="sidd-grey"),
    pytest.param(KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1), id="derain"),
    pytest.param(
        KBNetLSizes(width=24, blocks=(1, 0, 0, 1), refinement_blocks=0, heads=(2, 1, 4, 2), bias=True, expansion=1.25),
        id="biases",
    ),
]
"""The published configurations with far fewer channels and blocks: an interpreter is slow."""


def random_network(sizes: Sizes) -> KBNetS | KBNetL:
    """Return a network in which every parameter counts: no scale is near 0 or 1."""
    network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    randomise(network, seed=4)
    return network.eval().requires_grad_(False)


def picture(network: KBNetS | KBNetL, batch: int = 2) -> Tensor:
    """Return pictures; KBNet-S pads odd sizes by itself."""
    size = (7, 9) if isinstance(network, KBNetS) else (8, 16)
    return torch.rand(batch, network.image_channels, *size, generator=torch.Generator().manual_seed(6))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
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


@pytest.mark.parametrize("sizes", SIZES)
def test_in_bfloat16_it_is_a_little_noisier(sizes: Sizes) -> None:
    network = random_network(sizes)
    given = picture(network)
    with torch.inference_mode():
        got = accelerated(network, "bf16", DEVICE)(given.to(DEVICE)).cpu()
    assert got.dtype == torch.float32
    expected = network.double()(given.double())
    noise = float((got - expected).square().mean().sqrt())
    assert 20 * math.log10(float(expected.abs().max()) / noise) > 35
    assert noise > 1e-4 * expected.abs().mean(), "it must be another arithmetic for this to be a test"


def test_pictures_of_a_batch_are_answered_apart() -> None:
    network = random_network(NARROW)
    given = picture(network, batch=3).to(DEVICE)
    ready = accelerated(network, "fp32", DEVICE)
    with torch.inference_mode():
        together, alone = ready(given), torch.cat([ready(one[None]) for one in given])
    assert (together - alone).abs().max() <= 1e-6 * alone.abs().max()


@pytest.fixture
def _no_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let kernels do nothing: what they write into is there all the same."""
    from kbnet_cli.kernels.gpu import arithmetic

    def launcher(_kernel: Any, _grid: Any) -> Any:
        return lambda *_given, **_named: None

    monkeypatch.setattr(type(arithmetic.product), "__getitem__", launcher)
    return


SIDD = KBNetSSizes(lightweight=True, ffn_scale=1.5)


@pytest.mark.usefixtures("_no_kernels")
@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
def test_a_tile_takes_a_tenth_of_the_published_networks_memory(dtype: torch.dtype, precision: Precision) -> None:
    meta = torch.device("meta")
    with meta:
        network, published = (
            KBNetS(SIDD),
            published_network(
                "s",
                width=64,
                middle_blk_num=12,
                enc_blk_nums=[2, 2, 4, 8],
                dec_blk_nums=[2, 2, 2, 2],
                lightweight=True,
                ffn_scale=1.5,
            ).to(dtype),
        )
        ready = accelerated(network, precision, meta)
        tile = torch.empty(1, 3, 512, 512)
        ours, theirs = peak_of(lambda: ready(tile)), peak_of(lambda: published(tile.to(dtype)))
    print(f"{precision}: {ours / 1e6:.0f} MB of {theirs / 1e6:.0f} MB")
    assert ours <= 0.15 * theirs


def test_memory_is_counted_while_it_is_held() -> None:
    def work() -> None:
        first = torch.empty(1000, dtype=torch.uint8, device="meta")
        second = first + 1
        del first
        view = (second + 1).view(10, 100)
        del second
        view * 2  # noqa: B018 - memory is what counts here

    assert peak_of(work) == 2000
