"""Which input becomes which output, settled before anything is read or written."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from kbnet_cli import naming, watch
from kbnet_cli.batch.order import STANDARD, Job, Order, is_folder
from kbnet_cli.batch.own_outputs import without_own
from kbnet_cli.batch.patterns import choice
from kbnet_cli.batch.sources import Asked, Source, sources
from kbnet_cli.batch.tree import HOUSEKEEPING
from kbnet_cli.errors import InputError, KBNetError, OutputError, UsageError
from kbnet_cli.formats import codec, sniff
from kbnet_cli.formats.table import BY_NAME, FORMATS


def jobs(order: Order) -> list[Job]:
    """Settle which input becomes which output, before anything is read or written.

    Raises:
        UsageError: inputs and output do not go together, two inputs would write one output, an output is an input, or
            its name is too long.
    """
    asked = Asked(order.inputs, order.recursive, order.list_file, order.include, order.exclude, order.output)
    found = without_own(order, sources(asked))
    many = len(found) > 1 or any(is_folder(path) for path in order.inputs)
    into_folder = order.into_folder
    if order.output is not None and not into_folder and many and order.output != STANDARD:
        raise UsageError(
            f"{order.output}: one output for {len(found)} photos, expected a folder",
            hint=f"end it in a slash: -o {order.output}/",
        )
    if order.output == STANDARD and many:
        raise UsageError(
            f"standard output takes one photo, got {len(found)}", hint="restore them into a folder: -o FOLDER/"
        )
    planned = [_job(order, source, into_folder=into_folder) for source in found]
    if into_folder:
        planned = _apart(order, planned)
    Claims(planned)
    return planned


def pictures(order: Order, stream: Iterable[bytes]) -> Iterator[Job]:
    """Give the jobs of a stream's pictures, as they come: into a folder as stdin-0001.png and so on.

    A stream that breaks off or goes wrong ends in a job whose data is not there: `Job.error` tells why.

    Raises:
        UsageError: the output is neither standard output nor a folder.
    """
    if order.output is None:
        raise UsageError("--stream needs an output", hint="add -o - for standard output, or -o FOLDER/")
    if order.output != STANDARD and not order.into_folder:
        raise UsageError(
            f"{order.output}: one output for the pictures of a stream, expected a folder",
            hint=f"end it in a slash: -o {order.output}/",
        )
    return _pictures(order, stream)


def _pictures(order: Order, stream: Iterable[bytes]) -> Iterator[Job]:
    number = 0
    try:
        for number, data in enumerate(stream, 1):
            if order.output == STANDARD:
                yield Job(STANDARD, STANDARD, natural=order.format == "auto", data=data, number=number)
            else:
                below = Path(f"stdin-{number:04}{_extension(order, codec.kind_of(data))}")
                job = _job(order, Source(STANDARD, below), into_folder=True)
                yield replace(job, data=data, number=number)
    except KBNetError as error:
        if not isinstance(error, InputError):
            raise
        job = Job(STANDARD, order.output or STANDARD, natural=False, number=number + 1)
        # The stream's own words begin with the picture's number.
        said = error.message.removeprefix(f"picture {job.number} ")
        yield replace(job, error=type(error)(f"{job.name}: {said}", hint=error.hint))


def watched(order: Order, *, stop: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[Job]:
    """Give the jobs of photos as they arrive in the folder that is watched, until `stop` says so.

    Raises:
        UsageError: as `check_watched` says.
        InputError: the folder has gone.
    """
    return _watched(order, check_watched(order), stop, tell)


def check_watched(order: Order) -> Path:
    """Return the real path of the output folder, if the order's folder can be watched into it.

    Raises:
        UsageError: what is to be watched is not one folder that is there, or there is no output folder.
    """
    if len(order.inputs) != 1 or order.list_file is not None or order.output is None or not order.into_folder:
        raise UsageError("--watch takes one folder and an output folder", hint="kbnet denoise --watch IN/ -o OUT/")
    folder = watch.check(order.inputs[0])
    apart = order.output.resolve()
    if apart == folder.resolve():
        raise UsageError(
            f"{folder}: outputs in the watched folder would be photos that arrive", hint="give another folder with -o"
        )
    return apart


def _watched(order: Order, apart: Path, stop: Callable[[], bool], tell: Callable[[str], None]) -> Iterator[Job]:
    folder = order.inputs[0]
    wanted = choice(order.include, order.exclude)

    def into(path: Path) -> bool:
        return not _hidden(path.name) and path.resolve() != apart and wanted.enters(path.relative_to(folder))

    def accept(path: Path) -> bool:
        return (
            not _hidden(path.name)
            and codec.format_of_name(path.name) is not None
            and wanted.allows(path.relative_to(folder))
        )

    for path in watch.arrivals(folder, accept=accept, into=into, stop=stop, tell=tell):
        yield _job(order, Source(path, path.relative_to(folder), found=True), into_folder=True)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.casefold() in HOUSEKEEPING


def _job(order: Order, source: Source, *, into_folder: bool) -> Job:
    path, below = source.path, source.below
    natural = order.format == "auto"
    extension = _expected(order, source) if natural else f".{codec.format_named(order.format).extensions[0]}"
    if order.output is None and path == STANDARD:
        raise UsageError("standard input needs an output", hint="add -o - for standard output, or -o FILE")
    if order.output is None:
        target = path.with_name(_name(order, naming.BESIDE, below.stem, extension))
    elif into_folder:
        target = order.output / below.with_name(_name(order, naming.INSIDE, below.stem, extension))
    else:
        if order.output != STANDARD and natural:
            format_of_output(order.output)
            natural = False
        return Job(path, order.output, natural, error=source.error)
    return Job(path, target, natural, extension=extension, error=source.error)


def _expected(order: Order, source: Source) -> str:
    """Return the extension of the output that an input's name lets expect; its content has the last word."""
    suffix = source.below.suffix
    kind = codec.format_of_name(source.below.name)
    if kind is None and source.found:  # a picture by its first bytes alone
        try:
            with source.path.open("rb") as file:
                kind = sniff.sniff(file.read(sniff.HEAD_BYTES))
        except OSError:
            return suffix
    if kind not in BY_NAME:
        return suffix
    return _extension(order, "raw" if kind == "dng" else kind, suffix)


