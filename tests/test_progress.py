"""How progress and the end of a job look, as text."""

import io
import re
import sys

import pytest
from rich.cells import cell_len
from rich.console import Console

from kbnet_cli import console, progress
from kbnet_cli.outlook import Outlook, Totals
from kbnet_cli.progress import Display, Failures, Reporter, Under, middle_cut, plain, reporting, roughly, summary
from tests.test_outlook import Clock

LONG = "archive/1987 - Großmutters Reise nach Perú/日本語の写真/IMG_00000012_edited (copy).CR2"


def shown(display: Display, width: int) -> list[str]:
    """Return the lines of a display on a terminal of so many cells, and see to it that none is too wide."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, emoji=False, soft_wrap=True).print(display)
    lines = file.getvalue().splitlines()
    assert all(cell_len(line) < width for line in lines), lines
    return lines


@pytest.fixture
def job() -> Outlook:
    """1,234 of 3,000 photos of 2 megapixels, half a second each, and the next half done."""
    clock = Clock()
    outlook = Outlook(photos=3000, clock=clock)
    for key in range(1234):
        outlook.begin(key, 2.0)
        clock.now += 1
        outlook.finish(key, "done", 2.0)
    outlook.begin(1234, 2.0)
    clock.now += 0.5
    outlook.tile(1234, 6, 12)
    return outlook


def test_a_job_has_a_line_and_the_photo_in_hand_another(job: Outlook) -> None:
    display = Display(job)
    display.under[1234] = Under("in/a.cr2", "tiles", 6, 12)
    overall, photo = shown(display, 80)
    assert re.fullmatch(r"1,234/3,000 photos [━╸ ]+ 2,469/6,000 MP  2\.00 MP/s  29 min left *", overall)
    assert re.fullmatch(r"in/a\.cr2 [━╸ ]+ 6/12 tiles *", photo)


def test_on_a_narrow_terminal_the_less_important_goes_first(job: Outlook) -> None:
    display = Display(job)
    display.under[1234] = Under(LONG, "tiles", 6, 12)
    overall, photo = shown(display, 42)
    assert re.fullmatch(r"1,234/3,000 [━╸ ]+ 29 min left *", overall)
    assert re.fullmatch(r"archive\S*….*\.CR2 [━╸ ]+ 6/12 tiles *", photo)


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("name", ["a", LONG, "写" * 60, "e\u0301" * 70, "\x1b[31m\n" * 20])
def test_no_line_is_wider_than_the_terminal(job: Outlook, name: str, width: int) -> None:
    display = Display(job)
    display.under[1234] = Under(name, "tiles", 1_000, 2_000)
    assert len(shown(display, width)) == 2
    display.under[1234] = Under(name, "tiles")
    assert len(shown(display, width)) == 2
    display.outlook = Outlook(photos=1)
    assert len(shown(display, width)) == 1


def test_a_single_photo_has_one_line_with_speed_and_time() -> None:
    clock = Clock()
    outlook = Outlook(photos=1, clock=clock)
    display = Display(outlook)
    advance = Reporter(outlook, display, None, clock).photo("a", "a.png", 24.0)
    assert shown(display, 80)[0].split() == ["a.png"]
    clock.now += 10
    advance(1, 4)
    assert re.fullmatch(r"a\.png [━╸ ]+ 1/4 tiles  0\.60 MP/s  30 s left *", shown(display, 80)[0])


def test_a_job_without_an_end_has_no_bar_and_no_time() -> None:
    clock = Clock()
    outlook = Outlook(photos=None, clock=clock)
    display = Display(outlook)
    reporter = Reporter(outlook, display, None, clock)
    reporter.photo("a", "a.png", 2.0)
    clock.now += 1
    reporter.finish("a", "done", 2.0)
    assert [line.split() for line in shown(display, 80)] == [["1", "photo", "2.0", "MP", "2.00", "MP/s"]]


def test_of_photos_in_hand_the_first_that_is_not_through_is_shown() -> None:
    outlook = Outlook(photos=4)
    display = Display(outlook)
    reporter = Reporter(outlook, display, None, Clock())
    first, second = reporter.photo("a", "a.png", 2.0), reporter.photo("b", "b.png", 2.0)
    second(1, 3)
    assert shown(display, 80)[1].startswith("a.png")
    first(2, 2)
    assert re.fullmatch(r"b\.png [━╸ ]+ 1/3 tiles *", shown(display, 80)[1])
    second(3, 3)
    reporter.finish("a", "done")
    assert shown(display, 80)[1].startswith("b.png")
    reporter.finish("b", "done")
    assert len(shown(display, 80)) == 1


@pytest.mark.parametrize(
    ("name", "width", "cut"),
    [
        ("folder/picture.png", 18, "folder/picture.png"),
        ("folder/picture.png", 11, "folde…e.png"),
        ("写真写真写真.png", 9, "写真….png"),
        ("e\u0301" * 9, 5, "e\u0301e\u0301…e\u0301e\u0301"),
        ("a\nb", 10, "a\\nb"),
        ("abc", 2, "…"),
        ("abc", 0, ""),
    ],
)
def test_names_are_cut_in_their_middle(name: str, width: int, cut: str) -> None:
    assert middle_cut(name, width) == cut


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"), (0.2, "1 s"),
        (9.4, "10 s"), (42.0, "40 s"), (58.0, "1 min"), (1799.0, "30 min"), (3590.0, "1 h 0 min"),
        (7500.0, "2 h 5 min"), (86400 * 3 + 14400.0, "3 d 4 h"),
    ],
)  # fmt: skip
def test_times_that_are_guessed_are_told_roughly(seconds: float, said: str) -> None:
    assert roughly(seconds) == said


def test_a_line_for_logs(job: Outlook) -> None:
    assert plain(job) == "1,234 of 3,000 photos, 2,469 of 6,000 MP, 2.00 MP/s, about 29 min left"
    assert plain(Outlook(photos=2)) == "0 of 2 photos"


def test_without_a_terminal_a_line_a_minute_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    with reporting(100, quiet=False, clock=clock) as reporter:
        for key in range(100):
            advance = reporter.photo(key, f"{key}.png", 6.0)
            clock.now += 2
            advance(1, 2)
            clock.now += 1
            reporter.finish(key, "done", 6.0)
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert len(lines) == 4, "in five minutes, and none at the very end"
    assert lines[1] == "40 of 100 photos, 240 of 600 MP, 2.00 MP/s, about 3 min left"


@pytest.mark.parametrize(("photos", "quiet"), [(1, False), (100, True), (None, True)])
def test_a_single_photo_and_a_quiet_job_say_nothing(
    photos: int | None, quiet: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with reporting(photos, quiet=quiet, clock=clock) as reporter:
        advance = reporter.photo("a", "a.png", 6.0)
        for tile in range(10):
            clock.now += 60
            advance(tile, 10)
    assert capsys.readouterr().err == ""
    assert reporter.outlook.megapixels_done == pytest.approx(5.4)


class Terminal(io.StringIO):
    """Standard error as a terminal of 80 cells."""

    def isatty(self) -> bool:
        return True

    def switched_on(self, monkeypatch: pytest.MonkeyPatch, kind: str = "xterm") -> "Terminal":
        """Take the place of standard error. No fixture: pytest puts its own there between fixtures and test."""
        monkeypatch.setattr(sys, "stderr", self)
        screen = Console(file=self, force_terminal=True, width=80, soft_wrap=True, emoji=False, _environ={"TERM": kind})
        monkeypatch.setattr(console, "stderr", screen)
        return self


def test_on_a_terminal_lines_go_above_the_bars_and_the_bars_go_away(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal().switched_on(monkeypatch)
    standard_output = sys.stdout
    with reporting(2, quiet=False) as reporter:
        assert sys.stdout is standard_output, "data does not go through the display"
        reporter.photo("a", "a.png", 2.0)(1, 2)
        console.note("a note")
        reporter.finish("a", "done", 2.0)
    text = terminal.getvalue()
    assert "0/2 photos" in text
    assert "1/2 tiles" in text
    assert text.index("a note") < text.rindex("1/2 photos")
    assert text.endswith("\x1b[2K"), "the last line is taken back"


def test_a_terminal_that_takes_nothing_back_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal().switched_on(monkeypatch, "dumb")
    clock = Clock()
    with reporting(2, quiet=False, clock=clock) as reporter:
        advance = reporter.photo("a", "a.png", 2.0)
        clock.now += 60
        advance(1, 2)
    assert terminal.getvalue() == "0 of 2 photos, 1.0 of 4.0 MP, 0.02 MP/s, about 3 min left\n"


def test_other_steps_have_a_bar_with_their_own_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal().switched_on(monkeypatch)
    with progress.stepping(quiet=False, unit="pictures") as begin:
        begin("[1/2] level 15")(3, 24)
    assert "[1/2] level 15" in terminal.getvalue()
    assert "3/24 pictures" in terminal.getvalue()
    assert "MP/s" not in terminal.getvalue()


def test_what_takes_long_before_the_first_photo_is_told_and_taken_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.waiting("looking for photos", quiet=False):
        pass
    assert capsys.readouterr().err == "", "a log need not know"
    terminal = Terminal().switched_on(monkeypatch)
    with progress.waiting("looking for photos", quiet=True):
        pass
    assert terminal.getvalue() == ""
    with progress.waiting("looking for photos", quiet=False):
        assert "looking for photos" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K")


def failures(*many: tuple[int, str]) -> Failures:
    found = Failures()
    for count, reason in many:
        for number in range(count):
            name = f"in/{reason[:2]}{number}.png"
            found.add(name, f"{name}: {reason}")
    return found


def test_a_few_photos_are_summed_up_in_a_line() -> None:
    totals = Totals(done=2, failed=1, seconds=3.1, megapixels=6.0)
    line = "2 done, 0 skipped, 1 failed; 6.0 MP in 3.1 s (1.94 MP/s)"
    assert summary(totals, failures((1, "is empty")), 80) == [line]
    stopped = Totals(done=0, kept=2, skipped=1, left=3, seconds=61.0, stopped="interrupted")
    assert summary(stopped, Failures(), 80) == ["0 done, 2 kept, 1 skipped, 0 failed, 3 left; 1 min 1 s"]


def test_many_photos_are_summed_up_in_a_table() -> None:
    totals = Totals(2871, 97, 3, 29, 12, seconds=2944.0, megapixels=5742.0, stopped="terminated")
    table = summary(totals, failures((21, "is empty, expected a picture"), (8, "no such file")), 80)
    assert [line for line in table if ".png" not in line] == [
        "done     2,871  5,742 MP in 49 min 4 s (1.95 MP/s)",
        "kept        97  as an earlier run left them",
        "skipped      3  the output was there",
        "failed      29  21 × is empty, expected a picture",
        "                  and 11 more",
        "                8 × no such file",
        "left        12  not begun: the run was terminated",
    ]
    assert len([line for line in table if ".png" in line]) == 18
    assert table[4] == "                  in/is0.png"


def test_a_table_without_failures_is_short() -> None:
    assert summary(Totals(done=3000, seconds=1500.0, megapixels=6000.0), Failures(), 80) == [
        "done    3,000  6,000 MP in 25 min 0 s (4.00 MP/s)",
        "failed      0",
    ]


def test_a_table_keeps_to_the_width_and_names_stay_whole_without_a_terminal() -> None:
    found = Failures()
    for _ in range(30):
        found.add(LONG, f"{LONG}: got a file that begins with 00 00 00 00 00 00 00 00, expected a picture of any kind")
    totals = Totals(failed=30, seconds=1.0)
    assert max(map(cell_len, summary(totals, found, 60))) <= 60
    assert f"              {LONG}" in summary(totals, found, console.UNWRAPPED)


def test_many_reasons_are_cut_short() -> None:
    found = failures(
        *((1 if number else 5, f"{chr(97 + number // 26)}{chr(97 + number % 26)} reason") for number in range(40))
    )
    told = summary(Totals(failed=44, seconds=1.0), found, 80)
    assert told[1] == "failed  44  5 × aa reason"
    assert told[-1].strip() == "and 30 for other reasons"
    assert len([line for line in told if ".png" in line]) == 11


def test_a_photo_s_own_names_are_no_part_of_the_reason() -> None:
    found = Failures()
    for name in ("a.png", "b.png"):
        found.add(name, f"{name}: the output out/{name} exists already", target=f"out/{name}")
    assert [(reason.says, reason.photos) for reason in found.reasons()] == [("the output … exists already", 2)]


def test_reasons_that_differ_in_bytes_or_numbers_are_one() -> None:
    found = Failures()
    for name, begins in (("a.png", b"x'"), ("b.png", b"\x00\x01"), ("c.png", b'"')):
        found.add(name, f"{name}: got a file that begins with {begins!r}, expected a picture")
    for name, size in (("d.png", 12), ("e.png", 12), ("f.png", 345)):
        found.add(name, f"{name}: is cut off after {size} bytes")
    for name in ("g.png", "h.png"):
        found.add(name, f"{name}: more than 100 megapixels")
    assert [(reason.says, reason.photos) for reason in found.reasons()] == [
        ("got a file that begins with …, expected a picture", 3),
        ("is cut off after … bytes", 3),
        ("more than 100 megapixels", 2),
    ]


def test_names_of_failed_photos_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    found = Failures()
    found.add("a\x1b[2J.png", "a\x1b[2J.png: [bold]no[/] such file")
    progress.conclude(Totals(done=20, failed=1, seconds=2.0, megapixels=3.0), found)
    assert capsys.readouterr().err.splitlines() == [
        "done    20  3.0 MP in 2.0 s (1.50 MP/s)",
        "failed   1  [bold]no[/] such file",
        "              a\\x1b[2J.png",
    ]
