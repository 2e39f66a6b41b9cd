"""Bytes to photo and back, whatever the format."""

import importlib
from dataclasses import dataclass
from pathlib import PurePath
from types import ModuleType
from typing import Protocol, cast, runtime_checkable

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import fit
from kbnet_cli.formats.development import Development, RawMode
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
class RawReader(Protocol):
    """What the module of camera raw offers."""

    def looks_raw(self, data: bytes) -> bool:
        """Tell whether a file that begins like TIFF is camera raw."""

    def decode(self, data: bytes, *, max_megapixels: float | None, development: Development) -> Photo:
        """Read a file."""


@runtime_checkable
class Reader(Protocol):
    """What the module of a format offers that is read."""

    def decode(self, data: bytes, *, max_megapixels: float | None = None) -> Photo:
        """Read a file."""


@runtime_checkable
class Writer(Protocol):
    """What the module of a format offers that is written."""

    def encode(self, photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
        """Write a file; the photo already has the depth."""


class CameraWriter(Writer, Protocol):
    """What the module of a format for camera data offers as well."""

    def notes(self, photo: Photo) -> tuple[str, ...]:
        """Tell what of the file that a photo came from is not in the one that is made of it."""


def decode(data: bytes, *, max_megapixels: float | None = None, development: Development | None = None) -> Photo:
    """Read a picture by its content; pixels as stored, display-encoded unless `Photo.linear`.

    `development` says how camera raw becomes a photo; without it a developed one.

    Raises:
        InputError: If it is no picture, is broken, or is too large.
        UnsupportedError: If it holds what could not be written back.
    """
    name = kind_of(data)
    try:
        if name == "raw":
            return _raw().decode(data, max_megapixels=max_megapixels, development=development or Development())
        return cast(Reader, _module(BY_NAME[name])).decode(data, max_megapixels=max_megapixels)
    except MemoryError as error:
        raise InputError("the picture needs more memory than there is", hint="close other programs") from error


def encode(photo: Photo, format: str, *, depth: int | None = None, quality: int | None = None) -> Encoded:
    """Write a photo as a file; without `depth` its own where the format has it, else the nearest.

    Raises:
        UnsupportedError: If the format cannot hold what the photo is.
        OutputError: If the encoder refuses.
    """
    target = format_named(format)
    fitted = fit.fit(photo, target, depth=depth)
    module = _module(target)
    data = cast(Writer, module).encode(fitted.photo, depth=fitted.photo.depth, quality=quality)
    left_out = cast(CameraWriter, module).notes(fitted.photo) if target.camera else ()
    return Encoded(data, fitted.photo.depth, (*fitted.notes, *left_out))


def check(photo: Photo, format: str, *, depth: int | None = None) -> None:
    """Refuse to write a photo as a format that cannot hold it, as `encode` would.

    Raises:
        UnsupportedError: If the format cannot hold what the photo is.
    """
    fit.check(photo, format_named(format), depth=depth)


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


_FORMAT_OF_EXTENSION = {extension: format.name for format in reversed(FORMATS) for extension in format.extensions}


def format_of_name(path: str) -> str | None:
    """Name the format that a file's extension stands for, or None."""
    return _FORMAT_OF_EXTENSION.get(PurePath(path).suffix.lower().removeprefix("."))


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


def natural_output(kind: str, raw_mode: RawMode | None = None) -> str:
    """Name the format to write where nobody asked for one: the input's own if it is written, else TIFF.

    Camera raw becomes DNG, unless it is to be developed.
    """
    if kind == "raw" and raw_mode != "developed":
        return "dng"
    return kind if BY_NAME[kind].written else "tif"


def raw_mode_for(format: str, asked: RawMode | None) -> RawMode:
    """Settle how camera raw is read for the format that is to be written; None stands for `auto`.

    Raises:
        UnsupportedError: what was asked for and the format do not go together.
    """
    target = format_named(format)
    fits: RawMode = "linear" if target.camera else "developed"
    if asked in (None, fits):
        return fits
    raise UnsupportedError(
        f"got --raw-mode {asked}, and {target.title} holds {fits} pictures",
        hint=f"choose {'another format than dng' if target.camera else '--format dng'}, or leave --raw-mode out",
    )


def _module(format: Format) -> ModuleType:
    """Load a format's module when it is first needed: some codecs take a while to load."""
    return importlib.import_module(f"kbnet_cli.formats.{format.module}")


def _looks_raw(data: bytes) -> bool:
    return _raw().looks_raw(data)


def _raw() -> RawReader:
    return cast(RawReader, _module(BY_NAME["raw"]))