def _extension(order: Order, kind: str, suffix: str = "") -> str:
    natural = codec.natural_output(kind, order.raw_mode)
    # An extension that already means that format stays as it is, in the writing it has (.JPG, .tiff).
    return suffix if codec.format_of_name(f"x{suffix}") == natural else f".{codec.format_named(natural).extensions[0]}"


def _name(order: Order, usual: str, stem: str, extension: str) -> str:
    return naming.name(order.name or usual, stem=stem, done=order.done, extension=extension)


def format_of_output(path: Path) -> str:
    """Return the format that an output's extension asks for.

    Raises:
        UsageError: the extension is none that can be written.
    """
    name = codec.format_of_name(path.name)
    written = {entry.name for entry in FORMATS if entry.written}
    if name not in written:
        raise UsageError(
            f"{path}: cannot write a file with that ending, expected one of {', '.join(sorted(written))}",
            hint="change the ending or add --format",
        )
    return name


def settle(job: Job, order: Order, natural: str) -> Job:
    """Settle a photo's format, and with it the extension of a target that was left open.

    The format is the one asked for, else what the output's name says, else the natural one of what the input holds.
    """
    if order.format != "auto":
        return replace(job, format=order.format)
    if job.target == STANDARD:
        return replace(job, format=natural)
    if not job.natural:
        return replace(job, format=format_of_output(job.target))
    target, extension = job.target, job.extension
    if codec.format_of_name(f"x{extension}") != natural:
        name = target.name.removesuffix(extension)
        extension = f".{codec.format_named(natural).extensions[0]}"
        target = target.with_name(name + extension)
    return replace(job, target=target, natural=False, format=natural, extension=extension)


