"""Files of strangers: hashes, sizes, what is in them, and the way they come."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Entry, Source
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub.library import Library
from tests.hub_faults import Chunked, Flip, Padded
from tests.hub_server import HubServer
from tests.networks import random_network, save
from tests.weights import ADDRESS, PARAMETERS, entry_of, kept_files, same_tensors


def nothing_was_kept(library: Library, address: str) -> bool:
    with pytest.raises(WeightsError, match="not on this machine"):
        library.path(address)
    return kept_files(library) == []


def test_a_known_hash_is_insisted_on(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = mirror.serve("/tiny.pth", pth)
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(Source(address, sha256="0" * 64)),))
    with pytest.raises(WeightsError) as caught:
        library.obtain("tiny", "denoise")
    assert "0" * 64 in caught.value.message
    assert len([word for word in caught.value.message.split() if len(word.strip(",")) == 64]) == 2
    assert nothing_was_kept(library, "tiny")


def test_a_wrong_byte_of_the_hub_is_seen(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    hub.fault(Flip(len(safetensors) - 100), path="/cdn/")
    with pytest.raises(WeightsError, match="sha256"):
        library.obtain(ADDRESS, "denoise")
    assert nothing_was_kept(library, ADDRESS)
    assert same_tensors(library.obtain(ADDRESS, "denoise"))


def test_a_later_change_is_an_error_that_shows_both(
    mirror: HubServer, library: Library, pth: bytes, tmp_path: Path
) -> None:
    address = mirror.serve("/a.pth", pth)
    library.obtain(address, "denoise")
    before = json.loads((library.shelf.folder / "weights.lock").read_text())["files"][address]["sha256"]
    library.remove(address)
    torch.save(random_network(seed=1).state_dict(), tmp_path / "other.pth")
    mirror.serve("/a.pth", (tmp_path / "other.pth").read_bytes())
    with pytest.raises(WeightsError, match="changed since") as caught:
        library.obtain(address, "denoise")
    assert before in caught.value.message
    assert caught.value.message.count("sha256 was") == 1
    with pytest.raises(WeightsError, match="not on this machine"):
        library.path(address)
    assert "--accept-change" in caught.value.hint
    changed = library.pull(address, accept_change=True)
    assert not same_tensors(changed)
    assert library.obtain(address, "denoise") == changed


def test_a_branch_that_moved_is_noticed_when_pulled_and_the_old_file_stays(
    hub: HubServer, library: Library, safetensors: bytes, tmp_path: Path
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    before = library.obtain(ADDRESS, "denoise")
    hub.add("owner/name", "a.safetensors", save(random_network(seed=1), tmp_path / "b", task="denoise").read_bytes())
    assert library.obtain(ADDRESS, "denoise") == before
    with pytest.raises(WeightsError, match="changed since"):
        library.pull(ADDRESS)
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
    assert not same_tensors(library.pull(ADDRESS, accept_change=True))


def test_a_damaged_lock_file_is_not_taken_for_an_empty_one(mirror: HubServer, library: Library, pth: bytes) -> None:
    library.shelf.folder.mkdir()
    (library.shelf.folder / "weights.lock").write_text("{")
    with pytest.raises(WeightsError, match=r"weights\.lock: damaged"):
        library.obtain(mirror.serve("/a.pth", pth), "denoise")


class Code:
    """What a pickle would run."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def not_finite() -> dict[str, torch.Tensor]:
    state = dict(random_network().state_dict())
    state["intro.bias"] = state["intro.bias"] * torch.nan
    return state


@pytest.mark.parametrize("kind", ["code", "nan", "page", "empty"])
@pytest.mark.parametrize("from_hub", [False, True])
def test_a_file_that_is_refused_leaves_nothing_and_runs_nothing(
    kind: str, from_hub: bool, mirror: HubServer, library: Library, tmp_path: Path
) -> None:
    file, proof = tmp_path / "bad.pth", tmp_path / "proof"
    if kind == "code":
        torch.save({"params": Code(proof)}, file)
    elif kind == "nan":
        torch.save(not_finite(), file)
    else:
        file.write_bytes(b"<!DOCTYPE html><html><title>Sign in</title></html>" if kind == "page" else b"")
    mirror.add("owner/name", "bad.pth", file.read_bytes(), large=True)
    address = "hf:owner/name/bad.pth" if from_hub else mirror.serve("/bad.pth", file.read_bytes())
    with pytest.raises(WeightsError) as caught:
        library.obtain(address, "denoise")
    assert address in caught.value.message
    assert not proof.exists()
    assert nothing_was_kept(library, address)
    assert not [path for path in (tmp_path / "huggingface").rglob("*") if path.is_file() and "blobs" in path.parts]


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("from_hub", [False, True])
def test_a_file_larger_than_its_entry_says_is_refused(
    announced: bool, from_hub: bool, mirror: HubServer, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(8 * PARAMETERS + 5_000_000)
    mirror.add("owner/name", "tiny.safetensors", data)
    source = Source("hf:owner/name/tiny.safetensors" if from_hub else mirror.serve("/tiny.pth", data))
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(source),))
    if not announced:
        mirror.fault(Chunked(), method="GET|HEAD", path="/tiny.pth|/cdn/|/resolve/", times=None)
    with pytest.raises(WeightsError, match="at most: refused"):
        library.obtain("tiny", "denoise")
    assert nothing_was_kept(library, "tiny")
    assert not list(library.shelf.folder.rglob("*.part"))


def test_a_body_longer_than_announced_is_refused(mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    mirror.fault(Padded(1000, announced=True), path="/a.pth")
    with pytest.raises(FetchError):
        library.obtain(address, "denoise")
    assert same_tensors(library.obtain(address, "denoise"))


def test_another_network_than_the_entrys_is_refused(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidd = catalogue.find("sidd")
    assert sidd is not None
    address = mirror.serve("/sidd.pth", pth)
    entry = Entry(**{**vars(sidd), "sources": (Source(address),)})
    monkeypatch.setattr(catalogue, "ENTRIES", (entry,))
    with pytest.raises(WeightsError, match="expected KBNet-S with 128,403,395 for sidd"):
        library.obtain("sidd", "denoise")
    assert nothing_was_kept(library, "sidd")


def test_plain_http_is_not_gone_to(mirror: HubServer, library: Library, pth: bytes, tmp_path: Path) -> None:
    with HubServer() as plain:
        address = mirror.redirect("/a.pth", plain.serve("/a.pth", pth))
        with pytest.raises(WeightsError, match="only https"):
            library.obtain(address, "denoise")
        mirror.add("owner/name", "a.safetensors", pth)
        mirror.cdn = plain.url
        with pytest.raises(WeightsError, match="only https"):
            library.obtain(ADDRESS, "denoise")
        assert not plain.requests
    with pytest.raises(UsageError, match="only https"):
        library.obtain("http://127.0.0.1/a.pth", "denoise")


def test_a_certificate_that_nobody_vouches_for_is_not_believed(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    address = mirror.serve("/a.pth", pth)
    with monkeypatch.context() as patch:
        patch.delenv("SSL_CERT_FILE")
        huggingface_hub.close_session()
        with pytest.raises(FetchError, match="certificate"):
            library.obtain(address, "denoise")
    assert not mirror.requests
