"""How a job of many photos looks on stderr while it runs, and when it is over. `outlook` reckons, this shows."""

import contextlib
import io
import math
import re
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Column, Table
from rich.text import Text

from kbnet_cli import console
from kbnet_cli.outlook import Outlook, Status, Totals

LINE_SECONDS = 60.0
"""How often a line tells how far a job is where there is no terminal."""
NAMED = 20
"""So many photos that failed are named at the end; each was told when it failed."""
FEW = 10
"""So many photos are still before one's eyes at the end, and need no table."""
BAR = (8, 40)
"""The least and most cells of a bar."""
ROOMY = 60
"""From so many cells on there is room for words that can be done without."""
_VARYING = re.compile(r"""b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*"|\d+""")
"""What tells one photo's message from another's with the same reason."""

Advance = Callable[[int, int], None]
"""Told (done, total)."""


@dataclass
class Reason:
    """Why photos failed."""

    says: str
    photos: int = 0
    names: list[str] = field(default_factory=list)
    """Of the first photos."""


class Failures:
    """Photos that failed, by reason; reasons that differ only in numbers or bytes are one."""

    def __init__(self) -> None:
        self._reasons: dict[str, Reason] = {}

    def add(self, name: str, message: str, *, target: str = "") -> None:
        """Count a photo; its own names, which stand in the message, are no part of the reason."""
        says = message.removeprefix(f"{name}: ")
        says = says.replace(target, "…") if len(target) > 1 else says
        alike = _VARYING.sub("…", says)
        reason = self._reasons.setdefault(alike, Reason(says))
        reason.photos += 1
        if reason.says != says:
            reason.says = alike
        if len(reason.names) < NAMED:
            reason.names.append(name)

    def reasons(self) -> list[Reason]:
        """Return the reasons, the most usual first."""
        return sorted(self._reasons.values(), key=lambda reason: -reason.photos)


@dataclass
class Under:
    """What is under way now: a photo and its tiles, say."""

    name: str
    unit: str
    done: int = 0
    total: int | None = None


class Display:
    """Show a job of several photos in a line, and below it what is under way; never wider than the terminal."""

    def __init__(self, outlook: Outlook, *, megapixels: bool = True) -> None:
        """Show a job; without megapixels for one that is not counted in them."""
        self.outlook = outlook
        self.under: dict[object, Under] = {}
        """By their keys, in the order in which they were begun."""
        self._megapixels = megapixels

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> Iterator[Table]:
        """Give the lines, as they are at this moment."""
        # The last cell stays free: some terminals go on to the next line once it is written to.
        width = options.max_width - 1
        outlook, under = self.outlook, self._shown()
        ways = _ways(outlook, megapixels=self._megapixels)
        if outlook.photos != 1:
            photos = _photos(outlook) if width >= ROOMY else _photos(outlook).partition(" ")[0]
            yield _line(photos, _share(outlook), ways, width, cut=False)
            ways = [""]
        if under is not None:
            count = f"{under.done:,}/{under.total:,} {under.unit}" if under.total else ""
            share = under.done / under.total if under.total else 0.0
            yield _line(under.name, share, ["  ".join(filter(None, (count, way))) for way in ways], width, cut=True)

    def _shown(self) -> Under | None:
        """Return the first that has something to do yet, or else the last."""
        all_of_them = list(self.under.values())
        unfinished = (under for under in all_of_them if under.total is None or under.done < under.total)
        return next(unfinished, all_of_them[-1] if all_of_them else None)


