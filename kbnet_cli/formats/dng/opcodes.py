"""DNG's opcode lists: what a developer is asked to do to the samples at three points of its work.

DNG specification 1.7, chapter 7. The first list works on samples as stored, the second on linear ones before they are
demosaiced, the third after that. Lists are big-endian whatever the file is.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from kbnet_cli.formats.dng.source import Source
from kbnet_cli.formats.ifd import Entry

_LISTS = (51008, 51009, 51022)
_NAMES = {
    1: "WarpRectilinear",
    2: "WarpFisheye",
    3: "FixVignetteRadial",
    4: "FixBadPixelsConstant",
    5: "FixBadPixelsList",
    6: "TrimBounds",
    7: "MapTable",
    8: "MapPolynomial",
    9: "GainMap",
    10: "DeltaPerRow",
    11: "DeltaPerColumn",
    12: "ScalePerRow",
    13: "ScalePerColumn",
    14: "WarpRectilinear2",
}
_VIGNETTE, _POLYNOMIAL, _GAIN = 3, 8, 9
_LOSSY_JPEG, _COMPRESSION, _PATTERN_SIZE, _PATTERN = 34892, 259, 33421, 33422
_UNDEFINED = 7
_MOST = 10_000
_HEAD = struct.Struct(">IIII")
_AREA = struct.Struct(">8I")  # top, left, bottom, right, plane, planes, pitch of rows and of columns
_MAP = struct.Struct(">2I4dI")  # points down and across, their spacing, the first one's place, planes


@dataclass(frozen=True)
class Opcode:
    """One step, its parameters as stored."""

    kind: int
    version: int
    flags: int
    parameters: bytes

    @property
    def name(self) -> str:
        """What the specification calls it."""
        return _NAMES.get(self.kind, f"opcode {self.kind}")


@dataclass(frozen=True)
class Opcodes:
    """The lists that hold for a demosaiced picture, as entries, and the names of the steps that are left out."""

    entries: tuple[Entry, ...] = ()
    left_out: tuple[str, ...] = ()


def carry(source: Source | None, size: tuple[int, int]) -> Opcodes:
    """Return what of a file's lists holds for its demosaiced picture of this height and width.

    The third list does where the picture is the whole active area. So does the second if the file held no mosaic; of
    one for a mosaic, gains for each site of a Bayer pattern become gains for each channel. The first list speaks of
    samples as they were stored, and is done with.
    """
    if source is None:
        return Opcodes()
    read = [_read(entry.value if entry else None) for entry in map(source.find_raw, _LISTS)]
    same = source.size() == size
    first, second, third = ([] if one is None else one for one in read)
    kept = list(_second(source, second, size)) if same else []
    entries = [_write(tag, ops) for tag, ops in ((_LISTS[1], kept), (_LISTS[2], third if same else [])) if ops]
    kinds = {opcode.kind for opcode in kept} | ({_POLYNOMIAL} if _is_lossy(source) else set())
    gone = [*first, *(each for each in second if each.kind not in kinds), *([] if same else third)]
    names = dict.fromkeys(opcode.name for opcode in gone)
    damaged = [f"OpcodeList{index + 1}, which is damaged" for index, one in enumerate(read) if one is None]
    return Opcodes(tuple(entries), (*names, *damaged))


def _read(value: bytes | None) -> list[Opcode] | None:
    """Read a list; None if it is damaged."""
    if not value:
        return []
    if len(value) < 4:
        return None
    (count,) = struct.unpack_from(">I", value)
    opcodes: list[Opcode] = []
    at = 4
    if count > _MOST:
        return None
    for _ in range(count):
        if at + _HEAD.size > len(value):
            return None
        kind, version, flags, size = _HEAD.unpack_from(value, at)
        at += _HEAD.size
        if at + size > len(value):
            return None
        opcodes.append(Opcode(kind, version, flags, value[at : at + size]))
        at += size
    return opcodes


def _write(tag: int, opcodes: Iterable[Opcode]) -> Entry:
    parts = [_HEAD.pack(o.kind, o.version, o.flags, len(o.parameters)) + o.parameters for o in opcodes]
    value = struct.pack(">I", len(parts)) + b"".join(parts)
    return Entry(tag, _UNDEFINED, len(value), value)


def _is_lossy(source: Source) -> bool:
    """Tell whether samples are stored on a curve that the second list undoes, which LibRaw then has done."""
    return source.raw.integer(_COMPRESSION, source.layout.order, 1) == _LOSSY_JPEG


def _second(source: Source, opcodes: list[Opcode], size: tuple[int, int]) -> Iterator[Opcode]:
    """Return what of the second list holds for the demosaiced picture."""
    if source.demosaiced:
        yield from (each for each in opcodes if not (each.kind == _POLYNOMIAL and _is_lossy(source)))
        return
    yield from (each for each in opcodes if each.kind == _VIGNETTE)
    gains = [each for each in opcodes if each.kind == _GAIN]
    merged = _by_channel(source, gains, size)
    yield from merged


def _by_channel(source: Source, gains: list[Opcode], size: tuple[int, int]) -> list[Opcode]:
    """Turn one gain map for each site of a 2 × 2 pattern into one for each channel; nothing where they are other."""
    pattern = source.raw.value(_PATTERN) or b""
    if source.raw.integers(_PATTERN_SIZE, source.layout.order) != (2, 2) or len(pattern) != 4 or len(gains) != 4:
        return []
    of_channel: dict[int, list[Opcode]] = {}
    sites = set()
    for each in gains:
        if len(each.parameters) < _AREA.size + _MAP.size:
            return []
        top, left, bottom, right, plane, planes, *pitch = _AREA.unpack_from(each.parameters)
        whole = top < 2 and left < 2 and bottom >= size[0] - 1 and right >= size[1] - 1
        if not whole or (plane, planes, *pitch) != (0, 1, 2, 2):
            return []
        sites.add((top, left))
        of_channel.setdefault(pattern[2 * top + left], []).append(each)
    if len(sites) != 4 or sorted(of_channel) != [0, 1, 2]:
        return []
    merged = [_merge(channel, of_channel[channel], size) for channel in sorted(of_channel)]
    return [each for each in merged if each is not None] if all(merged) else []


def _merge(channel: int, opcodes: list[Opcode], size: tuple[int, int]) -> Opcode | None:
    """Average maps of one channel, which must have the same points."""
    heads = {each.parameters[_AREA.size : _AREA.size + _MAP.size] for each in opcodes}
    if len(heads) != 1:
        return None
    down, across, *_, planes = _MAP.unpack(heads.pop())
    start = _AREA.size + _MAP.size
    if planes != 1 or any(len(each.parameters) != start + 4 * down * across for each in opcodes):
        return None
    tables = [struct.unpack_from(f">{down * across}f", each.parameters, start) for each in opcodes]
    means = [sum(column) / len(tables) for column in zip(*tables, strict=True)]
    head = _AREA.pack(0, 0, *size, channel, 1, 1, 1) + opcodes[0].parameters[_AREA.size : start]
    return replace(opcodes[0], parameters=head + struct.pack(f">{len(means)}f", *means))
