"""Files that others live from as well: huggingface_hub's cache, the folder of weights, a kill at the wrong moment."""

import json
import os
from pathlib import Path

import pytest
from huggingface_hub import constants, file_download, hf_hub_download

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Facts, Source, facts_from_metadata
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub import ledger
from kbnet_cli.hub.address import WebAddress
from kbnet_cli.hub.ledger import Ledger
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places
from tests.hub_faults import Cut, Flip, HangUp, Headers, Refuse
from tests.hub_server import HubServer
from tests.networks import random_network, save
from tests.weights import ADDRESS, entry_of, kept_files, same_tensors


def other_network(folder: Path) -> bytes:
    return save(random_network(seed=1), folder / "other.safetensors", task="denoise", tile="64").read_bytes()


# huggingface_hub's cache


def test_a_file_of_another_program_is_never_deleted(hub: HubServer, library: Library, safetensors: bytes) -> None:
    for name, data in (("a.safetensors", safetensors), ("llm.safetensors", b"of another program")):
        hub.add("owner/name", name, data)
        fetched = Path(hf_hub_download("owner/name", name))
        address = f"hf:owner/name/{name}"
        if name == "a.safetensors":
            library.obtain(address, "denoise")
            library.remove(address)
        else:
            with pytest.raises(WeightsError):
                library.obtain(address, "denoise")
        assert fetched.read_bytes() == data


def test_nothing_is_written_into_the_cache(hub: HubServer, library: Library, safetensors: bytes, pth: bytes) -> None:
    for name, data in (("a.safetensors", safetensors), ("a.pth", pth)):
        hub.add("owner/name", name, data, large=True)
        assert same_tensors(library.obtain(f"hf:owner/name/{name}", "denoise"))
    assert not list((library.shelf.folder.parent / "huggingface" / "hub").rglob("blobs/*"))
    assert not list(library.shelf.folder.glob(".fetch-*"))


