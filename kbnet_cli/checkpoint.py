"""From a file to a network: what is in it is checked before anything is read, every key accounted for."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kbnet_cli.catalogue import Architecture, Facts, facts_from_metadata, facts_to_metadata
from kbnet_cli.errors import WeightsError
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from kbnet_cli.pickles import quoted
from kbnet_cli.shapes import Sizes, first_surprise, sizes_of
from kbnet_cli.tensors import FLOATS, Stored, TensorFile, opened, write

__all__ = ["Checkpoint", "Network", "Outline", "convert", "load", "outline", "sizes_of"]

Network = KBNetS | KBNetL


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and what they say of themselves."""

    network: Network
    facts: Facts
    name: str
    sha256: str = ""
    """Of the file that it came from, in hexadecimal digits."""
    path: Path | None = None
    """That file."""

    @property
    def architecture(self) -> Architecture:
        """Which KBNet it is."""
        return _architecture(self.network.sizes)


@dataclass(frozen=True)
class Outline:
    """What a file of weights holds, without the values."""

    architecture: Architecture
    sizes: Sizes
    parameters: int
    """How many numbers."""
    dtype: str
    """Their type as stored: float32, float16, bfloat16, float64, or mixed."""
    facts: Facts


def load(path: Path, *, name: str | None = None) -> Checkpoint:
    """Load a KBNet-S or KBNet-L from a .safetensors or a .pth file, as float32 on the CPU.

    It takes the memory of the weights once, and keeps nothing of the file open.

    Args:
        path: the file.
        name: what errors call it, if not by its own name: where it came from, say.

    Raises:
        WeightsError: the file is missing, broken, holds code or numbers that are not finite, or is no KBNet.
    """
    with opened(path, name) as file:
        network = _network_for(file)
        facts = facts_from_metadata(file.metadata, file.name)
        state = {key: _finite(file, key, torch.float32) for key in file.tensors}
        digest = file.digest()
    network.load_state_dict(state, strict=True, assign=True)
    return Checkpoint(network.eval().requires_grad_(False), facts, path.stem, digest, path)


def outline(path: Path, *, name: str | None = None) -> Outline:
    """Tell what a file holds, as strictly checked as when it is loaded, but without reading the values.

    Args:
        path: the file.
        name: as for `load`.

    Raises:
        WeightsError: the file is missing, broken, holds more than tensors, or is no KBNet.
    """
    with opened(path, name) as file:
        sizes = _network_for(file).sizes
        facts = facts_from_metadata(file.metadata, file.name)
    dtypes = {stored.dtype for stored in file.tensors.values()}
    return Outline(
        architecture=_architecture(sizes),
        sizes=sizes,
        parameters=sum(prod(stored.shape) for stored in file.tensors.values()),
        dtype=dtypes.pop() if len(dtypes) == 1 else "mixed",
        facts=facts,
    )


def convert(
    source: Path,
    target: Path,
    *,
    facts: Facts | None = None,
    dtype: Literal["fp32", "bf16"] | None = None,
    name: str | None = None,
) -> None:
    """Write the weights of any file that `load` takes as .safetensors, under the published names.

    The same source always gives the same bytes. One tensor at a time is in memory. A target that could not be finished
    is removed.

    Args:
        source: a .safetensors or .pth file.
        target: where to write: a name of the caller's own, to be renamed when this returns; it is on the disk then.
        facts: what the weights say of themselves, where the source says nothing under `kbnet.`.
        dtype: the type to write; None keeps each tensor's own, but writes float64 as float32.
        name: as for `load`.

    Raises:
        WeightsError: as `load`.
        OSError: the target cannot be written.
    """
    with opened(source, name) as file:
        _network_for(file)
        metadata = dict(file.metadata)
        if not facts_from_metadata(metadata, file.name).told and facts is not None:
            metadata |= facts_to_metadata(facts)
        tensors = {key: _as_written(stored, dtype) for key, stored in file.tensors.items()}
        if target.exists() and target.samefile(source):
            raise WeightsError(f"{source}: cannot be converted onto itself", hint="give another name to write to")
        with target.open("wb") as output:
            try:
                write(output, tensors, metadata, lambda key: _finite(file, key, FLOATS[tensors[key].dtype]))
                output.flush()
                os.fsync(output.fileno())
            except BaseException:
                target.unlink(missing_ok=True)
                raise


def _as_written(stored: Stored, dtype: Literal["fp32", "bf16"] | None) -> Stored:
    kept = "float32" if stored.dtype == "float64" else stored.dtype
    name = {"fp32": "float32", "bf16": "bfloat16", None: kept}[dtype]
    return replace(stored, dtype=name, item_bytes=FLOATS[name].itemsize)


def _finite(file: TensorFile, key: str, dtype: torch.dtype) -> Tensor:
    """Read a tensor in a type. What rounds to infinity there becomes the largest number of that type."""
    tensor = file.read(key).float()
    if not bool(torch.isfinite(tensor).all()):
        raise WeightsError(
            f"{file.name}: not a whole KBNet: {quoted(key)} holds numbers that are not finite",
            hint="the file is damaged, or its training failed",
        )
    largest = torch.finfo(dtype).max
    return tensor if dtype == torch.float32 else tensor.clamp_(-largest, largest).to(dtype)


def _architecture(sizes: Sizes) -> Architecture:
    return "KBNet-S" if isinstance(sizes, KBNetSSizes) else "KBNet-L"


def _network_for(file: TensorFile) -> Network:
    """Return the network without values (on the meta device) that has exactly the tensors of a file.

    Raises:
        WeightsError: naming the first key that a KBNet of these sizes does not have, lacks, or has in another shape.
    """
    try:
        with torch.device("meta"):
            sizes = sizes_of(file.tensors)
            network = KBNetL(sizes) if isinstance(sizes, KBNetLSizes) else KBNetS(sizes)
    except (KeyError, IndexError, ValueError, ArithmeticError) as error:
        raise WeightsError(
            f"{file.name}: not a KBNet: {first_surprise(file.tensors)}",
            hint="kbnet runs KBNet-S and KBNet-L; this is another network",
        ) from error
    expected: Mapping[str, Tensor] = network.state_dict()
    for key in [*file.tensors, *expected]:
        if key not in expected:
            problem = f"unexpected key {quoted(key)}"
        elif key not in file.tensors:
            problem = f"missing key {quoted(key)}"
        elif file.tensors[key].shape != expected[key].shape:
            problem = f"{key!r} has shape {file.tensors[key].shape}, expected {tuple(expected[key].shape)}"
        elif file.tensors[key].dtype not in FLOATS:
            problem = f"{key!r} has type {file.tensors[key].dtype}, expected floats"
        else:
            continue
        raise WeightsError(
            f"{file.name}: not a whole KBNet: {problem}", hint="the file is damaged or of another network"
        )
    needed = sum(stored.bytes for stored in file.tensors.values())
    if needed > file.bytes:
        raise WeightsError(
            f"{file.name}: its tensors should have {needed:,} bytes, but the file has {file.bytes:,}",
            hint="the file is damaged, or made to fill the memory",
        )
    return network
