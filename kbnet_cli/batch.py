"""Which file becomes which, and what became of each: the only module that touches the disk for photos.

It knows no network. A photo that fails is kept apart from the others, and an output appears whole or not at all.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from kbnet_cli import naming
from kbnet_cli.errors import InputError, KBNetError, OutputError, PhotoError, UsageError
from kbnet_cli.formats import codec, sniff
from kbnet_cli.formats.development import Development, RawMode
from kbnet_cli.formats.table import FORMATS
from kbnet_cli.photo import Photo

STANDARD = Path("-")
"""Standard input as an input, standard output as an output."""

Existing = Literal["error", "overwrite", "skip"]
Restore = Callable[["Job", Photo], Photo]


@dataclass(frozen=True)
class Order:
    """What the command line says of the files."""

    inputs: tuple[Path, ...]
    done: str
    """What becomes of the photos, as their names tell it: "denoised"."""
    name: str | None = None
    """A template, as `naming.check` lets it through, for outputs that `output` does not name; None: the usual ones."""
    output: Path | None = None
    output_is_folder: bool = False
    """Whether the output was written with a slash at its end, and so is a folder even if it is not there yet."""
    recursive: bool = False
    existing: Existing = "error"
    format: str = "auto"
    depth: int | None = None
    quality: int | None = None
    max_megapixels: float | None = None
    raw_mode: RawMode | None = None
    """How camera raw is read; None: linear for DNG, developed for anything else."""
    development: Development = field(default_factory=Development)
    """The rest of how camera raw is read; its mode does not count."""


@dataclass(frozen=True)
class Job:
    """One photo: where it comes from and where it goes."""

    source: Path
    target: Path
    """Its extension is the format's; for the format `auto` the natural one of what the input holds."""
    natural: bool
    """Whether the extension of the target is still to be chosen by what the input holds."""
    format: str | None = None
    """What is written; None until the input is read."""


