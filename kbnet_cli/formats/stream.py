"""Pictures that follow each other in one stream of bytes, as cat, ImageMagick and ffmpeg write them, apart again.

Each picture says itself where it ends, so it is given as soon as its last byte has come: the program at the other end
may rest before the next. Only the marks are looked at here; whether a picture is sound is for its decoder to say.
"""

import re
import select
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO, NoReturn, Protocol, cast, runtime_checkable

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats.chunks import SIGNATURE
from kbnet_cli.formats.segments import EOI, SOI, SOS
from kbnet_cli.formats.sniff import HEAD_BYTES, sniff

LARGEST_BYTES = 1 << 30
"""One picture may have so many: 178 megapixels of 16-bit RGB without compression."""
_PIECE_BYTES = 1 << 18
"""Read at once: more than a pipe holds on most systems."""
_LONGEST_PADDING = 1 << 20
_LONGEST_HEADER = 1 << 16
_LONGEST_NUMBER = 12
_LONGEST_CHUNK = (1 << 31) - 1
_PADDING = re.compile(rb"[\x00\n\r]*")
_SPACES = b" \t\n\r\v\f"
_COMMENT = b"#"
_LINE_ENDS = b"\n\r"
_JPEG_LS = 0xF7

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
"""The next marker between segments; stray bytes before it are skipped, as every decoder does."""
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""The next marker in entropy-coded data: not a stuffed zero, not a restart, not a fill byte."""
_READ = "binary PGM, PPM or PAM, PNG or JPEG"
_ALONE = "give it alone, without --stream"


@runtime_checkable
class Source(Protocol):
    """A file opened for reading bytes, with a buffer or without."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most so many bytes; none at its end; None if it is one that does not wait, and nothing came yet."""


def pictures(file: Source, *, largest_bytes: int = LARGEST_BYTES) -> Iterator[bytes]:
    """Give the pictures of a stream one by one, each as soon as it is whole: P5, P6, P7, PNG and JPEG, also mixed.

    Between pictures there may be zero bytes and line ends. What stands behind a JPEG picture in the same file, a
    preview say, is a picture of its own here. After an error nothing more is given: where the next picture begins
    would be a guess. No more is held than one picture and what was read at once; a file that waits is waited for.

    Raises:
        InputError: The stream holds no picture, ends in the middle of one, or goes on with something else; one is
            damaged so that its end cannot be found, or larger than `largest_bytes`.
        UnsupportedError: A picture is of a format that cannot be told from what follows it.
    """
    intake = _Intake(file, largest_bytes)
    while intake.begin():
        _END_OF.get(intake.head(2), _refuse)(intake)
        yield intake.finished()


def standard_input() -> Source:
    """Return standard input without its buffer, of which nothing may have been read yet.

    A thread that waits in a buffered file holds its lock. When the program ends meanwhile, Python wants that lock to
    close the file, and aborts.
    """
    buffered = sys.stdin.buffer
    return getattr(buffered, "raw", buffered)


