"""What the pickle in a .pth says, without doing it: its tables, numbers and words, and where its tensors would lie.

Nothing is unpickled here. An opcode becomes a plain value or a description, and a call one only if it is among the four
that state dicts are made of. Only what is found harmless goes to `torch.load(weights_only=True)`, which takes more:
calls that fill the memory, tables that take for ever to build, and in older versions code (CVE-2025-32434 up to torch
2.5, CVE-2026-24747 up to 2.9). Time and memory grow with the number of opcodes only.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from typing import Any

OPCODES_AT_MOST = 1_000_000
"""A published KBNet has 50 000; a training's checkpoint with its optimiser four times as many."""
DIMENSIONS_AT_MOST = 8

STORAGES = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
}
"""torch's kinds of storage: the type of an element and its bytes."""


class UnreadableError(Exception):
    """Say why a file of weights is not read, and how to go on; whoever knows the file's name puts it in front."""

    def __init__(self, reason: str, hint: str = "download or copy it again") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


def quoted(text: object) -> str:
    """Return a stranger's text as it may stand in a message: on one line, without control characters, not long."""
    shown = repr(text if not isinstance(text, str) else text[:200])
    return shown if len(shown) <= 80 else shown[:77] + "…" + shown[0]


@dataclass(frozen=True)
class Storage:
    """Elements in a row, kept outside the pickle under a key."""

    key: str
    dtype: str
    item_bytes: int
    elements: int


@dataclass(frozen=True)
class PickledTensor:
    """A view of a storage: offset and strides count elements. It lies within the storage and repeats none of it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True)
class _Global:
    """A name that a pickle would import."""

    name: str


@dataclass
class _Machine:
    """A pickle's stack and memo while it is read."""

    stack: list[object] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)

    def above_mark(self) -> list[object]:
        """Take what lies above the last mark."""
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items


