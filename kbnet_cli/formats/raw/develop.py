"""Develop one raw file in a process of its own: `python -m kbnet_cli.formats.raw.develop WISHES < raw`.

LibRaw writes what it finds wrong with a file to stderr, goes on with what is left of the picture, and in rare cases
ends the whole process. In a process of its own all three can be told: words on stderr or a crash are an error of that
one photo. The answer on stdout is one line of JSON and, if there is no error in it, the samples behind it.
"""

import io
import os
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import rawpy
from jaxtyping import UInt16

from kbnet_cli.errors import InputError
from kbnet_cli.formats.development import Development
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.raw import sensor as raw_sensor
from kbnet_cli.formats.raw.report import Report, Wishes

Samples = UInt16[np.ndarray, "h w c"]

PARENT_SECONDS = 0.5
"""How often it is looked whether the parent is still there."""
_COPY_AGAIN = "copy it again from where it came from"
_DEMOSAIC = {
    "auto": None,
    "linear": rawpy.DemosaicAlgorithm.LINEAR,
    "vng": rawpy.DemosaicAlgorithm.VNG,
    "ppg": rawpy.DemosaicAlgorithm.PPG,
    "ahd": rawpy.DemosaicAlgorithm.AHD,
    "dcb": rawpy.DemosaicAlgorithm.DCB,
    "dht": rawpy.DemosaicAlgorithm.DHT,
    "aahd": rawpy.DemosaicAlgorithm.AAHD,
}
_HIGHLIGHTS = {
    "clip": rawpy.HighlightMode.Clip,
    "ignore": rawpy.HighlightMode.Ignore,
    "blend": rawpy.HighlightMode.Blend,
    "rebuild": rawpy.HighlightMode.ReconstructDefault,
}
_SPACES = {
    "srgb": rawpy.ColorSpace.sRGB,
    "display-p3": rawpy.ColorSpace.P3D65,
    "rec2020": rawpy.ColorSpace.Rec2020,
    "prophoto": rawpy.ColorSpace.ProPhoto,
}


def answer(data: bytes, wishes: Wishes) -> tuple[Report, Samples]:
    """Make of a raw file what is asked for, as it lies on the sensor.

    Raises:
        InputError: the file is too large, or LibRaw cannot read it.
    """
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            sizes = raw.sizes
            check_size(sizes.height, sizes.width, len(data), wishes.max_megapixels)
            raw.unpack()
            report = _described(raw)
            if wishes.development.mode == "linear":
                samples, camera, notes = raw_sensor.read(raw, data, _DEMOSAIC[wishes.development.demosaic])
                report = replace(report, camera=camera, notes=notes)
            else:
                samples, told = _developed(raw, wishes.development)
                report = replace(report, notes=tuple(told))
    except rawpy.LibRawFileUnsupportedError as error:
        raise InputError("the raw file is of a kind that LibRaw does not know") from error
    except (rawpy.LibRawIOError, rawpy.LibRawOutOfOrderCallError) as error:
        raise InputError("the raw file is cut short or damaged: LibRaw cannot read on", hint=_COPY_AGAIN) from error
    except rawpy.LibRawError as error:
        words = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        raise InputError(f"LibRaw cannot read the raw file: {words}") from error
    except (rawpy.NotSupportedError, RuntimeError) as error:
        raise InputError(f"the raw file is of a kind that is not read: {error}") from error
    return replace(report, height=samples.shape[0], width=samples.shape[1], channels=samples.shape[2]), samples


def _described(raw: rawpy.RawPy) -> Report:
    sizes = raw.sizes
    report = Report(flip=sizes.flip, pixel_aspect=sizes.pixel_aspect)
    try:
        other = raw.other  # only of an unpacked file: rawpy unpacks for it, and LibRaw unpacks once
    except (ValueError, OverflowError, OSError):  # a date that Python does not know
        return report
    return replace(
        report,
        iso=other.iso_speed,
        exposure_seconds=other.shutter_speed,
        aperture=other.aperture,
        focal_length_mm=other.focal_length,
        timestamp=other.timestamp.strftime("%Y:%m:%d %H:%M:%S") if other.timestamp.year > 1970 else "",
    )


def _developed(raw: rawpy.RawPy, development: Development) -> tuple[Samples, list[str]]:
    demosaic, notes = raw_sensor.demosaic_for(raw, _DEMOSAIC[development.demosaic])
    samples: Samples = raw.postprocess(
        gamma=(2.4, 12.92),  # IEC 61966-2-1: the power and the slope near black of sRGB
        no_auto_bright=True,
        # LibRaw would take the brightest sample for white where it is near it: one hot pixel would set the exposure.
        adjust_maximum_thr=0.0,
        user_flip=0,
        use_camera_wb=development.white_balance == "camera",
        use_auto_wb=development.white_balance == "auto",
        output_bps=16,
        output_color=_SPACES[development.colour_space],
        demosaic_algorithm=demosaic,
        highlight_mode=_HIGHLIGHTS[development.highlights],
        bright=development.brightness,
    )
    return samples, notes


def _end_with(parent: int) -> None:
    """End this process soon after its parent, who can be killed: nobody else would."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def main() -> None:
    """Read a raw file from stdin and answer on stdout."""
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    samples = None
    try:
        report, samples = answer(sys.stdin.buffer.read(), Wishes.from_json(sys.argv[1]))
    except InputError as error:
        report = Report(error=error.message, hint=error.hint)
    sys.stdout.buffer.write(report.to_json().encode() + b"\n")
    if samples is not None:
        sys.stdout.buffer.write(np.ascontiguousarray(samples).data)


if __name__ == "__main__":
    main()
