"""The kernel basis attention in Triton against the plain form in double precision, and as compiled for GPUs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from kbnet_cli.kernels import kba, plain
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import attention, launching
from kbnet_cli.kernels.gpu.arithmetic import map_type
from kbnet_cli.kernels.gpu.attention import Bases, Shape, filtered
from tests.triton_compiled import SHARED_LIMITS, Request, all_compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SMALL = Shape(pixels=64, warps=4, stages=1, kept=False)
KEPT = Shape(pixels=128, warps=8, stages=2, kept=True)
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 2.0**-7}
"""Of the largest value: sums of 37 · 32 products in float32; an answer rounded to bfloat16 after kernels that were."""


def inputs(
    size: tuple[int, int, int], channels: int, bases: int, group_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return features, coefficients, weight and bias; the maps are slices of wider ones, with NaN around them."""

    def sliced(width: int) -> Tensor:
        wider = torch.full((*size, width + 8), float("nan"), dtype=dtype)
        wider[..., 8:] = torch.randn(*size, width)
        return wider.to(DEVICE)[..., 8:]

    weight = torch.randn(1, bases, channels * group_size * 9).to(DEVICE, dtype)
    return sliced(channels), sliced(bases), weight, torch.randn(1, bases, channels).to(DEVICE, dtype)


def expected(features: Tensor, coefficients: Tensor, weight: Tensor, bias: Tensor, group_size: int) -> Tensor:
    planes = (features.double().movedim(-1, 1), coefficients.double().movedim(-1, 1))
    return plain.kernel_basis_attention(*planes, weight.double(), bias.double(), group_size=group_size).movedim(1, -1)


def near(got: Tensor, right: Tensor) -> bool:
    error = (got.double() - right).abs().max()
    return got.shape == right.shape and bool(error <= TOLERANCES[got.dtype] * right.abs().max())


@pytest.mark.parametrize(
    ("precision", "shape"),
    [
        pytest.param("fp32", SMALL, id="fp32"),
        pytest.param("fp32", KEPT, marks=pytest.mark.slow, id="fp32 kept"),
        pytest.param("bf16", KEPT, id="bf16 kept"),
    ],
)
@pytest.mark.parametrize(
    ("size", "channels", "bases", "group_size"),
    [
        pytest.param((1, 1, 1), 16, 32, 4, marks=pytest.mark.slow),
        ((1, 1, 7), 6, 5, 2),
        pytest.param((1, 5, 3), 64, 32, 4, marks=pytest.mark.slow),
        ((2, 3, 2), 12, 32, 4),
        pytest.param((1, 2, 3), 72, 32, 2, marks=pytest.mark.slow),
        ((1, 9, 2), 7, 40, 1),
        ((1, 2, 9), 40, 3, 8),
    ],
)
def test_it_computes_what_the_plain_form_does(
    size: tuple[int, int, int], channels: int, bases: int, group_size: int, precision: Precision, shape: Shape
) -> None:
    dtype = map_type(precision)
    given_ = inputs(size, channels, bases, group_size, dtype)
    packed = Bases.packed(*given_[2:], group_size=group_size, dtype=dtype)
    got = filtered(*given_[:2], packed, precision=precision, shape=shape)
    assert got.dtype == dtype
    assert got.is_contiguous()
    assert near(got, expected(*given_, group_size))


@pytest.mark.parametrize(("size", "shape"), [((1, 5, 17), SMALL), ((1, 13, 37), KEPT)], ids=["not kept", "kept"])
def test_tiles_meet_without_a_seam(size: tuple[int, int, int], shape: Shape) -> None:
    given_ = inputs(size, 16, 32, 4, torch.float32)
    packed = Bases.packed(*given_[2:], group_size=4, dtype=torch.float32)
    assert near(filtered(*given_[:2], packed, precision="fp32", shape=shape), expected(*given_, 4))


@pytest.mark.parametrize(
    ("adds", "multiplied"),
    [
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
        (True, False),
        (True, True),
    ],
)
def test_features_are_added_and_the_sum_multiplied(adds: bool, multiplied: bool) -> None:
    given_ = inputs((2, 4, 5), 24, 32, 4, torch.float32)
    times = torch.randn(2, 4, 5, 72, device=DEVICE)[..., 24:48] if multiplied else None
    packed = Bases.packed(*given_[2:], group_size=4, dtype=torch.float32)
    got = filtered(*given_[:2], packed, precision="fp32", adds=adds, times=times)
    right = expected(*given_, 4) + (given_[0].double() if adds else 0)
    assert near(got, right if times is None else right * times.double())


