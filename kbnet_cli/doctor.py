"""Whether this machine is well: what kbnet finds here, a row a thing, and how to go on where something is missing.

What is slow or may be broken is imported inside the probe that looks at it, so that a broken torch is a row as well.
"""

import importlib
import importlib.metadata
import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from kbnet_cli import __version__, machine
from kbnet_cli.catalogue import DEFAULTS, ENTRIES, Entry
from kbnet_cli.errors import KBNetError

State = Literal["ok", "note", "problem"]
REINSTALL = "install kbnet again: pip install --force-reinstall kbnet"
TOLERANCE = 1e-4
"""How far compiled and plain arithmetic may be apart, relative to the largest value: they sum in other orders."""
LITTLE_MEMORY_BYTES = 1_000_000_000
"""Less than this free is worth a note: a photo of 12 megapixels takes about half of it."""


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
            seen = Look(f"failed: {type(error).__name__}: {_first_line(error)}", self._failed, REINSTALL)
        return Finding(self.name, seen.state, seen.says, seen.hint)

    @property
    def _failed(self) -> State:
        return "problem" if self.vital else "note"


def examine() -> Diagnosis:
    """Look at everything; nothing that is broken stops the rest."""
    return Diagnosis(tuple(probe.finding() for probe in probes()))


def probes() -> tuple[Probe, ...]:
    """Return the looks to take, in the order of the rows."""
    return (
        Probe("kbnet", lambda: Look(__version__)),
        Probe("Python", _python),
        Probe("torch", _torch, vital=True),
        Probe("processor", _processor),
        Probe("kernels", _kernels),
        Probe("operator test", _operator_test, vital=True),
        Probe("network test", _network_test, vital=True),
        Probe("devices", _devices, vital=True),
        Probe("auto", _auto, vital=True),
        Probe("memory", _memory),
        *(Probe(f"weights {e.name}", partial(_weights, e), vital=e.name in DEFAULTS.values()) for e in ENTRIES),
        Probe("imagecodecs", _imagecodecs, vital=True),
        Probe("camera raw", _camera_raw),
        Probe("HEIC", _heic),
        Probe("pylibjxl", _pylibjxl),
        Probe("exiftool", _exiftool),
    )


def _python() -> Look:
    return Look(f"{platform.python_version()}, {platform.system()} {platform.machine()}, {sys.executable}")


def _torch() -> Look:
    from kbnet_cli.kernels import running

    return Look(running.torch_build())


def _processor() -> Look:
    from kbnet_cli.kernels import running

    cores, threads = machine.cores(), running.running().threads
    says = f"{machine.processor()}: cores {cores}, torch's threads {threads}"
    if 2 * threads < cores:  # half is usual: one for each core that runs two threads
        return Look(says, "note", "torch could use more cores: see whether OMP_NUM_THREADS is set")
    return Look(says)


def _kernels() -> Look:
    from kbnet_cli.kernels import running

    found = running.running()
    if found.forms:
        others = f" (also {', '.join(found.forms[1:])})" if found.forms[1:] else ""
        rough = f"; bf16: {found.bfloat16_forms[0]}" if found.bfloat16_forms else ""
        return Look(f"compiled, {found.forms[0]}{others}{rough}")
    return Look(
        f"{running.PLAIN}: the same pictures, several times slower",
        "note",
        "install a wheel made for this system, or a C compiler (gcc, clang) and then kbnet from its source again",
    )


def _operator_test() -> Look:
    from kbnet_cli.kernels import running

    if not running.running().forms:
        return Look("nothing to compare: the plain form runs alone")
    return _compared("the compiled forms agree with the plain one", running.disagreement())


def _network_test() -> Look:
    from kbnet_cli.networks.agreement import disagreement

    return _compared("small networks agree with their plain modules", disagreement())


def _compared(says: str, found: float) -> Look:
    if found <= TOLERANCE:
        return Look(f"{says} to {found:.0e}")
    return Look(
        f"{says} to {found:.0e} only, expected {TOLERANCE:.0e}: pictures would be wrong",
        "problem",
        f"{REINSTALL}, and report this processor",
    )


def _devices() -> Look:
    from kbnet_cli.engine import available_devices

    return Look(", ".join(available_devices()))


def _auto() -> Look:
    from kbnet_cli.engine import choose

    choice = choose("auto", "auto")
    return Look(f"--device auto is {choice.device} ({choice.reason}), --precision auto is {choice.precision}")


def _memory() -> Look:
    found = machine.memory()
    if found.free_bytes is None:
        return Look("unknown" if found.total_bytes is None else f"{found.total_bytes / 1e9:.1f} GB, free: unknown")
    total = "" if found.total_bytes is None else f" of {found.total_bytes / 1e9:.1f} GB"
    says = f"{found.free_bytes / 1e9:.1f}{total} free"
    if found.free_bytes < LITTLE_MEMORY_BYTES:
        return Look(says, "note", "close other programs; kbnet denoise --dry-run tells what a photo takes")
    return Look(says)


def _weights(entry: Entry) -> Look:
    from kbnet_cli import checkpoint

    loaded = checkpoint.load(entry.path)
    megabytes = entry.path.stat().st_size / 1e6
    return Look(f"{loaded.architecture}, {megabytes:.1f} MB, tiles of {loaded.facts.tile}: {entry.summary}")


def _imagecodecs() -> Look:
    codecs = importlib.import_module("imagecodecs")
    missing = [name for name in ("JPEG8", "PNG", "AVIF", "JPEGXL") if not getattr(codecs, name).available]
    if missing:
        return Look(f"{codecs.__version__}, without {', '.join(missing)}", "note", "install imagecodecs from its wheel")
    return Look(f"{codecs.__version__}, with JPEG, PNG, AVIF and JPEG XL")


def _camera_raw() -> Look:
    rawpy = importlib.import_module("rawpy")
    return Look(f"rawpy {rawpy.__version__}, LibRaw {'.'.join(map(str, rawpy.libraw_version))}")


def _heic() -> Look:
    pi_heif = importlib.import_module("pi_heif")
    return Look(f"pi-heif {pi_heif.__version__}, libheif {pi_heif.libheif_version()}")


def _pylibjxl() -> Look:
    try:
        importlib.import_module("pylibjxl")
    except ModuleNotFoundError:
        return Look(
            "not installed: a photo with an ICC profile cannot become JPEG XL", "note", "pip install 'kbnet[jxl]'"
        )
    return Look(f"{importlib.metadata.version('pylibjxl')}: ICC profiles in JPEG XL")


def _exiftool() -> Look:
    path = shutil.which("exiftool")
    if path is None:
        return Look("not on PATH", "note", "nothing to do: only kbnet's own tests ask it")
    done = subprocess.run([path, "-ver"], capture_output=True, text=True, check=True, timeout=20)  # noqa: S603 - which found it
    return Look(f"{done.stdout.strip()}, {path}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0][:160]
