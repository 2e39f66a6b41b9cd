"""The command that makes weights: train."""

from pathlib import Path
from typing import Annotated

import typer

from kbnet_cli.cli.options import Device, HubRepo, PrecisionOption, WeightsFolder
from kbnet_cli.cli.settling import Context, settled


def train(
    context: Context,
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file, as weights/denoise-small.toml.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the .safetensors goes.")],
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder of photos to learn from; else generated scenes alone.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 60.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from FILE's .state.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE where it exists.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the network, the scenes and the patches.")] = 0,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
) -> None:
    """Train weights by a recipe, or fit weights to your own pictures.

    \b
        kbnet train weights/denoise-small.toml --photos photos/ -o mine.safetensors --minutes 75

    Beside the weights lie a .state to --resume from and a .csv that tells how it went; both are brought up to date
    every three minutes and when a signal ends it. A recipe that names weights under init begins with them, and needs
    no [network].
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.catalogue import Task
    from kbnet_cli.engine import choose
    from kbnet_cli.errors import UsageError
    from kbnet_cli.hub.library import Library
    from kbnet_cli.training.loop import Budget, Machine
    from kbnet_cli.training.loop import train as run
    from kbnet_cli.training.photos import differences
    from kbnet_cli.training.recipe import read_recipe

    settings = settled(context)
    wanted = read_recipe(recipe)
    if output.suffix != ".safetensors":
        raise typer.BadParameter(f"-o {output}: expected a name that ends in .safetensors")
    if output.exists() and not resume and not overwrite:
        raise UsageError(f"{output} exists", hint="--resume goes on with it, --overwrite replaces it")
    choice = choose(settings.device, settings.precision).first

    def begin(name: str, task: Task) -> Path:
        beside = recipe.parent / name
        if beside.is_file():
            return beside
        with console.fetching(quiet=False) as announce:
            return Library(settings.places, announce, console.note).obtain(name, task)

    # A resumed training has its weights already, but may have its network's sizes from there alone.
    needed = not resume or wanted.network is None
    start = begin(wanted.init, wanted.task) if wanted.init is not None and needed else None
    if photos is not None and wanted.data.photos is not None:
        for line in differences(photos, recipe.parent / wanted.data.photos):
            console.note(line)
    with console.training() as (preparing, progress):
        run(
            wanted,
            photos,
            output,
            budget=Budget(minutes=minutes),
            resume=resume,
            seed=seed,
            start=start,
            machine=Machine(str(choice.device), choice.precision),
            preparing=preparing,
            progress=progress,
        )
    console.note(f"wrote {output}")
