"""A folder of JPEGs through `kbnet denoise -r`: wall time against what its network and its codecs take by themselves.

    python benchmarks/folder.py                 # 100 photos of 2 megapixels
    python benchmarks/folder.py --photos 20 --megapixels 6

The network's own time is that of all tiles answered one after the other, as many at once as the program does, with
nothing else to do; the codecs' is their processor time over the cores. Both are measured before and after the folder,
since machines are shared. Where others have the cores for a while, wall times tell little; processor time still tells
what the program does besides. The table is Markdown.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
EXAMPLE = ROOT / "examples" / "rocks_clean.jpg"
SAMPLE = 10
"""So many photos' tiles are answered each time that the network alone is measured."""


@dataclass(frozen=True)
class Seconds:
    """How long something took."""

    wall: float
    processor: float
    """Of all cores together."""


def picture(megapixels: float, seed: int) -> bytes:
    """Return a JPEG of the example photo, repeated, with noise on it."""
    clean = np.asarray(Image.open(EXAMPLE).convert("RGB"))
    height = round((megapixels * 1e6 * 2 / 3) ** 0.5)
    width = round(height * 1.5)
    rows, columns = (-(-length // side) for length, side in zip((height, width), clean.shape[:2], strict=True))
    whole = np.tile(clean, (rows, columns, 1))[:height, :width].astype(np.float32)
    noisy = whole + np.random.default_rng(seed).normal(0, 12, whole.shape)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


class Alone:
    """Network and codecs by themselves."""

    def __init__(self, data: bytes, photos: int) -> None:
        from kbnet_cli import checkpoint, tiles
        from kbnet_cli.engine import Engine, choose
        from kbnet_cli.formats import codec

        self.data, self.photos = data, photos
        loaded = checkpoint.load(ROOT / "weights" / "denoise-small.safetensors")
        self.engine = Engine(loaded, choose("auto", "auto"))
        size = loaded.facts.tile
        photo = codec.decode(data)
        overlap = tiles.default_overlap(size)
        layout = tiles.plan(photo.size, tile=size, overlap=overlap, multiple=self.engine.size_multiple)
        self.tile = np.random.default_rng(0).random((1, layout.rows.tile, layout.columns.tile, 3)).astype(np.float32)
        self.tiles = layout.tiles

    def network_seconds(self) -> Seconds:
        """Return what the network takes for all photos, from the tiles of some."""
        from kbnet_cli.lanes import lanes, most_lanes

        choice = self.engine.choice
        count = self.tiles * min(SAMPLE, self.photos)
        with lanes(most_lanes(choice.device, choice.precision), shared=True) as own:
            list(own.pool.map(self.engine.residual, [self.tile] * 2))
            started, busy = time.perf_counter(), time.process_time()
            list(own.pool.map(self.engine.residual, [self.tile] * count))
            share = count / (self.tiles * self.photos)
            return Seconds((time.perf_counter() - started) / share, (time.process_time() - busy) / share)

    def codec_seconds(self) -> float:
        """Return the processor time that decoding and encoding all photos takes."""
        from kbnet_cli.formats import codec

        codec.encode(codec.decode(self.data), "jpg")
        started = time.process_time()
        for _ in range(SAMPLE):
            codec.encode(codec.decode(self.data), "jpg")
        return (time.process_time() - started) / SAMPLE * self.photos


def folder_seconds(folder: Path) -> tuple[float, Seconds]:
    """Restore a folder; return the seconds from the first photo to the last, and those of the whole program."""
    words = [sys.executable, "-m", "kbnet_cli", "denoise", str(folder), "-r", "-o", f"{folder}-out/", "--json"]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(words, stdout=subprocess.PIPE, check=True)
    wall, after = time.perf_counter() - started, os.times()
    processor = after.children_user + after.children_system - before.children_user - before.children_system
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"]), Seconds(wall, processor)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=int, default=100)
    parser.add_argument("--megapixels", type=float, default=2.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "in"
        folder.mkdir()
        for number in range(chosen.photos):
            data = picture(chosen.megapixels, number % 8)
            (folder / f"{number}.jpg").write_bytes(data)
        alone = Alone(data, chosen.photos)
        before = alone.network_seconds(), alone.codec_seconds()
        seconds, whole = folder_seconds(folder)
        after = alone.network_seconds(), alone.codec_seconds()
    network, codecs = statistics.mean((before[0].wall, after[0].wall)), statistics.mean((before[1], after[1]))
    busy = statistics.mean((before[0].processor, after[0].processor)) + codecs
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    floor = network + codecs / cores
    print("| what | seconds |\n|---|---|")
    print(f"| network alone, before and after | {before[0].wall:.1f}, {after[0].wall:.1f} |")
    print(f"| codecs' processor time, before and after | {before[1]:.1f}, {after[1]:.1f} |")
    print(f"| floor: network + codecs over {cores} cores | {floor:.1f} |")
    print(f"| {chosen.photos} photos of {chosen.megapixels:g} megapixels | {seconds:.1f} |")
    print(f"| with the start of the program | {whole.wall:.1f} |")
    print(f"| ratio to the floor | {seconds / floor:.3f} |")
    print(f"| processor time of network and codecs, of the whole program | {busy:.1f}, {whole.processor:.1f} |")
    print(f"| ratio of these | {whole.processor / busy:.3f} |")


if __name__ == "__main__":
    main()