@dataclass(frozen=True)
class Outcome:
    """What became of a photo."""

    job: Job
    status: Literal["done", "skipped", "failed"]
    photo: Photo | None = None
    """As restored; None unless it was done."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: KBNetError | None = None
    unexpected: BaseException | None = None
    """The exception behind the error, with its traceback, for -v."""


def jobs(order: Order) -> list[Job]:
    """Settle which input becomes which output, before anything is read or written.

    Raises:
        UsageError: inputs and output do not go together, two inputs would write one output, an output is an input, or
            its name is too long.
    """
    sources = list(_sources(order))
    many = len(sources) > 1 or any(path.is_dir() for path in order.inputs)
    into_folder = order.output is not None and (order.output_is_folder or order.output.is_dir())
    if order.output is not None and not into_folder and many:
        raise UsageError(
            f"{order.output}: one output for {len(sources)} photos, expected a folder",
            hint=f"end it in a slash: -o {order.output}/",
        )
    found = [_job(order, source, below, into_folder=into_folder) for source, below in sources]
    if into_folder:
        found = _apart(order, found)
    _refuse_collisions(found)
    return found


def _sources(order: Order) -> Iterator[tuple[Path, Path]]:
    """Give each photo with its path below the input it was found in."""
    for path in order.inputs:
        if path == STANDARD:
            yield path, Path("stdin")
        elif path.is_dir():
            if not order.recursive:
                raise UsageError(f"{path}: is a folder", hint="add -r to restore the photos in it")
            if order.output is None:
                raise UsageError(f"{path}: a folder needs an output folder", hint="add -o FOLDER/")
            for below in _pictures(path, order.output):
                yield path / below, below
        else:
            yield path, Path(path.name)


def _pictures(folder: Path, output: Path) -> Iterator[Path]:
    """Give the paths below a folder that are pictures by name or by first bytes, in natural order, hidden ones not.

    What is no picture by both is left out quietly. A picture's name on other bytes stays in, to fail with a message.
    An output folder inside the input folder is not gone into.
    """
    inside = output.resolve()
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = sorted(
            (name for name in folders if not name.startswith(".") and (here / name).resolve() != inside),
            key=naming.natural_key,
        )
        for name in sorted(files, key=naming.natural_key):
            path = here / name
            if not name.startswith(".") and (codec.format_of_name(name) or _looks_like_picture(path)):
                yield path.relative_to(folder)


def _looks_like_picture(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.is_file() and sniff.sniff(file.read(64)) is not None
    except OSError:
        return False


def _job(order: Order, source: Path, below: Path, *, into_folder: bool) -> Job:
    natural = order.format == "auto"
    extension = below.suffix if natural else f".{codec.format_named(order.format).extensions[0]}"
    if order.output is None and source == STANDARD:
        raise UsageError("standard input needs an output", hint="add -o - for standard output, or -o FILE")
    if order.output is None:
        return Job(source, source.with_name(_name(order, naming.BESIDE, source.stem, extension)), natural)
    if into_folder:
        return Job(source, order.output / below.with_name(_name(order, naming.INSIDE, below.stem, extension)), natural)
    if order.output != STANDARD and natural:
        format_of_output(order.output)
        natural = False
    return Job(source, order.output, natural)


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


def _apart(order: Order, found: list[Job]) -> list[Job]:
    """Keep the whole name of photos that would else write one output: a.cr3 and a.jpg to a.cr3.jpg and a.jpg."""
    count: dict[Path, int] = {}
    for job in found:
        count[job.target] = count.get(job.target, 0) + 1
    return [
        replace(job, target=job.target.with_name(_name(order, naming.INSIDE, job.source.name, job.target.suffix)))
        if count[job.target] > 1 and job.source.suffix.lower() != job.target.suffix.lower()
        else job
        for job in found
    ]


def _refuse_collisions(found: Sequence[Job]) -> None:
    sources = {job.source.resolve(): job.source for job in found if job.source != STANDARD}
    targets: dict[Path, Path] = {}
    for job in found:
        if job.target == STANDARD:
            continue
        target = job.target.resolve()
        if target in sources:
            raise UsageError(
                f"{job.target}: is one of the inputs and will not be overwritten",
                hint="give another output with -o",
            )
        if target in targets:
            raise UsageError(
                f"{targets[target]} and {job.source} would both become {job.target}",
                hint="restore them into two folders",
            )
        targets[target] = job.source


def process(found: Sequence[Job], order: Order, restore: Restore) -> Iterator[Outcome]:
    """Restore photos one after the other and tell what became of each.

    `restore` turns a photo into a restored one. What it raises, and whatever goes wrong with one file, fails that photo
    only; an error of weights or device, which would fail every photo alike, is let through.
    """
    return _each(found, partial(_process, order=order, restore=restore))


def inspect(found: Sequence[Job], order: Order) -> Iterator[Outcome]:
    """Read photos as `process` would, and give each back as it is, with where it would go. Nothing is written."""
    return _each(found, partial(_inspect, order=order))


def _each(found: Sequence[Job], work: Callable[[Job, dict[Path, str]], Outcome]) -> Iterator[Outcome]:
    # What may be no output any more, and why. `jobs` has asked, but where the extension is left open not for all names.
    taken = {job.source.resolve(): "is one of the inputs" for job in found if job.source != STANDARD}
    for job in found:
        started = time.perf_counter()
        try:
            outcome = work(job, taken)
        except PhotoError as error:
            outcome = Outcome(job, "failed", error=_named(error, job), unexpected=error.__cause__)
        except KBNetError:
            raise
        except Exception as error:
            # One photo is kept apart from the next, whatever a decoder may throw.
            kind = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
            failure = PhotoError(f"{job.source}: unexpected {kind}", hint="run again with -v and report it")
            outcome = Outcome(job, "failed", error=failure, unexpected=error)
        if outcome.status != "failed" and outcome.job.target != STANDARD:
            taken[outcome.job.target.resolve()] = f"is that of {job.source} too"
        yield replace(outcome, seconds=time.perf_counter() - started)


def _named(error: PhotoError, job: Job) -> PhotoError:
    """Put the photo's name before what went wrong with it, unless a name stands there already."""
    if error.message.startswith((f"{job.source}: ", f"{job.target}: ")):
        return error
    source = "standard input" if job.source == STANDARD else job.source
    return type(error)(f"{source}: {error.message}", hint=error.hint)


