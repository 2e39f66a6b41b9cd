"""Weights from the Hub and from mirrors, through the real client: fetched once, checked, kept whole or not at all."""

import errno
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kbnet_cli import catalogue, checkpoint
from kbnet_cli.catalogue import Entry, Facts, Source
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub import problems, transfer
from kbnet_cli.hub.address import WebAddress
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places
from tests.hub_client import in_this_process
from tests.hub_faults import Chunked, Cut, Fault, Flip, HangUp, Padded, Refuse, Whole
from tests.hub_server import TOKEN, HubServer
from tests.networks import random_network, save

ADDRESS = "hf:owner/name/a.safetensors"
PARAMETERS = sum(parameter.numel() for parameter in random_network().parameters())


def entry_of(*sources: Source, name: str = "tiny") -> Entry:
    facts = Facts(task="denoise", tile=96, limit=(-0.5, 1.5), sigma=(25.0, 25.0))
    return Entry(name, "for tests", "KBNet-S", 8, 3, PARAMETERS, facts, "MIT", sources=sources)


def kept_files(library: Library) -> list[str]:
    return sorted(path.name for path in library.shelf.folder.glob("[!.]*"))


def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _detect_agent

    def refuse(*_: object) -> None:
        pytest.fail("a connection was tried")  # no Exception: nothing that catches those catches it

    huggingface_hub.close_session()
    # Switched off for the other tests; it asks the Hub even for files that are cached.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    monkeypatch.setattr(_detect_agent, "_registry", None)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def same_tensors(path: Path) -> bool:
    expected = random_network().state_dict()
    found = load_file(path)
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


# Fetched once


