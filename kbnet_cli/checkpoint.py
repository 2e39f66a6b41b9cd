"""From a file to a network: safe loading, sizes read from the tensors' shapes, every key accounted for."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kbnet_cli.catalogue import Facts, facts_from_metadata
from kbnet_cli.errors import WeightsError
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes

WRAPPERS = ("model_state_dict", "state_dict", "params_ema", "params", "model", "net")
"""Keys under which checkpoints keep the tensors, in the order of preference where there are several."""

State = Mapping[str, Tensor]
Network = KBNetS | KBNetL


@dataclass(frozen=True)
class Checkpoint:
    """A network with its weights, and what they say of themselves."""

    network: Network
    facts: Facts
    name: str

    @property
    def architecture(self) -> str:
        """Which KBNet it is."""
        return "KBNet-S" if isinstance(self.network, KBNetS) else "KBNet-L"


def load(path: Path) -> Checkpoint:
    """Load a KBNet-S or KBNet-L from a .safetensors or a .pth file, as float32 on the CPU.

    Raises:
        WeightsError: the file is missing, broken, holds more than tensors, or is no KBNet.
    """
    state, metadata = read_state(path)
    return Checkpoint(network_from_state(state, path.name), facts_from_metadata(metadata, path.name), path.stem)


def read_state(path: Path) -> tuple[State, Mapping[str, str]]:
    """Read the tensors of a checkpoint under their bare names, and the metadata where the format has them."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    # A safetensors file begins with the length of its header and the header's brace; a pickle or zip never does.
    if head[8:9] == b"{":
        return _read_safetensors(path)
    return unwrap(_read_pickle(path), path.name), {}


def _read_safetensors(path: Path) -> tuple[State, Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path.name}: broken safetensors file: {_first_line(error)}", hint="download or copy it again"
        ) from error


