"""The header of a JPEG XL codestream written anew, with what encoders give no way to set; frames are not touched."""

from dataclasses import dataclass

from kbnet_cli.formats.codestream import GREY, RGB, SRGB_TRANSFER, parse


@dataclass(frozen=True)
class Profile:
    """A coded ICC profile inside another codestream, from bit to bit."""

    donor: bytes
    begin: int
    end: int


def rewrite(
    stream: bytes, *, orientation: int, profile: Profile | None = None, srgb: bool = False, bits: int | None = None
) -> bytes:
    """Return the codestream with another orientation; with a profile, the sRGB curve, or integer bits where asked for.

    Only for streams without preview and animation, as encoders write them; frames are not touched. A profile that is
    there already must be the same one. The bits can only be set where all colours are XYB, so that they say no more
    than what a decoder is to give.
    """
    header = parse(stream)
    assert header.extra_fields[0] == header.extra_fields[1]
    assert profile is not None or not header.has_profile
    out = _Writer()
    out.copy(stream, 0, header.size_end)
    out.put(0b10, 2)  # not all default; extra fields
    out.put(orientation - 1, 3)
    out.put(0, 3)  # no other size, preview, animation
    if header.all_default:
        # Eight integer bits, small buffers, no extra channels, XYB: the defaults, spelled out.
        out.put(0, 1 + 2)
        out.put(0b1001, 4)
    elif bits is not None:
        assert header.xyb
        _put_depth(out, bits)
        out.copy(stream, header.depth_end, header.basics[1])
    else:
        out.copy(stream, *header.basics)
    if profile is not None:
        out.put(0b10, 2)  # not all default; a profile
        out.put(header.colours.space, 2)  # RGB or grey: the first two choices of an enumeration
    elif header.all_default:
        out.put(1, 1)
    elif srgb:
        _put_srgb(out, header.colours.space)
    else:
        out.copy(stream, header.basics[1], header.colour_end)
    out.put(1, 1)  # default tone mapping
    out.put(0, 2)  # no extensions
    out.put(1, 1)  # default transform
    old_end = header.end
    if profile is not None:
        out.copy(profile.donor, profile.begin, profile.end)
        if header.has_profile:
            old_end += profile.end - profile.begin
    return out.to_bytes() + stream[-(-old_end // 8) :]


class _Writer:
    """Bits written from the lowest of each byte upwards."""

    def __init__(self) -> None:
        self.value = 0
        self.length = 0

    def put(self, value: int, count: int) -> None:
        self.value |= value << self.length
        self.length += count

    def copy(self, data: bytes, begin: int, end: int) -> None:
        window = int.from_bytes(data[begin // 8 : -(-end // 8)], "little") >> begin % 8
        self.put(window & ((1 << (end - begin)) - 1), end - begin)

    def to_bytes(self) -> bytes:
        return self.value.to_bytes(-(-self.length // 8), "little")


def _put_depth(out: _Writer, bits: int) -> None:
    out.put(0, 1)  # integers
    if bits in (8, 10, 12):
        out.put((8, 10, 12).index(bits), 2)
    else:
        out.put(3, 2)
        out.put(bits - 1, 6)


def _put_srgb(out: _Writer, space: int) -> None:
    """Write the sRGB curve and primaries; for RGB that is the default."""
    if space == RGB:
        out.put(1, 1)
        return
    out.put(0, 2)  # not all default; no profile
    out.put(GREY, 2)
    out.put(1, 2)  # D65: the second choice of an enumeration
    out.put(0, 1)  # no plain power
    out.put(2 | SRGB_TRANSFER - 2 << 2, 6)
    out.put(1, 2)  # relative rendering intent
