"""TIFF files made by code, and what tests compare in them."""

import io
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

from kbnet_cli.formats.ifd import Directory, read_chain, read_layout
from kbnet_cli.formats.tiff_rewrite import STORAGE

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'
IPTC = b"\x1c\x02\x05\x00\x05title"
NOTE = bytes(range(250)) * 2


def scene(*shape: int, kind: Any = np.uint8) -> np.ndarray:
    """Draw something that compresses, with noise on it."""
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) / (shape[0] + shape[1])
    values = ramp.reshape(*shape[:2], *(1 for _ in shape[2:])) + np.random.default_rng(1).normal(0, 0.02, shape)
    if np.dtype(kind).kind == "f":
        return values.astype(kind)
    return (np.clip(values, 0, 1) * np.iinfo(kind).max).astype(kind)


def make(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tags = [
        (37500, 7, len(NOTE), NOTE, True),
        (65000, 12, 2, (0.1, -1e300), True),
        (65001, 5, 1, (0, 0), True),
        (700, 1, len(XMP), XMP, True),
        (33723, 7, len(IPTC), IPTC, True),
        (34675, 7, len(ICC), ICC, True),
        (274, 3, 1, 6, True),
    ]
    with tifffile.TiffWriter(
        buffer, bigtiff=options.pop("bigtiff", False), byteorder=options.pop("byteorder", "<")
    ) as out:
        options = {"metadata": None, "software": "a camera", "extratags": tags, "resolution": (300, 300)} | options
        out.write(values, **options)
        out.write(scene(20, 30), metadata=None, subfiletype=1, compression="deflate")
        out.write(scene(11, 13, 3, kind=np.uint16), photometric="rgb", metadata=None, description="second page")
    return buffer.getvalue()


def pillow(data: bytes) -> np.ndarray:
    """Read as Pillow does, but for its habit to turn TIFF files by their orientation."""
    with Image.open(io.BytesIO(data)) as picture:
        turned = picture.getexif().get(274, 1)
        samples = np.asarray(picture)
    if turned >= 5:
        samples = samples.swapaxes(0, 1)
    upside_down, mirrored = turned in (3, 4, 6, 7), turned in (2, 3, 7, 8)
    return samples[:: -1 if upside_down else 1, :: -1 if mirrored else 1]


def same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is not None and other is not None and np.array_equal(one, other)


def directories(data: bytes) -> list[Directory]:
    return list(read_chain(data))


def kept(page: Directory) -> list[tuple[int, int, int, bytes | None]]:
    """List what a directory says beside how its samples are stored."""
    return sorted((e.tag, e.type, e.count, e.value) for e in page.entries if e.tag not in STORAGE)


def check_nothing_is_lost(before: bytes, after: bytes) -> None:
    """Compare all but the photo's samples, byte for byte."""
    old, new = directories(before), directories(after)
    assert len(old) == len(new)
    assert kept(new[0]) == kept(old[0])
    order = read_layout(before).order
    for was, becomes in zip(old[1:], new[1:], strict=True):
        assert (becomes.offset, becomes.entries) == (was.offset, was.entries)
        for at, size in zip(was.integers(273, order), was.integers(279, order), strict=True):
            assert before[at : at + size] == after[at : at + size]


KINDS: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
    "grey": (scene(37, 53), {"photometric": "minisblack"}),
    "grey 16 white is zero": (scene(37, 53, kind=np.uint16), {"photometric": "miniswhite"}),
    "rgb": (scene(37, 53, 3), {"photometric": "rgb"}),
    "rgb 16": (scene(37, 53, 3, kind=np.uint16), {"photometric": "rgb"}),
    "rgb float": (scene(37, 53, 3, kind=np.float32), {"photometric": "rgb"}),
    "grey float": (scene(37, 53, kind=np.float32), {"photometric": "minisblack"}),
    "cmyk": (scene(37, 53, 4), {"photometric": "separated"}),
    "cmyk 16 alpha": (scene(37, 53, 5, kind=np.uint16), {"photometric": "separated", "extrasamples": [2]}),
    "rgb alpha": (scene(37, 53, 4), {"photometric": "rgb", "extrasamples": [2]}),
    "rgb 16 multiplied": (scene(37, 53, 4, kind=np.uint16), {"photometric": "rgb", "extrasamples": [1]}),
    "rgb channels": (scene(37, 53, 6), {"photometric": "rgb", "extrasamples": [0, 2, 0]}),
    "grey alpha": (scene(37, 53, 2), {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": [2]}),
    "one pixel": (scene(1, 1, 3), {"photometric": "rgb"}),
    "three rows": (scene(3, 3, 3), {"photometric": "rgb"}),
}
STORED: dict[str, dict[str, Any]] = {
    "plain": {},
    "strips": {"rowsperstrip": 5},
    "deflate": {"compression": "deflate", "predictor": True, "rowsperstrip": 7},
    "lzw": {"compression": "lzw"},
    "packbits": {"compression": "packbits", "rowsperstrip": 1},
    "zstd": {"compression": "zstd"},
    "tiles": {"tile": (16, 32)},
    "deflated tiles": {"tile": (32, 16), "compression": "deflate"},
    "big": {"bigtiff": True, "compression": "deflate"},
    "other end": {"byteorder": ">", "rowsperstrip": 5},
    "other end, deflate": {"byteorder": ">", "compression": "deflate", "predictor": True},
}
