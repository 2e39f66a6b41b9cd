"""Full-size KBNet-S on one tile: kbnet against spandrel's KBNet, the same random weights, in turns.

python benchmarks/tile.py [--size 512] [--rounds 3]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from kbnet_cli.kernels import compiled
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import published_network


def network(form: str) -> nn.Module:
    """Return the SIDD configuration with the same random weights in either form."""
    torch.manual_seed(0)
    own = KBNetS(KBNetSSizes(lightweight=True, ffn_scale=1.5))
    if form == "spandrel":
        published = published_network("s", lightweight=True, ffn_scale=1.5)
        published.load_state_dict(own.state_dict())
        return published.eval().requires_grad_(False)
    if form == "kbnet, plain torch":
        compiled.available = lambda: False
    return own.eval().requires_grad_(False)


def measure(form: str, size: int) -> None:
    """Print seconds and peak memory above the loaded weights for one tile, as JSON."""
    net = network(form)
    with torch.inference_mode():
        net(torch.rand(1, 3, 64, 64))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        tile = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1))
        started = time.perf_counter()
        answer = net(tile)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"seconds": seconds, "gigabytes": peak * 1024 / 1e9, "mean": answer.mean().item()}))


def main() -> None:
    """Run the forms in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--form", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.form:
        measure(arguments.form, arguments.size)
        return
    forms = ("spandrel", "kbnet, plain torch", "kbnet")
    found: dict[str, list[dict[str, float]]] = {form: [] for form in forms}
    for _ in range(arguments.rounds):
        for form in forms:
            words = [sys.executable, __file__, "--size", str(arguments.size), "--form", form]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found[form].append(json.loads(done.stdout))
    print(f"KBNet-S, SIDD configuration, float32, one tile of {arguments.size}, {torch.get_num_threads()} threads")
    print("| form | seconds | ratio | GB above the weights | mean of the answer |\n|---|---|---|---|---|")
    base = statistics.median(run["seconds"] for run in found["spandrel"])
    for form in forms:
        seconds, memory = (statistics.median(run[key] for run in found[form]) for key in ("seconds", "gigabytes"))
        print(f"| {form} | {seconds:.2f} | {base / seconds:.2f}× | {memory:.2f} | {found[form][0]['mean']:.7f} |")


if __name__ == "__main__":
    main()