def _apart(order: Order, found: list[Job]) -> list[Job]:
    """Keep the whole name of photos that would else write one output: a.cr3 and a.jpg to a.cr3.jpg and a.jpg."""
    count: dict[Path, int] = {}
    for job in found:
        count[job.target] = count.get(job.target, 0) + 1
    return [
        replace(job, target=job.target.with_name(_name(order, naming.INSIDE, job.source.name, job.extension)))
        if count[job.target] > 1 and job.source.suffix.lower() != job.target.suffix.lower()
        else job
        for job in found
    ]


class Claims:
    """Which outputs belong to which photos; none to two, and none is an input. For several threads."""

    def __init__(self, found: Sequence[Job] = ()) -> None:
        """Claim what is known before anything is read.

        Raises:
            UsageError: an output is one of the inputs, or two inputs would write one.
        """
        self._lock = threading.Lock()
        self._inputs = {_real(job.source) for job in found if job.source != STANDARD}
        self._owners: dict[str, Path] = {}
        self._identities: set[tuple[int, int]] | None = None
        self._late: dict[Path, list[str]] = {}
        """What was claimed after the beginning, by photos whose content is not what their names say."""
        for job in found:
            if job.target == STANDARD:
                continue
            target = _real(job.target)
            if target in self._inputs:
                raise UsageError(
                    f"{job.target}: is one of the inputs and will not be overwritten",
                    hint="leave out what kbnet made from the others, or give another folder: -o FOLDER/",
                )
            if target in self._owners:
                raise UsageError(
                    f"{self._owners[target]} and {job.source} would both become {job.target}",
                    hint="restore them into two folders",
                )
            self._owners[target] = job.source

    def claim(self, job: Job) -> bool:
        """Claim a photo's settled output, and tell whether this photo has come before: it was changed since.

        Raises:
            OutputError: it is one of the inputs, or another photo's.
        """
        if job.target == STANDARD:
            return False
        target = _real(job.target)
        with self._lock:
            if target in self._inputs:
                why = "is one of the inputs"
            elif (owner := self._owners.get(target)) is None:
                self._owners[target] = job.source
                self._late.setdefault(job.source, []).append(target)
                return False
            elif owner == job.source:
                return target in self._late.get(job.source, ())
            else:
                why = f"is that of {owner} too"
        raise OutputError(
            f"{job.source}: the output {job.target} {why}",
            hint="add another -o or --name, or another folder for it",
        )

    def claim_sidecar(self, target: Path, source: Path) -> None:
        """Claim a place beside an output for a file that goes along; one file may go there for several photos.

        Raises:
            OutputError: it is one of the inputs, or another file goes there.
        """
        with self._lock:
            owner = self._owners.setdefault(_real(target), source)
        if owner != source or _real(target) in self._inputs:
            raise OutputError(
                f"{source} and {owner} would both go along as {target}", hint="restore the photos into two folders"
            )

    def is_input(self, job: Job) -> bool:
        """Tell whether an output that is there is one of the inputs by another path, through a second mount say."""
        with self._lock:
            if self._identities is None:
                self._identities = {found for path in self._inputs if (found := _identity(path))}
            return _identity(job.target) in self._identities | {_identity(job.source)}

    def release(self, job: Job) -> None:
        """Give back what a photo that failed has claimed since it was read."""
        with self._lock:
            for target in self._late.pop(job.source, ()):
                del self._owners[target]


def _real(path: Path) -> str:
    """Return a path as text that is the same for all ways to a file, as far as links go: fast for many files."""
    folder, name = os.path.split(path)
    whole = os.path.join(_real_folder(folder), name)  # noqa: PTH118
    # Only links are looked at more closely.
    return os.path.normcase(os.path.realpath(whole) if name == ".." or os.path.islink(whole) else whole)  # noqa: PTH114


def _identity(path: str | Path) -> tuple[int, int] | None:
    """Return what tells a file from every other one, by whatever path; None where it is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else None


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
