"""ICC profiles in JPEG XL, which the main encoder cannot write and the main decoder does not give.

A profile stands in the codestream's header, compressed in a way of its own. Another library compresses it, for a tiny
picture of 8 bits, which is all that library knows; the coded profile is then put into the header of the real picture.
"""

import importlib
from typing import Any

import numpy as np
from jaxtyping import Shaped

from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import codestream
from kbnet_cli.formats.boxes import first, split
from kbnet_cli.formats.codestream import GREY
from kbnet_cli.formats.codestream_rewrite import Profile, rewrite


def read(stream: bytes) -> bytes:
    """Return the ICC profile of a codestream.

    Raises:
        InputError: If it is broken.
        UnsupportedError: If the library for it is not installed.
    """
    try:
        _, found = _library().decode(stream, metadata=True)
    except (RuntimeError, ValueError) as error:
        raise InputError("the JPEG XL data is broken: its ICC profile cannot be read") from error
    icc = found.get("icc")
    if not icc:
        raise InputError("the JPEG XL data is broken: its ICC profile cannot be read")
    return bytes(icc)


def put_into(stream: bytes, icc: bytes, *, orientation: int) -> bytes:
    """Return a codestream whose colours are not XYB with this profile, in place of numbers or of the same profile.

    Raises:
        OutputError: If the profile is not one for such a picture.
    """
    donor, begin, end = _coded(icc, grey=codestream.parse(stream).colours.space == GREY)
    tried: set[bytes] = set()
    # Up to seven bits of padding follow the coded profile, and only decoding tells how many.
    for padding in range(8):
        candidate = rewrite(stream, orientation=orientation, profile=Profile(donor, begin, end - padding))
        if candidate in tried:
            continue
        tried.add(candidate)
        try:
            if read(candidate) == icc:
                return candidate
        except InputError:
            continue
    raise OutputError("the ICC profile could not be put into JPEG XL", hint="write it with --format tif or png")


def encode_lossy(samples: Shaped[np.ndarray, "h w c"], icc: bytes, *, distance: float) -> bytes:
    """Return a lossy codestream of 8-bit samples that keeps the profile."""
    try:
        return _stream(_library().encode(np.ascontiguousarray(samples), distance=distance, icc=icc))
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"the JPEG XL encoder refused the picture or its ICC profile: {error}") from error


def _coded(icc: bytes, *, grey: bool) -> tuple[bytes, int, int]:
    """Return a codestream with the coded profile and where it begins and ends there, in bits."""
    tiny = np.zeros((8, 8, 1 if grey else 3), np.uint8)
    library = _library()
    try:
        donor = _stream(library.encode(tiny, lossless=True, icc=icc))
    except (RuntimeError, ValueError) as error:
        raise OutputError(f"the ICC profile does not fit {'grey' if grey else 'RGB'} JPEG XL: {error}") from error
    plain = _stream(library.encode(tiny, lossless=True))
    frame = len(plain) + -codestream.parse(plain).end // 8
    assert donor[-frame:] == plain[-frame:]
    return donor, codestream.parse(donor).end, 8 * (len(donor) - frame)


def _stream(file: bytes) -> bytes:
    return file if file.startswith(codestream.SIGNATURE) else first(split(file), b"jxlc") or b""


def _library() -> Any:
    try:
        return importlib.import_module("pylibjxl")
    except ImportError as error:
        raise UnsupportedError(
            "got a photo with an ICC profile, which JPEG XL needs pylibjxl for",
            hint="pip install 'kbnet[jxl]', or write it with --format tif or png",
        ) from error
