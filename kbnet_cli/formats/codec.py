"""Bytes to photo and back, whatever the format."""

import importlib
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol, cast, runtime_checkable

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats.fit import fit
from kbnet_cli.formats.sniff import HEAD_BYTES, sniff
from kbnet_cli.formats.table import BY_NAME, Format
from kbnet_cli.formats.table import FORMATS as FORMATS
from kbnet_cli.photo import Depth, Photo


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
        return _codec(BY_NAME[name]).decode(data, max_megapixels=max_megapixels)
    except MemoryError as error:
        raise InputError("the picture needs more memory than there is", hint="close other programs") from error


def encode(photo: Photo, format: str, *, depth: int | None = None, quality: int | None = None) -> Encoded:
    """Write a photo as a file; without `depth` its own where the format has it, else the nearest.

    Raises:
        UnsupportedError: If the format cannot hold what the photo is.
        OutputError: If the encoder refuses.
    """
    target = format_named(format)
    fitted = fit(photo, target, depth=depth)
    data = _codec(target).encode(fitted.photo, depth=fitted.photo.depth, quality=quality)
    return Encoded(data, fitted.photo.depth, fitted.notes)


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
    if name not in BY_NAME:
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
    found = BY_NAME.get(name)
    if found is None or not found.written:
        possible = ", ".join(format.name for format in FORMATS if format.written)
        what = f"{found.title} is read but not written" if found else f"there is no format {name}"
        raise UnsupportedError(f"{what}, expected one of {possible}", hint="choose one with --format")
    return found


def natural_output(kind: str) -> str:
    """Name the format to write where nobody asked for one: the input's own if it is written, else TIFF."""
    return kind if BY_NAME[kind].written else "tif"


def _codec(format: Format) -> Codec:
    """Load a format's module when it is first needed: some codecs take a while to load."""
    return cast(Codec, importlib.import_module(f"kbnet_cli.formats.{format.module}"))


def _looks_raw(data: bytes) -> bool:
    raw = importlib.import_module("kbnet_cli.formats.raw")
    return bool(raw.looks_raw(data))
