"""Ctrl-C, SIGTERM, SIGHUP: what the first does, what the second does, and that all is as before afterwards."""

import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from kbnet_cli.formats.raw import develop
from kbnet_cli.stopping import EXIT_CODES, Ended, heeding, leave, prepare
from tests.watchdog import Meeting, no_thread_left, within


@pytest.fixture(autouse=True)
def handlers() -> Iterator[dict[int, Callable[..., object]]]:
    """Handlers of somebody else's, as pytest and shells have them; put back at the end."""
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are the main thread's")
    own: dict[int, Callable[..., object]] = {number: lambda *_: pytest.fail("the old handler") for number in EXIT_CODES}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield own
    for number, handler in before.items():
        signal.signal(number, handler)


def test_each_signal_has_the_code_of_a_shell() -> None:
    assert all(code == 128 + number for number, code in EXIT_CODES.items())


def in_place() -> dict[int, object]:
    return {number: signal.getsignal(number) for number in EXIT_CODES}


def send(number: int) -> None:
    """Raise a signal and let Python take it: it does when a function begins."""

    def take() -> None: ...

    signal.raise_signal(number)
    take()


def ends(ask: Callable[[], None] | None, *numbers: int) -> int:
    """Return the exit code that the last of some signals ends a block with; those before do not end it."""
    reached: list[int] = []

    def block() -> None:
        with heeding(ask):
            for number in numbers:
                reached.append(number)
                try:
                    send(number)
                except Exception as error:
                    pytest.fail(f"{error!r} is taken for an error")
            pytest.fail("the last has to end the block")

    with pytest.raises(Ended) as ended:
        block()
    assert tuple(reached) == numbers
    return ended.value.exit_code


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_the_first_asks(number: int, code: int, handlers: dict[int, object]) -> None:
    asked = Meeting()
    with no_thread_left():
        with heeding(asked.add) as signals:
            assert (asked.value, signals.exit_code) == (0, None)
            send(number)
            assert signals.exit_code == code
            asked.await_most(1)
        assert in_place() == handlers
    assert asked.value == 1


def test_who_is_asked_may_wait_for_what_was_interrupted() -> None:
    """The handler runs in the midst of anything, so it must not wait itself."""
    lock, asked = threading.Lock(), Meeting()

    def ask() -> None:
        with lock:
            asked.add()

    with no_thread_left(), heeding(ask):
        with lock:
            send(signal.SIGINT)
        asked.await_most(1)


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_the_second_ends(number: int, code: int, handlers: dict[int, object]) -> None:
    asked = Meeting()
    assert ends(asked.add, number, number) == code
    assert ends(asked.add, signal.SIGTERM if code == 130 else signal.SIGINT, number) == code
    asked.await_most(2)
    assert in_place() == handlers


@pytest.mark.parametrize(("number", "code"), EXIT_CODES.items())
def test_where_nothing_is_to_be_finished_the_first_ends(number: int, code: int, handlers: dict[int, object]) -> None:
    assert ends(None, number) == code
    assert in_place() == handlers


def test_handlers_are_put_back_after_a_quiet_block_and_after_an_error(handlers: dict[int, object]) -> None:
    with heeding(lambda: None):
        assert in_place() != handlers
    assert in_place() == handlers
    with pytest.raises(ZeroDivisionError), heeding(lambda: None):
        raise ZeroDivisionError
    assert in_place() == handlers


def test_what_the_shell_ignores_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heeding(lambda: pytest.fail("asked")) as signals:
        send(signal.SIGINT)
        assert signals.exit_code is None
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_all_but_ctrl_c_end_the_program_from_its_start_on_unless_they_are_ignored(handlers: dict[int, object]) -> None:
    prepare()
    assert signal.getsignal(signal.SIGINT) == handlers[signal.SIGINT]
    for number, code in EXIT_CODES.items():
        if number != signal.SIGINT:
            with pytest.raises(Ended) as ended:
                send(number)
            assert ended.value.exit_code == code
            signal.signal(number, signal.SIG_IGN)
    prepare()
    assert all(handler == signal.SIG_IGN for number, handler in in_place().items() if number != signal.SIGINT)


def test_who_leaves_is_not_disturbed_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdout(io.StringIO):
        def flush(self) -> None:
            for number in EXIT_CODES:
                send(number)
            raise OSError(errno.EIO, "the terminal has gone")

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(sys, "stdout", Stdout())
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(Ended) as ended:
        leave(130)
    assert ended.value.exit_code == 130


@pytest.mark.skipif(sys.platform == "win32", reason="there no terminal hangs up")
@pytest.mark.parametrize("gone", [True, False])
def test_what_is_told_to_a_terminal_that_has_hung_up_goes_nowhere(gone: bool) -> None:
    program = (
        "import os, signal, sys\n"
        "from kbnet_cli import stopping\n"
        "stopping.prepare()\n"
        "input()\n"
        "with stopping.heeding(lambda: None) as signals:\n"
        "    signal.raise_signal(signal.SIGHUP)\n"
        "    print('told', file=sys.stderr, flush=True)\n"
        "stopping.leave(signals.exit_code)\n"
    )
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=theirs, stderr=theirs) as run:
        os.close(theirs)
        if gone:
            os.close(ours)
        run.communicate(b"\n", timeout=60)
    assert run.returncode == 129
    if not gone:
        assert b"told" in os.read(ours, 100)
        os.close(ours)


def test_another_thread_than_the_main_one_heeds_none(handlers: dict[int, object]) -> None:
    def work() -> int | None:
        with heeding(lambda: None) as signals:
            assert in_place() == handlers
            return signals.exit_code

    assert within(work) is None


@pytest.mark.skipif(sys.platform == "win32", reason="there a child has no parent that changes")
def test_who_develops_raw_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = iter([7, 7, 7, 1])
    ended: list[int] = []
    waits: list[float] = []
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(time, "sleep", waits.append)
    develop._end_with(7)
    assert (ended, waits) == ([1], [develop.PARENT_SECONDS] * 3)
    assert develop.PARENT_SECONDS <= 1
