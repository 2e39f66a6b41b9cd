"""The options that commands share: how each is written, and what its help says.

Those whose variable stands in `settings.KEYS` are settings as well: the config file gives their defaults.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Inputs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="INPUT", help="Photos, 'patterns/**/*.jpg', folders with -r, or - for standard input."),
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
NameTemplate = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="TEMPLATE",
        envvar="KBNET_NAME",
        help="How outputs are named where -o names no file, of {stem}, {done} (denoised, derained, deblurred, "
        "dejpegged) and {ext}. Without it: {stem}_{done}.{ext} beside the input, {stem}.{ext} in a folder.",
    ),
]
Recursive = Annotated[
    bool,
    typer.Option("-r", "--recursive", help="Restore the photos in folders, keeping their structure under -o."),
]


def weights_option(task: str) -> Any:
    """Return the option for the weights of a task: each has its own default in the config file and the environment."""
    return typer.Option(
        "-w",
        "--weights",
        metavar="X",
        envvar=f"KBNET_WEIGHTS_{task.upper()}",
        help="A name of the catalogue, hf:OWNER/REPO/FILE[@REVISION], or a .safetensors or .pth file.",
    )


Weights = Annotated[str | None, weights_option("denoise")]
HubRepo = Annotated[
    str | None,
    typer.Option(
        metavar="OWNER/NAME",
        envvar="KBNET_HUB_REPO",
        help="The Hub repository that is asked first for weights of the catalogue.",
    ),
]
WeightsFolder = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        envvar="KBNET_WEIGHTS_FOLDER",
        help="Where weights are kept. Without it: kbnet/weights in the system's folder for data.",
    ),
]
Sigma = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        help="Noise level in 1/255, for weights of several fixed levels such as -w gaussian-color: chooses the nearest "
        "or blends two. auto: the level found in each photo.",
    ),
]
Strength = Annotated[float, typer.Option(min=0.0, max=1.0, help="1 is the network's answer, 0 is the input.")]
TransferOption = Annotated[
    Literal["auto", "display", "linear"],
    typer.Option(help="What samples mean. auto: what the ICC profile says; without one, float TIFF is linear."),
]
Tile = Annotated[str, typer.Option(metavar="auto|PX", help="Tile size. It changes pixels; auto: the weights'.")]
Overlap = Annotated[str, typer.Option(metavar="auto|PX", help="How much tiles overlap. auto: an eighth of a tile.")]
Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        envvar="KBNET_DEVICE",
        help="auto, cpu, cuda (all its GPUs), cuda:N, mps or xpu; or several, as cuda:0,cuda:2.",
    ),
]
PrecisionOption = Annotated[
    str, typer.Option(metavar="auto|fp32|tf32|bf16", envvar="KBNET_PRECISION", help="Arithmetic of the network.")
]
FormatOption = Annotated[
    Literal["auto", "jpg", "png", "tif", "dng", "webp", "avif", "jxl", "ppm"],
    typer.Option(
        "--format",
        help="auto: by the output's name, else the input's own; camera raw becomes dng, HEIC tif.",
    ),
]
Depth = Annotated[
    Literal["auto", "8", "10", "12", "16", "32f"],
    typer.Option(help="Bits a sample. auto: the input's, or the nearest that the format has."),
]
Quality = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Quality of lossy formats. Default: 95 for jpg, 90 for the others."),
]
_RAW = "Camera raw"
RawModeOption = Annotated[
    Literal["auto", "linear", "developed"],
    typer.Option(
        rich_help_panel=_RAW,
        help="linear: the sensor's own colours, demosaiced and nothing else, into DNG. developed: a finished picture, "
        "into any other format. auto: what the output's format holds.",
    ),
]
DemosaicOption = Annotated[
    Literal["auto", "linear", "vng", "ppg", "ahd", "dcb", "dht", "aahd"],
    typer.Option(rich_help_panel=_RAW, help="LibRaw's method. auto: AHD for Bayer sensors."),
]
HighlightsOption = Annotated[
    Literal["clip", "ignore", "blend", "rebuild"],
    typer.Option(rich_help_panel=_RAW, help="What LibRaw makes of values beyond white. Developed pictures only."),
]
WhiteBalanceOption = Annotated[
    Literal["camera", "auto", "daylight"],
    typer.Option(rich_help_panel=_RAW, help="camera: as shot. auto: by the picture's mean. Developed pictures only."),
]
BrightnessOption = Annotated[
    float,
    typer.Option(min=0.01, max=100, rich_help_panel=_RAW, help="Light is multiplied by it. Developed pictures only."),
]
ColourSpaceOption = Annotated[
    Literal["srgb", "display-p3", "rec2020", "prophoto"],
    typer.Option(rich_help_panel=_RAW, help="Of developed pictures; the ICC profile goes along."),
]
NoProvenance = Annotated[
    bool,
    typer.Option("--no-provenance", help="Leave out of the XMP which version, weights and strength made the output."),
]
Strip = Annotated[
    bool,
    typer.Option(
        "--strip", help="Leave out what is private: places, people, serial numbers, maker notes, XMP, IPTC, previews."
    ),
]
MaxMegapixels = Annotated[
    float | None,
    typer.Option(
        min=0.000001,
        help="Refuse larger photos. Without it only decompression bombs are refused: over 100 megapixels "
        "with more than 1,000 pixels a byte.",
    ),
]
_FILES = "Which photos"
_JOB = "Long jobs"
FromList = Annotated[
    Path | None,
    typer.Option(
        "--from-list",
        metavar="FILE",
        rich_help_panel=_FILES,
        help="Take names from a file, or from standard input (-): one a line, or separated by NUL as by find -print0.",
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        rich_help_panel=_FILES,
        help="Only photos whose name, or path below the folder, matches: '*.jpg', '2024/**'. May be given many times.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN",
        rich_help_panel=_FILES,
        help="Leave out photos or folders that match; goes before --include.",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        rich_help_panel=_FILES,
        help="Standard input holds many pictures, one behind the other: PPM, PNG or JPEG, as ffmpeg's image2pipe.",
    ),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch", rich_help_panel=_FILES, help="Take the photos of a folder as they arrive, until Ctrl-C; needs -o."
    ),
]
Sidecars = Annotated[
    bool,
    typer.Option(
        "--sidecars", rich_help_panel=_FILES, help="Copy .xmp files beside photos to their outputs, under their names."
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=_JOB,
        help="Go on where an earlier run stopped: do what is missing, failed, or has other inputs or settings.",
    ),
]
Jobs = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        rich_help_panel=_JOB,
        help="Photos in hand at once: some in the network, the others read or written. auto: two a core.",
    ),
]
MemoryOption = Annotated[
    str,
    typer.Option(
        "--memory",
        metavar="auto|SIZE",
        rich_help_panel=_JOB,
        help="What the program may hold, as 4G or 800M: fewer photos and tiles at once. auto: half of what is free. "
        "A photo that needs more goes alone.",
    ),
]
Then = Annotated[
    str | None,
    typer.Option(
        "--then",
        metavar="CMD",
        rich_help_panel=_JOB,
        help="Run a command of the shell at the end; it finds $KBNET_STATUS, $KBNET_DONE, $KBNET_FAILED and others.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave photos alone whose output exists.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Tell tiles, memory and time, and write nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a photo, then a summary, on standard output.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tell more, and show tracebacks.")]
