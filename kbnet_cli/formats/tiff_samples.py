"""A TIFF page's samples as an array, and an array as strips or tiles: what tifffile and imagecodecs do for us."""

import io
import logging
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np
import tifffile
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats.depth import scale
from kbnet_cli.formats.ifd import Directory, Layout
from kbnet_cli.formats.tiff_structure import FLOAT, PALETTE, SEPARATE, WHITE_IS_ZERO, File, Structure
from kbnet_cli.photo import ColourModel, Depth

_CODECS = {
    1: None,
    5: "lzw",
    8: "adobe_deflate",
    32946: "adobe_deflate",
    32773: "packbits",
    50000: "zstd",
    34925: "lzma",
}
"""Lossless codecs that a page keeps; every other page is written with deflate."""
PHOTOMETRIC: dict[ColourModel, Literal["minisblack", "rgb", "separated"]] = {
    "grey": "minisblack",
    "rgb": "rgb",
    "cmyk": "separated",
}
_QUIET = logging.NullHandler()
_COLOUR_MAP = 320
_OLD_JPEG = 6
_FOREIGN = (
    ValueError,  # tifffile's own errors are ValueErrors
    RuntimeError,  # imagecodecs' are RuntimeErrors
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    EOFError,
    MemoryError,
    OSError,
    struct.error,
)
"""What the libraries raise on damaged data: they check as they go, so a broken number surfaces anywhere."""
_PREDICTED = frozenset({5, 8, 32946, 50000, 34925})


@dataclass(frozen=True)
class Form:
    """How samples are to be stored."""

    photometric: Literal["minisblack", "miniswhite", "rgb", "separated"]
    extra: tuple[int, ...] = ()
    separate: bool = False
    compression: int = 8
    predictor: bool = True
    tile: tuple[int, int] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Samples:
    """A page's samples, colours first, black at 0."""

    values: Shaped[np.ndarray, "h w c"]
    depth: Depth
    note: str = ""
    """What was converted, in words; empty where samples are as stored."""


def read_samples(data: bytes, file: File, structure: Structure) -> Samples:
    """Decode the photo's page.

    Palettes become RGB, white-is-zero becomes black-is-zero, and depths between those that a photo can have the next
    higher one, each so that it can be undone exactly.

    Raises:
        InputError: a strip or tile cannot be decoded.
        UnsupportedError: there is no decoder for its compression.
    """
    stored = _decode(data, file.main, structure)
    if structure.photometric == PALETTE:
        return _look_up(stored, file.directory, file.layout, structure.bits)
    values, depth, note = _normalise(stored, structure)
    if structure.photometric == WHITE_IS_ZERO:
        values = np.concatenate((values.dtype.type(2**depth - 1) - values[..., :1], values[..., 1:]), axis=2)
    return Samples(np.ascontiguousarray(values), depth, note)


def write_samples(values: Shaped[np.ndarray, "h w c"], form: Form, layout: Layout) -> bytes:
    """Write samples as a TIFF file of one page in the same byte order, to take strips and structure from.

    Raises:
        OutputError: they cannot be encoded.
    """
    if form.photometric == "miniswhite":
        white = values.dtype.type(np.iinfo(values.dtype).max)
        values = np.concatenate((white - values[..., :1], values[..., 1:]), axis=2)
    codec = _CODECS.get(form.compression, "adobe_deflate")
    several = values.shape[2] > 1
    page = np.moveaxis(values, 2, 0) if form.separate and several else values if several else values[..., 0]
    buffer = io.BytesIO()
    try:
        tifffile.imwrite(
            buffer,
            np.ascontiguousarray(page),
            bigtiff=layout.big,
            byteorder=layout.order,
            photometric=form.photometric,
            planarconfig=("separate" if form.separate else "contig") if several else None,
            extrasamples=form.extra or None,
            compression=codec,
            predictor=form.predictor if codec and form.compression in _PREDICTED else None,
            tile=form.tile,
            rowsperstrip=None if form.tile else form.rows,
            metadata=None,
            software=False,
        )
    except _FOREIGN as error:
        raise OutputError(f"the samples could not be written as TIFF: {error}") from error
    return buffer.getvalue()


