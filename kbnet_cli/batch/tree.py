"""The pictures in a folder and in the folders below it."""

import contextlib
import os
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

from kbnet_cli import naming
from kbnet_cli.batch.order import STANDARD
from kbnet_cli.batch.patterns import Choice, Pattern, Places
from kbnet_cli.errors import InputError
from kbnet_cli.formats import codec, sniff

# What file servers, systems and drives keep for themselves without hiding it by a dot: thumbnails, dustbins, snapshots.
HOUSEKEEPING = frozenset(
    ("@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "system volume information", "lost+found")
)
_SIDECAR = ".xmp"
_ON_WINDOWS = os.name == "nt"

Kind = Literal["folder", "file", "broken", "other"]


@dataclass(frozen=True, slots=True)
class Source:
    """A photo to be read."""

    path: Path
    """As it was given or found; `-` is standard input, and a file of that name has its whole path here."""
    below: Path
    """Its path below the input it was found in, which outputs mirror; of a file that was named, its name."""
    found: bool = False
    """Whether it was found in a folder or by a pattern, rather than named."""
    listed: bool = False
    """Whether a list has it."""
    error: InputError | None = None
    """Why it cannot be read, where that is known: above all a folder that cannot be looked into, so that its photos are
    not left out without a word."""


@dataclass(slots=True)
class _Folder:
    path: Path
    below: Path
    """Below the input, as its photos' paths are."""
    places: Places | None
    """How far the pattern is; None: all in it is wanted."""
    link: bool = False
    photos: list[Source] = field(default_factory=list)
    folders: list["_Folder"] = field(default_factory=list)


def identity(path: Path) -> object:
    """Return what tells a folder from every other one, by whatever path it is reached.

    Raises:
        OSError: it is not there, or cannot be reached.
    """
    found = path.stat()
    return (found.st_dev, found.st_ino) if found.st_ino else path.resolve()


def pictures(
    folder: Path,
    choice: Choice,
    *,
    output: Path | None = None,
    pattern: Pattern | None = None,
    recursive: bool = True,
) -> Iterator[Source]:
    """Give what are pictures by name or first bytes, in natural order, those of a folder before those of its folders.

    What is no picture by both is left out quietly. A picture's name on other bytes stays in, and so do links that lead
    nowhere, to fail with a message; a folder that cannot be looked into becomes a source with an error. Hidden files
    and folders, what is neither file nor folder, and the output folder are left out.

    Links to files are files. Links to folders are gone into, but every folder only once, so that a circle ends: under
    its own path where that is inside `folder`, else under that of the first link to it.

    Args:
        folder: the input; it is looked into even if it is hidden or the output folder.
        choice: what --include and --exclude say of the paths below the folder.
        output: where outputs go; it need not be there.
        pattern: what else the paths below the folder have to match.
        recursive: whether a folder that matches the pattern is taken whole.
    """
    walk = _Walk(choice, pattern, recursive=recursive)
    if output is not None:
        walk.avoid(output)
    top = _Folder(folder, Path(), pattern.start() if pattern else None)
    walk.through(top)
    return _in_order(top)


class _Walk:
    """One way through a tree. By lists and not by calls, since a tree may be deeper than those go."""

    def __init__(self, choice: Choice, pattern: Pattern | None, *, recursive: bool) -> None:
        self._choice = choice
        self._pattern = pattern
        self._recursive = recursive
        self._seen: set[object] = set()
        self._folders: list[_Folder] = []
        self._links: deque[_Folder] = deque()

    def avoid(self, folder: Path) -> None:
        """Do not go into a folder, if it is there at all."""
        with contextlib.suppress(OSError):
            self._seen.add(identity(folder))

    def through(self, top: _Folder) -> None:
        """Find everything; first in the folders themselves, so that those win over links to them."""
        self._folders.append(top)
        while self._folders or self._links:
            folder = self._folders.pop() if self._folders else self._links.popleft()
            try:
                known = identity(folder.path)
                if known not in self._seen or folder is top:
                    self._seen.add(known)
                    self._look_into(folder)
            except OSError as error:
                folder.photos.append(_closed(folder, error))

    def _look_into(self, folder: _Folder) -> None:
        entries: list[os.DirEntry[str]] = []
        with os.scandir(folder.path) as found:
            try:
                for entry in found:
                    entries.append(entry)  # noqa: PERF402, what was found before the disk failed is still done
            finally:
                entries.sort(key=lambda entry: naming.natural_key(entry.name))
                for entry in entries:
                    self._sort_out(entry, folder)
                self._folders += reversed([inner for inner in folder.folders if not inner.link])

    def _sort_out(self, entry: os.DirEntry[str], folder: _Folder) -> None:
        kind = "other" if _hidden(entry) else _kind(entry)
        if kind == "other":
            return
        places = folder.places
        if self._pattern is not None and places is not None:
            places = self._pattern.step(places, entry.name)
            if self._pattern.complete(places):
                places = None if kind != "folder" or self._recursive else places
            elif kind != "folder" or not places:
                return
        path, below = folder.path / entry.name, folder.below / entry.name
        if kind == "folder":
            if self._choice.enters(below):
                inner = _Folder(path, below, places, link=entry.is_symlink())
                folder.folders.append(inner)
                if inner.link:
                    self._links.append(inner)
        elif self._choice.takes(below) and _is_picture(entry, kind, below.suffix):
            folder.photos.append(Source(whole(path) if entry.name == "-" else path, below, found=True))


def _in_order(top: _Folder) -> Iterator[Source]:
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        yield from folder.photos
        waiting += reversed(folder.folders)


def whole(path: Path) -> Path:
    """Return the path of a file: the whole of one that is called `-`, so that it is not standard input's."""
    return path.absolute() if path == STANDARD else path


def _closed(folder: _Folder, error: OSError) -> Source:
    path = folder.path
    return Source(
        path,
        folder.below if folder.below.name else Path(path.name or "folder"),
        found=True,
        error=InputError(
            f"{path}: this folder cannot be looked into: {error.strerror}",
            hint="check its permissions and the length of its path, or leave it out with --exclude",
        ),
    )


def _hidden(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name.casefold() in HOUSEKEEPING:
        return True
    return _ON_WINDOWS and bool(_attributes(entry) & stat.FILE_ATTRIBUTE_HIDDEN)


def _attributes(entry: os.DirEntry[str]) -> int:
    """Return what Windows says of a file."""
    try:
        return getattr(entry.stat(follow_symlinks=False), "st_file_attributes", 0)
    except OSError:
        return 0


def _kind(entry: os.DirEntry[str]) -> Kind:
    """Tell what an entry, or what a link leads to, is; as a rule without asking the disk again."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        if entry.is_symlink():
            entry.stat()
    except OSError:
        return "broken"
    return "other"  # never opened: a named pipe would wait for ever


@lru_cache(maxsize=1024)
def _is_known(suffix: str) -> bool:
    return codec.format_of_name(f"x{suffix}") is not None


def _is_picture(entry: os.DirEntry[str], kind: Kind, suffix: str) -> bool:
    if _is_known(suffix):
        return True
    if kind == "broken" or suffix.lower() == _SIDECAR:
        return False
    try:
        with Path(entry.path).open("rb") as file:
            return sniff.sniff(file.read(sniff.HEAD_BYTES)) is not None
    except FileNotFoundError:
        return False
    except OSError:
        return True  # nobody knows: it fails with a message when it is its turn
