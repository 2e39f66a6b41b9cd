"""Bytes to photo and back, whatever the format: the table of formats and the way to each."""

import importlib
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Protocol, cast, runtime_checkable

import numpy as np

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import cicp, iptc
from kbnet_cli.formats.depth import convert, nearest, white
from kbnet_cli.formats.sniff import HEAD_BYTES, sniff
from kbnet_cli.photo import ColourModel, Depth, Metadata, Photo

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
        "tif", ("tif", "tiff"), "TIFF", "tiff", depths=(8, 16, 32), alpha=True, lossless=True,
        colours=("grey", "rgb", "cmyk"), blocks=BLOCKS,
    ),
    Format("webp", ("webp",), "WebP", "webp", depths=(8,), alpha=True),
    Format("avif", ("avif",), "AVIF", "avif", depths=(8, 10, 12), alpha=True, numbers=True),
    Format("jxl", ("jxl",), "JPEG XL", "jxl", depths=(8, 10, 12, 16, 32), alpha=True),
    Format("heic", ("heic", "heif", "hif"), "HEIC", "heic"),
    Format(
        "ppm", ("ppm", "pgm", "pnm", "pam"), "PPM", "ppm", depths=(8, 10, 12, 16), alpha=True, lossless=True, blocks=(),
    ),
    Format(
        "raw",
        ("dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "raf", "orf", "rw2", "rwl", "pef", "srw", "kdc",
         "dcr", "mrw", "x3f", "3fr", "fff", "iiq", "mos", "mef", "erf", "raw"),
        "raw", "raw",
    ),
)  # fmt: skip
_BY_NAME = {format.name: format for format in FORMATS}


@dataclass(frozen=True)
class Encoded:
    """A file, ready to be written, and what a user should be told about it."""

    data: bytes
    depth: Depth
    notes: tuple[str, ...] = ()


