"""The command that tells how to use the others: help."""

import sys
from typing import Annotated

import typer

from kbnet_cli.cli.settling import Context


def help_(
    context: Context,
    topic: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC", help="A topic or a command; without it all are listed.")
    ] = None,
    man: Annotated[bool, typer.Option("--man", help="Print the manual page kbnet(1), for man.")] = False,
) -> None:
    """Tell of a topic or a command.

    \b
        kbnet help
        kbnet help resume
        kbnet help weights pull
        kbnet help --man > ~/.local/share/man/man1/kbnet.1

    What is longer than the terminal goes through $PAGER.
    """  # noqa: D301 - the backspace is what keeps the examples' lines apart
    if man and topic:
        raise typer.BadParameter("--man is all of it, and takes no topic")
    if man:
        from datetime import date

        from kbnet_cli.cli.manual import page

        typer.echo(page(date.today()), nl=False)
    else:
        _show(told(" ".join(topic or ())))


def told(wanted: str) -> str:
    """Return what there is to tell of a topic, of a command or of both; of all of them if none is named.

    Raises:
        UsageError: there is no such topic and no such command.
    """
    from kbnet_cli.cli import tree
    from kbnet_cli.cli.topics import ALIASES, TOPICS

    if not wanted:
        return listed()
    topic = TOPICS.get(ALIASES.get(wanted, wanted))
    branch = next((one for one in tree.branches() if " ".join(one.names[1:]) == wanted), None)
    texts = [topic.text] if topic else []
    if branch is not None:
        texts.append(tree.help_of(branch))
    if not texts:
        raise _unknown(wanted)
    return "\n".join(texts)


def listed() -> str:
    """Return the list of all topics and commands."""
    from kbnet_cli.cli import tree
    from kbnet_cli.cli.topics import TOPICS

    rows = {one.title: one.command.get_short_help_str(56) for one in tree.branches() if len(one.names) == 2}
    topics = {f"kbnet help {name}": topic.title for name, topic in TOPICS.items()}
    width = max(map(len, rows | topics)) + 2

    def lines(table: dict[str, str]) -> str:
        return "".join(f"  {name.ljust(width)}{text}\n" for name, text in table.items())

    return (
        f"{tree.root().help.strip().partition(chr(10))[0]}\n\n"
        f"Commands:\n{lines(rows)}\nTopics:\n{lines(topics)}\n"
        "kbnet help COMMAND tells all of a command, as COMMAND --help does.\n"
    )


def _unknown(wanted: str) -> Exception:
    import difflib

    from kbnet_cli.cli import tree
    from kbnet_cli.cli.topics import ALIASES, TOPICS
    from kbnet_cli.errors import UsageError

    known = [*TOPICS, *ALIASES, *(" ".join(one.names[1:]) for one in tree.branches())]
    near = difflib.get_close_matches(wanted, known, n=1)
    return UsageError(
        f"no topic and no command {wanted!r}", hint=f"did you mean {near[0]}?" if near else "kbnet help lists them all"
    )


def _show(text: str) -> None:
    """Print a text; on a terminal that is too low for it through the pager."""
    import shutil

    height = shutil.get_terminal_size().lines
    if sys.stdin.isatty() and sys.stdout.isatty() and text.count("\n") >= height:
        import pydoc

        pydoc.pager(text)
    else:
        typer.echo(text, nl=False)
