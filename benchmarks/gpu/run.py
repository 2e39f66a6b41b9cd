"""KBNet on one NVIDIA GPU, by one command, in eight minutes at most, without a network connection.

    python benchmarks/gpu/run.py --out results         # everything
    python benchmarks/gpu/run.py --out results --only small kernels
    python benchmarks/gpu/run.py --out tried --rehearse   # everything in a tiny form on the CPU: only that it runs

It prints what it finds, and keeps a table (gpu.md), the same as JSON (gpu.json) and whole errors (gpu.log) in the
folder, written anew whenever something is found. What cannot run says why, and the others go on.
"""

import argparse
import os
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# This folder's modules have names that others have too.
if sys.path[0] == str(Path(__file__).parent):
    sys.path[0] = str(ROOT)

from benchmarks.gpu import absent, children  # noqa: E402
from benchmarks.gpu.parts import BY_NAME, PARTS  # noqa: E402
from benchmarks.gpu.report import Report  # noqa: E402

REHEARSAL = "KBNET_BENCHMARK_REHEARSAL"
MOST_PROCESSES = 14


def main() -> int:
    """Measure what is asked for; the exit code."""
    if sys.argv[1:2] == ["--program"]:
        return program(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-benchmark"), metavar="DIR", help="where results go")
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="PART")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing begins or goes on after so long")
    parser.add_argument("--rehearse", action="store_true", help="everything in a tiny form on the CPU")
    parser.add_argument("--work", nargs="+", choices=list(BY_NAME), help=argparse.SUPPRESS)
    parser.add_argument("--of", nargs=2, type=int, default=(0, 1), help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.work:
        absent.stand_in()
        return children.work(wanted.work, *wanted.of)
    return measure(wanted)


def measure(wanted: argparse.Namespace) -> int:
    """Run all parts and print the report."""
    started = time.monotonic()
    deadline = started + 60 * wanted.minutes - 10
    chosen = [part for part in PARTS if part.name in wanted.only]
    remark = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, `python benchmarks/gpu/run.py`."
    if wanted.rehearse:
        remark += " **A rehearsal: tiny networks on the CPU, whose times say nothing.**"
    report = Report(wanted.out, {part.name: part.title for part in PARTS}, remark)
    settings = children.environment(rehearsal=wanted.rehearse, name=REHEARSAL)
    runner = children.Runner(report, settings, threading.Lock(), wanted.out / "gpu.log")
    runner.log.unlink(missing_ok=True)
    report.write()
    if wanted.rehearse:
        runner.run(chosen, deadline=deadline)
    else:
        pending = list(chosen)
        while pending:
            part = pending.pop(0)
            if part.share:
                side_by_side = [part] + [other for other in pending if other.share]
                pending = [other for other in pending if not other.share]
                processes = min(MOST_PROCESSES, os.cpu_count() or 1)
                end = min(deadline, time.monotonic() + max(one.seconds for one in side_by_side))
                runner.together(side_by_side, processes=processes, deadline=end)
            else:
                runner.run([part], deadline=min(deadline, time.monotonic() + part.seconds))
    report.remark += f" It took {time.monotonic() - started:.0f} s."
    report.write()
    print(f"\n{report.markdown()}")
    return 0 if report.figures else 1


def program(words: list[str]) -> int:
    """Be kbnet, on a machine that may lack what it reads some kinds of pictures with."""
    absent.stand_in()
    sys.argv = ["kbnet", *words]
    from kbnet_cli.cli import main as kbnet

    kbnet()
    return 0


if __name__ == "__main__":
    sys.exit(main())
