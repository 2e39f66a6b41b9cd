"""The command that tells how far the work in a folder is: status."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kbnet_cli.status import Failure, Status

SHOWN = 20
"""How many failures the table has at most."""


def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of outputs, as it was given with -o.")],
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, with all failures.")
    ] = False,
) -> None:
    """Tell how far the work in a folder is: done, failed and why, left, and whether it still goes on.

    \b
        kbnet status denoised/
        kbnet status denoised/ --json

    The journal in the folder is read and nothing else, also while a run goes on. Numbers are those of the last run; a
    photo that failed and was done later is done. Go on with the same command and --resume.
    """  # noqa: D301 - the backspace is what keeps the examples' lines apart
    from kbnet_cli.status import status_of

    found = status_of(folder)
    if json:
        typer.echo(found.as_json())
    else:
        _print(found)


def _print(found: "Status") -> None:
    from rich.table import Column
    from rich.text import Text

    from kbnet_cli.console import _on_stdout, _table, one_line

    table = _table(Column(no_wrap=True), Column())
    table.show_header = False
    for name, value, style in _rows(found):
        table.add_row(Text(name), Text(one_line(value), style=style))
    _on_stdout(table)
    for title, failures in (
        ("failed:", found.failures),
        ("failed before, and not done since:", found.earlier_failures),
    ):
        if failures:
            shown = _table(f"\n{title}")
            for failure in failures[:SHOWN]:
                shown.add_row(Text(one_line(_reason(failure))))
            if len(failures) > SHOWN:
                shown.add_row(Text(f"and {len(failures) - SHOWN:,} more, all with --json", style="dim"))
            _on_stdout(shown)
    if hint := _hint(found):
        closing = _table()
        closing.add_row(Text(f"\n→ {hint}", style="cyan"))
        _on_stdout(closing)


def _rows(found: "Status") -> list[tuple[str, str, str]]:
    """Return name, value and style of each row."""
    failed, left = len(found.failures), found.left
    rows = [("state", _state(found), _STYLES[found.state])]
    if found.started is not None:
        version = f" by kbnet {found.version}" if found.version else ""
        rows.append(("started", f"{_clock(found.started)}{version}", ""))
    if found.photos is not None:
        rows.append(("photos", f"{found.photos:,}", ""))
    rows.append(("done", f"{found.done:,}", ""))
    rows += [("kept", f"{found.kept:,} done before", "")] if found.kept else []
    rows += [("skipped", f"{found.skipped:,}", "")] if found.skipped else []
    rows.append(("failed", f"{failed:,}", "bold red" if failed else ""))
    rows.append(("left", "unknown" if left is None else f"{left:,}{_expected(found)}", ""))
    if found.megapixels_a_second is not None:
        speed = f"{found.megapixels_a_second:.3g} MP/s"
        rows.append(("speed", f"{speed}: {found.megapixels:,.1f} megapixels in {_duration(found.seconds)}", ""))
    if found.photos_of_all_runs != found.done or found.runs > 1:
        runs = f"{found.runs} runs" if found.runs != 1 else "1 run"
        rows.append(("made here", f"{found.photos_of_all_runs:,} photos in {runs}", ""))
    if found.damaged:
        damaged = "1 line" if found.damaged == 1 else f"{found.damaged:,} lines"
        rows.append(("journal", f"{damaged} cut off or damaged, and passed over", "yellow"))
    return rows


_STYLES = {
    "running": "green",
    "starting": "green",
    "ended": "",
    "stopped": "yellow",
    "killed": "bold red",
    "unfinished": "yellow",
}


def _state(found: "Status") -> str:
    process = "" if found.process is None else f" (process {found.process})"
    last = "" if found.last is None else f", {_clock(found.last)}"
    return {
        "running": f"running now{process}",
        "starting": f"a run is starting{process}; the numbers are the last one's",
        "ended": f"ended{last}",
        "stopped": f"stopped by Ctrl-C or a signal{last}",
        "killed": f"killed, or the machine went down{last}",
        "unfinished": f"running, or killed; its last word{last}",
    }[found.state]


def _expected(found: "Status") -> str:
    return "" if found.seconds_left is None else f", about {_duration(found.seconds_left)}"


def _hint(found: "Status") -> str:
    if found.state in ("running", "starting"):
        return ""
    if found.left or found.state in ("stopped", "killed"):
        return "go on with the same command and --resume"
    if found.failures or found.earlier_failures:
        return "try the failed ones again with the same command and --resume"
    return ""


def _reason(failure: "Failure") -> str:
    """Return why a photo failed, beginning with its name: a message has it already where it was given in that form."""
    name = Path(failure.input).name
    return failure.message if name in failure.message else f"{failure.input}: {failure.message}"


def _clock(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M}"


def _duration(seconds: float) -> str:
    from kbnet_cli.console import duration

    return duration(seconds)
