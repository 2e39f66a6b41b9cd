"""Camera raw files, read through LibRaw: a demosaiced photo in sRGB, turned by nothing but its orientation tag."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from functools import cache
from itertools import islice

import numpy as np
from jaxtyping import UInt16
from PIL import ImageCms

from kbnet_cli.errors import InputError
from kbnet_cli.formats import cicp, exif
from kbnet_cli.formats.ifd import RAW_MAGICS, Directory, Layout, read_chain, read_directory, read_layout
from kbnet_cli.formats.raw_metadata import read_metadata
from kbnet_cli.formats.raw_report import Report
from kbnet_cli.photo import Metadata, Origin, Photo

_ORIENTATIONS = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}
"""EXIF's orientation for each of LibRaw's flips."""
_SRGB = cicp.Numbers(1, 13)
_DNG_VERSION, _SUB_DIRECTORIES, _PHOTOMETRIC = 50706, 330, 262
_SENSOR_SAMPLES = frozenset({32803, 34892})  # colour filter array, linear raw
_MOST_DIRECTORIES = 100


def looks_raw(data: bytes) -> bool:
    """Tell whether data that begins like TIFF, or like a raw format of its own, is a camera raw file."""
    if data[:4] in RAW_MAGICS or data[8:10] == b"CR" or data[6:14] == b"HEAPCCDR":
        return True
    if data.startswith((b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb")) or data[4:12] == b"ftypcrx ":
        return True
    try:
        layout = read_layout(data)
        pages = _directories(data, layout)
        return any(page.find(_DNG_VERSION) or _is_sensor(page, layout) for page in pages)
    except InputError:
        return False


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Develop a raw file: 16-bit sRGB, display-encoded, as it lies on the sensor.

    Monochrome sensors give a grey photo with the same curve. Everything above the sensor's white is clipped to 65535.

    Raises:
        InputError: LibRaw cannot read the file, finds it damaged, or it is too large.
    """
    _check_whole(data)
    report, samples = _develop(data, max_megapixels)
    grey = report.channels == 1
    notes = [f"developed by LibRaw to {report.width}×{report.height} pixels with the curve of sRGB"]
    if report.pixel_aspect != 1.0:
        notes.append(
            f"the sensor's pixels are {report.pixel_aspect:.2f} times as wide as high: LibRaw made them square"
        )
    return Photo(
        pixels=samples,
        colour="grey" if grey else "rgb",
        depth=16,
        metadata=_metadata(data, report, cicp.profile(_SRGB, grey=True) if grey else srgb_profile()),
        origin=Origin("raw", data),
        notes=tuple(notes),
    )


@cache
def srgb_profile() -> bytes:
    """Return an sRGB profile that is the same on every day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes.fromhex("07d0 0001 0001 0000 0000 0000")  # the date of creation: 2000-01-01
    return bytes(profile)


def _develop(data: bytes, max_megapixels: float | None) -> tuple[Report, UInt16[np.ndarray, "h w c"]]:
    command = [sys.executable, "-m", "kbnet_cli.formats.raw_develop", str(max_megapixels or "none").lower()]
    # The other process shall find the same packages, however this one came to them.
    # Cameras write local time and LibRaw takes it for that of the machine: in UTC it comes out as it went in.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TZ": "UTC"}
    try:
        done = subprocess.run(command, input=data, capture_output=True, env=environment, check=False)  # noqa: S603
    except OSError as error:
        raise InputError(f"the process that develops raw files could not be started: {error}") from error
    words = done.stderr.decode(errors="replace").strip().splitlines()
    line, newline, rest = done.stdout.partition(b"\n")
    if done.returncode != 0 or not newline:
        raise InputError(f"LibRaw gave up on the raw file: {words[-1] if words else f'exit code {done.returncode}'}")
    report = Report(**json.loads(line))
    if report.error:
        raise InputError(report.error, hint=report.hint)
    if words:
        raise InputError(
            f"the raw file is damaged: {words[0].removeprefix('unknown file: ')}",
            hint="copy it again from where it came from",
        )
    shape = (report.height, report.width, report.channels)
    return report, np.frombuffer(rest, np.uint16).reshape(shape)


def _metadata(data: bytes, report: Report, icc: bytes | None) -> Metadata:
    found = read_metadata(data, report)
    block = found.exif
    turned = _ORIENTATIONS.get(report.flip, 1)
    if turned != exif.orientation(block):
        block = exif.with_orientation(block, turned)
    return Metadata(exif=block, xmp=found.xmp, iptc=found.iptc, icc=icc)


def _check_whole(data: bytes) -> None:
    """Refuse a DNG whose samples reach behind its end: LibRaw misses some of them without a word."""
    try:
        layout = read_layout(data)
        pages = _directories(data, layout)
    except InputError:
        return
    if not any(page.find(_DNG_VERSION) for page in pages):
        return  # other makers write counts that do not hold
    for page in pages:
        for places, sizes in ((273, 279), (324, 325)) if _is_sensor(page, layout) else ():
            pairs = zip(page.integers(places, layout.order), page.integers(sizes, layout.order), strict=False)
            end = max((at + size for at, size in pairs), default=0)
            if end > len(data):
                raise InputError(
                    f"the raw file is cut short: its samples end at byte {end}, but it has {len(data)}",
                    hint="copy it again from where it came from",
                )


def _is_sensor(page: Directory, layout: Layout) -> bool:
    return page.integer(_PHOTOMETRIC, layout.order, 0) in _SENSOR_SAMPLES


def _directories(data: bytes, layout: Layout) -> list[Directory]:
    """Return the directories that can be read: a raw file that was cut is still a raw file."""
    found: list[Directory] = []
    chain = read_chain(data)
    with suppress(InputError):
        found += islice(chain, _MOST_DIRECTORIES)
    for page in found:  # which grows as it is gone through
        offsets = page.integers(_SUB_DIRECTORIES, layout.order)
        for offset in offsets[: max(0, _MOST_DIRECTORIES - len(found))]:
            with suppress(InputError):
                found.append(read_directory(data, layout, offset))
    return found
