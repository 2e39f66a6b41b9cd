"""huggingface_hub's client for the web, made careful: it is not led to plain http."""

from typing import Any
from urllib.parse import urlsplit

from kbnet_cli.errors import WeightsError


def use_careful_client() -> None:
    """Let huggingface_hub refuse to be led to plain http, except to the endpoint that the user has configured."""
    from huggingface_hub import set_client_factory
    from huggingface_hub.utils import _http

    global _careful
    if not _careful:
        set_client_factory(lambda: _careful_client(_http.default_client_factory()))
        _careful = True


_careful = False


def _careful_client(client: Any) -> Any:
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "request": [*hooks["request"], _refuse_plain]}
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
