"""The kernel basis attention in AMX's tiles, and its gradients, against the formula with the same numbers rounded."""

import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbnet_cli.kernels import compiled
from kbnet_cli.kernels.kba import kernel_basis_attention, products
from tests.test_kernels import Inputs, close, gradients_written_out, inputs, written_out

pytestmark = pytest.mark.skipif("amx" not in compiled.forms("bf16"), reason="the processor has no tiles (AMX)")

Shape = tuple[int, int, int, int, int, int]

SHAPES: list[Shape] = [
    # batch, channels, height, width, bases, group size; blocks have 32 pixels, and tiles hold one group of four
    # channels, four groups of two, or sixteen of one
    (1, 4, 1, 1, 32, 4),
    (2, 8, 5, 1, 32, 4),
    (1, 4, 1, 2, 5, 2),
    (2, 8, 3, 15, 32, 4),
    (1, 12, 4, 16, 7, 2),
    (2, 4, 6, 17, 31, 4),
    (1, 8, 33, 33, 32, 2),
    (1, 18, 9, 17, 20, 2),  # nine groups: two sets and one group of a third
    (1, 6, 9, 7, 3, 3),
    (1, 8, 4, 9, 1, 8),
    (1, 20, 7, 6, 32, 1),
    (3, 64, 8, 9, 32, 4),
    (3, 4, 40, 40, 32, 4),  # several bands a picture, the last one shorter
    (1, 4, 3, 1100, 8, 4),  # a row longer than a band is meant to be
]


