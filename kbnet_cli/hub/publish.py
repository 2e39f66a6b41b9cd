"""From weights made ready to one commit in a repository of the Hub."""

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from kbnet_cli.errors import FetchError, WeightsError
from kbnet_cli.hub import card
from kbnet_cli.hub.address import HubAddress, WebAddress
from kbnet_cli.hub.card import README, TABLE, Section
from kbnet_cli.hub.client import use_careful_client
from kbnet_cli.hub.edition import Ready
from kbnet_cli.hub.problems import explained
from kbnet_cli.hub.retrying import PASSING, attempts

Result = TypeVar("Result")
MOVED = (409, 412)
"""What the Hub answers where somebody else has made a commit meanwhile."""
LARGEST_TABLE_BYTES = 10_000_000
LOG_IN = "log in with hf auth login, with a token that may write there, or set HF_TOKEN"
AGAIN = "try again; what has already arrived is not sent twice"


@dataclass(frozen=True)
class Destination:
    """A repository as it is before a commit."""

    repository: str
    """OWNER/NAME."""
    private: bool
    """Whether it is, or will be, for its owner only."""
    commit: str | None
    """The newest; None where there is no such repository yet."""
    files: Mapping[str, tuple[int, str | None]]
    """Size in bytes, and of large files the SHA-256."""

    def replaced(self, files: Sequence[Ready]) -> list[str]:
        """Return which files there would become others, the card among them if it is not ours."""
        here = {ready.section.file: ready.section.sha256 for ready in files}
        changed = [name for name, digest in here.items() if name in self.files and self.files[name][1] != digest]
        return [*changed, README] if README in self.files and TABLE not in self.files else changed


@dataclass(frozen=True)
class Published:
    """A file as it now is in the Hub."""

    address: HubAddress
    """With the commit."""
    section: Section

    def __str__(self) -> str:
        """Return what others need to fetch just this file."""
        return f"{self.address} sha256 {self.section.sha256}"

    def as_json(self) -> str:
        """Return one line of JSON."""
        event = {
            "event": "published",
            "address": str(self.address),
            "repository": self.address.repository,
            "file": self.address.file,
            "commit": self.address.revision,
            "sha256": self.section.sha256,
            "size_bytes": self.section.size_bytes,
            "licence": self.section.licence,
        }
        return json.dumps(event, ensure_ascii=False)


def question(destination: Destination, files: Sequence[Ready]) -> str:
    """Return what a user has to agree to."""
    count = "1 file" if len(files) == 1 else f"{len(files)} files"
    size = sum(ready.section.size_bytes for ready in files) / 1e6
    whose = "private" if destination.private else "public"
    replaced = destination.replaced(files)
    instead = f", in place of the {', '.join(replaced)} there" if replaced else ""
    return f"publish {count} ({size:.{0 if size >= 10 else 1}f} MB) to {destination.repository}, {whose}{instead}?"


