"""Checkpoints: every published wrapping, sizes from shapes, nothing run, nothing half loaded."""

import gc
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import BUNDLED, Architecture, Facts, facts_from_metadata
from kbnet_cli.checkpoint import Outline
from kbnet_cli.errors import WeightsError
from kbnet_cli.machine import PeakMemory
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.networks import TINY, random_network, save
from tests.test_networks import ODD_L, ODD_S, PUBLISHED

ODD_SCALES = [
    KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1, expansion=1.17),
    KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1, expansion=2.67),
    KBNetSSizes(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), ffn_scale=2.27),
]


def network_of(sizes: KBNetSSizes | KBNetLSizes) -> KBNetS | KBNetL:
    return KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)


@pytest.mark.parametrize("sizes", [*ODD_S, *ODD_L, *ODD_SCALES], ids=str)
def test_sizes_are_read_from_the_tensors(sizes: KBNetSSizes | KBNetLSizes, tmp_path: Path) -> None:
    network = network_of(sizes)
    save_file(dict(network.state_dict()), tmp_path / "any-name.safetensors")
    loaded = checkpoint.load(tmp_path / "any-name.safetensors").network
    assert type(loaded) is type(network)
    got = loaded.state_dict()
    for key, tensor in network.state_dict().items():
        assert torch.equal(got[key], tensor)
    # A level without blocks says nothing of its heads, and an odd factor may be one of many that round alike.
    if sizes not in ODD_SCALES and not (isinstance(sizes, KBNetLSizes) and 0 in sizes.blocks):
        assert loaded.sizes == sizes


@pytest.mark.parametrize(("sizes", "parameters", "keys"), PUBLISHED)
def test_published_sizes_are_recognised(sizes: KBNetSSizes | KBNetLSizes, parameters: int, keys: int) -> None:
    with torch.device("meta"):
        state = network_of(sizes).state_dict()
    found = checkpoint.sizes_of(state)
    assert found == sizes


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: {"net": {f"module.{key}": value for key, value in state.items()}}, id="gaussian"),
        pytest.param(lambda state: {"model": state}, id="sidd"),
        pytest.param(lambda state: {"params": state}, id="derain"),
        pytest.param(lambda state: {"params_ema": state, "params": {}, "iteration": 7}, id="ema-first"),
        pytest.param(lambda state: {"epoch": 3, "state_dict": {"model": state}}, id="nested"),
        pytest.param(lambda state: {"anything": state}, id="single-key"),
        pytest.param(lambda state: {key: value.half() for key, value in state.items()}, id="half"),
    ],
)
def test_every_wrapping_of_a_pth_is_taken_off(wrap, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    network = random_network()
    torch.save(wrap(network.state_dict()), tmp_path / "a.pth")
    loaded = checkpoint.load(tmp_path / "a.pth")
    assert loaded.facts == Facts(told=False)
    got = loaded.network.state_dict()
    for key, tensor in network.state_dict().items():
        assert got[key].dtype == torch.float32
        torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-4)


def other_network() -> dict[str, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)).state_dict()


def broken(change: str) -> dict[str, torch.Tensor]:
    state = dict(random_network().state_dict())
    key = "middle_blks.0.conv3.weight"
    if change == "extra":
        state["middle_blks.0.surprise"] = torch.zeros(1)
    elif change == "missing":
        del state[key]
    elif change == "shape":
        state[key] = torch.zeros(4, 4, 1, 1)
    elif change == "integers":
        state[key] = state[key].int()
    elif change == "nan":
        state[key] = state[key] * torch.nan
    return state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        pytest.param(other_network(), "unexpected key '0.bias'", id="another-network"),
        pytest.param({"intro.weight": torch.zeros(8, 3, 3, 3)}, "missing key 'encoders.0.0.attgamma'", id="stub"),
        pytest.param(broken("extra"), "unexpected key 'middle_blks.0.surprise'", id="extra"),
        pytest.param(broken("missing"), "missing key 'middle_blks.0.conv3.weight'", id="missing"),
        pytest.param(broken("shape"), "has shape (4, 4, 1, 1), expected (16, 16, 1, 1)", id="shape"),
        pytest.param(broken("integers"), "expected floats", id="integers"),
        pytest.param(broken("nan"), "not finite", id="nan"),
    ],
)
def test_what_is_no_kbnet_names_the_first_surprise(state: dict[str, torch.Tensor], said: str, tmp_path: Path) -> None:
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(tmp_path / "x.safetensors")
    assert said in caught.value.message
    assert caught.value.message.startswith("x.safetensors: ")
    assert caught.value.hint