@pytest.fixture(autouse=True)
def _several_threads_for_any_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Split even these small jobs, and unevenly."""
    monkeypatch.setattr(compiled, "SMALLEST_PART", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def rounded(tensor: Tensor) -> Tensor:
    return tensor.float().bfloat16().double()


def double(tensors: Inputs) -> Inputs:
    features, attention, weight, bias = tensors
    return features.double(), attention.double(), weight.double(), bias.double()


def with_rounded_coefficients(tensors: Inputs) -> Inputs:
    features, attention, weight, bias = tensors
    return features.double(), rounded(attention), rounded(weight), rounded(bias)


def gradients_with_rounded_factors(gradient: Tensor, tensors: Inputs, group_size: int) -> tuple[Tensor, ...]:
    """Return the gradients with each factor of a matrix product rounded to bfloat16, and nothing else."""
    features, attention, weight, bias = with_rounded_coefficients(tensors)
    batch, channels, height, width = features.shape
    groups, bases = channels // group_size, attention.shape[1]
    padded = torch.nn.functional.pad(features, (1, 1, 1, 1)).view(batch, groups, group_size, height + 2, width + 2)
    around = padded.unfold(3, 3, 1).unfold(4, 3, 1).flatten(5)
    own = gradient.double().view(batch, groups, group_size, height, width)
    d_kernels = rounded(torch.einsum("bgoyx,bgiyxt->bgoityx", own, around))
    d_offsets = rounded(gradient)
    kernels = weight.view(bases, groups, group_size, group_size, 9)
    d_attention = torch.einsum("bgoityx,ngoit->bnyx", d_kernels, kernels)
    d_attention += torch.einsum("bcyx,nc->bnyx", d_offsets, bias[0])
    d_weight = torch.einsum("bgoityx,bnyx->ngoit", d_kernels, attention).reshape(weight.shape)
    d_bias = torch.einsum("bcyx,bnyx->nc", d_offsets, attention)[None]
    d_features = gradients_written_out(gradient.double(), (features, attention, weight, bias), group_size)[0]
    return d_features, d_attention, d_weight, d_bias


def agrees(shape: Shape) -> None:
    tensors, group_size = inputs(shape, torch.float32)
    features, attention, weight, bias = with_rounded_coefficients(tensors)
    got = compiled.kernel_basis_attention(*tensors, group_size=group_size, form="amx").double()
    assert close(got, written_out(features, attention, weight, bias, group_size=group_size), 2e-6)

    gradient = tensors[0].flip(0, 1, 2, 3).contiguous()
    found = compiled.gradients(gradient, *tensors, group_size=group_size, form="amx")
    expected = gradients_with_rounded_factors(gradient, tensors, group_size)
    assert all(close(one.double(), other, 1e-5) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_only_the_factors_of_products_are_rounded(shape: Shape) -> None:
    agrees(shape)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    groups=st.integers(1, 16),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    bases=st.integers(1, 32),
    group_size=st.sampled_from((2, 4)),
)
def test_any_shape(batch: int, groups: int, height: int, width: int, bases: int, group_size: int) -> None:
    agrees((batch, groups * group_size, height, width, bases, group_size))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_close_to_the_formula(shape: Shape) -> None:
    tensors, group_size = inputs(shape, torch.float32)
    features, attention, weight, bias = double(tensors)
    got = compiled.kernel_basis_attention(*tensors, group_size=group_size, form="amx").double()
    # Each factor is rounded by up to 1/512, and the roundings of many mostly cancel.
    assert close(got, written_out(features, attention, weight, bias, group_size=group_size), 1e-2)

    gradient = tensors[0].flip(0, 1, 2, 3).contiguous()
    found = compiled.gradients(gradient, *tensors, group_size=group_size, form="amx")
    expected = gradients_written_out(gradient.double(), double(tensors), group_size)
    assert all(close(one.double(), other, 1e-2) for one, other in zip(found, expected, strict=True))


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    tensors, group_size = inputs((2, 8, 30, 21, 32, 4), torch.float32)
    answers, d_attentions = [], []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        answers.append(compiled.kernel_basis_attention(*tensors, group_size=group_size, form="amx"))
        d_attentions.append(compiled.gradients(tensors[0], *tensors, group_size=group_size, form="amx")[1])
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert all(torch.equal(d_attention, d_attentions[0]) for d_attention in d_attentions)


def test_products_choose_the_tiles_and_the_way_back_has_the_precision_of_the_way_there() -> None:
    tensors, group_size = inputs((1, 8, 6, 7, 32, 4), torch.float32)
    expected = {
        precision: (
            compiled.kernel_basis_attention(*tensors, group_size=group_size, form=form),
            compiled.gradients(torch.ones_like(tensors[0]), *tensors, group_size=group_size, form=form),
        )
        for precision, form in (("fp32", compiled.forms()[0]), ("bf16", "amx"))
    }
    assert not torch.equal(expected["fp32"][0], expected["bf16"][0])
    leaves = [tensor.clone().requires_grad_() for tensor in tensors]

    def forward() -> Tensor:
        return kernel_basis_attention(leaves[0], leaves[1], leaves[2], leaves[3], group_size=group_size)

    with products("bf16"):
        rounded_answer = forward()
        with products("fp32"):
            answer = forward()
    assert torch.equal(answer, expected["fp32"][0])
    assert torch.equal(rounded_answer, expected["bf16"][0])
    assert torch.equal(forward(), expected["fp32"][0])

    found: list[tuple[Tensor, ...]] = []
    elsewhere = threading.Thread(
        target=lambda: found.append(torch.autograd.grad(rounded_answer, leaves, torch.ones_like(answer)))
    )
    elsewhere.start()
    elsewhere.join()
    assert all(torch.equal(one, other) for one, other in zip(found[0], expected["bf16"][1], strict=True))
    with products("bf16"):
        back = torch.autograd.grad(answer, leaves, torch.ones_like(answer))
    assert all(torch.equal(one, other) for one, other in zip(back, expected["fp32"][1], strict=True))


def test_more_bases_than_a_tile_holds_stay_in_float32() -> None:
    tensors, group_size = inputs((1, 8, 6, 7, 33, 4), torch.float32)
    with products("bf16"):
        got = kernel_basis_attention(*tensors, group_size=group_size)
    assert torch.equal(got, kernel_basis_attention(*tensors, group_size=group_size))


def test_products_stay_in_float32_where_there_are_no_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, group_size = inputs((1, 8, 6, 7, 32, 4), torch.float32)
    exactly = kernel_basis_attention(*tensors, group_size=group_size)
    monkeypatch.setattr(compiled, "bfloat16_pays", lambda: False)
    with products("bf16"):
        assert torch.equal(kernel_basis_attention(*tensors, group_size=group_size), exactly)
