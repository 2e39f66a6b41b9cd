"""Several devices as one: a process for each, to which tiles go by whichever has the fewest in hand."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from queue import LifoQueue
from subprocess import PIPE
from typing import IO

import numpy as np
import torch
from jaxtyping import Float32

from kbnet_cli import stopping
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.choosing import Choice
from kbnet_cli.engine import Engine
from kbnet_cli.errors import DeviceError
from kbnet_cli.slots import Slots
from kbnet_cli.worker import Answer, Request, Start

SLOTS_A_DEVICE = 32
"""Tiles that may be in hand for each device; more wait. A slot takes no memory before it is used."""
MOST_CHANNELS = 3
"""Of a tile."""
TRIES = 2
"""A tile whose process ends goes to another once: it may be the tile that ends them."""


class RemoteEngine:
    """A checkpoint's network in other processes. It takes an engine's place."""

    def __init__(self, checkpoint: Checkpoint, workers: "Workers") -> None:
        """Take a checkpoint that was loaded from a file: the processes load it from there themselves."""
        assert checkpoint.path is not None
        self._path = str(checkpoint.path.absolute())
        # Its sizes are all that is needed here.
        self.checkpoint = replace(checkpoint, network=checkpoint.network.to("meta"))
        self.choice = workers.choice
        self.redone = 0
        """Tiles that were done again in float32."""
        self._notes: dict[str, None] = {}
        self._lock = threading.Lock()
        self._workers = workers

    @property
    def image_channels(self) -> int:
        """Channels of the tiles it takes: 1 or 3."""
        return self.checkpoint.network.image_channels

    @property
    def size_multiple(self) -> int:
        """What a tile's height and width must be multiples of."""
        return self.checkpoint.network.size_multiple

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it runs; it may become more while tiles are answered."""
        return tuple(self._notes)

    def residual(
        self, tiles: Float32[np.ndarray, "b h w c"], redone: Callable[[int], None] | None = None
    ) -> Float32[np.ndarray, "b h w c"]:
        """Return what the network would add to tiles, as `Engine.residual` does; for many callers at once.

        Raises:
            DeviceError: a device's memory is full, or the processes have ended.
            PhotoError: the network's answer is not finite, or something unexpected has happened.
            WeightsError: the file of the weights is not what it was.
        """
        found = [self._workers.residual(self._path, self.checkpoint.sha256, tile) for tile in tiles]
        again = sum(answer.redone for _, answer in found)
        with self._lock:
            self.redone += again
            self._notes |= {note: None for _, answer in found for note in answer.notes}
        if again and redone is not None:
            redone(again)
        return found[0][0][None] if len(found) == 1 else np.stack([residual for residual, _ in found])

    def close(self) -> None:
        """Do nothing: the processes answer tiles of other networks too."""


AnyEngine = Engine | RemoteEngine
"""A checkpoint's network, wherever it is."""


