"""The programs that will open what is written: found, called with settings of their own and no others, and timed."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rawpy
import tifffile

from kbnet_cli.formats import codec
from kbnet_cli.formats.development import Development
from kbnet_cli.photo import CameraColour, Crop

SECONDS = 300
"""No call takes longer, on a busy machine either."""
BLOCK = 16
"""Pictures are compared by the means of squares of so many pixels: demosaicing differs by less than that."""
_DARKTABLE = (
    "plugins/darkroom/workflow=none",
    "plugins/darkroom/chromatic-adaptation=legacy",  # white balance as shot, and nothing after it
    "plugins/imageio/format/tiff/bpp=16",
    "opencl=FALSE",
)
_ALWAYS_SAID = (
    "[dt_init] using",
    "[export_job] exported to",
    "WARNING: either your user id",  # in containers
    "notice: output location is a directory",
    "RawTherapee, version",
    "Output is 16-bit integer.",
    "Processing:",
    "Merging procparams",
    "wait time",  # darktable, on a busy machine
)
_RAWTHERAPEE = """[Version]
AppVersion=5.9
Version=349
[Exposure]
Auto=false
Clip=0
Compensation=0
HistogramMatching=false
[HLRecovery]
Enabled=false
[White Balance]
Enabled=true
Setting=Camera
[Lens Profile]
LcMode=none
[Color Management]
InputProfile=(embedded)
ToneCurve=false
ApplyLookTable=false
ApplyBaselineExposureOffset=false
ApplyHueSatMap=false
OutputProfile=RTv4_sRGB
[RAW]
CA=false
HotPixelFilter=false
DeadPixelFilter=false
[RAW Bayer]
Border=0
[RAW X-Trans]
Border=0
"""


@dataclass(frozen=True)
class Rendered:
    """What a program made of photos."""

    pictures: dict[str, np.ndarray]
    """h w c, 0 … 1, by the name of the file without its ending; what the program could not open is not in it."""
    words: tuple[str, ...]
    """What it said beyond what it always says, without the names of files."""
    code: int


@dataclass(frozen=True)
class Pair:
    """A raw file and the DNG that kbnet writes of it at strength 0."""

    source: Path
    written: Path
    camera: CameraColour
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Name both pictures of a program."""
        return self.written.stem


def needs(program: str) -> pytest.MarkDecorator:
    """Skip a test where a program is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def convert(source: Path, written: Path) -> Pair:
    """Write the DNG of a raw file, not restored."""
    photo = codec.decode(source.read_bytes(), development=Development(mode="linear"))
    assert photo.camera is not None
    written.write_bytes(codec.encode(photo, "dng").data)
    return Pair(source, written, photo.camera, photo.size)


def libraw(path: Path, **wishes: Any) -> np.ndarray:
    """Return a photo as LibRaw shows it by the camera's white balance: h w c, 0 … 1, turned, display-encoded."""
    with rawpy.imread(str(path)) as raw:
        shown = raw.postprocess(no_auto_bright=True, adjust_maximum_thr=0, use_camera_wb=True, output_bps=16, **wishes)
    return shown / 65535


def darktable(files: Sequence[Path], folder: Path) -> Rendered:
    """Export files with darktable's oldest workflow: white balance and the camera's matrix, nothing for the looks."""
    made = folder / "darktable"
    made.mkdir(parents=True)
    command = ["darktable-cli"]
    for file in files:
        command += ["--import", str(file)]
    command += [str(made), "--out-ext", "tif", "--icc-type", "SRGB", "--apply-custom-presets", "false", "--core"]
    command += ["--configdir", str(folder / "config"), "--cachedir", str(folder / "cache"), "--library", ":memory:"]
    command += ["--disable-opencl", "-t", "1"]
    for setting in _DARKTABLE:
        command += ["--conf", setting]
    return _render(command, made, folder)


def rawtherapee(files: Sequence[Path], folder: Path) -> Rendered:
    """Develop files with RawTherapee by neutral settings."""
    made = folder / "rawtherapee"
    made.mkdir(parents=True)
    settings = folder / "neutral.pp3"
    settings.write_text(_RAWTHERAPEE)
    command = ["rawtherapee-cli", "-Y", "-b16", "-t", "-o", str(made), "-p", str(settings), "-c", *map(str, files)]
    return _render(command, made, folder)


def exiftool(files: Sequence[Path], *options: str) -> list[dict[str, Any]]:
    """Return what exiftool finds in each file, tags of the same name once, as it prints them."""
    command = ["exiftool", "-j", *options, *map(str, files)]
    done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [{name: value for name, value in tags.items() if name != "SourceFile"} for tags in found]


