"""How progress, warnings and errors look on stderr, and tables on stdout. Nothing here decides anything."""

import contextlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from kbnet_cli.errors import KBNetError

if TYPE_CHECKING:
    from kbnet_cli.bench import Measurement
    from kbnet_cli.evaluate.score import Evaluation, Likeness
    from kbnet_cli.findings import Finding
    from kbnet_cli.hub.listing import Listed
    from kbnet_cli.training.loop import Report

# Without emoji: names of files may hold :words:.
stderr = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
UNWRAPPED = 240
"""How wide a table may be where nobody's terminal sets the width."""
WIDE = 120
"""How wide a terminal must be for columns that can be done without."""


def error(problem: KBNetError, *, cause: BaseException | None = None) -> None:
    """Print an error as one line of message and one of hint; with a traceback if its cause is given."""
    if cause is not None:
        stderr.print("".join(traceback.format_exception(cause)), markup=False)
    stderr.print(f"[bold red]error:[/] {escape(one_line(problem.message))}")
    if problem.hint:
        stderr.print(f"[bold cyan]hint:[/] {escape(one_line(problem.hint))}")


def warning(text: str) -> None:
    """Print a warning a user can act on."""
    stderr.print(f"[bold yellow]warning:[/] {escape(one_line(text))}")


def note(text: str) -> None:
    """Print a line that tells what was done."""
    stderr.print(escape(one_line(text)))


def one_line(text: str) -> str:
    """Show what would break a line or move the cursor, in a file's name say, as a terminal-safe escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def fetching(*, quiet: bool) -> Iterator[Callable[[str], Callable[[int, int | None], None] | None]]:
    """Show what is fetched while the block runs: a line each, and a bar on a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=quiet or not sys.stderr.isatty()) as progress:

        def announce(name: str) -> Callable[[int, int | None], None] | None:
            if quiet:
                return None
            note(f"fetching {name}")
            task = progress.add_task("fetching", total=None)
            return lambda done, total: progress.update(task, completed=done, total=total)

        yield announce


