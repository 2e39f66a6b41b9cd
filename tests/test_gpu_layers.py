"""The norm and the small convolutions in Triton, against torch's own."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from torch import Tensor

pytest.importorskip("triton")

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import convolutions, layers
from kbnet_cli.kernels.gpu.arithmetic import map_type
from kbnet_cli.kernels.gpu.convolutions import Depthwise, Gates
from kbnet_cli.kernels.gpu.layers import Grouped

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SLOW = pytest.mark.slow
SIZES = [pytest.param((1, 1), marks=SLOW), pytest.param((1, 7), marks=SLOW), (5, 3), pytest.param((9, 20), marks=SLOW)]
PRECISIONS: list[Precision] = ["fp32", "bf16"]


def _maps(size: tuple[int, int], channels: int, precision: Precision, *, wider: int = 0, pictures: int = 2) -> Tensor:
    """Make maps that are a slice of wider ones."""
    whole = torch.randn(pictures, *size, channels + wider).to(DEVICE, map_type(precision))
    return whole[..., wider // 2 : wider // 2 + channels]


def _convolved(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve in groups as torch does it, in float64."""
    groups = maps.shape[-1] // weight.shape[1]
    padding = weight.shape[-1] // 2
    channels_first = maps.double().permute(0, 3, 1, 2)
    answer = F.conv2d(channels_first, weight.double(), bias.double(), padding=padding, groups=groups)
    return answer.permute(0, 2, 3, 1)


def _random(*shape: int) -> Tensor:
    return torch.randn(shape).to(DEVICE)


def _check(answer: Tensor, expected: Tensor, precision: Precision, *, roundings: int = 1) -> None:
    """See to it that nothing but rounding differs: float32 keeps 24 bits, of which sums lose a few.

    bfloat16 keeps 8, and the interpreter cuts off what a GPU rounds.
    """
    assert answer.shape == expected.shape
    step = roundings * 2.0**-7 if precision == "bf16" else 2e-6
    assert (answer.double() - expected).abs().max() <= step * expected.abs().max()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [pytest.param(64, marks=SLOW), 6, 72])
def test_normalised(size: tuple[int, int], channels: int, precision: Precision) -> None:
    maps = _maps(size, channels, precision, wider=8) * 3 + 2
    weight, bias = _random(channels), _random(channels)
    answer, sums = layers.normalised(maps, weight, bias, dtype=maps.dtype)
    expected = F.layer_norm(maps.double(), (channels,), weight.double(), bias.double(), eps=1e-6)
    assert answer.dtype == maps.dtype
    assert answer.is_contiguous()
    _check(answer, expected, precision)
    assert sums.dtype == torch.float32
    of_all = expected.sum(dim=(1, 2))
    assert (sums - of_all).abs().max() <= 1e-5 * expected.abs().sum(dim=(1, 2)).max()


def test_normalised_changes_the_type() -> None:
    maps = _maps((3, 5), 24, "fp32")
    weight, bias = _random(24), _random(24)
    expected = F.layer_norm(maps.double(), (24,), weight.double(), bias.double(), eps=1e-6)
    answer, _ = layers.normalised(maps, weight, bias, dtype=torch.bfloat16)
    assert answer.dtype == torch.bfloat16
    _check(answer, expected, "bf16")


def test_normalised_in_many_rounds_sums_the_same_for_one_picture_and_for_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "PROGRAMS", 3)
    maps = _maps((5, 7), 1024, "fp32")
    weight, bias = _random(1024), _random(1024)
    answer, sums = layers.normalised(maps, weight, bias, dtype=maps.dtype)
    expected = F.layer_norm(maps.double(), (1024,), weight.double(), bias.double(), eps=1e-6)
    _check(answer, expected, "fp32")
    assert (sums - expected.sum(dim=(1, 2))).abs().max() <= 1e-5 * expected.abs().sum(dim=(1, 2)).max()
    _, alone = layers.normalised(maps[1:], weight, bias, dtype=maps.dtype)
    assert torch.equal(alone[0], sums[1])


def test_a_pixel_of_equal_channels_is_normalised_to_the_bias() -> None:
    maps = torch.full((1, 2, 2, 16), 7.0, device=DEVICE)
    bias = _random(16)
    answer, sums = layers.normalised(maps, torch.ones_like(bias), bias, dtype=torch.float32)
    assert torch.equal(answer, bias.expand_as(answer))
    torch.testing.assert_close(sums[0], 4 * bias)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("size", "channels"),
    [
        pytest.param((1, 1), 64, marks=SLOW),
        ((1, 7), 6),
        pytest.param((5, 3), 72, marks=SLOW),
        pytest.param((9, 20), 64, marks=SLOW),
        ((9, 20), 24),
    ],
)
def test_depthwise(size: tuple[int, int], channels: int, precision: Precision) -> None:
    maps, weight, bias = _maps(size, channels, precision, wider=8), _random(channels, 3, 3), _random(channels)
    answer = convolutions.depthwise(maps, Depthwise.packed(weight, bias))
    assert answer.dtype == maps.dtype
    assert answer.is_contiguous()
    _check(answer, _convolved(maps, weight[:, None], bias), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("channels", "gelu_from"),
    [pytest.param(128, 64, marks=SLOW), (24, 12), pytest.param(16, 0, marks=SLOW)],
)
def test_depthwise_ends_in_the_gelu_from_a_channel_on(channels: int, gelu_from: int, precision: Precision) -> None:
    maps, weight, bias = _maps((6, 5), channels, precision), _random(channels, 3, 3), _random(channels)
    answer = convolutions.depthwise(maps, Depthwise.packed(weight, bias, gelu_from=gelu_from))
    expected = _convolved(maps, weight[:, None], bias)
    expected[..., gelu_from:] = F.gelu(expected[..., gelu_from:])
    _check(answer, expected, precision)


