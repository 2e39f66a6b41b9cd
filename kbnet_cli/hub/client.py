"""huggingface_hub's client for the web, made careful.

It is not led to plain http, it does not wait for hours because a server says so, and everything goes through it: the
transfer library beside it (Xet) would go round these rules, and telemetry asks the Hub where another server is meant.
"""

from typing import Any
from urllib.parse import urlsplit

from kbnet_cli.errors import FetchError, WeightsError

LONGEST_WAIT_SECONDS = 120
"""A server that asks for more is told of instead of obeyed."""

_careful = False


def use_careful_client() -> None:
    """Set huggingface_hub up for this process. A client factory that a program has set before is replaced."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils import _http

    global _careful
    constants.HF_HUB_DISABLE_XET = True
    constants.HF_HUB_DISABLE_TELEMETRY = True
    if not _careful:
        set_client_factory(lambda: _careful_client(_http.default_client_factory()))
        _careful = True


def _careful_client(client: Any) -> Any:
    hooks = client.event_hooks
    client.event_hooks = {
        "request": [*hooks["request"], _refuse_plain],
        "response": [*hooks["response"], _refuse_long_waits],
    }
    return client


def _refuse_plain(request: Any) -> None:
    """Look at each request before it is sent, those after a redirect as well."""
    from huggingface_hub import constants

    url = urlsplit(str(request.url))
    endpoint = urlsplit(constants.ENDPOINT)
    if url.scheme != "https" and (url.scheme, url.hostname) != (endpoint.scheme, endpoint.hostname):
        raise WeightsError(
            f"led to {url.scheme}://{url.netloc}{url.path}: refused, for only https is safe from changes on the way",
            hint="fetch the file yourself from a source you trust, then kbnet weights import FILE --as NAME",
        )


def _refuse_long_waits(response: Any) -> None:
    from huggingface_hub.utils import parse_ratelimit_headers

    limit, after = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
    seconds = int(after) if after.isdecimal() else 0
    if limit is not None and limit.remaining == 0:
        seconds = max(seconds, limit.reset_in_seconds)
    if response.status_code >= 400 and seconds > LONGEST_WAIT_SECONDS:
        host, minutes = urlsplit(str(response.request.url)).netloc, round(seconds / 60)
        raise FetchError(
            f"{host}: the server is busy ({response.status_code}), and asks to come back in {minutes} minutes"
        )
