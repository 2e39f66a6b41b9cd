"""Develop one raw file in a process of its own: `python -m kbnet_cli.formats.raw_develop MAX_MEGAPIXELS < raw`.

LibRaw writes what it finds wrong with a file to stderr, goes on with what is left of the picture, and in rare cases
ends the whole process. In a process of its own all three can be told: words on stderr or a crash are an error of that
one photo. The answer on stdout is one line of JSON and, if there is no error in it, the samples behind it.
"""

import dataclasses
import io
import json
import sys

import numpy as np
import rawpy
from jaxtyping import UInt16

from kbnet_cli.errors import InputError
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.raw_report import Report


def develop(data: bytes, max_megapixels: float | None) -> tuple[Report, UInt16[np.ndarray, "h w c"]]:
    """Demosaic a raw file as it lies on the sensor: 16 bits, sRGB primaries and curve, the camera's white balance.

    Raises:
        InputError: the file is too large, or LibRaw cannot read it.
    """
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            sizes = raw.sizes
            check_size(sizes.height, sizes.width, len(data), max_megapixels)
            raw.unpack()
            other = raw.other  # not before: rawpy unpacks for it, and LibRaw unpacks once
            samples = raw.postprocess(
                gamma=(2.4, 12.92),  # IEC 61966-2-1: the power and the slope near black of sRGB
                no_auto_bright=True,
                user_flip=0,
                use_camera_wb=True,
                output_bps=16,
                output_color=rawpy.ColorSpace.sRGB,
            )
    except rawpy.LibRawError as error:
        words = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"LibRaw cannot read the raw file: {words}") from error
    except rawpy.NotSupportedError as error:
        raise InputError(f"the raw file is of a kind that is not read: {error}") from error
    report = Report(
        height=samples.shape[0],
        width=samples.shape[1],
        channels=samples.shape[2],
        flip=sizes.flip,
        pixel_aspect=sizes.pixel_aspect,
        iso=other.iso_speed,
        exposure_seconds=other.shutter_speed,
        aperture=other.aperture,
        focal_length_mm=other.focal_length,
        timestamp=other.timestamp.strftime("%Y:%m:%d %H:%M:%S") if other.timestamp.year > 1970 else "",
    )
    return report, samples


def main() -> None:
    """Read a raw file from stdin and answer on stdout."""
    limit = None if sys.argv[1] == "none" else float(sys.argv[1])
    samples = None
    try:
        report, samples = develop(sys.stdin.buffer.read(), limit)
    except InputError as error:
        report = Report(error=error.message, hint=error.hint)
    sys.stdout.buffer.write(json.dumps(dataclasses.asdict(report)).encode() + b"\n")
    if samples is not None:
        sys.stdout.buffer.write(np.ascontiguousarray(samples).data)


if __name__ == "__main__":
    main()