def _read_pickle(path: Path) -> object:
    try:
        # Opened here, because torch guesses by a path's name what it holds. Its warning of a pickle's age helps nobody.
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            content: object = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        # torch's own words are about its options and versions; -v shows them.
        raise WeightsError(
            f"{path.name}: not a checkpoint of tensors only: broken, of another kind, or with code in it",
            hint="expected a .safetensors or .pth file; other contents of a .pth are never run",
        ) from error
    return content


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def unwrap(content: object, name: str) -> State:
    """Take tensors out of the published wrappings: `net`, `model`, `params` and their like, `module.` before names."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None and len(content) == 1:
            inner = next(iter(content.values()))
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{name}: holds no table of tensors", hint="expected the state dict of a KBNet")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(
                f"{name}: {key!r} is {type(value).__name__}, expected a tensor",
                hint="expected the state dict of a KBNet",
            )
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return dict(content)


def network_from_state(state: State, name: str) -> Network:
    """Build the network whose shapes the tensors have and give it the tensors.

    Raises:
        WeightsError: naming the first key that a KBNet of these sizes does not have, lacks, or has in another shape.
    """
    try:
        with torch.device("meta"):
            sizes = sizes_of(state)
            network = KBNetL(sizes) if isinstance(sizes, KBNetLSizes) else KBNetS(sizes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        surprise = _first_surprise(state)
        raise WeightsError(
            f"{name}: not a KBNet: {surprise}", hint="kbnet runs KBNet-S and KBNet-L; this is another network"
        ) from error
    expected = network.state_dict()
    for key in [*state, *expected]:
        if key not in expected:
            problem = f"unexpected key {key!r}"
        elif key not in state:
            problem = f"missing key {key!r}"
        elif state[key].shape != expected[key].shape:
            problem = f"{key!r} has shape {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        elif not state[key].is_floating_point():
            problem = f"{key!r} has type {state[key].dtype}, expected floats"
        elif not bool(torch.isfinite(state[key]).all()):
            problem = f"{key!r} holds numbers that are not finite"
        else:
            continue
        raise WeightsError(f"{name}: not a whole KBNet: {problem}", hint="the file is damaged or of another network")
    network.load_state_dict({key: tensor.float() for key, tensor in state.items()}, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def sizes_of(state: State) -> KBNetSSizes | KBNetLSizes:
    """Read the sizes of a network off its tensors' names and shapes; a file's name says nothing.

    Raises:
        KeyError, IndexError, ValueError, ZeroDivisionError: a tensor is missing or has a shape that no KBNet has.
    """
    return _sizes_of_l(state) if _looks_like_l(state) else _sizes_of_s(state)


def _looks_like_l(state: State) -> bool:
    return "patch_embed.proj.weight" in state


def _first_surprise(state: State) -> str:
    pattern = re.compile(
        r"(intro|ending|encoders|decoders|middle_blks|downs|ups"
        r"|patch_embed|output|encoder_level\d|decoder_level\d|latent|refinement|(down|up)\d_\d|reduce_chan_level\d)\."
    )
    for key in state:
        if not pattern.match(key):
            return f"unexpected key {key!r}"
    landmark = "patch_embed.proj.weight" if _looks_like_l(state) else "encoders.0.0.attgamma"
    return f"missing key {landmark!r}" if landmark not in state else "the tensors' shapes fit no KBNet"


def _count(state: State, prefix: str) -> int:
    """Return how many consecutive numbers, from 0, follow a prefix in the keys."""
    numbers = {int(match[1]) for key in state if (match := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))}
    return max(numbers, default=-1) + 1


def _sizes_of_s(state: State) -> KBNetSSizes:
    intro = state["intro.weight"]
    width = intro.shape[0]
    levels = _count(state, "downs")
    if levels == 0 or _count(state, "ups") != levels:
        raise ValueError(levels)
    blocks = [key.removesuffix(".attgamma") for key in state if key.endswith(".attgamma")]
    block = max(blocks, key=lambda name: state[f"{name}.conv4.weight"].shape[1])
    hidden, channels = state[f"{block}.conv4.weight"].shape[:2]
    return KBNetSSizes(
        image_channels=intro.shape[1],
        width=width,
        encoder_blocks=tuple(_count(state, f"encoders.{level}") for level in range(levels)),
        middle_blocks=_count(state, "middle_blks"),
        decoder_blocks=tuple(_count(state, f"decoders.{level}") for level in range(levels)),
        lightweight=state[f"{block}.conv11.1.weight"].shape[-1] == 3,
        ffn_scale=_scale(hidden, channels),
    )


def _scale(hidden: int, channels: int) -> float:
    """Return the factor whose product with the channels, rounded down as in the networks, is the hidden width.

    It is read at the deepest level: rounding down there rounds every level above it alike.
    """
    factor = hidden / channels
    return factor if int(channels * factor) == hidden else (hidden + 1e-6) / channels


def _deepest_fusion(state: State) -> tuple[int, int]:
    weights = [tensor for key, tensor in state.items() if key.endswith("attn.project_out.weight")]
    deepest = max(weights, key=lambda tensor: tensor.shape[0])
    return deepest.shape[1], deepest.shape[0]


def _sizes_of_l(state: State) -> KBNetLSizes:
    width, input_channels = state["patch_embed.proj.weight"].shape[:2]
    levels = ("encoder_level1", "encoder_level2", "encoder_level3", "latent")
    counts = [_count(state, level) for level in levels]
    published = KBNetLSizes().heads
    # A level without blocks has no heads to count, and needs none.
    heads = [
        state[f"{level}.0.ffn.temperature"].shape[0] if count else published[index]
        for index, (level, count) in enumerate(zip(levels, counts, strict=True))
    ]
    return KBNetLSizes(
        input_channels=input_channels,
        output_channels=state["output.weight"].shape[0],
        width=width,
        blocks=(counts[0], counts[1], counts[2], counts[3]),
        refinement_blocks=_count(state, "refinement"),
        heads=(heads[0], heads[1], heads[2], heads[3]),
        expansion=_scale(*_deepest_fusion(state)),
        bias="output.bias" in state,
    )
