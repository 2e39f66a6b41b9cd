"""Whole networks on tiles: megapixels a second, memory, and how far pictures are from the published form's."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from benchmarks.gpu import published, timing
from benchmarks.gpu.report import Item, Row, Told
from benchmarks.gpu.scale import Scale, random_large, random_small
from kbnet_cli.networks.accelerating import accelerated
from kbnet_cli.networks.kbnet_l import KBNetL
from kbnet_cli.networks.kbnet_s import KBNetS

Multiplying = Literal["as torch comes", "TF32 off", "TF32 on"]
WAYS: tuple[Multiplying, ...] = ("as torch comes", "TF32 off", "TF32 on")


@dataclass(frozen=True)
class Measured:
    """Which network is measured, at which batches."""

    scale: Scale
    kind: Literal["small", "large"]

    @property
    def batches(self) -> tuple[int, ...]:
        """How many tiles go through it at once."""
        return self.scale.batches if self.kind == "small" else self.scale.large_batches

    def network(self) -> KBNetS | KBNetL:
        """Return it with random weights, always the same."""
        return random_small(self.scale.small) if self.kind == "small" else random_large(self.scale.large)


def items(scale: Scale) -> Iterator[Item]:
    """Give KBNet-S in each precision, then in its published form."""
    return _items(Measured(scale, "small"))


def large_items(scale: Scale) -> Iterator[Item]:
    """Give KBNet-L the same way."""
    return _items(Measured(scale, "large"))


def _items(measured: Measured) -> Iterator[Item]:
    yield Item("bf16", partial(ours, measured, "bf16"))
    yield Item("the published form in float32", partial(theirs, measured))
    yield Item("the published form in bf16", partial(theirs_in_bf16, measured))
    for precision in measured.scale.precisions[1:]:
        yield Item(precision, partial(ours, measured, precision))
    yield Item("distances", partial(distances, measured))


def ours(measured: Measured, precision: str) -> Iterable[Told]:
    """Measure a precision of ours, with and without a CUDA graph."""
    scale, form = measured.scale, f"kbnet, {precision}"
    with torch.inference_mode():
        network = accelerated(measured.network(), precision, scale.device)  # type: ignore[arg-type]
        yield from _memory(measured, form, network)
        for batch in measured.batches:
            pictures = scale.pictures(batch)
            for graph in (True, False):
                found = timing.on_gpu(partial(network, pictures), graph=graph)
                how = "graph" if found.graph else "launched, no graph could be made" if graph else "launched"
                yield _speed(measured, form, how, batch, found)


def theirs(measured: Measured) -> Iterable[Told]:
    """Measure the published form in float32, with TF32 as torch comes, off, and on."""
    form = f"{published.whose()}, float32"
    with torch.inference_mode():
        twin = published.network(measured.network()).to(measured.scale.device)
        yield from _memory(measured, form, twin, figure="published")
        for way in WAYS:
            with multiplying(way):
                for batch in measured.scale.published_batches:
                    found = timing.on_gpu(partial(twin, measured.scale.pictures(batch)), graph=False)
                    yield _speed(measured, form, way, batch, found, figure=f"published float32 {way}")


def theirs_in_bf16(measured: Measured) -> Iterable[Told]:
    """Measure the published form in bfloat16: under autocast, and converted."""
    scale, form = measured.scale, f"{published.whose()}, bf16"
    with torch.inference_mode():
        twin = published.network(measured.network()).to(scale.device)

        def under_autocast(pictures: Tensor) -> Tensor:
            with torch.autocast(scale.device.type, dtype=torch.bfloat16):
                answer: Tensor = twin(pictures)
            return answer

        def converted(pictures: Tensor) -> Tensor:
            answer: Tensor = twin(pictures.bfloat16())
            return answer

        for way, network in (("autocast", under_autocast), (".bfloat16()", converted)):
            if network is converted:
                twin.bfloat16()
            yield from _memory(measured, f"{form}, {way}", network)
            for batch in scale.published_batches:
                found = timing.on_gpu(partial(network, scale.pictures(batch)), graph=False)
                yield _speed(measured, form, way, batch, found, figure="published bf16")


def distances(measured: Measured) -> Iterable[Told]:
    """Tell how far pictures are from the published form's in float32 without TF32, whose weights are the same."""
    device = measured.scale.device
    with torch.inference_mode(), multiplying("TF32 off"):
        pictures = measured.scale.pictures(1)
        expected = published.network(measured.network()).to(device)(pictures)
        changed = float((expected - pictures).square().mean().sqrt())
        for precision in measured.scale.precisions:
            network = accelerated(measured.network(), precision, device)  # type: ignore[arg-type]
            yield Told((_distance(f"kbnet, {precision}", network(pictures).float(), expected),))
        twin = published.network(measured.network()).to(device).bfloat16()
        form = f"{published.whose()}, .bfloat16()"
        yield Told((_distance(form, twin(pictures.bfloat16()).float(), expected),))
        words = (
            f"Distances are to {published.whose()} in float32 with TF32 off, on one random tile; the network changes "
            f"it by {changed:.3g} (root mean square; 1 is white)."
        )
        yield Told(notes=(words,))


def _distance(form: str, answer: Tensor, expected: Tensor) -> Row:
    error = (answer - expected).double()
    mean = float(error.square().mean())
    return {
        "form": form,
        "how": "distance",
        "batch": 1,
        "largest difference": float(error.abs().max()),
        "PSNR, dB": -10 * float(torch.tensor(mean).log10()) if mean else None,
    }


def _speed(
    measured: Measured, form: str, how: str, batch: int, found: timing.Timing, *, figure: str | None = None
) -> Told:
    speed = batch * measured.scale.tile**2 / 1e6 / found.seconds
    row: Row = {
        "form": form,
        "how": how,
        "batch": batch,
        "ms a batch": 1000 * found.seconds,
        "MP/s": speed,
        "spread, %": 100 * found.spread,
    }
    return Told((row,), {f"{measured.kind} {figure or form}, MP/s": speed})


def _memory(
    measured: Measured, form: str, network: Callable[[Tensor], Tensor], *, figure: str | None = None
) -> Iterable[Told]:
    found = timing.peak_bytes(network, lambda: measured.scale.pictures(1))
    if found is not None:
        row: Row = {"form": form, "how": "peak above the weights", "batch": 1, "MB": found / 1e6}
        yield Told((row,), {f"{measured.kind} {figure or form}, peak bytes": float(found)})


@contextlib.contextmanager
def multiplying(way: Multiplying) -> Iterator[None]:
    """Multiply float32 by torch's own functions with or without TF32 inside the block."""
    if way == "as torch comes" or not torch.cuda.is_available():
        yield
        return
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if way == "TF32 on" else "highest")
    torch.backends.cudnn.allow_tf32 = way == "TF32 on"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
