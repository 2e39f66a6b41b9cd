"""What every test may ask for."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet_cli.hub.library import Library
from kbnet_cli.settings import Places, default_weights_folder
from tests.hub_client import in_this_process
from tests.hub_server import HubServer
from tests.networks import identity_network, random_network, save

TESTDATA = Path(__file__).parent.parent.parent / "shared" / "testdata"


OWN = ("KBNET_", "HF_", "HUGGING")
"""How the variables begin that kbnet and huggingface_hub go by."""


def pytest_configure() -> None:
    """Let nothing of the developer's own in, before anything is imported that reads the environment only once."""
    for name in list(os.environ):
        if name.startswith(OWN) and name != "KBNET_REQUIRE_EXTENSION":
            del os.environ[name]
    # Never made: what is imported before the first test finds no token there, and each test has a folder of its own.
    os.environ["HF_HOME"] = str(Path(tempfile.gettempdir()) / "kbnet-tests-none")
    # Triton asks when a kernel is defined. Its own warning on a default that is to change is not about us.
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def _own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test, and the processes it starts, empty folders for the config file, weights and the Hub's cache."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "data"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(home))
    monkeypatch.setenv("HF_HOME", str(home / "hub"))
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        monkeypatch.setattr(constants, "HF_HOME", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "hub" / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "hub" / "stored_tokens"))


@pytest.fixture(autouse=True)
def _seeds() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kept-weights",
        type=Path,
        default=default_weights_folder(),
        metavar="DIR",
        help="where published weights lie, for the tests marked weights (default: where kbnet keeps them)",
    )


@pytest.fixture
def kept_weights(request: pytest.FixtureRequest) -> Path:
    """The folder of published weights; nothing is fetched into it."""
    folder: Path = request.config.getoption("--kept-weights")
    return folder


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The shared folder of real and odd pictures; tests that need it are skipped where it is not."""
    if not TESTDATA.is_dir():
        pytest.skip(f"the test pictures are not at {TESTDATA}")
    return TESTDATA


@pytest.fixture(scope="session")
def identity_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a real network that works through all its layers and then adds nothing."""
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    return save(identity_network(), path, task="denoise", tile="64", limit="-0.5,1.5", card="none")


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small network that changes every pixel."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    return save(random_network(), path, task="denoise", tile="64", limit="-0.5,1.5", card="none")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that this process's client speaks to, without naps between tries."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    with HubServer() as server, in_this_process(server, tmp_path / "huggingface"):
        yield server


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The same over https, and for files of the web as well."""
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
    with HubServer(tls=True) as server, in_this_process(server, tmp_path / "huggingface"):
        yield server


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """Weights kept in a folder of the test's own."""
    return Library(Places(weights_folder=tmp_path / "kept"))


@pytest.fixture
def safetensors(tmp_path: Path) -> bytes:
    """A small network as kbnet writes it."""
    return save(random_network(), tmp_path / "own.safetensors", task="denoise", tile="64").read_bytes()


@pytest.fixture
def pth(tmp_path: Path) -> bytes:
    """The same network as the authors' derain and defocus files."""
    torch.save({"params": random_network().state_dict()}, tmp_path / "own.pth")
    return (tmp_path / "own.pth").read_bytes()
