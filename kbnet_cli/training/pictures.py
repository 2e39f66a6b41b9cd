"""The clean pictures of a training: photos shrunk in linear light, and scenes in their colours, all in memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from kbnet_cli.errors import InputError
from kbnet_cli.training.recipe import DataRecipe
from kbnet_cli.training.scenes import Palette, scene

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
PALETTE_SIZE = 4096
HELD_OUT_PATCH = 128

Picture = UInt8[np.ndarray, "_ _ c"]
"""Of any height and width, display-encoded."""


@dataclass(frozen=True)
class Pictures:
    """What patches are cut from, and the patches that are never trained on."""

    photos: tuple[Picture, ...]
    scenes: tuple[Picture, ...]
    held_out: UInt8[np.ndarray, "b p p c"]


def prepare(recipe: DataRecipe, photos_folder: Path, *, patch: int, seed: int, cache: Path | None = None) -> Pictures:
    """Read and shrink the photos of a folder and draw the scenes; minutes of work, so a cache file may keep it.

    Raises:
        InputError: the folder holds no photo that is large enough, or one that cannot be read.
    """
    if cache is not None and cache.is_file():
        return _read_cache(cache)
    generator = np.random.default_rng(seed)
    files = sorted(path for path in photos_folder.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    photos = [_shrunk(path, recipe.shrink, max(patch, HELD_OUT_PATCH)) for path in files]
    photos = [sizes for sizes in photos if sizes]
    if len(photos) <= recipe.held_out_photos:
        raise InputError(
            f"{photos_folder}: {len(photos)} photos, expected more than the {recipe.held_out_photos} held out",
            hint=f"give a folder of photos of at least {recipe.shrink[0] * HELD_OUT_PATCH} pixels a side",
        )
    order = generator.permutation(len(photos))
    kept = [picture for index in order[recipe.held_out_photos :] for picture in photos[index]]
    held_out = [picture for index in order[: recipe.held_out_photos] for picture in photos[index]]
    pictures = Pictures(
        photos=tuple(kept),
        scenes=tuple(scene(generator, recipe.scene_size, _palette(generator, kept)) for _ in range(recipe.scenes)),
        held_out=np.stack([_cut(generator, held_out[i % len(held_out)], HELD_OUT_PATCH) for i in range(24)])
        if held_out
        else np.zeros((0, HELD_OUT_PATCH, HELD_OUT_PATCH, 3), np.uint8),
    )
    if cache is not None:
        _write_cache(cache, pictures)
    return pictures


def batch(
    pictures: Pictures, generator: np.random.Generator, *, count: int, patch: int, scene_share: float
) -> Float32[np.ndarray, "b c h w"]:
    """Cut random patches, turned and mirrored at random, display-encoded 0…1.

    Large pictures are chosen more often, by the square root of their area, so that the strongly shrunk, sharp ones have
    their say. Each patch is the busier of two, because most of most photos is sky and wall.
    """
    weights = np.sqrt([float(picture.shape[0] * picture.shape[1]) for picture in pictures.photos])
    weights /= weights.sum()
    patches = np.empty((count, 3, patch, patch), np.float32)
    for index in range(count):
        if pictures.scenes and generator.uniform() < scene_share:
            picture = pictures.scenes[generator.integers(len(pictures.scenes))]
        else:
            picture = pictures.photos[generator.choice(len(weights), p=weights)]
        candidates = [_cut(generator, picture, patch) for _ in range(2)]
        chosen = np.rot90(max(candidates, key=_busyness), int(generator.integers(4)))
        if generator.integers(2):
            chosen = chosen[:, ::-1]
        patches[index] = chosen.transpose(2, 0, 1)
    patches /= np.float32(255)
    return patches


def _busyness(picture: Picture) -> float:
    green = picture[..., 1].astype(np.float32)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def _cut(generator: np.random.Generator, picture: Picture, side: int) -> Picture:
    top = generator.integers(picture.shape[0] - side + 1)
    left = generator.integers(picture.shape[1] - side + 1)
    return picture[top : top + side, left : left + side]


def _palette(generator: np.random.Generator, photos: list[Picture]) -> Palette:
    """Take the colours of one photo: those of a scene belong together, as those of a place do."""
    pixels = photos[generator.integers(len(photos))].reshape(-1, 3)
    return Palette(pixels[generator.integers(len(pixels), size=PALETTE_SIZE)])


def _shrunk(path: Path, factors: tuple[int, ...], smallest: int) -> list[Picture]:
    """Read a photo and shrink it by each factor that leaves it large enough."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="take it out of the folder") from error
    return [shrink(pixels, factor) for factor in factors if min(pixels.shape[:2]) // factor >= smallest]


def shrink(pixels: Picture, factor: int) -> Picture:
    """Average squares of factor × factor pixels in linear light; what fills no square at the edge is left away."""
    linear = _LINEAR[pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]]
    height, width = linear.shape[0] // factor, linear.shape[1] // factor
    mean = linear.reshape(height, factor, width, factor, 3).mean(axis=(1, 3), dtype=np.float32)
    encoded = np.where(mean <= 0.0031308, 12.92 * mean, 1.055 * mean ** (1 / 2.4) - 0.055)
    return np.rint(255 * np.clip(encoded, 0, 1)).astype(np.uint8)


def _srgb_to_linear() -> Float32[np.ndarray, " 256"]:
    """Tabulate the sRGB curve, IEC 61966-2-1."""
    encoded = np.arange(256) / 255
    table: Float32[np.ndarray, " 256"] = np.where(
        encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4
    ).astype(np.float32)
    return table


_LINEAR = _srgb_to_linear()


def _write_cache(cache: Path, pictures: Pictures) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    partial = cache.with_name(cache.name + ".partial.npz")
    photos = {f"photo_{index:05}": picture for index, picture in enumerate(pictures.photos)}
    scenes = {f"scene_{index:05}": picture for index, picture in enumerate(pictures.scenes)}
    arrays: dict[str, np.ndarray] = {**photos, **scenes, "held_out": pictures.held_out}
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(cache)


def _read_cache(cache: Path) -> Pictures:
    with np.load(cache, allow_pickle=False) as arrays:
        names = sorted(arrays.files)
        return Pictures(
            photos=tuple(arrays[name] for name in names if name.startswith("photo")),
            scenes=tuple(arrays[name] for name in names if name.startswith("scene")),
            held_out=arrays["held_out"],
        )