def check_login(repository: str) -> None:
    """See whether the Hub knows who this is, before work is done in vain.

    Raises:
        WeightsError: nobody is logged in, or not with a token that may write.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise WeightsError("publishing needs a login in the Hub", hint="hf auth login, or set HF_TOKEN")
    use_careful_client()
    with _told(repository):
        account: dict[str, Any] = _tried(lambda: HfApi().whoami())
    token = account.get("auth", {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise WeightsError("the Hub's token may only read", hint=LOG_IN)


def look(repository: str, *, private: bool) -> Destination:
    """Ask what is in a repository.

    Raises:
        WeightsError: it is there and public, but a private one is wanted; or it cannot be seen now.
    """
    use_careful_client()
    with _told(repository):
        return _agreed(_tried(lambda: _look(repository)), private=private) or Destination(repository, private, None, {})


def _look(repository: str, revision: str | None = None) -> Destination | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = HfApi().model_info(repository, revision=revision, files_metadata=True)
    except RepositoryNotFoundError:
        return None
    files = {file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else None) for file in found.siblings or []}
    return Destination(repository, bool(found.private), found.sha, files)


def _agreed(found: Destination | None, *, private: bool) -> Destination | None:
    if found is not None and private and not found.private:
        raise WeightsError(
            f"{found.repository}: is there already, and public", hint="leave out --private, or take another repository"
        )
    return found


def upload(destination: Destination, files: Sequence[Ready]) -> tuple[Published, ...]:
    """Publish files as one commit: with the card and its table, which keep what they say of other files there.

    The repository is made if there is none. If the commit does not come about, nothing in it has changed.

    Raises:
        WeightsError: the Hub does not take them, or has others afterwards.
    """
    from huggingface_hub import HfApi

    use_careful_client()
    repository = destination.repository
    with _told(repository):
        if destination.commit is None:
            _validate(card.card(repository, [ready.section for ready in files]))
            _tried(lambda: HfApi().create_repo(repository, private=destination.private, exist_ok=True))
        commit = _tried(lambda: _commit(destination, files))
        found = _tried(lambda: _look(repository, commit))
    for ready in files:
        _, digest = found.files.get(ready.section.file, (0, None)) if found else (0, None)
        if digest != ready.section.sha256:
            raise WeightsError(
                f"hf:{repository}/{ready.section.file}@{commit}: the Hub has sha256 {digest or 'of no such file'}, "
                f"sent was {ready.section.sha256}",
                hint="look at the repository's files, and publish it again",
            )
    return tuple(
        Published(HubAddress(repository, ready.section.file, commit), ready.section)
        for ready in sorted(files, key=lambda ready: ready.section.file)
    )


def _commit(destination: Destination, files: Sequence[Ready]) -> str:
    """Make the commit on top of what is there just now."""
    from huggingface_hub import CommitOperationAdd, HfApi

    repository = destination.repository
    now = _agreed(_look(repository), private=destination.private)
    if now is None:
        raise WeightsError(f"{repository}: cannot be seen with this token, though it is there", hint=LOG_IN)
    sections = _merged(now, [ready.section for ready in files])
    text = card.card(repository, sections)
    _validate(text)
    names = ", ".join(ready.section.file for ready in files)
    return (
        HfApi()
        .create_commit(
            repository,
            [
                *(CommitOperationAdd(ready.section.file, ready.path) for ready in files),
                CommitOperationAdd(TABLE, card.table_of(sections)),
                CommitOperationAdd(README, text.encode()),
            ],
            commit_message=f"Publish {names}" if len(files) < 4 else f"Publish {len(files)} files of weights",
            parent_commit=now.commit,
        )
        .oid
    )


def _merged(now: Destination, new: Sequence[Section]) -> list[Section]:
    """Return what the table will hold: what it tells of files that are still there as it tells it, and the new."""
    kept = {
        section.file: section for section in _table(now) if now.files.get(section.file, (0, ""))[1] == section.sha256
    }
    merged = kept | {section.file: section for section in new}
    return [merged[file] for file in sorted(merged)]


def _table(now: Destination) -> tuple[Section, ...]:
    from huggingface_hub import hf_hub_download

    if TABLE not in now.files:
        return ()
    address = HubAddress(now.repository, TABLE)
    if now.files[TABLE][0] > LARGEST_TABLE_BYTES:
        raise WeightsError(f"{address}: too large to be ours", hint="delete it there, and publish all files again")
    with tempfile.TemporaryDirectory() as folder:
        file = hf_hub_download(now.repository, TABLE, revision=now.commit, local_dir=folder)
        return card.sections_from(Path(file).read_bytes(), str(address))


def _validate(text: str) -> None:
    """Let the Hub look at the card's metadata, before anything else is sent.

    Raises:
        WeightsError: it does not know the licence, say.
    """
    from huggingface_hub import ModelCard

    try:
        ModelCard(text).validate()
    except ValueError as error:
        try:
            said = "; ".join(problem["message"] for problem in json.loads(str(error))["errors"])
        except (ValueError, KeyError, TypeError):
            said = str(error)
        raise WeightsError(
            f"the Hub does not take the card: {said}",
            hint="the licences it knows are at https://huggingface.co/docs/hub/repositories-licenses",
        ) from error


def _tried(act: Callable[[], Result]) -> Result:
    """Do what may be done twice, again where what hinders it may pass."""
    return attempts(also=MOVED)(act)


@contextmanager
def _told(repository: str) -> Iterator[None]:
    """Say in our words what is wrong with publishing, and let huggingface_hub say nothing itself."""
    from huggingface_hub import constants, errors

    place = f"{constants.ENDPOINT}/{repository}"
    try:
        with _silent(), explained(WebAddress(place)):
            wrapped: RuntimeError | None = None
            try:
                yield
            except RuntimeError as error:
                wrapped = error
            if wrapped is not None:  # huggingface_hub's word around what went wrong with one file
                raise wrapped.__cause__ or wrapped
    except FetchError as error:
        cause = error.__cause__
        message, hint = error.message, AGAIN if error.hint == FetchError.usual_hint else error.hint
        if isinstance(cause, errors.OfflineModeIsEnabled):
            message, hint = f"{place}: HF_HUB_OFFLINE forbids publishing", "unset it"
        elif isinstance(cause, errors.HfHubHTTPError) and cause.response.status_code not in PASSING:
            status, said = cause.response.status_code, (cause.server_message or "").strip().partition("\n")[0]
            message = f"{place}: refused ({status})" + (f": {said}" if said else "")
            hint = LOG_IN if status in (401, 403) else AGAIN
        raise WeightsError(message, hint=hint) from cause


@contextmanager
def _silent() -> Iterator[None]:
    """Keep huggingface_hub's bars and its lines about further tries off the terminal."""
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    shown = constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not are_progress_bars_disabled()
    verbosity = logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Warnings while validating metadata")
        try:
            logging.set_verbosity(logging.ERROR)
            if shown:
                disable_progress_bars()
            yield
        finally:
            logging.set_verbosity(verbosity)
            if shown:
                enable_progress_bars()