@contextlib.contextmanager
def training() -> Iterator[tuple[Callable[[int, int], None], Callable[["Report"], None]]]:
    """Show how a training is prepared and how it goes: a bar on a terminal, a line at each checkpoint everywhere."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty()) as progress:
        pictures = progress.add_task("preparing pictures", total=None)
        steps = progress.add_task("training", total=1.0, visible=False)

        def prepared(done: int, total: int) -> None:
            progress.update(pictures, completed=done, total=total)

        def stepped(report: "Report") -> None:
            progress.update(pictures, visible=False)
            said = f"step {report.step}, loss {report.loss:.4f}"
            progress.update(steps, completed=report.share, description=said, visible=True)
            if report.held_out_psnr is not None:
                left = report.seconds * (1 / report.share - 1) if report.share else 0.0
                note(
                    f"{said}, {duration(report.seconds)}: held out {report.held_out_psnr:.2f} dB "
                    f"({report.held_out_gain:+.2f}), {duration(left)} left"
                )

        yield prepared, stepped


def findings(found: "Iterable[Finding]") -> None:
    """Print what was found of a machine as a table on stdout, each hint below its row."""
    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    table = _table()
    for finding in found:
        says = Text(one_line(finding.says))
        if finding.hint:
            says.append(f"\n→ {one_line(finding.hint)}", style="cyan")
        table.add_row(Text(finding.state, style=styles[finding.state]), Text(finding.name), says)
    _on_stdout(table)


def listing(found: "Iterable[Listed]") -> None:
    """Print weights as a table on stdout: name, task, network, size, state, licence; on wide terminals what for."""
    styles = {
        "bundled": "green",
        "here": "green",
        "to fetch": "",
        "no public source known": "dim",
        "damaged": "bold red",
    }
    columns = ["for", "network", "size", "where", "licence"]
    if not sys.stdout.isatty() or Console().width >= WIDE:
        columns.append("what it takes out, or came from")
    # A name that is cut cannot be copied.
    table = _table(Column("name", no_wrap=True, overflow="ignore"), *columns)
    for listed in found:
        entry, size = listed.entry, listed.size_bytes
        cells = (
            Text(listed.name),
            Text(entry.task if entry else ""),
            Text(entry.architecture if entry else ""),
            Text("" if size is None else f"{size / 1e6:.{1 if size < 1e7 else 0}f} MB", justify="right"),
            Text(listed.state, style=styles[listed.state]),
            Text(entry.licence if entry else "unknown"),
            Text(one_line(entry.summary if entry else listed.origin or "")),
        )
        table.add_row(*cells[: len(columns) + 1])
    _on_stdout(table)


def measurement(found: "Measurement") -> None:
    """Print how fast weights are as a table on stdout."""
    memory = "unknown" if found.peak_memory_bytes is None else f"{found.peak_memory_bytes / 1e6:.0f} MB"
    above = "above the loaded weights" if found.device == "cpu" else "of the device, above the loaded weights"
    rounds = "1 round" if len(found.seconds) == 1 else f"median of {len(found.seconds)} rounds"
    at_once = "one tile at a time" if found.tiles_at_once == 1 else f"{found.tiles_at_once} tiles side by side"
    rows = {
        "weights": f"{found.weights} ({found.architecture}), {found.precision} on {found.device}",
        "machine": f"{found.processor}, torch {found.torch}",
        "kernels": found.kernels,
        "time": f"{found.median_seconds:.3g} s for {found.size}×{found.size} pixels ({rounds})",
        "speed": f"{found.megapixels_a_second:.3g} MP/s",
        "peak memory": f"{memory} {above}" if found.peak_memory_bytes is not None else memory,
        "at once": f"{found.at_once_megapixels_a_second:.3g} MP/s, {at_once}",
        "24 MP photo": f"about {duration(found.photo_seconds)}, in the weights' own tiles of {found.tile}",
    }
    for text in found.notes:
        warning(text)
    table = _table()
    for name, value in rows.items():
        table.add_row(Text(name), Text(one_line(value)))
    _on_stdout(table)


def evaluations(found: "Iterable[Evaluation]", *, each: bool) -> None:
    """Print how good weights are as a table on stdout, a row a trial; before it each picture's, if wanted."""
    kept = list(found)
    if each:
        table = _table(Column("level", no_wrap=True), "picture", *_right(*_FIGURES))
        for evaluation in kept:
            for score in evaluation.scores:
                cells = _figures(score.before, score.after, score.gain)
                table.add_row(Text(evaluation.trial.title), Text(one_line(score.name)), *cells)
        _on_stdout(table)
        _on_stdout(_table())
    table = _table(Column("level", no_wrap=True), *_right("pictures", *_FIGURES, "least gain", "worse"))
    for evaluation in kept:
        cells = _figures(evaluation.before, evaluation.after, evaluation.gain)
        worse = Text(str(evaluation.worse), style="bold red" if evaluation.worse else "")
        count = Text(str(len(evaluation.scores)))
        table.add_row(Text(evaluation.trial.title), count, *cells, Text(f"{evaluation.least_gain:+.2f}"), worse)
    _on_stdout(table)


_FIGURES = ("PSNR in", "PSNR out", "gain", "SSIM in", "SSIM out")


def _right(*names: str) -> list[Column]:
    return [Column(name, justify="right") for name in names]


def _figures(before: "Likeness", after: "Likeness", gain: float) -> tuple[Text, ...]:
    numbers = (f"{before.psnr:.2f}", f"{after.psnr:.2f}", f"{gain:+.2f}", f"{before.ssim:.4f}", f"{after.ssim:.4f}")
    return tuple(Text(number) for number in numbers)


def _table(*columns: str | Column) -> Table:
    return Table(*columns, box=None, show_header=bool(columns), pad_edge=False, padding=(0, 2, 0, 0))


def _on_stdout(table: Table) -> None:
    Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else UNWRAPPED).print(table)


def duration(seconds: float) -> str:
    """Write a time as people say it: 0.8 s, 42 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
