"""See a DNG file through another reader's eyes: `python -m kbnet_cli.formats.dng.check < dng`.

LibRaw prints what it does not like and may end the whole process, so it reads in one of its own. The answer on stdout
is one line of JSON.
"""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import rawpy
from jaxtyping import UInt16

from kbnet_cli.errors import InputError, OutputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.dng.samples import Stored
from kbnet_cli.formats.dng.source import read_source
from kbnet_cli.formats.dng.values import floats
from kbnet_cli.formats.ifd import read_chain
from kbnet_cli.photo import Photo

_FLIPS = {1: 0, 2: 1, 3: 3, 4: 2, 5: 4, 6: 6, 7: 7, 8: 5}
"""LibRaw's flip for each of EXIF's orientations."""
_ROWS = 256
_NEUTRAL = 50728


@dataclass(frozen=True)
class Seen:
    """What LibRaw finds in a file."""

    height: int = 0
    width: int = 0
    flip: int = 0
    black: tuple[int, ...] = ()
    white: int = 0
    multipliers: tuple[float, ...] = ()
    """Of the white balance."""
    digest: str = ""
    """Of the samples."""
    error: str = ""

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Seen":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(**{**fields, "black": tuple(fields["black"]), "multipliers": tuple(fields["multipliers"])})


def check(data: bytes, photo: Photo, written: Stored) -> None:
    """Compare a written file with the photo that it shall hold.

    Raises:
        OutputError: something differs.
    """
    command = [sys.executable, "-P", "-m", "kbnet_cli.formats.dng.check"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(command, input=data, capture_output=True, env=environment, check=False)  # noqa: S603
    except OSError as error:
        raise OutputError(f"the process that reads the DNG back could not be started: {error}") from error
    words = done.stderr.decode(errors="replace").strip().splitlines()
    if done.returncode != 0 or words or not done.stdout:
        raise _differs(words[-1] if words else f"LibRaw gave up with exit code {done.returncode}")
    try:
        seen = Seen.from_json(done.stdout)
    except ValueError as error:
        raise _differs("LibRaw's process gave no answer") from error
    wrong = (
        seen.error
        or _difference(seen, photo, written)
        or _difference_in_white(seen, data)
        or _difference_in_tags(data, photo)
    )
    if wrong:
        raise _differs(wrong)


def look(data: bytes) -> Seen:
    """Read a DNG file through LibRaw, samples and what is said of them."""
    try:
        with rawpy.RawPy() as raw:
            raw.open_buffer(io.BytesIO(data))
            raw.unpack()
            samples = raw.raw_image_visible
            channels = raw.num_colors
            return Seen(
                height=samples.shape[0],
                width=samples.shape[1],
                flip=raw.sizes.flip,
                black=tuple(map(int, raw.black_level_per_channel[:channels])),
                white=int(raw.white_level),
                multipliers=tuple(map(float, raw.camera_whitebalance[:channels])),
                digest=digest(samples[..., :channels] if samples.ndim == 3 else samples[..., None]),
            )
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        return Seen(error=f"LibRaw cannot read it: {error}")


def digest(samples: UInt16[np.ndarray, "h w c"]) -> str:
    """Return the SHA-256 of samples, row by row."""
    found = hashlib.sha256()
    for top in range(0, samples.shape[0], _ROWS):
        found.update(np.ascontiguousarray(samples[top : top + _ROWS]).data)
    return found.hexdigest()


def _difference(seen: Seen, photo: Photo, written: Stored) -> str:
    height, width, channels = written.pixels.shape
    flip = _FLIPS[exif.orientation(photo.metadata.exif)]
    if (seen.height, seen.width) != (height, width):
        return f"it shows {seen.width}×{seen.height} pixels, expected {width}×{height}"
    if seen.flip != flip:
        return f"it is turned by {seen.flip}, expected {flip}"
    if seen.black != (written.black,) * channels or seen.white != written.white:
        return f"its levels are {seen.black} and {seen.white}, expected {written.black} and {written.white}"
    if seen.digest != digest(written.pixels):
        return "its samples are others than those that were written"
    return ""


def _difference_in_white(seen: Seen, data: bytes) -> str:
    source = read_source(data)
    neutral = floats(source.find(_NEUTRAL), source.layout.order) if source is not None else ()
    if not neutral:
        return ""  # a grey sensor, or white as coordinates
    expected = [neutral[0] / value for value in neutral]
    found = [value / (seen.multipliers[0] or 1) for value in seen.multipliers]
    if len(found) == len(expected) and np.allclose(found, expected, rtol=1e-3):
        return ""
    return f"its white balance is {found}, expected {expected}"


def _difference_in_tags(data: bytes, photo: Photo) -> str:
    if photo.metadata.exif is None:
        return ""
    try:
        expected = exif.read(photo.metadata.exif)
        first = next(read_chain(data), None)
    except InputError as error:
        return error.message
    assert first is not None
    found = exif.describe(data, first)
    for name in ("exif", "gps", "interop"):
        before, after = ({e.tag: e.value for e in getattr(one, name)} for one in (expected, found))
        if before != after:
            tags = sorted(tag for tag in before.keys() | after.keys() if before.get(tag) != after.get(tag))
            return f"tags of {name.upper()} differ: {', '.join(map(str, tags))}"
    return ""


def _differs(words: str) -> OutputError:
    return OutputError(
        f"the DNG was read back and is not what it should be: {words}; nothing was written",
        hint="choose --format tif, and please report this with the photo",
    )


def main() -> None:
    """Read a DNG file from stdin and answer on stdout."""
    sys.stdout.write(look(sys.stdin.buffer.read()).to_json())


if __name__ == "__main__":
    main()
