"""Many runs of the command, each a process that may be killed, without the seconds that Python and torch take to start.

A server that has imported everything once forks a process for each run: what happens to it is what happens to a real
one, but for its first seconds.
"""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

SECONDS = 120
"""No run here takes longer, on a busy machine either."""
PAUSE_SECONDS = 0.002
PRELOADED = [
    "kbnet_cli.cli",
    "kbnet_cli.session",
    *(f"kbnet_cli.formats.{name}" for name in ("jpeg", "png", "ppm", "tiff")),
]


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


@dataclass(frozen=True)
class _Start:
    words: list[str]
    environment: dict[str, str]
    folder: Path
    stdout: Path
    stderr: Path
    stdin: Path | None
    file_bytes: int | None


def _main(start: _Start) -> None:
    os.environ.clear()
    os.environ.update(start.environment)
    os.chdir(start.folder)
    os.setpgid(0, 0)  # a group of its own, as a shell gives each job
    for path, number in ((start.stdout, 1), (start.stderr, 2)):
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    if start.stdin is not None:
        sys.stdin = start.stdin.open()
    if start.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (start.file_bytes, resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["kbnet", *start.words]
    from kbnet_cli import cli

    cli.main()


@dataclass
class Run:
    """A run that goes on, or has ended."""

    process: ForkServerProcess
    files: tuple[Path, Path]

    @property
    def stdout(self) -> str:
        return self.files[0].read_text(encoding="utf-8", errors="surrogateescape")

    @property
    def stderr(self) -> str:
        return self.files[1].read_text(encoding="utf-8", errors="surrogateescape")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What --json told."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def was_asked(self) -> bool:
        """Tell whether it has said that it will stop."""
        return "stopping when" in self.stderr

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal; to all of its processes, as a terminal does, if it is for the group."""
        (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.end()

    def end(self, seconds: float = SECONDS) -> int:
        """Wait for its end and return its exit code; that of a signal is negative."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"still running after {seconds} s; stderr ends: {self.stderr[-2000:]}")
        return self.process.exitcode

    def until(self, happened: Callable[[], object], seconds: float = SECONDS) -> bool:
        """Wait until something has happened, and tell whether it did before the run ended."""
        deadline = time.monotonic() + seconds
        while not happened():
            if self.process.exitcode is not None:
                return bool(happened())
            assert time.monotonic() < deadline, f"it did not happen; stderr ends: {self.stderr[-2000:]}"
            time.sleep(PAUSE_SECONDS)
        return True


class Launcher:
    """Start runs of kbnet in a folder."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.weights = folder, weights
        self._count = 0
        self._runs: list[Run] = []
        # Read once, when the server starts: one thread each, whatever else runs on the machine.
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ.setdefault(name, "1")

    def start(self, *words: str | Path, stdin: Path | None = None, file_bytes: int | None = None) -> Run:
        """Start a restoring verb with the launcher's weights, or any other command.

        Args:
            words: the command line.
            stdin: what is read as standard input, a named pipe say; nothing without it.
            file_bytes: how long a file may be, as if the disk were full behind that.
        """
        said = [str(word) for word in words]
        if said[0] == "denoise" and "-w" not in said:
            said += ["-w", str(self.weights)]
        self._count += 1
        files = (self.folder / f"stdout{self._count}", self.folder / f"stderr{self._count}")
        for file in files:
            file.touch()
        told = _Start(said, dict(os.environ), self.folder, *files, stdin, file_bytes)
        run = Run(_context().Process(target=_main, args=(told,)), files)
        run.process.start()
        self._runs.append(run)
        return run

    def run(self, *words: str | Path, file_bytes: int | None = None) -> Run:
        """Start it and wait for its end."""
        run = self.start(*words, file_bytes=file_bytes)
        run.end()
        return run

    def close(self) -> None:
        """End what a failed test left running."""
        for run in self._runs:
            if run.process.exitcode is None:
                run.kill()
