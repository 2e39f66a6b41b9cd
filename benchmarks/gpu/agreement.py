"""Whether the kernels compute what they should on this device, before anything is timed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu import references
from benchmarks.gpu.calls import Call, recorded
from benchmarks.gpu.networks import multiplying
from benchmarks.gpu.report import Item, Row, Told
from benchmarks.gpu.scale import Scale, random_large, random_small
from kbnet_cli import checkpoint
from kbnet_cli.kernels.gpu import blocks
from kbnet_cli.networks import kbnet_l, kbnet_s
from kbnet_cli.networks.accelerating import accelerated
from kbnet_cli.networks.folding import channel_attention_of, feed_forward_of, fusion_of_l, fusion_of_s
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import randomise

ROOT = Path(__file__).parent.parent.parent
ALLOWED = {"bf16": 2e-2, "tf32": 4e-3, "fp32": 1e-4}
"""How far an answer may be from float64's, of its largest value: some roundings of 8, 10, 23 bits."""
IN_BLOCKS, IN_NETWORKS = 3, 10
"""How many of such steps count together in a block and in a network of random weights."""
ODD, EVEN = (33, 21), (32, 48)
"""Heights and widths: kernels take sides that are multiples of 16 and others in two ways."""


@dataclass(frozen=True)
class Case:
    """A block by itself."""

    sizes: KBNetSSizes | KBNetLSizes
    channels: int
    size: tuple[int, int]
    precision: str

    @property
    def name(self) -> str:
        """How the table calls it."""
        kind = "KBNet-L" if isinstance(self.sizes, KBNetLSizes) else "KBNet-S"
        if isinstance(self.sizes, KBNetSSizes) and not self.sizes.lightweight:
            kind += " (Gaussian)"
        return f"block of {kind}, {self.channels} channels, {self.size[0]}×{self.size[1]}"

    def block(self) -> kbnet_s.KBBlock | kbnet_l.KBBlock:
        """Build it with random weights that all count."""
        if isinstance(self.sizes, KBNetSSizes):
            lightweight, scale = self.sizes.lightweight, self.sizes.ffn_scale
            small = kbnet_s.KBBlock(self.channels, lightweight=lightweight, ffn_scale=scale)
            randomise(small, 0)
            return small
        large = kbnet_l.KBBlock(self.channels, heads=2, expansion=self.sizes.expansion, bias=self.sizes.bias)
        randomise(large, 0)
        return large


def items(scale: Scale) -> Iterator[Item]:
    """Give blocks of all widths, then whole networks and the example photo."""
    small, large = scale.small, scale.large
    widths, narrow = [channels for channels, _ in scale.levels], large.width
    even, odd = ((4, 8), (5, 3)) if scale.rehearsal else (EVEN, ODD)
    yield Item("the example photo", partial(example, scale))
    cases = [Case(small, widths[0], even, precision) for precision in scale.precisions]
    cases += [Case(large, narrow, even, precision) for precision in scale.precisions]
    cases += [Case(small, widths[0], odd, "bf16"), Case(large, narrow, odd, "bf16")]
    if not scale.rehearsal:
        gaussian = replace(small, lightweight=False, ffn_scale=2.0)
        cases += [Case(small, width, even, "bf16") for width in widths[1:]]
        cases += [Case(large, factor * narrow, even, "bf16") for factor in (2, 4, 8)]
        cases += [Case(gaussian, widths[0], size, "bf16") for size in (even, odd)]
        cases += [Case(gaussian, widths[0], even, "tf32")]
    for case in cases:
        yield Item(f"{case.name}, {case.precision}", partial(block, scale, case))
    for precision in scale.precisions:
        yield Item(f"KBNet-S, {precision}", partial(whole, scale, lambda: random_small(scale.small), precision))
        yield Item(f"KBNet-L, {precision}", partial(whole, scale, lambda: random_large(scale.large), precision))


