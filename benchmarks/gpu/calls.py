"""The calls of kernels that a network makes: listened to once, to be measured by themselves with the same maps."""

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kbnet_cli.kernels import gpu

OTHERS = ("launching", "arithmetic", "blocks")
"""Modules of the kernels' package whose functions take no maps, or call the others'."""
MODULES: tuple[ModuleType, ...] = tuple(
    importlib.import_module(f"{gpu.__name__}.{found.name}")
    for found in pkgutil.iter_modules(gpu.__path__)
    if found.name not in OTHERS
)
OPERATIONS = {"bf16": 800e12, "tf32": 400e12, "fp32": 60e12}
"""What an H100 does in a second; fp32 without tensor cores."""
BYTES = 3.0e12
"""What its memory moves in a second."""


@dataclass(frozen=True)
class Call:
    """A function of a kernel's module, and what it was given."""

    function: Callable[..., Any]
    given: tuple[Any, ...]
    named: Mapping[str, Any]
    bytes: int
    """Read and written, each number once."""
    operations: float
    """Of products; 0 where there are none to speak of."""
    answer: Any = None
    """Where it was asked for."""

    def again(self) -> object:
        """Do the same once more."""
        return self.function(*self.given, **self.named)

    @property
    def name(self) -> str:
        """How the table calls it."""
        words = [f"{self.function.__module__.rpartition('.')[2]}.{self.function.__name__}"]
        words += [
            name for name, value in self.named.items() if name in FLAGS and value is not None and value is not False
        ]
        if len(self.given) > 1 and getattr(self.given[1], "gated", False):
            words.append("gated")
        return " ".join(words)

    @property
    def maps(self) -> Tensor:
        """The maps that it begins with."""
        found: Tensor = self.given[0]
        return found

    @property
    def matrix_rows(self) -> str:
        """Of a product, how many rows its matrix has; nothing of others."""
        if self.function.__module__.rpartition(".")[2] not in PRODUCTS:
            return ""
        return f" → {matrix_of(self.given[1]).shape[-2]}"

    @property
    def key(self) -> tuple[object, ...]:
        """What is the same for calls that take the same time."""
        return (self.name, *(tuple(tensor.shape) for tensor in tensors((self.given, dict(self.named)))))

    def floor(self, precision: str) -> float:
        """Return the seconds that its bytes or its operations take at least, whichever is longer."""
        return max(self.bytes / BYTES, self.operations / OPERATIONS[precision])


PRODUCTS = ("products", "resampling")
FLAGS = ("adds", "times", "norm", "places")
"""Of named arguments, those that make another kernel of it."""


@contextlib.contextmanager
def recorded(*, keep: bool = False) -> Iterator[list[Call]]:
    """Listen to all calls of kernels inside the block; the list holds their maps, and their answers if told so."""
    calls: list[Call] = []
    within = [0]

    def listening(function: Callable[..., Any]) -> Callable[..., Any]:
        def listener(*given: Any, **named: Any) -> Any:
            within[0] += 1
            try:
                answer = function(*given, **named)
            finally:
                within[0] -= 1
            if not within[0]:  # what kernels' functions call of each other is part of the first one's
                moved = sum(tensor.numel() * tensor.element_size() for tensor in tensors((given, named, answer)))
                kept = answer if keep else None
                calls.append(Call(function, given, named, moved, operations(function, given), kept))
            return answer

        return listener

    before = {module: public(module) for module in MODULES}
    try:
        for module, functions in before.items():
            vars(module).update({name: listening(function) for name, function in functions.items()})
        yield calls
    finally:
        for module, functions in before.items():
            vars(module).update(functions)


def public(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the functions of a module that take maps; kernels themselves are no functions of Python's."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
        and _takes_maps(function)
    }


def _takes_maps(function: Callable[..., Any]) -> bool:
    words = list(inspect.signature(function).parameters.values())
    shape = str(getattr(words[0].annotation, "dim_str", "")) if words else ""
    return len(words) > 1 and shape.startswith("b h w")


def tensors(value: object) -> Iterator[Tensor]:
    """Give all tensors in a value of tuples, dictionaries and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, tuple | list):
        for one in value:
            yield from tensors(one)
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            yield from tensors(getattr(value, each.name))


def operations(function: Callable[..., Any], given: tuple[Any, ...]) -> float:
    """Return how many multiplications and additions of products a call makes."""
    maps: Tensor = given[0]
    pictures, height, width, channels = maps.shape
    pixels = pictures * height * width
    kind = function.__module__.rpartition(".")[2]
    if kind == "attention":
        return pixels * attention_operations(channels, given[2].group_size, given[1].shape[-1])
    if kind == "feed_forward":
        return sum(2 * pixels * matrix_of(packed).numel() for packed in given[2:4])
    if kind in PRODUCTS:
        weight = matrix_of(given[1])
        numbers = weight.shape[-2] * weight.shape[-1]
        # A matrix wider than the maps takes several pixels at once.
        return 2 * pixels * numbers / max(1, weight.shape[-1] // channels)
    return 0.0


def matrix_of(packed: object) -> Tensor:
    """Return the matrix in what a product is given."""
    return next(tensor for tensor in tensors(packed) if tensor.dim() > 1)


def attention_operations(channels: int, group_size: int, bases: int) -> float:
    """Return what the kernel basis attention does a pixel: the mixing of kernels and their bias, and their use."""
    return 2 * bases * channels * (9 * group_size + 1) + 2 * 9 * group_size * channels


def synchronise() -> None:
    """Wait for the GPU, where there is one, so that its errors are told where they belong."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
