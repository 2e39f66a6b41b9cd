"""The compiled blocks of both networks against their plain modules in double precision, whatever the size and cuts."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kbnet_cli.kernels import compiled, fused, memory, threads
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.compiling import CompiledBlocks
from tests.oracle import randomise

pytestmark = pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")

EXAMPLES = settings(max_examples=16, deadline=None)
FEW_EXAMPLES = settings(max_examples=6, deadline=None)
FLOAT32, BFLOAT16 = compiled.forms("fp32"), compiled.forms("bf16")

CUTS = (47, 48, 49, 63, 64, 65, 95, 96, 97, 110, 144, 150)
"""Widths around those at which rows are cut into units, and runs of pixels end."""


@dataclass(frozen=True)
class Cut:
    """A size of maps, how they are cut, and on how many threads."""

    batch: int
    height: int
    width: int
    unit_pixels: int
    threads: int
    seed: int

    def noise(self, channels: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        return torch.randn(self.batch, channels, self.height, self.width, generator=generator)

    @contextmanager
    def running(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fused, "UNIT_PIXELS", self.unit_pixels)
                yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True)
class BlockS:
    """What a block of KBNet-S is made with."""

    channels: int
    lightweight: bool
    ffn_scale: float

    def modules(self, seed: int, count: int = 1) -> nn.Sequential:
        return level(
            [
                kbnet_s.KBBlock(self.channels, lightweight=self.lightweight, ffn_scale=self.ffn_scale)
                for _ in range(count)
            ],
            seed,
        )


@dataclass(frozen=True)
class BlockL:
    """What a block of KBNet-L is made with."""

    channels: int
    heads: int
    bias: bool
    expansion: float = 1.5

    def modules(self, seed: int, count: int = 1) -> nn.Sequential:
        return level(
            [
                kbnet_l.KBBlock(self.channels, heads=self.heads, expansion=self.expansion, bias=self.bias)
                for _ in range(count)
            ],
            seed,
        )


Block = BlockS | BlockL
EXAMPLE_BLOCKS = [
    pytest.param(BlockS(32, lightweight=True, ffn_scale=1.5), id="s-sidd"),
    pytest.param(BlockS(20, lightweight=False, ffn_scale=2.0), id="s-gaussian"),
    pytest.param(BlockL(24, heads=2, bias=False), id="l"),
    pytest.param(BlockL(20, heads=1, bias=True), id="l-with-biases"),
]


def level(blocks: list[Any], seed: int) -> nn.Sequential:
    """Put blocks, whose every parameter counts, one after the other as the networks do."""
    modules = nn.Sequential(*blocks).eval().requires_grad_(False)
    randomise(modules, seed)
    return modules


def cuts(least_pixels: int = 1) -> st.SearchStrategy[Cut]:
    """Any small size, and low ones with widths around the cuts."""

    def of_size(batch: int, height: int, width: int) -> st.SearchStrategy[Cut]:
        return st.builds(
            Cut,
            batch=st.just(batch),
            height=st.just(height),
            width=st.just(width),
            unit_pixels=st.sampled_from((64, 200, 1024)),
            threads=st.integers(1, 4),
            seed=st.integers(0, 2**31 - 1),
        )

    small = st.tuples(st.integers(1, 2), st.integers(1, 70), st.integers(1, 70))
    low = st.tuples(st.integers(1, 3), st.integers(1, 12), st.sampled_from(CUTS))
    return (small | low).filter(lambda size: size[1] * size[2] >= least_pixels).flatmap(lambda size: of_size(*size))


# A gated map sums up one channel or several: up to 32 channels have one each in KBNet-S, and up to 24 in KBNet-L.
def blocks_s(*channels: int) -> st.SearchStrategy[BlockS]:
    return st.builds(
        BlockS, channels=st.sampled_from(channels), lightweight=st.booleans(), ffn_scale=st.sampled_from((1.5, 2.0))
    )


def blocks_l(*channels: int) -> st.SearchStrategy[BlockL]:
    return st.builds(
        BlockL,
        channels=st.sampled_from(channels),
        heads=st.sampled_from((1, 2, 4)),
        bias=st.booleans(),
        expansion=st.sampled_from((1.5, 2.0)),
    )


BLOCKS = blocks_s(4, 8, 12, 20, 24, 28, 32, 64, 96) | blocks_l(4, 12, 20, 24, 48, 72)
NARROW_S, NARROW_L = blocks_s(4, 8, 12, 20), blocks_l(4, 12, 20)


def answer_of(modules: nn.Sequential, cut: Cut, features: Tensor, form: str) -> Tensor:
    with cut.running():
        return CompiledBlocks(modules, form)(features)


def check(block: Block, cut: Cut, forms: tuple[str, ...], *, largest: float, overall: float) -> None:
    """Compare a block's forms with its modules: the largest error by the largest value, and both as lengths."""
    modules, features = block.modules(cut.seed), cut.noise(block.channels)
    answers = {form: answer_of(modules, cut, features, form) for form in forms}
    expected = modules.double()(features.double())
    for form, answer in answers.items():
        assert answer.dtype == torch.float32
        assert answer.shape == expected.shape
        difference = answer - expected
        # Compared this way round, numbers that are not finite fail.
        assert difference.abs().max() <= largest * expected.abs().max(), form
        assert difference.norm() <= overall * expected.norm(), form


