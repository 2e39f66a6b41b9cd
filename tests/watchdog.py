"""Waiting for threads in tests, never for ever and never for luck."""

import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

SECONDS = 20.0
"""Nothing here takes a tenth of that, on a busy machine either."""
Given = TypeVar("Given")


def within(work: Callable[[], Given], seconds: float = SECONDS) -> Given:
    """Do something that might wait for ever in a thread of its own; fail where it does, and tell where it stands."""
    given: list[Given] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            given.append(work())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="watched", daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"still running after {seconds:g} s\n{stacks()}"
    if raised:
        raise raised[0]
    return given[0]


def stacks() -> str:
    """Tell where all threads stand."""
    frames = sys._current_frames()
    found = [(thread.name, frames[thread.ident]) for thread in threading.enumerate() if thread.ident in frames]
    return "\n".join(f"{name}:\n{''.join(traceback.format_stack(frame))}" for name, frame in found)


def await_event(event: threading.Event) -> None:
    assert event.wait(SECONDS), f"it did not happen\n{stacks()}"


@contextmanager
def no_thread_left() -> Iterator[None]:
    """Check that all threads that a block begins end by themselves."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(SECONDS)
        assert not thread.is_alive(), f"{thread.name} is left behind\n{stacks()}"


class Meeting:
    """A number that threads change and wait for."""

    def __init__(self) -> None:
        self.value = 0
        self.most = 0
        self._changed = threading.Condition()

    def add(self, count: int = 1) -> None:
        with self._changed:
            self.value += count
            self.most = max(self.most, self.value)
            self._changed.notify_all()

    def await_most(self, count: int) -> None:
        """Wait until it has been so many at some time."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.most >= count, SECONDS), f"never {count}\n{stacks()}"


class Watched(threading.Condition):
    """A condition that tells when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.set()
        return super().wait(timeout)
