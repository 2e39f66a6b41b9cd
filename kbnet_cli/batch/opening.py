"""From a job to its photo: read, settle what it becomes, see whether that is there already, decode."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from kbnet_cli.batch.journals import Journals
from kbnet_cli.batch.order import STANDARD, Job, Order, is_folder
from kbnet_cli.batch.planning import Claims, settle
from kbnet_cli.batch.sidecars import Sidecar, sidecars
from kbnet_cli.errors import InputError, OutputError
from kbnet_cli.formats import codec
from kbnet_cli.journal import Stamp
from kbnet_cli.photo import Photo

Found = Literal["kept", "skipped"] | bool
"""What is to be done about an output: left, or made, in place of another or not."""


@dataclass(frozen=True)
class Opened:
    """A photo that is to be restored, or why it is not."""

    job: Job
    """Settled."""
    status: Literal["kept", "skipped"] | None = None
    """What became of it already: kept or skipped; None: it is to be restored."""
    photo: Photo | None = None
    stamp: Stamp | None = None
    """Of the input, where a journal is kept."""
    sidecars: tuple[Sidecar, ...] = ()
    replaces: bool = False
    """Whether the output may be replaced."""


def open_photo(
    job: Job, order: Order, claims: Claims, journals: Journals | None, *, wait: Callable[[], None] = lambda: None
) -> Opened:
    """Read a photo whose output is not there yet, as it is to be restored.

    `wait` returns when all earlier photos are done with. It is called where a photo turns out to be of another format
    than its name says, so that of two such photos that would write one output always the earlier has it; and where a
    photo has come before and was changed since.

    Raises:
        PhotoError: it cannot be read, or its output cannot be written.
    """
    if job.error is not None:
        raise job.error
    if journals is not None:
        journals.check_place()
    expected = job.target
    found: Found | None = None
    # Asked before anything is read where the output's name is known: thousands of photos that are done already are
    # passed over quickly.
    if job.target == STANDARD or codec.format_of_name(job.target.name):
        if claims.claim(job):
            wait()
        found = existing_output(job, order, claims, journals)
        if isinstance(found, str):
            return _passed_over(job, found, order, claims)
    before = None if journals is None or job.source == STANDARD else _status_of(job.source)
    data = read(job.source) if job.data is None else job.data
    kind = codec.kind_of(data)
    job = replace(settle(job, order, codec.natural_output(kind, order.raw_mode)), data=None)
    assert job.format is not None
    if job.target != expected or found is None:
        if job.target != expected:
            wait()
        if claims.claim(job):
            wait()
        found = existing_output(job, order, claims, journals)
    if isinstance(found, str):
        return _passed_over(job, found, order, claims)
    _check_place(job)
    along = sidecars(job, order.existing, claims, replaces=found) if order.sidecars else ()
    development = order.development
    if kind == "raw":
        development = replace(development, mode=codec.raw_mode_for(job.format, order.raw_mode))
    photo = codec.decode(data, max_megapixels=order.max_megapixels, development=development)
    # Before anything takes minutes.
    codec.check(photo, job.format, depth=order.depth)
    stamp = None if before is None else Stamp.of(data, before)
    return Opened(job, photo=photo, stamp=stamp, sidecars=along, replaces=found)


def _passed_over(job: Job, status: Literal["kept", "skipped"], order: Order, claims: Claims) -> Opened:
    """Return a photo that is done already, with what is still to go along with it."""
    missing = order.sidecars and status == "kept"
    return Opened(job, status, sidecars=sidecars(job, order.existing, claims) if missing else ())


def _check_place(job: Job) -> None:
    """Refuse a place that cannot be written to, before anything takes minutes.

    Raises:
        OutputError: the output is a folder, or its own folder does not let it in.
    """
    if job.target == STANDARD:
        return
    if is_folder(job.target):
        raise OutputError(f"{job.target}: is a folder, expected a file", hint="end it in a slash, or give another name")
    folder = next((parent for parent in job.target.absolute().parents if parent.exists()), None)
    if folder is None or not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{job.target}: cannot be written: {folder} lets nothing in")


def existing_output(job: Job, order: Order, claims: Claims, journals: Journals | None) -> Found:
    """Tell what is to be done about an output.

    Raises:
        OutputError: it exists and is not to be replaced.
    """
    if job.target == STANDARD:
        return False
    if not os.path.lexists(job.target):
        return False
    if order.existing == "skip":
        return "skipped"
    if order.existing == "resume" and journals is not None and journals.kept(job):
        return "kept"
    if order.existing in ("overwrite", "resume") and claims.is_input(job):
        raise OutputError(
            f"{job.name}: the output {job.target} is one of the inputs", hint="give another output with -o"
        )
    if order.existing == "overwrite" or (order.existing == "resume" and journals is not None):
        return True
    raise OutputError(
        f"{job.name}: the output {job.target} exists already",
        hint="add --overwrite to replace it, --skip-existing to keep it, or -o to write elsewhere",
    )


def _status_of(source: Path) -> os.stat_result | None:
    try:
        return source.stat()
    except OSError:  # reading it will say why
        return None


def read(source: Path) -> bytes:
    """Read a whole input.

    Raises:
        InputError: it is not there, is no file, cannot be read, or is empty.
    """
    if source == STANDARD:
        data = sys.stdin.buffer.read()
    else:
        try:
            data = source.read_bytes()
        except FileNotFoundError as error:
            raise InputError(f"{source}: no such file", hint="check the name") from error
        except OSError as error:
            raise InputError(f"{source}: cannot be read: {error.strerror}", hint="check its permissions") from error
    if not data:
        raise InputError("is empty, expected a picture", hint="copy the file again")
    return data
