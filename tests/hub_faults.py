"""What can go wrong between a hub and its client, one frozen value a fault.

    hub.fault(Cut(0.3), path="/cdn/")                      # the next download ends after 30 % of its bytes
    hub.fault(Refuse(429, retry_after=7), method="HEAD", times=2)
    hub.fault(Padded(-1, announced=True), Chunked())       # faults of one answer may be combined

A fault either answers in the hub's place, so that nothing is looked up or stored (`Refuse`, `HangUp`), or spoils what
the hub answers.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum


class End(Enum):
    """What becomes of the connection after an answer."""

    KEPT = "kept"
    CLOSED = "closed"
    RESET = "reset"


class Tap:
    """Lets an answer through piece by piece, so that a test decides when the next one is sent.

    The server sends `piece_bytes`, then stands still until `let` or `open` is called (or the server is stopped).
    """

    def __init__(self, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes
        self._changed = threading.Condition()
        self._sent = 0
        self._allowed = 1
        self._open = False

    def wait_for(self, pieces: int = 1, *, timeout_seconds: float = 10) -> None:
        """Wait until that many pieces have been sent in all.

        Raises:
            TimeoutError: they were not within the time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._sent >= pieces, timeout_seconds):
                raise TimeoutError(f"{self._sent} of {pieces} pieces were sent within {timeout_seconds} s")

    def let(self, pieces: int = 1) -> None:
        """Let so many more pieces through."""
        with self._changed:
            self._allowed += pieces
            self._changed.notify_all()

    def open(self) -> None:
        """Let all the rest through, now and later."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def sent(self) -> None:
        """Tell of one piece sent, and stand still until the next is allowed. The server calls this."""
        with self._changed:
            self._sent += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._allowed > self._sent)


@dataclass(frozen=True)
class Reply:
    """An answer as it goes out; `silent` is none at all."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    whole: bytes = b""
    """The file that the body is a part of."""
    start: int = 0
    """Where in the file the body begins."""
    announced_bytes: int | None = None
    """Content-Length; as long as the body where it is None."""
    chunked: bool = False
    end: End = End.KEPT
    tap: Tap | None = None
    silent: bool = False


class Fault:
    """Something that goes wrong with one answer."""

    def instead(self) -> Reply | None:
        """Answer in the hub's place, or leave it to the hub with None."""
        return None

    def spoil(self, reply: Reply) -> Reply:
        """Change what the hub would answer."""
        return reply


@dataclass(frozen=True)
class Refuse(Fault):
    """Answer with an error, by the Hub's code (RepoNotFound, RevisionNotFound, EntryNotFound, GatedRepo) or none."""

    status: int
    code: str | None = None
    message: str = "refused by the test"
    retry_after: int | None = None

    def instead(self) -> Reply:
        headers = {"X-Error-Message": self.message}
        if self.code is not None:
            headers["X-Error-Code"] = self.code
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return Reply(self.status, headers)


@dataclass(frozen=True)
class HangUp(Fault):
    """Say nothing and end the connection: with a FIN, or with a TCP reset."""

    reset: bool = False

    def instead(self) -> Reply:
        return Reply(silent=True, end=End.RESET if self.reset else End.CLOSED)


@dataclass(frozen=True)
class Cut(Fault):
    """End the connection after this share (0 to 1) of the body that was due: with a FIN, or with a TCP reset."""

    share: float
    reset: bool = False

    def spoil(self, reply: Reply) -> Reply:
        due = len(reply.body) if reply.announced_bytes is None else reply.announced_bytes
        end = End.RESET if self.reset else End.CLOSED
        return replace(reply, body=reply.body[: round(due * self.share)], announced_bytes=due, end=end)


@dataclass(frozen=True)
class Flip(Fault):
    """Send a wrong byte at this offset of the file (nothing happens where the body has none), with the right length."""

    offset: int

    def spoil(self, reply: Reply) -> Reply:
        place = self.offset - reply.start
        if not 0 <= place < len(reply.body):
            return reply
        wrong = bytes([reply.body[place] ^ 0xFF])
        return replace(reply, body=reply.body[:place] + wrong + reply.body[place + 1 :])


@dataclass(frozen=True)
class Padded(Fault):
    """Send a body longer (more than 0) or shorter by so many bytes.

    With `announced` this answer's Content-Length agrees with what it sends, and only differs from what a HEAD said;
    without, the Content-Length is the file's.
    """

    by_bytes: int
    announced: bool = False

    def spoil(self, reply: Reply) -> Reply:
        due = len(reply.body)
        body = reply.body[: due + self.by_bytes] + bytes(max(0, self.by_bytes))
        if self.announced:
            return replace(reply, body=body)
        # The two ends no longer agree where the next answer begins.
        return replace(reply, body=body, announced_bytes=due, end=End.CLOSED)


@dataclass(frozen=True)
class Chunked(Fault):
    """Do not say how long the body is."""

    def spoil(self, reply: Reply) -> Reply:
        return replace(reply, chunked=True)


@dataclass(frozen=True)
class Whole(Fault):
    """Take no notice of the range that was asked for."""

    def spoil(self, reply: Reply) -> Reply:
        if reply.status not in (206, 416):
            return reply
        headers = {name: value for name, value in reply.headers.items() if name != "Content-Range"}
        return replace(reply, status=200, headers=headers, body=reply.whole, start=0)


@dataclass(frozen=True)
class Headers(Fault):
    """Send other headers; those that are None not at all. Names are spelt as the hub spells them."""

    changed: Mapping[str, str | None]

    def spoil(self, reply: Reply) -> Reply:
        headers = {**reply.headers, **self.changed}
        return replace(reply, headers={name: value for name, value in headers.items() if value is not None})


@dataclass(frozen=True)
class Slow(Fault):
    """Send the body through a tap."""

    tap: Tap

    def spoil(self, reply: Reply) -> Reply:
        return replace(reply, tap=self.tap)
