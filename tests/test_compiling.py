"""Compiled networks against the plain networks they come from."""

import gc
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kbnet_cli.kernels import compiled, fused
from kbnet_cli.networks import compiling, kbnet_l, kbnet_s
from kbnet_cli.networks.compiling import CompiledBlocks, CompiledDown, CompiledUp
from kbnet_cli.networks.folding import folded
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.networks import ODD, PUBLISHED, SMALL_L, SMALL_S
from tests.oracle import randomise

needs_extension = pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")

FLOAT32, BFLOAT16 = compiled.forms("fp32"), compiled.forms("bf16")

Sizes = KBNetSSizes | KBNetLSizes


def random_network(sizes: Sizes) -> KBNetS | KBNetL:
    """Return a network in which every parameter counts: no scale is near 0 or 1."""
    network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    randomise(network, seed=4)
    return network.eval().requires_grad_(False)


def pictures(network: KBNetS | KBNetL) -> list[Tensor]:
    """Return batches of pictures; KBNet-S pads odd sizes by itself, KBNet-L takes multiples of 8."""
    shapes = [(2, 24, 40), (1, 16, 8)]
    if isinstance(network, KBNetS):
        shapes += [(1, 37, 19), (2, 1, 50)]
    generator = torch.Generator().manual_seed(6)
    return [torch.rand(batch, network.image_channels, *size, generator=generator) for batch, *size in shapes]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_extension
@pytest.mark.parametrize("sizes", [*PUBLISHED, *ODD])
def test_every_form_gives_the_same_answer(sizes: Sizes) -> None:
    network = random_network(sizes)
    ready = {form: compiling.compiled(network, form) for form in FLOAT32}
    tiles = pictures(network)
    double = network.double()
    for tile in tiles:
        expected = double(tile.double())
        assert (expected - tile).abs().max() > 0.05, "the network must do something for this to be a test"
        for form, quick in ready.items():
            got = quick(tile)
            assert got.shape == tile.shape
            assert got.dtype == torch.float32
            assert (got - expected).abs().max() <= 1e-5 * expected.abs().max(), form


@pytest.mark.skipif(not BFLOAT16, reason="this machine does not multiply in bfloat16")
@pytest.mark.parametrize("sizes", PUBLISHED)
def test_in_bfloat16_it_is_a_little_noisier(sizes: Sizes) -> None:
    network = random_network(sizes)
    ready = {form: compiling.compiled(network, form) for form in BFLOAT16}
    tile = pictures(network)[0]
    expected = network.double()(tile.double())
    for form, quick in ready.items():
        got = quick(tile)
        assert got.dtype == torch.float32
        noise = float((got - expected).square().mean().sqrt())
        assert 20 * math.log10(float(expected.abs().max()) / noise) > 40, form
        assert noise > 1e-4 * expected.abs().mean(), "it must be another arithmetic for this to be a test"


@needs_extension
@pytest.mark.parametrize("sizes", PUBLISHED)
def test_the_number_of_threads_changes_next_to_nothing(sizes: Sizes) -> None:
    network = random_network(sizes)
    generator = torch.Generator().manual_seed(8)
    tile = torch.rand(1, network.image_channels, 64, 112, generator=generator)
    quick, answers = compiling.compiled(network, FLOAT32[0]), []
    for count in (1, 2, 3, 4):
        with threads(count):
            answers.append(quick(tile))
    largest = answers[0].abs().max()
    assert all((answer - answers[0]).abs().max() <= 1e-6 * largest for answer in answers[1:])


@needs_extension
@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_the_network_given_stays_as_it_is_and_nothing_is_left_out(sizes: Sizes) -> None:
    network = random_network(sizes)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kinds = [type(module) for module in network.modules()]
    quick = compiling.compiled(network, FLOAT32[0])
    quick(pictures(network)[0])
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [type(module) for module in network.modules()] == kinds
    plain = (kbnet_s.KBBlock, kbnet_l.KBBlock, kbnet_s.Up, kbnet_s.Down)
    assert not any(isinstance(module, plain) for module in quick.modules())
    blocks = [block for module in quick.modules() if isinstance(module, CompiledBlocks) for block in module.blocks]
    assert len(blocks) == sum(kind.__name__ == "KBBlock" for kind in kinds) > 0
    steps = sum(isinstance(module, CompiledDown | CompiledUp) for module in quick.modules())
    assert steps == (8 if isinstance(network, KBNetS) else 0)


@needs_extension
@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_it_works_on_when_the_network_given_is_gone(sizes: Sizes) -> None:
    network = random_network(sizes)
    tile = pictures(network)[0]
    quick = compiling.compiled(network, FLOAT32[0])
    expected = quick(tile)
    freed = sum(parameter.numel() for parameter in network.parameters())
    del network
    gc.collect()
    torch.full((freed,), torch.nan)  # likely where it was
    assert torch.equal(quick(tile), expected)


@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_without_a_form_it_is_folded(sizes: Sizes) -> None:
    network = random_network(sizes)
    tile = pictures(network)[0]
    quick = compiling.compiled(network, None)
    assert torch.equal(quick(tile), folded(network)(tile))
    assert [type(module) for module in quick.modules()] == [type(module) for module in folded(network).modules()]


@needs_extension
@pytest.mark.parametrize("sizes", [SMALL_S, SMALL_L], ids=["s", "l"])
def test_a_trained_network_is_compiled_without_gradients(sizes: Sizes) -> None:
    network = random_network(sizes).requires_grad_(True)
    quick = compiling.compiled(network, FLOAT32[0])
    answer = quick(pictures(network)[0])
    assert not answer.requires_grad
    assert all(parameter.requires_grad for parameter in network.parameters())


@needs_extension
def test_the_second_answer_does_not_depend_on_the_first() -> None:
    network = random_network(SMALL_S)
    quick = compiling.compiled(network, FLOAT32[0])
    first, *others = pictures(network)
    expected = quick(first)
    kept = expected.clone()
    for other in others:
        quick(other)
    assert torch.equal(quick(first), kept)
    assert torch.equal(expected, kept), "an answer must stay when the next one is made"


@needs_extension
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_callers_at_once_do_not_disturb_each_other(precision: str) -> None:
    form = compiled.fastest_form(precision)
    if form is None:
        pytest.skip("this machine does not multiply in bfloat16")
    network = random_network(SMALL_S)
    quick = compiling.compiled(network, form)
    tiles = pictures(network)
    expected = [quick(tile) for tile in tiles]
    with threads(2), ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(quick, 3 * tiles))
    assert all(torch.equal(answer, other) for answer, other in zip(answers, 3 * expected, strict=True))


@needs_extension
def test_small_units_give_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(replace(SMALL_S, lightweight=True))
    tile = pictures(network)[0]
    expected = network.double()(tile.double())
    monkeypatch.setattr(fused, "UNIT_PIXELS", 64)
    monkeypatch.setattr(fused, "POOL_PIXELS", 256)
    got = compiling.compiled(network.float(), FLOAT32[0])(tile)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
