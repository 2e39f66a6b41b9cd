"""What became of jobs of many photos: the folder of outputs, and its journal."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kbnet_cli.journal import NAME
from tests.launching import Launcher
from tests.trees import Planted, plant

Bytes = dict[str, bytes]


@dataclass(frozen=True)
class Undisturbed:
    """A tree, and what one quiet run made of it."""

    folder: Path
    planted: list[Planted]
    outputs: Bytes


def quiet_run(folder: Path, weights: Path, count: int) -> Undisturbed:
    planted = plant(folder / "in", count)
    done = Launcher(folder, weights).run("denoise", "in", "-r", "-o", "out/", "--json")
    assert done.code == 1, done.stderr
    outputs = contents(folder / "out")
    assert outputs.keys() == {each.output for each in planted if each.kind == "good"}
    return Undisturbed(folder / "in", planted, outputs)


def contents(folder: Path) -> Bytes:
    """Return everything in a folder but the journal."""
    files = (path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path != folder / NAME}


def journal(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal that are whole, which all are but one that a kill has cut off."""
    if not (folder / NAME).exists():
        return []
    found = []
    for line in (folder / NAME).read_bytes().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def events(folder: Path, event: str) -> list[dict[str, Any]]:
    return [record for record in journal(folder) if record["event"] == event]


class Tail:
    """What is added to a journal from now on, without reading again what was there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._at = self._path.stat().st_size if self._path.exists() else 0
        self._seen = b""

    def count(self, event: str) -> int:
        """Return how many lines of an event there are by now."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._at)
                more = file.read()
            self._at += len(more)
            self._seen += more
        return self._seen.count(f'"event":"{event}"'.encode())

    def has(self, event: str, count: int) -> bool:
        """Tell whether a run has begun since, and so many lines of an event have come."""
        return self.count("run") > 0 and self.count(event) >= count


def identity(path: Path) -> tuple[int, int]:
    """Return what changes when a file is written again, even with the same content."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def peak_bytes(process: int) -> int:
    """Return the most memory a process has held so far; 0 where the system does not tell, or it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
