"""The command at the end: what it is told, where it writes, and what its failure does."""

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from kbnet_cli import afterwards
from kbnet_cli.outlook import Totals

TOTALS = Totals(done=5, kept=4, skipped=3, failed=2, left=1, seconds=61.4, megapixels=12.34, stopped="interrupted")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the commands here are for a POSIX shell")


def run(command: str, *, status: int = 0, output: Path | None = None, data_on_stdout: bool = False) -> int:
    return afterwards.run(command, TOTALS, status=status, output=output, data_on_stdout=data_on_stdout)


def test_it_is_told_what_became_of_the_job(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("env | grep ^KBNET_ | sort", status=130, output=tmp_path / "out") == 130
    assert capfd.readouterr().out.splitlines() == [
        "KBNET_DONE=5",
        "KBNET_FAILED=2",
        "KBNET_KEPT=4",
        "KBNET_LEFT=1",
        "KBNET_MEGAPIXELS=12.3",
        f"KBNET_OUTPUT={tmp_path}/out",
        "KBNET_SECONDS=61",
        "KBNET_SKIPPED=3",
        "KBNET_STATUS=130",
        "KBNET_STOPPED=interrupted",
    ]


def test_it_keeps_the_environment_it_was_called_in(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER", "stays")
    assert run('echo "$OTHER"') == 0
    assert capfd.readouterr().out == "stays\n"


def test_names_are_words_of_the_environment_and_never_of_the_shell(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = Path("-rf $(touch broken); `touch broken` ' \" & touch broken")
    assert run('printf %s "$KBNET_OUTPUT"; printf %s $KBNET_OUTPUT > unquoted', output=hostile) == 0
    assert capfd.readouterr().out == f"{tmp_path}/{hostile}"
    assert [path.name for path in tmp_path.iterdir()] == ["unquoted"]


@pytest.mark.parametrize("output", [None, Path("-")])
def test_standard_output_and_the_inputs_folders_are_no_place(output: Path | None) -> None:
    assert afterwards.variables(TOTALS, 0, output)["KBNET_OUTPUT"] == ""


def test_what_it_writes_never_mixes_with_data(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("echo words", data_on_stdout=True) == 0
    told = capfd.readouterr()
    assert (told.out, told.err) == ("", "words\n")


def test_what_was_written_before_stays_before(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from kbnet_cli import afterwards; from kbnet_cli.outlook import Totals\n"
        "print('first')\n"
        "afterwards.run('echo second', Totals(), status=0, output=None, data_on_stdout=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "first\nsecond\n"


def test_it_has_no_standard_input(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("wc -c") == 0
    assert capfd.readouterr().out.strip() == "0"


@pytest.mark.parametrize(
    ("command", "how"),
    [("exit 3", "ended with 3"), ("no-such-program-anywhere", "ended with 127"), ("kill -9 $$", "ended by signal 9")],
)
@pytest.mark.parametrize(("status", "becomes"), [(0, 1), (1, 1), (130, 130)])
def test_its_failure_is_told_and_only_success_becomes_a_failure(
    command: str, how: str, status: int, becomes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(command, status=status) == becomes
    *_, error, hint = capfd.readouterr().err.splitlines()
    assert error.startswith(f"error: --then: '{command}' ")
    assert error.endswith(how)
    assert hint.startswith("hint: ")


def test_a_command_that_no_shell_can_take_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("echo \0") == 1
    assert "cannot be run: embedded null byte" in capfd.readouterr().err


WAITS = """
import os, signal, sys
from kbnet_cli import afterwards
from kbnet_cli.outlook import Totals

class Terminated(BaseException): pass

def terminate(number, frame): raise Terminated
signal.signal(signal.SIGTERM, terminate)
try:
    afterwards.run(sys.argv[1], Totals(), status=0, output=None, data_on_stdout=False)
except KeyboardInterrupt:
    print("interrupted", flush=True)
except Terminated:
    print("terminated", flush=True)
"""


def begun(command: str) -> "subprocess.Popen[str]":
    """Start a process of kbnet's that runs a command, and wait until the command says that it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS, command], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "runs\n"
    return process


LISTENS = """
import signal
try:
    print("runs", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("tidied", flush=True)
"""


def python(program: str) -> str:
    return f"exec {shlex.quote(sys.executable)} -c {shlex.quote(program)}"


def test_ctrl_c_reaches_the_command_and_is_waited_for() -> None:
    with begun(python(LISTENS)) as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "tidied\ninterrupted\n"


def test_sigterm_ends_the_command() -> None:
    with begun(python(LISTENS)) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[0] == "terminated\n"


def test_a_second_ctrl_c_ends_a_command_that_does_not_listen() -> None:
    class Deaf(subprocess.Popen[bytes]):
        calls: ClassVar[list[str]] = []

        def wait(self, timeout: float | None = None) -> int:
            self.calls.append("wait")
            if "kill" not in self.calls:
                raise KeyboardInterrupt
            return super().wait(timeout)

        def kill(self) -> None:
            self.calls.append("kill")
            super().kill()

    with pytest.raises(KeyboardInterrupt):
        afterwards._wait(Deaf([sys.executable, "-c", "import signal; signal.pause()"]))
    assert Deaf.calls == ["wait", "wait", "kill", "wait"]
