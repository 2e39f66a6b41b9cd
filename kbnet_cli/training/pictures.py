"""The clean pictures of a training: photos shrunk in linear light, and scenes in their colours, all in memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, UnidentifiedImageError

from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.errors import InputError
from kbnet_cli.training.recipe import DataRecipe
from kbnet_cli.training.scenes import Palette, scene

PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}
PALETTE_SIZE = 4096
HELD_OUT_PATCH = 128
HELD_OUT_PATCHES = 24

Picture = UInt8[np.ndarray, "_ _ c"]
"""Of any height and width, display-encoded."""


@dataclass(frozen=True)
class Pictures:
    """What patches are cut from, and the patches that are never trained on."""

    photos: tuple[Picture, ...]
    scenes: tuple[Picture, ...]
    held_out: UInt8[np.ndarray, "b p p c"]


def prepare(
    recipe: DataRecipe,
    photos_folder: Path | None,
    *,
    patch: int,
    margin: int,
    seed: int,
    cache: Path | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> Pictures:
    """Read and shrink the photos of a folder and draw the scenes; a cache file may keep them.

    Args:
        recipe: what is prepared.
        photos_folder: None to train on scenes alone.
        patch: pixels a side of what is trained on.
        margin: pixels that degradations need around it on each side.
        seed: of the scenes and of the choice of held-out photos.
        cache: an .npz file; made if it is not there.
        progress: told how many of the photos and scenes are done, and how many there are.

    Raises:
        InputError: the folder is not there, or holds no photo that is large enough, or one that cannot be read.
    """
    if cache is not None and cache.is_file():
        return _read_cache(cache)
    if photos_folder is not None and not photos_folder.is_dir():
        raise InputError(f"{photos_folder}: is no folder", hint="give a folder of photos")
    generator = np.random.default_rng(seed)
    files = sorted(path for path in photos_folder.rglob("*") if is_photo(path)) if photos_folder is not None else []
    scene_count = recipe.scenes if files else max(recipe.scenes, 2)
    total = len(files) + scene_count
    needed = max(patch, HELD_OUT_PATCH) + 2 * margin
    held_out_side = HELD_OUT_PATCH + 2 * margin
    photos: list[list[Picture]] = []
    for done, path in enumerate(files):
        progress(done, total)
        photos.append(_read_shrunk(path, recipe.shrink, needed))
    photos = [sizes for sizes in photos if sizes]
    if photos_folder is not None and len(photos) <= recipe.held_out_photos:
        raise InputError(
            f"{photos_folder}: {len(photos)} photos that are large enough, expected more than the "
            f"{recipe.held_out_photos} held out",
            hint=f"give a folder of photos of at least {min(recipe.shrink) * needed} pixels a side",
        )
    order = generator.permutation(len(photos))
    kept = [picture for index in order[recipe.held_out_photos :] for picture in photos[index]]
    held_out = [picture for index in order[: recipe.held_out_photos] for picture in photos[index]]
    scenes = []
    for done in range(scene_count):
        progress(len(files) + done, total)
        scenes.append(scene(generator, max(recipe.scene_size, needed), _palette(generator, kept)))
    if not kept:
        held_out, scenes = scenes[: max(1, scene_count // 10)], scenes[max(1, scene_count // 10) :]
    progress(total, total)
    pictures = Pictures(
        photos=tuple(kept),
        scenes=tuple(scenes),
        held_out=np.stack(
            [_cut(generator, held_out[i % len(held_out)], held_out_side) for i in range(HELD_OUT_PATCHES)]
        )
        if held_out
        else np.zeros((0, held_out_side, held_out_side, 3), np.uint8),
    )
    if cache is not None:
        _write_cache(cache, pictures)
    return pictures


def is_photo(path: Path) -> bool:
    """Say whether a file's name is that of a photo to train on."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith(".")


