"""Bytes of an address to a local file, through huggingface_hub: its client, its cache, its token, its environment.

Nothing here says whether a file is good; it only arrives whole or not at all. huggingface_hub is imported where it is
needed, because it takes half a second and weights that are here need none of it.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbnet_cli import __version__
from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub.address import Address, HubAddress, WebAddress
from kbnet_cli.hub.client import use_careful_client
from kbnet_cli.hub.problems import explained
from kbnet_cli.hub.retrying import attempts
from kbnet_cli.hub.shelf import sha256

Progress = Callable[[int, int | None], None]
"""Told the bytes there are and the bytes there will be, None if unknown."""
Announce = Callable[[str], Progress | None]
"""Told what is to be fetched; returns what is told of its bytes."""


def _silent(_name: str) -> None:
    """Tell nothing."""


@dataclass(frozen=True)
class Mark:
    """What the Hub says of a file before it is sent."""

    commit: str | None
    etag: str
    """The SHA-256 of a large file, and what git calls a small one."""
    size_bytes: int | None


def cached(address: HubAddress) -> Path | None:
    """Return the file in huggingface_hub's cache, if it is there and whole, without a connection."""
    from huggingface_hub import try_to_load_from_cache

    with explained(address):
        found = try_to_load_from_cache(address.repository, address.file, revision=address.revision)
    if not isinstance(found, str):
        return None
    path = Path(found).absolute()
    # Where links can be made, one leads to the bytes under their etag.
    damaged = path.is_symlink() and not _has_etag(path, path.readlink().name)
    return None if damaged else path


