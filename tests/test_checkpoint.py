"""Checkpoints: every published wrapping, sizes from shapes, nothing run, nothing half loaded."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import DEFAULTS, ENTRIES, Facts, facts_from_metadata, resolve
from kbnet_cli.errors import WeightsError
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.networks import TINY, random_network, save
from tests.test_networks import ODD_L, ODD_S, PUBLISHED

ODD_SCALES = [
    KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1, expansion=1.1),
    KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1, expansion=2.66),
    KBNetSSizes(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), ffn_scale=2.25),
]


def network_of(sizes: KBNetSSizes | KBNetLSizes) -> KBNetS | KBNetL:
    return KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)


@pytest.mark.parametrize("sizes", [*ODD_S, *ODD_L, *ODD_SCALES], ids=str)
def test_sizes_are_read_from_the_tensors(sizes: KBNetSSizes | KBNetLSizes, tmp_path: Path) -> None:
    network = network_of(sizes)
    save_file(dict(network.state_dict()), tmp_path / "any-name.safetensors")
    loaded = checkpoint.load(tmp_path / "any-name.safetensors").network
    assert type(loaded) is type(network)
    for key, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
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
    for key, tensor in network.state_dict().items():
        got = loaded.network.state_dict()[key]
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, tensor, rtol=1e-3, atol=1e-4)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Code:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(proof),)

    torch.save({"params": Code()}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Code()))
    for name in ("a.pth", "b.pth"):
        with pytest.raises(WeightsError, match="tensors only"):
            checkpoint.load(tmp_path / name)
    assert not proof.exists()


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


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"PK\x03\x04 no zip", b"\x08" + b"\0" * 7 + b"{broken}", b"\xff" * 64]
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_broken_file_is_an_error_of_ours(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(tmp_path / name)
    assert "\n" not in caught.value.message


def test_a_truncated_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = save(random_network(), tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="broken safetensors"):
        checkpoint.load(path)


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


def test_every_entry_of_the_catalogue_loads_and_says_what_the_table_says() -> None:
    for entry in ENTRIES:
        facts = checkpoint.load(resolve(entry.name, entry.task)).facts
        assert facts.task == entry.task
        assert facts.card is not None
        assert (entry.path.parent / facts.card).is_file()
    assert all(name in {entry.name for entry in ENTRIES} for name in DEFAULTS.values())


def test_a_task_without_weights_says_what_to_give() -> None:
    with pytest.raises(WeightsError, match="no weights for derain") as caught:
        resolve(None, "derain")
    assert "--weights FILE" in caught.value.hint
    with pytest.raises(WeightsError, match="neither a file nor a name"):
        resolve("nonsense", "denoise")
