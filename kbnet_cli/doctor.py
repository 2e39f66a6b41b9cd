"""Whether this machine is well: what kbnet finds here, a row a thing, and how to go on where something is missing.

What is slow or may be broken is imported inside the probe that looks at it, so that a broken torch is a row as well.
"""

import importlib
import importlib.metadata
import platform
import shutil
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

from kbnet_cli import __version__, doctor_places, machine
from kbnet_cli.catalogue import BUNDLED, DEFAULTS, Entry
from kbnet_cli.errors import DeviceError
from kbnet_cli.findings import REINSTALL, Diagnosis, Look, Probe
from kbnet_cli.settings import Settings, Survey

if TYPE_CHECKING:
    from kbnet_cli.choosing import Choice

TOLERANCE = 1e-4
"""How far compiled and plain arithmetic may be apart, relative to the largest value: they sum in other orders."""
GPU_TOLERANCES = {"fp32": TOLERANCE, "tf32": 5e-3, "bf16": 2e-2}
"""The same on a GPU: factors are rounded to 11 significant bits in tf32, and to 8 in bf16, as is the answer."""
DEVICES = ("cpu", "cuda", "xpu", "mps")
TILE = 96
"""Enough pixels for every level of a network, little enough for a moment's work."""
TILE_TOLERANCE = 1e-4
"""How far a pixel of the range 0 to 1 may be from exact in float32 on a CPU: a fortieth of a step of 8 bits, hundreds
of times what float32's rounding makes."""
TF32_TILE_TOLERANCE = 1e-3
"""The factors of tf32's products have 11 significant bits, which makes a third of this."""
TILE_PSNR = 50.0
"""In dB, for bf16: an error below a step of 8 bits. Its rounding leaves 76 compiled, and 61 by torch's autocast."""
LITTLE_MEMORY_BYTES = 1_000_000_000
"""Less than this free is worth a note: a photo of 12 megapixels takes about half of it."""


def examine(survey: Survey) -> Diagnosis:
    """Look at everything; nothing that is broken stops the rest."""
    return Diagnosis(tuple(probe.finding() for probe in probes(survey)))


