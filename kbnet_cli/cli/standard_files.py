"""Standard input, output and error as the caller left them: closed, in a small encoding, or a pipe that nobody reads.

Python ignores SIGPIPE, and that is well: killed by it we would leave other files half-written. What it raises instead,
BrokenPipeError, may be about a pipe to a child of ours as well, and libraries take it for theirs and end with codes of
their own. So standard output and error raise something that is theirs alone, and that nothing else catches.
"""

import contextlib
import errno
import io
import os
import sys
from typing import Any

NOT_READ = 141
"""The exit code that a shell tells of what SIGPIPE ended: 128 and the signal's number, on Windows too."""


class Unread(BaseException):
    """Nobody reads standard output or standard error any more."""


class _Outlet(io.FileIO):
    """A standard file that tells by `Unread` that nobody reads it."""

    def write(self, data: Any, /) -> int:
        """Write bytes, and return how many were taken."""
        try:
            return super().write(data)
        except OSError as error:
            if not _is_unread(error):
                raise
            raise Unread from None


def _is_unread(error: OSError) -> bool:
    # Windows calls it an invalid argument; a socket may say that it was reset.
    gone = isinstance(error, (BrokenPipeError, ConnectionResetError))
    return gone or (sys.platform == "win32" and error.errno == errno.EINVAL)


def prepare() -> None:
    """Make the standard files fit to be used."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller: no file of ours may come to stand in its place
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors="backslashreplace")  # what the terminal cannot show is shown as its number
        if stream is getattr(sys, f"__{name}__") and not stream.isatty():
            setattr(sys, name, _watched(stream))


def _watched(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    # Buffered also where Python was told not to: an unbuffered file may take a part of a picture only.
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlet(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering or stream.write_through,
    )


def silence() -> None:
    """Let what is still to be written go nowhere: Python would try again at its end, and complain."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # none of the system's
            os.dup2(nowhere, stream.fileno())
