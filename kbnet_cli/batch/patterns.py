"""Patterns of names, `*.jpg` or `2024-*/**/raw/`: which photos are wanted, and which are not."""

import fnmatch
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from kbnet_cli.errors import UsageError

ANY = "**"
"""Stands for any number of folders, none too."""
SIGNS = "*?["
"""What makes a name a pattern."""

Places = frozenset[int]
"""How far along its parts a pattern may be, after some of a path's names."""


def folded(name: str) -> str:
    """Return a name without regard to upper and lower case, or to how its accents are written (NFC, NFD)."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Pattern:
    """A path whose names may have * (anything), ? (one character), [abc], [!abc], and may be ** (any folders)."""

    parts: tuple[str, ...]
    """Folded."""
    folder: bool = False
    """Whether it stands for a folder only, and for all that is in it."""

    def start(self) -> Places:
        """Return the places before the first name."""
        return self._onwards({0})

    def step(self, places: Places, name: str) -> Places:
        """Return the places after one more name; none where nothing below that name can match."""
        name = folded(name)
        after = set()
        for place in places:
            if place == len(self.parts):
                continue
            if self.parts[place] == ANY:
                after.add(place)
            elif fnmatch.fnmatchcase(name, self.parts[place]):
                after.add(place + 1)
        return self._onwards(after)

    def complete(self, places: Places) -> bool:
        """Tell whether the names up to here are what the pattern stands for."""
        return len(self.parts) in places

    def matches(self, names: Sequence[str]) -> bool:
        """Tell whether a path, as its names, is what the pattern stands for."""
        if len(self.parts) == 2 and self.parts[0] == ANY:  # the usual case: the last name is all that counts
            return self.parts[1] == ANY or fnmatch.fnmatchcase(folded(names[-1]), self.parts[1])
        places = self.start()
        for name in names:
            places = self.step(places, name)
            if not places:
                return False
        return self.complete(places)

    def _onwards(self, places: set[int]) -> Places:
        for place in range(len(self.parts)):
            if place in places and self.parts[place] == ANY:
                places.add(place + 1)
        return frozenset(places)


def pattern(text: str) -> Pattern:
    """Read a pattern of --include or --exclude.

    Without a slash it is of names in any folder; with one, of paths below the input folder. With a slash at its end it
    is of folders.

    Raises:
        UsageError: it is empty.
    """
    text = text.replace(os.sep, "/")
    names = tuple(folded(name) for name in text.split("/") if name not in ("", "."))
    if not names:
        raise UsageError(f"{text!r} is no pattern of names", hint="as in --include '*.jpg' or --exclude 'old/'")
    anchored = "/" in text.rstrip("/")
    return Pattern(names if anchored else (ANY, *names), folder=text.endswith("/"))


@dataclass(frozen=True)
class Choice:
    """What --include and --exclude say; an exclude wins over an include."""

    include: tuple[Pattern, ...] = ()
    """All photos, if there are none."""
    exclude: tuple[Pattern, ...] = ()

    def enters(self, below: PurePath) -> bool:
        """Tell whether a folder is gone into, whose own folders are."""
        return not self.exclude or not any(pattern.matches(below.parts) for pattern in self.exclude)

    def takes(self, below: PurePath) -> bool:
        """Tell whether a photo is taken that lies in a folder that is gone into."""
        if not self.include and not self.exclude:
            return True
        names = below.parts
        if any(not pattern.folder and pattern.matches(names) for pattern in self.exclude):
            return False
        return not self.include or any(_includes(pattern, names) for pattern in self.include)

    def allows(self, below: PurePath) -> bool:
        """Tell whether a photo is taken of whose folders nothing is known yet."""
        return self.takes(below) and all(map(self.enters, list(below.parents)[:-1]))


def _includes(pattern: Pattern, names: Sequence[str]) -> bool:
    if pattern.folder:
        return any(pattern.matches(names[:count]) for count in range(1, len(names)))
    return pattern.matches(names)


def choice(include: Sequence[str], exclude: Sequence[str]) -> Choice:
    """Read the patterns of --include and --exclude.

    Raises:
        UsageError: one is empty.
    """
    return Choice(tuple(map(pattern, include)), tuple(map(pattern, exclude)))
