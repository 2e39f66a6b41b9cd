"""Processes that measure: one that breaks the GPU's context is followed by another, and the rest goes on."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.parts import BY_NAME, Part, items_of
from benchmarks.gpu.report import Report, Told, as_line, from_line, is_line

RUN = Path(__file__).parent / "run.py"
BROKEN = 3
"""The exit code of a process that can do nothing more on the GPU."""
MOST_BROKEN = 20


def work(names: Sequence[str], first: int, step: int) -> int:
    """Do every so-manieth item of parts in this process, and tell what it finds as lines of JSON; the exit code."""
    for name in names:
        part = BY_NAME[name]
        for number, item in itertools.islice(enumerate(items_of(part)), first, None, step):
            _say(as_line(name, number, Told(), begins=item.name))
            try:
                for told in item.run():
                    _say(as_line(name, number, told))
            except Exception as error:  # one item is kept apart from the next
                traceback.print_exc()
                _say(as_line(name, number, Told(notes=(f"**{item.name}: {reason(error)}**",))))
                if not _well():
                    return BROKEN
            try:
                _tidy()
            except RuntimeError:  # after a recording that went wrong memory cannot be tidied any more
                return BROKEN
    return 0


def reason(error: Exception) -> str:
    """Return an error in one line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _say(line: str) -> None:
    print(line, flush=True)


def _well() -> bool:
    """Say whether the GPU still answers in this process."""
    import torch

    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except RuntimeError:
        return False
    return True


def _tidy() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@dataclass(frozen=True)
class Runner:
    """Start the processes, and hand what they tell to the report."""

    report: Report
    environment: dict[str, str]
    lock: threading.Lock
    log: Path
    """Where their errors go, whole."""

    def run(self, parts: Sequence[Part], *, deadline: float, first: int = 0, step: int = 1) -> None:
        """Do parts, in new processes from the next item on where one breaks, until `deadline` (`time.monotonic`)."""
        for _ in range(MOST_BROKEN):
            item, ended = self._once(parts, first, step, deadline)
            if ended == "whole":
                return
            if ended == "late":
                self._add(parts[-1], f"stopped during “{item[1]}”: its time was over")
                return
            self._add(parts[-1], f"**“{item[1]}” ended its process**")
            first = item[0] + step

    def together(self, parts: Sequence[Part], *, processes: int, deadline: float) -> None:
        """Do parts side by side, each by its share of so many processes."""
        threads = []
        for part in parts:
            count = max(1, round(part.share * processes))
            for first in range(count):
                settings = {"deadline": deadline, "first": first, "step": count}
                threads.append(threading.Thread(target=self.run, args=([part],), kwargs=settings))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _once(self, parts: Sequence[Part], first: int, step: int, deadline: float) -> tuple[tuple[int, str], str]:
        """Run one process; return the item that it was at, and how it ended: whole, late or broken."""
        words = [sys.executable, str(RUN), "--work", *(part.name for part in parts), "--of", str(first), str(step)]
        item = first, "the start"
        if time.monotonic() >= deadline:
            return item, "late"
        with self.log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, env=self.environment)
            late = threading.Event()
            timer = threading.Timer(deadline - time.monotonic(), _stop, (process, late))
            timer.start()
            assert process.stdout is not None
            for line in process.stdout:
                if not is_line(line):
                    continue
                part, number, told, begins = from_line(line)
                if begins:
                    item = number, begins
                with self.lock:
                    self.report.add(part, told)
                    for row in told.rows:
                        print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
                    for note in told.notes:
                        print(f"{part}: {note}", flush=True)
            code = process.wait()
            timer.cancel()
            process.stdout.close()
        return item, "late" if late.is_set() else "whole" if code == 0 else "broken"

    def _add(self, part: Part, note: str) -> None:
        with self.lock:
            self.report.add(part.name, Told(notes=(note,)))
            print(f"{part.name}: {note}", flush=True)


def _stop(process: "subprocess.Popen[str]", late: threading.Event) -> None:
    late.set()
    process.kill()


def environment(*, rehearsal: bool, name: str) -> dict[str, str]:
    """Return the environment of the processes."""
    values = dict(os.environ)
    if rehearsal:
        values |= {name: "1", "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    else:
        values.pop("TRITON_INTERPRET", None)
    return values
