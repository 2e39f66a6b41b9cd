"""Ctrl-C, SIGTERM, SIGHUP: asked once, what is in hand is finished; asked twice, or where that is all there is, now."""

import contextlib
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from types import FrameType
from typing import NoReturn

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
if sys.platform != "win32":
    EXIT_CODES[signal.SIGHUP] = 129


class Ended(BaseException):
    """The program was told to end now: no error, and nothing that catches errors catches it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class Signals:
    """What the user has said so far.

    Attributes:
        exit_code: what the program ends with, as long as nobody has asked it to stop: None.
    """

    def __init__(self, ask: Callable[[], None] | None) -> None:
        """Call `ask` at the first signal, in a thread of its own; without it that one ends the program already."""
        self._ask = ask
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self.exit_code: int | None = None

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal. It takes no lock and prints nothing: what it interrupts may be about to do just that."""
        again = self.exit_code is not None
        self.exit_code = understood(number)
        if again or self._ask is None:
            raise Ended(self.exit_code)
        self._asked.put(True)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Call `ask`, if it comes to that, while the block runs."""
        listener = threading.Thread(target=self._listen, name="signals", daemon=True)
        listener.start()
        try:
            yield
        finally:
            self._asked.put(False)

    def _listen(self) -> None:
        if self._asked.get() and self._ask is not None:
            self._ask()


def understood(number: int) -> int:
    """Return the exit code for a signal; where a terminal has hung up, what is still told there goes nowhere."""
    if number not in (signal.SIGINT, signal.SIGTERM):
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                # A terminal that is gone is none any more, and whatever is written to it fails.
                if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                    nowhere = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(nowhere, descriptor)
                    os.close(nowhere)
    return EXIT_CODES[signal.Signals(number)]


def _end(number: int, _frame: FrameType | None) -> None:
    raise Ended(understood(number))


def prepare() -> None:
    """Let signals other than Ctrl-C, which Python raises itself, end the program by `Ended`, unless they are ignored.

    A program that nohup starts is to outlive its terminal.
    """
    for number in EXIT_CODES:
        if number != signal.SIGINT and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)


def leave(exit_code: int) -> NoReturn:
    """End the program without what Python does at its end: one more signal would come out as a traceback there."""
    for number in EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(exit_code)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """End the program at the first signal while the block runs, without a word and from wherever it is.

    For libraries that start: what is raised in the middle of that may come out as anything. Nothing is open yet.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in EXIT_CODES}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: os._exit(EXIT_CODES[signal.Signals(number)]))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def heeding(ask: Callable[[], None] | None) -> Iterator[Signals]:
    """Heed signals while the block runs: `ask` at the first, `Ended` at the next; without `ask`, `Ended` at once."""
    signals = Signals(ask)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    # A shell starts what is to run on behind a script with Ctrl-C ignored: that stays so.
    heeded = [number for number in EXIT_CODES if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, signals.take) for number in heeded}
    try:
        with signals.listening():
            yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
