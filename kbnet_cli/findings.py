"""What the doctor finds: a row a thing, none of which can stop the others."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from kbnet_cli.errors import KBNetError

State = Literal["ok", "note", "problem"]
REINSTALL = "install kbnet again: pip install --force-reinstall kbnet"


@dataclass(frozen=True)
class Look:
    """What a probe saw."""

    says: str
    state: State = "ok"
    hint: str = ""


@dataclass(frozen=True)
class Finding:
    """One row: a look at something that has a name."""

    name: str
    state: State
    says: str
    hint: str


@dataclass(frozen=True)
class Diagnosis:
    """All rows."""

    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether nothing stops a restoration."""
        return all(finding.state != "problem" for finding in self.findings)

    @property
    def exit_code(self) -> int:
        """0, or 2 where something stops a restoration."""
        return 0 if self.well else 2

    def as_json(self) -> str:
        """Return one line of JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return json.dumps({"event": "doctor", "well": self.well, "findings": findings}, ensure_ascii=False)


@dataclass(frozen=True)
class Probe:
    """A look to be taken at something."""

    name: str
    look: Callable[[], Look]
    vital: bool = False
    """Whether nothing can be restored where it fails."""

    def finding(self) -> Finding:
        """Look, and make a row of whatever comes of it."""
        try:
            seen = self.look()
        except KBNetError as error:
            seen = Look(error.message, self._failed, error.hint)
        except Exception as error:  # a row is isolated from the next: a broken library may raise anything
            seen = Look(f"failed: {type(error).__name__}: {first_line(error)}", self._failed, REINSTALL)
        return Finding(self.name, seen.state, seen.says, seen.hint)

    @property
    def _failed(self) -> State:
        return "problem" if self.vital else "note"


def first_line(error: Exception) -> str:
    """Return the first line of an error's words."""
    return (str(error).strip().splitlines() or ["no reason given"])[0][:160]
