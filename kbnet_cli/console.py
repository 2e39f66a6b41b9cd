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
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Column, Table
from rich.text import Text

from kbnet_cli.errors import KBNetError

if TYPE_CHECKING:
    from kbnet_cli.bench import Measurement
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


class Speed(ProgressColumn):
    """Megapixels a second over the tiles done so far."""

    def render(self, task: Task) -> Text:
        """Return the speed, or nothing until the first tile is done."""
        megapixels = task.fields.get("megapixels", 0.0)
        if not task.completed or not task.total or not task.elapsed:
            return Text("")
        return Text(f"{megapixels * task.completed / task.total / task.elapsed:.2f} MP/s")


class Reporter:
    """Show one bar a photo: tiles done, megapixels a second, time left. Silent where stderr is no terminal."""

    def __init__(self, progress: Progress | None, photos: int) -> None:
        self._progress = progress
        self._photos = photos
        self._number = 0

    def photo(self, name: str, megapixels: float) -> Callable[[int, int], None] | None:
        """Begin the bar of a photo and return what its tiles are told to."""
        self._number += 1
        progress = self._progress
        if progress is None:
            return None
        for task in progress.task_ids:
            progress.remove_task(task)
        count = f"[{self._number}/{self._photos}] " if self._photos > 1 else ""
        task = progress.add_task(count + one_line(name), total=None, megapixels=megapixels)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return advance


@contextlib.contextmanager
def reporting(photos: int, *, quiet: bool) -> Iterator[Reporter]:
    """Show progress while the block runs."""
    if quiet or not sys.stderr.isatty():
        yield Reporter(None, photos)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tiles"),
        Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True) as progress:
        yield Reporter(progress, photos)


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
def training() -> Iterator[Callable[["Report"], None]]:
    """Show how a training goes: a bar on a terminal, and a line at each checkpoint everywhere."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=stderr, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("training", total=1.0)

        def show(report: "Report") -> None:
            progress.update(task, completed=report.share, description=f"step {report.step}, loss {report.loss:.4f}")
            if report.held_out_psnr is not None:
                spent, psnr = duration(report.seconds), report.held_out_psnr
                note(f"step {report.step}, {spent}: loss {report.loss:.4f}, held out {psnr:.2f} dB")

        yield show


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
    rows = {
        "weights": f"{found.weights} ({found.architecture}), {found.precision} on {found.device}",
        "machine": f"{found.processor}, torch {found.torch}",
        "kernels": found.kernels,
        "time": f"{found.median_seconds:.3g} s for {found.size}×{found.size} pixels ({rounds})",
        "speed": f"{found.megapixels_a_second:.3g} MP/s",
        "peak memory": f"{memory} {above}" if found.peak_memory_bytes is not None else memory,
        "24 MP photo": f"about {duration(found.photo_seconds)}, in the weights' own tiles of {found.tile}",
    }
    table = _table()
    for name, value in rows.items():
        table.add_row(Text(name), Text(one_line(value)))
    _on_stdout(table)


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
