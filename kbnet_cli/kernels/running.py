"""What the arithmetic runs on here: torch and its threads, the form of the kernels, the memory of a GPU."""

from dataclasses import dataclass

import torch

from kbnet_cli.kernels import compiled, plain

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
            return f"plain torch on {device}"
        if not self.forms:
            return PLAIN
        forms = self.bfloat16_forms if precision == "bf16" else self.forms
        plural = "" if self.threads == 1 else "s"
        return f"{f'compiled, {forms[0]}' if forms else 'plain torch'}, {precision}, {self.threads} thread{plural}"


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
    generator = torch.Generator().manual_seed(0)
    for group_size, channels, bases in ((4, 16, 32), (2, 6, 32)):
        shapes = (
            (2, channels, 13, 37),
            (2, bases, 13, 37),
            (1, bases, channels * group_size * 9),
            (1, bases, channels),
        )
        features, attention, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
        expected = plain.kernel_basis_attention(features, attention, weight, bias, group_size=group_size)
        for form in running().forms:
            found = compiled.kernel_basis_attention(features, attention, weight, bias, group_size=group_size, form=form)
            difference = float((found - expected).abs().max() / expected.abs().max())
            # Compared this way round, numbers that are not finite count as wrong.
            worst = worst if difference <= worst else difference
    return worst


def forget_peak(device: torch.device) -> int:
    """Begin to watch the memory of a CUDA device, and return the bytes that tensors hold on it."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that tensors held on a CUDA device since it was watched."""
    return torch.cuda.max_memory_allocated(device)
