"""Files of named tensors: first where each lies and what shape and type it has, then its values, one at a time.

Nothing in a file is believed: no memory is taken for what the file does not hold, and nothing in it can run. Values are
read, not mapped, so that it does not matter what becomes of the file afterwards.
"""

import hashlib
import json
import os
import pickle
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from kbnet_cli.errors import WeightsError
from kbnet_cli.pickles import DIMENSIONS_AT_MOST, PickledTensor, UnreadableError, quoted
from kbnet_cli.torch_files import TABLE_BYTES_AT_MOST, describe_archive, describe_legacy

FLOATS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
"""The types that weights are read in."""
TYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}
"""The types of safetensors and the bytes of a number."""
Values = Callable[[str], Tensor]
WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params", "model", "net")
"""Keys under which checkpoints keep the tensors, in the order of preference where there are several."""
WRAPPINGS_AT_MOST = 8
TENSORS_AT_MOST = 20_000
"""The published networks have 1168 and 1110."""
HEAD_BYTES = 512


@dataclass(frozen=True)
class Stored:
    """What a tensor in a file is, and where its first byte lies, where that is known."""

    dtype: str
    item_bytes: int
    shape: tuple[int, ...]
    position: int = 0

    @property
    def bytes(self) -> int:
        """What its values take."""
        return prod(self.shape) * self.item_bytes


@dataclass(frozen=True)
class TensorFile:
    """An open file of tensors: what is in it under bare names, and what it says of itself."""

    name: str
    bytes: int
    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    read: Values
    """Read the values of a tensor, once, into memory of their own. Raises WeightsError: it cannot be read."""
    digest: Callable[[], str]
    """Return the SHA-256 of the whole file in hexadecimal digits."""


