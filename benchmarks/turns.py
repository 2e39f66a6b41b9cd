"""The mechanics of a comparison: every form in a process of its own, forms taking turns, medians, a table.

pyperf was looked at and not taken: it finishes all processes of one benchmark before the next begins, so that what else
the machine does meanwhile falls on one side of a ratio, and its memory figure is a process's whole peak, weights and
libraries included. What is wanted here is small: turns, and a peak above what was loaded.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

ROOT = Path(__file__).parent.parent
Array = Shaped[np.ndarray, "..."]
WARM_SECONDS = 20.0
"""A first run that is shorter does not count. A longer one does: what it pays for set-up is lost in it."""
ENOUGH_SECONDS, MOST_RUNS = 2.0, 30
"""Short work is repeated until it took so long in all, or so often; its median counts for the process."""
SAMPLES = 256


@dataclass(frozen=True)
class Work:
    """Something to be measured, with everything built and loaded that does not count."""

    run: Callable[[], Array]
    warm_up: Callable[[], object]
    """The same in small: it pays for pages of libraries and for threads, and stays out of the memory figure."""


@dataclass(frozen=True)
class Run:
    """What one process measured."""

    seconds: float
    peak_bytes: int | None
    """Above what the process held when everything was loaded; None where the system does not tell."""
    samples: tuple[float, ...]
    """Some of the answer's values, evenly spaced, to hold forms against each other."""


@dataclass(frozen=True)
class Row:
    """A comparison of two forms by time or by memory."""

    what: str
    ours: str
    theirs: str | None
    """None: nothing to compare with."""
    whose: str
    """How the table calls theirs."""
    by: Literal["time", "memory"] = "time"


Runs = dict[str, list[Run]]
"""What each form's processes measured; nothing for a form that failed."""


def measure(work: Work) -> Run:
    """Measure in this process."""
    from kbnet_cli.machine import PeakMemory

    work.warm_up()
    peak = PeakMemory()
    seconds, answer = _timed(work.run)
    if seconds < WARM_SECONDS:
        times: list[float] = []
        while not times or (sum(times) < ENOUGH_SECONDS and len(times) < MOST_RUNS):
            times.append(_timed(work.run)[0])
        seconds = statistics.median(times)
    values = answer.reshape(-1)
    samples = values[:: max(1, values.size // SAMPLES)][:SAMPLES]
    return Run(seconds, peak.bytes_above_start(), tuple(map(float, samples)))


def _timed(run: Callable[[], Array]) -> tuple[float, Array]:
    started = time.perf_counter()
    answer = run()
    return time.perf_counter() - started, answer


def take_turns(forms: Sequence[str], words: Callable[[str], list[str]], rounds: int) -> Runs:
    """Run each form's command once a round, in turns; it prints a `Run` as its last line. What fails is told."""
    runs: Runs = {form: [] for form in forms}
    failed: set[str] = set()
    for turn in range(rounds):
        for form in forms:
            if form in failed:
                continue
            done = subprocess.run(words(form), capture_output=True, text=True, check=False, cwd=ROOT)
            if done.returncode != 0:
                failed.add(form)
                reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                print(f"{form}: failed: {reason}", file=sys.stderr, flush=True)
                continue
            run = from_json(done.stdout.splitlines()[-1])
            runs[form].append(run)
            print(f"round {turn + 1}, {form}: {_time(run.seconds)}", file=sys.stderr, flush=True)
    return {form: [] if form in failed else found for form, found in runs.items()}


def as_json(run: Run) -> str:
    """Return a run as one line."""
    return json.dumps(asdict(run))


def from_json(line: str) -> Run:
    """Read what `as_json` wrote."""
    facts = json.loads(line)
    return Run(facts["seconds"], facts["peak_bytes"], tuple(facts["samples"]))


HEADINGS = ("what", "kbnet", "compared with", "ratio")


def cells(rows: Iterable[Row], runs: Runs) -> list[tuple[str, str, str, str]]:
    """Return the table's cells. A ratio of times is theirs to ours, a ratio of memory ours to theirs."""
    table = []
    for row in rows:
        ours, theirs = _median(row.ours, row, runs), _median(row.theirs, row, runs)
        write = _time if row.by == "time" else _memory
        ratio = "–"
        if ours and theirs:
            ratio = f"{theirs / ours:.1f}×" if row.by == "time" else f"{ours / theirs:.2f}×"
        named = "–" if theirs is None else f"{write(theirs)}, {row.whose}"
        table.append((row.what, "–" if ours is None else write(ours), named, ratio))
    return table


def _median(form: str | None, row: Row, runs: Runs) -> float | None:
    found = runs.get(form, []) if form else []
    values = [run.seconds if row.by == "time" else run.peak_bytes for run in found]
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def _memory(peak_bytes: float) -> str:
    return f"{peak_bytes / 1e6:.0f} MB" if peak_bytes < 1e9 else f"{peak_bytes / 1e9:.2f} GB"


def table(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Return the table as markdown, or aligned for a terminal."""
    lines = [HEADINGS, *rows]
    if markdown:
        written = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([written[0], "|" + "---|" * len(HEADINGS), *written[1:]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def agreement(rows: Iterable[Row], runs: Runs) -> list[str]:
    """Tell how far the forms of each row are apart, relative to the largest value: they must be one function."""
    lines = []
    for row in rows:
        ours, theirs = runs.get(row.ours), runs.get(row.theirs or "")
        # Another network gives another answer.
        if ours and theirs and row.by == "time" and row.ours.split("/")[0] == (row.theirs or "").split("/")[0]:
            lines.append(f"{row.ours} is within {difference(ours[0], theirs[0]):.0e} of {row.theirs}")
    return lines


def difference(one: Run, other: Run) -> float:
    """Return how far two forms' answers are apart, relative to the largest value."""
    a, b = np.array(one.samples), np.array(other.samples)
    return float(np.abs(a - b).max() / np.abs(b).max())


def spread(runs: Runs) -> str:
    """Return each form's fastest and slowest run, one a line."""
    lines = []
    for form, found in runs.items():
        times = [run.seconds for run in found]
        lines.append(f"{form}: " + (f"{_time(min(times))} to {_time(max(times))}" if times else "failed"))
    return "\n".join(lines)


def machine() -> str:
    """Name what everything was measured on."""
    from kbnet_cli.kernels import running
    from kbnet_cli.machine import processor

    found = running.running()
    form = f"kernels: {found.forms[0]}" if found.forms else "no compiled kernels"
    return f"{processor()}, {found.threads} threads, {form}, torch {running.torch_build()}"
