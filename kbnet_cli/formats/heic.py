"""HEIC, as telephones write it: read with 8, 10 and 12 bits; it is not written, since HEVC encoders are not free.

libheif turns and crops the picture as the container says. So here pixels are turned already, and the EXIF block says
that there is nothing left to turn.
"""

from io import BytesIO
from typing import cast

import numpy as np
import pi_heif

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats.boxes import first, split
from kbnet_cli.formats.items import parse
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.orientation import into_exif
from kbnet_cli.photo import ColourModel, Depth, Metadata, Origin, Photo


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a HEIC file.

    Raises:
        InputError: If the file is cut short, damaged or too large.
        UnsupportedError: If it holds several pictures.
    """
    collection = parse(data)
    check_size(*collection.size, len(data), max_megapixels)
    count = len([item for item in collection.top_level() if item.kind != b"tmap"])
    if count > 1 or first(split(data), b"moov") is not None:
        what = f"{count} pictures" if count > 1 else "a sequence"
        raise UnsupportedError(f"got {what} in one HEIC file, expected one picture", hint="take them apart first")
    try:
        file = pi_heif.open_heif(BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
        samples = np.array(file[0])  # a copy: the library's own memory goes with the file
        depth = file.info["bit_depth"]
    except (ValueError, EOFError, OSError, RuntimeError, SyntaxError, IndexError) as error:
        raise InputError(f"the HEIC data is broken: {error}") from error
    if depth not in (8, 10, 12):
        raise UnsupportedError(f"got a HEIC file of {depth} bits, expected 8, 10 or 12")
    if samples.ndim == 2:
        samples = samples[:, :, np.newaxis]
    channels = samples.shape[2]
    colour: ColourModel = "grey" if channels < 3 else "rgb"
    return Photo(
        pixels=np.ascontiguousarray(samples[:, :, : 1 if colour == "grey" else 3]),
        colour=colour,
        depth=cast(Depth, depth),
        alpha=np.ascontiguousarray(samples[:, :, -1]) if channels in (2, 4) else None,
        metadata=Metadata(
            exif=into_exif(collection.block(data, b"Exif"), 1),
            xmp=collection.block(data, b"mime"),
            icc=collection.icc,
        ),
        origin=Origin("heic", data, lossless=False),
        notes=tuple(f"the HEIC file also holds {name}, which is left out" for name in collection.auxiliaries()),
    )
