"""What `kbnet weights` tells of weights: a row of the list, a verdict."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kbnet_cli.catalogue import Entry
from kbnet_cli.errors import WeightsError
from kbnet_cli.hub.shelf import Item, status_of

State = Literal["bundled", "here", "to fetch", "no public source known", "damaged"]


@dataclass(frozen=True)
class Listed:
    """Weights as `kbnet weights list` shows them."""

    name: str
    entry: Entry | None
    """None: imported under a name of its own, or fetched from an address."""
    state: State
    path: Path | None
    size_bytes: int | None
    origin: str | None
    """Where the file that is here came from."""
    obtained: str | None
    """The day it came."""

    def as_json(self) -> str:
        """Return one line of JSON."""
        entry = self.entry
        event = {
            "event": "weights",
            "name": self.name,
            "state": self.state,
            "path": self.path and str(self.path),
            "size_bytes": self.size_bytes,
            "origin": self.origin,
            "obtained": self.obtained,
            "task": entry and entry.task,
            "summary": entry and entry.summary,
            "architecture": entry and entry.architecture,
            "width": entry and entry.width,
            "channels": entry and entry.channels,
            "parameters": entry and entry.parameters,
            "tile": entry and entry.facts.tile,
            "sigma": entry and entry.facts.sigma,
            "licence": entry and entry.licence,
            "figures": {figure.pictures: figure.psnr for figure in entry.figures} if entry else {},
            "sources": [source.address for source in entry.sources] if entry else [],
        }
        return json.dumps(event, ensure_ascii=False)


@dataclass(frozen=True)
class Verdict:
    """What came of reading weights whole."""

    name: str
    path: Path
    error: WeightsError | None

    @property
    def well(self) -> bool:
        """Whether they are what they were, and a KBNet."""
        return self.error is None

    def as_json(self) -> str:
        """Return one line of JSON."""
        error = self.error and {"code": self.error.code, "message": self.error.message, "hint": self.error.hint}
        event = {"event": "verify", "name": self.name, "path": str(self.path), "well": self.well, "error": error}
        return json.dumps(event, ensure_ascii=False)


def listed(item: Item, entry: Entry | None) -> Listed:
    """Return the row of what is on the shelf."""
    status = status_of(item.path)
    size = None if status is None else status.st_size
    state: State = "here" if size == item.record.size_bytes else "damaged"
    return Listed(item.key, entry, state, item.path, size, item.record.origin, item.record.obtained)
