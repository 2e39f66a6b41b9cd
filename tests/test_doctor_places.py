"""The doctor on settings, folders and the Hub."""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from kbnet_cli import doctor, doctor_places
from kbnet_cli.doctor_places import hub, hub_cache, weights_folder
from kbnet_cli.findings import Look
from kbnet_cli.settings import Places, config_place
from tests import test_cli
from tests.hub_client import in_this_process
from tests.hub_server import HubServer
from tests.test_cli import Call
from tests.test_settings import write_config

kbnet = test_cli.kbnet
SECRET = "hf_secret"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the rows that compute: `test_doctor` looks at them."""
    monkeypatch.setattr(doctor, "_network_test", lambda: Look("left out"))
    for name in ("_operator_test", "_tile_test"):
        monkeypatch.setattr(doctor, name, lambda _settings: Look("left out"))


def findings(kbnet: Call, *words: str) -> dict[str, dict[str, str]]:
    shown = kbnet("doctor", "--json", *words)
    found = {finding["name"]: finding for finding in json.loads(shown.stdout)["findings"]}
    assert shown.code == (2 if any(finding["state"] == "problem" for finding in found.values()) else 0)
    return found


@pytest.mark.usefixtures("offline")
def test_settings_are_told_with_where_they_come_from(kbnet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = config_place().path
    assert findings(kbnet)["settings"]["says"] == f"{path} (not there): all as built in"
    write_config('name = "{stem}.{ext}"\n[weights]\nderain = "rainy"\ndenoise = "sidd"\n')
    monkeypatch.setenv("KBNET_WEIGHTS_DENOISE", "mine.pth")
    monkeypatch.setenv("KBNET_PRECISION", "fp32")
    found = findings(kbnet, "--device", "cpu")["settings"]
    assert found["state"] == "ok"
    file, _, listed = found["says"].partition(": ")
    assert file == str(path)
    assert sorted(listed.split(", ")) == [
        "device cpu (--device)",
        "name {stem}.{ext} (config.toml)",
        "precision fp32 (KBNET_PRECISION)",
        "weights.denoise mine.pth (KBNET_WEIGHTS_DENOISE)",
        "weights.derain rainy (config.toml)",
    ]


@pytest.mark.usefixtures("offline")
def test_broken_settings_are_one_problem_and_the_other_rows_go_on(kbnet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_config("dvice = 'cpu'")
    monkeypatch.setenv("KBNET_PRECISION", "fp16")
    monkeypatch.setenv("KBNET_WEIGHTS_DERAIN", " ")
    found = findings(kbnet)
    assert found["settings"]["state"] == "problem"
    for said in (
        f"{path}: unknown key dvice",
        "KBNET_PRECISION: fp16 is refused",
        "KBNET_WEIGHTS_DERAIN: ' ' names no",
    ):
        assert found["settings"]["says"].count(said) == 1
    assert found["settings"]["hint"] == "did you mean device?"
    assert {name for name, finding in found.items() if finding["state"] == "problem"} == {"settings"}
    assert "--precision auto is" in found["chosen"]["says"]


@pytest.mark.usefixtures("offline")
def test_a_variable_that_is_no_setting_is_a_note(kbnet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBNET_CONFIG", os.devnull)
    monkeypatch.setenv("KBNET_REQUIRE_EXTENSION", "1")
    assert findings(kbnet)["settings"]["state"] == "ok"
    monkeypatch.setenv("KBNET_DEVCE", "cpu")
    found = findings(kbnet)["settings"]
    assert (found["state"], found["hint"]) == ("note", "did you mean KBNET_DEVICE?")
    assert found["says"].endswith("variables that are no settings: KBNET_DEVCE")


@pytest.mark.usefixtures("offline")
def test_a_config_file_that_is_named_and_missing_is_a_problem(
    kbnet: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KBNET_CONFIG", str(tmp_path / "none.toml"))
    found = findings(kbnet)["settings"]
    assert (found["state"], found["hint"]) == ("problem", "make it, or unset KBNET_CONFIG")


def test_the_weights_folder_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "a/b/weights"
    assert weights_folder(Places(None, folder)).says == f"{folder}: not there yet"
    folder.mkdir(parents=True)
    (folder / "sidd.safetensors").write_bytes(b"x" * 1_500_000)
    (folder / ".locks").mkdir()
    (folder / ".locks/sidd.lock").touch()
    found = weights_folder(Places(None, folder))
    assert (found.state, found.says) == ("ok", f"{folder}: 1 file, 1.5 MB, writable")
    below = folder / "sidd.safetensors" / "deeper"
    found = weights_folder(Places(None, below))
    assert found.state == "note"
    assert "cannot be made" in found.says
    assert "--weights-folder" in found.hint


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("folder", ["~nobody-of-this-name/weights", "x" * 5000], ids=["home", "long"])
def test_a_weights_folder_that_cannot_be_looked_for_is_a_problem_of_the_settings(
    folder: str, kbnet: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBNET_WEIGHTS_FOLDER", folder)
    found = findings(kbnet)
    assert {name for name, finding in found.items() if finding["state"] == "problem"} == {"settings"}
    assert found["settings"]["says"].startswith("KBNET_WEIGHTS_FOLDER: ")


@pytest.mark.usefixtures("offline")
def test_folders_of_the_system_that_cannot_be_looked_into_are_notes(
    kbnet: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = "/" + "x" * 5000
    monkeypatch.setattr("platformdirs.user_data_path", lambda *_, **__: Path(far))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", far)
    found = findings(kbnet)
    for name, hint in (("weights folder", "--weights-folder"), ("Hugging Face cache", "HF_HOME")):
        assert found[name]["state"] == "note"
        assert "cannot be looked into: " in found[name]["says"]
        assert hint in found[name]["hint"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_weights_folder_is_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir(mode=0o500)
    found = weights_folder(Places(None, folder))
    assert (found.state, "not writable" in found.says) == ("note", True)


def test_the_hubs_cache_is_counted_and_what_of_it_is_kbnets(tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    places = Places("me/mine", tmp_path / "weights")
    places.weights_folder.mkdir()
    with HubServer() as server, in_this_process(server, tmp_path / "home"):
        cache = tmp_path / "home/hub"
        assert hub_cache(places).says == f"{cache}: not there yet"
        for repository, file, size in (
            ("me/mine", "a.safetensors", 1_000_000),
            ("me/mine", "README.md", 600_000),
            ("you/yours", "b.safetensors", 2_000_000),
            ("you/yours", "c.safetensors", 400_000),
        ):
            server.add(repository, file, file.encode() * (size // len(file)))
            hf_hub_download(repository, file)
        assert hub_cache(places).says == f"{cache}: 4.0 MB, of it kbnet's weights 1.0 MB"
        assert hub_cache(Places(None, tmp_path / "none")).says.endswith("kbnet's weights 0.0 MB")


def test_a_hub_that_answers_is_told_and_the_token_is_not(tmp_path: Path) -> None:
    with HubServer() as server:
        with in_this_process(server, tmp_path):
            found = hub(Places())
            assert (found.state, found.hint) == ("ok", "")
            assert found.says.startswith(f"{server.url} answers (")
            assert found.says.endswith("no token; no hub_repo is set")
        with in_this_process(server, tmp_path, token=SECRET):
            assert "a token is there" in hub(Places()).says
            assert SECRET not in hub(Places()).says


def test_the_repository_that_is_set_is_looked_for(tmp_path: Path) -> None:
    places = Places("me/mine")
    with HubServer() as server, in_this_process(server, tmp_path):
        found = hub(places)
        assert found.state == "note"
        assert "me/mine is not there or not to be seen by you, no token" in found.says
        assert "--hub-repo" in found.hint
        server.add("me/mine", "a.safetensors", b"x" * 100)
        server.add("me/mine", "b.safetensors", b"x" * 100)
        found = hub(places)
        assert (found.state, found.says) == ("ok", f"{server.url} has me/mine with 2 files of weights, no token")
        server.repository("me/mine", private=True)
        assert "not to be seen by you" in hub(places).says


def test_a_hub_that_cannot_be_reached_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kbnet: Call) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with HubServer() as server, in_this_process(server, tmp_path):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        found = findings(kbnet)["Hub"]
        assert found["state"] == "note"
        assert found["says"].startswith(f"http://127.0.0.1:{port}: not reachable: ")
        assert "work without it" in found["hint"]


def test_a_hub_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, HubServer() as server, in_this_process(server, tmp_path):
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr(doctor_places, "TIMEOUT_SECONDS", 0.1)
        found = hub(Places())
        assert (found.state, found.says.startswith(f"{endpoint}: not reachable: ")) == ("note", True)
        monkeypatch.setattr(doctor_places, "TIMEOUT_SECONDS", 60.0)
        monkeypatch.setattr(doctor_places, "DEADLINE_SECONDS", 0.2)
        started = time.monotonic()
        assert "no answer in 0 s" in hub(Places()).says
        assert time.monotonic() - started < 10


@pytest.mark.usefixtures("offline")
def test_offline_by_wish_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = hub(Places("me/mine"))
    assert found.state == "ok"
    assert found.says.endswith("offline by HF_HUB_OFFLINE, no token")
