"""The commands that look at this machine: bench, doctor."""

import contextlib
from typing import Annotated

import typer

from kbnet_cli.cli.options import Device, HubRepo, PrecisionOption, Weights, WeightsFolder
from kbnet_cli.cli.settling import Context, settled, surveyed


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
    """  # noqa: D301 - the backspace is what keeps the examples' lines apart
    from kbnet_cli import console, progress
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
    with contextlib.closing(engine), progress.stepping(quiet=json, unit="rounds") as begin:
        found = measure(engine, size=size, rounds=rounds, progress=begin(f"{size}×{size}"))
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
