"""Words of the command line to one call, and the exit code. No work is done here.

Whatever is slow to import is imported inside the command that needs it, so that `kbnet --help` answers in a blink.
"""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from kbnet_cli import __version__
from kbnet_cli.catalogue import Task

app = typer.Typer(
    name="kbnet",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

Inputs = Annotated[
    list[Path], typer.Argument(metavar="INPUT", help="Photos, folders with -r, or - for standard input.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="A file, a folder (ends in / or exists), or - for standard output. "
        "Without it the output lies beside the input.",
    ),
]
Recursive = Annotated[
    bool,
    typer.Option("-r", "--recursive", help="Restore the photos in folders, keeping their structure under -o."),
]
Weights = Annotated[
    str | None,
    typer.Option("-w", "--weights", metavar="X", help="A name of the catalogue, or a .safetensors or .pth file."),
]
Sigma = Annotated[
    str,
    typer.Option(metavar="auto|N", help="Noise level, for weights that are trained at fixed ones."),
]
Strength = Annotated[float, typer.Option(min=0.0, max=1.0, help="1 is the network's answer, 0 is the input.")]
TransferOption = Annotated[
    Literal["auto", "display", "linear"],
    typer.Option(help="What samples mean. auto: what the ICC profile says; without one, float TIFF is linear."),
]
Tile = Annotated[str, typer.Option(metavar="auto|PX", help="Tile size. It changes pixels; auto: the weights'.")]
Overlap = Annotated[str, typer.Option(metavar="auto|PX", help="How much tiles overlap. auto: an eighth of a tile.")]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="auto, cpu, cuda, cuda:N, mps or xpu.")]
PrecisionOption = Annotated[str, typer.Option(metavar="auto|fp32|bf16", help="Arithmetic of the network.")]
FormatOption = Annotated[
    Literal["auto", "jpg", "png", "tif", "webp", "avif", "jxl", "ppm"],
    typer.Option("--format", help="auto: by the output's name, else the input's own; camera raw and HEIC become tif."),
]
Depth = Annotated[
    Literal["auto", "8", "10", "12", "16", "32f"],
    typer.Option(help="Bits a sample. auto: the input's, or the nearest that the format has."),
]
Quality = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Quality of lossy formats. Default: 95 for jpg, 90 for the others."),
]
MaxMegapixels = Annotated[
    float | None,
    typer.Option(
        min=0.000001,
        help="Refuse larger photos. Without it only decompression bombs are refused: over 100 megapixels "
        "with more than 1,000 pixels a byte.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave photos alone whose output exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell tiles, memory and time, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a photo, then a summary, on standard output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell more, and show tracebacks.")]

DONE = {"denoise": "denoised", "derain": "derained", "deblur": "deblurred"}

DENOISE = """Take noise out of photos.

\b
    kbnet denoise photo.jpg
    kbnet denoise scans/ -r -o clean/ --format png
    kbnet denoise - -o - < in.png > out.png

Everything else stays: bit depth, colour profile, metadata, rotation. The output lies beside the input as
NAME_denoised.EXT unless -o says otherwise; nothing is overwritten unasked. Exit codes: 0 all done, 1 at least one photo
failed, 2 wrong usage, weights or device, 130 interrupted, 143 terminated.
"""
DERAIN = """Take rain out of photos.

\b
    kbnet derain street.jpg -w derain.pth

No weights for rain come with kbnet yet: give a KBNet checkpoint with -w. Everything else is as in kbnet denoise.
"""
DEBLUR = """Take defocus blur out of photos.

\b
    kbnet deblur portrait.jpg -w defocus.pth

No weights for blur come with kbnet yet: give a KBNet checkpoint with -w. Everything else is as in kbnet denoise.
"""