def same_form(structure: Structure, extra: tuple[int, ...], kind: np.dtype[np.generic]) -> Form:
    """Return the form nearest to how a page was stored: its strips or tiles and, if it is lossless, its compression."""
    whole = kind.kind != "f"
    keeps = structure.compression in _CODECS
    known = {2} if whole else {3}
    return Form(
        photometric="miniswhite" if structure.photometric == WHITE_IS_ZERO and whole else PHOTOMETRIC[structure.colour],
        extra=extra,
        separate=structure.planar == SEPARATE,
        compression=structure.compression if keeps else 8,
        # A page that had none may be for a reader that knows none.
        predictor=structure.predictor in known if keeps else True,
        tile=structure.tile if structure.tile and not any(side % 16 for side in structure.tile) else None,
        rows=structure.rows,
    )


def _decode(data: bytes, page: int, structure: Structure) -> Shaped[np.ndarray, "h w c"]:
    """Return samples in native byte order, as stored, all that JPEG calls YCbCr as RGB."""
    # A damaged tag that nobody needs is told of in the log, which would reach the terminal if nobody listened.
    logging.getLogger("tifffile").addHandler(_QUIET)
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            stored = np.asarray(tiff.pages[page].asarray(squeeze=False))
    except (NotImplementedError, ImportError) as error:
        raise UnsupportedError(f"got TIFF that cannot be decoded here: {_first_line(error)}") from error
    except _FOREIGN as error:
        if structure.compression == _OLD_JPEG:
            raise UnsupportedError(
                f"got JPEG in the way of TIFF 6.0 of 1992, which cannot be decoded here: {_first_line(error)}",
                hint="save it anew with the program that made it",
            ) from error
        raise InputError(f"the picture data of the TIFF is damaged: {_first_line(error)}") from error
    expected = (structure.height, structure.width, structure.samples)
    if stored.ndim != 5 or stored.shape[1] != 1:
        raise InputError(f"got TIFF samples of shape {stored.shape}, expected {expected}")
    values = np.moveaxis(stored[:, 0], 0, 2)[..., 0] if structure.planar == SEPARATE else stored[0, 0]
    if values.shape != expected:
        raise InputError(f"got TIFF samples of shape {values.shape}, expected {expected}")
    return values


def _normalise(
    stored: Shaped[np.ndarray, "h w c"], structure: Structure
) -> tuple[Shaped[np.ndarray, "h w c"], Depth, str]:
    if structure.sample_format == FLOAT:
        with np.errstate(over="ignore", invalid="ignore"):
            values = stored.astype(np.float32, copy=False)
        note = "" if structure.bits == 32 else f"{structure.bits}-bit float samples are written with 32 bits"
        return values, 32, note
    if structure.bits in (8, 16):
        kind = np.uint8 if structure.bits == 8 else np.uint16
        return stored.astype(kind, copy=False), 8 if structure.bits == 8 else 16, ""
    depth: Depth = 8 if structure.bits < 8 else 16
    note = f"{structure.bits}-bit samples are written with {depth} bits"
    return scale(stored.astype(np.uint16), from_white=2**structure.bits - 1, to_depth=depth), depth, note


def _look_up(stored: Shaped[np.ndarray, "h w c"], page: Directory, layout: Layout, bits: int) -> Samples:
    colours = page.integers(_COLOUR_MAP, layout.order)
    if bits > 16 or len(colours) != 3 * 2**bits or stored.dtype.kind not in "ub":
        raise InputError(f"got a palette of {len(colours)} numbers for {bits}-bit samples, expected {3 * 2**bits}")
    table = np.array(colours, dtype=np.uint16).reshape(3, -1).T
    # Palettes are 16-bit by the standard, 8-bit values times 256 or 257 in practice, and plain 8-bit in old files.
    exact = np.array_equal(table, table // 256 * 257) or not (table % 256).any()
    eight = table if table.max() < 256 else table // 256 if exact else None
    index = stored[..., 0].astype(np.intp)
    colour = (table if eight is None else eight.astype(np.uint8))[index]
    depth: Depth = 16 if eight is None else 8
    if stored.shape[2] == 1:
        return Samples(colour, depth, f"palette colours are written as {depth}-bit RGB")
    raise UnsupportedError("got a TIFF palette with alpha, expected a palette alone", hint="save it as RGB first")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
