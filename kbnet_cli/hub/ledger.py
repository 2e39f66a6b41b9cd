"""The hashes that files had when they were first fetched: a later change is somebody's doing, and has to be meant."""

import datetime
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kbnet_cli.errors import WeightsError
from kbnet_cli.hub.address import Address


@dataclass(frozen=True)
class Seen:
    """What an address gave when it was first asked."""

    sha256: str
    first_seen: str
    """The day, as 2026-11-22."""


class Ledger:
    """A file that remembers what each address gave. Whoever writes holds a lock (`shelf.Shelf.lock`)."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def seen(self, address: Address) -> Seen | None:
        """Return what an address gave first, or None if it was never asked.

        Raises:
            WeightsError: the file is damaged or cannot be read: it is never taken for an empty one.
        """
        entry = self._read().get(str(address))
        try:
            return None if entry is None else Seen(**entry)
        except TypeError as error:
            raise self._damaged("damaged") from error

    def record(self, address: Address, sha256: str) -> None:
        """Remember what an address gives, in place of what it gave before."""
        content = self._read() | {str(address): asdict(Seen(sha256, today()))}
        write_json(self.path, {"files": content})

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))["files"]
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._damaged(f"cannot be read: {error.strerror}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damaged("damaged") from error
        if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
            raise self._damaged("damaged")
        return content

    def _damaged(self, how: str) -> WeightsError:
        return WeightsError(
            f"{self.path}: {how}: it holds the hashes that weights had when they were first fetched",
            hint="bring it back from a backup, or delete it and fetch the weights again",
        )


def today() -> str:
    """Return the day, as 2026-11-22."""
    return datetime.datetime.now(tz=datetime.UTC).date().isoformat()


def write_json(path: Path, content: object) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, sort_keys=True, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