class _Intake:
    """A stream, and the picture that is being taken from it."""

    def __init__(self, file: Source, largest_bytes: int) -> None:
        # Buffered files wait in read until all that was asked for is there, and answer read1 with what is there.
        self._read: Callable[[int], bytes | None] = getattr(file, "read1", file.read)
        self._file = file
        self._largest_bytes = largest_bytes
        self._piece = b""
        self._at = 0
        self._picture = BytesIO()
        self._number = 0

    def begin(self) -> bool:
        """Go to the next picture, past padding; tell whether there is one."""
        self._number += 1
        padding = 0
        while self._more():
            found = _PADDING.match(self._piece, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._piece):
                return True
            padding += found.end() - found.start()
            if padding > _LONGEST_PADDING:
                self.fail(f"does not begin: got {padding} bytes of padding, expected {_READ}")
        if self._number == 1:
            raise InputError("got no picture, expected at least one", hint="check the program that should write them")
        return False

    def head(self, count: int) -> bytes:
        """Return what comes next, and leave it there; less than was asked for only at the stream's end."""
        while len(self._piece) - self._at < count:
            piece = self._next()
            if not piece:
                break
            self._piece, self._at = self._piece[self._at :] + piece, 0
        return self._piece[self._at : self._at + count]

    def take(self, count: int) -> bytes:
        """Take a few bytes into the picture, and return them."""
        start = self._picture.tell()
        self.skip(count)
        self._picture.seek(start)
        return self._picture.read()

    def skip(self, count: int) -> None:
        """Take bytes into the picture."""
        if self._picture.tell() + count > self._largest_bytes:
            self.fail(f"has more than {self._largest_bytes} bytes", hint=_ALONE)
        while count:
            self._want()
            part = min(count, len(self._piece) - self._at)
            self._move(self._at + part)
            count -= part

    def skip_to(self, marker: re.Pattern[bytes]) -> int:
        """Take bytes into the picture up to the end of a marker, and return its second byte."""
        torn = False
        while True:
            self._want()
            if torn and marker.match(b"\xff" + self._piece[self._at : self._at + 1]):
                return self.take(1)[0]
            found = marker.search(self._piece, self._at)
            end = found.end() if found else len(self._piece)
            if self._picture.tell() + end - self._at > self._largest_bytes:
                self.fail(f"has more than {self._largest_bytes} bytes", hint=_ALONE)
            self._move(end)
            if found:
                return self._piece[end - 1]
            torn = self._piece.endswith(b"\xff")

    def finished(self) -> bytes:
        """Return the picture; the next one begins."""
        picture, self._picture = self._picture, BytesIO()
        return picture.getvalue()  # hands its bytes over without copying them

    def fail(self, what: str, *, hint: str = "", unsupported: bool = False) -> NoReturn:
        """Raise what is wrong with the picture."""
        raise (UnsupportedError if unsupported else InputError)(f"picture {self._number} {what}", hint=hint)

    def _want(self) -> None:
        if not self._more():
            self.fail(f"ends after {self._picture.tell()} bytes", hint="check whether the program that wrote it failed")

    def _more(self) -> bool:
        """Read on where nothing is left; tell whether there is anything."""
        if self._at == len(self._piece):
            self._piece, self._at = self._next(), 0
        return self._piece != b""

    def _next(self) -> bytes:
        try:
            while (piece := self._read(_PIECE_BYTES)) is None:  # its other end made the file one that does not wait
                select.select([cast(BinaryIO, self._file)], [], [])
        except OSError as error:
            raise InputError(f"picture {self._number} cannot be read: {error.strerror}") from error
        return piece

    def _move(self, end: int) -> None:
        self._picture.write(memoryview(self._piece)[self._at : end])
        self._at = end


def _netpbm(intake: _Intake) -> None:
    """Take a PGM or PPM picture: three numbers, with comments between, and as many samples as they say."""
    channels = {b"P5": 1, b"P6": 3}[intake.take(2)]
    header = _Header(intake)
    if header.byte() not in _SPACES + _COMMENT:
        header.fail()
    width, height, white = header.number(), header.number(), header.number()
    if header.last == _COMMENT:
        header.comment()
    elif header.last not in _SPACES:
        header.fail()
    _samples(intake, height * width * channels, white)


def _pam(intake: _Intake) -> None:
    """Take a PAM picture: lines of a name and a value up to ENDHDR, and as many samples as they say."""
    header = _Header(intake)
    if header.line().strip(b" \t") != b"P7":
        header.fail()
    fields: dict[bytes, bytes] = {}
    while (line := header.line().strip()) != b"ENDHDR":
        name, _, value = line.replace(b"\t", b" ").partition(b" ")
        fields[name] = value.strip()
    values = [fields.get(name, b"") for name in (b"HEIGHT", b"WIDTH", b"DEPTH", b"MAXVAL")]
    if any(not value.isdigit() or len(value) > _LONGEST_NUMBER for value in values):
        header.fail()
    height, width, channels, white = map(int, values)
    _samples(intake, height * width * channels, white)


