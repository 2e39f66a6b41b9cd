"""Folded networks against the networks they come from."""

from dataclasses import fields, replace

import pytest
import torch
from torch import Tensor, nn

from kbnet_cli.kernels import compiled, plain_blocks
from kbnet_cli.networks.folding import FoldedBlockL, FoldedBlockS, Held, folded
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.networks import ODD, PUBLISHED, SMALL_L, SMALL_S
from tests.oracle import randomise

ACCURACY = [pytest.param(torch.float64, 1e-10, id="float64"), pytest.param(torch.float32, 1e-5, id="float32")]
Sizes = KBNetSSizes | KBNetLSizes


def random_network(sizes: Sizes, dtype: torch.dtype = torch.float32) -> KBNetS | KBNetL:
    """Return a network in which every parameter counts: no scale is near 0 or 1."""
    network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    randomise(network, seed=3)
    return network.to(dtype).eval().requires_grad_(False)


def picture(network: KBNetS | KBNetL, height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    dtype = next(network.parameters()).dtype
    return torch.rand(batch, network.image_channels, height, width, generator=generator, dtype=dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), ACCURACY)
@pytest.mark.parametrize("sizes", [*PUBLISHED, *ODD])
@pytest.mark.parametrize("plain", [False, True], ids=["as-installed", "plain"])
def test_a_folded_network_gives_the_same_answer(
    sizes: Sizes, dtype: torch.dtype, tolerance: float, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = random_network(sizes, dtype)
    pictures = [picture(network, *size) for size in ((24, 40), (16, 8))]
    if isinstance(network, KBNetS):
        pictures += [picture(network, *size, batch=1) for size in ((37, 19), (1, 50))]
    expected = [network(one) for one in pictures]
    if plain:
        monkeypatch.setattr(compiled, "HAS_EXTENSION", False)
    quick = folded(network)
    for one, answer in zip(pictures, expected, strict=True):
        assert (answer - one).abs().max() > 0.05, "the network must do something for this to be a test"
        got = quick(one)
        assert got.shape == one.shape
        assert got.dtype == dtype
        assert (got - answer).abs().max() <= tolerance * answer.abs().max()


@pytest.mark.parametrize("floats", [1, 1000, 3000])
@pytest.mark.parametrize("sizes", [SMALL_S, replace(SMALL_S, lightweight=True), SMALL_L], ids=["s", "sidd", "l"])
def test_plain_blocks_whatever_their_bands(sizes: Sizes, floats: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(sizes, torch.float64)
    tile = picture(network, 24, 40)
    expected = network(tile)
    monkeypatch.setattr(compiled, "HAS_EXTENSION", False)
    monkeypatch.setattr(plain_blocks, "BAND_FLOATS", floats)
    assert (folded(network)(tile) - expected).abs().max() <= 1e-10 * expected.abs().max()


@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_every_block_is_folded_and_the_network_given_stays_as_it_is(sizes: Sizes) -> None:
    network = random_network(sizes)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    quick = folded(network)
    quick(picture(network, 16, 16))
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [type(module) for module in network.modules()] == kinds
    blocks = sum(kind.__name__ == "KBBlock" for kind in kinds)
    assert sum(isinstance(module, FoldedBlockS | FoldedBlockL) for module in quick.modules()) == blocks > 0
    assert not any(type(module).__name__ == "KBBlock" for module in quick.modules())


def test_what_folding_does_not_change_is_shared_and_yet_moves_alone() -> None:
    network = random_network(SMALL_S)
    assert isinstance(network, KBNetS)
    quick = folded(network)
    assert quick.intro.weight.data_ptr() == network.intro.weight.data_ptr()
    block, before = quick.middle_blks[0], network.middle_blks[0]
    assert isinstance(block, FoldedBlockS)
    assert block.feed_forward.weights.hidden_weight.data_ptr() == before.get_parameter("conv4.weight").data_ptr()
    quick.double()
    assert {tensor.dtype for tensor in held_tensors(quick)} == {torch.float64}
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_folded_weights_are_contiguous_and_want_no_gradient(sizes: Sizes) -> None:
    trained = random_network(sizes).requires_grad_(True)
    tensors = held_tensors(folded(trained))
    assert len(tensors) > 50
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors)


def held_tensors(network: nn.Module) -> list[Tensor]:
    weights = [module.weights for module in network.modules() if isinstance(module, Held)]
    values = [getattr(one, field.name) for one in weights for field in fields(one)]
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("sizes", [replace(SMALL_S, lightweight=True), SMALL_L], ids=["s", "l"])
def test_in_bfloat16_the_residuals_are_added_in_float32(sizes: Sizes) -> None:
    network = random_network(sizes)
    quick = folded(network)
    outputs = []
    for module in quick.modules():
        if isinstance(module, FoldedBlockS | FoldedBlockL):
            module.register_forward_hook(lambda _module, _given, output: outputs.append(output.dtype))
    tile = picture(network, 32, 32, batch=1)
    with torch.inference_mode():
        expected = quick(tile)
        outputs.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = quick(tile)
    assert set(outputs) == {torch.float32}
    # bfloat16 keeps 8 bits; some tens of layers one after another add up to a few hundredths.
    assert (got - expected).abs().max() <= 0.08 * expected.abs().max()
    assert not torch.equal(got, expected)
