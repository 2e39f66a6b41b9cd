"""Weights from the Hub and from mirrors, through the real client: fetched once, cut, gone on with, or not to be had."""

from pathlib import Path

import pytest

from kbnet_cli import catalogue, checkpoint
from kbnet_cli.catalogue import Source
from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places
from tests.hub_client import in_this_process
from tests.hub_faults import Chunked, Cut, Fault, HangUp, Refuse, Whole
from tests.hub_server import TOKEN, HubServer
from tests.networks import random_network, save
from tests.weights import ADDRESS, entry_of, kept_files, no_connections, same_tensors

# Fetched once


def test_a_file_of_the_hub_is_fetched_once(
    hub: HubServer, library: Library, safetensors: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("owner/name", "a.safetensors", safetensors)
    path = library.obtain(ADDRESS, "denoise")
    assert same_tensors(path)
    assert not list((library.shelf.folder.parent / "huggingface" / "hub").rglob("a.safetensors")), "no second copy"
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
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
    assert Path(fetched).read_bytes() == safetensors


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
    assert same_tensors(library.obtain(f"{ADDRESS}@{first}", "denoise"))
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
    assert same_tensors(Library(places).obtain("tiny", "denoise"))
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
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
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
    assert same_tensors(library.obtain(ADDRESS, "denoise"))
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
            assert same_tensors(library.obtain(ADDRESS, "denoise"))
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
