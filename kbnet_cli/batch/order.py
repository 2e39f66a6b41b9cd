"""What the command line says of the files, one photo's way from it to its output, and what became of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kbnet_cli.errors import KBNetError
from kbnet_cli.formats.development import Development, RawMode
from kbnet_cli.formats.extent import Extent
from kbnet_cli.journal import Used
from kbnet_cli.photo import Photo

STANDARD = Path("-")
"""Standard input as an input, standard output as an output."""

Existing = Literal["error", "overwrite", "skip", "resume"]
Status = Literal["done", "kept", "skipped", "failed"]


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; what cannot be looked at, a path too long say, is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


@dataclass(frozen=True)
class Order:
    """What the command line says of the files."""

    inputs: tuple[Path, ...]
    done: str
    """What becomes of the photos, as their names tell it: "denoised"."""
    name: str | None = None
    """A template, as `naming.check` lets it through, for outputs that `output` does not name; None: the usual ones."""
    output: Path | None = None
    output_is_folder: bool = False
    """Whether the output was written with a slash at its end, and so is a folder even if it is not there yet."""
    recursive: bool = False
    list_file: Path | None = None
    """A file of names, or `STANDARD`."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    stream: bool = False
    """Whether standard input holds many pictures."""
    watch: bool = False
    """Whether the inputs are folders whose photos are taken as they arrive."""
    existing: Existing = "error"
    sidecars: bool = False
    """Whether `.xmp` files beside the inputs go along."""
    format: str = "auto"
    depth: int | None = None
    quality: int | None = None
    max_megapixels: float | None = None
    raw_mode: RawMode | None = None
    """How camera raw is read; None: linear for DNG, developed for anything else."""
    development: Development = field(default_factory=Development)
    """The rest of how camera raw is read; its mode does not count."""

    @property
    def into_folder(self) -> bool:
        """Whether outputs go into a folder that was named."""
        return self.output is not None and (self.output_is_folder or is_folder(self.output))


@dataclass(frozen=True)
class Job:
    """One photo: where it comes from and where it goes."""

    source: Path
    target: Path
    """Its extension is the format's; for the format `auto` that of what the input's name says."""
    natural: bool
    """Whether the extension of the target is still to be chosen by what the input holds."""
    format: str | None = None
    """What is written; None until the input is read."""
    extension: str = ""
    """The end of the target's name that is its extension, with the dot."""
    data: bytes | None = field(default=None, repr=False)
    """What was read already: a picture of a stream."""
    number: int | None = None
    """Which picture of a stream it is, from 1."""
    error: KBNetError | None = None
    """Why it cannot even be read: its stream broke off."""

    @property
    def name(self) -> str:
        """The input as it is told of."""
        if self.number is not None:
            return f"picture {self.number} of standard input"
        return "standard input" if self.source == STANDARD else str(self.source)

    @property
    def goal(self) -> str:
        """The output as it is told of."""
        return "standard output" if self.target == STANDARD else str(self.target)


@dataclass(frozen=True)
class Restored:
    """A photo after the network, and what answered it."""

    photo: Photo
    weights: tuple[Used, ...] = ()
    redone: int = 0
    """Tiles that were not finite and were done again in float32."""


Restore = Callable[[Job, Photo], Restored]


@dataclass(frozen=True)
class Outcome:
    """What became of a photo."""

    job: Job
    status: Status
    extent: Extent | None = None
    """Of the photo; None unless it was done."""
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    """Of reading, restoring and writing it, without waiting for others."""
    redone: int = 0
    """Tiles that were not finite and were done again in float32."""
    error: KBNetError | None = None
    unexpected: BaseException | None = None
    """The exception behind the error, with its traceback, for -v."""
