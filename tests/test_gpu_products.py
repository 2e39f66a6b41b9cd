"""Products of maps with matrices in Triton: interpreted where there is no GPU."""

from dataclasses import dataclass
from typing import Literal

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from jaxtyping import Float
from torch import Tensor

pytest.importorskip("triton")

from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu.arithmetic import dot_precision, map_type
from kbnet_cli.kernels.gpu.feed_forward import feed_forward, fits
from kbnet_cli.kernels.gpu.maps import pixel_stride
from kbnet_cli.kernels.gpu.products import Matrix, Shape, product, shape_for
from kbnet_cli.kernels.gpu.resampling import Doubling, Halving, doubled, halved
from tests.triton_compiled import SHARED_LIMITS, Request, all_compiled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SLOW = pytest.mark.slow
SIZES = [
    pytest.param(64, 160, marks=SLOW),
    pytest.param(16, 24, marks=SLOW),
    (6, 10),
    (72, 48),
    pytest.param(130, 70, marks=SLOW),
]
PRECISIONS: list[Precision] = ["fp32", "bf16"]
PRECISIONS_OF_TENSOR_CORES: list[Precision] = ["tf32", "bf16"]


def numbers(*sizes: int) -> Tensor:
    return torch.randn(*sizes, device=DEVICE)


def maps_of(precision: Precision, *sizes: int) -> Float[Tensor, "b h w c"]:
    """Random maps, as a slice of wider ones: 8 channels before and 8 behind belong to others, and are not numbers."""
    pictures, height, width, channels = sizes
    wide = torch.full((pictures, height, width, channels + 16), torch.nan, device=DEVICE)
    wide[..., 8:-8] = numbers(*sizes)
    return wide.to(map_type(precision))[..., 8:-8]


def matrix_of(precision: Precision, *sizes: int, bias: bool = True) -> Matrix:
    weight = numbers(*sizes) / sizes[-1] ** 0.5
    return Matrix.packed(weight, numbers(sizes[-2]) if bias else None, dtype=map_type(precision))


def gated(matrix: Matrix) -> Matrix:
    return Matrix.packed(matrix.weight, matrix.bias, dtype=matrix.weight.dtype, gated=True)


def plain(maps: Tensor, matrix: Matrix) -> Float[Tensor, "b h w n"]:
    """The product in float64."""
    weight = matrix.weight.double()
    answer = maps.double() @ (weight[:, None] if weight.dim() == 3 else weight).transpose(-1, -2)
    return answer if matrix.bias is None else answer + matrix.bias


def check(answer: Tensor, expected: Tensor, precision: Precision, roundings: int = 1) -> None:
    """Compare: bfloat16 has 8 bits, and the interpreter cuts the rest off instead of rounding, every time."""
    assert answer.shape == expected.shape
    assert answer.dtype == map_type(precision)
    assert answer.is_contiguous()
    tolerance = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 2**-8 if DEVICE == "cuda" else 2**-7}[precision]
    assert (answer.double() - expected).abs().max() <= roundings * tolerance * expected.abs().max()


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("channels", "count"), SIZES)
@pytest.mark.parametrize("sides", [(1, 7, 1), (3, 4, 25)])
def test_a_pixels_channels_are_multiplied(
    precision: Precision, channels: int, count: int, sides: tuple[int, int, int]
) -> None:
    maps, matrix = maps_of(precision, *sides, channels), matrix_of(precision, count, channels)
    check(product(maps, matrix, precision=precision), plain(maps, matrix), precision)


@pytest.mark.parametrize("precision", [*PRECISIONS, "tf32"])
@pytest.mark.parametrize("bias", [False, True])
def test_one_pixel_with_and_without_a_bias(precision: Precision, bias: bool) -> None:
    maps, matrix = maps_of(precision, 1, 1, 1, 16), matrix_of(precision, 24, 16, bias=bias)
    check(product(maps, matrix, precision=precision), plain(maps, matrix), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("sides", [pytest.param((1, 3, 5), marks=SLOW), (3, 5, 5)])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_what_is_added(precision: Precision, sides: tuple[int, int, int], kind: torch.dtype) -> None:
    maps, matrix = maps_of(precision, *sides, 16), matrix_of(precision, 24, 16)
    adds = maps_of("fp32", *sides, 24).to(kind)
    wider = F.pad(adds, (8, 8))[..., 8:-8]
    for more in (adds, wider):
        answer = product(maps, matrix, precision=precision, adds=more)
        check(answer, plain(maps, matrix) + adds.double(), precision)


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=SLOW), "bf16"])
def test_a_matrix_for_each_picture(precision: Precision) -> None:
    maps, matrix = maps_of(precision, 3, 5, 15, 16), matrix_of(precision, 3, 40, 16)
    adds = maps_of(precision, 3, 5, 15, 40)
    check(product(maps, matrix, precision=precision), plain(maps, matrix), precision)
    check(product(maps, matrix, precision=precision, adds=adds), plain(maps, matrix) + adds.double(), precision)
    first, second = plain(maps, matrix).chunk(2, dim=-1)
    check(product(maps, gated(matrix), precision=precision), first * second, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("channels", "count"), SIZES)