def _process(job: Job, taken: dict[Path, str], order: Order, restore: Restore) -> Outcome:
    job, photo = _open(job, taken, order)
    if photo is None:
        return Outcome(job, "skipped")
    assert job.format is not None
    restored = restore(job, photo)
    encoded = codec.encode(restored, job.format, depth=order.depth, quality=order.quality)
    write(job.target, encoded.data, overwrite=order.existing == "overwrite")
    return Outcome(job, "done", restored, (*restored.notes, *encoded.notes))


def _inspect(job: Job, taken: dict[Path, str], order: Order) -> Outcome:
    job, photo = _open(job, taken, order)
    return Outcome(job, "skipped" if photo is None else "done", photo)


def _open(job: Job, taken: dict[Path, str], order: Order) -> tuple[Job, Photo | None]:
    """Read a photo whose output is not there yet, with its settled job; None if it is to be skipped."""
    # Whether the output is there is asked before anything is read where its name is known, and before anything is
    # decoded otherwise: thousands of photos that are done already are passed over quickly.
    if not job.natural and _is_there(job, taken, order):
        return job, None
    data = read(job.source)
    kind = codec.kind_of(data)
    job = settle(job, order, codec.natural_output(kind, order.raw_mode))
    assert job.format is not None
    if _is_there(job, taken, order):
        return job, None
    development = order.development
    if kind == "raw":
        development = replace(development, mode=codec.raw_mode_for(job.format, order.raw_mode))
    photo = codec.decode(data, max_megapixels=order.max_megapixels, development=development)
    # Before anything takes minutes.
    codec.check(photo, job.format, depth=order.depth)
    return job, photo


def settle(job: Job, order: Order, natural: str) -> Job:
    """Settle a photo's format, and with it the extension of a target that was left open.

    The format is the one asked for, else what the output's name says, else the natural one of what the input holds. An
    extension that already means that format stays as it is, in the writing it has (.JPG, .tiff).
    """
    if order.format != "auto":
        return replace(job, format=order.format)
    if job.target == STANDARD:
        return replace(job, format=natural)
    if not job.natural:
        return replace(job, format=format_of_output(job.target))
    target = job.target
    if codec.format_of_name(target.name) != natural:
        # The extension is the input's; where that has none, a dot in the name is the name's.
        name = target.name.removesuffix(job.source.suffix)
        target = target.with_name(f"{name}.{codec.format_named(natural).extensions[0]}")
    return Job(job.source, target, natural=False, format=natural)


def _is_there(job: Job, taken: dict[Path, str], order: Order) -> bool:
    """Tell whether a photo is to be skipped because its output exists; raise if that is an error."""
    if job.target != STANDARD and (why := taken.get(job.target.resolve())):
        raise OutputError(
            f"{job.source}: the output {job.target} {why}",
            hint="add another -o or --name, or another folder for it",
        )
    if job.target == STANDARD or order.existing == "overwrite" or not os.path.lexists(job.target):
        return False
    if order.existing == "skip":
        return True
    raise OutputError(
        f"{job.source}: the output {job.target} exists already",
        hint="add --overwrite to replace it, --skip-existing to keep it, or -o to write elsewhere",
    )


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


def write(target: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a whole output: beside the target, flushed to the disk, then renamed.

    Raises:
        OutputError: the folder cannot be made or written to, the disk is full, or the target appeared meanwhile.
    """
    if target == STANDARD:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _beside(target) as (file, partial):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            partial.chmod(_permissions(target))
            if overwrite:
                partial.replace(target)
            else:
                _rename_to_new(partial, target)
    except FileExistsError as error:
        raise OutputError(f"{target}: exists already", hint="add --overwrite to replace it") from error
    except OSError as error:
        raise OutputError(
            f"{target}: cannot be written: {error.strerror}",
            hint="check the folder, its permissions and the free space",
        ) from error


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Open a hidden file in the target's folder, and remove it unless it was renamed."""
    # A short name of its own: the target's may already be as long as the file system allows.
    descriptor, name = tempfile.mkstemp(prefix=".kbnet-", suffix=".partial", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, partial
    finally:
        partial.unlink(missing_ok=True)


def _permissions(target: Path) -> int:
    """Return the permissions of the file that is replaced, or those a new file would have."""
    try:
        return target.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask


def _rename_to_new(partial: Path, target: Path) -> None:
    """Rename without replacing: a hard link fails where the target exists, a rename on POSIX does not."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:
        # File systems without hard links (FAT, some network drives).
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        partial.replace(target)
