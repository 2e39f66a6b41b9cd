"""The folder of weights: what is put there, imported, changed, removed, and what cannot be written."""

import errno
import os
from pathlib import Path

import pytest
import torch

from kbnet_cli import catalogue, checkpoint
from kbnet_cli.catalogue import Source
from kbnet_cli.errors import FetchError, UsageError, WeightsError
from kbnet_cli.hub import problems, transfer
from kbnet_cli.hub.address import WebAddress
from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places
from tests.hub_faults import Cut
from tests.hub_server import HubServer
from tests.networks import random_network
from tests.weights import ADDRESS, entry_of, kept_files, no_connections, same_tensors


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