def test_facts_come_from_the_metadata(tmp_path: Path) -> None:
    path = save(
        random_network(TINY),
        tmp_path / "a.safetensors",
        task="derain",
        tile="128",
        limit="-0.5,1.5",
        sigma="25",
        card="a.md",
    )
    facts = checkpoint.load(path).facts
    assert facts == Facts("derain", 128, (-0.5, 1.5), (25.0, 25.0), "a.md", told=True)


@pytest.mark.parametrize(
    "metadata",
    [
        {"kbnet.tile": "big"},
        {"kbnet.limit": "1,0"},
        {"kbnet.task": "dance"},
        {"kbnet.tile": "-8"},
        {"kbnet.sigma": "1,2,3"},
    ],
)
def test_metadata_that_make_no_sense_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(WeightsError):
        facts_from_metadata(metadata, "x")


def test_bundled_weights_are_what_the_catalogue_says() -> None:
    for entry in BUNDLED:
        assert entry.path is not None
        found = checkpoint.outline(entry.path)
        assert (found.architecture, found.parameters, found.facts) == (
            entry.architecture,
            entry.parameters,
            entry.facts,
        )
        assert checkpoint.load(entry.path).facts == entry.facts
        assert (entry.path.parent / str(entry.facts.card)).is_file()


@pytest.mark.parametrize("sizes", [ODD_S[0], ODD_L[1]], ids=["KBNet-S", "KBNet-L"])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "old.pth"])
def test_an_outline_says_what_loading_will_find(sizes: KBNetSSizes | KBNetLSizes, kind: str, tmp_path: Path) -> None:
    state = {key: value.bfloat16() for key, value in network_of(sizes).state_dict().items()}
    path = written(state, tmp_path / f"a.{kind}")
    network = checkpoint.load(path).network
    parameters = sum(tensor.numel() for tensor in state.values())
    architecture: Architecture = "KBNet-S" if isinstance(sizes, KBNetSSizes) else "KBNet-L"
    assert checkpoint.outline(path) == Outline(architecture, network.sizes, parameters, "bfloat16", Facts(told=False))
    assert checkpoint.load(path).architecture == architecture


def test_an_outline_does_not_read_the_values(tmp_path: Path) -> None:
    path = written(broken("nan"), tmp_path / "a.pth")
    assert checkpoint.outline(path).dtype == "float32"
    with pytest.raises(WeightsError, match="not finite"):
        checkpoint.load(path)


def test_an_outline_names_several_types_mixed(tmp_path: Path) -> None:
    state = random_network().state_dict()
    path = written(state | {"intro.bias": state["intro.bias"].half()}, tmp_path / "a.pth")
    assert checkpoint.outline(path).dtype == "mixed"


