"""Every form of the kernel basis attention against the formula written out, and its gradients against autograd's."""

import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kbnet_cli.kernels import compiled, plain
from kbnet_cli.kernels.kba import BandedAttention, kernel_basis_attention, plain_gradients
from tests.oracle import declare_missing_operators, golden_picture

FORMS = [
    pytest.param(form, marks=pytest.mark.skipif(form not in compiled.forms(), reason=f"no {form} form here"))
    for form in ("avx512", "avx2", "portable")
]
SHAPES = [
    # batch, channels, height, width, bases, group size; a form works on 4, 8, 16 or 32 pixels at once
    (2, 8, 5, 1, 32, 4),
    (1, 4, 1, 2, 5, 2),
    (2, 8, 3, 15, 32, 4),
    (1, 12, 4, 16, 7, 2),
    (2, 4, 6, 17, 33, 4),
    (1, 8, 33, 33, 32, 2),
    (1, 6, 9, 7, 3, 3),
    (1, 8, 4, 9, 1, 8),
    (3, 4, 40, 40, 32, 4),  # several bands a picture, the last one shorter
    (1, 4, 3, 1100, 8, 4),  # a row longer than a band is meant to be
]
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(autouse=True)
def _several_threads_for_any_job(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Split even these small jobs, and unevenly."""
    monkeypatch.setattr(compiled, "SMALLEST_PART", 1)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def inputs(shape: tuple[int, int, int, int, int, int], dtype: torch.dtype = torch.float64) -> tuple[Inputs, int]:
    batch, channels, height, width, bases, group_size = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def noise(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)

    made = (
        noise(batch, channels, height, width),
        noise(batch, bases, height, width),
        noise(1, bases, channels * group_size * 9),
        noise(1, bases, channels),
    )
    return made, group_size


def written_out(features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor, *, group_size: int) -> Tensor:
    """Mix each pixel's kernel first, as the paper has it, and apply it to that pixel's neighbourhood."""
    batch, channels, height, width = features.shape
    groups = channels // group_size
    kernels = torch.einsum("bnyx,nk->byxk", attention, weight[0])
    kernels = kernels.view(batch, height, width, groups, group_size, group_size, 3, 3)
    padded = torch.nn.functional.pad(features, (1, 1, 1, 1)).view(batch, groups, group_size, height + 2, width + 2)
    around = padded.unfold(3, 3, 1).unfold(4, 3, 1)
    answer = torch.einsum("byxgoikl,bgiyxkl->bgoyx", kernels, around).reshape(features.shape)
    return answer + torch.einsum("bnyx,nc->bcyx", attention, bias[0])


def gradients_written_out(gradient: Tensor, given: Inputs, group_size: int) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    answer = written_out(leaves[0], leaves[1], leaves[2], leaves[3], group_size=group_size)
    return torch.autograd.grad(answer, leaves, gradient)


def close(got: Tensor, expected: Tensor, tolerance: float) -> bool:
    scale = float(expected.abs().max())
    return got.shape == expected.shape and float((got - expected).abs().max()) <= tolerance * scale


def test_a_machine_with_a_compiler_has_the_compiled_form() -> None:
    if shutil.which("cc") is None and not compiled.available():
        pytest.skip("no C compiler and no compiled form: the plain one runs")
    assert compiled.available(), "there is a compiler: run `python setup.py build_ext --inplace`"
    assert compiled.forms()[-1] == "portable"


@pytest.mark.parametrize("rows", [1, 2, 3, 5, None])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plain_form_whatever_its_bands(shape: tuple[int, int, int, int, int, int], rows: int | None) -> None:
    given, group_size = inputs(shape)
    expected = written_out(*given, group_size=group_size)
    got = plain.kernel_basis_attention(*given, group_size=group_size, rows=rows)
    assert close(got, expected, 1e-12)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_form(shape: tuple[int, int, int, int, int, int], form: str) -> None:
    given, group_size = inputs(shape, torch.float32)
    first, second, third, fourth = (tensor.double() for tensor in given)
    expected = written_out(first, second, third, fourth, group_size=group_size)
    got = compiled.kernel_basis_attention(*given, group_size=group_size, form=form)
    # Sums of up to 33 × 72 products in single precision, each rounded to 6e-8.
    assert close(got.double(), expected, 2e-6)


@pytest.mark.parametrize("rows", [1, 2, 5, None])
def test_plain_gradients_whatever_the_bands(rows: int | None) -> None:
    given, group_size = inputs((2, 8, 7, 9, 5, 4))
    gradient = torch.randn_like(given[0], generator=None)
    expected = gradients_written_out(gradient, given, group_size)
    got = plain_gradients(gradient, *given, group_size=group_size, rows=rows)
    assert all(close(one, other, 1e-12) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_compiled_gradients(shape: tuple[int, int, int, int, int, int], form: str) -> None:
    given, group_size = inputs(shape, torch.float32)
    gradient = given[0].flip(0, 1, 2, 3).contiguous()
    double = tuple(tensor.double() for tensor in given)
    expected = gradients_written_out(gradient.double(), (double[0], double[1], double[2], double[3]), group_size)
    got = compiled.gradients(gradient, *given, group_size=group_size, form=form)
    # The weights' gradients sum over all pixels as well.
    assert all(close(one.double(), other, 1e-5) for one, other in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autograd_goes_through_the_dispatcher(dtype: torch.dtype) -> None:
    given, group_size = inputs((2, 8, 12, 9, 32, 4), dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    answer = kernel_basis_attention(leaves[0], leaves[1], leaves[2], leaves[3], group_size=group_size)
    gradient = torch.ones_like(answer)
    answer.backward(gradient)
    expected = gradients_written_out(gradient, given, group_size)
    for leaf, other in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        assert close(leaf.grad, other, 1e-12 if dtype == torch.float64 else 1e-5)


def test_a_frozen_input_gets_no_gradient() -> None:
    given, group_size = inputs((1, 4, 5, 6, 3, 4))
    features = given[0].clone().requires_grad_()
    answer: Tensor = BandedAttention.apply(features, *given[1:], group_size)  # type: ignore[no-untyped-call]
    answer.sum().backward()
    assert features.grad is not None
    assert all(tensor.grad is None for tensor in given[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inference_leaves_no_trace_for_autograd(dtype: torch.dtype) -> None:
    given, group_size = inputs((1, 8, 6, 7, 32, 4), dtype)
    leaves = [tensor.clone().requires_grad_() for tensor in given]
    with torch.no_grad():
        quiet = kernel_basis_attention(leaves[0], leaves[1], leaves[2], leaves[3], group_size=group_size)
    frozen = kernel_basis_attention(*given, group_size=group_size)
    assert quiet.grad_fn is None
    assert frozen.grad_fn is None
    assert torch.equal(quiet, frozen)


def test_tensors_that_are_not_contiguous() -> None:
    given, group_size = inputs((2, 8, 6, 7, 32, 4), torch.float32)
    turned = given[0].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not turned.is_contiguous()
    expected = kernel_basis_attention(*given, group_size=group_size)
    # Plain torch adds up in another order where values lie in another order.
    assert close(kernel_basis_attention(turned, *given[1:], group_size=group_size), expected, 1e-6)


def test_bfloat16_is_only_rounded_at_the_end() -> None:
    given, group_size = inputs((2, 8, 6, 7, 32, 4), torch.bfloat16)
    first, second, third, fourth = (tensor.double() for tensor in given)
    expected = written_out(first, second, third, fourth, group_size=group_size)
    got = kernel_basis_attention(*given, group_size=group_size)
    assert got.dtype == torch.bfloat16
    # The compiled form computes in float32 and rounds once, to 1/256; plain torch rounds its way there.
    assert close(got.double(), expected, 1 / 256 if compiled.available() else 1 / 32)


def test_without_the_extension_the_plain_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given, group_size = inputs((1, 8, 6, 7, 32, 4), torch.float32)
    with_extension = kernel_basis_attention(*given, group_size=group_size)
    monkeypatch.setattr(compiled, "HAS_EXTENSION", False)
    assert not compiled.available()
    assert compiled.forms() == ()
    plainly = kernel_basis_attention(*given, group_size=group_size)
    assert torch.equal(plainly, plain.kernel_basis_attention(*given, group_size=group_size))
    assert close(with_extension, plainly, 2e-6)


@pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")
def test_the_number_of_threads_does_not_change_a_bit() -> None:
    given, group_size = inputs((2, 8, 30, 21, 32, 4), torch.float32)
    answers = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        answers.append(compiled.kernel_basis_attention(*given, group_size=group_size))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_golden_vector() -> None:
    features = golden_picture(2, 8, 7, 9)
    attention = golden_picture(2, 5, 7, 9) - 0.5
    weight = torch.sin(0.3 * torch.arange(5 * 288, dtype=torch.float64)).view(1, 5, 288)
    bias = torch.cos(0.3 * torch.arange(5 * 8, dtype=torch.float64)).view(1, 5, 8)
    expected = (0.201804409268, 1.022962786694, -0.428497468772, 0.445386135973, 0.784790500289)
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 1e-5)):
        answer = kernel_basis_attention(
            features.to(dtype), attention.to(dtype), weight.to(dtype), bias.to(dtype), group_size=4
        ).double()
        got = (
            answer.mean(),
            answer.std(correction=0),
            answer[0, 0, 0, 0],
            answer[0, -1, -1, -1],
            answer[0, 0, 5, 7],
        )
        assert torch.tensor(got).sub(torch.tensor(expected)).abs().max() < tolerance


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[5], SHAPES[8]], ids=str)
def test_published_function(shape: tuple[int, int, int, int, int, int]) -> None:
    declare_missing_operators()
    from spandrel.architectures.KBNet.__arch.kb_utils import KBAFunction

    given, group_size = inputs(shape)
    features, attention, weight, bias = given
    groups = features.shape[1] // group_size
    expected = KBAFunction.apply(features, attention, 3, groups, bias, weight)
    assert close(kernel_basis_attention(*given, group_size=group_size), expected, 1e-12)
