"""Camera raw files, read through LibRaw: demosaiced, turned by nothing but the orientation tag that comes along."""

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import replace
from subprocess import PIPE

import numpy as np
from jaxtyping import UInt16

from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.development import ColourSpace, Development
from kbnet_cli.formats.ifd import RAW_MAGICS, Directory, Layout, read_layout, read_tree
from kbnet_cli.formats.raw import profile as raw_profile
from kbnet_cli.formats.raw.linear import levels_for
from kbnet_cli.formats.raw.metadata import read_metadata
from kbnet_cli.formats.raw.report import Report, Wishes
from kbnet_cli.photo import Metadata, Origin, Photo

_ORIENTATIONS = {0: 1, 1: 2, 2: 4, 3: 3, 4: 5, 5: 8, 6: 6, 7: 7}
"""EXIF's orientation for each of LibRaw's flips."""
_COPY_AGAIN = "copy it again from where it came from"
_DNG_VERSION, _PHOTOMETRIC, _COMPRESSION = 50706, 262, 259
_MAKE, _MODEL = 271, 272
_VC5 = 9
"""GoPro's wavelets (SMPTE ST 2073), which LibRaw reads only with a library of GoPro's."""
_SENSOR_SAMPLES = frozenset({32803, 34892})  # colour filter array, linear raw


def looks_raw(data: bytes) -> bool:
    """Tell whether data that begins like TIFF, or like a raw format of its own, is a camera raw file."""
    if data[:4] in RAW_MAGICS or data[8:10] == b"CR" or data[6:14] == b"HEAPCCDR":
        return True
    if data.startswith((b"FUJIFILMCCD-RAW", b"\0MRM", b"FOVb", b"qktk", b"qktn")) or data[4:12] == b"ftypcrx ":
        return True
    try:
        layout = read_layout(data)
        pages = read_tree(data, layout)
        return any(page.find(_DNG_VERSION) or _is_sensor(page, layout) for page in pages)
    except InputError:
        return False


def decode(data: bytes, *, max_megapixels: float | None = None, development: Development | None = None) -> Photo:
    """Make a photo of a raw file, as it lies on the sensor; without a wish, a developed one.

    Linear: the sensor's own channels, demosaiced, black at `camera.black` and a full sensor at `camera.white` in each.
    Developed: 16 bits, display-encoded with the curve of sRGB. Monochrome sensors give a grey photo with the same
    curve. Everything above the sensor's white is clipped to 65535.

    Raises:
        InputError: LibRaw cannot read the file, finds it damaged, or it is too large.
    """
    wanted = development or Development()
    _check(data)
    report, samples = _ask(data, Wishes(wanted, max_megapixels))
    linear = report.camera is not None
    size = f"{report.width}×{report.height} pixels"
    notes = [
        f"{size} in the sensor's own colours, from LibRaw"
        if linear
        else f"developed by LibRaw to {size} with the curve of sRGB"
    ]
    if report.pixel_aspect != 1.0:
        notes.append(
            f"the sensor's pixels are {report.pixel_aspect:.2f} times as wide as high: LibRaw made them square"
        )
    if linear and wanted.of_developed:
        notes.append(f"{', '.join(wanted.of_developed)} left aside: a raw developer chooses that")
    grey = report.channels == 1
    shown_in = None if linear else wanted.colour_space
    photo = Photo(
        pixels=samples,
        colour="grey" if grey else "rgb",
        depth=16,
        metadata=_metadata(data, report, shown_in),
        origin=Origin("raw", data),
        linear=linear,
        notes=(*notes, *report.notes),
    )
    if report.camera is None:
        return photo
    make, model = _camera_name(photo.metadata.exif)
    return replace(
        photo,
        camera=replace(report.camera, make=make, model=model),
        levels=levels_for(samples, report.camera.neutral, report.camera.camera_to_srgb),
    )


def srgb_profile() -> bytes:
    """Return an sRGB profile that is the same on every day."""
    return raw_profile.profile("srgb")


def _camera_name(block: bytes | None) -> tuple[str, str]:
    entries = exif.read(block).image if block is not None else ()
    named = {entry.tag: (entry.value or b"").partition(b"\0")[0] for entry in entries}
    make, model = (named.get(tag, b"").decode(errors="replace").strip() for tag in (_MAKE, _MODEL))
    return make, model