def probes(survey: Survey) -> tuple[Probe, ...]:
    """Return the looks to take, in the order of the rows."""
    settings = survey.settings
    return (
        Probe("kbnet", lambda: Look(__version__)),
        Probe("Python", _python),
        Probe("settings", partial(doctor_places.settings, survey), vital=True),
        Probe("torch", _torch, vital=True),
        Probe("processor", _processor),
        Probe("kernels", partial(_kernels, settings)),
        Probe("operator test", partial(_operator_test, settings), vital=True),
        Probe("network test", _network_test, vital=True),
        *(Probe(f"device {name}", partial(_device, name, settings)) for name in DEVICES),
        Probe("chosen", partial(_chosen, settings), vital=True),
        Probe("tile test", partial(_tile_test, settings), vital=True),
        Probe("memory", _memory),
        *(Probe(f"weights {e.name}", partial(_weights, e), vital=e.name in DEFAULTS.values()) for e in BUNDLED),
        Probe("weights folder", partial(doctor_places.weights_folder, settings.places)),
        Probe("Hugging Face cache", partial(doctor_places.hub_cache, settings.places)),
        Probe("Hub", partial(doctor_places.hub, settings.places)),
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


def _kernels(settings: Settings) -> Look:
    from kbnet_cli.kernels import running

    found, gpus = running.running(), _gpus(settings)
    on_gpu = "".join(f"; {found.on(one.device, one.precision)}" for one in gpus)
    if not found.forms:
        return Look(
            f"{running.PLAIN}: the same pictures, several times slower{on_gpu}",
            "note",
            "install a wheel made for this system, or a C compiler (gcc, clang) and then kbnet from its source again",
        )
    others = f" (also {', '.join(found.forms[1:])})" if found.forms[1:] else ""
    rough = f"; bf16: {found.bfloat16_forms[0]}" if found.bfloat16_forms else ""
    says = f"compiled, {found.forms[0]}{others}{rough}{on_gpu}"
    if any(running.reason_against_triton(one.device) for one in gpus):
        return Look(says, "note", "for several times the speed on the GPU: pip install triton, and a C compiler (gcc)")
    return Look(says)


def _gpus(settings: Settings) -> "tuple[Choice, ...]":
    """Return the CUDA devices that are chosen, each by itself; none where nothing is chosen: its row tells why."""
    from kbnet_cli.choosing import choose

    try:
        choice = choose(settings.device, settings.precision)
    except DeviceError:
        return ()
    return tuple(choice.on(device) for device in choice.devices if device.type == "cuda")


def _operator_test(settings: Settings) -> Look:
    from kbnet_cli.kernels import running

    for one in _gpus(settings):
        if running.reason_against_triton(one.device) is None:
            found = running.gpu_disagreement(one.device, one.precision)
            says = f"the kernel in Triton on {one.device} agrees with plain torch in {one.precision}"
            seen = _compared(says, found, GPU_TOLERANCES[one.precision])
            if seen.state != "ok":
                return seen
    if not running.running().forms:
        return Look("nothing to compare: the plain form runs alone")
    return _compared("the compiled forms agree with the plain one", running.disagreement())


def _network_test() -> Look:
    from kbnet_cli.networks.agreement import disagreement

    return _compared("small networks agree with their plain modules", disagreement())


def _compared(says: str, found: float, tolerance: float = TOLERANCE) -> Look:
    if found <= tolerance:
        return Look(f"{says} to {found:.0e}")
    return Look(
        f"{says} to {found:.0e} only, expected {tolerance:.0e}: pictures would be wrong",
        "problem",
        f"{REINSTALL}, and report this processor",
    )


def _device(name: str, settings: Settings) -> Look:
    from kbnet_cli.choosing import choose
    from kbnet_cli.kernels import devices

    kind = devices.kind(name)
    if kind.there:
        says = kind.says + (_more_of_cuda(len(kind.names)) if name == "cuda" else "")
        try:
            chosen = choose(settings.device, "fp32")
        except DeviceError:  # the row of what is chosen tells why
            return Look(f"{says}: not used, because {settings.device} is asked for")
        return Look(f"{says}: {'used' if chosen.device.type == name else f'not used, because {chosen.name} is'}")
    if name == "cuda" and not kind.hidden and (devices.nvidia_driver() or devices.idle_nvidia() or _has_nvidia_smi()):
        return Look(f"not used, though there seems to be one: {kind.says}", "note", kind.hint)
    return Look(f"not used: {kind.says}")


def _has_nvidia_smi() -> bool:
    return shutil.which("nvidia-smi") is not None


def _more_of_cuda(count: int) -> str:
    """Return the memory that is free on NVIDIA's GPUs, and their driver."""
    from kbnet_cli.kernels import devices, running

    driver = devices.nvidia_driver()
    memory = ", ".join(
        f"{free / 1e9:.1f} of {total / 1e9:.1f} GB" for free, total in map(running.free_bytes, range(count))
    )
    return f"; free: {memory}" + (f"; driver {driver}" if driver else "")


def _chosen(settings: Settings) -> Look:
    from kbnet_cli.choosing import choose

    choice = choose(settings.device, settings.precision)
    why = f" ({choice.precision_reason})" if choice.precision_reason else ""
    says = (
        f"--device {settings.device} is {choice.name} ({choice.reason}), "
        f"--precision {settings.precision} is {choice.precision}{why}"
    )
    return Look(f"{says}; {choice.warning}", "note", "see the rows of devices") if choice.warning else Look(says)


def _tile_test(settings: Settings) -> Look:
    from kbnet_cli.choosing import choose

    choice = choose(settings.device, settings.precision)
    looks = [_tile_on(choice.on(device)) for device in dict.fromkeys(choice.devices)]
    return next((look for look in looks if look.state != "ok"), looks[0])


def _tile_on(choice: "Choice") -> Look:
    import numpy as np

    from kbnet_cli import checkpoint
    from kbnet_cli.engine import Engine
    from kbnet_cli.networks.agreement import exact_residual

    entry = next(entry for entry in BUNDLED if entry.name == DEFAULTS["denoise"])
    assert entry.path is not None
    loaded = checkpoint.load(entry.path)
    y, x = np.mgrid[0:TILE, 0:TILE]
    waves = 0.5 + 0.3 * np.sin(x / 7)[..., None] * np.cos(y[..., None] / np.array([5, 9, 13]))
    tile = (waves + np.random.default_rng(0).normal(0, 0.06, waves.shape)).clip(0, 1).astype(np.float32)[None]
    expected = exact_residual(loaded.network, tile)  # first: an engine may take the network with it to its device
    difference = Engine(loaded, choice).residual(tile) - expected
    says = f"{entry.name}, {TILE}×{TILE} pixels on {choice.device} in {choice.precision}"
    if choice.precision == "bf16":
        psnr = float(-10 * np.log10(np.square(difference).mean()))
        agrees, how, limit = psnr >= TILE_PSNR, f"{psnr:.0f} dB PSNR", f"{TILE_PSNR:.0f} dB"
    else:
        tolerance = TILE_TOLERANCE if choice.precision == "fp32" else TF32_TILE_TOLERANCE
        worst = float(np.abs(difference).max())
        agrees, how, limit = worst <= tolerance, f"{worst:.0e}", f"{tolerance:.0e}"
    if agrees:
        return Look(f"{says}: agrees with plain torch on the CPU to {how}")
    return Look(
        f"{says}: agrees with plain torch on the CPU to {how} only, expected {limit}: pictures would be wrong",
        "problem",
        f"use another --device or --precision; {REINSTALL}, and report this machine",
    )


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

    assert entry.path is not None
    loaded = checkpoint.load(entry.path)
    return Look(
        f"{loaded.architecture}, {entry.size_bytes / 1e6:.1f} MB, tiles of {loaded.facts.tile}: {entry.summary}"
    )


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