def ask_hub(address: HubAddress) -> Mark:
    """Ask the Hub what it has at an address.

    Raises:
        FetchError: it cannot be asked now, or has nothing there.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    use_careful_client()
    with explained(address):
        url = hf_hub_url(address.repository, address.file, revision=address.revision)
        found = get_hf_file_metadata(url, retry_on_errors=True)
    if found.etag is None:
        raise FetchError(
            f"{address}: the server is no Hub: it says nothing of the file", hint="see what HF_ENDPOINT is"
        )
    return Mark(found.commit_hash, found.etag, found.size)


def from_hub(
    address: HubAddress, mark: Mark, folder: Path, *, largest_bytes: int, announce: Announce = _silent
) -> Path:
    """Fetch a file of a Hub repository into a folder of our own: huggingface_hub's cache belongs to other programs too.

    Args:
        address: where it is.
        mark: what the Hub has said of it; that very file is fetched.
        folder: where it goes, with what huggingface_hub notes of it.
        largest_bytes: a file that is larger is refused.
        announce: told before the server is asked.

    Raises:
        FetchError: it cannot be had now.
        WeightsError: it is larger than it should be, or not what the Hub says of it.
    """
    from huggingface_hub import hf_hub_download

    if mark.size_bytes is not None and mark.size_bytes > largest_bytes:
        raise _too_large(address, mark.size_bytes, largest_bytes)
    bar = _bar(address, largest_bytes, announce(str(address)))
    with explained(address), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of little space on the disk, before the error that tells of it
        for attempt in attempts():
            with attempt:
                found = hf_hub_download(
                    address.repository,
                    address.file,
                    revision=mark.commit or address.revision,
                    local_dir=folder,
                    cache_dir=folder,  # else it takes what it finds in its own, damaged or not
                    tqdm_class=bar,
                )
    if not _has_etag(Path(found), mark.etag):
        raise WeightsError(
            f"{address}: damaged on its way: it has not the sha256 (or git hash) {mark.etag} that the Hub tells",
            hint="try again; nothing of it is kept",
        )
    return Path(found)


def _has_etag(path: Path, etag: str) -> bool:
    """Compare a file with what the Hub says of it; huggingface_hub itself compares lengths only."""
    if re.fullmatch("[0-9a-f]{64}", etag):
        return sha256(path) == etag
    if re.fullmatch("[0-9a-f]{40}", etag):
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == etag
    return True  # another kind of server


def from_web(address: WebAddress, part: Path, *, largest_bytes: int, announce: Announce = _silent) -> None:
    """Fetch a file of the web, going on with what an earlier try has left where it is still the same file.

    Args:
        address: where it is.
        part: where its bytes go. A file beside it keeps the server's mark of the version (ETag).
        largest_bytes: a file that is larger is refused.
        announce: told before the server is asked.

    Raises:
        FetchError: it cannot be had now. What there is stays in `part`.
        WeightsError: it is larger than it should be.
    """
    use_careful_client()
    bar = _bar(address, largest_bytes, announce(str(address)))
    with explained(address):
        for attempt in attempts():
            with attempt:
                _fetch(address, part, largest_bytes, bar)


# No token of the Hub goes to other servers, and a compressed answer could not be gone on with.
_HEADERS = {"User-Agent": f"kbnet/{__version__}", "Accept-Encoding": "identity"}


def _fetch(address: WebAddress, part: Path, largest_bytes: int, bar: Any) -> None:
    from huggingface_hub.file_download import http_get

    size, mark = _ask(address)
    if size is not None and size > largest_bytes:
        raise _too_large(address, size, largest_bytes)
    left = _left(address, part, mark, size)
    with part.open("r+b" if left else "wb") as file:
        # The old bytes are gone before the new mark is written.
        _mark_file(part).write_text(_marked(address, mark), encoding="utf-8")
        file.seek(left)
        http_get(
            address.url,
            file,
            resume_size=left,
            headers=_HEADERS if mark is None else {**_HEADERS, "If-Range": mark},
            expected_size=size,
            tqdm_class=bar,
        )


def _ask(address: WebAddress) -> tuple[int | None, str | None]:
    """Return the size and the mark (ETag) of a file, as far as the server tells them before it is sent."""
    from huggingface_hub import constants
    from huggingface_hub.utils import hf_raise_for_status, http_backoff

    answer = http_backoff("HEAD", address.url, max_retries=2, headers=_HEADERS, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if answer.status_code in (403, 405, 501):  # some servers send files and do not answer questions about them
        return None, None
    hf_raise_for_status(answer)
    size, mark = answer.headers.get("Content-Length"), answer.headers.get("ETag")
    # A weak mark (W/"…") may stand for other bytes.
    strong = mark is not None and mark.startswith('"')
    # Some servers say 0 where they do not know.
    return int(size) or None if size is not None and size.isdecimal() else None, mark if strong else None


def _left(address: WebAddress, part: Path, mark: str | None, size: int | None) -> int:
    """Return how many bytes an earlier try has left that are of the same file."""
    try:
        known = _mark_file(part).read_text(encoding="utf-8")
        there = part.stat().st_size
    except (OSError, ValueError):
        return 0
    if mark is None or size is None or known != _marked(address, mark) or there > size:
        return 0
    return there


def _marked(address: WebAddress, mark: str | None) -> str:
    # Two servers may give different files the same mark.
    return json.dumps({"address": str(address), "mark": mark})


def forget_part(part: Path) -> None:
    """Delete what a try has left."""
    part.unlink(missing_ok=True)
    _mark_file(part).unlink(missing_ok=True)


def _mark_file(part: Path) -> Path:
    return part.with_name(part.name + ".mark")


def _bar(address: Address, largest_bytes: int, progress: Progress | None) -> Any:
    """Return what huggingface_hub takes for a class of progress bars, and tells of every piece that arrives."""

    class Bar:
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.total, self.n = total, initial

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, more: int = 1) -> None:
            self.n += more
            if self.n > largest_bytes:
                raise _too_large(address, self.n, largest_bytes)
            if progress is not None:
                progress(self.n, self.total)

        def close(self) -> None:
            pass

    return Bar


def _too_large(address: Address, found: int, largest: int) -> WeightsError:
    return WeightsError(
        f"{address}: at least {found / 1e6:.1f} MB, expected {largest / 1e6:.1f} MB at most: refused",
        hint="this is not the file that is meant; nothing of it is kept",
    )
