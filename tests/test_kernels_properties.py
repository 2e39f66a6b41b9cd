"""The compiled forms against the plain one in double precision: any shape, layout in memory and number of threads."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbnet_cli.kernels import compiled, plain
from kbnet_cli.kernels.kba import plain_gradients

pytestmark = pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")

EXAMPLES = settings(max_examples=40, deadline=None)
LAYOUTS = ("contiguous", "turned", "channels last", "every second of a larger one", "one for the whole batch")


@dataclass(frozen=True)
class Case:
    """One job: its shape, how its inputs lie in memory, and what their values come from."""

    batch: int
    height: int
    width: int
    groups: int
    group_size: int
    bases: int
    layouts: tuple[str, str, str, str, str]
    seed: int

    @property
    def channels(self) -> int:
        return self.groups * self.group_size

    def inputs(self) -> list[Tensor]:
        """Features, attention, weight and bias, then a gradient of the answer, in float32 and these layouts."""
        generator = torch.Generator().manual_seed(self.seed)
        shapes = [
            (self.batch, self.channels, self.height, self.width),
            (self.batch, self.bases, self.height, self.width),
            (1, self.bases, self.channels * self.group_size * 9),
            (1, self.bases, self.channels),
            (self.batch, self.channels, self.height, self.width),
        ]
        values = [torch.randn(shape, generator=generator) for shape in shapes]
        return [laid_out(one, layout) for one, layout in zip(values, self.layouts, strict=True)]


def cases(largest_side: int) -> st.SearchStrategy[Case]:
    def of_group_size(group_size: int) -> st.SearchStrategy[Case]:
        return st.builds(
            Case,
            batch=st.integers(1, 3),
            height=st.integers(1, largest_side),
            width=st.integers(1, largest_side),
            groups=st.integers(1, max(1, 12 // group_size)),
            group_size=st.just(group_size),
            bases=st.integers(1, 40),
            layouts=st.tuples(*[st.sampled_from(LAYOUTS)] * 5),
            seed=st.integers(0, 2**32 - 1),
        )

    return st.sampled_from((1, 2, 3, 4, 8)).flatmap(of_group_size)


def laid_out(values: Tensor, layout: str) -> Tensor:
    """Return a tensor of the same values that lies in memory as asked, with NaN wherever it must not be read."""
    match layout:
        case "turned":
            backwards = tuple(reversed(range(values.dim())))
            return values.permute(backwards).contiguous().permute(backwards)
        case "channels last":
            return values.movedim(1, -1).contiguous().movedim(-1, 1)
        case "every second of a larger one":
            *outer, height, width = values.shape
            larger = values.new_full((*outer, height + 2, 2 * width + 1), math.nan)
            part = larger[..., 1:-1, 1::2]
            return part.copy_(values)
        case "one for the whole batch":
            return values[:1].expand(values.shape)
    return values


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work on so many threads, and split even the smallest job among them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(compiled, "SMALLEST_PART", 1)
            yield
    finally:
        torch.set_num_threads(before)


def roundings(terms: int) -> float:
    """Bound the relative error of a sum of so many products in float32, in whatever order it is made.

    Every term is rounded at most once a step, each time by up to 2^-24 of a partial sum, which is no larger than the
    sum of the terms' magnitudes. The errors have no common sign, so they grow as a random walk, of which 8 standard
    deviations are allowed, if that is less than their sum. Source: Higham and Mary, SIAM J. Sci. Comput. 41 (2019).
    """
    return min(terms, 8 * math.sqrt(terms)) * 2.0**-24


def within(got: Tensor, expected: Tensor, magnitude: Tensor, terms: int) -> bool:
    """Say whether each element is as near as the magnitude of what was summed to it allows; NaN never is."""
    allowed = magnitude * roundings(terms) + torch.finfo(torch.float32).tiny
    return got.shape == expected.shape and bool(((got.double() - expected).abs() <= allowed).all())


@EXAMPLES
@given(case=cases(largest_side=70), thread_count=st.integers(1, 4))
def test_every_form_computes_what_the_plain_one_does(case: Case, thread_count: int) -> None:
    features, attention, weight, bias, _ = case.inputs()
    double = [tensor.double() for tensor in (features, attention, weight, bias)]
    expected = plain.kernel_basis_attention(*double, group_size=case.group_size)
    magnitude = plain.kernel_basis_attention(*[tensor.abs() for tensor in double], group_size=case.group_size)
    for form in compiled.forms():
        with threads(thread_count):
            got = compiled.kernel_basis_attention(
                features, attention, weight, bias, group_size=case.group_size, form=form
            )
        assert within(got, expected, magnitude, case.bases + 9 * case.group_size + 3), form


@EXAMPLES
@given(case=cases(largest_side=70))
def test_the_number_of_threads_changes_no_bit(case: Case) -> None:
    features, attention, weight, bias, _ = case.inputs()
    for form in compiled.forms():
        answers = []
        for count in range(1, 5):
            with threads(count):
                answers.append(
                    compiled.kernel_basis_attention(
                        features, attention, weight, bias, group_size=case.group_size, form=form
                    )
                )
        assert all(torch.equal(answer, answers[0]) for answer in answers[1:]), form


@EXAMPLES
@given(case=cases(largest_side=40), thread_count=st.integers(1, 4))
def test_every_form_has_the_gradients_of_the_plain_one(case: Case, thread_count: int) -> None:
    features, attention, weight, bias, gradient = case.inputs()
    double = [tensor.double() for tensor in (gradient, features, attention, weight, bias)]
    expected = plain_gradients(*double, group_size=case.group_size)
    magnitudes = plain_gradients(*[tensor.abs() for tensor in double], group_size=case.group_size)
    kernel, pixels = 9 * case.group_size, case.batch * case.height * case.width
    # How many products are summed: for features, attention, weight and bias.
    terms = (case.bases + kernel, case.channels * (kernel + 1), pixels + 1, pixels)
    for form in compiled.forms():
        with threads(thread_count):
            got = compiled.gradients(gradient, features, attention, weight, bias, group_size=case.group_size, form=form)
        for index, name in enumerate(("features", "attention", "weight", "bias")):
            assert within(got[index], expected[index], magnitudes[index], terms[index] + 3), (form, name)
