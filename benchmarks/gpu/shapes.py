"""How the kernels' work is best cut into programs: their own shapes against others near to them."""

import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import timing
from benchmarks.gpu.calls import Call, recorded, synchronise, tensors
from benchmarks.gpu.report import Item, Row, Told
from benchmarks.gpu.scale import Scale
from kbnet_cli.kernels.gpu import blocks, resampling
from kbnet_cli.networks.folding import feed_forward_of, fusion_of_s
from kbnet_cli.networks.kbnet_s import KBBlock
from tests.oracle import randomise

LEAST, MOST = 16, 512
"""Of the sides of a block; a product's are 16 at least."""
MOST_WARPS, MOST_STAGES = 16, 6
BEST = 4
"""So many are told of each call."""
APART = 0.05
"""Another shape's answer that is further from the usual one's, of its largest value, is wrong."""


@dataclass(frozen=True)
class Level:
    """Where a block of KBNet-S works."""

    channels: int
    size: int
    batch: int


def items(scale: Scale) -> Iterator[Item]:
    """Give the calls of each level."""
    return _items(scale, measure=True)


def warming_items(scale: Scale) -> Iterator[Item]:
    """Give the same, only compiled."""
    return _items(scale, measure=False)


def _items(scale: Scale, *, measure: bool) -> Iterator[Item]:
    levels = [Level(channels, size, max(1, scale.batch // 2)) for channels, size in scale.levels]
    for number in range(MOST_CALLS):
        for level in levels:
            yield Item(f"{level.channels} channels, call {number + 1}", partial(call_of, scale, level, number, measure))


MOST_CALLS = 5
"""Those of a block that take a shape: four products and the attention."""


def call_of(scale: Scale, level: Level, number: int, measure: bool) -> Iterable[Told]:
    """Tell how a call of a level's block does in other shapes."""
    with torch.inference_mode():
        shaped = [call for call in listen(scale, level) if default_shape(call) is not None]
        if number >= len(shaped):
            return
        call = shaped[number]
        usual = default_shape(call)
        if measure:
            yield from _measured(call, usual, level, scale)
            return
        for shape in [usual, *neighbours(usual)]:
            attempt(call, shape)


def listen(scale: Scale, level: Level) -> list[Call]:
    """Return the calls of a block in bf16, with its maps."""
    block = KBBlock(level.channels, lightweight=scale.small.lightweight, ffn_scale=scale.small.ffn_scale)
    randomise(block, 0)
    block = block.to(scale.device).requires_grad_(False)
    fast = blocks.BlockS(fusion_of_s(block), feed_forward_of(block), "bf16")
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, level.size, level.size, level.channels, generator=generator)
    with recorded() as calls:
        fast(maps.expand(level.batch, -1, -1, -1).to(scale.device, torch.bfloat16).contiguous())
    return calls


def default_shape(call: Call) -> Any:
    """Return the shape that a call takes by itself; None where its function knows no shapes."""
    if "shape" not in inspect.signature(call.function).parameters or call.function.__module__ == resampling.__name__:
        return None
    module = vars(sys.modules[call.function.__module__])
    # What chooses, or where nothing does, what makes.
    name = next(name for name in ("shape_for", "default_shape", "Shape") if name in module)
    choose, chosen = module[name], []

    def listening(*given: Any, **named: Any) -> Any:
        chosen.append(choose(*given, **named))
        return chosen[-1]

    module[name] = listening
    try:
        call.again()
    finally:
        module[name] = choose
    return chosen[-1]


def neighbours(shape: Any) -> list[Any]:
    """Return shapes near to one: each side twice or half, one side for another, more or fewer warps and stages."""
    values = {each.name: getattr(shape, each.name) for each in fields(shape)}
    switches = [name for name, value in values.items() if isinstance(value, bool)]
    sides = [name for name in values if name not in (*switches, "warps", "stages")]

    def changed(one: Any, **factors: float) -> Any:
        return replace(one, **{name: int(values[name] * factor) for name, factor in factors.items()})

    found = [replace(shape, **{name: not values[name]}) for name in switches]
    for base in (shape, *found):
        found += [changed(base, **{name: factor}) for name in (*sides, "warps") for factor in (0.5, 2)]
        found += [replace(base, stages=values["stages"] + step) for step in (-1, 1)]
        found += [changed(base, **{side: factor, "warps": factor}) for side in sides for factor in (0.5, 2)]
    found += [changed(shape, **{one: 2, other: 0.5}) for one, other in permutations(sides, 2)]

    def possible(other: Any) -> bool:
        within = all(min(LEAST, values[name]) <= getattr(other, name) <= MOST for name in sides)
        return within and 1 <= other.warps <= MOST_WARPS and 1 <= other.stages <= MOST_STAGES

    return [other for other in dict.fromkeys(found) if possible(other) and other != shape]


def attempt(call: Call, shape: Any) -> Tensor | None:
    """Return a call's answer in a shape; None where the GPU has no room for it."""
    try:
        answer = call.function(*call.given, **{**call.named, "shape": shape})
        synchronise()
    except Exception as error:
        if is_fatal(error):
            raise
        return None
    return next(tensors(answer))


def is_fatal(error: BaseException) -> bool:
    """Say whether nothing more can be done on the GPU in this process."""
    words = str(error).lower()
    return any(word in words for word in FATAL)


FATAL = (
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch",
    "device-side assert",
)


def _measured(call: Call, usual: Any, level: Level, scale: Scale) -> Iterable[Told]:
    expected = attempt(call, usual)
    assert expected is not None, "the usual shape does not run"
    largest = float(expected.float().abs().max())
    found: list[tuple[float, Any]] = []
    wrong: list[str] = []
    candidates = neighbours(usual)[:2] if scale.rehearsal else neighbours(usual)
    for shape in candidates:
        answer = attempt(call, shape)
        if answer is None:
            continue
        if float((answer.float() - expected.float()).abs().max()) > APART * largest:
            wrong.append(_written(shape))
        else:
            named = {**call.named, "shape": shape}
            found.append((timing.on_gpu(partial(call.function, *call.given, **named)).seconds, shape))
    own = timing.on_gpu(partial(call.function, *call.given, **{**call.named, "shape": usual})).seconds
    name = f"{call.name}{call.matrix_rows}, {level.batch}×{level.size}×{level.size}×{call.maps.shape[-1]}"
    rows: list[Row] = [_row(name, "used", usual, own, own, call)]
    best = sorted(found, key=lambda pair: pair[0])[:BEST]
    rows += [_row(name, f"{place + 1}", shape, seconds, own, call) for place, (seconds, shape) in enumerate(best)]
    notes = [f"**{name}: wrong in {shape}.**" for shape in wrong]
    yield Told(tuple(rows), {}, tuple(notes))


def _row(name: str, place: str, shape: Any, seconds: float, own: float, call: Call) -> Row:
    return {
        "call": name,
        "place": place,
        "shape": _written(shape),
        "ms": 1000 * seconds,
        "of its floor, %": 100 * call.floor("bf16") / seconds,
        "times as fast as used": own / seconds,
    }


def _written(shape: Any) -> str:
    return ", ".join(f"{each.name} {getattr(shape, each.name)}" for each in fields(shape))
