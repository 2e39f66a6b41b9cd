"""Words of the command line to one call, and the exit code. No work is done here.

Whatever is slow to import is imported inside the command that needs it, so that `kbnet --help` answers in a blink.
"""

import errno
import logging
import os
import sys
from typing import Annotated

import typer

from kbnet_cli import __version__, stopping
from kbnet_cli.cli import shells, standard_files, weights
from kbnet_cli.cli.evaluating import evaluate
from kbnet_cli.cli.helping import help_
from kbnet_cli.cli.restoring import DEBLUR, DEJPEG, DENOISE, DERAIN, verb
from kbnet_cli.cli.settling import Context, configure
from kbnet_cli.cli.status import status as tell_status
from kbnet_cli.cli.tools import bench, doctor
from kbnet_cli.cli.training import train

app = typer.Typer(
    name="kbnet",
    add_completion=False,  # shells.py has its own
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)
app.command("denoise", help=DENOISE)(verb("denoise"))
app.command("derain", help=DERAIN)(verb("derain"))
app.command("deblur", help=DEBLUR)(verb("deblur"))
app.command("dejpeg", help=DEJPEG)(verb("dejpeg"))
app.command("evaluate")(evaluate)
app.command("bench")(bench)
app.command("doctor")(doctor)
app.command("train")(train)
app.command("status")(tell_status)
app.add_typer(weights.app)
app.command("help")(help_)


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"kbnet {__version__}")
        raise typer.Exit


def _show_completion(shell: shells.Shell | None) -> None:
    if shell:
        typer.echo(shells.show(shell), nl=False)
        raise typer.Exit


@app.callback()
def kbnet(
    context: Context,
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = None,
    show_completion: Annotated[
        shells.Shell | None,
        typer.Option(
            callback=_show_completion,
            is_eager=True,
            help="Show the script that makes a shell complete: see kbnet help completion.",
        ),
    ] = None,
) -> None:
    """Take noise, rain, blur and JPEG marks out of photographs on your own computer, and nothing else.

    Device, precision, weights and the names of outputs are taken from an option, else from its variable, else from the
    config file, else as built in: see kbnet doctor.
    """
    configure(context)


_NOT_TAKEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a full disk behind standard output answers."""


def _run() -> None:
    """Run the command line; what standard output does not take is an error as any other."""
    from kbnet_cli.errors import OutputError

    try:
        try:
            app()
        except SystemExit as ended:
            # typer takes each broken pipe for standard output's, and says nothing: this one is another's.
            if isinstance(ended.__context__, BrokenPipeError):
                raise ended.__context__ from None
            raise
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or error.errno not in _NOT_TAKEN:
            raise
        # Python would try again at its end, and fail as it does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise OutputError(
            f"standard output: {error.strerror or error}", hint="make room where it goes, or send it elsewhere"
        ) from error


def main() -> None:
    """Run the command line and exit with its code; quietly with 141 where nobody reads what it writes any more."""
    standard_files.prepare()
    try:
        _main()
    except standard_files.Unread:
        standard_files.silence()
        # Without waiting for what threads are still at: nobody wants it any more.
        os._exit(standard_files.NOT_READ)


def _main() -> None:
    if shells.VARIABLE in os.environ:
        shells.answer(typer.main.get_command(app))
        return
    from kbnet_cli.errors import KBNetError

    # imagecodecs logs a warning for every interlaced PNG; what a user should know comes as a note of the photo.
    logging.getLogger("imagecodecs").setLevel(logging.ERROR)
    # What huggingface_hub warns of while it tries again, we tell when it is of no avail.
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    # numpy is asked for small things only, beside the network: threads of its own would be in the way there.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    stopping.prepare()
    try:
        _run()
    except KBNetError as problem:
        from kbnet_cli import console

        console.error(problem, cause=problem.__cause__ if {"-v", "--verbose"} & set(sys.argv) else None)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except stopping.Ended as ended:
        stopping.leave(ended.exit_code)
