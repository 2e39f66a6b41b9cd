"""The marker segments of a JPEG file (ITU-T T.81, annex B)."""

import re
from dataclasses import dataclass

from kbnet_cli.errors import InputError

SOI, EOI, SOS, COM = 0xD8, 0xD9, 0xDA, 0xFE
APP0, APP1, APP2, APP11, APP13, APP14 = 0xE0, 0xE1, 0xE2, 0xEB, 0xED, 0xEE
LARGEST_PAYLOAD = 65533
"""A segment's length is 16 bits and counts its own two bytes."""

_MOST_SCANS = 256
"""Each goes over the whole picture, also where nothing stands in it. Progressive files have about ten."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The next marker in entropy-coded data: not a stuffed zero, not a restart, not a fill byte."""


@dataclass(frozen=True)
class Segment:
    """One marker with what follows it, and where it stands in the file."""

    marker: int
    payload: bytes
    offset: int = 0
    """Where its 0xFF stands."""

    def to_bytes(self) -> bytes:
        """Return the segment as it stands in a file."""
        assert len(self.payload) <= LARGEST_PAYLOAD
        return bytes((0xFF, self.marker)) + (len(self.payload) + 2).to_bytes(2, "big") + self.payload

    @property
    def carried(self) -> bool:
        """Whether it says something about the picture, not how the picture is coded."""
        return 0xE0 <= self.marker <= 0xEF or self.marker == COM


@dataclass(frozen=True)
class Frame:
    """The frame header: what the picture is, before anything is decoded."""

    marker: int
    precision: int
    height: int
    width: int
    components: tuple[tuple[int, int, int], ...]
    """Identifier, horizontal and vertical sampling factor of each."""

    @property
    def lossless(self) -> bool:
        """Whether samples are predicted and kept exactly (SOF3, SOF11)."""
        return self.marker in (0xC3, 0xCB)


@dataclass(frozen=True)
class Structure:
    """A JPEG file taken apart as far as its markers go."""

    segments: tuple[Segment, ...]
    """Application segments and comments, in order, wherever they stand."""
    frame: Frame
    coded: tuple[tuple[int, int], ...]
    """Where the parts stand that say how the picture is coded, from begin to end."""
    end: int
    """The offset behind the end-of-image marker; what follows belongs to nobody here."""

    @property
    def stray_bytes(self) -> int:
        """How many bytes belong to no segment: most often the rest of one whose length is wrong."""
        known = sum(end - begin for begin, end in self.coded) + sum(4 + len(s.payload) for s in self.segments)
        return self.end - 2 - known


def parse(data: bytes) -> Structure:
    """Take a JPEG file apart.

    Raises:
        InputError: If it is cut short, holds no frame, or is not built like a JPEG file.
    """
    segments: list[Segment] = []
    frame: Frame | None = None
    coded: list[tuple[int, int]] = []
    scans = 0
    at = 2
    while True:
        at, marker = _marker(data, at)
        if marker == EOI:
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        begin = at
        payload = _payload(data, at, marker)
        segment = Segment(marker, payload, at)
        at += 4 + len(payload)
        if segment.carried:
            segments.append(segment)
            continue
        if marker in _FRAMES and frame is None:
            frame = _frame(segment)
        elif marker == SOS:
            scans += 1
            if scans > _MOST_SCANS:
                raise InputError(
                    f"got a JPEG file of more than {_MOST_SCANS} scans, which only files made to hang a reader have"
                )
            found = _AFTER_SCAN.search(data, at)
            if found is None:
                raise _truncated("the picture's data ends without an end-of-image marker")
            at = found.start()
        coded.append((begin, at))
    coded.append((at, at + 2))
    if frame is None or scans == 0:
        raise InputError("got a JPEG file without a picture in it")
    return Structure(tuple(segments), frame, tuple(coded), at + 2)


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """Return where the next marker stands and which it is, past fill bytes and stray bytes between segments."""
    # Stray bytes between segments are against the standard, and every decoder skips them.
    found = re.compile(rb"\xff[\x01-\xfe]").search(data, at)
    if found is None:
        raise _truncated("the file ends without an end-of-image marker")
    return found.start(), data[found.start() + 1]


def _payload(data: bytes, at: int, marker: int) -> bytes:
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    if length < 2:
        raise InputError(f"got a JPEG segment 0x{marker:02X} of length {length}, expected at least 2")
    if at + 2 + length > len(data):
        raise _truncated(f"segment 0x{marker:02X} runs past the end of the file")
    return data[at + 4 : at + 2 + length]


def _frame(segment: Segment) -> Frame:
    payload = segment.payload
    if len(payload) < 6 or len(payload) < 6 + 3 * payload[5]:
        raise InputError("got a JPEG frame header that is too short")
    components = tuple(
        (payload[6 + 3 * i], payload[7 + 3 * i] >> 4, payload[7 + 3 * i] & 15) for i in range(payload[5])
    )
    if any(not (1 <= h <= 4 and 1 <= v <= 4) for _, h, v in components):
        raise InputError("got JPEG sampling factors outside 1 … 4")
    return Frame(
        marker=segment.marker,
        precision=payload[0],
        height=int.from_bytes(payload[1:3], "big"),
        width=int.from_bytes(payload[3:5], "big"),
        components=components,
    )


def _truncated(what: str) -> InputError:
    return InputError(f"the JPEG file is cut short: {what}", hint="copy the file again from where it came from")
