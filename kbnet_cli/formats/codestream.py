"""The header of a JPEG XL codestream (ISO/IEC 18181-1, annex D): read as far as the profile, and rewritten."""

from dataclasses import dataclass

from kbnet_cli.errors import InputError, UnsupportedError

SIGNATURE = b"\xff\x0a"
ALPHA = 0
GREY, RGB = 1, 0
SRGB_TRANSFER, LINEAR_TRANSFER, SRGB_PRIMARIES, D65 = 13, 8, 1, 1
_LARGEST_HEADER_BYTES = 1 << 16
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIZES = ((1, 9), (1, 13), (1, 18), (1, 30))
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))


@dataclass(frozen=True)
class Colours:
    """The colour encoding where it is given by number."""

    space: int = RGB
    white: int = D65
    primaries: int = SRGB_PRIMARIES
    transfer: int | None = SRGB_TRANSFER
    """None where there is a plain power instead."""

    @property
    def is_srgb(self) -> bool:
        """Whether it is what everyone assumes where nothing is said."""
        return self.is_d65_709 and self.transfer == SRGB_TRANSFER

    @property
    def is_d65_709(self) -> bool:
        """Whether white and primaries are sRGB's, whatever the curve."""
        return self.white == D65 and (self.space == GREY or (self.space == RGB and self.primaries == SRGB_PRIMARIES))


@dataclass(frozen=True)
class Header:
    """What stands before the first frame, with the places (in bits) that rewriting needs."""

    height: int
    width: int
    bits: int
    is_float: bool
    orientation: int
    animated: bool
    extra_channels: tuple[int, ...]
    """The kind of each; 0 is alpha."""
    premultiplied: bool
    xyb: bool
    has_profile: bool
    colours: Colours
    size_end: int
    basics: tuple[int, int]
    """From the bit depth up to the colour encoding."""
    depth_end: int
    colour_end: int
    tone_end: int
    end: int
    """Where the profile begins, or the padding before the first frame."""
    all_default: bool
    extra_fields: tuple[int, int]
    """Size, preview and animation, behind the orientation; empty where there are none."""


