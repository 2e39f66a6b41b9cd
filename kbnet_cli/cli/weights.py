"""kbnet weights: which there are, and how they come to this machine."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from kbnet_cli.cli.options import HubRepo, WeightsFolder
from kbnet_cli.cli.settling import Context, settled

app = typer.Typer(
    name="weights",
    help="List, fetch, check, import and publish weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of the catalogue, or addresses.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name of the catalogue, or an address.")]
JsonLines = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]
QuietFetch = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]


@app.command("list")
def list_weights(
    context: Context, hub_repo: HubRepo = None, weights_folder: WeightsFolder = None, json: JsonLines = False
) -> None:
    """List the weights that kbnet knows, and those that you have imported.

    \b
        kbnet weights list

    "bundled" comes with kbnet, "here" is on this machine, and "to fetch" is fetched when it is first used. Of the
    others no public copy is known: import the file if you have it.
    """  # noqa: D301 - the backspace is what keeps the example's lines apart
    from kbnet_cli import console
    from kbnet_cli.hub.library import Library

    listing = list(Library(settled(context).places).listing())
    if json:
        for listed in listing:
            typer.echo(listed.as_json())
    else:
        console.listing(listing)


@app.command("pull")
def pull(
    context: Context,
    names: Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All that have a source.")] = False,
    accept_change: Annotated[
        bool, typer.Option("--accept-change", help="Take a file that is another than the first time.")
    ] = False,
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
    quiet: QuietFetch = False,
) -> None:
    """Fetch weights, so that they are at hand without a network.

    \b
        kbnet weights pull sidd derain
        kbnet weights pull hf:OWNER/REPO/FILE.safetensors@REVISION

    Files are checked before they are used: their hash, where it is known or was seen before, their sizes, and that they
    hold numbers only. What is here already is asked for again only if it can change: on a branch of the Hub.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.errors import KBNetError
    from kbnet_cli.hub.library import Library

    if bool(names) == everything:
        raise typer.BadParameter("give names, or --all")
    failed: KBNetError | None = None
    with console.fetching(quiet=quiet) as announce:
        library = Library(settled(context).places, announce, None if quiet else console.note)
        wanted = names or [each.name for each in library.listing() if each.state in ("to fetch", "here", "damaged")]
        for name in wanted:
            try:
                path = library.pull(name, accept_change=accept_change)
            except KBNetError as error:  # the others are still fetched
                console.error(error)
                failed = error
            else:
                if not quiet:
                    console.note(f"{name}: {path}")
    if failed is not None:
        raise typer.Exit(failed.exit_code)


@app.command("path")
def path(context: Context, name: Name, hub_repo: HubRepo = None, weights_folder: WeightsFolder = None) -> None:
    """Print where weights lie on this machine; nothing is fetched.

    \b
        kbnet weights path sidd
    """  # noqa: D301
    from kbnet_cli.hub.library import Library

    typer.echo(Library(settled(context).places).path(name))


@app.command("verify")
def verify(context: Context, weights_folder: WeightsFolder = None, json: JsonLines = False) -> None:
    """Read all weights on this machine whole, and tell whether they are what they were.

    \b
        kbnet weights verify

    Exit codes: 0 all are well, 2 one is not.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.hub.library import Library

    bad = count = 0
    for verdict in Library(settled(context).places).verify():
        count, bad = count + 1, bad + (not verdict.well)
        if json:
            typer.echo(verdict.as_json())
        elif verdict.error is not None:
            console.error(verdict.error)
        else:
            console.note(f"{verdict.name}: well")
    if not (count or json):
        console.note("there are no weights here but those that come with kbnet")
    raise typer.Exit(2 if bad else 0)


@app.command("import")
def import_file(
    context: Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors or .pth file.")],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="A name of the catalogue, or one of your own.")],
    weights_folder: WeightsFolder = None,
) -> None:
    """Take a file you have under a name, as safetensors; the file itself stays as it is.

    \b
        kbnet weights import gau_color_25.pth --as gaussian-color-25
        kbnet denoise scan.png -w gaussian-color-25
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.hub.library import Library

    kept = Library(settled(context).places, tell=console.note).import_file(file, name)
    console.note(f"{name}: {kept}")


@app.command("publish")
def publish(
    context: Context,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help=".safetensors or .pth files, or names of weights on this machine."),
    ],
    repo: Annotated[str, typer.Option(metavar="OWNER/NAME", help="The repository; it is made if there is none.")],
    name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="What the file is called there. Without it: as here.")
    ] = None,
    dtype: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Type of the numbers. Without it: as stored.")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--licence",
            "--license",
            metavar="ID",
            help="Of files that the catalogue does not know: mit, apache-2.0, cc-by-4.0, other, …",
        ),
    ] = None,
    training_data: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What they were trained on, for the card.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository for yourself only.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; print the card.")] = False,
    weights_folder: WeightsFolder = None,
    json: JsonLines = False,
    quiet: QuietFetch = False,
) -> None:
    """Put weights into a repository of the Hub, as safetensors, with a card that says what they are.

    \b
        hf auth login
        kbnet weights publish --repo OWNER/NAME sidd derain
        kbnet weights publish --repo OWNER/NAME mine.pth --as my-camera --licence mit --training-data "my own photos"

    All files are converted and checked before the first byte is sent, and become one commit. With --hub-repo OWNER/NAME
    or KBNET_HUB_REPO others fetch from there what the catalogue names.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.errors import UsageError
    from kbnet_cli.hub import card
    from kbnet_cli.hub import publish as hub
    from kbnet_cli.hub.edition import Order, edition
    from kbnet_cli.hub.library import Library
    from kbnet_cli.settings import check_hub_repo

    def tell(text: str) -> None:
        if not quiet:
            console.note(text)

    check_hub_repo(repo)
    if not (dry_run or yes or sys.stdin.isatty()):
        raise UsageError("nobody is there to say whether to publish", hint="say so with --yes, or see --dry-run")
    library = Library(settled(context).places)
    if not dry_run:
        hub.check_login(repo)
    with edition(library, Order(tuple(files), name, dtype, licence, training_data), tell) as ready:
        if dry_run:
            typer.echo(card.card(repo, [each.section for each in ready]), nl=False)
            tell(f"dry run: nothing is sent, and what {repo} may hold already is not in this card")
            return
        destination = hub.look(repo, private=private)
        if not (yes or _agreed(hub.question(destination, ready))):
            tell("nothing is published")
            raise typer.Exit(1)
        for each in ready:
            tell(f"publishing {each.section.file} ({each.section.size_bytes / 1e6:.1f} MB)")
        for published in hub.upload(destination, ready):
            typer.echo(published.as_json() if json else published)


@app.command("remove")
def remove(
    context: Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names, or addresses.")],
    weights_folder: WeightsFolder = None,
) -> None:
    """Delete weights that kbnet has fetched or imported. The hash that an address had is remembered all the same.

    \b
        kbnet weights remove sidd
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.errors import KBNetError
    from kbnet_cli.hub.library import Library

    library = Library(settled(context).places, tell=console.note)
    failed: KBNetError | None = None
    for name in names:
        try:
            library.remove(name)
        except KBNetError as error:  # the others still go
            console.error(error)
            failed = error
        else:
            console.note(f"{name}: removed")
    if failed is not None:
        raise typer.Exit(failed.exit_code)


def _agreed(question: str) -> bool:
    """Ask on stderr: typer's own question leaves a space on stdout, which carries only data."""
    typer.echo(f"{question} [y/N] ", nl=False, err=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
