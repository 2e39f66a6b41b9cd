"""Which hindrances on the way to a server may pass, and how often what they hinder is tried."""

import tenacity

PASSING = (408, 429, 500, 502, 503, 504)
"""What servers answer that may be well again in a moment."""
ATTEMPTS = 4


def attempts(also: tuple[int, ...] = ()) -> tenacity.Retrying:
    """Return the attempts at what may be done twice: huggingface_hub retries most by itself, this the rest.

    Args:
        also: further answers of a server that are worth another try.
    """

    def may_pass(error: BaseException) -> bool:
        import httpx2
        from huggingface_hub.errors import HfHubHTTPError

        if isinstance(error, HfHubHTTPError):
            return error.response.status_code in (*PASSING, *also)
        return isinstance(error, httpx2.ReadError | httpx2.WriteError | httpx2.RemoteProtocolError)

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        wait=tenacity.wait_exponential(multiplier=1, max=8),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