def block(scale: Scale, case: Case) -> Iterable[Told]:
    """Hold a block, and each call of a kernel in it, against float64."""
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, *case.size, case.channels, generator=generator).to(scale.device)
    with torch.inference_mode():
        module = case.block().to(scale.device).requires_grad_(False)
        fast: blocks.BlockS | blocks.BlockL
        if isinstance(module, kbnet_s.KBBlock):
            fusion = fusion_of_s(module)
            fast = blocks.BlockS(fusion, feed_forward_of(module), case.precision)  # type: ignore[arg-type]
        else:
            fusion = fusion_of_l(module)
            fast = blocks.BlockL(fusion, channel_attention_of(module), case.precision)  # type: ignore[arg-type]
        given = maps.bfloat16() if case.precision == "bf16" else maps
        with recorded(keep=True) as calls:
            answer = fast(given)
        exact = module.double()(given.double().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        yield _told(case.name, "whole", case.precision, apart(answer.double(), exact), steps=IN_BLOCKS)
        for call in calls:
            reference = references.expected(call, fusion)
            if reference is not None:
                found = apart(references.answered(call.answer), reference)
                yield _told(case.name, _named(call), case.precision, found)


def _named(call: Call) -> str:
    return f"{call.name}{call.matrix_rows}"


def whole(scale: Scale, build: Callable[[], KBNetS | KBNetL], precision: str) -> Iterable[Told]:
    """Hold a whole network against its plain form in float64."""
    network = build()
    side = min(scale.tile, 64)
    picture = scale.pictures(1)[..., :side, :side]
    with torch.inference_mode():
        fast = accelerated(network, precision, scale.device)  # type: ignore[arg-type]
        answer = fast(picture)
        exact = network.to(scale.device).double()(picture.double())
        kind = "KBNet-L" if isinstance(network, KBNetL) else "KBNet-S"
        yield _told(f"{kind}, {side}×{side}", "whole", precision, apart(answer.double(), exact), steps=IN_NETWORKS)


def _told(what: str, call: str, precision: str, found: float, *, steps: int = 1) -> Told:
    allowed = steps * ALLOWED[precision]
    right = found <= allowed
    notes = () if right else (f"**{what}, {call}, {precision}: off by {found:.2g} of the largest value.**",)
    row: Row = {
        "what": what,
        "call": call,
        "precision": precision,
        "largest difference, of the largest value": found,
        "allowed": allowed,
        "right": "yes" if right else "NO",
    }
    return Told((row,), {}, notes)


def apart(answer: Tensor, exact: Tensor) -> float:
    """Return the largest difference, of the largest value; infinity where an answer is not finite."""
    if not bool(torch.isfinite(answer).all()):
        return float("inf")
    return float((answer - exact).abs().max() / exact.abs().max())


def example(scale: Scale) -> Iterable[Told]:
    """Restore the example photo with the bundled weights: bf16 and TF32 against float32."""
    from PIL import Image

    pixels = np.asarray(Image.open(ROOT / "examples" / "rocks.png").convert("RGB")).astype(np.float32) / 255
    side = scale.tile if scale.rehearsal else 256
    cut = torch.from_numpy(pixels[:side, :side]).permute(2, 0, 1)[None].contiguous().to(scale.device)
    weights = ROOT / "weights" / "denoise-small.safetensors"
    loaded = random_small(scale.small) if scale.rehearsal else checkpoint.load(weights).network
    with torch.inference_mode(), multiplying("TF32 off"):
        exact = loaded.to(scale.device)(cut)
        for precision in scale.precisions:
            restored = accelerated(loaded, precision, scale.device)(cut).float()  # type: ignore[arg-type]
            error = float((restored - exact).double().square().mean())
            psnr = -10 * float(np.log10(error)) if error else 200.0
            row: Row = {
                "what": "example photo, denoise-small",
                "call": "to plain torch in float32",
                "precision": precision,
                "largest difference, of the largest value": float((restored - exact).abs().max()),
                "PSNR, dB": psnr,
                "right": "yes" if psnr >= 55 else "NO",
            }
            yield Told((row,), {"example, PSNR": psnr} if precision == "bf16" else {})
