"""A folder of photos through the program, from disk to disk, and how busy the GPU is meanwhile."""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors.torch import save_file

from benchmarks.gpu import photos, timing
from benchmarks.gpu.absent import installed
from benchmarks.gpu.report import Item, Told
from benchmarks.gpu.scale import Scale, random_small
from kbnet_cli import tiles
from kbnet_cli.networks.accelerating import accelerated

DIFFERENT = 3
"""So many different photos; the others are the same under other names."""
SAMPLING_MILLISECONDS = 100
REMARK = (
    "Seconds are the program's own, from the first photo to the last. The driver tells for which share of the last "
    "sixth of a second or so some kernel ran. The network alone: the tiles of all photos in batches as CUDA graphs."
)


def items(scale: Scale) -> Iterator[Item]:
    """Give the one run."""
    yield Item("bf16", partial(folder, scale, "bf16"))


def folder(scale: Scale, precision: str) -> Iterable[Told]:
    """Restore a folder in a process of the program's own."""
    kind = file_kind()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        weights = root / "random.safetensors"
        facts = {"kbnet.task": "denoise", "kbnet.tile": str(scale.tile), "kbnet.limit": "0,1", "kbnet.card": "none"}
        save_file(random_small(scale.small).state_dict(), weights, facts)
        given, output = root / "in", root / "out"
        given.mkdir()
        for number in range(scale.photos):
            same = given / f"{number % DIFFERENT}.{kind}"
            if number < DIFFERENT:
                same.write_bytes(encoded((photos.picture(scale, number) * 255).round().astype(np.uint8), kind))
            else:
                shutil.copy(same, given / f"{number}.{kind}")
        words = ["denoise", str(given), "-r", "-o", f"{output}/", "-w", str(weights), "--json"]
        words += ["--device", scale.device.type, "--precision", precision]
        with Sampling() as sampling:
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, str(Path(__file__).parent / "run.py"), "--program", *words],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ | {"XDG_CONFIG_HOME": place, "XDG_DATA_HOME": place},
            )
            whole = time.perf_counter() - started
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
            raise RuntimeError(f"the program ended with {done.returncode}: {' / '.join(said)}")
        seconds = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
        written = len([path for path in output.iterdir() if path.suffix == f".{kind}"])
    megapixels = scale.photos * scale.photo[0] * scale.photo[1] / 1e6
    network = network_seconds(scale, precision)
    busy = sampling.share(started + whole - seconds, started + whole)
    alone = None if network is None else 100 * network / seconds
    known = busy if busy is not None else alone
    yield Told(
        (
            {
                "photos": f"{written} of {scale.photos}, {kind}",
                "precision": precision,
                "seconds": seconds,
                "with the start": whole,
                "MP/s": megapixels / seconds,
                "GPU busy by its driver, %": busy,
                "network alone of the time, %": alone,
            },
        ),
        {"disk, MP/s": megapixels / seconds} | ({} if known is None else {"disk, GPU busy": known}),
        (REMARK,),
    )


def file_kind() -> str:
    """Return what photos are written as: JPEG, or what can be read without the packages for it."""
    if installed("imagecodecs") and installed("simplejpeg"):
        return "jpg"
    return "tif" if installed("tifffile") else "ppm"


def encoded(pixels: UInt8[np.ndarray, "h w 3"], kind: str) -> bytes:
    """Return a picture as a file."""
    file = io.BytesIO()
    if kind == "jpg":
        from PIL import Image

        Image.fromarray(pixels).save(file, "JPEG", quality=92)
    elif kind == "tif":
        import tifffile

        tifffile.imwrite(file, pixels, photometric="rgb")
    else:
        height, width, _ = pixels.shape
        file.write(f"P6 {width} {height} 255\n".encode() + pixels.tobytes())
    return file.getvalue()


def network_seconds(scale: Scale, precision: str) -> float | None:
    """Return what all tiles of all photos take in the network with nothing else to do; None without a GPU."""
    if scale.device.type != "cuda":
        return None
    import torch

    network = random_small(scale.small)
    layout = tiles.plan(
        scale.photo, tile=scale.tile, overlap=tiles.default_overlap(scale.tile), multiple=network.size_multiple
    )
    with torch.inference_mode():
        fast = accelerated(network, precision, scale.device)  # type: ignore[arg-type]
        pictures = scale.pictures(scale.batch)
        return timing.on_gpu(lambda: fast(pictures)).seconds / scale.batch * layout.tiles * scale.photos


class Sampling:
    """Ask the driver again and again how busy the GPU is, by the tool that comes with it."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []

    def __enter__(self) -> "Sampling":
        self.process: subprocess.Popen[str] | None = None
        tool = shutil.which("nvidia-smi")
        if tool is not None:
            query = ["--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-i", "0"]
            self.process = subprocess.Popen(
                [tool, *query, "-lms", str(SAMPLING_MILLISECONDS)], stdout=subprocess.PIPE, text=True
            )
            self.thread = threading.Thread(target=self._listen, daemon=True)
            self.thread.start()
        return self

    def _listen(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = line.strip()
            if said.isdigit():
                self.samples.append((time.perf_counter(), float(said)))

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.thread.join()

    def share(self, begin: float, end: float) -> float | None:
        """Return the mean of the samples between two times, in percent; None where there are none."""
        found = [share for moment, share in self.samples if begin <= moment <= end]
        return statistics.mean(found) if found else None
