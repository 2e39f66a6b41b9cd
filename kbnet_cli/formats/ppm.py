"""Netpbm's binary formats: PGM (P5), PPM (P6) and PAM (P7), which alone has alpha."""

import re

import numpy as np
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats.depth import TYPES, scale
from kbnet_cli.formats.limits import check_size
from kbnet_cli.photo import ColourModel, Depth, Origin, Photo

_GAP = rb"(?:\s|#[^\n\r]*[\n\r])+"
_HEADER = re.compile(rb"P([56])" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)" + _GAP + rb"(\d+)(?:#[^\n\r]*)?\s")
_PAM_HEADER = re.compile(rb"P7[ \t]*\n(.*?)ENDHDR[ \t]*\n", re.DOTALL)
_LONGEST_HEADER = 1 << 16
_OWN_DEPTHS: dict[int, Depth] = {255: 8, 1023: 10, 4095: 12, 65535: 16}


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a PGM, PPM or PAM file; where its white is no power of two less one, samples go to 8 or 16 bits.

    Raises:
        InputError: If the header makes no sense, or pixels are missing.
        UnsupportedError: If several pictures follow each other, or channels have no meaning here.
    """
    start, height, width, channels, white = _header(data[:_LONGEST_HEADER])
    check_size(height, width, len(data), max_megapixels)
    if not 1 <= white <= 65535:
        raise InputError(f"got {white} for white, expected 1 … 65535")
    if channels not in (1, 2, 3, 4):
        raise UnsupportedError(f"got {channels} channels, expected 1 to 4")
    stored = np.dtype(np.uint8 if white < 256 else ">u2")
    size = height * width * channels * stored.itemsize
    if len(data) - start < size:
        raise InputError(
            f"the file is cut short: got {len(data) - start} bytes of pixels, expected {size}",
            hint="copy the file again from where it came from",
        )
    if data[start + size : start + size + 2] in (b"P5", b"P6", b"P7"):
        raise UnsupportedError("got several pictures in one file, expected one", hint="take them apart first")
    raster = np.frombuffer(data, stored, height * width * channels, start).reshape(height, width, channels)
    samples, depth = _samples(raster, white)
    colour: ColourModel = "grey" if channels < 3 else "rgb"
    return Photo(
        pixels=np.ascontiguousarray(samples[:, :, : 1 if colour == "grey" else 3]),
        colour=colour,
        depth=depth,
        alpha=np.ascontiguousarray(samples[:, :, -1]) if channels in (2, 4) else None,
        origin=Origin("ppm", data),
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:  # noqa: ARG001 - every encoder takes it
    """Write a PGM or PPM file, or PAM where there is alpha."""
    height, width = photo.size
    white = 2**depth - 1
    samples = photo.pixels
    if photo.alpha is None:
        head = f"P{5 if photo.colour == 'grey' else 6}\n{width} {height}\n{white}\n"
    else:
        samples = np.concatenate([samples, photo.alpha[:, :, np.newaxis]], axis=2)
        kind = "GRAYSCALE_ALPHA" if photo.colour == "grey" else "RGB_ALPHA"
        head = f"P7\nWIDTH {width}\nHEIGHT {height}\nDEPTH {samples.shape[2]}\nMAXVAL {white}\n"
        head += f"TUPLTYPE {kind}\nENDHDR\n"
    return head.encode() + samples.astype(np.uint8 if depth == 8 else ">u2").tobytes()


def _header(head: bytes) -> tuple[int, int, int, int, int]:
    """Return where the pixels begin, height, width, channels and white."""
    simple = _HEADER.match(head)
    if simple is not None:
        kind, width, height, white = (int(group[:12]) for group in simple.groups())
        return simple.end(), height, width, 1 if kind == 5 else 3, white
    arbitrary = _PAM_HEADER.match(head)
    if arbitrary is None:
        raise InputError("got a Netpbm header that cannot be read")
    fields = dict(line.split(None, 1) for line in arbitrary.group(1).splitlines() if len(line.split(None, 1)) == 2)
    try:
        height, width, channels, white = (int(fields[name][:12]) for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL"))
    except (KeyError, ValueError) as error:
        raise InputError("got a PAM header without height, width, depth or maximum") from error
    return arbitrary.end(), height, width, channels, white


def _samples(raster: Shaped[np.ndarray, "h w c"], white: int) -> tuple[Shaped[np.ndarray, "h w c"], Depth]:
    depth = _OWN_DEPTHS.get(white)
    if depth is not None:
        return raster.astype(TYPES[depth]), depth
    depth = 8 if white < 256 else 16
    return scale(raster.astype(np.uint16), from_white=white, to_depth=depth), depth
