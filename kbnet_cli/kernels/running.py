"""What the arithmetic runs on here: torch and its threads, the form of the kernels, the memory of a GPU."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kbnet_cli.kernels import compiled, plain
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import launching

PLAIN = "plain torch (this installation has no compiled form)"


@dataclass(frozen=True)
class Running:
    """What the kernels run on."""

    forms: tuple[str, ...]
    """The compiled forms that this machine can run, the fastest first; none: the plain one runs."""
    threads: int

    bfloat16_forms: tuple[str, ...] = ()
    """Those for bf16."""

    def on(self, device: torch.device, precision: str = "fp32") -> str:
        """Return one line on what runs for tensors on a device, as -v tells it."""
        if device.type != "cpu":
            return _on_gpu(device, precision)
        if not self.forms:
            return PLAIN
        forms = self.bfloat16_forms if precision == "bf16" else self.forms
        plural = "" if self.threads == 1 else "s"
        return f"{f'compiled, {forms[0]}' if forms else 'plain torch'}, {precision}, {self.threads} thread{plural}"


def _on_gpu(device: torch.device, precision: str) -> str:
    if device.type != "cuda":
        return f"plain torch on {device}, {precision}"
    reason = launching.reason_against(device)
    if reason is None:
        return f"Triton {triton_version()} on {device}, {precision}"
    return f"plain torch on {device}, {precision} ({reason})"


def reason_against_triton(device: torch.device) -> str | None:
    """Return why the kernels in Triton do not run on a device, None if they do."""
    return launching.reason_against(device)


def compiles_first(device: torch.device) -> bool:
    """Say whether a device's kernels are yet to be compiled: the first photo then waits a minute or two."""
    return launching.compiles_first(device)


def triton_version() -> str:
    """Return the version of Triton, where it is installed."""
    return str(importlib.import_module("triton").__version__)


def running() -> Running:
    """Return what the kernels run on in this process."""
    if not compiled.available():
        return Running((), torch.get_num_threads())
    return Running(compiled.forms(), torch.get_num_threads(), compiled.forms("bf16"))


def torch_build() -> str:
    """Return torch's version and what it was built for."""
    built = "CUDA " + torch.version.cuda if torch.version.cuda else "ROCm" if torch.version.hip else "the CPU"
    return f"{torch.__version__}, for {built}"


def disagreement() -> float:
    """Return how far the compiled forms are from the plain one on a small random input, relative to its largest value.

    The worst of all forms and of both networks' group sizes; 0 where there is no compiled form.
    """
    worst = 0.0
    for inputs, group_size in _inputs():
        expected = plain.kernel_basis_attention(*inputs, group_size=group_size)
        for form in running().forms:
            found = compiled.kernel_basis_attention(*inputs, group_size=group_size, form=form)
            worst = _worse(worst, found, expected)
    return worst


def gpu_disagreement(device: torch.device, precision: Precision) -> float:
    """Return the same for the kernel in Triton, on a device where `launching.available`, and in a precision."""
    from kbnet_cli.kernels.gpu import arithmetic, attention

    kind, worst = arithmetic.map_type(precision), 0.0
    for inputs, group_size in _inputs():
        # Rounded first, so that only the arithmetic is compared.
        features, coefficients, weight, bias = (tensor.to(kind).float() for tensor in inputs)
        expected = plain.kernel_basis_attention(features, coefficients, weight, bias, group_size=group_size)
        bases = attention.Bases.packed(weight.to(device), bias.to(device), group_size=group_size, dtype=kind)
        maps, mixture = (
            tensor.permute(0, 2, 3, 1).to(device, kind).contiguous() for tensor in (features, coefficients)
        )
        with arithmetic.current(device):
            found = attention.filtered(maps, mixture, bases, precision=precision)
        worst = _worse(worst, found.float().cpu().permute(0, 3, 1, 2), expected)
    return worst


def _inputs() -> Iterator[tuple[tuple[Tensor, Tensor, Tensor, Tensor], int]]:
    """Give small random features, coefficients, bases and offsets as `plain` takes them, for each group size."""
    generator = torch.Generator().manual_seed(0)
    for group_size, channels, bases in ((4, 16, 32), (2, 6, 32)):
        shapes = (
            (2, channels, 13, 37),
            (2, bases, 13, 37),
            (1, bases, channels * group_size * 9),
            (1, bases, channels),
        )
        features, attention, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
        yield (features, attention, weight, bias), group_size


def _worse(worst: float, found: Tensor, expected: Tensor) -> float:
    difference = float((found - expected).abs().max() / expected.abs().max())
    # Compared this way round, numbers that are not finite count as wrong.
    return worst if difference <= worst else difference


def free_bytes(number: int) -> tuple[int, int]:
    """Return how much memory of a CUDA device is free, and how much it has."""
    free, total = torch.cuda.mem_get_info(number)
    return free, total


def forget_peak(device: torch.device) -> int:
    """Begin to watch the memory of a CUDA device, and return the bytes that tensors hold on it."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that tensors held on a CUDA device since it was watched."""
    return torch.cuda.max_memory_allocated(device)
