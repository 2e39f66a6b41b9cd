"""What runs in a process of its own for one device: it answers tiles in shared slots until its caller is gone.

Run by `workers` as `python -m kbnet_cli.worker START`. Requests come in through standard input and answers go out
through standard output, a line of JSON each. The end of standard input ends the process at once, whatever it is at.
"""

import json
import os
import signal
import sys
import threading
import traceback
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch

from kbnet_cli import checkpoint, errors, stopping
from kbnet_cli.engine import Engine, choose
from kbnet_cli.errors import KBNetError, LostDeviceError, PhotoError, WeightsError
from kbnet_cli.lanes import lanes, most_lanes
from kbnet_cli.slots import Slots, Where


@dataclass(frozen=True)
class Start:
    """What a process goes by."""

    device: str
    precision: str
    """Settled: not auto."""
    threads: int
    """Of torch, on the CPU."""
    slots: Where

    def to_json(self) -> str:
        """Write it in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Start":
        """Read what `to_json` wrote."""
        said = json.loads(text)
        return cls(**said | {"slots": Where(**said["slots"])})


@dataclass(frozen=True)
class Request:
    """A tile that lies in a slot, to be replaced there by its residual."""

    slot: int
    shape: tuple[int, int, int]
    path: str
    """Of the weights: they are loaded when they are asked for first, and kept."""
    sha256: str
    """Of the same file, as the caller has seen it."""

    def to_json(self) -> bytes:
        """Write it in one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "Request":
        """Read what `to_json` wrote."""
        said = json.loads(line)
        return cls(**said | {"shape": tuple(said["shape"])})


@dataclass(frozen=True)
class Failure:
    """What went wrong with a tile."""

    kind: str
    """The name of a class in `errors`."""
    message: str
    hint: str
    cause: str = ""
    """The traceback of what lies behind it."""

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Take down an error; one that nobody has foreseen as that of the photo which the tile is of."""
        if isinstance(error, KBNetError):
            cause = error.__cause__
            behind = "" if cause is None else "".join(traceback.format_exception(cause))
            return cls(type(error).__name__, error.message, error.hint, behind)
        kind = "out of memory" if isinstance(error, MemoryError) else f"{type(error).__name__}: {error}"
        hint = "run again with -v and report it"
        return cls(PhotoError.__name__, f"unexpected {kind}", hint, "".join(traceback.format_exception(error)))

    def error(self) -> KBNetError:
        """Return the error again, of the class that it had."""
        kind = getattr(errors, self.kind)
        assert issubclass(kind, KBNetError)
        error: KBNetError = kind(self.message, hint=self.hint)
        error.__cause__ = RuntimeError(f"in another process:\n{self.cause}") if self.cause else None
        return error


@dataclass(frozen=True)
class Answer:
    """What became of a tile: its residual lies in the slot, unless it failed."""

    slot: int
    failure: Failure | None = None
    redone: int = 0
    """1 if it was done again in float32."""
    notes: tuple[str, ...] = ()
    """What the engine says of itself."""

    def to_json(self) -> bytes:
        """Write it in one line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, line: bytes) -> "Answer":
        """Read what `to_json` wrote."""
        said = json.loads(line)
        failure = said["failure"] and Failure(**said["failure"])
        return cls(**said | {"failure": failure, "notes": tuple(said["notes"])})


@dataclass
class Bench:
    """What the threads of the process share: slots, and the networks loaded so far."""

    start: Start
    slots: Slots
    engines: dict[str, Engine] = field(default_factory=dict)
    """By the hash of their weights."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: Request) -> Answer:
        """Replace a tile by its residual; whatever goes wrong with it becomes its answer.

        Raises:
            LostDeviceError: the process is of no use any more; its tiles should go to others.
        """
        try:
            tile = self.slots.view(request.slot, request.shape)
            engine = self._engine(request)
            again: list[int] = []
            tile[:] = engine.residual(tile[None], again.append)[0]
        except LostDeviceError:
            raise
        except Exception as error:
            return Answer(request.slot, Failure.of(error))
        return Answer(request.slot, redone=sum(again), notes=engine.notes)

    def _engine(self, request: Request) -> Engine:
        with self.lock:
            if request.sha256 not in self.engines:
                loaded = checkpoint.load(Path(request.path))
                if loaded.sha256 != request.sha256:
                    raise WeightsError(f"{request.path}: was changed while it was used", hint="run again")
                self.engines[request.sha256] = Engine(loaded, choose(self.start.device, self.start.precision))
            return self.engines[request.sha256]


def _pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return where requests come from and answers go; whatever else is printed goes to standard error."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return requests, answers


def main() -> None:
    """Answer requests until there are no more."""
    # A terminal sends Ctrl-C to the caller's processes as well; the caller may still want its photo in hand finished.
    for number in stopping.EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, stopping.EXIT_CODES)
    requests, answers = _pipes()
    start = Start.from_json(sys.argv[1])
    bench = Bench(start, Slots(start.slots))
    writing = threading.Lock()

    def work(request: Request) -> None:
        try:
            line = bench.answer(request).to_json()
            with writing:
                answers.write(line)
                answers.flush()
        except BaseException:
            # Nobody looks at what a thread raises, and the caller would wait for this tile for ever.
            traceback.print_exc()
            os._exit(1)

    torch.set_num_threads(start.threads)
    device = torch.device(start.device)
    with lanes(most_lanes(device, start.precision), shared=True, device=device) as own:
        for line in requests:
            own.pool.submit(partial(work, Request.from_json(line)))
        os._exit(0)  # nobody wants what is still in hand


if __name__ == "__main__":
    main()
