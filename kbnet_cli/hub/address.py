"""Addresses of weights: a file in a Hub repository, or a file on the web."""

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from kbnet_cli.errors import UsageError

HUB_FORM = "hf:OWNER/REPO/FILE[@REVISION]"
MAIN = "main"
"""The revision that is meant where none is named."""


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
    if scheme == "hf":
        return _hub_address(text)
    if scheme == "https":
        parts = urlsplit(text)
        if not parts.hostname or parts.path in ("", "/"):
            raise UsageError(f"{text}: names no file", hint="give the whole address, https://HOST/FILE")
        if parts.username or parts.password:
            raise UsageError(
                f"an address with a password in it is refused: https://…@{parts.hostname}{parts.path}",
                hint="fetch the file in another program, then kbnet weights import FILE --as NAME",
            )
        return WebAddress(text)
    if scheme in ("http", "ftp") and text[len(scheme) + 1 :].startswith("//"):
        raise UsageError(f"{text}: only https is fetched, for {scheme} can be changed on its way", hint="try https:")
    return None


def _hub_address(text: str) -> HubAddress:
    whole, _, revision = text[len("hf:") :].partition("@")
    owner, _, rest = whole.partition("/")
    name, _, file = rest.partition("/")
    words_fit = all(re.fullmatch(r"\w[\w.-]*", word, re.ASCII) for word in (owner, name))
    parts = file.split("/")
    file_fits = all(part not in ("", ".", "..") for part in parts) and "\\" not in file and file.isprintable()
    revision_fits = re.fullmatch(r"[\w./-]+", revision, re.ASCII) and ".." not in revision if "@" in text else True
    if not (words_fit and file_fits and revision_fits):
        raise UsageError(f"{text}: not an address in the Hub", hint=f"expected {HUB_FORM}")
    return HubAddress(f"{owner}/{name}", file, revision or MAIN)


def key(address: Address) -> str:
    """Return a name for files that is short, says what they are, and is another for every address."""
    digest = hashlib.sha256(str(address).encode()).hexdigest()[:12]
    stem = re.sub(r"[^\w.-]+", "-", address.file, flags=re.ASCII).rpartition(".")[0] or "weights"
    return f"{stem[-60:].lstrip('.-')}-{digest}"