def described(file: BytesIO) -> tuple[object, dict[str, Storage]]:
    """Return what the pickle at a file's position describes, and the storages it names by their keys.

    Tables are dicts, tensors are `PickledTensor`, all else is what it is in Python. The file then stands behind it.

    Raises:
        UnreadableError: it is damaged, too large, or wants something run.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in islice(pickletools.genops(file), OPCODES_AT_MOST):
            if opcode.name == "STOP":
                return machine.stack.pop(), machine.storages
            if opcode.name not in _STEPS:
                raise UnreadableError(
                    "not a checkpoint of tensors only: its pickle has opcodes that torch does not write",
                    hint="nothing in it was run; save it again with torch.save, or as .safetensors",
                )
            _STEPS[opcode.name](machine, argument)
    except (IndexError, KeyError, ValueError, AttributeError) as error:
        raise UnreadableError("its pickle is damaged") from error
    raise UnreadableError(f"its pickle has more than {OPCODES_AT_MOST:,} opcodes, expected a state dict only")


def _update(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, dict) or len(items) % 2:
        raise UnreadableError("its pickle is damaged")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Tuples of tuples of tuples would take for ever to hash.
        if not isinstance(key, str | int | float | None):
            raise UnreadableError("its pickle has tables with keys that are neither words nor numbers")
        target[key] = value


def _set_item(machine: _Machine) -> None:
    value, key = machine.stack.pop(), machine.stack.pop()
    _update(machine, [key, value])


def _extend(machine: _Machine, items: list[object]) -> None:
    target = machine.stack[-1]
    if not isinstance(target, list):
        raise UnreadableError("its pickle is damaged")
    target.extend(items)


def _global(machine: _Machine, module: str, name: str) -> None:
    full_name = f"{module}.{name}"
    if full_name not in _CALLS and (module != "torch" or name not in STORAGES):
        what = "numpy objects" if module.startswith("numpy") else "code or objects"
        raise UnreadableError(
            f"not a checkpoint of tensors only: there are {what} in it ({quoted(full_name)})",
            hint="nothing in it was run; expected a .safetensors file, or a .pth with nothing but the state dict",
        )
    machine.stack.append(_Global(full_name))


def _persistent(machine: _Machine) -> None:
    match machine.stack.pop():
        case ("storage", _Global(name), str(key), str(), int(elements), *view) if view in ([], [None]):
            kind = name.removeprefix("torch.")
            if kind in STORAGES and type(elements) is int and elements >= 0:
                storage = Storage(key, *STORAGES[kind], elements)
                if machine.storages.setdefault(key, storage) == storage:
                    machine.stack.append(storage)
                    return
    raise UnreadableError("its pickle describes storages in a way that torch does not write")


def _call(machine: _Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    if not isinstance(function, _Global) or function.name not in _CALLS or not isinstance(arguments, tuple):
        raise UnreadableError("its pickle is damaged")
    machine.stack.append(_CALLS[function.name](*arguments[:4]))


def _build(machine: _Machine) -> None:
    # A state dict carries the versions of its modules as an attribute, which nothing here asks for.
    machine.stack.pop()
    if not isinstance(machine.stack[-1], dict):
        raise UnreadableError("its pickle is damaged")


def _table(*arguments: object) -> object:
    if arguments:
        raise UnreadableError("its pickle describes tables in a way that torch does not write")
    return {}


def _parameter(*arguments: object) -> object:
    if not arguments or not isinstance(arguments[0], PickledTensor):
        raise UnreadableError("its pickle is damaged")
    return arguments[0]


def _tensor(*arguments: object) -> object:
    match arguments:
        case (Storage() as storage, int(offset), tuple(shape), tuple(stride)):
            short = len(shape) == len(stride) <= DIMENSIONS_AT_MOST
            if short and all(type(number) is int and 0 <= number < 1 << 48 for number in (offset, *shape, *stride)):
                return _within(PickledTensor(storage, offset, shape, stride))
    raise UnreadableError("its pickle describes tensors in a way that torch does not write")


def _within(tensor: PickledTensor) -> PickledTensor:
    elements, reach = 1, tensor.offset
    for size, stride in zip(tensor.shape, tensor.stride, strict=True):
        elements *= size
        reach += (size - 1) * stride
    if elements and (reach >= tensor.storage.elements or elements > tensor.storage.elements - tensor.offset):
        raise UnreadableError(
            f"a tensor of shape {tensor.shape} does not fit its storage of {tensor.storage.elements} numbers",
            hint="the file is damaged, or made to fill the memory",
        )
    return tensor


_CALLS: dict[str, Callable[..., object]] = {
    "collections.OrderedDict": _table,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}

# Lambdas for what there is by the ten thousand: under the type checker of the tests a function takes ten times as long.
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda *_: None,
    **dict.fromkeys(
        ["BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINSTRING"],
        lambda machine, value: machine.stack.append(value),
    ),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    **dict.fromkeys(
        ["BINPUT", "LONG_BINPUT"], lambda machine, index: machine.memo.__setitem__(index, machine.stack[-1])
    ),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], lambda machine, index: machine.stack.append(machine.memo[index])),
    "TUPLE1": lambda machine, _: machine.stack.append((machine.stack.pop(),)),
    "TUPLE2": lambda machine, _: machine.stack.__setitem__(slice(-2, None), [tuple(machine.stack[-2:])]),
    "TUPLE3": lambda machine, _: machine.stack.__setitem__(slice(-3, None), [tuple(machine.stack[-3:])]),
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.above_mark())),
    "APPEND": lambda machine, _: _extend(machine, [machine.stack.pop()]),
    "APPENDS": lambda machine, _: _extend(machine, machine.above_mark()),
    "SETITEM": lambda machine, _: _set_item(machine),
    "SETITEMS": lambda machine, _: _update(machine, machine.above_mark()),
    "GLOBAL": lambda machine, names: _global(machine, *names.split(" ", 1)),
    "BINPERSID": lambda machine, _: _persistent(machine),
    "REDUCE": lambda machine, _: _call(machine),
    "BUILD": lambda machine, _: _build(machine),
}
