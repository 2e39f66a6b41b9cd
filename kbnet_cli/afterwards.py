"""A command of the user's that runs when a job is over (`--then`), and is told by its environment what became of it.

It is the user's own line for the user's own shell. Nothing is put into that line: names of files, which may be
anybody's, go by way of the environment only.
"""

import os
import subprocess
import sys
from pathlib import Path

from kbnet_cli import console
from kbnet_cli.errors import KBNetError
from kbnet_cli.outlook import Totals
from kbnet_cli.settings import TOLD_VARIABLES

STDERR = 2


def variables(totals: Totals, status: int, output: Path | None) -> dict[str, str]:
    """Return what the command is told.

    Args:
        totals: what became of the job.
        status: kbnet's exit code.
        output: the file or folder written to; `-` is standard output, None beside the inputs: neither is a place.
    """
    values = (
        status,
        totals.done,
        totals.kept,
        totals.skipped,
        totals.failed,
        "" if totals.left is None else totals.left,
        round(totals.seconds),
        f"{totals.megapixels:.1f}",
        totals.stopped or "",
        # From the root on, so that it is never taken for an option.
        "" if output is None or str(output) == "-" else output.absolute(),
    )
    return dict(zip(TOLD_VARIABLES, map(str, values), strict=True))


def run(command: str, totals: Totals, *, status: int, output: Path | None, data_on_stdout: bool) -> int:
    """Run a command by the system's shell, wait for it, and return the exit code that kbnet is to end with.

    That is kbnet's own; 1 where that would be 0 and the command failed, which is told. What the command writes to
    standard output goes to stderr where kbnet's own standard output is data. It has no standard input. Ctrl-C reaches
    it as it reaches kbnet, which waits for its end; whatever else interrupts kbnet, and a second Ctrl-C, ends it.
    """
    sys.stdout.flush()
    try:
        process = subprocess.Popen(  # noqa: S602 - the user's own line for the shell; nothing is put into it
            command,
            shell=True,
            env={**os.environ, **variables(totals, status, output)},
            stdin=subprocess.DEVNULL,
            stdout=STDERR if data_on_stdout else None,
        )
    except (OSError, ValueError) as error:
        _tell(command, f"cannot be run: {getattr(error, 'strerror', None) or error}")
        return status or 1
    code = _wait(process)
    if code == 0:
        return status
    _tell(command, f"ended with {code}" if code > 0 else f"was ended by signal {-code}")
    return status or 1


def _wait(process: "subprocess.Popen[bytes]") -> int:
    try:
        return process.wait()
    except BaseException as interruption:
        try:
            if not isinstance(interruption, KeyboardInterrupt):
                process.terminate()
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        raise


def _tell(command: str, how: str) -> None:
    console.error(
        KBNetError(
            f"--then: {command!r} {how}", hint="what became of the photos is told above; try it in a shell alone"
        )
    )
