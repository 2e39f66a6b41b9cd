"""What tests of fetched weights share: a small network as an entry of the catalogue, and looks at what was kept."""

import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kbnet_cli.catalogue import Entry, Facts, Source
from kbnet_cli.hub.library import Library
from tests.networks import random_network

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