def _verb(task: Task) -> Callable[..., None]:
    """Return the command of a task: the three have the same options and differ in their weights."""

    def command(
        inputs: Inputs,
        output: Output = None,
        recursive: Recursive = False,
        weights: Weights = None,
        sigma: Sigma = "auto",
        strength: Strength = 1.0,
        transfer: TransferOption = "auto",
        tile: Tile = "auto",
        overlap: Overlap = "auto",
        device: Device = "auto",
        precision: PrecisionOption = "auto",
        format_: FormatOption = "auto",
        depth: Depth = "auto",
        quality: Quality = None,
        max_megapixels: MaxMegapixels = None,
        overwrite: Overwrite = False,
        skip_existing: SkipExisting = False,
        dry_run: DryRun = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        from kbnet_cli import session
        from kbnet_cli.batch import Order

        if overwrite and skip_existing:
            raise typer.BadParameter("--overwrite and --skip-existing exclude each other")
        if output == "-" and json:
            raise typer.BadParameter("-o - and --json would both write to standard output")
        order = Order(
            inputs=tuple(inputs),
            suffix=f"_{DONE[task]}",
            output=None if output is None else Path(output),
            output_is_folder=output is not None and output.endswith(("/", "\\")),
            recursive=recursive,
            existing="overwrite" if overwrite else "skip" if skip_existing else "error",
            format=format_,
            depth=None if depth == "auto" else int(depth.removesuffix("f")),
            quality=quality,
            max_megapixels=max_megapixels,
        )
        wishes = session.Wishes(
            task=task,
            weights=weights,
            sigma=_number("--sigma", sigma),
            strength=strength,
            transfer=transfer,
            tile=_pixels("--tile", tile),
            overlap=_pixels("--overlap", overlap),
            device=device,
            precision=precision,
        )
        voice = session.Voice(json=json, quiet=quiet, verbose=verbose)
        raise typer.Exit(session.run(order, wishes, voice, dry_run=dry_run))

    return command


def _number(option: str, text: str) -> float | None:
    try:
        return None if text == "auto" else float(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: got {text!r}, expected auto or a number") from error


def _pixels(option: str, text: str) -> int | None:
    if text != "auto" and not text.isdecimal():
        raise typer.BadParameter(f"{option}: got {text!r}, expected auto or a number of pixels")
    return None if text == "auto" else int(text)


app.command("denoise", help=DENOISE)(_verb("denoise"))
app.command("derain", help=DERAIN)(_verb("derain"))
app.command("deblur", help=DEBLUR)(_verb("deblur"))


@app.command("evaluate")
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Clean pictures: PNG, TIFF or BMP.")],
    weights: Weights = None,
    sigma: Annotated[list[float] | None, typer.Option(min=0.0, help="Noise level; repeat for several.")] = None,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a noise level on standard output.")] = False,
) -> None:
    """Tell how good denoising weights are, as the papers do.

    \b
        kbnet evaluate CBSD68/ --sigma 15 --sigma 25 --sigma 50

    Gaussian noise is added to each clean picture, the same for every run, the picture is restored whole, and the mean
    PSNR in dB is printed.
    """  # noqa: D301 - the backspace is what keeps the example's lines apart
    from kbnet_cli import session

    wishes = session.Wishes(task="denoise", weights=weights, device=device, precision=precision)
    session.evaluate(folder, tuple(sigma or (15.0, 25.0, 50.0)), wishes, session.Voice(json=json))


@app.command("bench")
def bench(
    weights: Weights = None,
    size: Annotated[int, typer.Option(min=1, help="Height and width of the tile.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="How often; the median counts.")] = 3,
    device: Device = "auto",
    precision: PrecisionOption = "auto",
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

    engine = load(weights, device=device, precision=precision)
    with console.reporting(1, quiet=json) as reporter:
        progress = reporter.photo(f"{size}×{size}", (rounds + 1) * size**2 / 1e6)
        found = measure(engine, size=size, rounds=rounds, progress=progress)
    if json:
        typer.echo(found.as_json())
    else:
        console.measurement(found)


@app.command("doctor")
def doctor(
    json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")] = False,
) -> None:
    """Tell whether this machine is well: what kbnet finds here, and what to do about what is missing.

    \b
        kbnet doctor

    Each row is ok, a note (something is slower, or cannot be read or written) or a problem (nothing can be restored).
    Exit codes: 0 without a problem, 2 with one.
    """  # noqa: D301
    from kbnet_cli import console
    from kbnet_cli.doctor import examine

    found = examine()
    if json:
        typer.echo(found.as_json())
    else:
        console.findings(found.findings)
    raise typer.Exit(found.exit_code)


@app.command("train")
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


def _show_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"kbnet {__version__}")
        raise typer.Exit


@app.callback()
def kbnet(
    version: Annotated[
        bool | None,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = None,
) -> None:
    """Take noise, rain and blur out of photographs on your own computer, and nothing else."""


class Terminated(BaseException):
    """The program was asked to end (SIGTERM)."""


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Run the command line and exit with its code."""
    from kbnet_cli.errors import KBNetError

    # imagecodecs logs a warning for every interlaced PNG; what a user should know comes as a note of the photo.
    logging.getLogger("imagecodecs").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except KBNetError as problem:
        from kbnet_cli import console

        console.error(problem, cause=problem.__cause__ if {"-v", "--verbose"} & set(sys.argv) else None)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except Terminated:
        sys.exit(143)


if __name__ == "__main__":
    main()
