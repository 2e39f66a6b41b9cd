"""The commands beside the restoring verbs: evaluate, bench, doctor, train."""

from pathlib import Path
from typing import Annotated

import typer

from kbnet_cli.cli.options import Device, HubRepo, PrecisionOption, Weights, WeightsFolder
from kbnet_cli.cli.settling import Context, settled, surveyed


def evaluate(
    context: Context,
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Clean pictures: PNG, TIFF or BMP.")],
    weights: Weights = None,
    sigma: Annotated[list[float] | None, typer.Option(min=0.0, help="Noise level; repeat for several.")] = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a noise level on standard output.")] = False,
) -> None:
    """Tell how good denoising weights are, as the papers do.

    \b
        kbnet evaluate CBSD68/ --sigma 15 --sigma 25 --sigma 50

    Gaussian noise is added to each clean picture, the same for every run, the picture is restored whole, and the mean
    PSNR in dB is printed.
    """  # noqa: D301 - the backspace is what keeps the example's lines apart
    from kbnet_cli import session

    settings = settled(context)
    wishes = session.Wishes(
        task="denoise",
        weights=settings.weights,
        device=settings.device,
        precision=settings.precision,
        places=settings.places,
    )
    session.evaluate(folder, tuple(sigma or (15.0, 25.0, 50.0)), wishes, session.Voice(json=json))


def bench(
    context: Context,
    weights: Weights = None,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the tile.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 3,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Tell how fast this machine is: megapixels a second, peak memory, and what a photo of 24 megapixels would take.

    \b
        kbnet bench
        kbnet bench -w sidd.pth --precision bf16

    A picture made by code goes through the network, once to warm up and then for so many rounds.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.bench import load, measure

    settings = settled(context)
    with console.fetching(quiet=json) as announce:
        engine = load(
            settings.weights,
            device=settings.device,
            precision=settings.precision,
            places=settings.places,
            announce=announce,
        )
    with console.reporting(1, quiet=json) as reporter:
        progress = reporter.photo(f"{size}×{size}", (rounds + 1) * size**2 / 1e6)
        found = measure(engine, size=size, rounds=rounds, progress=progress)
    if json:
        typer.echo(found.as_json())
    else:
        console.measurement(found)


def doctor(
    context: Context,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Tell whether this machine is well: what kbnet finds here, and what to do about what is missing.

    \b
        kbnet doctor
        kbnet doctor --device cuda --precision bf16

    Each row is ok, a note (something is slower, or cannot be read or written) or a problem (nothing can be restored).
    Exit codes: 0 without a problem, 2 with one.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.doctor import examine

    found = examine(surveyed(context))
    if json:
        typer.echo(found.as_json())
    else:
        console.findings(found.findings)
    raise typer.Exit(found.exit_code)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A TOML file, as weights/denoise-small.toml.")],
    photos: Annotated[Path, typer.Option(metavar="DIR", help="A folder of photos to learn from.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the .safetensors goes.")],
    minutes: Annotated[float, typer.Option(min=0.01, help="How long to train.")] = 60.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from FILE's .state.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the network, the scenes and the patches.")] = 0,
) -> None:
    """Train weights by a recipe.

    \b
        kbnet train weights/denoise-small.toml --photos photos/ -o mine.safetensors --minutes 75

    Beside the weights lie a .state to --resume from and a .csv that tells how it went.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.training.loop import Budget
    from kbnet_cli.training.loop import train as run
    from kbnet_cli.training.recipe import read_recipe

    wanted = read_recipe(recipe)
    console.note(f"preparing pictures from {photos}: some minutes for a hundred megapixels")
    with console.training() as progress:
        budget = Budget(minutes=minutes)
        run(wanted, photos, output, budget=budget, resume=resume, seed=seed, progress=progress)
    console.note(f"wrote {output}")
