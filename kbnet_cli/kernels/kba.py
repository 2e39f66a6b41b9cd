"""One address for the kernel basis attention, whichever form of it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kbnet_cli.kernels import compiled, plain
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.kernels.gpu import launching

PRODUCTS: ContextVar[str] = ContextVar("PRODUCTS", default="fp32")
"""What the kernels are mixed in here: fp32 or bf16; set by `products`."""


@contextmanager
def products(precision: Literal["fp32", "bf16"]) -> Iterator[None]:
    """Mix kernels in bfloat16 with sums in float32 inside the block, or in float32 again.

    bf16 holds where the CPU has tiles (`compiled.operator_form`); elsewhere float32 stays. It is for training: an
    answer differs by about 0.3 % of its largest value. A backward pass has the precision of its forward pass, wherever
    it runs.
    """
    before = PRODUCTS.set(precision)
    try:
        yield
    finally:
        PRODUCTS.reset(before)


def kernel_basis_attention(
    features: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "b n h w"],
    weight: Float[Tensor, "1 n k"],
    bias: Float[Tensor, "1 n c"],
    *,
    group_size: int,
) -> Float[Tensor, "b c h w"]:
    """Filter each pixel's neighbourhood with its own mixture of basis kernels, in bounded memory.

    Shapes, ranges and the formula: `kernels.plain`. Where a gradient is wanted, the backward pass computes each band
    anew instead of keeping it, so that training fits memory too.
    """
    inputs = (features, attention, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        answer: Tensor = BandedAttention.apply(*inputs, group_size)  # type: ignore[no-untyped-call]
        return answer
    if _triton_fits(inputs, group_size):
        return _in_triton(features, attention, weight, bias, group_size=group_size)
    if _compiled_fits(inputs):
        form = compiled.operator_form(PRODUCTS.get(), attention.shape[1])
        return compiled.kernel_basis_attention(features, attention, weight, bias, group_size=group_size, form=form)
    return plain.kernel_basis_attention(features, attention, weight, bias, group_size=group_size)


def _triton_fits(inputs: tuple[Tensor, ...], group_size: int) -> bool:
    """Say whether all tensors are on one GPU that runs Triton's kernels, in one type and of a size that they take."""
    device, dtype = inputs[0].device, inputs[0].dtype
    return (
        dtype in (torch.float32, torch.bfloat16)
        and group_size in (1, 2, 4, 8)
        and all(tensor.device == device and tensor.dtype == dtype for tensor in inputs)
        and inputs[0].numel() > 0
        and launching.available(device)
    )


def _in_triton(features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor, *, group_size: int) -> Tensor:
    """Run the kernel, which wants a pixel's channels together. The network's blocks have that and call it directly."""
    from kbnet_cli.kernels.gpu.arithmetic import current
    from kbnet_cli.kernels.gpu.attention import Bases, filtered

    allowed = torch.backends.cuda.matmul.allow_tf32
    bases = Bases.packed(weight, bias, group_size=group_size, dtype=features.dtype)
    maps = [tensor.movedim(1, -1).contiguous() for tensor in (features, attention)]
    precision: Precision
    precision = "bf16" if features.dtype == torch.bfloat16 else "tf32" if allowed else "fp32"
    with current(features.device):
        return filtered(maps[0], maps[1], bases, precision=precision).movedim(-1, 1).contiguous()


def _compiled_fits(inputs: tuple[Tensor, ...]) -> bool:
    """Say whether the compiled form is there and can take these tensors."""
    return compiled.available() and all(
        tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bfloat16) for tensor in inputs
    )


class BandedAttention(torch.autograd.Function):
    """The kernel basis attention with a backward pass in bands: nothing but its inputs is kept between the two."""

    @staticmethod
    def forward(  # noqa: D102 - torch's own contract
        ctx: Any, features: Tensor, attention: Tensor, weight: Tensor, bias: Tensor, group_size: int
    ) -> Tensor:
        ctx.save_for_backward(features, attention, weight, bias)
        ctx.group_size, ctx.products = group_size, PRODUCTS.get()
        return kernel_basis_attention(features, attention, weight, bias, group_size=group_size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: D102
        inputs: tuple[Tensor, Tensor, Tensor, Tensor] = ctx.saved_tensors
        if _compiled_fits((*inputs, gradient)):
            form = compiled.operator_form(ctx.products, inputs[1].shape[1])
            found = compiled.gradients(gradient, *inputs, group_size=ctx.group_size, form=form)
        else:
            found = plain_gradients(gradient, *inputs, group_size=ctx.group_size)
        return (*(one if need else None for one, need in zip(found, ctx.needs_input_grad[:4], strict=True)), None)


def plain_gradients(
    gradient: Float[Tensor, "b c h w"],
    features: Float[Tensor, "b c h w"],
    attention: Float[Tensor, "b n h w"],
    weight: Float[Tensor, "1 n k"],
    bias: Float[Tensor, "1 n c"],
    *,
    group_size: int,
    rows: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of features, attention, weight and bias, given that of the answer, band by band.

    `rows` is a band's height, as in `plain.kernel_basis_attention`; the result does not depend on it.
    """
    inputs = [tensor.detach() for tensor in (features, attention, weight, bias)]
    batch, channels, height, width = features.shape
    rows = rows or plain.band_height(batch=batch, width=width, channels=channels, bases=attention.shape[1])
    totals = [torch.zeros_like(tensor) for tensor in inputs]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = max(top - 1, 0), min(bottom + 1, height)
        # The rows of the halo belong to the neighbours: their coefficients are not part of this band.
        band = [inputs[0][:, :, above:below], inputs[1][:, :, above:below], *inputs[2:]]
        with torch.enable_grad():
            leaves = [tensor.clone().requires_grad_() for tensor in band]
            answer = plain.kernel_basis_attention(
                leaves[0], leaves[1], leaves[2], leaves[3], group_size=group_size, rows=below - above
            )
            own = answer[:, :, top - above : bottom - above]
        parts = torch.autograd.grad(own, leaves, gradient[:, :, top:bottom])
        totals[0][:, :, above:below] += parts[0]
        totals[1][:, :, above:below] += parts[1]
        totals[2] += parts[2]
        totals[3] += parts[3]
    return totals[0], totals[1], totals[2], totals[3]
