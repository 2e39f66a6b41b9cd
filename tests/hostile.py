"""Hostile and broken files of weights, made from nothing: what a stranger could put under a harmless name."""

import bz2
import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from tests.networks import random_network

PROOF = "kbnet-ran-a-strangers-code"
"""The folder that appears where code in a file is run."""


@dataclass(frozen=True)
class Claim:
    """A tensor as a pickle would describe it, true or not."""

    shape: tuple[int, ...] = (1,)
    stride: tuple[int, ...] = (1,)
    elements: int = 1
    offset: int = 0
    key: object = "0"
    kind: object = torch.FloatStorage
    word: object = "storage"


@dataclass(frozen=True)
class Call:
    """What a pickle would call when it is read."""

    function: Callable[..., object]
    arguments: tuple[object, ...] = ()

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.function, self.arguments


@dataclass(frozen=True)
class _Place:
    claim: Claim


class _Forger(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        if isinstance(value, _Place):
            claim = value.claim
            return claim.word, claim.kind, claim.key, "cpu", claim.elements
        return None

    def reducer_override(self, value: object) -> Any:
        if isinstance(value, Claim):
            hooks: OrderedDict[str, object] = OrderedDict()
            arguments = (_Place(value), value.offset, value.shape, value.stride, False, hooks)
            return torch._utils._rebuild_tensor_v2, arguments
        return NotImplemented


def pickled(content: object) -> bytes:
    """Pickle something with the claims in it as tensors."""
    file = io.BytesIO()
    _Forger(file, protocol=2).dump(content)
    return file.getvalue()


def archive(data: bytes, storages: Mapping[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Pack a pickle and storages as torch does."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as packed:
        packed.writestr("archive/data.pkl", data)
        for key, content in (storages or {"0": bytes(4)}).items():
            packed.writestr(f"archive/data/{key}", content)
        packed.writestr("archive/version", b"3\n")
    return file.getvalue()


def forged(content: object) -> bytes:
    """Pack something as a .pth whose one storage holds one number."""
    return archive(pickled(content))


def saved(content: object, *, legacy: bool = False) -> bytes:
    """Save something as torch does."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    return file.getvalue()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Write a safetensors file with any header: bytes as they are, all else as JSON."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[object], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """Describe a tensor as safetensors does."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def shared_storage() -> bytes:
    """A KBNet whose tensors are all views of one storage: ten times as large in memory as in the file."""
    state = random_network().state_dict()
    row = torch.zeros(max(tensor.numel() for tensor in state.values()))
    return saved({key: row[: tensor.numel()].view(tensor.shape) for key, tensor in state.items()})


def _with_directory(data: bytes, change: Callable[[bytearray, list[int]], None]) -> bytes:
    """Change a zip's directory: `change` gets the file and the position of each entry in the directory."""
    content = bytearray(data)
    size, start = struct.unpack("<II", content[-10:-2])
    places, position = [], start
    while position < start + size:
        places.append(position)
        position += 46 + sum(struct.unpack("<HHH", content[position + 28 : position + 34]))
    change(content, places)
    return bytes(content)


def _overlap(content: bytearray, places: list[int]) -> None:
    content[places[1] + 42 : places[1] + 46] = content[places[0] + 42 : places[0] + 46]


def _swell(content: bytearray, places: list[int]) -> None:
    content[places[1] + 20 : places[1] + 28] = struct.pack("<II", 1 << 31, 1 << 31)


def _same_names() -> bytes:
    first, second = b"archive/data/0", b"archive/data/1"
    return archive(pickled({"a": Claim()}), {"0": bytes(4), "1": bytes(4)}).replace(second, first)


def _many_entries() -> bytes:
    # Only the directory counts: 80 000 entries that all point to the same place.
    local = struct.pack("<4s5HIIIHH", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, 0, 0, 7, 0) + b"0000000"
    directory = b"".join(
        struct.pack("<4s6HIII5HII", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0) + b"%07d" % number
        for number in range(80_000)
    )
    end = struct.pack("<4s4HIIH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), len(local), 0)
    return local + directory + end


def _deep() -> bytes:
    depth = 30_000
    return archive(b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b".")


def _endless() -> bytes:
    content: dict[str, object] = {}
    content["model"] = content
    return forged(content)


def _unhashable() -> bytes:
    # A key whose hash takes 2 to the power of 100 steps.
    return archive(b"\x80\x02})" + b"q\x00h\x00\x86" * 100 + b"K\x01s.")


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for name in ("storages", "tensors", "pickle"):
            packed.addfile(tarfile.TarInfo(name), io.BytesIO())
    return file.getvalue()


def _script() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            packed.writestr(f"archive/{name}", pickled({}))
    return file.getvalue()


def _named(key: str, shape: list[object]) -> bytes:
    """A safetensors KBNet with one more tensor, which has no numbers, or in place of another."""
    header: dict[str, object] = {}
    end = 0
    for name, tensor in random_network().state_dict().items():
        if name != key:
            begin, end = end, end + 4 * tensor.numel()
            header[name] = entry([*tensor.shape], begin, end)
    return safetensors(header | {key: entry(shape, end, end)}, bytes(end))


def _tensor(value: torch.Tensor, *, legacy: bool = False) -> bytes:
    state = random_network().state_dict()
    return saved(state | {"middle_blks.0.attgamma": value}, legacy=legacy)


def _legacy_claim() -> bytes:
    # The count before the storage's numbers and the one in the pickle agree, and both are lies.
    data = pickled({"a": Claim((1 << 30,), elements=1 << 30)})
    front = saved({}, legacy=True)
    magic = front[: front.index(b".") + 1]
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [magic, pickled(1001), pickled(system), data, pickled(["0"]), struct.pack("<q", 1 << 30), bytes(64)]
    return b"".join(parts)


CODE = {
    "mkdir": Call(os.mkdir, (PROOF,)),
    "system": Call(os.system, (f"mkdir {PROOF}",)),
    "eval": Call(eval, (f"__import__('os').mkdir({PROOF!r})",)),
    "exec": Call(exec, (f"import os; os.mkdir({PROOF!r})",)),
    "getattr": Call(getattr, ("", "upper")),
    "zeros": Call(torch.zeros, (1 << 40,)),
    "tensor": Call(torch.Tensor, (1 << 40,)),
    "float-tensor": Call(torch.FloatTensor, (1 << 33,)),
    "storage": Call(torch.UntypedStorage, (1 << 40,)),
    "bytearray": Call(bytearray, (1 << 36,)),
    "counter": Call(Counter, ("abc",)),
    "meta": Call(torch._utils._rebuild_meta_tensor_no_storage, (torch.float32, (1 << 40,), (1,), False)),
    "from-numpy": Call(torch._utils._rebuild_device_tensor_from_numpy, (0, torch.float32, "cpu", False)),
    "sparse": Call(torch._utils._rebuild_sparse_tensor, (torch.sparse_coo, (0, 0, 0))),
    "load": Call(torch.load, ("a.pth",)),
    "numpy": np.float64(3),
    "numpy-array": np.zeros(3),
}
"""What unpickling would call; what torch itself takes with weights_only is among it."""

HOSTILE: Mapping[str, tuple[Callable[[], bytes], str]] = {
    **{
        f"code-{name}": (partial(forged, {"params": call}), "not a checkpoint of tensors only")
        for name, call in CODE.items()
    },
    "code-at-the-top": (lambda: forged(CODE["mkdir"]), "tensors only"),
    "code-in-a-bare-pickle": (lambda: pickle.dumps(CODE["mkdir"]), "opcodes that torch does not write"),
    "code-in-a-bare-old-pickle": (lambda: pickle.dumps(CODE["mkdir"], 2), "tensors only"),
    "code-as-a-key": (lambda: forged({CODE["mkdir"]: 1}), "tensors only"),
    "code-as-a-storage": (lambda: forged({"a": Claim(kind=CODE["mkdir"])}), "tensors only"),
    "code-as-a-storage's-key": (lambda: forged({"a": Claim(key=CODE["mkdir"])}), "tensors only"),
    "code-as-a-kind-of-id": (lambda: forged({"a": Claim(word=CODE["mkdir"])}), "tensors only"),
    "code-in-an-old-file": (lambda: saved({"a": CODE["mkdir"]}, legacy=True), "tensors only"),
    "another-kind-of-id": (lambda: forged({"a": Claim(word="module")}), "in a way that torch does not write"),
    "storage-of-a-terabyte": (lambda: forged({"a": Claim((1,), elements=1 << 40)}), "storage '0' has 4 bytes in it"),
    "tensor-of-a-terabyte": (lambda: forged({"a": Claim((1 << 40,))}), "does not fit its storage of 1 numbers"),
    "tensor-expanded": (lambda: forged({"a": Claim((1 << 40,), (0,))}), "does not fit its storage"),
    "tensor-expanded-twice": (lambda: forged({"a": Claim((1 << 20, 1 << 20), (0, 0))}), "does not fit its storage"),
    "tensor-beyond-its-storage": (lambda: forged({"a": Claim(offset=1)}), "does not fit its storage"),
    "tensor-before-its-storage": (lambda: forged({"a": Claim(offset=-1)}), "in a way that torch does not write"),
    "tensor-with-negative-sizes": (lambda: forged({"a": Claim((-1, -1), (1, 1))}), "that torch does not write"),
    "tensor-of-huge-numbers": (lambda: forged({"a": Claim((1 << 2000,), (0,))}), "that torch does not write"),
    "tensor-of-a-thousand-axes": (lambda: forged({"a": Claim((1,) * 1000, (1,) * 1000)}), "torch does not write"),
    "storages-without-end": (lambda: forged({"a": Claim(key="1")}), "storage '1' has 0 bytes in it"),
    "storage-outside": (lambda: forged({"a": Claim(key="../../../etc/passwd")}), "has 0 bytes in it"),
    "shared-storage": (shared_storage, "its tensors should have"),
    "old-file-that-lies": (_legacy_claim, "cut off"),
    "many-keys": (lambda: forged(dict.fromkeys(range(700_000), 1)), "table of contents has"),
    "many-opcodes": (lambda: archive(b"\x80\x02" + b"N" * 3_000_000 + b"."), "more than 1,000,000 opcodes"),
    "many-entries": (_many_entries, "more entries than any KBNet has tensors"),
    "deep": (_deep, "expected names and tensors only"),
    "endless": (_endless, "expected names and tensors only"),
    "key-that-takes-for-ever": (_unhashable, "neither words nor numbers"),
    "memo-of-32-bits": (lambda: archive(b"\x80\x02}r\xff\xff\xff\xff."), "no table of tensors"),
    "word-longer-than-the-file": (lambda: archive(b"\x80\x02X\xff\xff\xff\xff."), "pickle is damaged"),
    "stack-that-is-empty": (lambda: archive(b"\x80\x02R."), "pickle is damaged"),
    "call-of-a-word": (lambda: archive(b"\x80\x02X\x01\x00\x00\x00a)R."), "pickle is damaged"),
    "items-for-a-number": (lambda: archive(b"\x80\x02K\x01K\x01K\x01s."), "pickle is damaged"),
    "state-for-a-tensor": (lambda: archive(pickled(Claim())[:-1] + b")b."), "pickle is damaged"),
    "zip-bomb": (lambda: archive(b"\0" * (64 << 20), method=zipfile.ZIP_DEFLATED), "it may be a zip bomb"),
    "zip-entries-overlap": (lambda: _with_directory(forged({"a": Claim()}), _overlap), "entries overlap"),
    "zip-entries-swollen": (lambda: _with_directory(forged({"a": Claim()}), _swell), "a zip bomb: its entries"),
    "zip-entries-twice": (_same_names, "entries of the same name"),
    "zip-of-something-else": (lambda: archive(b"").replace(b"data.pkl", b"data.txt"), "not one that torch wrote"),
    "zip-cut-off": (lambda: forged({"a": Claim()})[:-30], "cut off or damaged"),
    "zip-only-in-name": (lambda: b"PK\x03\x04 no zip", "cut off or damaged"),
    "script": (_script, "TorchScript program, which is never run"),
    "tar": (_tar, "a tar or compressed archive"),
    "gzip": (lambda: gzip.compress(forged({"a": Claim()})), "a tar or compressed archive"),
    "bzip2": (lambda: bz2.compress(forged({"a": Claim()})), "a tar or compressed archive"),
    "web-page": (lambda: b"\n<!DOCTYPE html><html><body>Sign in", "looks like a web page"),
    "server's-message": (lambda: b'{"error":"Repository not found"}', "a server's message"),
    "git-lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer"),
    "nothing": (lambda: b"", "is empty"),
    "a-word": (lambda: b"hello", "neither a safetensors file nor a checkpoint"),
    "header-of-an-exabyte": (lambda: safetensors({}, length=1 << 60), "its header should have"),
    "header-too-large": (lambda: safetensors(b"{" + b" " * (5 << 20) + b"}"), "its header should have"),
    "header-deep": (lambda: safetensors(b'{"a":' + b"[" * 1_000_000), "makes no sense"),
    "header-of-many-tables": (lambda: safetensors(b'{"a":[' + b"{}," * 1_000_000 + b"{}]}"), "more than any KBNet"),
    "header-with-a-tensor-twice": (
        lambda: safetensors(b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'),
        "makes no sense",
    ),
    "header-that-claims-more": (lambda: safetensors({"a": entry([1 << 40], 0, 1 << 42)}, bytes(4)), "bytes, expected"),
    "header-that-disagrees": (lambda: safetensors({"a": entry([1 << 40], 0, 4)}, bytes(4)), "makes no sense"),
    "header-with-negative-sizes": (lambda: safetensors({"a": entry([-1, -1], 0, 4)}, bytes(4)), "makes no sense"),
    "header-with-sizes-true": (lambda: safetensors({"a": entry([True], 0, 4)}, bytes(4)), "makes no sense"),
    "header-with-overlaps": (
        lambda: safetensors({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, bytes(4)),
        "overlap or have gaps",
    ),
    "header-with-a-hole": (lambda: safetensors({"a": entry([1], 4, 8)}, bytes(8)), "overlap or have gaps"),
    "header-of-another-type": (lambda: safetensors({"a": entry([4], 0, 4, "F8_E4M3")}, bytes(4)), "expected floats"),
    "metadata-of-numbers": (lambda: safetensors({"__metadata__": {"a": 1}}), "metadata are not words"),
    "width-of-a-billion": (lambda: _named("intro.weight", [10**9, 3, 0, 0]), "fit no KBNet"),
    "channels-of-a-billion": (lambda: _named("intro.weight", [8, 10**9, 0, 0]), "fit no KBNet"),
    "blocks-without-end": (lambda: _named("middle_blks.10000000.beta", [0]), "fit no KBNet"),
    "levels-without-end": (lambda: _named("downs.500.weight", [0]), "fit no KBNet"),
    "scale-without-end": (lambda: _named("middle_blks.0.conv4.weight", [10**9, 16, 1, 0]), "fit no KBNet"),
    "nan": (lambda: _tensor(torch.full((1, 32, 1, 1), torch.nan)), "not finite"),
    "infinity": (lambda: _tensor(torch.full((1, 32, 1, 1), -torch.inf), legacy=True), "not finite"),
    "infinity-in-float32": (lambda: _tensor(torch.full((1, 32, 1, 1), 1e300, dtype=torch.float64)), "not finite"),
    "integers": (lambda: _tensor(torch.zeros((1, 32, 1, 1), dtype=torch.int32)), "expected floats"),
}
"""Files and what is said of them. All are refused before anything large is read or allocated."""
