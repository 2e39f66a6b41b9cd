"""The kernel basis attention by itself: in Triton, in plain torch, in the published form."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu import published, references, timing
from benchmarks.gpu.calls import BYTES, OPERATIONS, attention_operations
from benchmarks.gpu.report import Item, Told
from benchmarks.gpu.scale import Scale
from kbnet_cli.kernels import plain
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import attention
from kbnet_cli.kernels.gpu.arithmetic import map_type

BASES, GROUP_SIZE = 32, 4
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


def items(scale: Scale) -> Iterator[Item]:
    """Give each level, then the forms that it is compared with at the first one."""
    for level, (channels, size) in enumerate(scale.levels):
        for batch in dict.fromkeys((1, scale.batch)):
            yield Item(f"level {level + 1}, batch {batch}", partial(in_triton, scale, level, channels, size, batch))
    channels, size = scale.levels[0]
    yield Item("other forms, level 1", partial(in_other_forms, scale, channels, size))


def inputs(batch: int, channels: int, size: int, device: torch.device) -> Inputs:
    """Return random features b×h×w×c, coefficients b×h×w×n, basis weights and biases."""
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(batch, size, size, channels, generator=generator).to(device),
        torch.randn(batch, size, size, BASES, generator=generator).to(device),
        (torch.randn(1, BASES, channels * GROUP_SIZE * 9, generator=generator) / 34).to(device),
        torch.randn(1, BASES, channels, generator=generator).to(device),
    )


def triton_form(given: Inputs, precision: Precision) -> Callable[[], Tensor]:
    """Return the operator in Triton, as blocks call it but for what they add and multiply."""
    dtype = map_type(precision)
    features, coefficients, weight, bias = given
    features, coefficients = features.to(dtype), coefficients.to(dtype)
    bases = attention.Bases.packed(weight, bias, group_size=GROUP_SIZE, dtype=dtype)
    return lambda: attention.filtered(features, coefficients, bases, precision=precision)


def floor(channels: int, pixels: int, precision: str) -> float:
    """Return the seconds that the operator takes at least: its operations, or each of its numbers moved once."""
    width = 2 if precision == "bf16" else 4
    numbers = pixels * (2 * channels + BASES) + BASES * channels * (9 * GROUP_SIZE + 1)
    return max(
        pixels * attention_operations(channels, GROUP_SIZE, BASES) / OPERATIONS[precision], numbers * width / BYTES
    )


def in_triton(scale: Scale, level: int, channels: int, size: int, batch: int) -> Iterable[Told]:
    """Measure one level in each precision."""
    given = inputs(batch, channels, size, scale.device)
    pixels = batch * size * size
    for precision in scale.precisions:
        seconds = timing.on_gpu(triton_form(given, precision)).seconds  # type: ignore[arg-type]
        share = 100 * floor(channels, pixels, precision) / seconds
        figures = {"attention, of its floor": share} if (level, batch, precision) == (0, scale.batch, "bf16") else {}
        yield Told(
            (
                {
                    "form": f"Triton, {precision}",
                    "maps": f"{batch}×{size}×{size}×{channels}",
                    "ms": 1000 * seconds,
                    "ns a pixel": 1e9 * seconds / pixels,
                    "TFLOP/s": pixels * attention_operations(channels, GROUP_SIZE, BASES) / seconds / 1e12,
                    "of its floor, %": share,
                },
            ),
            figures,
        )


def in_other_forms(scale: Scale, channels: int, size: int) -> Iterable[Told]:
    """Measure the plain form and the published one beside Triton's, and how far their answers are apart."""
    given = inputs(1, channels, size, scale.device)
    features, coefficients, weight, bias = given
    maps, mixture = features.permute(0, 3, 1, 2).contiguous(), coefficients.permute(0, 3, 1, 2).contiguous()
    theirs = published.operator()
    forms: dict[str, Callable[[], Tensor]] = {
        "plain torch, fp32": lambda: plain.kernel_basis_attention(maps, mixture, weight, bias, group_size=GROUP_SIZE),
        f"{published.whose()}, fp32": lambda: theirs(maps, mixture, weight, bias, GROUP_SIZE),
        f"{published.whose()}, bf16": lambda: theirs(
            maps.bfloat16(), mixture.bfloat16(), weight.bfloat16(), bias.bfloat16(), GROUP_SIZE
        ),
    }
    with torch.inference_mode():
        expected = references.attention(*given, GROUP_SIZE)
        for name in scale.precisions:
            answer = triton_form(given, name)().float()  # type: ignore[arg-type]
            yield Told(
                (
                    {
                        "form": f"Triton, {name}",
                        "maps": f"1×{size}×{size}×{channels}",
                        "largest difference to float64, of its largest value": _apart(answer, expected),
                    },
                )
            )
        for name, form in forms.items():
            seconds = timing.on_gpu(form).seconds
            yield Told(
                (
                    {
                        "form": name,
                        "maps": f"1×{size}×{size}×{channels}",
                        "ms": 1000 * seconds,
                        "ns a pixel": 1e9 * seconds / size**2,
                        "largest difference to float64, of its largest value": _apart(
                            form().permute(0, 2, 3, 1).float(), expected
                        ),
                    },
                )
            )


def _apart(answer: Tensor, expected: Tensor) -> float:
    return float((answer.double() - expected).abs().max() / expected.abs().max())
