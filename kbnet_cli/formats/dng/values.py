"""DNG's numbers as entries of a directory."""

import struct
from collections.abc import Iterable
from fractions import Fraction

from kbnet_cli.formats.ifd import Entry, Order

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _SRATIONAL, _DOUBLE = 1, 2, 3, 4, 5, 10, 12
_FINEST = 1_000_000


def octets(tag: int, *values: int) -> Entry:
    """Make an entry of bytes."""
    return Entry(tag, _BYTE, len(values), bytes(values))


def text(tag: int, value: str) -> Entry:
    """Make an entry of text, which DNG has as ASCII."""
    stored = value.encode("ascii", "replace") + b"\0"
    return Entry(tag, _ASCII, len(stored), stored)


def shorts(tag: int, order: Order, *values: int) -> Entry:
    """Make an entry of numbers of 16 bits."""
    return Entry(tag, _SHORT, len(values), struct.pack(f"{order}{len(values)}H", *values))


def longs(tag: int, order: Order, *values: int) -> Entry:
    """Make an entry of numbers of 32 bits."""
    return Entry(tag, _LONG, len(values), struct.pack(f"{order}{len(values)}I", *values))


def rationals(tag: int, order: Order, values: Iterable[float | int], *, signed: bool = False) -> Entry:
    """Make an entry of fractions of at most a million parts."""
    fractions = [Fraction(value).limit_denominator(_FINEST) for value in values]
    numbers = [number for fraction in fractions for number in fraction.as_integer_ratio()]
    packed = struct.pack(f"{order}{len(numbers)}{'i' if signed else 'I'}", *numbers)
    return Entry(tag, _SRATIONAL if signed else _RATIONAL, len(fractions), packed)


def doubles(tag: int, order: Order, values: Iterable[float | int]) -> Entry:
    """Make an entry of floats of 64 bits."""
    listed = tuple(values)
    return Entry(tag, _DOUBLE, len(listed), struct.pack(f"{order}{len(listed)}d", *listed))


def floats(entry: Entry | None, order: Order) -> tuple[float, ...]:
    """Read a fraction, a float or an integer as floats; empty where there is none or it is not a number."""
    if entry is None or entry.value is None:
        return ()
    if entry.type in (_RATIONAL, _SRATIONAL):
        letter = "I" if entry.type == _RATIONAL else "i"
        numbers = struct.unpack(f"{order}{2 * entry.count}{letter}", entry.value)
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
        return tuple(a / b for a, b in pairs) if all(b for _, b in pairs) else ()
    if entry.type in (11, _DOUBLE):
        return struct.unpack(f"{order}{entry.count}{'f' if entry.type == 11 else 'd'}", entry.value)
    return tuple(map(float, entry.integers(order)))
