"""What every test may ask for."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.networks import identity_network, random_network, save

TESTDATA = Path(__file__).parent.parent.parent / "shared" / "testdata"


@pytest.fixture(autouse=True)
def _seeds() -> None:
    np.random.seed(0)
    torch.manual_seed(0)


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
