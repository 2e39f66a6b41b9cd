"""Files of weights from strangers: refused with the reason, before anything runs or anything large is allocated."""

import contextlib
import io
import pickle
import time
import warnings
import zipfile
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save

from kbnet_cli import checkpoint
from kbnet_cli.errors import WeightsError
from kbnet_cli.machine import PeakMemory
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from kbnet_cli.tensors import TensorFile
from tests.hostile import HOSTILE, PROOF, Claim, archive, pickled, saved
from tests.networks import random_network

LEAST = KBNetSSizes(width=4, encoder_blocks=(0,), middle_blocks=1, decoder_blocks=(0,), lightweight=True)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def what_torch_takes_once_is_taken() -> None:
    with torch.device("meta"):
        KBNetS(LEAST)


def refused(path: Path) -> WeightsError:
    """Return what is said of a file; it must be said soon and without taking much memory."""
    peak, start = PeakMemory(), time.process_time()
    with pytest.raises(WeightsError) as caught:
        checkpoint.load(path)
    assert time.process_time() - start < 8
    assert (peak.bytes_above_start() or 0) < 160e6
    return caught.value


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    make, said = HOSTILE[name]
    path = tmp_path / "a.pth"
    path.write_bytes(make())
    error = refused(path)
    assert said in error.message
    assert error.message.startswith("a.pth: ")
    assert "\n" not in error.message + error.hint
    assert len(error.message) < 300
    assert error.hint != WeightsError.usual_hint
    assert [found.name for found in tmp_path.iterdir()] == ["a.pth"]  # and no folder PROOF


def test_the_code_in_those_files_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    make, _ = HOSTILE["code-in-a-bare-old-pickle"]
    pickle.loads(make())
    assert (tmp_path / PROOF).is_dir()
    make, _ = HOSTILE["code-eval"]
    (tmp_path / PROOF).rmdir()
    with zipfile.ZipFile(io.BytesIO(make())) as packed:
        pickle.loads(packed.read("archive/data.pkl"))
    assert (tmp_path / PROOF).is_dir()


@pytest.mark.parametrize("name", ["code-mkdir", "tensor-of-a-terabyte", "zip-bomb", "integers", "header-of-an-exabyte"])
def test_outline_and_convert_refuse_what_load_refuses(name: str, tmp_path: Path) -> None:
    make, said = HOSTILE[name]
    path = tmp_path / "a.pth"
    path.write_bytes(make())
    for task in (checkpoint.outline, lambda path: checkpoint.convert(path, tmp_path / "target")):
        with pytest.raises(WeightsError) as caught:
            task(path)
        assert said in caught.value.message
    assert not (tmp_path / "target").exists()


def test_a_file_that_is_missing_or_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.pth", tmp_path, Path("/dev/zero")):
        with pytest.raises(WeightsError, match=r"cannot be read|not a file"):
            checkpoint.load(path)


@pytest.mark.parametrize("kind", ["safetensors", "pth", "old"])
def test_a_file_cut_off_anywhere_is_refused(kind: str, tmp_path: Path) -> None:
    whole = least(kind)
    path = tmp_path / "a.pth"
    for tenth in range(10):
        for size in (len(whole) * tenth // 10, len(whole) * (tenth + 1) // 10 - 1):
            path.write_bytes(whole[:size])
            with pytest.raises(WeightsError):
                checkpoint.load(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(least("safetensors"))
    network_for = checkpoint._network_for

    def shrinking(file: TensorFile) -> checkpoint.Network:
        network = network_for(file)
        path.write_bytes(path.read_bytes()[:-10])
        return network

    monkeypatch.setattr(checkpoint, "_network_for", shrinking)
    with pytest.raises(WeightsError, match="changed while it was read"):
        checkpoint.load(path)


def test_words_of_strangers_are_short_and_on_one_line_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(archive(pickled({"\x1b[31m\n" + "x" * 10_000: Claim()})))
    error = refused(path)
    assert "\x1b" not in error.message
    assert len(error.message) < 200


@cache
def least(kind: str) -> bytes:
    """The smallest KBNet there is, in a file."""
    state = dict(random_network(LEAST).state_dict())
    return save(state) if kind == "safetensors" else saved({"params": state}, legacy=kind == "old")


@cache
def front(kind: str) -> int:
    """Where the tensors' values begin: most changes are made before, where they matter."""
    if kind == "safetensors":
        return 8 + int.from_bytes(least(kind)[:8], "little")
    return least(kind).index(b"PK\x03\x04", 4) if kind == "pth" else 12_000


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "old"])
@given(data=st.data())
def test_a_changed_byte_is_refused_or_harmless(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(least(kind))
    in_front = data.draw(st.integers(0, 9)) > 0
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, (front(kind) if in_front else len(content)) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    peak, start = PeakMemory(), time.process_time()
    network = None
    with contextlib.suppress(WeightsError):
        network = checkpoint.load(path).network
    assert time.process_time() - start < 5
    assert (peak.bytes_above_start() or 0) < 64e6
    if network is not None:
        assert isinstance(network, KBNetS)
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in KBNetS(network.sizes).state_dict().items()}
        assert all(bool(torch.isfinite(tensor).all()) for tensor in network.state_dict().values())
        as_the_reference_reads_it(path, network)


def as_the_reference_reads_it(path: Path, network: KBNetS) -> None:
    """Check that nothing is taken that the formats' own readers refuse or read otherwise."""
    if path.read_bytes()[8:9] == b"{":
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
        state = next(iter(content.values()))
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[key].float())
