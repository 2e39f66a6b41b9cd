"""The tree of commands as help and completion see it: what each is called, and what it says of itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer


@dataclass(frozen=True)
class Branch:
    """A command, or a group of them."""

    names: tuple[str, ...]
    """From the program's on."""
    command: Any
    """Of click; typer's own classes change from version to version."""

    @property
    def title(self) -> str:
        """What is typed to call it."""
        return " ".join(self.names)


def root() -> Any:
    """Return the group of all commands, as click has it."""
    from kbnet_cli.cli import app

    return typer.main.get_command(app)


def branches(command: Any = None, names: tuple[str, ...] = ("kbnet",)) -> Iterator[Branch]:
    """Give a command and all below it that are not hidden, in the order of its help."""
    command = root() if command is None else command
    yield Branch(names, command)
    for name, one in getattr(command, "commands", {}).items():
        if not one.hidden:
            yield from branches(one, (*names, name))


def parameters(name: str) -> list[Any]:
    """Return the options and arguments of a command."""
    return list(root().commands[name].params)


def help_of(branch: Branch) -> str:
    """Return what --help of a command prints."""
    return str(_context(branch).get_help()).rstrip() + "\n"


def records(branch: Branch) -> list[tuple[str, str]]:
    """Return how the arguments and options of a command are written, and what each does."""
    context = _context(branch)
    found = [parameter.get_help_record(context) for parameter in branch.command.get_params(context)]
    return [record for record in found if record is not None]


def usage(branch: Branch) -> str:
    """Return how a command is called, without the word that says so."""
    return " ".join(branch.command.get_usage(_context(branch)).removeprefix("Usage:").split())


def _context(branch: Branch) -> Any:
    command, context = root(), None
    for name in branch.names:
        command = command if context is None else command.commands[name]
        # Told to be resilient, a context asks for no arguments; nothing is run.
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    return context