@pytest.mark.slow
def test_depthwise_in_several_strips_of_rows_and_columns() -> None:
    maps, weight, bias = _maps((37, 70), 16, "fp32", pictures=1), _random(16, 3, 3), _random(16)
    answer = convolutions.depthwise(maps, Depthwise.packed(weight, bias))
    _check(answer, _convolved(maps, weight[:, None], bias), "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("size", "channels", "maps", "outputs"),
    [
        pytest.param((1, 1), 64, 32, 32, marks=SLOW),
        ((1, 7), 48, 24, 32),
        pytest.param((5, 3), 6, 6, 4, marks=SLOW),
        pytest.param((5, 19), 16, 16, 8, marks=SLOW),
        ((4, 9), 24, 8, 5),
        pytest.param((6, 18), 64, 32, 32, marks=SLOW),
    ],
)
def test_coefficients(size: tuple[int, int], channels: int, maps: int, outputs: int, precision: Precision) -> None:
    normal = _maps(size, channels, precision, wider=8)
    plain = _maps(size, outputs, precision, wider=16)
    gate_weight, gate_bias = _random(maps, channels // maps, 3, 3), _random(maps)
    mix_weight = _random(outputs, maps // 2).to(plain.dtype)
    gates = Gates.packed(gate_weight, gate_bias, mix_weight, dtype=plain.dtype)
    answer = convolutions.coefficients(normal, plain, gates, precision=precision)
    assert answer.dtype == plain.dtype
    assert answer.is_contiguous()
    _check(answer, _coefficients(normal, plain, gate_weight, gate_bias, mix_weight), precision, roundings=2)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("channels", "maps"),
    [
        (128, 32),
        pytest.param(192, 24, marks=SLOW),
        pytest.param(512, 32, marks=SLOW),
        pytest.param(1024, 32, marks=SLOW),
    ],
)
def test_coefficients_of_lower_levels(channels: int, maps: int, precision: Precision) -> None:
    normal, plain = _maps((3, 5), channels, precision, pictures=1), _maps((3, 5), 32, precision, pictures=1)
    gate_weight, gate_bias = _random(maps, channels // maps, 3, 3), _random(maps)
    mix_weight = _random(32, maps // 2).to(plain.dtype)
    gates = Gates.packed(gate_weight, gate_bias, mix_weight, dtype=plain.dtype)
    answer = convolutions.coefficients(normal, plain, gates, precision=precision)
    _check(answer, _coefficients(normal, plain, gate_weight, gate_bias, mix_weight), precision, roundings=2)


def _coefficients(normal: Tensor, plain: Tensor, gate_weight: Tensor, gate_bias: Tensor, mix_weight: Tensor) -> Tensor:
    first, second = _convolved(normal, gate_weight, gate_bias).chunk(2, dim=-1)
    return plain.double() + F.linear(first * second, mix_weight.double())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("channels", "group", "reach"), [pytest.param(64, 4, 5, marks=SLOW), (24, 4, 5), (6, 2, 3), (32, 32, 3)]
)
def test_grouped(size: tuple[int, int], channels: int, group: int, reach: int, precision: Precision) -> None:
    maps = _maps(size, channels, precision, wider=8)
    weight, bias = _random(channels, group, reach, reach).to(maps.dtype), _random(channels)
    layer = Grouped.packed(weight, bias, dtype=maps.dtype)
    answer = layers.grouped(maps, layer, precision=precision)
    assert answer.dtype == maps.dtype
    assert answer.is_contiguous()
    _check(answer, _convolved(maps, weight, bias), precision)


def test_grouped_in_several_programs() -> None:
    maps = _maps((13, 43), 16, "bf16")
    weight, bias = _random(16, 4, 5, 5).to(maps.dtype), _random(16)
    answer = layers.grouped(maps, Grouped.packed(weight, bias, dtype=maps.dtype), precision="bf16")
    _check(answer, _convolved(maps, weight, bias), "bf16")


def test_pixels_that_do_not_lie_evenly_are_refused() -> None:
    maps = torch.zeros(1, 4, 6, 16, device=DEVICE)[:, :, :4]
    with pytest.raises(AssertionError, match="not evenly spaced"):
        layers.normalised(maps, torch.ones(16, device=DEVICE), torch.zeros(16, device=DEVICE), dtype=torch.float32)
