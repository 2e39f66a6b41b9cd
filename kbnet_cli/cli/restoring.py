"""The restoring verbs: denoise, derain, deblur, dejpeg."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kbnet_cli.catalogue import Task
from kbnet_cli.cli.options import (
    BrightnessOption,
    ColourSpaceOption,
    DemosaicOption,
    Depth,
    Device,
    DryRun,
    Exclude,
    FormatOption,
    FromList,
    HighlightsOption,
    HubRepo,
    Include,
    Inputs,
    Jobs,
    Json,
    MaxMegapixels,
    MemoryOption,
    NameTemplate,
    NoProvenance,
    Output,
    Overlap,
    Overwrite,
    PrecisionOption,
    Quality,
    Quiet,
    RawModeOption,
    Recursive,
    Resume,
    Sidecars,
    Sigma,
    SkipExisting,
    Stream,
    Strength,
    Strip,
    Then,
    Tile,
    TransferOption,
    Verbose,
    Watch,
    WeightsFolder,
    WhiteBalanceOption,
    weights_option,
)
from kbnet_cli.cli.settling import Context, settled
from kbnet_cli.stopping import at_once

if TYPE_CHECKING:
    from kbnet_cli.batch import Existing

MOST_JOBS = 256
DONE = {"denoise": "denoised", "derain": "derained", "deblur": "deblurred", "dejpeg": "dejpegged"}

DENOISE = """Take noise out of photos.

\b
    kbnet denoise photo.jpg
    kbnet denoise photo.cr3          writes photo_denoised.dng, for any raw developer
    kbnet denoise scans/ -r -o clean/ --format png
    kbnet denoise scans/ -r -o clean/ --resume      goes on where it stopped
    kbnet denoise - -o - < in.png > out.png

Everything else stays: bit depth, colour profile, metadata, rotation. The output lies beside the input as
NAME_denoised.EXT unless -o or --name says otherwise; nothing is overwritten unasked.

What has an "env var" is a setting: an option goes before its variable, the variable before the config file, the file
before what is built in. -v tells each that is not on the command line; kbnet doctor shows all, and where the file is.

Ctrl-C once finishes the photos in hand, twice ends now; no output is ever half-written. kbnet help tells more: names,
resume, pipes, watch, speed.

Exit codes: 0 all done, 1 at least one photo failed, 2 wrong usage, settings, weights or device, 129 hung up, 130
interrupted, 141 nobody reads the output any more, 143 terminated.
"""
DERAIN = """Take rain out of photos.

\b
    kbnet derain street.jpg
    kbnet derain street.jpg -w derain

Streaks and mist. -w derain fetches the published weights once (118 MB). Everything else is as in kbnet denoise.
"""
DEBLUR = """Take defocus blur out of photos.

\b
    kbnet deblur portrait.jpg
    kbnet deblur portrait.jpg -w defocus

Blur of a lens out of focus by a few pixels; a photo that is out of focus by more is sharper when it is made smaller
first. No public source of the published weights is known: kbnet weights import FILE --as defocus takes a file you have.
Everything else is as in kbnet denoise.
"""
DEJPEG = """Take the marks of JPEG compression out of photos.

\b
    kbnet dejpeg small.jpg
    kbnet dejpeg small.jpg -o clean.png