def test_a_file_of_the_hub_is_fetched_once_and_stays_in_its_cache(
    hub: HubServer, library: Library, safetensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    path = library.obtain(ADDRESS, "denoise")
    assert path.read_bytes() == safetensors
    assert "huggingface" in path.parts, "there is no second copy"
    assert len(hub.asked("GET", "/cdn/")) == 1
    no_connections(monkeypatch)
    assert library.obtain(ADDRESS, "denoise") == path
    assert Library(library.places).obtain(ADDRESS, "denoise") == path, "another process finds it as well"
    assert library.path(ADDRESS) == path


def test_what_another_program_has_fetched_needs_no_connection(
    hub: HubServer, library: Library, safetensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import hf_hub_download

    hub.add("owner/name", "a.safetensors", safetensors)
    fetched = hf_hub_download("owner/name", "a.safetensors")
    no_connections(monkeypatch)
    assert library.obtain(ADDRESS, "denoise") == Path(fetched)


def test_a_pth_is_converted_once_and_says_what_the_catalogue_knows(
    mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = entry_of(Source(mirror.serve("/releases/tiny.pth", pth, etag="one")))
    monkeypatch.setattr(catalogue, "ENTRIES", (entry,))
    path = library.obtain("tiny", "denoise")
    assert kept_files(library) == [path.parent.name, "tiny.json", "weights.lock"]
    assert path.name == "tiny.safetensors"
    assert same_tensors(path)
    assert checkpoint.load(path).facts == entry.facts
    no_connections(monkeypatch)
    assert library.obtain("tiny", "denoise") == path


def test_a_pth_of_the_hub_is_converted(hub: HubServer, library: Library, pth: bytes) -> None:
    hub.add("owner/name", "folder/a.pth", pth, large=True)
    path = library.obtain("hf:owner/name/folder/a.pth", "denoise")
    assert path.parent.parent == library.shelf.folder
    assert same_tensors(path)


def test_a_revision_is_its_own_file(hub: HubServer, library: Library, safetensors: bytes, tmp_path: Path) -> None:
    first = hub.add("owner/name", "a.safetensors", safetensors)
    other = save(random_network(seed=1), tmp_path / "other.safetensors").read_bytes()
    hub.add("owner/name", "a.safetensors", other)
    assert library.obtain(f"{ADDRESS}@{first}", "denoise").read_bytes() == safetensors
    assert library.obtain(ADDRESS, "denoise") != library.path(f"{ADDRESS}@{first}")


def test_the_users_repository_comes_first_and_mirrors_after_it(
    mirror: HubServer, library: Library, safetensors: bytes, pth: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = Places("owner/name", tmp_path / "kept")
    entry = entry_of(Source(mirror.serve("/tiny.pth", pth)))
    monkeypatch.setattr(catalogue, "ENTRIES", (entry,))
    mirror.repository("owner/name")
    assert same_tensors(Library(places).obtain("tiny", "denoise")), "the repository does not have it: the mirror has"
    assert len(mirror.asked("GET", "/tiny.pth")) == 1
    Library(places).remove("tiny")
    mirror.add("owner/name", "tiny.safetensors", safetensors)
    assert "huggingface" in Library(places).obtain("tiny", "denoise").parts
    assert len(mirror.asked("GET", "/tiny.pth")) == 1


# Cut, resumed, tried again


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let the client write pieces of 1 kB: it keeps whole pieces, of 10 MB, of what a cut connection has brought."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    return 1000


def whole_pieces(data: bytes, tenth: int, piece: int) -> int:
    return round(len(data) * tenth / 10) // piece * piece


@pytest.mark.parametrize("tenth", range(10))
def test_a_connection_cut_anywhere_is_gone_on_with(
    tenth: int, hub: HubServer, library: Library, safetensors: bytes, small_pieces: int
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    hub.fault(Cut(tenth / 10), path="/cdn/")
    assert library.obtain(ADDRESS, "denoise").read_bytes() == safetensors
    second = hub.asked("GET", "/cdn/")[1]
    if tenth:
        assert second.headers["range"] == f"bytes={whole_pieces(safetensors, tenth, small_pieces)}-"


@pytest.mark.parametrize("tenth", range(10))
def test_a_mirror_cut_anywhere_is_gone_on_with_another_day(
    tenth: int, mirror: HubServer, library: Library, pth: bytes, small_pieces: int
) -> None:
    address = mirror.serve("/a.pth", pth, etag="one")
    mirror.fault(Cut(tenth / 10), path="/a.pth")
    mirror.fault(HangUp(), path="/a.pth", times=None)
    with pytest.raises(FetchError):
        library.obtain(address, "denoise")
    (part,) = library.shelf.folder.glob("*.part")
    kept = whole_pieces(pth, tenth, small_pieces)
    assert part.read_bytes() == pth[:kept]
    with pytest.raises(WeightsError, match="not on this machine"):
        library.path(address)
    mirror.heal()
    assert same_tensors(library.obtain(address, "denoise"))
    if tenth:
        assert mirror.asked("GET", "/a.pth")[-1].headers["range"] == f"bytes={kept}-"
    assert not list(library.shelf.folder.glob("*.part*"))


def test_a_file_that_changed_meanwhile_is_begun_anew(
    mirror: HubServer, library: Library, pth: bytes, small_pieces: int
) -> None:
    address = mirror.serve("/a.pth", bytes(len(pth)), etag="one")
    mirror.fault(Cut(0.5), path="/a.pth")
    mirror.fault(HangUp(), path="/a.pth", times=None)
    with pytest.raises(FetchError):
        library.obtain(address, "denoise")
    mirror.heal()
    assert next(library.shelf.folder.glob("*.part")).stat().st_size
    mirror.serve("/a.pth", pth, etag="two")
    assert same_tensors(library.obtain(address, "denoise"))
    assert "range" not in mirror.asked("GET", "/a.pth")[-1].headers


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param((Cut(0.5, reset=True),), id="reset"),
        pytest.param((Refuse(500),), id="500"),
        pytest.param((Refuse(503, retry_after=1),), id="503"),
        pytest.param((Refuse(429, retry_after=3),), id="429"),
        pytest.param((HangUp(),), id="hung up"),
        pytest.param((HangUp(reset=True),), id="hung up with a reset"),
        pytest.param((Chunked(),), id="of unknown length"),
        pytest.param((Cut(0.5), Whole()), id="no ranges"),
    ],
)
def test_what_passes_is_tried_again(
    faults: tuple[Fault, ...], mirror: HubServer, library: Library, safetensors: bytes, pth: bytes
) -> None:
    mirror.add("owner/name", "a.safetensors", safetensors)
    address = mirror.serve("/a.pth", pth, etag="one")
    for path in ("/cdn/", "/a.pth"):
        for fault in faults:
            mirror.fault(fault, path=path)
    assert library.obtain(ADDRESS, "denoise").read_bytes() == safetensors
    assert same_tensors(library.obtain(address, "denoise"))


def test_questions_are_tried_again(mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    mirror.fault(Refuse(503), method="HEAD", path="/a.pth", times=2)
    assert same_tensors(library.obtain(address, "denoise"))


def test_a_mirror_that_answers_no_questions_is_used_all_the_same(
    mirror: HubServer, library: Library, pth: bytes
) -> None:
    address = mirror.serve("/a.pth", pth)
    mirror.fault(Refuse(403), method="HEAD", path="/a.pth", times=None)
    assert same_tensors(library.obtain(address, "denoise"))


# What cannot be had


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "RepoNotFound", "no such repository, or it is private"),
        (404, "RepoNotFound", "no such repository"),
        (404, "RevisionNotFound", "no such revision"),
        (404, "EntryNotFound", "no such file"),
        (403, "GatedRepo", "its owner has to let you in"),
        (500, None, "busy or ill (500)"),
        (418, None, "answers 418"),
    ],
)
def test_the_hub_says_no(status: int, code: str | None, said: str, hub: HubServer, library: Library) -> None:
    hub.repository("owner/name")
    hub.fault(Refuse(status, code), method="HEAD|GET", times=None)
    with pytest.raises(FetchError) as caught:
        library.obtain(ADDRESS, "denoise")
    assert said in caught.value.message
    assert ADDRESS in caught.value.message
    assert str(library.shelf.folder) in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("status", "said"), [(404, "not found"), (401, "no permission"), (502, "busy or ill")])