class _Bits:
    """Bits from the lowest of each byte upwards, as JPEG XL counts them."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data[:_LARGEST_HEADER_BYTES], "little")
        self.length = 8 * min(len(data), _LARGEST_HEADER_BYTES)
        self.at = 0

    def take(self, count: int) -> int:
        if self.at + count > self.length:
            raise InputError("the JPEG XL header is cut short", hint="copy the file again from where it came from")
        found = self.value >> self.at & ((1 << count) - 1)
        self.at += count
        return found

    def flag(self) -> bool:
        return bool(self.take(1))

    def choice(self, options: tuple[tuple[int, int], ...]) -> int:
        offset, count = options[self.take(2)]
        return offset + self.take(count)


def parse(stream: bytes) -> Header:
    """Read the header of a codestream.

    Raises:
        InputError: If it is cut short or no codestream.
        UnsupportedError: If it uses what no photograph does.
    """
    if not stream.startswith(SIGNATURE):
        raise InputError("got a JPEG XL file without a codestream")
    bits = _Bits(stream)
    bits.take(16)
    height, width = _size(bits)
    size_end = bits.at
    all_default = bits.flag()
    orientation, animated, between = 1, False, (bits.at, bits.at)
    kinds: tuple[int, ...] = ()
    depth, is_float, premultiplied, xyb = 8, False, False, True
    has_profile, colours = False, Colours()
    has_extra_fields = False
    basics = (bits.at, bits.at)
    depth_end = colour_end = tone_end = bits.at
    if not all_default:
        has_extra_fields = bits.flag()
        if has_extra_fields:
            orientation, animated, between = _extra_fields(bits)
        begin = bits.at
        depth, is_float = _depth(bits)
        depth_end = bits.at
        bits.flag()  # 16-bit buffers are enough
        kinds, premultiplied = _extra_channels(bits)
        xyb = bits.flag()
        basics = (begin, bits.at)
        has_profile, colours = _colours(bits)
        colour_end = bits.at
        if has_extra_fields and not bits.flag():
            bits.take(16 + 16 + 1 + 16)  # intensity, blackest nits, relative or not, linear below
        tone_end = bits.at
        if bits.take(2):
            raise UnsupportedError("got a JPEG XL header with extensions, which are not known here")
    if not bits.flag():
        raise UnsupportedError("got a JPEG XL file with its own upsampling weights, which is not known here")
    return Header(
        height=height, width=width, bits=depth, is_float=is_float, orientation=orientation, animated=animated,
        extra_channels=kinds, premultiplied=premultiplied, xyb=xyb, has_profile=has_profile, colours=colours,
        size_end=size_end, basics=basics, depth_end=depth_end, colour_end=colour_end, tone_end=tone_end, end=bits.at,
        all_default=all_default, extra_fields=between,
    )  # fmt: skip


def _size(bits: _Bits) -> tuple[int, int]:
    in_eights = bits.flag()
    height = 8 * (1 + bits.take(5)) if in_eights else bits.choice(_SIZES)
    ratio = bits.take(3)
    if ratio == 0:
        return height, 8 * (1 + bits.take(5)) if in_eights else bits.choice(_SIZES)
    across, down = _RATIOS[ratio]
    return height, height * across // down


def _extra_fields(bits: _Bits) -> tuple[int, bool, tuple[int, int]]:
    orientation = 1 + bits.take(3)
    begin = bits.at
    if bits.flag():
        _size(bits)
    if bits.flag():
        raise UnsupportedError("got a JPEG XL file with a preview, which would be lost")
    animated = bits.flag()
    if animated:
        raise UnsupportedError("got an animated JPEG XL, expected one picture", hint="take its frames apart first")
    return orientation, animated, (begin, begin if bits.at == begin + 3 else bits.at)


def _depth(bits: _Bits) -> tuple[int, bool]:
    if not bits.flag():
        return bits.choice(((8, 0), (10, 0), (12, 0), (1, 6))), False
    depth = bits.choice(((32, 0), (16, 0), (24, 0), (1, 6)))
    bits.take(4)  # bits of the exponent
    return depth, True


def _extra_channels(bits: _Bits) -> tuple[tuple[int, ...], bool]:
    kinds: list[int] = []
    premultiplied = False
    for _ in range(bits.choice(((0, 0), (1, 0), (2, 4), (1, 12)))):
        if bits.flag():
            kinds.append(ALPHA)
            continue
        kinds.append(bits.choice(_ENUM))
        _depth(bits)
        bits.choice(((0, 0), (3, 0), (4, 0), (1, 3)))  # subsampling
        for _ in range(bits.choice(((0, 0), (0, 4), (16, 5), (48, 10)))):
            bits.take(8)  # the name
        if kinds[-1] == ALPHA:
            premultiplied = bits.flag() or premultiplied
        elif kinds[-1] in (2, 5):
            raise UnsupportedError("got a JPEG XL file with spot colours or a sensor's pattern, expected grey or RGB")
    return tuple(kinds), premultiplied


def _colours(bits: _Bits) -> tuple[bool, Colours]:
    """Return whether a profile follows, and the encoding by number."""
    if bits.flag():
        return False, Colours()
    has_profile = bits.flag()
    space = bits.choice(_ENUM)
    if has_profile:
        return True, Colours(space=space)
    white = primaries = 0
    if space != 2:  # XYB has its own white
        white = bits.choice(_ENUM)
        if white == 2:
            _coordinates(bits, 1)
    if space not in (2, GREY):
        primaries = bits.choice(_ENUM)
        if primaries == 2:
            _coordinates(bits, 3)
    transfer: int | None = None
    if bits.flag():
        bits.take(24)
    else:
        transfer = bits.choice(_ENUM)
    bits.choice(_ENUM)  # rendering intent
    return False, Colours(space, white, primaries, transfer)


def _coordinates(bits: _Bits, count: int) -> None:
    for _ in range(2 * count):
        bits.choice(((0, 19), (524288, 19), (1048576, 20), (2097152, 21)))
