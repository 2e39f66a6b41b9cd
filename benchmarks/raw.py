"""Camera raw to DNG with the bundled weights: seconds and peak memory of its parts, and which programs open the DNG.

    python benchmarks/raw.py photo.nef                    # one's own files
    python benchmarks/raw.py --megapixels 1 24            # mosaics of the example photo with noise
    python benchmarks/raw.py --programs photo.nef a.crw   # instead: files against programs, at strength 0

Each file goes its way in a process of its own. The tables are Markdown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
EXAMPLE = ROOT / "examples" / "rocks_clean.jpg"
PROCESSES = Path("/proc")
_READ_EVERY_SECONDS = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Step:
    """A part of the way."""

    name: str
    seconds: float
    peak_bytes: int
    """What this process and those it started held together at the worst moment, pages they share counted twice; 0
    where the system does not tell."""


@dataclass(frozen=True)
class Run:
    """A raw file on its way to a DNG."""

    how: str
    megapixels: float
    read_bytes: int
    written_bytes: int
    steps: tuple[Step, ...]


def measure(path: Path) -> Run:
    """Restore a raw file in this process as `kbnet denoise` does, step by step."""
    from kbnet_cli import checkpoint, tiles
    from kbnet_cli.engine import Engine, choose
    from kbnet_cli.formats import codec
    from kbnet_cli.formats.development import Development
    from kbnet_cli.hub.library import Library
    from kbnet_cli.lanes import lanes, most_lanes
    from kbnet_cli.restore import Restoration, restore
    from kbnet_cli.settings import Places

    data = path.read_bytes()
    steps: list[Step] = []
    with timed(steps, "weights"):
        loaded = checkpoint.load(Library(Places()).obtain(None, "denoise"))
        choice = choose("auto", "auto")
        engine = Engine(loaded, choice)
    tile = loaded.facts.tile
    with timed(steps, "decode"):
        photo = codec.decode(data, development=Development(mode="linear"))
    with timed(steps, "network"):
        settings = Restoration(tile=tile, overlap=tiles.default_overlap(tile))
        with lanes(most_lanes(choice.device, choice.precision), shared=False) as own:
            restored = restore(photo, engine, settings, lanes=own)
    with timed(steps, "encode and check"):
        written = codec.encode(restored, "dng", depth=16).data
    how = f"{choice.device} in {choice.precision}"
    return Run(how, photo.megapixels, len(data), len(written), tuple(steps))


@contextmanager
def timed(steps: list[Step], name: str) -> Iterator[None]:
    """Measure what is done within, and keep it as a step."""
    done, peaks = threading.Event(), [held()]

    def watch() -> None:
        while not done.wait(_READ_EVERY_SECONDS):
            peaks.append(held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    steps.append(Step(name, seconds, max(peaks)))


def held() -> int:
    """Return how many bytes this process and those below it hold."""
    pages, waiting = 0, [os.getpid()]
    while waiting:
        process = PROCESSES / str(waiting.pop())
        try:
            pages += int((process / "statm").read_text().split()[1])
            for thread in (process / "task").iterdir():
                waiting += map(int, (thread / "children").read_text().split())
        except (OSError, ProcessLookupError, IndexError):
            continue  # it ended meanwhile, or the system has no such folder
    return pages * _PAGE_BYTES


def mosaic(megapixels: float) -> bytes:
    """Return a DNG of a Bayer sensor that saw the example photo again and again, with the noise of high ISO."""
    import imagecodecs

    from tests.mosaics import Noise, mosaic_dng

    shown = imagecodecs.imread(EXAMPLE)[..., :3] / np.float32(255)
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4) * np.float32([0.5, 1.0, 0.625])
    height = round((megapixels * 1e6 / 1.5) ** 0.5) // 2 * 2
    width = round(megapixels * 1e6 / height) // 2 * 2
    down, across = -(-height // light.shape[0]), -(-width // light.shape[1])
    return mosaic_dng(np.tile(light, (down, across, 1))[:height, :width], noise=Noise(photons=800, read=30))


def table(runs: Sequence[tuple[str, Run]], threads: int) -> str:
    """Write a row for each step of each file."""
    lines = [
        f"With {runs[0][1].how if runs else 'nothing'}, {threads} threads.\n",
        "| file | step | seconds | seconds a megapixel | peak memory |",
        "|---|---|---:|---:|---:|",
    ]
    for name, run in runs:
        for step in run.steps:
            each = f"{step.seconds / run.megapixels:.2f}" if step.name != "weights" else ""
            lines.append(f"| {name} | {step.name} | {step.seconds:.1f} | {each} | {step.peak_bytes / 1e6:.0f} MB |")
        seconds, peak = sum(step.seconds for step in run.steps), max(step.peak_bytes for step in run.steps)
        each = f"{seconds / run.megapixels:.2f}"
        lines.append(f"| {name} | **all** | {seconds:.1f} | {each} | {peak / 1e6:.0f} MB |")
    lines += ["", "| file | megapixels | raw file | DNG | DNG, a megapixel |", "|---|---:|---:|---:|---:|"]
    for name, run in runs:
        sizes = f"{run.read_bytes / 1e6:.1f} MB | {run.written_bytes / 1e6:.1f} MB"
        lines.append(f"| {name} | {run.megapixels:.2f} | {sizes} | {run.written_bytes / 1e6 / run.megapixels:.2f} MB |")
    return "\n".join(lines)


def against_programs(paths: Sequence[Path]) -> str:
    """Write which programs open the DNGs of raw files, and how far their pictures are from those of the sources."""
    from kbnet_cli.errors import KBNetError
    from tests import programs

    lines = [
        "| file | pixels | LibRaw | darktable | RawTherapee | exiftool -validate | exiv2 |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for number, path in enumerate(paths):
            place = Path(folder) / str(number)
            place.mkdir()
            try:
                pair = programs.convert(path, place / "written.dng")
            except KBNetError as error:
                lines.append(f"| {path.name} | not read: {error.message} | | | | | |")
                continue
            cells = [path.name, "{1}×{0}".format(*pair.size), *programs.verdicts(pair, place)]
            lines.append(f"| {' | '.join(cells)} |")
            print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--megapixels", nargs="+", type=float, default=[], help="sizes of made-up raw files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--programs", action="store_true", help="print files against programs instead")
    parser.add_argument("--step-by-step", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.step_by_step:
        print(json.dumps(asdict(measure(wanted.files[0]))))
        return
    if wanted.programs:
        print(against_programs(wanted.files))
        return
    with tempfile.TemporaryDirectory() as folder:
        named = [(path.name, path) for path in wanted.files]
        for megapixels in wanted.megapixels:
            path = Path(folder) / f"{megapixels:g}.dng"
            path.write_bytes(mosaic(megapixels))
            named.append((f"{megapixels:g} megapixels", path))
        print(table([(name, _apart(path, wanted.threads)) for name, path in named], wanted.threads))


def _apart(path: Path, threads: int) -> Run:
    """Measure in a process of its own, whose libraries take the number of threads from the environment."""
    command = [sys.executable, str(Path(__file__)), "--step-by-step", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    fields = json.loads(done.stdout)
    return Run(**{**fields, "steps": tuple(Step(**step) for step in fields["steps"])})


if __name__ == "__main__":
    main()