@contextmanager
def opened(path: Path, name: str | None = None) -> Iterator[TensorFile]:
    """Open a .safetensors or .pth file, told by its content, and find out what is in it without reading any values.

    Raises:
        WeightsError: it is missing, broken, of another kind, or holds more than tensors.
    """
    try:
        # A pipe would make the program wait for its other end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise WeightsError(f"{path}: not a file, expected a checkpoint", hint="check the path")
        file = path.open("rb")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    name = name or path.name
    with file:
        size = os.fstat(file.fileno()).st_size
        with _told(name):
            contents = _contents(file, size)
        prefix = "module." if all(key.startswith("module.") for key in contents.tensors) else ""
        tensors = {key.removeprefix(prefix): stored for key, stored in contents.tensors.items()}

        def read(key: str) -> Tensor:
            with _told(name):
                return contents.read(prefix + key)

        def digest() -> str:
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()

        yield TensorFile(name, size, tensors, contents.metadata, read, digest)


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Tell of what goes wrong while reading as an error of the file with this name."""
    try:
        yield
    except UnreadableError as error:
        raise WeightsError(f"{name}: {error.reason}", hint=error.hint) from error
    except OSError as error:
        raise WeightsError(f"{name}: cannot be read: {error.strerror or error}", hint="copy it again") from error


@dataclass(frozen=True)
class _Contents:
    """What is in a file under the names it has there."""

    tensors: Mapping[str, Stored]
    metadata: Mapping[str, str]
    read: Values


def _contents(file: BinaryIO, size: int) -> _Contents:
    head = file.read(HEAD_BYTES)
    # A safetensors file begins with the length of its header and the header's brace; a pickle or zip never does.
    if head[8:9] == b"{":
        return _safetensors(file, size)
    if head.startswith(b"PK"):
        return _torch_contents(file, describe_archive(file, size))
    if head.startswith(b"\x80"):
        return _torch_contents(file, describe_legacy(file, size))
    raise _stranger(head)


def _stranger(head: bytes) -> UnreadableError:
    """Return what is wrong with a file that is none of ours, by how it begins."""
    text = head.lstrip().lower()
    if not head:
        return UnreadableError("is empty")
    if text.startswith(b"version https://git-lfs"):
        return UnreadableError(
            "a Git LFS pointer, not the weights themselves", hint="run git lfs pull, or download the file it stands for"
        )
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--", b"{", b"[")):
        return UnreadableError(
            "looks like a web page or a server's message, not like weights",
            hint="the download went wrong: get the file itself, not the page that shows it",
        )
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")):
        return UnreadableError(
            "a tar or compressed archive, not a checkpoint of tensors only", hint="unpack it and give the file inside"
        )
    return UnreadableError(
        "neither a safetensors file nor a checkpoint of torch: broken or of another kind",
        hint="expected a .safetensors or .pth file; download or copy it again",
    )


def _torch_contents(file: BinaryIO, described: object) -> _Contents:
    """Hand out the tensors of a .pth whose description has been found harmless."""
    state = _state_dict(described)
    tensors = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, PickledTensor):
            kind = "a tensor" if isinstance(value, PickledTensor) else type(value).__name__
            raise UnreadableError(
                f"{quoted(key)} is {kind}, expected names and tensors only", hint="expected the state dict of a KBNet"
            )
        tensors[key] = Stored(value.storage.dtype, value.storage.item_bytes, value.shape)
    values: dict[object, object] = {}

    def read(key: str) -> Tensor:
        if not values:
            values.update(_state_dict(_loaded(file)))
        # Not kept here, so that the weights are in memory once.
        tensor, stored = values.pop(key, None), tensors[key]
        if not isinstance(tensor, Tensor) or (tensor.shape, tensor.dtype) != (stored.shape, FLOATS[stored.dtype]):
            raise UnreadableError(f"{quoted(key)} is not what it was before: the file changed, or is made to deceive")
        return tensor.detach().contiguous()

    return _Contents(tensors, {}, read)


def _loaded(file: BinaryIO) -> object:
    """Load a .pth with torch; the only place where that is done."""
    file.seek(0)
    try:
        # As an open file, because torch guesses by a path's name what it holds, and must see what was looked at. Values
        # are read, not mapped. Its warning of a pickle's age helps nobody.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content: object = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError) as error:
        # torch's own words are about its options and versions; -v shows them.
        raise UnreadableError("torch refuses to load it: it is damaged, or of another version of torch") from error
    return content


def _state_dict(content: object) -> Mapping[object, object]:
    """Take a table of tensors out of the published wrappings: `net`, `model`, `params` and their like."""
    for _ in range(WRAPPINGS_AT_MOST):
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None and len(content) == 1:
            inner = next(iter(content.values()))
        if not isinstance(inner, dict):
            break
        content = inner
    if not isinstance(content, dict) or not content:
        raise UnreadableError("holds no table of tensors", hint="expected the state dict of a KBNet")
    return content


def _safetensors(file: BinaryIO, size: int) -> _Contents:
    """Read the header: a length, and JSON that says each tensor's type, shape and place (begin and end in the data)."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not length <= min(TABLE_BYTES_AT_MOST, size - 8):
        raise UnreadableError(
            f"broken safetensors file: its header should have {length:,} bytes, expected no more than "
            f"{TABLE_BYTES_AT_MOST:,} and the file's own size"
        )
    start, text = 8 + length, file.read(length)
    if text.count(b"{") > TENSORS_AT_MOST:
        raise UnreadableError(f"has more than {TENSORS_AT_MOST:,} tensors, more than any KBNet")
    try:
        header = json.loads(text.decode(), object_pairs_hook=_unique)
        metadata = header.pop("__metadata__", {})
        tensors = {key: _stored(entry, start) for key, entry in header.items()}
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise UnreadableError("broken safetensors file: its header makes no sense") from error
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise UnreadableError("broken safetensors file: its metadata are not words")
    # As the format has it, the tensors lie one behind the other and nothing lies between them.
    position = start
    for stored in sorted(tensors.values(), key=lambda stored: (stored.position, stored.bytes)):
        if stored.position != position:
            raise UnreadableError("broken safetensors file: its tensors overlap or have gaps between them")
        position += stored.bytes
    if position != size:
        raise UnreadableError(f"broken safetensors file: {size:,} bytes, expected {position:,}")

    def read(key: str) -> Tensor:
        # Read, where the format's own reader maps the file: weights stay what they are when the file changes.
        stored = tensors[key]
        row = torch.empty(prod(stored.shape), dtype=FLOATS[stored.dtype])
        file.seek(stored.position)
        if file.readinto(row.view(torch.uint8).numpy().data) < row.nbytes:  # type: ignore[attr-defined]
            raise UnreadableError("changed while it was read")
        return row.view(stored.shape)

    return _Contents(tensors, metadata, read)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError(pairs[0][0])
    return table


def _stored(entry: Mapping[str, object], start: int) -> Stored:
    match entry["shape"], entry["data_offsets"]:
        case list(shape), [int(begin), int(end)]:
            code = entry["dtype"]
            if code not in TYPES:
                raise UnreadableError(f"holds numbers of type {quoted(code)}, expected floats", hint="export it as F32")
            dtype, item_bytes = TYPES[str(code)]
            # JSON's true is an int to Python.
            if all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, begin, end)):
                stored = Stored(dtype, item_bytes, tuple(shape), start + begin)
                if len(shape) <= DIMENSIONS_AT_MOST and stored.bytes == end - begin:
                    return stored
    raise ValueError(entry)


def write(file: BinaryIO, tensors: Mapping[str, Stored], metadata: Mapping[str, str], values: Values) -> None:
    """Write a safetensors file: the same tensors and metadata always give the same bytes.

    Only one tensor at a time is in memory: `values` gives each in the shape and type that `tensors` says.
    """
    # As the format's own writer has them: wide types first, so that every tensor is aligned.
    order = sorted(tensors, key=lambda key: (-tensors[key].item_bytes, key))
    codes = {dtype: code for code, (dtype, _) in TYPES.items()}
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for key in order:
        begin, end = end, end + tensors[key].bytes
        shape = list(tensors[key].shape)
        header[key] = {"dtype": codes[tensors[key].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for key in order:
        file.write(values(key).contiguous().flatten().view(torch.uint8).numpy().data)
