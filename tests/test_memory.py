"""Memory: a tile's working set is bounded, and a larger photo takes no more than itself and a strip."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from kbnet_cli import tiles

PROBE = """
import resource, sys
import torch
from kbnet_cli.kernels import compiled
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes

if {plain}:
    compiled.available = lambda: False
network = KBNetS(KBNetSSizes({sizes})).eval().requires_grad_(False)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.inference_mode():
    network(torch.rand(1, 3, 32, 32))
    before = peak()
    network(torch.rand(1, 3, {tile}, {tile}))
print((peak() - before) * 1024)
"""


def peak_above_weights(sizes: str, *, tile: int, plain: bool) -> float:
    """Return the gigabytes that one tile takes above the loaded network, measured in a process of its own."""
    program = PROBE.format(sizes=sizes, tile=tile, plain=plain)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout) / 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("plain", [False, True], ids=["as-installed", "plain"])
def test_a_tile_of_a_narrow_network_stays_in_its_share(plain: bool) -> None:
    # 17 MB a map of 16 channels, twice that for the 32 coefficients: about ten maps at a time.
    sizes = "width=16, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), lightweight=True"
    assert peak_above_weights(sizes, tile=512, plain=plain) < 0.3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes on Linux only")
@pytest.mark.parametrize("plain", [False, True], ids=["as-installed", "plain"])
def test_a_tile_of_512_of_the_full_network_stays_under_0_8_gb(plain: bool) -> None:
    assert peak_above_weights("lightweight=True, ffn_scale=1.5", tile=512, plain=plain) < 0.8


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
