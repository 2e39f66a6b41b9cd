"""The restoring verbs: denoise, derain, deblur."""

from collections.abc import Callable
from pathlib import Path

import typer

from kbnet_cli.catalogue import Task
from kbnet_cli.cli.options import (
    Depth,
    Device,
    DryRun,
    FormatOption,
    Inputs,
    Json,
    MaxMegapixels,
    Output,
    Overlap,
    Overwrite,
    PrecisionOption,
    Quality,
    Quiet,
    Recursive,
    Sigma,
    SkipExisting,
    Strength,
    Tile,
    TransferOption,
    Verbose,
    Weights,
)

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


def verb(task: Task) -> Callable[..., None]:
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
