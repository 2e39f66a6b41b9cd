"""The parts of the benchmark: what each is called, and how much of the time it may have."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.gpu.report import Item


@dataclass(frozen=True)
class Part:
    """Something measured, by processes of its own."""

    name: str
    title: str
    module: str
    seconds: float
    """After so long it is stopped, with what it has told."""
    items: str = "items"
    share: float = 0.0
    """Of the processes that run at once where nothing is timed; 0 where time is taken and nothing else may run."""


PARTS = (
    Part("machine", "The machine", "machine", 30),
    Part("agreement", "Agreement with plain torch in float64", "agreement", 150, share=0.3),
    Part("warming", "Kernels compiled beforehand", "warming", 150, share=0.4),
    Part("shapes_warming", "Shapes of programs, compiled beforehand", "shapes", 150, "warming_items", share=0.3),
    Part("attention", "The kernel basis attention alone, at each level of a tile", "attention", 40),
    Part("small", "KBNet-S (SIDD sizes) on tiles", "networks", 75),
    Part("kernels", "Where the time goes: each kernel by itself", "kernels", 50),
    Part("photos", "A photo of 24 megapixels in tiles, from array to array", "photos", 45),
    Part("disk", "A folder of photos of 24 megapixels, from disk to disk", "disk", 70),
    Part("large", "KBNet-L (deraining sizes) on tiles", "networks", 50, "large_items"),
    Part("shapes", "Shapes of programs: the best beside those that are used", "shapes", 80),
)
"""In their order: what matters most comes first, should the time run out."""
BY_NAME = {part.name: part for part in PARTS}


def items_of(part: Part) -> Iterator[Item]:
    """Give a part's items. Only here are the networks' modules imported."""
    from benchmarks.gpu.scale import scale

    module = importlib.import_module(f"benchmarks.gpu.{part.module}")
    give: Callable[..., Iterator[Item]] = vars(module)[part.items]
    return give(scale())