@pytest.mark.parametrize("sides", [pytest.param((1, 7, 1), marks=SLOW), (2, 9, 13)])
def test_two_products_gate_each_other(
    precision: Precision, channels: int, count: int, sides: tuple[int, int, int]
) -> None:
    maps, matrix = maps_of(precision, *sides, channels), matrix_of(precision, 2 * count, channels)
    first, second = plain(maps, matrix).chunk(2, dim=-1)
    check(product(maps, gated(matrix), precision=precision), first * second, precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("gates", [False, True])
@pytest.mark.parametrize("channels", [6, 48, pytest.param(128, marks=SLOW), pytest.param(130, marks=SLOW)])
def test_a_norm_before_the_product(precision: Precision, gates: bool, channels: int) -> None:
    # Far from zero: the variance must not be the difference of two large numbers.
    maps = maps_of(precision, 2, 5, 14, channels) + 30
    matrix = matrix_of(precision, 24, channels)
    norm = 1 + 0.1 * numbers(channels), 0.1 * numbers(channels)
    normal = F.layer_norm(maps.double(), (channels,), norm[0].double(), norm[1].double(), eps=1e-6)
    expected = plain(normal.to(maps.dtype), matrix)
    if gates:
        first, second = expected.chunk(2, dim=-1)
        matrix, expected = gated(matrix), first * second
    answer = product(maps, matrix, precision=precision, norm=norm)
    check(answer, expected, precision, roundings=3 if gates else 2)


def test_a_norm_of_hardly_anything_stays_small() -> None:
    """What is added to the variance counts as much as the variance here."""
    maps, matrix = 1e-3 * maps_of("fp32", 1, 3, 5, 24), matrix_of("fp32", 16, 24)
    norm = torch.ones(24, device=DEVICE), torch.zeros(24, device=DEVICE)
    expected = plain(F.layer_norm(maps.double(), (24,), eps=1e-6), matrix)
    check(product(maps, matrix, precision="fp32", norm=norm), expected, "fp32")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("channels", "count"), [pytest.param(16, 32, marks=SLOW), (6, 12), (24, 70)])
@pytest.mark.parametrize(
    "sides", [pytest.param((1, 2, 2), marks=SLOW), (2, 6, 14), pytest.param((1, 18, 16), marks=SLOW)]
)
def test_halved_as_a_convolution(precision: Precision, channels: int, count: int, sides: tuple[int, int, int]) -> None:
    maps = maps_of(precision, *sides, channels)
    weight, bias = (numbers(count, channels, 2, 2) / 2 / channels**0.5).to(map_type(precision)), numbers(count)
    expected = F.conv2d(maps.double().permute(0, 3, 1, 2), weight.double(), bias.double(), stride=2)
    halving = Halving.packed(weight, bias, dtype=map_type(precision))
    check(halved(maps, halving, precision=precision), expected.permute(0, 2, 3, 1), precision)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("channels", "count"), [pytest.param(64, 128, marks=SLOW), (6, 12), pytest.param(24, 48, marks=SLOW)]
)
@pytest.mark.parametrize(
    ("sides", "bias"), [((1, 1, 1), True), ((2, 3, 7), False), pytest.param((1, 9, 8), True, marks=SLOW)]
)
def test_doubled_as_a_convolution_and_a_shuffle(
    precision: Precision, channels: int, count: int, sides: tuple[int, int, int], bias: bool
) -> None:
    pictures, height, width = sides
    maps = maps_of(precision, *sides, channels)
    skip = maps_of(precision, pictures, 2 * height, 2 * width, count // 4)
    matrix = matrix_of(precision, count, channels, bias=bias)
    expected = F.pixel_shuffle(plain(maps, matrix).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    doubling = Doubling.packed(matrix.weight, matrix.bias, dtype=map_type(precision))
    check(doubled(maps, doubling, precision=precision, adds=skip), expected + skip.double(), precision)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=SLOW)])