Blocks, ringing and coloured fringes, of one compression or of several. Written as JPEG again, the output is compressed
at a high quality: -o NAME.png keeps every value. Everything else is as in kbnet denoise.
"""


def verb(task: Task) -> Callable[..., None]:
    """Return the command of a task: they have the same options and differ in their weights."""

    def command(
        context: Context,
        inputs: Inputs = None,
        output: Output = None,
        name_template: NameTemplate = None,
        recursive: Recursive = False,
        from_list: FromList = None,
        include: Include = None,
        exclude: Exclude = None,
        stream: Stream = False,
        watch: Watch = False,
        sidecars: Sidecars = False,
        weights: Annotated[str | None, weights_option(task)] = None,
        sigma: Sigma = "auto",
        strength: Strength = 1.0,
        transfer: TransferOption = "auto",
        tile: Tile = "auto",
        overlap: Overlap = "auto",
        device: Device = "auto",
        precision: PrecisionOption = "auto",
        hub_repo: HubRepo = None,
        weights_folder: WeightsFolder = None,
        format_: FormatOption = "auto",
        depth: Depth = "auto",
        quality: Quality = None,
        max_megapixels: MaxMegapixels = None,
        raw_mode: RawModeOption = "auto",
        demosaic: DemosaicOption = "auto",
        highlights: HighlightsOption = "clip",
        white_balance: WhiteBalanceOption = "camera",
        brightness: BrightnessOption = 1.0,
        colour_space: ColourSpaceOption = "srgb",
        no_provenance: NoProvenance = False,
        strip: Strip = False,
        overwrite: Overwrite = False,
        skip_existing: SkipExisting = False,
        resume: Resume = False,
        jobs: Jobs = "auto",
        memory: MemoryOption = "auto",
        then: Then = None,
        dry_run: DryRun = False,
        json: Json = False,
        quiet: Quiet = False,
        verbose: Verbose = False,
    ) -> None:
        with at_once():
            from kbnet_cli import console, session
            from kbnet_cli.batch import STANDARD, Order, check_watched
            from kbnet_cli.formats.development import Development
            from kbnet_cli.pacing import Means
            from kbnet_cli.preparing import Voice, Wishes

        if output == "-" and json:
            raise typer.BadParameter("-o - and --json would both write to standard output")
        if strip and sidecars:
            raise typer.BadParameter("--strip leaves out what --sidecars would bring along")
        if stream and resume:
            raise typer.BadParameter("--stream cannot --resume, since nothing stays of it: --skip-existing may do")
        if not inputs and from_list is None:
            raise typer.BadParameter("no photos: expected INPUT, or --from-list FILE")
        if stream and (inputs != [STANDARD] or from_list is not None or watch):
            raise typer.BadParameter("--stream reads standard input and nothing else: expected the one input -")
        settings = settled(context)
        order = Order(
            inputs=tuple(inputs or ()),
            done=DONE[task],
            name=settings.name,
            output=None if output is None else Path(output),
            output_is_folder=output is not None and (output.endswith(("/", "\\")) or (watch and output != "-")),
            recursive=recursive,
            list_file=from_list,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            stream=stream,
            watch=watch,
            sidecars=sidecars,
            existing=_existing(overwrite=overwrite, skip=skip_existing, resume=resume, watch=watch),
            format=format_,
            depth=None if depth == "auto" else int(depth.removesuffix("f")),
            quality=quality,
            max_megapixels=max_megapixels,
            raw_mode=None if raw_mode == "auto" else raw_mode,
            development=Development(
                demosaic=demosaic,
                highlights=highlights,
                white_balance=white_balance,
                brightness=brightness,
                colour_space=colour_space,
            ),
        )
        if watch:
            check_watched(order)  # before anything is made for it
        wishes = Wishes(
            task=task,
            weights=settings.weights,
            sigma=_number("--sigma", sigma),
            strength=strength,
            transfer=transfer,
            tile=_pixels("--tile", tile),
            overlap=_pixels("--overlap", overlap),
            device=settings.device,
            precision=settings.precision,
            places=settings.places,
            provenance=not no_provenance,
            strip=strip,
        )
        voice = Voice(json=json, quiet=quiet, verbose=verbose)
        if verbose:
            for line in settings.notes:
                console.note(line)
        means = Means(_count("--jobs", jobs), _size("--memory", memory))
        raise typer.Exit(session.run(order, wishes, voice, means, dry_run=dry_run, then=then))

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


def _existing(*, overwrite: bool, skip: bool, resume: bool, watch: bool) -> "Existing":
    if overwrite + skip + resume > 1:
        raise typer.BadParameter("--overwrite, --skip-existing and --resume exclude each other")
    if overwrite or skip:
        return "overwrite" if overwrite else "skip"
    return "resume" if resume or watch else "error"  # what is watched goes on where it stopped


def _count(option: str, text: str) -> int | None:
    if text != "auto" and not (text.isdecimal() and 1 <= int(text) <= MOST_JOBS):
        raise typer.BadParameter(f"{option}: got {text!r}, expected auto or a number from 1 to {MOST_JOBS}")
    return None if text == "auto" else int(text)


def _size(option: str, text: str) -> int | None:
    """Read a size in bytes, or in thousands, millions, … of them: 800M, 4G, 1.5GB."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)B?", text.upper())
    if text != "auto" and (found is None or float(found[1]) == 0):
        raise typer.BadParameter(f"{option}: got {text!r}, expected auto or a size such as 4G or 800M")
    return None if found is None else int(float(found[1]) * 1000 ** " KMGT".index(found[2] or " "))
