"""Addresses of weights: a file in a Hub repository, or a file on the web."""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from kbnet_cli.errors import UsageError
from kbnet_cli.settings import check_hub_repo

HUB_FORM = "hf:OWNER/REPO/FILE[@REVISION]"
MAIN = "main"
"""The revision that is meant where none is named."""
LONGEST = 1000
"""Characters of an address. No server takes much more, and its parts become names of files."""


@dataclass(frozen=True)
class HubAddress:
    """A file in a model repository of the Hugging Face Hub."""

    repository: str
    """OWNER/NAME."""
    file: str
    """Its path in the repository."""
    revision: str = MAIN
    """A branch, a tag or a commit."""

    def __str__(self) -> str:
        """Return the address as a user writes it."""
        revision = "" if self.revision == MAIN else f"@{self.revision}"
        return f"hf:{self.repository}/{self.file}{revision}"

    @property
    def may_change(self) -> bool:
        """Whether other bytes may come from it tomorrow: from all but commits."""
        return not re.fullmatch(r"[0-9a-f]{40}", self.revision)


@dataclass(frozen=True)
class WebAddress:
    """A file that an https server sends."""

    url: str

    def __str__(self) -> str:
        """Return the address as a user writes it."""
        return self.url

    @property
    def file(self) -> str:
        """The last part of its path."""
        return urlsplit(self.url).path.rpartition("/")[2]


Address = HubAddress | WebAddress


def parse(text: str) -> Address | None:
    """Read an address, or return None if the text is none.

    Raises:
        UsageError: it is an address that cannot be meant, or one that is not safe.
    """
    scheme = text.partition(":")[0].lower()
    if scheme not in ("hf", "https", "http", "ftp") or ":" not in text:
        return None
    if len(text) > LONGEST or not text.isprintable():
        raise UsageError(
            f"{text[:60]!r}: no address has {len(text)} characters, or such ones", hint="check the address"
        )
    if scheme == "hf":
        return _hub_address(text)
    if scheme == "https":
        return _web_address(text)
    if text[len(scheme) + 1 :].startswith("//"):
        raise UsageError(f"{text}: only https is fetched, for {scheme} can be changed on its way", hint="try https:")
    return None


def _web_address(text: str) -> WebAddress:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port  # the port is looked at here: it may be no number
    except ValueError as error:
        raise UsageError(f"{text}: not an address: {error}", hint="expected https://HOST/FILE") from error
    if not host or not parts.path.rpartition("/")[2] or " " in text:
        raise UsageError(f"{text}: names no file", hint="give the whole address, https://HOST/FILE")
    if parts.username or parts.password:
        raise UsageError(
            f"an address with a password in it is refused: https://…@{host}{parts.path}",
            hint="fetch the file in another program, then kbnet weights import FILE --as NAME",
        )
    return WebAddress(text)


def _hub_address(text: str) -> HubAddress:
    whole, at, revision = text[len("hf:") :].partition("@")
    owner, _, rest = whole.partition("/")
    name, _, file = rest.partition("/")
    # Both become names of files in huggingface_hub's cache.
    if not _is_relative(file) or (
        at and not (_is_relative(revision) and re.fullmatch(r"[\w./-]+", revision, re.ASCII))
    ):
        raise UsageError(f"{text}: not an address in the Hub", hint=f"expected {HUB_FORM}")
    try:
        check_hub_repo(f"{owner}/{name}")
    except UsageError as error:
        raise UsageError(f"{text}: {error.message}", hint=f"expected {HUB_FORM}") from error
    return HubAddress(f"{owner}/{name}", file, revision or MAIN)


def _is_relative(path: str) -> bool:
    """Return whether a path leads down and nowhere else, by names that every system takes."""
    parts = path.split("/")
    return "\\" not in path and ":" not in path and all(0 < len(part) <= 200 and part.strip(".") for part in parts)


def key(address: Address) -> str:
    """Return a name for files that is short, says what they are, and is another for every address."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "-", address.file, flags=re.ASCII).rpartition(".")[0].lower()
    return f"{stem[-60:].strip('._-') or 'weights'}-{digest}"