def test_a_damaged_file_of_the_cache_is_fetched_anew(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    blob = Path(hf_hub_download("owner/name", "a.safetensors")).resolve()
    damaged = bytearray(safetensors)
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
    assert blob.read_bytes() == damaged, "it is not ours"


def test_a_small_file_is_compared_with_its_git_hash(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors, large=False)
    hub.fault(Flip(len(safetensors) - 100), path="/resolve/")
    with pytest.raises(WeightsError, match="damaged on its way"):
        library.obtain(ADDRESS, "denoise")
    assert same_tensors(library.obtain(ADDRESS, "denoise"))


def test_a_pull_of_what_has_not_changed_asks_and_fetches_nothing(
    hub: HubServer, library: Library, safetensors: bytes
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    path = library.obtain(ADDRESS, "denoise")
    hub.forget()
    assert library.pull(ADDRESS) == path
    assert hub.asked("HEAD")
    assert not hub.asked("GET", "/cdn/")


def test_with_xet_and_telemetry_as_they_are_by_default(
    hub: HubServer, library: Library, safetensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    monkeypatch.setattr(file_download, "xet_get", lambda **_: pytest.fail("Xet goes round the careful client"))
    hub.add("owner/name", "a.safetensors", safetensors)
    hub.fault(Headers({"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": "/nowhere"}), method="HEAD", times=None)
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
    assert not hub.asked(".*", "agent")


def test_a_mirror_is_all_that_is_asked(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = mirror.serve("/a.pth", pth)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr("huggingface_hub.utils._detect_agent._registry", None)
    library.obtain(address, "denoise")
    assert {asked.path for asked in mirror.requests} == {"/a.pth"}
    assert all(asked.headers["user-agent"].startswith("kbnet/") for asked in mirror.requests)


def test_nobody_waits_for_a_day(mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    mirror.fault(Refuse(429, retry_after=86_400), path="/a.pth", times=None)
    with pytest.raises(FetchError, match="come back in 1440 minutes"):
        library.obtain(address, "denoise")


# The folder


def test_what_kbnet_keeps_is_not_taken_for_what_a_user_put_there(
    mirror: HubServer, library: Library, tmp_path: Path, pth: bytes
) -> None:
    library.import_file(tmp_path / "own.pth", "mine")
    mirror.serve("/mine.safetensors", other_network(tmp_path))
    assert not same_tensors(library.obtain(f"{mirror.url}/mine.safetensors", "denoise"))
    lock = mirror.serve("/weights.lock", other_network(tmp_path))
    assert not same_tensors(library.obtain(lock, "denoise"))


def test_a_file_that_a_user_put_there_is_never_replaced(library: Library, tmp_path: Path, pth: bytes) -> None:
    library.shelf.folder.mkdir()
    dropped = library.shelf.folder / "mine.safetensors"
    other = other_network(tmp_path)
    dropped.write_bytes(other)
    library.import_file(tmp_path / "own.pth", "mine")
    assert dropped.read_bytes() == other
    library.remove("mine")
    assert dropped.read_bytes() == other


def test_a_dropped_file_is_listed_found_and_told_of_when_it_stays(
    library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(),))
    library.shelf.folder.mkdir()
    (library.shelf.folder / "tiny.pth").write_bytes(pth)
    assert [row.state for row in library.listing()] == ["here"]
    assert [verdict.well for verdict in library.verify()] == [True]
    assert same_tensors(library.path("tiny"))
    told: list[str] = []
    Library(library.places, tell=told.append).remove("tiny")
    assert told == [
        f"tiny: {library.shelf.folder / 'tiny.pth'} is yours and stays; it is used again when tiny is named"
    ]


def test_a_dropped_file_has_to_be_the_known_one(library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("https://example.org/tiny.pth", sha256="0" * 64)
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(source),))
    library.shelf.folder.mkdir()
    (library.shelf.folder / "tiny.pth").write_bytes(pth)
    with pytest.raises(WeightsError, match="not the file that it should be"):
        library.obtain("tiny", "denoise")


def test_another_repositorys_file_under_the_same_name_has_to_be_meant(
    hub: HubServer, library: Library, safetensors: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(),))
    hub.add("one/repo", "tiny.safetensors", safetensors)
    hub.add("two/repo", "tiny.safetensors", other_network(tmp_path))
    first, second = (Library(Places(repo, library.places.weights_folder)) for repo in ("one/repo", "two/repo"))
    path = first.pull("tiny")
    assert second.obtain("tiny", "denoise") == path, "what is here is used"
    with pytest.raises(WeightsError, match="which came from hf:one/repo"):
        second.pull("tiny")
    assert first.obtain("tiny", "denoise") == path
    assert not same_tensors(second.pull("tiny", accept_change=True))


def test_pull_says_that_the_old_file_stays(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    path = library.obtain(ADDRESS, "denoise")
    told: list[str] = []
    hub.fault(Refuse(404, "RevisionNotFound"), method="HEAD|GET", times=None)
    assert Library(library.places, tell=told.append).pull(ADDRESS) == path
    assert told == [f"{ADDRESS}: stays as it is here: {ADDRESS}: no such revision"]


def test_what_an_address_gave_can_be_pulled_by_its_key(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    path = library.obtain(ADDRESS, "denoise")
    row = next(row for row in library.listing() if row.origin == ADDRESS)
    assert row.obtained is not None
    hub.forget()
    assert library.pull(row.name) == path
    assert hub.asked("HEAD")


def test_verify_tells_of_a_file_that_is_gone(hub: HubServer, library: Library, safetensors: bytes) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    library.obtain(ADDRESS, "denoise").unlink()
    (verdict,) = library.verify()
    assert verdict.error is not None
    assert "its file is gone" in verdict.error.message
    assert same_tensors(library.obtain(ADDRESS, "denoise")), "it is fetched again"


def test_a_damaged_file_can_be_replaced_from_its_source(mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    path = library.obtain(address, "denoise")
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="changed since it was kept"):
        library.pull(address)
    assert same_tensors(library.pull(address, accept_change=True))


# Killed at the wrong moment


class Killed(BaseException):
    """What stands in for the end of the process."""


def killed(*_: object, **__: object) -> None:
    raise Killed


@pytest.mark.parametrize("where", ["kbnet_cli.hub.shelf.write_json", "kbnet_cli.hub.ledger.write_json"])
def test_a_change_is_noticed_whatever_was_interrupted(
    where: str, mirror: HubServer, library: Library, pth: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = mirror.serve("/a.pth", pth)
    with monkeypatch.context() as patch:
        patch.setattr(where, killed)
        with pytest.raises(Killed):
            library.obtain(address, "denoise")
    assert same_tensors(library.obtain(address, "denoise")), "it goes on without help"
    library.remove(address)
    mirror.serve("/a.pth", other_network(tmp_path))
    with pytest.raises(WeightsError, match="changed since"):
        library.obtain(address, "denoise")


def test_whoever_reads_finds_the_old_or_the_new(
    mirror: HubServer, library: Library, pth: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = mirror.serve("/a.pth", pth)
    before = library.obtain(address, "denoise")
    mirror.serve("/a.pth", other_network(tmp_path))
    found: list[Path] = []
    real = ledger.write_json

    def looked(path: Path, content: object) -> None:
        found.append(library.path(address))
        assert same_tensors(found[-1])
        real(path, content)

    monkeypatch.setattr("kbnet_cli.hub.shelf.write_json", looked)
    after = library.pull(address, accept_change=True)
    assert found == [before]
    assert library.path(address) == after
    assert not before.exists(), "what is replaced is not kept"


def test_the_mark_of_a_new_version_never_stands_beside_the_old_bytes(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    address = mirror.serve("/a.pth", bytes(len(pth)), etag="one")
    mirror.fault(Cut(0.5), path="/a.pth")
    mirror.fault(HangUp(), path="/a.pth", times=None)
    with pytest.raises(FetchError):
        library.obtain(address, "denoise")
    mirror.heal()
    mirror.serve("/a.pth", pth, etag="two")
    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", killed)
        with pytest.raises(Killed):
            library.obtain(address, "denoise")
    assert same_tensors(library.obtain(address, "denoise"))


def test_two_servers_may_give_two_files_one_mark(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    first = Source(mirror.serve("/first.pth", bytes(len(pth)), etag="one"))
    second = Source(mirror.serve("/second.pth", pth, etag="one"))
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(first, second),))
    mirror.fault(Cut(0.5), path="/first.pth")
    mirror.fault(HangUp(), path="/first.pth", times=None)
    assert same_tensors(library.obtain("tiny", "denoise"))


# Errors, not tracebacks


def odd_files(folder: Path) -> dict[str, Path]:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    return {name: folder / name for name in ("missing", "folder", "pipe")} | {"long": folder / ("a" * 5000)}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "long"])
def test_what_is_no_file_is_an_error_and_is_not_waited_for(kind: str, library: Library, tmp_path: Path) -> None:
    path = odd_files(tmp_path)[kind]
    with pytest.raises(WeightsError):
        library.import_file(path, "mine")
    if kind != "pipe":
        with pytest.raises(WeightsError):
            library.obtain(str(path), "denoise")


@pytest.mark.parametrize("content", ["[]", '{"files": 5}', '{"files": {"a": 5}}', "[" * 100_000])
def test_odd_lock_files_are_damaged(content: str, tmp_path: Path) -> None:
    (tmp_path / "weights.lock").write_text(content)
    with pytest.raises(WeightsError, match="damaged"):
        Ledger(tmp_path / "weights.lock").seen(WebAddress("https://example.org/a"))


@pytest.mark.parametrize("record", ["[]", "{}", '{"file": 5}', "[" * 100_000, "\x00"])
def test_a_record_that_cannot_be_read_is_none(record: str, mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    library.obtain(address, "denoise")
    (path,) = library.shelf.folder.glob("*.json")
    path.write_text(record)
    assert list(library.verify()) == []
    assert same_tensors(library.obtain(address, "denoise"))


def test_a_record_with_a_file_of_another_kind_is_none(library: Library, tmp_path: Path, pth: bytes) -> None:
    library.import_file(tmp_path / "own.pth", "mine")
    path = library.shelf.folder / "mine.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"file": 5}))
    assert kept_files(library)
    assert list(library.listing())
    assert library.shelf.item("mine") is None


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a.pt", "a.ckpt"])
def test_a_name_does_not_stand_before_a_file(name: str, library: Library, tmp_path: Path, pth: bytes) -> None:
    with pytest.raises(UsageError):
        library.import_file(tmp_path / "own.pth", name)


@pytest.mark.parametrize(
    "metadata",
    [{"kbnet.limit": "-inf,inf"}, {"kbnet.sigma": "nan,nan"}, {"kbnet.tile": "65536"}, {"kbnet.limit": "0,nan"}],
)
def test_facts_that_cannot_be_meant_are_refused(metadata: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match="make no sense"):
        facts_from_metadata(metadata, "a.safetensors")
    assert facts_from_metadata({}, "a.safetensors") == Facts(told=False)


def test_a_folder_of_ones_own(tmp_path: Path, pth: bytes) -> None:
    places = Places(weights_folder=tmp_path / "a folder" / "мои веса")
    assert Library(places).import_file(tmp_path / "own.pth", "mine").is_relative_to(places.weights_folder)
