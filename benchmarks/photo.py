"""Whole photos with the bundled weights, from the shell to the written file: seconds and peak memory.

    python benchmarks/photo.py [--megapixels 1 12] [--rounds 3]

The photos are made by code: a smooth picture with noise of σ 25, as 8-bit PNG. spandrel's KBNet gets the same weights,
tiles and picture in memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imagecodecs
import numpy as np

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))


def photo(megapixels: float) -> np.ndarray:
    """Return a noisy picture of 3:2."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    smooth = np.stack([np.sin(x / 97), np.cos(y / 71), np.sin((x + y) / 53)], axis=-1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 25, smooth.shape)
    return np.clip(np.rint(smooth + noise), 0, 255).astype(np.uint8)


def run_spandrel(path: Path) -> None:
    """Restore a photo with spandrel's KBNet under our tiles, and print the seconds of it."""
    import torch

    from kbnet_cli import checkpoint
    from kbnet_cli.catalogue import resolve
    from kbnet_cli.engine import Engine, choose
    from kbnet_cli.formats import codec
    from kbnet_cli.restore import Restoration, restore
    from tests.oracle import published_network

    loaded = checkpoint.load(resolve(None, "denoise"))
    sizes = loaded.network.sizes
    published = published_network(
        "s",
        img_channel=sizes.image_channels,
        width=sizes.width,
        enc_blk_nums=list(sizes.encoder_blocks),
        middle_blk_num=sizes.middle_blocks,
        dec_blk_nums=list(sizes.decoder_blocks),
        lightweight=sizes.lightweight,
        ffn_scale=sizes.ffn_scale,
    )
    published.load_state_dict(loaded.network.state_dict())
    engine = Engine(loaded, choose("cpu", "fp32"))
    engine.network.forward = torch.inference_mode()(published.forward)
    decoded = codec.decode(path.read_bytes())
    started = time.perf_counter()
    restore(decoded, engine, Restoration(tile=loaded.facts.tile, overlap=32))
    print(json.dumps({"seconds": time.perf_counter() - started}))


def measure(words: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, its peak memory in gigabytes and what it printed."""
    probe = (
        "import json, resource, subprocess, sys, time; s = time.perf_counter();"
        "r = subprocess.run(sys.argv[1:], check=True, stdout=subprocess.PIPE, text=True);"
        "seconds = time.perf_counter() - s; peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss;"
        "print(json.dumps([seconds, peak * 1024 / 1e9, r.stdout]))"
    )
    done = subprocess.run([sys.executable, "-c", probe, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds, gigabytes, printed = json.loads(done.stdout.splitlines()[-1])
    return seconds, gigabytes, printed


def main() -> None:
    """Measure each size in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1.0, 12.0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spandrel-up-to", type=float, default=1.0, metavar="MEGAPIXELS")
    parser.add_argument("--spandrel", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.spandrel:
        run_spandrel(arguments.spandrel)
        return
    print("| photo | form | seconds | MP/s | peak memory, GB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for megapixels in arguments.megapixels:
            source, target = Path(folder) / "in.png", Path(folder) / "out.png"
            source.write_bytes(imagecodecs.png_encode(photo(megapixels), level=1))
            ours = [sys.executable, "-m", "kbnet_cli", "denoise", str(source), "-o", str(target), "--overwrite", "-q"]
            theirs = [sys.executable, __file__, "--spandrel", str(source)]
            forms = {"kbnet, whole command": ours}
            if megapixels <= arguments.spandrel_up_to:
                forms["spandrel's network in the same tiles"] = theirs
            runs: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
            for _ in range(arguments.rounds):
                for form, words in forms.items():
                    seconds, memory, printed = measure(words)
                    runs[form].append((json.loads(printed)["seconds"] if printed else seconds, memory))
            for form, figures in runs.items():
                seconds, memory = (statistics.median(column) for column in zip(*figures, strict=True))
                speed = megapixels / seconds
                print(f"| {megapixels:g} MP | {form} | {seconds:.1f} | {speed:.2f} | {memory:.2f} |", flush=True)


if __name__ == "__main__":
    main()