def _line(name: str, share: float | None, ways: list[str], width: int, *, cut: bool) -> Table:
    """Lay out name, bar and the longest of the ways to tell the rest that leaves room for both; no share, no bar."""
    least, most = BAR
    wanted = min(cell_len(name), width // 3) if cut else cell_len(name)
    rest = next((way for way in ways if wanted + least + cell_len(way) + 2 <= width), middle_cut(ways[-1], width))
    room = width - cell_len(rest) - bool(rest)
    name = middle_cut(name, max(room - least - 1, min(wanted, room)))
    bar = min(room - cell_len(name) - 1, most)
    cells: list[Text | ProgressBar] = [Text(name)]
    if bar >= least and share is not None:
        cells.append(ProgressBar(total=1.0, completed=share, width=bar))
    if rest:
        cells.append(Text(rest))
    columns = (Column(no_wrap=True) for _ in cells)
    line = Table.grid(*columns, padding=(0, 1, 0, 0), pad_edge=False)
    line.add_row(*cells)
    return line


def middle_cut(name: str, width: int) -> str:
    """Cut a name in its middle so that it fits into so many cells: folder and ending tell most."""
    name = console.one_line(name)
    if cell_len(name) <= width:
        return name
    if width < 3:
        return "…" * min(width, 1)
    before = set_cell_size(name, (width - 1) // 2).rstrip()
    room = width - 1 - cell_len(before)
    first = next(first for first in range(len(name)) if cell_len(name[first:]) <= room)
    # An accent stays with its letter.
    first = next((at for at in range(first, len(name)) if not unicodedata.combining(name[at])), len(name))
    return f"{before}…{name[first:]}"


def _photos(outlook: Outlook) -> str:
    done, photos = outlook.photos_done, outlook.photos
    return _counted(done) if photos is None else f"{done:,}/{photos:,} photos"


def _counted(photos: int) -> str:
    return "1 photo" if photos == 1 else f"{photos:,} photos"


def _share(outlook: Outlook) -> float | None:
    if outlook.photos is None:
        return None
    expected = outlook.megapixels_expected
    # Before anything is known of megapixels, photos are all there is to count.
    return outlook.megapixels_done / expected if expected else outlook.photos_done / max(outlook.photos, 1)


def _ways(outlook: Outlook, *, megapixels: bool) -> list[str]:
    """Give what is known of a job, and ever less of it."""
    speed, left, expected = outlook.megapixels_a_second, outlook.seconds_left, outlook.megapixels_expected
    parts = []
    if outlook.photos != 1 and (expected is not None or outlook.megapixels_done):
        parts.append(_megapixels(outlook.megapixels_done, expected, "/"))
    if megapixels and speed is not None:
        parts.append(f"{_figures(speed)} MP/s")
    if left is not None:
        parts.append(f"{roughly(left)} left")
    return ["  ".join(parts[first:]) for first in range(len(parts) + 1)]


def _megapixels(done: float, expected: float | None, between: str) -> str:
    digits = 0 if (done if expected is None else expected) >= 100 else 1
    return f"{done:,.{digits}f}{'' if expected is None else f'{between}{expected:,.{digits}f}'} MP"


def _figures(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def roughly(seconds: float) -> str:
    """Write a time that is only guessed: 45 s, 3 min, 2 h 5 min, 3 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 10:
        return f"{math.ceil(seconds)} s"
    if seconds < 57.5:
        return f"{round(seconds / 5) * 5} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


def plain(outlook: Outlook) -> str:
    """Return a line that tells how far a job is, for logs."""
    done, photos = outlook.photos_done, outlook.photos
    parts = [_counted(done) if photos is None else f"{done:,} of {photos:,} photos"]
    expected, speed, left = outlook.megapixels_expected, outlook.megapixels_a_second, outlook.seconds_left
    if expected is not None or outlook.megapixels_done:
        parts.append(_megapixels(outlook.megapixels_done, expected, " of "))
    if speed is not None:
        parts.append(f"{_figures(speed)} MP/s")
    if left is not None:
        parts.append(f"about {roughly(left)} left")
    return ", ".join(parts)


class Reporter:
    """Take in from any thread how a job goes, and show it: bars on a terminal, elsewhere a line a minute."""

    def __init__(
        self,
        outlook: Outlook,
        display: Display | None,
        say: Callable[[str], None] | None,
        clock: Callable[[], float],
    ) -> None:
        """Show on a display, or say lines, or neither."""
        self.outlook = outlook
        self.failures = Failures()
        self._display = display
        self._say = say
        self._clock = clock
        self._lock = threading.Lock()
        self._said = clock()

    def expect(self, key: object, megapixels: float | None, file_bytes: int, kind: str = "") -> None:
        """Tell of a photo ahead, as `Outlook.expect`."""
        self.outlook.expect(key, megapixels, file_bytes, kind)

    def photo(self, key: object, name: str, megapixels: float, *, unit: str = "tiles") -> Advance:
        """Tell that the network takes a photo in hand, and return what its tiles are told to."""
        self.outlook.begin(key, megapixels)
        under = Under(name, unit)
        if self._display is not None:
            self._display.under[key] = under

        def advance(done: int, total: int) -> None:
            self.outlook.tile(key, done, total)
            under.done, under.total = done, total
            self._tell_now_and_then()

        return advance

    def finish(self, key: object, status: Status, megapixels: float | None = None) -> None:
        """Tell what became of a photo."""
        self.outlook.finish(key, status, megapixels)
        if self._display is not None:
            self._display.under.pop(key, None)
        self._tell_now_and_then()

    def _tell_now_and_then(self) -> None:
        if self._say is None or self.outlook.photos == 1:
            return
        with self._lock:
            now, photos = self._clock(), self.outlook.photos
            if now - self._said >= LINE_SECONDS and (photos is None or self.outlook.photos_done < photos):
                self._said = now
                self._say(plain(self.outlook))


@contextlib.contextmanager
def reporting(photos: int | None, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> Iterator[Reporter]:
    """Show how a job of so many photos goes while the block runs; None: nobody knows how many; quiet: show nothing."""
    outlook = Outlook(photos=photos, clock=clock)
    if quiet or not on_terminal():
        yield Reporter(outlook, None, None if quiet else console.note, clock)
        return
    display = Display(outlook)
    with _live(display):
        yield Reporter(outlook, display, None, clock)


@contextlib.contextmanager
def stepping(*, quiet: bool, unit: str) -> Iterator[Callable[[str], Advance]]:
    """Show a bar for one thing after the other while the block runs: give each its name, and tell what is returned."""
    display = Display(Outlook(photos=1), megapixels=False)

    def begin(name: str) -> Advance:
        display.outlook = Outlook(photos=1)
        display.under.clear()
        return Reporter(display.outlook, display, None, time.monotonic).photo(name, name, 1.0, unit=unit)

    with contextlib.nullcontext() if quiet or not on_terminal() else _live(display):
        yield begin


def waiting(text: str, *, quiet: bool) -> contextlib.AbstractContextManager[object]:
    """Show on a terminal, while the block runs, what the program is at before there is anything to count."""
    return contextlib.nullcontext() if quiet or not on_terminal() else _live(Spinner("line", text))


def on_terminal() -> bool:
    """Tell whether stderr is a terminal that a line can be taken back from."""
    return sys.stderr.isatty() and not console.stderr.is_dumb_terminal


def _live(display: RenderableType) -> Live:
    # Standard output is data's; it is not led through the terminal of stderr.
    return Live(display, console=console.stderr, transient=True, redirect_stdout=False)


def summary(totals: Totals, failures: Failures, width: int) -> list[str]:
    """Return what became of a job: a line for a few photos, a table for many, with the reasons why photos failed."""
    speed = totals.megapixels_a_second
    work = console.duration(totals.seconds)
    if speed is not None:
        work = f"{_megapixels(totals.megapixels, None, '')} in {work} ({_figures(speed)} MP/s)"
    if totals.photos + (totals.left or 0) <= FEW:
        kept = [f"{totals.kept} kept"] if totals.kept else []
        left = [f"{totals.left} left"] if totals.left else []
        counts = [f"{totals.done} done", *kept, f"{totals.skipped} skipped", f"{totals.failed} failed", *left]
        return [f"{', '.join(counts)}; {work}"]
    left_why = "not begun" if totals.stopped is None else f"not begun: the run was {totals.stopped}"
    rows = (
        ("done", totals.done, work),
        ("kept", totals.kept, "as an earlier run left them"),
        ("skipped", totals.skipped, "the output was there"),
        ("failed", totals.failed, _told(failures)),
        ("left", totals.left, left_why),
    )
    columns = (Column(no_wrap=True), Column(no_wrap=True, justify="right"), Column(overflow="fold"))
    table = Table.grid(*columns, padding=(0, 2, 0, 0), pad_edge=False)
    for name, count, told in rows:
        if count or name in ("done", "failed"):
            table.add_row(name, f"{count:,}", Text(told))
    file = io.StringIO()
    Console(file=file, width=width, emoji=False, highlight=False, color_system=None).print(table)
    return [line.rstrip() for line in file.getvalue().splitlines()]


def _told(failures: Failures) -> str:
    """Say why photos failed, and name some for each reason."""
    reasons = failures.reasons()
    shown, others = reasons[:FEW], sum(reason.photos for reason in reasons[FEW:])
    most = NAMED // max(len(shown), 1)
    lines = []
    for reason in shown:
        count = f"{reason.photos:,} × " if len(reasons) > 1 or reason.photos > 1 else ""
        lines.append(f"{count}{console.one_line(reason.says)}")
        lines += [f"  {console.one_line(name)}" for name in reason.names[:most]]
        if reason.photos > most:
            lines.append(f"  and {reason.photos - most:,} more")
    if others:
        lines.append(f"and {others:,} for other reasons")
    return "\n".join(lines)


def conclude(totals: Totals, failures: Failures) -> None:
    """Print what became of a job."""
    width = console.stderr.width if sys.stderr.isatty() else console.UNWRAPPED
    for line in summary(totals, failures, width):
        console.note(line)
