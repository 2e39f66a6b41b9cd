"""What can go wrong on the way of a file, in words that help."""

import contextlib
import errno
import urllib.request
from collections.abc import Iterator
from typing import Any

from kbnet_cli.errors import FetchError, KBNetError
from kbnet_cli.hub.address import Address
from kbnet_cli.hub.retrying import PASSING


@contextlib.contextmanager
def explained(address: Address) -> Iterator[None]:
    """Say in our words what is wrong with a transfer."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except KBNetError:
        raise
    except errors.GatedRepoError as error:
        raise FetchError(
            f"{address}: its owner has to let you in", hint="accept its terms on its page, then hf auth login"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FetchError(
            f"{address}: no such repository, or it is private",
            hint="check the name; for a private one: hf auth login, or set HF_TOKEN",
        ) from error
    except (errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        what = "revision" if isinstance(error, errors.RevisionNotFoundError) else "file in the repository"
        raise FetchError(f"{address}: no such {what}", hint="check how it is written") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _no_connection(address, error.__cause__ or error) from error
    except errors.HfHubHTTPError as error:
        raise _refused(address, error) from error
    except httpx2.InvalidURL as error:
        raise FetchError(f"{address}: not an address: {_first_line(error)}", hint="check the address") from error
    except httpx2.HTTPError as error:
        raise _no_connection(address, error) from error
    except OSError as error:
        raise _not_written(address, error) from error
    except (ValueError, RuntimeError) as error:
        # huggingface_hub's own checks of names, and what its transfer library raises.
        raise FetchError(f"{address}: {_first_line(error)}") from error


def _no_connection(address: Address, error: BaseException) -> FetchError:
    from huggingface_hub import errors

    if isinstance(error, errors.HfHubHTTPError):
        return _refused(address, error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return FetchError(
            f"{address}: not on this machine, and HF_HUB_OFFLINE forbids fetching it", hint="unset HF_HUB_OFFLINE"
        )
    proxies = ", ".join(f"{scheme} {proxy}" for scheme, proxy in urllib.request.getproxies().items())
    through = f", which goes through a proxy ({proxies})," if proxies else ""
    return FetchError(
        f"{address}: no connection: {_first_line(error)}", hint=f"check the network{through} and try again"
    )


def _refused(address: Address, error: Any) -> FetchError:
    status = error.response.status_code
    if status == 404:
        return FetchError(f"{address}: not found", hint="check the address")
    if status in (401, 403):
        return FetchError(f"{address}: no permission ({status})", hint="log in with hf auth login, or set HF_TOKEN")
    if status in PASSING:
        return FetchError(f"{address}: the server is busy or ill ({status})")
    return FetchError(f"{address}: the server answers {status}")


def _not_written(address: Address, error: OSError) -> FetchError:
    reasons = {
        errno.ENOSPC: ("the disk is full", "make room, or keep weights elsewhere: --weights-folder, HF_HOME"),
        errno.EDQUOT: ("the quota is used up", "make room, or keep weights elsewhere: --weights-folder, HF_HOME"),
        errno.EACCES: ("no permission to write", "keep weights elsewhere: --weights-folder, HF_HOME"),
        errno.ENOTDIR: ("a file stands where a folder should be", "see what HF_HOME and --weights-folder are"),
        errno.EROFS: ("the folder is read-only", "keep weights elsewhere: --weights-folder, HF_HOME"),
    }
    plain = error.strerror if error.filename and error.strerror else _first_line(error)
    reason, hint = reasons.get(error.errno or 0, (plain, ""))
    where = f" ({error.filename})" if error.filename else ""
    return FetchError(f"{address}: {reason}{where}", hint=hint)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
