"""The manual page kbnet(1): what the commands say of themselves, and the topics, as roff for `man`."""

import re
from collections.abc import Iterator
from datetime import date

from kbnet_cli import __version__
from kbnet_cli.cli import tree
from kbnet_cli.cli.topics import TOPICS
from kbnet_cli.cli.tree import Branch
from kbnet_cli.settings import KEYS


def page(day: date) -> str:
    """Return the manual page as it is on a day, in the macros of man(7)."""
    program, *commands = tree.branches()
    told = program.command.help.strip()
    lines = [
        f'.TH KBNET 1 "{day}" "kbnet {__version__}" "User Commands"',
        ".SH NAME",
        _escaped(f"kbnet - {told[0].lower()}{' '.join(told[1:].partition('.')[0].split())}"),
        ".SH SYNOPSIS",
        ".nf",
        *(_escaped(tree.usage(branch)) for branch in commands if not _group(branch)),
        ".fi",
        ".SH DESCRIPTION",
        *_prose(told),
        ".SH COMMANDS",
    ]
    seen: dict[tuple[str, ...], Branch] = {}
    for branch in commands:
        if not _group(branch):
            lines += _command(branch, seen)
    for name, topic in TOPICS.items():
        lines += [f'.SH "{_escaped(name.upper())}"', *_prose(f"{topic.title[0].upper()}{topic.title[1:]}.")]
        lines += _prose(topic.text)
    lines.append(".SH ENVIRONMENT")
    for key in KEYS:
        lines += [".TP", f".B {_escaped(key.variable)}", _escaped(f"As {key.option}; in the config file {key.name}.")]
    # A heading begins a paragraph itself.
    headed = (before.startswith((".SH", ".SS")) for before in ("", *lines))
    return "".join(f"{line}\n" for line, begun in zip(lines, headed, strict=False) if not (begun and line == ".PP"))


def _group(branch: Branch) -> bool:
    return hasattr(branch.command, "commands")


def _command(branch: Branch, seen: dict[tuple[str, ...], Branch]) -> Iterator[str]:
    """Give a command's section. Options that an earlier command has all alike are not told twice."""
    yield f'.SS "{_escaped(branch.title)}"'
    yield from _prose(branch.command.help or "")
    names = tuple(parameter.name for parameter in branch.command.params)
    if names in seen and len(names) > 3:
        yield from _prose(f"The options are those of {seen[names].title}.")
        return
    seen[names] = branch
    for written, told in tree.records(branch):
        yield from (".TP", f".B {_escaped(' '.join(written.split()))}", _escaped(" ".join(told.split())))


def _prose(text: str) -> Iterator[str]:
    """Give paragraphs; lines that are indented by four, and what stands behind a backspace, stay as they are."""
    for part in re.split(r"\n\s*\n", text.replace("\b\n", "").strip("\n")):
        verbatim: list[str] = []
        running: list[str] = []
        for line in part.splitlines():
            (verbatim if line.startswith("    ") else running).append(line)
        if running:
            yield from (".PP", *(_escaped(line.strip()) for line in running))
        if verbatim:
            yield from (".PP", ".RS 4", ".nf", *(_escaped(line[4:]) for line in verbatim), ".fi", ".RE")


_SIGNS = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti", '"': "\\(dq"})


def _escaped(text: str) -> str:
    """Return text of which roff takes no character for its own; its first may be no request's mark."""
    found = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in text.translate(_SIGNS))
    return f"\\&{found}" if found.startswith(".") else found