def test_a_mirror_says_no(status: int, said: str, mirror: HubServer, library: Library) -> None:
    address = mirror.serve("/a.pth", b"")
    mirror.fault(Refuse(status), method="HEAD|GET", times=None)
    with pytest.raises(FetchError, match=said):
        library.obtain(address, "denoise")


def test_a_private_repository_opens_with_the_token(tmp_path: Path, library: Library, safetensors: bytes) -> None:
    with HubServer() as hub:
        hub.add("owner/name", "a.safetensors", safetensors)
        hub.repository("owner/name", private=True)
        with in_this_process(hub, tmp_path / "without"), pytest.raises(FetchError, match="private"):
            library.obtain(ADDRESS, "denoise")
        with in_this_process(hub, tmp_path / "with", token=TOKEN):
            assert library.obtain(ADDRESS, "denoise").read_bytes() == safetensors
        assert all("authorization" not in asked.headers for asked in hub.asked(".*", "/cdn/"))


def test_the_token_goes_to_no_mirror(tmp_path: Path, library: Library, pth: bytes) -> None:
    with HubServer(tls=True) as mirror, in_this_process(mirror, tmp_path / "with", token=TOKEN):
        library.obtain(mirror.serve("/a.pth", pth), "denoise")
        assert mirror.requests
        assert all("authorization" not in asked.headers for asked in mirror.requests)


def test_offline_names_the_file_the_address_and_the_folder(
    hub: HubServer, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for given in (ADDRESS, "sidd"):
        with pytest.raises(FetchError) as caught:
            library.obtain(given, "denoise")
        assert "HF_HUB_OFFLINE" in caught.value.message
        assert given in caught.value.message
        assert str(library.shelf.folder) in caught.value.hint
    assert "1x-KBNet_sidd.pth" in caught.value.message
    assert not hub.connections


def test_no_connection_names_the_file_the_address_and_the_folder(
    tmp_path: Path, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer(tls=True) as gone:
        address = f"{gone.url}/a.pth"
    with in_this_process(gone, tmp_path / "huggingface"):
        for given in (address, ADDRESS):
            with pytest.raises(FetchError) as caught:
                library.obtain(given, "denoise")
            assert "no connection" in caught.value.message
            assert given in caught.value.message
            assert str(library.shelf.folder) in caught.value.hint


def test_weights_without_a_source_say_how_to_import_them(library: Library) -> None:
    with pytest.raises(WeightsError, match="no public source known") as caught:
        library.obtain("defocus", "deblur")
    assert "kbnet weights import FILE --as defocus" in caught.value.hint
    assert str(library.shelf.folder) in caught.value.hint


# Trust


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
    assert library.obtain(ADDRESS, "denoise").read_bytes() == safetensors


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
    assert library.obtain(ADDRESS, "denoise").read_bytes() == safetensors
    assert library.pull(ADDRESS, accept_change=True).read_bytes() != safetensors


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


# The folder


def test_a_file_put_into_the_folder_by_hand_is_found(
    library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_connections(monkeypatch)
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(Source("https://example.org/files/1x-tiny.pth")),))
    library.shelf.folder.mkdir()
    for name in ("tiny.pth", "1x-tiny.pth"):
        (library.shelf.folder / name).write_bytes(pth)
        assert same_tensors(library.obtain("tiny", "denoise"))
        library.remove("tiny")
        (library.shelf.folder / name).unlink()


def test_a_file_that_was_changed_on_disk_is_not_used(library: Library, tmp_path: Path, pth: bytes) -> None:
    path = library.import_file(tmp_path / "own.pth", "mine")
    os.utime(path, (1, 1))
    assert library.obtain("mine", "denoise") == path, "the same bytes at another time are the same"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="changed since it was kept") as caught:
        library.obtain("mine", "denoise")
    assert caught.value.message.count("sha256") == 1
    (verdict,) = library.verify()
    assert not verdict.well