def complaints(files: Sequence[Path]) -> list[set[str]]:
    """Return what exiftool's validation finds wrong with each file, without how often."""
    command = ["exiftool", "-validate", "-warning", "-error", "-a", "-s3", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    found: list[set[str]] = [] if len(files) > 1 else [set()]
    for line in done.stdout.splitlines():
        if line.startswith("========"):
            found.append(set())
        elif line and not line.startswith(("OK", *"0123456789")) and not line.endswith("image files read"):
            found[-1].add(line)
    return found


def exiv2(path: Path) -> tuple[dict[str, str], str]:
    """Return the tags that exiv2 finds, as it prints them, and its complaints."""
    command = ["exiv2", "-PEIXkt", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    pairs = (line.split(None, 1) for line in done.stdout.splitlines())
    return {pair[0]: pair[1].strip() if len(pair) > 1 else "" for pair in pairs if pair}, done.stderr


def likeness(one: np.ndarray, other: np.ndarray, crop: Crop | None = None) -> tuple[float, np.ndarray] | None:
    """Return how far a source's picture and its DNG's are apart, on average over squares, and how much brighter it is.

    None: they are of different sizes, and not because of the crop.
    """
    apart = [_blocks(second) - _blocks(first) for first, second in _aligned(one, other, crop)]
    best = min(apart, key=lambda blocks: float(np.abs(blocks).mean()), default=None)
    return None if best is None else (float(np.abs(best).mean()), best.mean(axis=(0, 1)))


def verdicts(pair: Pair, folder: Path) -> list[str]:
    """Say in a few words each what LibRaw, darktable, RawTherapee, exiftool and exiv2 make of a DNG."""
    copy = folder / "source" / f"{pair.name}{pair.source.suffix}"
    copy.parent.mkdir()
    copy.write_bytes(pair.source.read_bytes())
    found = [_verdict(libraw(copy), libraw(pair.written), pair)]
    for name, program in (("darktable-cli", darktable), ("rawtherapee-cli", rawtherapee)):
        if shutil.which(name) is None:
            found.append("not installed")
            continue
        before, after = program([copy], folder / f"{name}-before"), program([pair.written], folder / f"{name}-after")
        words = [line for line in after.words if line not in before.words]
        verdict = _verdict(before.pictures.get(pair.name), after.pictures.get(pair.name), pair)
        found.append("; ".join([verdict, *words]))
    if shutil.which("exiftool") is None:
        found.append("not installed")
    else:
        old, new = complaints([copy, pair.written])
        found.append("; ".join(sorted(new - old)) or ("nothing new" if new else "OK"))
    found.append((exiv2(pair.written)[1] or "reads it") if shutil.which("exiv2") else "not installed")
    return found


def _verdict(before: np.ndarray | None, after: np.ndarray | None, pair: Pair) -> str:
    if after is None:
        return "**not opened**"
    if before is None:
        return "opened (not the source)"
    found = likeness(before, after, pair.camera.crop)
    return f"**{before.shape} became {after.shape}**" if found is None else f"{found[0]:.2%}"


def _aligned(before: np.ndarray, after: np.ndarray, crop: Crop | None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the parts of two pictures that show the same: one pair, or several that may."""
    if crop is None:
        return [(before, after)] if before.shape == after.shape else []
    top, left = crop.top, crop.left
    if before.shape == after.shape:
        # darktable 4.2 takes the crop's size from a linear DNG, but begins at the first pixel.
        height, width = before.shape[0] - top, before.shape[1] - left
        return [(before, after), (before[:height, :width], after[top:, left:])]
    # Some programs know a crop of their own for a camera's files, and take that of the file for a DNG.
    places = [(top, left), (0, 0)] if after.shape[:2] == (crop.height, crop.width) else []
    return [(before[y : y + crop.height, x : x + crop.width], after) for y, x in places]


def _blocks(picture: np.ndarray) -> np.ndarray:
    height, width = (side - side % BLOCK for side in picture.shape[:2])
    parts = picture[:height, :width].reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK, -1)
    return np.asarray(parts.mean(axis=(1, 3)))


def _render(command: list[str], made: Path, folder: Path) -> Rendered:
    home = folder / "home"
    home.mkdir(exist_ok=True)
    places = ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME")
    environment = os.environ | {"HOME": str(home), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    environment |= {place: str(home / place.lower()) for place in places}
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=environment, timeout=SECONDS, check=False
    )
    said = [line.strip() for line in (done.stdout + done.stderr).splitlines()]
    words = tuple(line for line in said if line and not line.startswith(_ALWAYS_SAID))
    pictures = {path.stem: _picture(path) for path in sorted(made.glob("*.tif"))}
    return Rendered(pictures, words, done.returncode)


def _picture(path: Path) -> np.ndarray:
    samples = tifffile.imread(path)
    assert samples.dtype == np.uint16, samples.dtype
    return np.atleast_3d(samples) / 65535
