"""How a TIFF page stores its samples, read from its directory and checked before anything is decoded."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats.ifd import Directory, Layout, read_chain, read_layout
from kbnet_cli.photo import ColourModel

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
UNCOMPRESSED = 1
CONTIGUOUS, SEPARATE = 1, 2
ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA = 1, 2
_LOSSLESS = frozenset({1, 2, 3, 4, 5, 8, 32946, 32773, 34925, 50000})
"""Compressions that keep each sample: none, the fax codes, LZW, deflate, PackBits, LZMA and Zstandard."""

_COLOUR_SAMPLES = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, SEPARATED: 4, YCBCR: 3}
_COLOURS: dict[int, ColourModel] = {
    WHITE_IS_ZERO: "grey",
    BLACK_IS_ZERO: "grey",
    RGB: "rgb",
    PALETTE: "rgb",
    SEPARATED: "cmyk",
    YCBCR: "rgb",
}
_REFUSED = {
    8: "CIE L*a*b*",
    9: "ICC L*a*b*",
    10: "ITU L*a*b*",
    4: "a transparency mask",
    32844: "LogL",
    32845: "LogLuv",
}
_YCBCR_CODECS = frozenset({6, 7, 50001})  # JPEG, old and new, and WebP: their decoders give RGB
_JPEG, _END_OF_IMAGE = 7, b"\xff\xd9"
_MOST_EXTRA = 16
_SAMPLE_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 4: "untyped", 5: "complex", 6: "complex"}


@dataclass(frozen=True)
class Structure:
    """Sizes, types and places of a page's samples."""

    height: int
    width: int
    samples: int
    bits: int
    sample_format: int
    photometric: int
    compression: int
    predictor: int
    planar: int
    extra: tuple[int, ...]
    """What each sample beyond the colours means: 0 unsaid, 1 associated alpha, 2 unassociated alpha."""
    tile: tuple[int, int] | None
    """Height and width of a tile; None for strips."""
    rows: int
    """Rows of a strip."""
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]

    @property
    def colour(self) -> ColourModel:
        """What the colours become; a palette's are RGB."""
        return _COLOURS[self.photometric]

    @property
    def lossless(self) -> bool:
        """Whether the compression keeps each sample."""
        return self.compression in _LOSSLESS

    @property
    def has_alpha(self) -> bool:
        """Whether the one sample beside the colours is said to be opacity."""
        return self.extra in ((ASSOCIATED_ALPHA,), (UNASSOCIATED_ALPHA,))

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """First and last-but-one byte of each strip or tile."""
        return tuple((at, at + size) for at, size in zip(self.offsets, self.byte_counts, strict=True))


@dataclass(frozen=True)
class File:
    """A TIFF file's pages, and which of them is the photo."""

    layout: Layout
    pages: tuple[Directory, ...]
    main: int
    """The first page that does not call itself a smaller copy of another."""

    @property
    def directory(self) -> Directory:
        """The photo's directory."""
        return self.pages[self.main]


def read_file(data: bytes) -> File:
    """Read the directories of all pages.

    Raises:
        InputError: the file is not TIFF, is cut short, or has no page.
    """
    layout = read_layout(data)
    pages = tuple(read_chain(data))
    if not pages:
        raise InputError("got a TIFF file without a page")
    whole = (i for i, page in enumerate(pages) if not page.integer(254, layout.order, 0) & 1)
    return File(layout, pages, next(whole, 0))


def read_structure(file: File) -> Structure:
    """Read how the photo's page is stored.

    Raises:
        InputError: something makes no sense.
        UnsupportedError: the page is of a kind that could not be written back.
    """
    page, order = file.directory, file.layout.order
    height, width = page.integer(257, order, 0), page.integer(256, order, 0)
    samples = page.integer(277, order, 1)
    photometric = _photometric(page, file.layout, samples)
    bits = _same(page.integers(258, order) or (1,), "bits per sample")
    tiled = page.find(322) is not None or page.find(324) is not None
    rows = page.integer(278, order, height)
    structure = Structure(
        height=height,
        width=width,
        samples=samples,
        bits=bits,
        sample_format=_same(page.integers(339, order) or (UNSIGNED,), "sample formats"),
        photometric=photometric,
        compression=page.integer(259, order, UNCOMPRESSED),
        predictor=page.integer(317, order, 1),
        planar=page.integer(284, order, CONTIGUOUS) if samples > 1 else CONTIGUOUS,
        extra=_extra(page, file.layout, samples - _COLOUR_SAMPLES[photometric]),
        tile=(page.integer(323, order, 0), page.integer(322, order, 0)) if tiled else None,
        rows=min(rows, height) or height,
        offsets=page.integers(324 if tiled else 273, order) or page.integers(273, order),
        byte_counts=page.integers(325 if tiled else 279, order) or page.integers(279, order),
    )
    _check_kind(page, file.layout, structure)
    return structure