def cut(
    pictures: Pictures, generator: np.random.Generator, *, side: int, scene_share: float
) -> Float32[np.ndarray, "h w c"]:
    """Cut a random square, turned and mirrored at random, display-encoded 0…1.

    Large pictures are chosen more often, by the square root of their area, so that the strongly shrunk, sharp ones have
    their say. It is the busier of two squares, because most of most photos is sky and wall.
    """
    if not pictures.photos or (pictures.scenes and generator.uniform() < scene_share):
        picture = pictures.scenes[generator.integers(len(pictures.scenes))]
    else:
        weights = np.sqrt([float(photo.shape[0] * photo.shape[1]) for photo in pictures.photos])
        picture = pictures.photos[generator.choice(len(weights), p=weights / weights.sum())]
    candidates = [_cut(generator, picture, side) for _ in range(2)]
    chosen = np.rot90(max(candidates, key=_busyness), int(generator.integers(4)))
    if generator.integers(2):
        chosen = chosen[:, ::-1]
    return chosen.astype(np.float32) / np.float32(255)


def flat(generator: np.random.Generator, side: int) -> Float32[np.ndarray, "h w 3"]:
    """Draw a square of one colour, or of an even way from one to another; any colours, display-encoded 0…1."""
    first, second = generator.uniform(0, 1, (2, 3))
    if generator.integers(2):
        second = first
    angle = generator.uniform(0, 2 * np.pi)
    down, right = np.mgrid[:side, :side] / side - 0.5
    along = 0.5 + (np.cos(angle) * down + np.sin(angle) * right) / np.sqrt(2)
    return (first + along[..., None] * (second - first)).astype(np.float32)


def _busyness(picture: Picture) -> float:
    green = picture[..., 1].astype(np.float32)
    return float(np.abs(np.diff(green, axis=0)).mean() + np.abs(np.diff(green, axis=1)).mean())


def _cut(generator: np.random.Generator, picture: Picture, side: int) -> Picture:
    top = generator.integers(picture.shape[0] - side + 1)
    left = generator.integers(picture.shape[1] - side + 1)
    return picture[top : top + side, left : left + side]


def _palette(generator: np.random.Generator, photos: list[Picture]) -> Palette:
    """Take the colours of one photo: those of a scene belong together, as those of a place do."""
    if not photos:
        return _invented_palette(generator)
    pixels = photos[generator.integers(len(photos))].reshape(-1, 3)
    return Palette(pixels[generator.integers(len(pixels), size=PALETTE_SIZE)])


def _invented_palette(generator: np.random.Generator) -> Palette:
    """Draw colours where there is no photo to take them from.

    Photographs vary most in brightness, least in colour, and a place has few hues (Ruderman, Cronin and Chiao,
    Statistics of cone responses to natural images, 1998): a brightness each, and colours around three.
    """
    brightness = generator.beta(1.2, 1.4, (PALETTE_SIZE, 1))
    hues = generator.normal(0, 0.12, (3, 3))
    tints = hues[generator.integers(3, size=PALETTE_SIZE)] + generator.normal(0, 0.02, (PALETTE_SIZE, 3))
    colours = brightness * (1 + tints - tints.mean(axis=1, keepdims=True))
    return Palette(np.rint(255 * np.clip(colours, 0, 1)).astype(np.uint8))


def _read_shrunk(path: Path, factors: tuple[int, ...], smallest: int) -> list[Picture]:
    """Read a photo and shrink it by each factor that leaves it large enough."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path}: cannot be read: {error}", hint="take it out of the folder") from error
    return shrunk(pixels, [factor for factor in factors if min(pixels.shape[:2]) // factor >= smallest])


def shrunk(pixels: Picture, factors: Iterable[int]) -> list[Picture]:
    """Average squares of so many pixels a side in linear light; what fills no square at the edge is left away."""
    planes = [Image.fromarray(_LINEAR[pixels[..., channel]]) for channel in range(pixels.shape[2])]
    pictures = []
    for factor in factors:
        box = (0, 0, pixels.shape[1] // factor * factor, pixels.shape[0] // factor * factor)
        means = np.stack([np.asarray(plane.reduce(factor, box)) for plane in planes], axis=-1)
        pictures.append(np.rint(255 * np.clip(srgb_encode(means), 0, 1)).astype(np.uint8))
    return pictures


_LINEAR = srgb_decode(np.arange(256, dtype=np.float32) / np.float32(255))
"""The light of each 8-bit value."""


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
