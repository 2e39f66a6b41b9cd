"""The command that tells how good weights are: evaluate."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kbnet_cli.catalogue import Task
from kbnet_cli.cli.options import Device, HubRepo, PrecisionOption, Verbose, Weights, WeightsFolder
from kbnet_cli.cli.settling import Context, settled

PAPERS_SIGMAS = (15.0, 25.0, 50.0)


def evaluate(
    context: Context,
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Clean pictures (PNG, TIFF or BMP of 8 bits), or the degraded ones of pairs (also JPEG or WebP).",
        ),
    ],
    weights: Weights = None,
    sigma: Annotated[
        list[float] | None,
        typer.Option(metavar="N", min=0.0, help="Add Gaussian noise of this level; repeat for several."),
    ] = None,
    jpeg: Annotated[
        list[int] | None,
        typer.Option(metavar="Q", min=1, max=100, help="Save as JPEG of this quality; repeat for several."),
    ] = None,
    defocus: Annotated[
        list[float] | None,
        typer.Option(metavar="R", min=0.0, help="Blur by a disk of this radius in pixels; repeat for several."),
    ] = None,
    clean: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The clean pictures of pairs, of the same names as in FOLDER.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="DEGRADED=CLEAN",
            help="How the names of pairs belong together: {name} is what both share. Without --clean both lie in "
            "FOLDER.",
        ),
    ] = None,
    task: Annotated[
        Task | None,
        typer.Option(
            help="Whose weights are taken. Without it: dejpeg with --jpeg, deblur with --defocus, else denoise."
        ),
    ] = None,
    channel: Annotated[
        Literal["rgb", "y"] | None,
        typer.Option(help="Measure on all channels or on luma (BT.601). Without it: y for derain, else rgb."),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(metavar="PX", min=1, help="Restore in tiles, as photos are. Without it each picture goes whole."),
    ] = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    hub_repo: HubRepo = None,
    weights_folder: WeightsFolder = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object a picture and one a mean on standard output.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Tell how good weights are, as the papers do: PSNR and SSIM before and after.

    \b
        kbnet evaluate CBSD68/ --sigma 15 --sigma 25 --sigma 50
        kbnet evaluate Kodak24/ --jpeg 10 --jpeg 20
        kbnet evaluate Kodak24/ --defocus 1 --defocus 2
        kbnet evaluate rainy/ --clean clean/ --task derain
        kbnet evaluate PolyU/ --match "{name}_real.JPG={name}_mean.JPG"

    Clean pictures are degraded, the same for every run: by Gaussian noise that is not clipped, as JPEG with Pillow's
    defaults (4:2:0), or by blur in linear light. Without any of these it is Gaussian noise of 15, 25 and 50.

    Pairs are taken as they are. They belong together by their names without the ending, in FOLDER and in --clean; where
    names differ, --match says how: "{name}rain.jpg={name}ground_truth.jpg" pairs 1rain.jpg with 1ground_truth.jpg.

    Each picture is restored whole, unless --tile is given, and compared as 8 bits. The table tells the means; -v tells
    each picture.
    """  # noqa: D301 - the backspace is what keeps the examples' lines apart
    from kbnet_cli import console, trials
    from kbnet_cli.evaluate.collection import Collection
    from kbnet_cli.evaluate.trial import Trial
    from kbnet_cli.preparing import Voice, Wishes

    collection = Collection(folder, clean, match)
    if sum((bool(sigma), bool(jpeg), bool(defocus), collection.paired)) > 1:
        raise typer.BadParameter("--sigma, --jpeg, --defocus and pairs (--clean, --match) exclude each other")
    aim = task or ("dejpeg" if jpeg else "deblur" if defocus else "denoise")
    measured = channel or ("y" if aim == "derain" else "rgb")
    if collection.paired:
        wanted = [Trial("pairs", channel=measured)]
    elif jpeg:
        wanted = [Trial("jpeg", float(quality), measured) for quality in jpeg]
    elif defocus:
        wanted = [Trial("defocus", radius, measured) for radius in defocus]
    else:
        wanted = [Trial("gaussian", level, measured) for level in sigma or PAPERS_SIGMAS]
    settings = settled(context)
    wishes = Wishes(
        task=aim,
        weights=_weights(context, aim),
        transfer="display",
        tile=tile,
        device=settings.device,
        precision=settings.precision,
        places=settings.places,
    )
    if verbose:
        for line in settings.notes:
            console.note(line)
    trials.evaluate(collection, tuple(wanted), wishes, Voice(json=json, verbose=verbose))


def _weights(context: Context, task: Task) -> str | None:
    """Return the weights of the option, else those that the task's own verb would take."""
    settings = settled(context)
    own = next(part for part in settings.parts if part.key.option == "--weights")
    if own.origin.kind == "option" or task == "denoise":
        return settings.weights
    root = context.find_root()
    # Parsing that is told to be resilient asks for no arguments, and takes variables and defaults as always.
    with getattr(root.command, "commands", {})[task].make_context(
        task, [], parent=root, resilient_parsing=True
    ) as verb:
        return settled(verb).weights
