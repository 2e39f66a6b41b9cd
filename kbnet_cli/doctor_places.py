"""The doctor's looks at settings, and at where weights come from and are kept."""

import difflib
import os
import queue
import tempfile
import threading
from pathlib import Path

from kbnet_cli.findings import Look, first_line
from kbnet_cli.settings import BY_VARIABLE, CONFIG_VARIABLE, TOLD_VARIABLES, Places, Survey

TIMEOUT_SECONDS = 5.0
"""For the Hub to be connected to, and for it to answer."""
DEADLINE_SECONDS = 7.0
"""For both together, and for the search of its address, which no time-out of a connection counts."""
OTHER_VARIABLES = (CONFIG_VARIABLE, "KBNET_REQUIRE_EXTENSION", *TOLD_VARIABLES)
WEIGHTS = (".safetensors", ".pth")


def settings(survey: Survey) -> Look:
    """Tell which config file there is, and what is not as built in."""
    config = survey.config
    if survey.troubles:
        messages = "; ".join(trouble.message for trouble in survey.troubles)
        return Look(messages, "problem", survey.troubles[0].hint)
    set_ones = [
        f"{part.key.name} {part.value} ({part.origin.name})" for part in survey.parts if part.origin.kind != "built in"
    ]
    file = f"{config.path}{'' if config.there else ' (not there)'}"
    says = f"{file}: {', '.join(set_ones) or 'all as built in'}"
    unknown = [
        name for name in os.environ if name.startswith("KBNET_") and name not in (*BY_VARIABLE, *OTHER_VARIABLES)
    ]
    if unknown:
        close = difflib.get_close_matches(unknown[0], BY_VARIABLE, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected {', '.join(BY_VARIABLE)}"
        return Look(f"{says}; variables that are no settings: {', '.join(unknown)}", "note", hint)
    return Look(says)


def weights_folder(places: Places) -> Look:
    """Tell what lies in the folder of weights, and whether more can be put there."""
    folder = places.weights_folder
    try:
        return _counted(folder) if folder.is_dir() else _missing(folder)
    except OSError as error:
        return Look(f"{folder}: cannot be looked into: {error.strerror}", "note", "choose another: --weights-folder")


def _missing(folder: Path) -> Look:
    above = next(path for path in folder.absolute().parents if path.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        return Look(f"{folder}: not there yet")
    return Look(f"{folder}: not there, and cannot be made in {above}", "note", "choose another: --weights-folder")


def _counted(folder: Path) -> Look:
    files = [path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts]
    says = f"{folder}: {_count(len(files), 'file')}, {_megabytes(sum(path.stat().st_size for path in files))}"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Look(f"{says}, writable")
    except OSError as error:
        return Look(
            f"{says}, not writable: {error.strerror}", "note", "make it writable, or choose another: --weights-folder"
        )


def hub_cache(places: Places) -> Look:
    """Tell what huggingface_hub keeps for other programs, and how much of it is weights of the user's repository."""
    from huggingface_hub import constants, scan_cache_dir

    folder = Path(constants.HF_HUB_CACHE)
    try:
        there = folder.is_dir()
    except OSError as error:
        return Look(f"{folder}: cannot be looked into: {error.strerror}", "note", "set HF_HOME to another folder")
    if not there:
        return Look(f"{folder}: not there yet")
    found = scan_cache_dir(folder)
    own = {
        file.blob_path.resolve(): file.size_on_disk
        for repo in found.repos
        for revision in repo.revisions
        for file in revision.files
        if repo.repo_id == places.hub_repo and file.file_path.suffix.lower() in WEIGHTS
    }
    return Look(f"{folder}: {_megabytes(found.size_on_disk)}, of it kbnet's weights {_megabytes(sum(own.values()))}")


def hub(places: Places) -> Look:
    """Tell whether the Hub answers, or the repository that is configured there."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return Look(f"{constants.ENDPOINT}: offline by HF_HUB_OFFLINE, {_token()}")
    # In a thread that nobody waits for, because nothing ends the search of an address.
    answers: queue.SimpleQueue[Look] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_asked(places.hub_repo)), daemon=True).start()
    try:
        return answers.get(timeout=DEADLINE_SECONDS)
    except queue.Empty:
        return _unreachable(f"no answer in {DEADLINE_SECONDS:.0f} s")


def _asked(repository: str | None) -> Look:
    import httpx2
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.utils import get_session

    from kbnet_cli.hub.client import use_careful_client

    use_careful_client()
    try:
        if repository is None:
            answer = get_session().head(constants.ENDPOINT, timeout=TIMEOUT_SECONDS)
            return Look(f"{constants.ENDPOINT} answers ({answer.status_code}), {_token()}; no hub_repo is set")
        files = HfApi().model_info(repository, timeout=TIMEOUT_SECONDS).siblings or []
        weights = [file for file in files if file.rfilename.lower().endswith(WEIGHTS)]
        return Look(f"{constants.ENDPOINT} has {repository} with {_count(len(weights), 'file')} of weights, {_token()}")
    except errors.RepositoryNotFoundError:
        return Look(
            f"{constants.ENDPOINT} answers, but {repository} is not there or not to be seen by you, {_token()}",
            "note",
            "check --hub-repo; for a private repository: hf auth login, or set HF_TOKEN",
        )
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = "hf auth login, or set HF_TOKEN" if status in (401, 403) else "try again later"
        return Look(f"{constants.ENDPOINT} answers {status} for {repository}, {_token()}", "note", hint)
    except httpx2.HTTPError as error:
        return _unreachable(first_line(error))
    except Exception as error:  # a thread's error would end nowhere: what comes is a row as any other
        return _unreachable(f"{type(error).__name__}: {first_line(error)}")


def _unreachable(reason: str) -> Look:
    from huggingface_hub import constants

    return Look(
        f"{constants.ENDPOINT}: not reachable: {reason}",
        "note",
        "weights that are here work without it; else check the network, the proxy and HF_ENDPOINT",
    )


def _token() -> str:
    from huggingface_hub import get_token

    return "a token is there" if get_token() else "no token"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB"