@settings(max_examples=6, deadline=None)
@given(
    pictures=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.integers(1, 20),
    groups=st.integers(1, 4),
    group_size=st.sampled_from(attention.GROUP_SIZES),
    bases=st.integers(1, 20),
    kept=st.booleans(),
)
def test_any_size_is_right(
    pictures: int, height: int, width: int, groups: int, group_size: int, bases: int, kept: bool
) -> None:
    given_ = inputs((pictures, height, width), groups * group_size, bases, group_size, torch.float32)
    packed = Bases.packed(*given_[2:], group_size=group_size, dtype=torch.float32)
    got = filtered(*given_[:2], packed, precision="fp32", shape=KEPT if kept else SMALL)
    assert near(got, expected(*given_, group_size))


def test_other_group_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="group size 3"):
        Bases.packed(torch.zeros(1, 4, 6 * 3 * 9), torch.zeros(1, 4, 6), group_size=3, dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wants_gradient", [False, True])
def test_the_operator_takes_it_where_it_runs(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, wants_gradient: bool
) -> None:
    calls = []

    def spied(*words: Tensor, **named: object) -> Tensor:
        calls.append(named["precision"])
        return filtered(*words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(launching, "available", lambda _device: True)
    monkeypatch.setattr(attention, "filtered", spied)
    maps, coefficients, weight, bias = inputs((1, 4, 3), 8, 6, 4, dtype)
    features, mixture = maps.movedim(-1, 1).clone().requires_grad_(wants_gradient), coefficients.movedim(-1, 1)
    got = kba.kernel_basis_attention(features, mixture, weight, bias, group_size=4)
    assert calls == ["bf16" if dtype == torch.bfloat16 else "fp32"]
    assert got.is_contiguous()
    assert near(got.detach().movedim(1, -1), expected(maps, coefficients, weight, bias, 4))
    if wants_gradient:
        leaf = features.detach().double().requires_grad_()
        right = plain.kernel_basis_attention(leaf, mixture.double(), weight.double(), bias.double(), group_size=4)
        right.sum().backward()
        got.float().sum().backward()
        assert features.grad is not None
        assert leaf.grad is not None
        error = (features.grad.double() - leaf.grad).abs().max()
        assert error <= 4 * TOLERANCES[dtype] * leaf.grad.abs().max()


def request(precision: Precision, group_size: int, capability: int) -> Request:
    bases = Bases.packed(
        torch.zeros(1, 32, 64 * group_size * 9),
        torch.zeros(1, 32, 64),
        group_size=group_size,
        dtype=map_type(precision),
    )
    shape = attention.default_shape(bases, precision, divmod(capability, 10))
    pointer = "*bf16:16" if precision == "bf16" else "*fp32:16"
    pointers = ("features", "coefficients", "kernels", "offsets", "times", "answer")
    numbers = ("height", "width", "features_row", "coefficients_row", "times_row", "channels", "pictures")
    return Request(
        "kbnet_cli.kernels.gpu.attention",
        "_filtered",
        dict.fromkeys(pointers, pointer) | dict.fromkeys(numbers, "i32"),
        attention.constants(bases, shape, precision, channels=64, unit=8, adds=True, multiplied=True),
        capability,
        shape.warps,
        shape.stages,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "cases",
    [
        pytest.param((("bf16", 4, 90), ("bf16", 4, 80)), id="bf16"),
        pytest.param(
            (("bf16", 2, 90), ("tf32", 4, 90), ("tf32", 2, 90), ("fp32", 4, 90), ("fp32", 2, 80), ("tf32", 2, 86)),
            id="others",
        ),
    ],
)
def test_it_compiles_for_gpus_without_spills(cases: tuple[tuple[Precision, int, int], ...]) -> None:
    for case, built in zip(cases, all_compiled([request(*case) for case in cases]), strict=True):
        precision, _, capability = case
        assert built.spills == 0, case
        assert built.shared_bytes <= SHARED_LIMITS[capability], case
        assert (built.dots() > 0) == (precision != "fp32"), case
        assert built.count("LDG.E.128") > 0, case
        if capability == 90 and precision != "fp32":
            assert "wgmma" in built.ptx, case