def test_blocks_of_every_shape_agree(precision: Precision) -> None:
    """Rows, columns and channels that fill no block, and those that fill several."""
    maps, matrix = maps_of(precision, 1, 6, 8, 64), matrix_of(precision, 32, 64)
    for shape in (Shape(16, 16, 16, 4, 3), Shape(32, 64, 128, 4, 1), Shape(64, 32, 32, 4, 2)):
        check(product(maps, matrix, precision=precision, shape=shape), plain(maps, matrix), precision)


def test_the_answers_type() -> None:
    maps, matrix = maps_of("bf16", 1, 3, 5, 16), matrix_of("bf16", 24, 16)
    answer = product(maps, matrix, precision="bf16", answer_type=torch.float32)
    check(answer, plain(maps, matrix), "fp32")


@pytest.mark.parametrize("precision", PRECISIONS_OF_TENSOR_CORES)
@pytest.mark.parametrize(
    ("channels", "count"), [pytest.param(64, 48, marks=SLOW), pytest.param(16, 16, marks=SLOW), (6, 5), (48, 72)]
)
@pytest.mark.parametrize("sides", [pytest.param((1, 7, 1), marks=SLOW), (2, 5, 14)])
def test_the_feed_forward_at_one_go(
    precision: Precision, channels: int, count: int, sides: tuple[int, int, int]
) -> None:
    assert fits(channels, precision)
    maps = maps_of(precision, *sides, channels)
    hidden, output = matrix_of(precision, 2 * count, channels), matrix_of(precision, channels, count)
    norm = 1 + 0.1 * numbers(channels), 0.1 * numbers(channels)
    normal = F.layer_norm(maps.double(), (channels,), norm[0].double(), norm[1].double(), eps=1e-6)
    first, second = plain(normal.to(maps.dtype), hidden).chunk(2, dim=-1)
    expected = maps.double() + plain((first * second).to(maps.dtype), output)
    answer = feed_forward(maps, norm, gated(hidden), output, precision=precision)
    check(answer, expected, precision, roundings=4)


def test_what_the_feed_forward_at_one_go_is_for() -> None:
    assert fits(64, "bf16")
    assert not fits(128, "bf16")
    assert not fits(64, "fp32")


def test_maps_must_be_evenly_spaced_pixels() -> None:
    maps = numbers(2, 4, 6, 8)
    assert pixel_stride(maps) == 8
    assert pixel_stride(maps[..., 2:5]) == 8
    assert pixel_stride(maps[:, :, :1].contiguous()) == 8
    assert pixel_stride(maps[:1, :1, :1, :3]) == 3
    for uneven in (maps[:, :, :3], maps[:, ::2], maps.permute(0, 3, 1, 2)):
        with pytest.raises(AssertionError, match="pixel"):
            pixel_stride(uneven)


@pytest.mark.parametrize(
    "channels",
    [
        pytest.param(48, marks=SLOW),
        64,
        pytest.param(72, marks=SLOW),
        pytest.param(128, marks=SLOW),
        130,
        pytest.param(384, marks=SLOW),
        1024,
    ],
)
def test_shapes_fit_into_shared_memory(channels: int) -> None:
    sizes: dict[Precision, int] = {"bf16": 2, "tf32": 4, "fp32": 4}
    for precision, size in sizes.items():
        for columns in (3, 48, 96, 160, 544, 2080):
            for rows in (1, 1024, 262144):
                for normed in (False, True):
                    shape = shape_for(rows, columns, channels, precision, normed=normed)
                    assert min(shape.rows, shape.columns, shape.depth, shape.stages * 16) >= 16
                    taken = (shape.rows + shape.columns) * shape.depth * size * shape.stages
                    assert taken <= 96 << 10


def test_shapes_fill_the_gpu() -> None:
    assert shape_for(262144, 64, 64, "bf16").rows == 128
    assert shape_for(1024, 1024, 1024, "bf16") == Shape(64, 64, 64, 4, 4)