@EXAMPLES
@given(block=BLOCKS, cut=cuts())
def test_blocks_in_float32(block: Block, cut: Cut) -> None:
    # Of thousands of such blocks the worst was off by 9e-7, and torch's own in float32 by 6e-7.
    check(block, cut, FLOAT32, largest=2e-6, overall=6e-7)


# An attention of a few pixels hangs on the sign of products near 0: it needs more than 8 bits.
@pytest.mark.skipif(not BFLOAT16, reason="this machine does not multiply in bfloat16")
@EXAMPLES
@given(block=BLOCKS, cut=cuts(least_pixels=32))
def test_blocks_in_bfloat16(block: Block, cut: Cut) -> None:
    # Each factor is rounded to 1/256 of itself at most.
    check(block, cut, BFLOAT16, largest=2e-2, overall=1e-2)


@pytest.mark.parametrize("width", [3, 20, *CUTS])
def test_units_of_the_usual_size(width: int) -> None:
    cut = Cut(batch=1, height=70, width=width, unit_pixels=fused.UNIT_PIXELS, threads=1, seed=width)
    block = BlockS(8, lightweight=False, ffn_scale=1.5)
    check(block, cut, FLOAT32, largest=2e-6, overall=6e-7)
    check(block, cut, BFLOAT16, largest=2e-2, overall=1e-2)


@FEW_EXAMPLES
@given(block=NARROW_S, cut=cuts())
def test_the_number_of_threads_changes_no_bit_of_a_block_of_s(block: Block, cut: Cut) -> None:
    for form in FLOAT32 + BFLOAT16:
        answers = answers_on_threads(block, cut, form)
        assert all(torch.equal(answer, answers[0]) for answer in answers[1:]), form


@FEW_EXAMPLES
@given(block=NARROW_L, cut=cuts())
def test_the_number_of_threads_changes_next_to_nothing_of_a_block_of_l(block: Block, cut: Cut) -> None:
    # Small maps are cut smaller for more threads, and its attention sums up the units one by one.
    for form in FLOAT32:
        answers = answers_on_threads(block, cut, form)
        largest = answers[0].abs().max()
        assert all((answer - answers[0]).abs().max() <= 1e-6 * largest for answer in answers[1:]), form


def answers_on_threads(block: Block, cut: Cut, form: str) -> list[Tensor]:
    modules, features = block.modules(cut.seed), cut.noise(block.channels)
    return [answer_of(modules, replace(cut, threads=count), features, form) for count in range(1, 5)]


@pytest.mark.parametrize("form", FLOAT32 + BFLOAT16)
@pytest.mark.parametrize("block", EXAMPLE_BLOCKS)
def test_maps_of_many_sums_on_any_number_of_threads(block: Block, form: str) -> None:
    cut = Cut(batch=1, height=70, width=110, unit_pixels=fused.UNIT_PIXELS, threads=1, seed=7)
    answers = answers_on_threads(block, cut, form)
    assert all(torch.equal(answer, answers[0]) for answer in answers[1:])


@pytest.mark.parametrize("form", FLOAT32)
def test_how_a_map_is_cut_changes_no_bit_of_the_fusion(form: str) -> None:
    cut = Cut(batch=2, height=37, width=110, unit_pixels=1024, threads=1, seed=11)
    modules = BlockS(24, lightweight=False, ffn_scale=2.0).modules(cut.seed)
    answers = [answer_of(modules, replace(cut, unit_pixels=size), cut.noise(24), form) for size in (64, 300, 9999)]
    assert all(torch.equal(answer, answers[0]) for answer in answers[1:])


FILL = "fill_uninitialized_memory"
"""What makes torch.empty fill with NaN, and with the largest integers; torch's types don't know it."""


@contextmanager
def nothing_but_nan() -> Iterator[None]:
    """Let memory that nobody has set yet hold bytes of 255, which are NaN as a float."""
    before = threads.SPARE_SCRATCH[:]
    mode = torch.are_deterministic_algorithms_enabled(), bool(getattr(torch.utils.deterministic, FILL))

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        answer = real(*shape, dtype=dtype)
        answer.view(torch.uint8).fill_(255)
        return answer

    real = memory.empty
    threads.SPARE_SCRATCH.clear()
    try:
        torch.use_deterministic_algorithms(True)
        setattr(torch.utils.deterministic, FILL, True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "empty", empty)
            yield
    finally:
        torch.use_deterministic_algorithms(mode[0])
        setattr(torch.utils.deterministic, FILL, mode[1])
        threads.SPARE_SCRATCH[:] = before


