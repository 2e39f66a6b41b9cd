"""Packages that a machine with a GPU may lack: what needs them fails when it is used, not when it is imported."""

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

OPTIONAL = ("imagecodecs", "simplejpeg", "rawpy", "pi_heif", "platformdirs", "tenacity", "httpx2", "watchdog")
"""What kbnet imports and no network needs."""


def missing() -> tuple[str, ...]:
    """Name those of them that are not installed."""
    return tuple(name for name in OPTIONAL if not installed(name))


def installed(name: str) -> bool:
    """Say whether a package is installed, without importing it; a stand-in is not."""
    if isinstance(sys.modules.get(name), StandIn):
        return False
    spec = importlib.util.find_spec(name)
    return spec is not None and not isinstance(spec.loader, Finder)


class Absent(type):
    """The class of stand-ins' names, which have names of their own."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return Absent(name, (Exception,), {"__module__": cls.__module__})


class StandIn(ModuleType):
    """A module in a missing one's place. Each of its names is an exception class: to be caught, to be inherited."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.__name__ == "platformdirs":
            return lambda *_words, **_options: Path(tempfile.gettempdir()) / "kbnet-benchmark"
        return Absent(name, (Exception,), {"__module__": self.__name__})


class Finder(Loader):
    """Find stand-ins."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        """Answer for a missing package and whatever is looked for inside it."""
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in self.names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Make the module."""
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave it as it is."""


def stand_in() -> None:
    """Let everything of kbnet be imported, whatever is missing."""
    names = missing()
    if installed("tifffile"):
        import tifffile  # noqa: F401 - it looks for imagecodecs itself, and must not find a stand-in
    sys.meta_path.append(Finder(names))