@dataclass(frozen=True)
class Form:
    """A form of the kernel at a published size."""

    name: str
    rows: int
    channels: int
    columns: int
    precision: Precision = "bf16"
    gated: bool = False
    normed: bool = False
    adds: bool = False
    source: Literal[1, 4] = 1
    target: Literal[1, 4] = 1


FORMS = [
    Form("expand", 262144, 64, 160),
    Form("gated", 65536, 128, 192, gated=True, normed=True),
    Form("project", 16384, 256, 256, adds=True),
    Form("project of one tile", 1024, 1024, 1024, adds=True),
    Form("expand of KBNet-L", 65536, 72, 248),
    Form("halved", 65536, 64, 128, source=4),
    Form("doubled", 65536, 128, 64, adds=True, target=4),
    Form("tf32", 16384, 256, 544, "tf32"),
    Form("tf32, gated", 65536, 128, 192, "tf32", gated=True, normed=True),
    Form("fp32", 65536, 128, 192, "fp32", gated=True, normed=True),
]


def request(form: Form, capability: int) -> Request:
    kind = "*bf16:16" if form.precision == "bf16" else "*fp32:16"
    rows = form.rows * form.target
    shape = shape_for(rows, form.columns, form.channels, form.precision, normed=form.normed)
    pointers = {
        "bias": "*fp32:16",
        "adds": kind if form.adds else None,
        "norm_weight": "*fp32:16" if form.normed else None,
        "norm_bias": "*fp32:16" if form.normed else None,
    }
    given = {name: value for name, value in pointers.items() if value}
    return Request(
        module="kbnet_cli.kernels.gpu.products",
        kernel="multiply",
        signature={"maps": kind, "weight": kind, "answer": kind, "rows": "i32", "width": "i32", **given},
        constants={
            **dict.fromkeys(pointers.keys() - given.keys()),
            "K": form.channels,
            "N": form.columns,
            "MAPS_STRIDE": form.channels,
            "ADDS_STRIDE": form.columns,
            "SOURCES": form.source,
            "TARGETS": form.target,
            "GATED": form.gated,
            "OWN_WEIGHTS": False,
            "PRECISION": dot_precision(form.precision),
            "ROWS": shape.rows,
            "COLUMNS": shape.columns,
            "DEPTH": shape.depth,
        },
        capability=capability,
        warps=shape.warps,
        stages=shape.stages,
    )


def feed_forward_request(precision: Precision, capability: int) -> Request:
    kind, columns = ("*bf16:16", 128) if precision == "bf16" else ("*fp32:16", 64)
    biases = dict.fromkeys(("norm_weight", "norm_bias", "wide_bias", "narrow_bias"), "*fp32:16")
    sizes = {"K": 64, "HIDDEN": 48, "STRIDE": 64, "ROWS": 64, "COLUMNS": columns, "DEPTH": 64}
    return Request(
        module="kbnet_cli.kernels.gpu.feed_forward",
        kernel="widen_and_narrow",
        signature={**dict.fromkeys(("maps", "wide", "narrow", "answer"), kind), **biases, "rows": "i32"},
        constants={**sizes, "PRECISION": dot_precision(precision)},
        capability=capability,
        warps=4,
        stages=2,
    )


def check_compiled(requests: list[Request]) -> None:
    for one, built in zip(requests, all_compiled(requests), strict=True):
        assert built.spills == 0, one
        assert built.shared_bytes <= SHARED_LIMITS[86], one
        if one.constants["PRECISION"] != "ieee":
            assert built.count("HGMMA" if one.capability == 90 else "HMMA") > 0, one
        # A pixel's channels in 16 bytes at a time, by themselves or into shared memory.
        assert built.count(r"LDG\.E\.128") + built.count(r"LDGSTS\.E\.BYPASS\.128") > 0, one
        assert built.count(r"STG\.E\.128") > 0, one


def test_compiled_for_the_h100() -> None:
    check_compiled([request(FORMS[2], 90)])


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_all_forms_compiled(capability: int) -> None:
    check_compiled([request(form, capability) for form in (FORMS if capability == 90 else FORMS[1::4])])


@pytest.mark.slow
def test_the_feed_forward_compiled() -> None:
    check_compiled([feed_forward_request(precision, 90) for precision in PRECISIONS_OF_TENSOR_CORES])
