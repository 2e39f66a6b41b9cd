"""Memory: a tile's working set is bounded, and a larger photo takes no more than itself and a strip."""

import gc
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet_cli import tiles
from kbnet_cli.kernels import compiled, memory

PROBE = """
import gc
import torch
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Engine, choose
from kbnet_cli.kernels import compiled
from kbnet_cli.machine import PeakMemory
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes

if {plain}:
    compiled.HAS_EXTENSION = False
network = KBNetS(KBNetSSizes({sizes})).eval().requires_grad_(False)
engine = Engine(Checkpoint(network, Facts(), "probe"), choose("cpu", {precision!r}))
del network
small, large = torch.rand(1, 32, 32, 3).numpy(), torch.rand(1, {tile}, {tile}, 3).numpy()
engine.residual(small)
gc.collect()
peak = PeakMemory()
engine.residual(large)
print(peak.bytes_above_start())
"""

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of what was just done")
needs_extension = pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")
needs_bfloat16 = pytest.mark.skipif(not compiled.forms("bf16"), reason="this machine does not multiply in bfloat16")


def peak_above_weights(sizes: str, *, tile: int, plain: bool, precision: str = "fp32") -> float:
    """Return the gigabytes that one tile takes above the engine that answers it, in a process of its own."""
    program = PROBE.format(sizes=sizes, tile=tile, plain=plain, precision=precision)
    # Each thread has scratch memory of its own; the tests themselves run with one.
    threads = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=threads)
    return float(done.stdout) / 1e9


# A map of 16 channels is 17 MB: four are kept of each kind at most, and in plain torch what a band needs besides.
@linux_only
@pytest.mark.parametrize(
    ("plain", "limit"),
    [pytest.param(False, 0.12, id="compiled", marks=needs_extension), pytest.param(True, 0.3, id="plain")],
)
def test_a_tile_of_a_narrow_network_stays_in_its_share(plain: bool, limit: float) -> None:
    sizes = "width=16, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), lightweight=True"
    assert peak_above_weights(sizes, tile=512, plain=plain) < limit


# The published code takes 4.3 GB.
@pytest.mark.slow
@linux_only
@pytest.mark.parametrize(
    ("plain", "precision", "limit"),
    [
        pytest.param(False, "fp32", 0.40, id="compiled", marks=needs_extension),
        pytest.param(False, "bf16", 0.40, id="compiled-bf16", marks=needs_bfloat16),
        pytest.param(True, "fp32", 0.645, id="plain"),
    ],
)
def test_a_tile_of_512_of_the_full_network_stays_in_its_share(plain: bool, precision: str, limit: float) -> None:
    sizes = "lightweight=True, ffn_scale=1.5"
    assert peak_above_weights(sizes, tile=512, plain=plain, precision=precision) < limit


LARGE = memory.HUGE_PAGE_BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size_bytes", [0, 4, 1000, LARGE - 4, LARGE, LARGE + 4, 3 * LARGE - 4, 3 * LARGE])
def test_memory_of_any_size_can_be_written_from_end_to_end(size_bytes: int, dtype: torch.dtype) -> None:
    count = size_bytes // dtype.itemsize
    made = memory.empty(count, dtype=dtype)
    assert made.dtype == dtype
    assert made.shape == (count,)
    assert made.device.type == "cpu"
    assert made.is_contiguous()
    made.fill_(3)
    assert bool((made == 3).all())
    if memory.MADVISE is not None and size_bytes >= LARGE:
        assert made.data_ptr() % LARGE == 0
    assert made.data_ptr() % dtype.itemsize == 0


def test_maps_have_their_shape_and_lie_apart() -> None:
    shape = (2, 3, 300, 400)
    first, second = memory.empty(*shape), memory.empty(*shape)
    assert first.shape == second.shape == shape
    assert first.dtype == torch.float32
    first.fill_(1)
    second.fill_(2)
    assert bool((first == 1).all())
    assert bool((second == 2).all())


@pytest.mark.skipif(memory.MADVISE is None, reason="this system has no large pages to ask for")
def test_without_large_pages_memory_comes_from_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MADVISE", None)
    made = memory.empty(3, LARGE)
    assert made.shape == (3, LARGE)
    assert made.untyped_storage().nbytes() == 12 * LARGE


@linux_only
def test_memory_is_given_back_with_the_last_view_of_it() -> None:
    size_bytes = 64 * LARGE
    made = memory.empty(size_bytes, dtype=torch.uint8)
    made.fill_(1)
    view = made[5:7]
    held = resident_bytes()
    del made
    gc.collect()
    assert resident_bytes() > held - size_bytes // 2, "a view keeps it"
    assert view.tolist() == [1, 1]
    del view
    gc.collect()
    assert resident_bytes() < held - size_bytes // 2


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_grows_with_a_strip_not_with_the_picture() -> None:
    peaks = []
    for height in (200, 3200):
        layout = tiles.plan((height, 300), tile=64, overlap=16, multiple=16)
        row = np.zeros((1, 300, 3), np.float32)
        tracemalloc.start()
        tiles.run(
            layout,
            read=lambda rows, columns, row=row: row[np.ix_(np.zeros_like(rows), columns)],  # type: ignore[misc]
            answer=lambda stack: stack,
            write=lambda _top, _strip: None,
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A strip is 64 × 316 × 3 floats, 0.24 MB; the taller picture would be 11 MB. Blending weights grow by 0.1 MB.
    assert peaks[1] - peaks[0] < 0.5e6
