"""Trees of many small pictures as people keep them: odd names, odd content, some of it broken."""

import io
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.pictures import picture

Kind = Literal["good", "broken", "other"]

SCRIPTS = (
    "photo",
    "Фото",
    "写真",
    "사진",
    "φωτό",
    "صورة",
    "תמונה",
    "ภาพ",
    "🎞",
    "été",
    "e\u0301te\u0301",
    "a b'c\"d",
    "-dash",
    "50%",
)
BROKEN_IN_100 = 3


@dataclass(frozen=True)
class Planted:
    """One file of a tree."""

    below: str
    """Its path below the tree."""
    kind: Kind
    """good: it is restored; broken: it fails; other: it is passed over without a word."""
    output: str | None = None
    """Where the restored one lies, below the folder of outputs."""
    pixels: np.ndarray | None = None
    """What is in a lossless output of a network that adds nothing."""


def plant(folder: Path, count: int, *, seed: int = 0) -> list[Planted]:
    """Write so many pictures below a folder, 3 in 100 of them broken, and what is none between them."""
    luck = random.Random(seed)
    planted = []
    for each in _files(count, luck):
        below, data, found = each
        path = folder / below
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            path.symlink_to("nowhere.png")
        else:
            path.write_bytes(data)
        planted.append(found)
    return planted


def _files(count: int, luck: random.Random) -> Iterator[tuple[str, bytes | None, Planted]]:
    folders = _folders(luck)
    broken = set(luck.sample(range(count), round(count * BROKEN_IN_100 / 100)))
    for number in range(count):
        folder = luck.choice(folders)
        kind = luck.choice(list(WRITERS))
        pixels = picture(luck.randint(16, 48), luck.randint(16, 48), depth=8, seed=number)
        data, kept = WRITERS[kind](pixels, luck)
        stem = f"{luck.choice(SCRIPTS)}{number}"
        if number % 50 == 7:
            stem = _long(stem, len(kind) + 1)
        below = f"{folder}{stem}.{kind}"
        if number in broken:
            breaking = BREAKS[len(broken & set(range(number))) % len(BREAKS)]
            yield below, breaking(data), Planted(below, "broken")
        elif number % 40 == 11 and kind == "png":  # another content than the name says: it has the last word
            named = f"{folder}{stem}.jpg"
            yield named, data, Planted(named, "good", f"{folder}{stem}.png", kept)
        else:
            yield below, data, Planted(below, "good", below, kept)
        if number % 20 == 3:
            yield from _others(folder, number, data)


def _folders(luck: random.Random) -> list[str]:
    folders = ["", "Κρήτη 2019/", "été/", "deep/" * 12, "写真/第二/", "x" * 255 + "/", "a.b/c d/", "10/", "9/"]
    luck.shuffle(folders)
    return folders


def _long(stem: str, extension_bytes: int) -> str:
    """Fill a name up to 255 bytes, in a script of two bytes a letter."""
    free = 255 - extension_bytes - len(stem.encode())
    return stem + "ж" * (free // 2) + "z" * (free % 2)


def _others(folder: str, number: int, data: bytes) -> Iterator[tuple[str, bytes | None, Planted]]:
    for below, content in (
        (f"{folder}.hidden{number}.png", data),
        (f"{folder}.hidden{number}/in.png", data),
        (f"{folder}notes{number}.txt", b"not a picture"),
        (f"{folder}clip{number}.mp4", b"\0\0\0\x20ftypisom" + bytes(40)),
        (f"{folder}empty{number}", b""),
        (f"{folder}@eaDir/{number}.png", data),
    ):
        yield below, content, Planted(below, "other")


Writer = Callable[[np.ndarray, random.Random], tuple[bytes, np.ndarray | None]]


def _png(pixels: np.ndarray, luck: random.Random) -> tuple[bytes, np.ndarray | None]:
    pixels = luck.choice((pixels, pixels[..., 0], pixels.astype(np.uint16) * 257))
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels))), pixels


def _tif(pixels: np.ndarray, luck: random.Random) -> tuple[bytes, np.ndarray | None]:
    pixels = luck.choice((pixels, pixels.astype(np.uint16) * 255 + 3))
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb", compression=luck.choice((None, "deflate", "lzw")))
    return file.getvalue(), pixels


def _ppm(pixels: np.ndarray, _luck: random.Random) -> tuple[bytes, np.ndarray | None]:
    return b"P6\n%d %d\n255\n" % (pixels.shape[1], pixels.shape[0]) + pixels.tobytes(), pixels


def _jpg(pixels: np.ndarray, luck: random.Random) -> tuple[bytes, np.ndarray | None]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=luck.randint(70, 95), progressive=luck.random() < 0.3)
    return file.getvalue(), None  # it is compressed again


WRITERS: dict[str, Writer] = {
    "png": _png,
    "tif": _tif,
    "TIFF": _tif,
    "ppm": _ppm,
    "jpg": _jpg,
    "JPG": _jpg,
    "jpeg": _jpg,
}

BREAKS: tuple[Callable[[bytes], bytes | None], ...] = (
    lambda data: data[: len(data) // 2],
    lambda _data: b"",
    lambda _data: b"this is a letter and no picture\n" * 20,
    lambda _data: None,  # a link that leads nowhere
    lambda _data: b"8BPS\0\1" + bytes(200),  # Photoshop's own
    lambda data: data[:20],
)