class Workers:
    """Processes that answer tiles, one for each device. Each starts when those before it are busy.

    So a photo of one tile starts one of them only. All end with the program, however it ends, or with `close`.
    """

    def __init__(self, choice: Choice, *, tile: int, tell: Callable[[str], None] | None = None) -> None:
        """Begin without any process.

        Args:
            choice: devices, and the precision on all of them.
            tile: no tile is higher or wider than this.
            tell: told in a line when a process has ended by itself while others go on.
        """
        self.choice = choice
        self._tell = tell
        self._devices = [str(device) for device in choice.devices]
        self._threads = max(1, torch.get_num_threads() // len(self._devices))
        count = SLOTS_A_DEVICE * len(self._devices)
        self._slots = Slots.create(count, 4 * MOST_CHANNELS * tile**2)
        self._free: LifoQueue[int] = LifoQueue()  # what was used last is in memory, and in the processor's cache
        for number in reversed(range(count)):
            self._free.put(number)
        self._processes: list[_Process] = []
        """As many as have started, in the order of the devices."""
        self._lock = threading.Lock()
        self._end = weakref.finalize(self, _end, self._processes, self._slots)

    def residual(
        self, path: str, sha256: str, tile: Float32[np.ndarray, "h w c"]
    ) -> tuple[Float32[np.ndarray, "h w c"], Answer]:
        """Return what the network of some weights would add to a tile, and how it went; from any thread.

        Raises:
            KBNetError: what an engine raises; DeviceError also where no process is left.
        """
        slot = self._free.get()
        request = Request(slot, tile.shape, path, sha256)
        place = self._slots.view(slot, tile.shape)
        try:
            answer = self._answer(request, place, tile)
            if answer.failure is not None:
                raise answer.failure.error()
            residual = place.copy()
        except Exception:
            self._free.put(slot)
            raise
        # After an interruption a process may still write there.
        self._free.put(slot)
        return residual, answer

    def _answer(
        self, request: Request, place: Float32[np.ndarray, "h w c"], tile: Float32[np.ndarray, "h w c"]
    ) -> Answer:
        for _ in range(TRIES):
            place[:] = tile  # also at the second time: half an answer may stand there
            answer = self._ask(request).result()
            if answer is not None:
                return answer
        raise self._problem(f"a tile was given to {TRIES} processes, and none lived to answer it")

    def _ask(self, request: Request) -> "Future[Answer | None]":
        with self._lock:
            if not self._end.alive:
                raise DeviceError("the processes that answer tiles were ended")
            return self._idlest().ask(request)

    def _idlest(self) -> "_Process":
        """Return the process with the fewest tiles in hand; a new one, where all that there are have some."""
        running = [process for process in self._processes if not process.end]
        chosen = min(running, key=lambda process: process.load, default=None)
        if (chosen is None or chosen.load) and len(self._processes) < len(self._devices):
            device = self._devices[len(self._processes)]
            chosen = _Process(Start(device, self.choice.precision, self._threads, self._slots.where))
            self._processes.append(chosen)
        if chosen is None:
            raise self._problem("no process is left to answer tiles")
        for process in self._processes:
            if process.end and not process.told:
                process.told = True
                if self._tell is not None:
                    self._tell(f"{process.end}; the other devices go on without it")
        return chosen

    def _problem(self, text: str) -> DeviceError:
        ended = [process for process in self._processes if process.end]
        problem = DeviceError(
            f"{text}: {'; '.join(process.end for process in ended)}",
            hint="the system ends programs when memory runs out: use fewer devices; -v shows what they said last",
        )
        words = "\n".join(process.words for process in ended if process.words)
        problem.__cause__ = RuntimeError(f"in other processes:\n{words}") if words else None
        return problem

    def close(self) -> None:
        """End the processes now, whatever they are at. No more are started."""
        for process in tuple(self._processes):
            process.kill()  # first, so that nobody writes to it for ever and holds the lock
        with self._lock:
            self._end()


def _end(processes: Sequence["_Process"], slots: Slots) -> None:
    for process in processes:
        process.kill()
    slots.close()


class _Process:
    """A process for one device, and the tiles it has in hand."""

    def __init__(self, start: Start) -> None:
        self._device = start.device
        self._waiting: dict[int, Future[Answer | None]] = {}
        self._lock = threading.Lock()
        self.end = ""
        """What became of it, in words, once it has ended."""
        self.words = ""
        """All that it had to say until then."""
        self.told = False
        """Whether its end has been told of."""
        self._process, self._complaints = _started(start)
        self._reader = threading.Thread(target=self._read, name=f"answers of {start.device}", daemon=True)
        self._reader.start()

    @property
    def load(self) -> int:
        """How many tiles it has in hand."""
        return len(self._waiting)

    def ask(self, request: Request) -> "Future[Answer | None]":
        """Have a tile answered; by None if the process ends before."""
        future: Future[Answer | None] = Future()
        with self._lock:
            if self.end:
                future.set_result(None)
                return future
            self._waiting[request.slot] = future
            assert self._process.stdin is not None
            with contextlib.suppress(OSError, ValueError):  # it has just ended: who reads its answers will see
                self._process.stdin.write(request.to_json())
                self._process.stdin.flush()
        return future

    def kill(self) -> None:
        """End it now; it has nothing that anybody misses."""
        self._process.kill()
        if threading.current_thread() is not self._reader:  # which may be where the last reference is dropped
            self._reader.join()

    def _read(self) -> None:
        try:
            self._read_answers()
        finally:  # also where what came is no answer
            self._process.kill()
            self._bury()

    def _read_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith(b"\n"):
                return  # it ended in the middle of it
            answer = Answer.from_json(line)
            with self._lock:
                future = self._waiting.pop(answer.slot)
            future.set_result(answer)

    def _bury(self) -> None:
        """Tell all who wait that it has ended."""
        end = self._conclude()
        with self._lock:
            self.end = end
            left, self._waiting = self._waiting, {}
        for future in left.values():
            future.set_result(None)

    def _conclude(self) -> str:
        """Wait for the end, close what is open, and return what became of the process."""
        code = self._process.wait()
        self._complaints.seek(0)
        self.words = self._complaints.read().decode(errors="replace").strip()
        self._complaints.close()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was not sent cannot be any more
                pipe.close()
        how = f"was killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        return f"the process on {self._device} {how}" + (f" ({self.words.splitlines()[-1]})" if self.words else "")


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _started(start: Start) -> "tuple[subprocess.Popen[bytes], IO[bytes]]":
    """Start a process, and return it with the file in which it complains."""
    command = [sys.executable, "-P", "-m", "kbnet_cli.worker", start.to_json()]
    # The other process shall find the same packages, however this one came to them.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    inherited = () if sys.platform == "win32" else (start.slots.descriptor,)
    # A file takes as much as there may be, while nobody reads it; a terminal is for progress.
    complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the process has ended
    try:
        with _deaf():
            process = subprocess.Popen(  # noqa: S603 - this program itself
                command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=complaints,
                env=environment,
                pass_fds=inherited,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # without Ctrl-C on Windows
            )
    except OSError as error:
        complaints.close()
        raise DeviceError(f"the process for {start.device} could not be started: {error}") from error
    return process, complaints


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Keep signals from this thread, and so from processes that it starts; they hear them again when they are ready."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping.EXIT_CODES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
