"""Bytes of an address to a local file, through huggingface_hub: its client, its cache, its token, its environment.

Nothing here says whether a file is good; it only arrives whole or not at all. huggingface_hub is imported where it is
needed, because it takes half a second and cached weights need none of it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tenacity

from kbnet_cli.errors import WeightsError
from kbnet_cli.hub.address import Address, HubAddress, WebAddress
from kbnet_cli.hub.client import use_careful_client
from kbnet_cli.hub.problems import PASSING, explained
from kbnet_cli.hub.shelf import sha256

Progress = Callable[[int, int | None], None]
"""Told the bytes there are and the bytes there will be, None if unknown."""
Announce = Callable[[str], Progress | None]
"""Told what begins to arrive; returns what is told of its bytes."""
ATTEMPTS = 4


def cached(address: HubAddress) -> Path | None:
    """Return the file in huggingface_hub's cache, without a connection."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(address.repository, address.file, revision=address.revision)
    return Path(found) if isinstance(found, str) else None


def from_hub(address: HubAddress, *, largest_bytes: int, announce: Announce = lambda _name: None) -> Path:
    """Fetch a file of a Hub repository into huggingface_hub's cache, if it is not there in its newest form.

    Raises:
        FetchError: it cannot be had now.
        WeightsError: it is larger than it should be, or not what the Hub says of it.
    """
    from huggingface_hub import hf_hub_download

    use_careful_client()
    bar = _bar(address, largest_bytes, announce)
    with explained(address):
        for attempt in _attempts():
            with attempt:
                found = hf_hub_download(
                    address.repository,
                    address.file,
                    revision=address.revision,
                    tqdm_class=bar,
                )
    _compare(address, Path(found))
    return Path(found)


def _compare(address: HubAddress, file: Path) -> None:
    """Compare a large file with the hash that the Hub tells and its cache names it by; the client itself does not."""
    expected = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", expected) and (found := sha256(file)) != expected:
        forget_cached(file)
        raise WeightsError(
            f"{address}: damaged on its way: the Hub says sha256 {expected}, it is {found}",
            hint="try again; nothing of it is kept",
        )


def forget_cached(path: Path) -> None:
    """Delete a file from huggingface_hub's cache: what it points to as well."""
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def from_web(address: WebAddress, part: Path, *, largest_bytes: int, announce: Announce = lambda _name: None) -> None:
    """Fetch a file of the web, going on with what an earlier try has left where it is still the same file.

    Args:
        address: where it is.
        part: where its bytes go. A file beside it keeps the server's mark of the version (ETag).
        largest_bytes: a file that is larger is refused.
        announce: told when bytes come.

    Raises:
        FetchError: it cannot be had now. What there is stays in `part`.
        WeightsError: it is larger than it should be.
    """
    use_careful_client()
    bar = _bar(address, largest_bytes, announce)
    with explained(address):
        for attempt in _attempts():
            with attempt:
                _fetch(address, part, largest_bytes, bar)


def _fetch(address: WebAddress, part: Path, largest_bytes: int, bar: Any) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    size, mark = _ask(address)
    if size is not None and size > largest_bytes:
        raise _too_large(address, size, largest_bytes)
    left = _left(part, mark, size)
    # No token of the Hub goes to other servers, and a compressed answer could not be gone on with.
    headers = {**build_hf_headers(token=False), "Accept-Encoding": "identity"}
    if mark is not None:
        headers["If-Range"] = mark
    _mark_file(part).write_text(json.dumps({"address": str(address), "mark": mark}), encoding="utf-8")
    with part.open("r+b" if left else "wb") as file:
        file.seek(left)
        http_get(
            address.url,
            file,
            resume_size=left,
            headers=headers,
            expected_size=size,
            tqdm_class=bar,
        )


def _ask(address: WebAddress) -> tuple[int | None, str | None]:
    """Return the size and the mark (ETag) of a file, as far as the server tells them before it is sent."""
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_backoff

    headers = {**build_hf_headers(token=False), "Accept-Encoding": "identity"}
    answer = http_backoff("HEAD", address.url, max_retries=2, headers=headers, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    if answer.status_code in (403, 405, 501):  # some servers send files and do not answer questions about them
        return None, None
    hf_raise_for_status(answer)
    size, mark = answer.headers.get("Content-Length"), answer.headers.get("ETag")
    # A weak mark (W/"…") may stand for other bytes.
    strong = mark is not None and mark.startswith('"')
    return int(size) if size is not None and size.isdecimal() else None, mark if strong else None


def _left(part: Path, mark: str | None, size: int | None) -> int:
    """Return how many bytes an earlier try has left that are of the same file."""
    if mark is None or not part.is_file():
        return 0
    try:
        known = json.loads(_mark_file(part).read_text(encoding="utf-8"))["mark"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    there = part.stat().st_size
    return there if known == mark and (size is None or there <= size) else 0


def forget_part(part: Path) -> None:
    """Delete what a try has left."""
    part.unlink(missing_ok=True)
    _mark_file(part).unlink(missing_ok=True)


def _mark_file(part: Path) -> Path:
    return part.with_name(part.name + ".mark")


def _attempts() -> tenacity.Retrying:
    """Return the attempts at a transfer: huggingface_hub retries most by itself, this the rest."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass),
        wait=tenacity.wait_exponential(multiplier=1, max=8),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING
    return isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.RemoteProtocolError)


def _bar(address: Address, largest_bytes: int, announce: Announce) -> Any:
    """Return what huggingface_hub takes for a class of progress bars, and tells of every piece that arrives."""
    announced: list[Progress | None] = []  # once, however often the transfer is tried

    class Bar:
        def __init__(self, *_: object, total: int | None = None, initial: int = 0, **__: object) -> None:
            self.total, self.n = total, initial
            if not announced:
                announced.append(announce(str(address)))

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, more: int = 1) -> None:
            self.n += more
            if self.n > largest_bytes:
                raise _too_large(address, self.n, largest_bytes)
            if announced[0] is not None:
                announced[0](self.n, self.total)

        def update_transfer(self, more: int = 1) -> None:
            """Hear of bytes on the network: those in the file are what counts here."""

        def set_postfix_str(self, *_: object, **__: object) -> None:
            pass

        def refresh(self, *_: object, **__: object) -> None:
            pass

        def close(self) -> None:
            pass

    return Bar


def _too_large(address: Address, found: int, largest: int) -> WeightsError:
    return WeightsError(
        f"{address}: at least {found / 1e6:.1f} MB, expected {largest / 1e6:.1f} MB at most: refused",
        hint="this is not the file that is meant; nothing of it is kept",
    )
