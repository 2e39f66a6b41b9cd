"""The memory that photos may take together, and whose turn it is."""

import contextlib
import threading
from collections.abc import Iterator


class Budget:
    """So many bytes for all photos in hand. One that is larger than all of it goes alone."""

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._free = total_bytes
        self._changed = threading.Condition()

    def take(self, count_bytes: int) -> int:
        """Wait until so much is free, or all of it, and return what is to be given back."""
        count_bytes = min(count_bytes, self.total_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= count_bytes)
            self._free -= count_bytes
        return count_bytes

    def give_back(self, taken_bytes: int) -> None:
        """Give back what `take` returned."""
        with self._changed:
            self._free += taken_bytes
            self._changed.notify_all()


class Turns:
    """Tickets 0, 1, 2 … enter in their order, as long as there are places for them."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._passed = 0
        """All tickets below have entered, or will not."""
        self._early: set[int] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def turn(self, ticket: int, *, places: int = 1) -> Iterator[None]:
        """Wait for a ticket's turn and so many free places, no more than there are in all, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: self._passed == ticket and self._places >= places)
            self._places -= places
            self._let_pass(ticket)
        try:
            yield
        finally:
            with self._changed:
                self._places += places
                self._changed.notify_all()

    def wait_for(self, ticket: int) -> None:
        """Wait until all tickets before this one have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self._passed >= ticket)

    def skip(self, ticket: int) -> None:
        """Say that a ticket has passed already or never will."""
        with self._changed:
            if ticket >= self._passed:
                self._let_pass(ticket)

    def _let_pass(self, ticket: int) -> None:
        self._early.add(ticket)
        while self._passed in self._early:
            self._early.remove(self._passed)
            self._passed += 1
        self._changed.notify_all()
