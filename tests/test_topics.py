"""kbnet help: topics made from the program's own tables, and the manual page."""

import os
import re
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from kbnet_cli import __version__, catalogue, errors
from kbnet_cli.cli import app, helping, manual, topics, tree
from kbnet_cli.errors import UsageError
from kbnet_cli.formats.table import FORMATS
from kbnet_cli.settings import KEYS

ALL = sorted(topics.TOPICS)
DAY = date(2026, 11, 22)


def shown(*words: str) -> str:
    found = CliRunner().invoke(app, ["help", *words], catch_exceptions=False)
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize("name", ALL)
def test_a_topic_is_short_and_fits_the_terminal(name: str) -> None:
    text = topics.TOPICS[name].text
    lines = text.splitlines()
    assert shown(name).startswith(text)
    assert 5 < len(lines) < 40
    assert [line for line in lines if len(line) > 90] == [], "tables may be a little wider"
    assert [line for line in lines if not line.startswith("    ") and len(line) > 80] == []
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_without_a_topic_all_commands_and_topics_are_listed() -> None:
    text = shown()
    for name in topics.TOPICS:
        assert f"  kbnet help {name} " in text
    for branch in tree.branches():
        if len(branch.names) == 2:
            assert f"  {branch.title} " in text


@pytest.mark.parametrize("words", ["denoise", "evaluate", "weights pull", "help"])
def test_of_a_command_its_own_help_is_shown(words: str) -> None:
    own = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="kbnet")
    assert shown(*words.split()).split() == own.stdout.split()


def test_what_is_both_is_told_as_both() -> None:
    text = shown("weights")
    assert text.startswith("-w names weights")
    assert "Usage: kbnet weights" in text


def test_other_words_mean_the_same() -> None:
    for word, name in topics.ALIASES.items():
        assert shown(word) == shown(name)


@pytest.mark.parametrize(
    ("wanted", "hint"), [("nmaes", "names"), ("weights pul", "weights pull"), ("zzz", "kbnet help lists them all")]
)
def test_an_unknown_topic_is_wrong_usage(wanted: str, hint: str) -> None:
    with pytest.raises(UsageError) as found:
        helping.told(wanted)
    assert hint in found.value.hint


def test_tables_are_the_programs_own() -> None:
    formats = topics.TOPICS["formats"].text
    for format in FORMATS:
        assert re.search(rf"^    {re.escape(format.title)} +{format.extensions[0]}\b", formats, re.MULTILINE)
        assert format.extensions[-1] in formats
    assert re.search(r"^    HEIC .*yes   no       -", formats, re.MULTILINE)
    weights = topics.TOPICS["weights"].text
    assert all(f"    {entry.name} " in weights for entry in catalogue.ENTRIES)
    settings = topics.TOPICS["settings"].text
    assert all(re.search(rf"^    {key.name} +{key.option} +{key.variable}$", settings, re.MULTILINE) for key in KEYS)
    codes = topics.TOPICS["exit-codes"].text
    assert re.search(rf"^    {errors.OutputError.code} +1 ", codes, re.MULTILINE)
    assert re.search(rf"^    {errors.DeviceError.code} +2 ", codes, re.MULTILINE)
    assert "--white-balance" in topics.TOPICS["raw"].text


def test_options_that_topics_name_exist() -> None:
    """A topic speaks of an option that somebody has renamed or taken away."""
    known = {option for one in tree.branches() for parameter in one.command.params for option in parameter.opts}
    for name, topic in topics.TOPICS.items():
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", topic.text))
        assert named - known == set(), name


def test_help_goes_through_no_pager_where_stdout_is_no_terminal(tmp_path: Path) -> None:
    program = "from kbnet_cli.cli import main; main()"
    found = subprocess.run(
        [sys.executable, "-c", program, "help", "denoise"],
        env={"PATH": "/nowhere", "PAGER": str(tmp_path / "missing"), "LINES": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "--strength" in found.stdout
    assert found.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such terminals")
def test_what_is_longer_than_the_terminal_goes_through_the_pager() -> None:
    program = "from kbnet_cli.cli import main; main()"
    terminal = "import pty, sys; pty.spawn(sys.argv[1:])"

    def on_terminal(lines: str) -> str:
        found = subprocess.run(
            [sys.executable, "-c", terminal, sys.executable, "-c", program, "help", "watch"],
            env=os.environ | {"PAGER": "sed s/^/paged:/", "LINES": lines, "COLUMNS": "80", "TERM": "xterm"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )
        return found.stdout.replace("\r\n", "\n").replace("^D\b\b", "")

    text = topics.TOPICS["watch"].text
    assert on_terminal("40") == text
    assert on_terminal("5") == "".join(f"paged:{line}\n" for line in text.splitlines())


def test_the_manual_page_tells_all_commands_options_and_topics() -> None:
    page = manual.page(DAY)
    assert shown("--man").splitlines()[1:] == page.splitlines()[1:]
    assert page.startswith(f'.TH KBNET 1 "2026-11-22" "kbnet {__version__}"')
    assert page.isascii()
    plain = page.replace("\\-", "-")
    for branch in tree.branches():
        if not hasattr(branch.command, "commands"):
            assert f'.SS "{branch.title}"' in plain
    for name in topics.TOPICS:
        assert f'.SH "{name.upper()}"' in plain
    assert plain.count("\n.B -o, --output PATH\n") == 1, "verbs have the same options, and they are told once"
    assert all(f".B {key.variable}\n" in plain for key in KEYS)
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".RS", ".RE", ".nf", ".fi"}


@pytest.mark.programs
@pytest.mark.parametrize("program", [["groff", "-ww", "-man", "-Tutf8"], ["mandoc", "-Tlint", "-Wwarning"]])
def test_the_manual_page_is_rendered_without_warnings(program: list[str], tmp_path: Path) -> None:
    if shutil.which(program[0]) is None:
        pytest.skip(f"{program[0]} is not installed")
    page = tmp_path / "kbnet.1"
    page.write_text(manual.page(DAY), encoding="ascii")
    found = subprocess.run([*program, str(page)], capture_output=True, text=True, encoding="utf-8", check=False)
    assert found.returncode == 0, found.stdout
    assert found.stderr == ""
    if program[0] == "groff":
        text = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", found.stdout)
        assert 'kbnet denoise a.jpg --name "{stem}-{done}.{ext}"' in text
        assert 'find scans -name "*.jpg" -print0 | xargs -0 -n 8 -P 2 kbnet denoise' in text