def check_whole(data: bytes, structure: Structure) -> Structure:
    """Return the structure with its segments counted and seen to lie within the file.

    Raises:
        InputError: a strip or tile is missing or cut short.
    """
    name = "tile" if structure.tile else "strip"
    expected = _segments(structure)
    offsets, counts = structure.offsets, structure.byte_counts
    if not counts and len(offsets) == 1 == expected:
        # TIFF 6.0 asks for the counts, but old writers left them out where there is one strip.
        counts = (min(_needed(structure, 0), len(data) - offsets[0]),)
        counts = counts if structure.compression == UNCOMPRESSED else (len(data) - offsets[0],)
    if len(offsets) < expected or len(counts) < expected:
        raise InputError(f"got {min(len(offsets), len(counts))} {name}s of picture data, expected {expected}")
    offsets, counts = offsets[:expected], counts[:expected]
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        if offset + count > len(data):
            raise InputError(
                f"the file is cut short: {name} {index} ends at byte {offset + count}, but the file has {len(data)}",
                hint="copy the file again from where it came from",
            )
        needed = _needed(structure, index) if structure.compression == UNCOMPRESSED else 1
        if offset < 8 or count < needed:
            raise InputError(f"{name} {index} has {count} bytes of picture data, expected {needed}")
    if structure.compression == UNCOMPRESSED:
        # Some writers count the padding behind a strip too; it is no part of the picture.
        counts = tuple(min(count, _needed(structure, index)) for index, count in enumerate(counts))
    elif sum(counts) > len(data) + sum(_needed(structure, index) for index in range(expected)):
        # Blank tiles may share their bytes, but these are fewer than those of their pixels.
        raise InputError(f"the {name}s lie upon each other: {sum(counts)} bytes of picture data in {len(data)}")
    if structure.compression == _JPEG:
        for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
            # The decoder fills what is missing with grey and says nothing.
            if data.rfind(_END_OF_IMAGE, offset, offset + count) < 0:
                raise InputError(f"{name} {index} is JPEG without an end: its data is damaged")
    return replace(structure, offsets=offsets, byte_counts=counts)


def _segments(structure: Structure) -> int:
    planes = structure.samples if structure.planar == SEPARATE else 1
    if structure.tile:
        height, width = structure.tile
        return planes * -(-structure.height // height) * -(-structure.width // width)
    return planes * -(-structure.height // structure.rows)


def _needed(structure: Structure, index: int) -> int:
    """Return the bytes of an uncompressed segment."""
    together = 1 if structure.planar == SEPARATE else structure.samples
    if structure.tile:
        height, width = structure.tile
    else:
        strips = -(-structure.height // structure.rows)
        height = min(structure.rows, structure.height - index % strips * structure.rows)
        width = structure.width
    return height * (-(-width * together * structure.bits // 8))


def _photometric(page: Directory, layout: Layout, samples: int) -> int:
    # Fax files of old leave the tag out; white is zero there.
    default = WHITE_IS_ZERO if page.integer(259, layout.order, 1) in (2, 3, 4) else BLACK_IS_ZERO
    photometric = page.integer(262, layout.order, RGB if samples >= 3 else default)
    if photometric in _REFUSED:
        raise UnsupportedError(
            f"got {_REFUSED[photometric]} samples in TIFF, expected grey, RGB, palette, CMYK or YCbCr",
            hint="save it as RGB with an ICC profile first",
        )
    if photometric not in _COLOUR_SAMPLES:
        raise UnsupportedError(f"got photometric interpretation {photometric} in TIFF, expected 0 to 3, 5 or 6")
    return photometric


def _extra(page: Directory, layout: Layout, count: int) -> tuple[int, ...]:
    if count < 0:
        raise InputError(f"got {-count} samples of a pixel fewer than its colours need")
    if count > _MOST_EXTRA:
        raise UnsupportedError(f"got {count} samples of a pixel beside its colours, expected at most {_MOST_EXTRA}")
    said = page.integers(338, layout.order)[:count]
    known = tuple(kind if kind in (ASSOCIATED_ALPHA, UNASSOCIATED_ALPHA) else 0 for kind in said)
    return known + (0,) * (count - len(known))


def _same(values: Iterable[int], what: str) -> int:
    found = sorted(set(values))
    if len(found) != 1:
        raise UnsupportedError(f"got different {what} in one TIFF page: {', '.join(map(str, found))}, expected one")
    return found[0]


def _check_kind(page: Directory, layout: Layout, structure: Structure) -> None:
    known = structure.sample_format in (UNSIGNED, FLOAT, 4)
    if not known or (structure.sample_format == FLOAT and structure.bits not in (16, 24, 32, 64)):
        named = _SAMPLE_FORMATS.get(structure.sample_format, "unknown")
        raise UnsupportedError(f"got {structure.bits}-bit {named} samples in TIFF, expected unsigned or float")
    if structure.sample_format != FLOAT and not 1 <= structure.bits <= 16:
        raise UnsupportedError(
            f"got {structure.bits}-bit integer samples in TIFF, expected 1 to 16",
            hint="save it with 16-bit integers or 32-bit float",
        )
    if page.integer(32997, layout.order, 1) > 1:
        raise UnsupportedError("got a volume of several planes in one TIFF page, expected a picture")
    if structure.sample_format == FLOAT and structure.photometric in (WHITE_IS_ZERO, PALETTE, YCBCR):
        raise UnsupportedError(f"got float samples with photometric interpretation {structure.photometric} in TIFF")
    if structure.photometric == SEPARATED and page.integer(332, layout.order, 1) != 1:
        raise UnsupportedError("got separated inks other than CMYK in TIFF, expected CMYK")
    if structure.photometric == YCBCR and structure.compression not in _YCBCR_CODECS:
        raise UnsupportedError(
            f"got YCbCr samples with compression {structure.compression} in TIFF, expected JPEG",
            hint="save it as RGB first",
        )
    if structure.planar not in (CONTIGUOUS, SEPARATE):
        raise InputError(f"got planar configuration {structure.planar} in TIFF, expected 1 or 2")
    if structure.tile and min(structure.tile) < 1:
        raise InputError(f"got tiles of {structure.tile[1]}×{structure.tile[0]} pixels in TIFF")