def written(state: dict[str, torch.Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not path.name.endswith(".old.pth"))
    return path


@pytest.mark.parametrize("old", [False, True])
def test_parameters_and_other_orders_in_memory_are_read_as_torch_reads_them(old: bool, tmp_path: Path) -> None:
    network = random_network()
    state = dict(network.named_parameters())
    turned_weight = state["intro.weight"].detach().contiguous(memory_format=torch.channels_last)
    state["intro.weight"] = nn.Parameter(turned_weight)
    turned = state["middle_blks.0.w"]
    state["middle_blks.0.w"] = nn.Parameter(turned.detach().transpose(1, 2).contiguous().transpose(1, 2))
    row = torch.arange(100.0)
    state["intro.bias"] = nn.Parameter(row[7:15])
    path = tmp_path / "a.pth"
    torch.save({"params": state, "epoch": 3, "names": ["a"]}, path, _use_new_zipfile_serialization=not old)
    expected = torch.load(path, weights_only=True)["params"]
    assert expected["intro.weight"].stride() != expected["intro.weight"].contiguous().stride()
    for key, tensor in checkpoint.load(path).network.state_dict().items():
        assert torch.equal(tensor, expected[key])
        assert tensor.is_contiguous()


def test_weights_are_in_memory_whatever_becomes_of_the_file(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.pth", "a.old.pth"):
        path = written(dict(random_network().state_dict()), tmp_path / name)
        network = checkpoint.load(path).network
        path.write_bytes(b"")
        got = network.state_dict()
        for key, tensor in random_network().state_dict().items():
            assert torch.equal(got[key], tensor)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of what was just done")
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("safetensors", torch.float32), ("safetensors", torch.bfloat16), ("pth", torch.float32), ("pth", torch.bfloat16)],
)
def test_loading_takes_the_memory_of_the_weights_once(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    sizes = KBNetSSizes(width=32, encoder_blocks=(1, 1, 4), middle_blocks=6, decoder_blocks=(1, 1, 1))
    state = {key: tensor.to(dtype) for key, tensor in KBNetS(sizes).state_dict().items()}
    weights_bytes = sum(4 * tensor.numel() for tensor in state.values())
    path = written(state, tmp_path / f"a.{kind}")
    del state
    checkpoint.outline(path)
    gc.collect()
    peak = PeakMemory()
    loaded = checkpoint.load(path)
    assert (peak.bytes_above_start() or 0) < 1.15 * weights_bytes + 6e6
    assert weights_bytes > 25e6
    assert loaded.network.sizes == sizes


def converted(source: Path, **wishes: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    target = source.with_name("target.partial")
    checkpoint.convert(source, target, **wishes)
    with safe_open(target, framework="pt") as file:
        return load_file(target), file.metadata() or {}


@pytest.mark.parametrize(
    ("kind", "stored", "wish", "expected"),
    [
        ("pth", torch.float32, None, torch.float32),
        ("old.pth", torch.bfloat16, None, torch.bfloat16),
        ("safetensors", torch.float16, None, torch.float16),
        ("pth", torch.float64, None, torch.float32),
        ("safetensors", torch.float64, "fp32", torch.float32),
        ("pth", torch.float32, "bf16", torch.bfloat16),
        ("safetensors", torch.float16, "bf16", torch.bfloat16),
        ("old.pth", torch.float16, "fp32", torch.float32),
    ],
)
def test_a_converted_file_has_the_same_weights(
    kind: str, stored: torch.dtype, wish: str | None, expected: torch.dtype, tmp_path: Path
) -> None:
    state = {key: tensor.to(stored) for key, tensor in random_network().state_dict().items()}
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    found, metadata = converted(written(wrapped, tmp_path / f"a.{kind}"), dtype=wish)
    assert metadata == {}
    assert found.keys() == state.keys()
    for key, tensor in state.items():
        assert found[key].dtype == expected
        assert torch.equal(found[key], tensor.to(expected))


def test_a_converted_file_says_what_the_source_or_the_caller_says(tmp_path: Path) -> None:
    facts = Facts("denoise", 384, (-0.5, 1.5), (25.0, 25.0), "a.md")
    bare = written(random_network().state_dict(), tmp_path / "a.pth")
    assert facts_from_metadata(converted(bare, facts=facts)[1], "x") == facts
    telling = tmp_path / "b.safetensors"
    save_file(dict(random_network().state_dict()), telling, {"kbnet.task": "derain", "author": "someone"})
    assert converted(telling, facts=facts)[1] == {"kbnet.task": "derain", "author": "someone"}


def test_the_same_source_is_converted_to_the_same_bytes(tmp_path: Path) -> None:
    metadata = {f"word {number}": "x" for number in range(20)}
    sources = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    state = dict(random_network().state_dict())
    save_file(state, sources[0], metadata)
    save_file(dict(reversed(state.items())), sources[1], dict(reversed(metadata.items())))
    for number, source in enumerate(sources):
        checkpoint.convert(source, tmp_path / f"{number}", facts=Facts("derain"))
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes()
    checkpoint.convert(tmp_path / "0", tmp_path / "2")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "2").read_bytes()


def test_the_largest_number_stays_finite_in_bfloat16(tmp_path: Path) -> None:
    state = dict(random_network().state_dict())
    largest = torch.finfo(torch.float32).max
    state["intro.bias"] = torch.tensor([largest, -largest] * 4)
    assert bool(state["intro.bias"].bfloat16().isinf().all())
    found, _ = converted(written(state, tmp_path / "a.pth"), dtype="bf16")
    assert found["intro.bias"].tolist() == [torch.finfo(torch.bfloat16).max, -torch.finfo(torch.bfloat16).max] * 4


@pytest.mark.parametrize("change", ["nan", "missing"])
def test_nothing_is_left_of_what_cannot_be_converted(change: str, tmp_path: Path) -> None:
    source = written(broken(change), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: not a whole KBNet"):
        checkpoint.convert(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]


def test_a_file_is_not_converted_onto_itself(tmp_path: Path) -> None:
    source = written(random_network().state_dict(), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="onto itself"):
        checkpoint.convert(source, source)
    checkpoint.load(source)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk here")
def test_a_full_disk_is_the_caller_s_to_tell_of(tmp_path: Path) -> None:
    source = written(random_network().state_dict(), tmp_path / "a.pth")
    (tmp_path / "target").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        checkpoint.convert(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