@runtime_checkable
class Codec(Protocol):
    """What each module of a format offers; those that are only read have no `encode`."""

    def decode(self, data: bytes, *, max_megapixels: float | None = None) -> Photo:
        """Read a file."""

    def encode(self, photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
        """Write a file; the photo already has the depth."""


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a picture by its content; pixels as stored, display-encoded unless `Photo.linear`.

    Raises:
        InputError: If it is no picture, is broken, or is too large.
        UnsupportedError: If it holds what could not be written back.
    """
    name = kind_of(data)
    try:
        return _codec(_BY_NAME[name]).decode(data, max_megapixels=max_megapixels)
    except MemoryError as error:
        raise InputError("the picture needs more memory than there is", hint="close other programs") from error


def encode(photo: Photo, format: str, *, depth: int | None = None, quality: int | None = None) -> Encoded:
    """Write a photo as a file; without `depth` its own where the format has it, else the nearest.

    Raises:
        UnsupportedError: If the format cannot hold what the photo is.
        OutputError: If the encoder refuses.
    """
    target = format_named(format)
    notes: list[str] = []
    photo = _fit(photo, target, notes)
    chosen = _depth(photo, target, depth, notes)
    photo = _with_depth(photo, chosen)
    data = _codec(target).encode(photo, depth=chosen, quality=quality)
    return Encoded(data, chosen, tuple(notes))


def kind_of(data: bytes) -> str:
    """Name the format of a file by its content.

    Raises:
        InputError: If it is empty or begins like no picture.
        UnsupportedError: If it is a picture of a format that is not read.
    """
    if not data:
        raise InputError("got an empty file, expected a picture")
    name = sniff(data[:HEAD_BYTES])
    if name == "tif" and _looks_raw(data):
        return "raw"
    if name is None:
        raise InputError(f"got a file that begins with {data[:8]!r}, expected a picture")
    if name not in _BY_NAME:
        raise UnsupportedError(f"got a {name.upper()} file, which is not read", hint="save it as PNG or TIFF first")
    return name


def format_of_name(path: str) -> str | None:
    """Name the format that a file's extension stands for, or None."""
    extension = PurePath(path).suffix.lower().removeprefix(".")
    return next((format.name for format in FORMATS if extension in format.extensions), None)


def format_named(name: str) -> Format:
    """Return the row of the table for a format that is written.

    Raises:
        UnsupportedError: If there is no such format or it is only read.
    """
    found = _BY_NAME.get(name)
    if found is None or not found.written:
        possible = ", ".join(format.name for format in FORMATS if format.written)
        what = f"{found.title} is read but not written" if found else f"there is no format {name}"
        raise UnsupportedError(f"{what}, expected one of {possible}", hint="choose one with --format")
    return found


def natural_output(kind: str) -> str:
    """Name the format to write where nobody asked for one: the input's own if it is written, else TIFF."""
    return kind if _BY_NAME[kind].written else "tif"


def _codec(format: Format) -> Codec:
    """Load a format's module when it is first needed: some codecs take a while to load."""
    return cast(Codec, importlib.import_module(f"kbnet_cli.formats.{format.module}"))


def _looks_raw(data: bytes) -> bool:
    raw = importlib.import_module("kbnet_cli.formats.raw")
    return bool(raw.looks_raw(data))


def _fit(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Return the photo with what the target can hold; refuse where pixels would change, tell where metadata goes."""
    if photo.colour not in target.colours:
        raise UnsupportedError(
            f"got {photo.colour.upper()} colours, which {target.title} does not hold", hint="choose --format tif"
        )
    if photo.alpha is not None and not target.alpha:
        if bool(np.any(photo.alpha != white(photo.depth))):
            raise UnsupportedError(
                f"got a photo with transparency, which {target.title} does not hold", hint="choose --format png or tif"
            )
        notes.append(f"the alpha channel, opaque everywhere, does not fit into {target.title} and is left out")
        photo = replace(photo, alpha=None)
    return _with_metadata(_with_colours(photo, target, notes), target, notes)


def _with_colours(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Give a photo an ICC profile where its own format tells colours in a way that the target does not know."""
    if photo.metadata.icc is not None or photo.origin is None or photo.origin.format == target.name:
        return photo
    numbers = cicp.of(photo.origin)
    if numbers is not None and not numbers.is_srgb and not target.numbers:
        icc = cicp.profile(numbers)
        if icc is None or photo.colour != "rgb":
            raise UnsupportedError(
                f"got colours by number (primaries {numbers.primaries}, transfer {numbers.transfer}), "
                f"which {target.title} cannot say",
                hint="choose --format avif or --format png",
            )
        notes.append("an ICC profile was made of the colours that the file told by number")
        return replace(photo, metadata=replace(photo.metadata, icc=icc))
    if photo.origin.format == "png" and photo.colour == "rgb":
        icc = cicp.png_profile(photo.origin.data)
        if icc is not None:
            notes.append("an ICC profile was made of the PNG's gamma and chromaticities")
            return replace(photo, metadata=replace(photo.metadata, icc=icc))
    return photo


def _with_metadata(photo: Photo, target: Format, notes: list[str]) -> Photo:
    """Leave out blocks that the target does not hold, and say so; IPTC goes into XMP where that has a place."""
    metadata = photo.metadata
    if metadata.iptc is not None and "iptc" not in target.blocks and "xmp" in target.blocks:
        packet = iptc.into_xmp(metadata.iptc, metadata.xmp)
        if packet is not None:
            notes.append(f"{target.title} does not hold IPTC; its common fields went into XMP")
            metadata = replace(metadata, xmp=packet, iptc=None)
    lost = [name for name in BLOCKS if name not in target.blocks and getattr(metadata, name) is not None]
    if lost:
        notes.append(f"{target.title} does not hold {', '.join(name.upper() for name in lost)}")
    kept = {name: getattr(metadata, name) for name in target.blocks}
    return replace(photo, metadata=Metadata(**kept))


def _depth(photo: Photo, target: Format, asked: int | None, notes: list[str]) -> Depth:
    """Choose the depth to write."""
    own = photo.origin is not None and photo.origin.format == target.name
    possible = target.depths + (target.source_depths if own else ())
    if asked is not None:
        if asked not in possible:
            depths = ", ".join(str(depth) for depth in possible)
            raise UnsupportedError(f"got depth {asked}, expected one of {depths}, which is what {target.title} holds")
        return asked
    if photo.depth in possible:
        return photo.depth
    chosen = nearest(photo.depth, target.depths)
    if chosen < photo.depth:
        notes.append(f"{photo.depth} bits became {chosen}, which is all {target.title} holds")
    return chosen


def _with_depth(photo: Photo, depth: Depth) -> Photo:
    if photo.depth == depth:
        return photo
    alpha = None if photo.alpha is None else convert(photo.alpha, from_depth=photo.depth, to_depth=depth)
    pixels = convert(photo.pixels, from_depth=photo.depth, to_depth=depth)
    return replace(photo, pixels=pixels, alpha=alpha, depth=depth)