def _samples(intake: _Intake, count: int, white: int) -> None:
    if not 1 <= white <= 65535:
        intake.fail(f"has {white} for white, expected 1 … 65535")
    intake.skip(count if white < 256 else 2 * count)


class _Header:
    """A Netpbm header, read byte by byte, because its length is known only at its end."""

    def __init__(self, intake: _Intake) -> None:
        self._intake = intake
        self._bytes = 0
        self.last = b""

    def byte(self) -> bytes:
        """Return the next byte."""
        self._bytes += 1
        if self._bytes > _LONGEST_HEADER:
            self.fail()
        self.last = self._intake.take(1)
        return self.last

    def number(self) -> int:
        """Return the next number, behind spaces and comments, and read the byte behind it."""
        while self.last in _SPACES + _COMMENT:
            if self.last == _COMMENT:
                self.comment()
            self.byte()
        digits = b""
        while self.last.isdigit() and len(digits) < _LONGEST_NUMBER:
            digits += self.last
            self.byte()
        if not digits or self.last.isdigit():
            self.fail()
        return int(digits)

    def comment(self) -> None:
        """Read to the end of the line."""
        while self.byte() not in _LINE_ENDS:
            pass

    def line(self) -> bytes:
        """Return the next line, without its end."""
        line = bytearray()
        while self.byte() != b"\n":
            line += self.last
        return bytes(line)

    def fail(self) -> NoReturn:
        """Say that the header makes no sense."""
        self._intake.fail("has a Netpbm header that cannot be read")


def _png(intake: _Intake) -> None:
    """Take a PNG picture: chunks, each with its length, up to IEND."""
    if intake.take(len(SIGNATURE)) != SIGNATURE:
        intake.fail("has a PNG signature that was changed on the way")
    name = b""
    while name != b"IEND":
        head = intake.take(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if not name.isalpha() or length > _LONGEST_CHUNK:
            intake.fail(f"is damaged: got {name!r} of {length} bytes for a PNG chunk")
        intake.skip(length + 4)  # and its checksum


def _jpeg(intake: _Intake) -> None:
    """Take a JPEG picture: segments, each with its length, and behind some of them coded data, up to the end marker."""
    intake.skip(2)
    marker = intake.skip_to(_MARKER)
    while marker != EOI:
        if marker == SOI:
            intake.fail("is cut short: another one begins before its end")
        if marker == _JPEG_LS:
            intake.fail("is a JPEG-LS picture, which is not read", hint=f"expected {_READ}", unsupported=True)
        if marker != 0x01 and not 0xD0 <= marker <= 0xD7:
            length = int.from_bytes(intake.take(2), "big")
            if length < 2:
                intake.fail(f"is damaged: got a JPEG segment of length {length}, expected at least 2")
            intake.skip(length - 2)
        marker = intake.skip_to(_AFTER_SCAN if marker == SOS else _MARKER)


def _refuse(intake: _Intake) -> NoReturn:
    head = intake.head(HEAD_BYTES)
    name = sniff(head) or sniff(b"\0\0\0" + head)  # boxes begin with what was taken for padding
    if name is not None:
        intake.fail(f"is of the format {name}, whose end in a stream is not known", hint=_ALONE, unsupported=True)
    if head[:2] in (b"P1", b"P2", b"P3", b"P4") and head[2:3] in _SPACES + _COMMENT:
        intake.fail(f"is {head[:2].decode()} of Netpbm, which is not read", hint=f"expected {_READ}", unsupported=True)
    intake.fail(f"begins with {head[:8]!r}, expected {_READ}")


_END_OF: dict[bytes, Callable[[_Intake], None]] = {
    b"P5": _netpbm,
    b"P6": _netpbm,
    b"P7": _pam,
    SIGNATURE[:2]: _png,
    b"\xff\xd8": _jpeg,
}