def _ask(data: bytes, wishes: Wishes, *, again: bool = True) -> tuple[Report, UInt16[np.ndarray, "h w c"]]:
    command = [sys.executable, "-P", "-m", "kbnet_cli.formats.raw.develop", wishes.to_json()]
    # The other process shall find the same packages, however this one came to them.
    # Cameras write local time and LibRaw takes it for that of the machine: in UTC it comes out as it went in.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TZ": "UTC"}
    with tempfile.TemporaryFile() as complaints:  # a file takes as much as there may be, while nobody reads it
        try:
            # In a session of its own, so that Ctrl-C does not end it: the photo in hand may be finished.
            process = subprocess.Popen(  # noqa: S603 - this program itself
                command, stdin=PIPE, stdout=PIPE, stderr=complaints, env=environment, start_new_session=True
            )
        except OSError as error:
            raise InputError(f"the process that develops raw files could not be started: {error}") from error
        with process:
            try:
                report, samples = _hear(process, data)
            except BaseException:  # nobody waits for its answer any more
                process.kill()
                raise
        if process.returncode == -signal.SIGINT and again:
            return _ask(data, wishes, again=False)  # Ctrl-C came before it had its own session
        complaints.seek(0)
        words = complaints.read().decode(errors="replace").strip().splitlines()
    if report is not None and report.error:
        raise InputError(report.error, hint=report.hint)
    if process.returncode != 0 or report is None or samples is None:
        raise InputError(f"LibRaw gave up on the raw file: {words[-1] if words else f'exit code {process.returncode}'}")
    if words:
        raise InputError(f"the raw file is damaged: {words[0].removeprefix('unknown file: ')}", hint=_COPY_AGAIN)
    return report, samples


def _hear(process: "subprocess.Popen[bytes]", data: bytes) -> tuple[Report | None, UInt16[np.ndarray, "h w c"] | None]:
    """Tell a process the file and read its answer; None where it ended before it was done.

    It reads all before it writes, so neither waits for the other. The samples are read to where they stay: what
    `subprocess` collects itself lies in memory twice.
    """
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None
    for hand_over in (lambda: stdin.write(data), stdin.close):
        with suppress(OSError):  # it ended early, and says why elsewhere
            hand_over()
    line = stdout.readline()
    if not line.endswith(b"\n"):
        return None, None
    try:
        report = Report.from_json(line)
    except ValueError:
        return None, None
    if report.error:
        return report, None
    samples = np.empty((report.height, report.width, report.channels), np.uint16)
    view, got = samples.reshape(-1).view(np.uint8).data, 0
    while got < len(view):
        more = stdout.readinto(view[got:])  # type: ignore[attr-defined]
        if not more:
            return report, None
        got += more
    return report, samples


def _metadata(data: bytes, report: Report, shown_in: ColourSpace | None) -> Metadata:
    found = read_metadata(data, report, shown_in=shown_in)
    block = found.exif
    # LibRaw makes a quarter turn of a number that is none.
    turned = _ORIENTATIONS.get(report.flip, 1) if _is_valid(block) else 1
    if turned != exif.orientation(block) or not _is_valid(block):
        block = exif.with_orientation(block, turned)
    icc = None if shown_in is None else raw_profile.profile(shown_in, grey=report.channels == 1)
    return Metadata(exif=block, xmp=found.xmp, iptc=found.iptc, icc=icc)


def _is_valid(block: bytes | None) -> bool:
    """Tell whether what a block says of the orientation can be meant; True where it says nothing."""
    if block is None:
        return True
    said = exif.read(block)
    entry = next((entry for entry in said.image if entry.tag == exif.ORIENTATION), None)
    return entry is None or any(1 <= number <= 8 for number in entry.integers(said.order)[:1])


def _check(data: bytes) -> None:
    """Refuse GoPro's GPR, and a DNG whose samples reach behind its end: LibRaw misses some of them without a word."""
    try:
        layout = read_layout(data)
        pages = read_tree(data, layout)
    except InputError:
        return
    if not any(page.find(_DNG_VERSION) for page in pages):
        return  # other makers write counts that do not hold
    if any(_is_sensor(page, layout) and page.integer(_COMPRESSION, layout.order, 0) == _VC5 for page in pages):
        raise InputError(
            "GoPro GPR is not supported", hint="make a DNG of it with GoPro's gpr_tools or Adobe's DNG Converter"
        )
    for page in pages:
        for places, sizes in ((273, 279), (324, 325)) if _is_sensor(page, layout) else ():
            pairs = zip(page.integers(places, layout.order), page.integers(sizes, layout.order), strict=False)
            end = max((at + size for at, size in pairs), default=0)
            if end > len(data):
                raise InputError(
                    f"the raw file is cut short: its samples end at byte {end}, but it has {len(data)}",
                    hint=_COPY_AGAIN,
                )


def _is_sensor(page: Directory, layout: Layout) -> bool:
    return page.integer(_PHOTOMETRIC, layout.order, 0) in _SENSOR_SAMPLES
