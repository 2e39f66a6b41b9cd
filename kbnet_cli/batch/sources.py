"""From what the command line says of the inputs to the photos, in order."""

import codecs
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

from kbnet_cli.batch import tree
from kbnet_cli.batch.order import STANDARD, is_folder
from kbnet_cli.batch.patterns import SIGNS, Choice, Pattern, choice, folded
from kbnet_cli.batch.tree import Source as Source
from kbnet_cli.errors import UsageError


@runtime_checkable
class Bytes(Protocol):
    """What bytes can be read from."""

    def read(self) -> bytes:
        """Read all of them."""
        ...


@dataclass(frozen=True)
class Asked:
    """What the command line says of the inputs."""

    inputs: tuple[Path, ...]
    """Files, folders, patterns that the shell left as they are, and `-` for standard input."""
    recursive: bool = False
    list_file: Path | None = None
    """A file of names; `-` is standard input."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    output: Path | None = None
    """Where outputs go; a folder of them that lies inside an input folder is not gone into."""


def sources(asked: Asked, *, stdin: Bytes | None = None) -> list[Source]:
    """Give the photos in the order of the inputs, and then of the list; each path once.

    A file that is named is taken as it is, and need not be there. Folders are gone through as `tree.pictures` says.
    A pattern finds pictures in the same way, without regard to upper and lower case, and with -r and an output whole
    folders; outputs mirror what lies below its last folder without a sign. Of a file in a list they mirror the path as
    it is written, unless that is absolute or has `..` in it. --include and --exclude are of the paths that outputs
    mirror. What lies in an output folder inside is left out of folders, patterns and lists.

    Two paths are the same if they are so as text, from the root on; two links to one file are two photos.

    Raises:
        UsageError: inputs make no sense together, a folder lacks -r or an output, a pattern matches no photo or is
            empty, or the list cannot be read.
    """
    if asked.list_file == STANDARD and STANDARD in asked.inputs:
        raise UsageError(
            "- and --from-list - would both read standard input", hint="give the names in a file: --from-list FILE"
        )
    wanted = choice(asked.include, asked.exclude)
    given = (_input(path, asked, wanted) for path in asked.inputs)
    listed = () if asked.list_file is None else _listed(asked.list_file, asked, wanted, stdin)
    return _once(chain(chain.from_iterable(given), listed))


def _once(found: Iterable[Source]) -> list[Source]:
    here = str(Path.cwd())
    once: dict[str, Source] = {}
    for source in found:
        path = os.fspath(source.path)
        once.setdefault("" if path == "-" else os.path.normcase(os.path.join(here, path)), source)  # noqa: PTH118, fast
    return list(once.values())


def _input(path: Path, asked: Asked, wanted: Choice) -> Iterator[Source]:
    if path == STANDARD:
        yield Source(path, Path("stdin"))
    elif is_folder(path):
        yield from _folder(path, asked, wanted)
    elif any(sign in str(path) for sign in SIGNS) and not os.path.lexists(path):
        yield from _matching(path, asked, wanted)
    elif wanted.allows(PurePath(path.name)):
        yield Source(path, Path(path.name))


def _folder(path: Path, asked: Asked, wanted: Choice) -> Iterator[Source]:
    if not asked.recursive:
        raise UsageError(f"{path}: is a folder", hint="add -r to restore the photos in it")
    if asked.output is None:
        raise UsageError(f"{path}: a folder needs an output folder", hint="add -o FOLDER/")
    return tree.pictures(path, wanted, output=asked.output)


def _matching(path: Path, asked: Asked, wanted: Choice) -> Iterator[Source]:
    first = next(at for at, part in enumerate(path.parts) if any(sign in part for sign in SIGNS))
    top = Path(*path.parts[:first])
    found = tree.pictures(
        top,
        wanted,
        output=asked.output,
        pattern=Pattern(tuple(map(folded, path.parts[first:]))),
        recursive=asked.recursive and asked.output is not None,
    )
    nothing = True
    for source in found if is_folder(top) else ():
        nothing = False
        yield source
    if nothing:
        raise UsageError(
            f"{path}: no such file, and no photo matches it as a pattern",
            hint="check the folder; ** stands for any folders, and -r takes whole folders that match",
        )


def _listed(file: Path, asked: Asked, wanted: Choice, stdin: Bytes | None) -> Iterator[Source]:
    for path in _outside(list(map(Path, _names(_content(file, stdin)))), asked.output):
        below = Path(path.name) if path.anchor or ".." in path.parts else path
        if is_folder(path):
            yield from _folder(path, asked, wanted)
        elif wanted.allows(below):
            yield Source(tree.whole(path), below, listed=True)


def _outside(paths: list[Path], output: Path | None) -> list[Path]:
    """Leave out what lies in the output folder: `find .` lists it too.

    Where that is the current folder or one above, or all that is listed lies in it, it is meant to hold the inputs.
    """
    if output is None or output == STANDARD or not is_folder(output):
        return paths
    folder = output.resolve()
    if Path.cwd().is_relative_to(folder):
        return paths
    parents = {parent: parent.resolve() for parent in {path.parent for path in paths}}
    outside = [path for path in paths if not _real(path, parents[path.parent]).is_relative_to(folder)]
    return outside or paths


def _real(path: Path, parent: Path) -> Path:
    return path.resolve() if path.name in ("", "..") else parent / path.name


def _content(file: Path, stdin: Bytes | None) -> bytes:
    try:
        return (stdin or sys.stdin.buffer).read() if file == STANDARD else file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"{file}: the list of photos cannot be read: {error.strerror}",
            hint="check its name; - is standard input",
        ) from error


def _names(content: bytes) -> list[str]:
    """Return the names of a list: what stands between NULs if there is one, else the lines. Nothing is quoted."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # PowerShell's >
        text = content.decode("utf-16", errors="replace")
    else:
        text = os.fsdecode(content.removeprefix(codecs.BOM_UTF8))
    if "\0" in text:
        return [name for name in text.split("\0") if name]
    return [name for line in text.split("\n") if (name := line.removesuffix("\r")).strip()]
