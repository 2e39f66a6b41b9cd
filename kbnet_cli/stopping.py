"""Ctrl-C and SIGTERM: asked once, what is in hand is finished; asked twice, or where that is all there is, now."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


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
        """Call `ask` at the first signal; without it that one ends the program already."""
        self._ask = ask
        self.exit_code: int | None = None

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal. It takes no lock: what it interrupts may hold that."""
        again = self.exit_code is not None
        self.exit_code = EXIT_CODES[signal.Signals(number)]
        if again or self._ask is None:
            raise Ended(self.exit_code)
        self._ask()


@contextlib.contextmanager
def heeding(ask: Callable[[], None] | None) -> Iterator[Signals]:
    """Heed signals while the block runs: `ask` at the first, `Ended` at the next; without `ask`, `Ended` at once."""
    signals = Signals(ask)
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.take) for number in EXIT_CODES}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
