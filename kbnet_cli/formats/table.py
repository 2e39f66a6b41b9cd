"""The table of file formats: what each is called and what it can hold."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kbnet_cli.photo import ColourModel, Depth
else:
    # The shell asks this table at every TAB, and numpy takes longer to import than all else.
    ColourModel, Depth = str, int

BLOCKS = ("exif", "xmp", "iptc", "icc")
"""The fields of Metadata."""


@dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    extensions: tuple[str, ...]
    """Without the dot; the first one is written."""
    title: str
    """As people call it."""
    module: str
    """The module of `kbnet_cli.formats` that reads and writes it."""
    depths: tuple[Depth, ...] = ()
    """What can be written; nothing if the format is only read."""
    source_depths: tuple[Depth, ...] = ()
    """What is written only where the photo comes from this very format: few programs read it."""
    alpha: bool = False
    colours: tuple[ColourModel, ...] = ("grey", "rgb")
    lossless: bool = False
    """Whether what is written always holds each sample exactly."""
    blocks: tuple[str, ...] = ("exif", "xmp", "icc")
    """The fields of Metadata that it holds."""
    numbers: bool = False
    """Whether it can tell colours by number (CICP)."""
    linear: bool = False
    """Whether it can say without a profile that samples are linear light."""
    camera: bool = False
    """Whether it holds a camera's own colours, and nothing else."""

    @property
    def written(self) -> bool:
        """Whether it is written at all."""
        return bool(self.depths)


FORMATS: tuple[Format, ...] = (
    Format(
        "jpg", ("jpg", "jpeg", "jpe", "jfif", "mpo"), "JPEG", "jpeg", depths=(8,), source_depths=(10, 12, 16),
        colours=("grey", "rgb", "cmyk"), blocks=BLOCKS,
    ),
    Format("png", ("png",), "PNG", "png", depths=(8, 16), alpha=True, lossless=True, numbers=True),
    Format(
        "tif", ("tif", "tiff"), "TIFF", "tiff", depths=(8, 16, 32), alpha=True, lossless=True, linear=True,
        colours=("grey", "rgb", "cmyk"), blocks=BLOCKS,
    ),
    Format("webp", ("webp",), "WebP", "webp", depths=(8,), alpha=True),
    Format("avif", ("avif",), "AVIF", "avif", depths=(8, 10, 12), alpha=True, numbers=True),
    Format("jxl", ("jxl",), "JPEG XL", "jxl", depths=(8, 10, 12, 16, 32), alpha=True, linear=True),
    Format("heic", ("heic", "heif", "hif"), "HEIC", "heic"),
    Format(
        "ppm", ("ppm", "pgm", "pnm", "pam"), "PPM", "ppm", depths=(8, 10, 12, 16), alpha=True, lossless=True, blocks=(),
    ),
    Format(
        "dng", ("dng",), "DNG", "dng.writer", depths=(16,), lossless=True, linear=True, camera=True,
        blocks=("exif", "xmp", "iptc"),
    ),
    Format(
        "raw",
        ("cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "raf", "orf", "rw2", "rwl", "pef", "srw", "kdc",
         "dcr", "mrw", "x3f", "3fr", "fff", "iiq", "mos", "mef", "erf", "raw"),
        "raw", "raw.reader",
    ),
)  # fmt: skip
BY_NAME = {format.name: format for format in FORMATS}
