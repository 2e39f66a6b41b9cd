"""Other processes, seen from a test: which began which, whether they still run."""

import os

import psutil


def children(parent: int | None = None, running: str = "") -> list[int]:
    """Return the processes that a process began, of this one without any, the eldest first.

    `running` leaves only those with this word in their command line; one that has just ended has none.
    """
    return sorted(child.pid for child in _begun(parent or os.getpid()) if not running or running in _words(child))


def alive(process: int) -> bool:
    """Tell whether a process runs: one that has ended and waits for its parent to hear of it does not."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _begun(parent: int) -> list[psutil.Process]:
    try:
        return psutil.Process(parent).children()
    except psutil.NoSuchProcess:
        return []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:  # it has just ended
        return []