def test_verify_reads_all_that_is_kept(
    hub: HubServer, library: Library, safetensors: bytes, pth: bytes, tmp_path: Path
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    library.obtain(ADDRESS, "denoise")
    library.import_file(tmp_path / "own.pth", "mine")
    assert [verdict.well for verdict in library.verify()] == [True, True]


def test_imported_weights_have_a_name_of_their_own(library: Library, tmp_path: Path, pth: bytes) -> None:
    path = library.import_file(tmp_path / "own.pth", "my-camera")
    assert same_tensors(path)
    assert (tmp_path / "own.pth").read_bytes() == pth
    assert library.obtain("my-camera", "denoise") == path
    listed = {row.name: row for row in library.listing()}
    assert listed["my-camera"].state == "here"
    assert listed["sidd"].state == "to fetch"
    assert listed["defocus"].state == "no public source known"
    assert listed["denoise-small"].state == "bundled"
    library.remove("my-camera")
    with pytest.raises(WeightsError, match="no such weights"):
        library.obtain("my-camera", "denoise")


def test_an_import_replaces_nothing(library: Library, tmp_path: Path, pth: bytes) -> None:
    path = library.import_file(tmp_path / "own.pth", "mine")
    assert library.import_file(tmp_path / "own.pth", "mine") == path, "the same again is no change"
    torch.save(random_network(seed=1).state_dict(), tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="mine: is here already"):
        library.import_file(tmp_path / "other.pth", "mine")
    assert same_tensors(path)


def test_an_import_under_a_name_of_the_catalogue_says_what_it_is_for(
    library: Library, tmp_path: Path, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "ENTRIES", (entry_of(),))
    assert checkpoint.load(library.import_file(tmp_path / "own.pth", "tiny")).facts == entry_of().facts


@pytest.mark.parametrize("name", ["denoise-small", "", "a/b", "../x", "Ä", "-x", "A", "hf:a", "a" * 101])
def test_names_that_cannot_be_are_refused(name: str, library: Library, tmp_path: Path, pth: bytes) -> None:
    with pytest.raises(UsageError):
        library.import_file(tmp_path / "own.pth", name)


def test_an_import_of_another_network_is_refused(library: Library, tmp_path: Path, pth: bytes) -> None:
    with pytest.raises(WeightsError, match="expected KBNet-S with 128,403,395"):
        library.import_file(tmp_path / "own.pth", "sidd")
    assert kept_files(library) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission"), (errno.EROFS, "read-only")],
)
def test_a_folder_that_takes_nothing_is_named(
    number: int, said: str, mirror: HubServer, library: Library, pth: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = mirror.serve("/a.pth", pth)

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(library.shelf.folder / "a.part"))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(FetchError, match=said) as caught:
        library.obtain(address, "denoise")
    assert "--weights-folder" in caught.value.hint
    assert address in caught.value.message


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, mirror: HubServer, pth: bytes) -> None:
    (tmp_path / "file").write_text("")
    library = Library(Places(weights_folder=tmp_path / "file" / "weights"))
    with pytest.raises(FetchError, match="weights cannot be kept there"):
        library.obtain(mirror.serve("/a.pth", pth), "denoise")


def test_a_stale_lock_holds_nobody_up(mirror: HubServer, library: Library, pth: bytes) -> None:
    address = mirror.serve("/a.pth", pth)
    locks = library.shelf.folder / ".locks"
    locks.mkdir(parents=True)
    library.obtain(address, "denoise")
    (lock,) = (path for path in locks.iterdir() if path.name.startswith("a-"))
    library.remove(address)
    lock.write_text("left behind")
    assert same_tensors(library.obtain(address, "denoise"))


def test_progress_tells_of_every_byte(hub: HubServer, tmp_path: Path, safetensors: bytes) -> None:
    told: list[tuple[int, int | None]] = []
    names: list[str] = []

    def announce(name: str) -> transfer.Progress:
        names.append(name)
        return lambda done, total: told.append((done, total))

    hub.add("owner/name", "a.safetensors", safetensors)
    hub.fault(Cut(0.5, reset=True), path="/cdn/")
    Library(Places(weights_folder=tmp_path / "kept"), announce).obtain(ADDRESS, "denoise")
    assert names == [ADDRESS]
    assert told[-1] == (len(safetensors), len(safetensors))


def test_a_problem_that_nobody_thought_of_is_told_as_it_is() -> None:
    with pytest.raises(FetchError) as caught, problems.explained(WebAddress("https://example.org/a")):
        raise OSError(errno.EIO, "disk on fire")
    assert caught.value.message == "https://example.org/a: [Errno 5] disk on fire"
    assert caught.value.hint == FetchError.usual_hint