def refill_scratch() -> None:
    """Set every byte of the scratch memory that is used again."""
    assert threads.SPARE_SCRATCH, "there must be some for this to be a test"
    for scratch in threads.SPARE_SCRATCH:
        scratch.fill_(255)


@FEW_EXAMPLES
@given(block=NARROW_S | NARROW_L, cut=cuts())
def test_what_memory_held_before_does_not_matter(block: Block, cut: Cut) -> None:
    modules, features = block.modules(cut.seed), cut.noise(block.channels)
    for form in FLOAT32 + BFLOAT16:
        expected = answer_of(modules, cut, features, form)
        assert bool(torch.isfinite(expected).all())
        with nothing_but_nan():
            assert torch.equal(answer_of(modules, cut, features, form), expected), form
            refill_scratch()
            assert torch.equal(answer_of(modules, cut, features, form), expected), form


@EXAMPLES
@given(
    cut=cuts(),
    rows=st.integers(1, 40),
    depth=st.integers(1, 40),
    resample=st.sampled_from((0, -1, 1)),
    has_bias=st.booleans(),
    has_addend=st.booleans(),
)
def test_pointwise(cut: Cut, rows: int, depth: int, resample: int, has_bias: bool, has_addend: bool) -> None:
    if resample < 0:
        cut = replace(cut, height=2 * cut.height, width=2 * cut.width)
    if resample > 0:
        rows *= 4
    generator = torch.Generator().manual_seed(cut.seed)
    kernel = torch.randn(rows, depth, *((2, 2) if resample < 0 else (1, 1)), generator=generator)
    bias = torch.randn(rows, generator=generator) if has_bias else None
    features = cut.noise(depth)
    expected = convolved(features.double(), kernel.double(), bias if bias is None else bias.double(), resample)
    addend = torch.randn(expected.shape, generator=generator) if has_addend else None
    if addend is not None:
        expected = expected + addend
    for form in FLOAT32 + BFLOAT16:
        with cut.running():
            product = fused.Pointwise(kernel.flatten(1), bias, form, resample=resample)
            got = product(features, addend)
            with nothing_but_nan():
                assert torch.equal(product(features, addend), got), form
        assert got.shape == expected.shape
        tolerance = 1e-6 if form in FLOAT32 else 1e-2
        assert (got - expected).abs().max() <= tolerance * expected.abs().max(), form


def convolved(features: Tensor, kernel: Tensor, bias: Tensor | None, resample: int) -> Tensor:
    answer = F.conv2d(features, kernel, bias, stride=kernel.shape[-1])
    return F.pixel_shuffle(answer, 2) if resample > 0 else answer


@pytest.mark.parametrize("block", EXAMPLE_BLOCKS)
def test_blocks_in_a_row_leave_what_they_are_given(block: Block) -> None:
    cut = Cut(batch=2, height=19, width=50, unit_pixels=200, threads=2, seed=5)
    features = cut.noise(block.channels)
    before = features.clone()
    for count in (1, 2, 3, 4):
        modules = block.modules(cut.seed, count)
        first = answer_of(modules, cut, features, FLOAT32[0])
        kept = first.clone()
        second = answer_of(modules, cut, 2 * features, FLOAT32[0])
        expected = modules.double()(features.double())
        assert torch.equal(features, before)
        assert torch.equal(first, kept), "an answer must stay when the next one is made"
        assert not torch.equal(first, second)
        assert (first - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("block", EXAMPLE_BLOCKS)
def test_maps_of_another_type_or_layout(block: Block) -> None:
    cut = Cut(batch=2, height=9, width=50, unit_pixels=200, threads=1, seed=5)
    modules, features = block.modules(cut.seed), cut.noise(block.channels)
    expected = answer_of(modules, cut, features, FLOAT32[0])
    wider = torch.full((2, block.channels, 11, 101), torch.nan)
    wider[..., 1:-1, 1::2] = features
    others = (
        features.contiguous(memory_format=torch.channels_last),
        features.double(),
        wider[..., 1:-1, 1::2],
        features.transpose(2, 3).contiguous().transpose(2, 3),
        features.flip(1).flip(1).requires_grad_(),
    )
    for other in others:
        answer = answer_of(modules, cut, other, FLOAT32[0])
        assert torch.equal(answer, expected)
        assert answer.is_contiguous()
        assert not answer.requires_grad
    rounded = features.bfloat16()
    assert torch.equal(
        answer_of(modules, cut, rounded, FLOAT32[0]), answer_of(modules, cut, rounded.float(), FLOAT32[0])
    )


def test_a_form_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no form sse9"):
        CompiledBlocks(BlockS(4, lightweight=True, ffn_scale=2.0).modules(0), "sse9")
