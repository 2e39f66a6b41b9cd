"""How tests make the unmodified `huggingface_hub` speak to a hub of theirs, and to nothing else.

huggingface_hub reads its environment once, when it is imported, into `huggingface_hub.constants`. So

- a subprocess gets `environment(hub, home)` on top of `os.environ`;
- in this process, where it may have been imported long ago, `in_this_process(hub, home)` sets those constants, and puts
  them back at the end. It also replaces the client's naps: they are noted in `Naps.seconds` and not slept.

Both also make the certificates of `HubServer(tls=True)` trusted, through SSL_CERT_FILE: httpx2 reads it whenever it
makes a client, and then trusts that file alone, on every platform; so do `ssl.create_default_context()` and urllib. As
huggingface_hub keeps one client for the whole process, that one is closed once the variable is set (`close_session`);
`set_client_factory` is not needed. To be a client that does not trust them: delete the variable and close the session.

Everything is uploaded the LFS way: with hf-xet installed huggingface_hub would speak Xet, so that is switched off. It
then earns a DeprecationWarning of httpx2, which a test that uploads has to ignore:

    @pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.hub_server import HubServer, authority

_UNSET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_OIDC_RESOURCE")
_PROXIES = tuple(name for proxy in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY") for name in (proxy, proxy.lower()))


@dataclass
class Naps:
    """How long huggingface_hub would have slept before each further try."""

    seconds: list[float] = field(default_factory=list)


def environment(hub: HubServer, home: Path, *, token: str | None = None) -> dict[str, str]:
    """List what a subprocess needs in its environment; an empty value takes the place of whatever stood there.

    `home` becomes the client's own folder, with the cache in `home / "hub"`; the authority's certificate is put there.
    """
    home.mkdir(parents=True, exist_ok=True)
    certificate = home / "authority.pem"
    certificate.write_bytes(authority().cert_pem.bytes())
    variables = dict.fromkeys((*_UNSET, *_PROXIES), "")
    variables |= {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "SSL_CERT_FILE": str(certificate),
    }
    if token is not None:
        variables["HF_TOKEN"] = token
    return variables


@contextmanager
def in_this_process(hub: HubServer, home: Path, *, token: str | None = None) -> Iterator[Naps]:
    """Make this process's huggingface_hub speak to the hub, with its cache in `home / "hub"` and no token but this one.

    `HfApi` objects made before keep their own endpoint, except for the one behind huggingface_hub's functions.
    """
    naps = Naps()
    clock = SimpleNamespace(sleep=naps.seconds.append)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(hub, home, token=token).items():
            patch.setenv(name, value)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HOME", str(home))
        patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HUGGINGFACE_HUB_CACHE", str(home / "hub"))
        patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        patch.setattr(constants, "HF_STORED_TOKENS_PATH", str(home / "stored_tokens"))
        patch.setattr(constants, "AGENT_HARNESSES_PATH", str(home / ".agent_harnesses.json"))
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(importlib.import_module("huggingface_hub.hf_api").api, "endpoint", hub.url)
        for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
            patch.setattr(importlib.import_module(module), "time", clock)
        huggingface_hub.close_session()
        try:
            yield naps
        finally:
            huggingface_hub.close_session()
