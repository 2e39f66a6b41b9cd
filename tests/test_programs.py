"""The DNG files that kbnet writes, in the programs that people will open them with."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rawpy

from tests import programs
from tests.conftest import TESTDATA
from tests.mosaics import XTRANS, Noise, mosaic_dng
from tests.programs import Pair, Rendered, convert, needs

pytestmark = pytest.mark.programs

EXAMPLES = Path(__file__).parent.parent / "examples"
NEUTRAL = (0.5, 1.0, 0.625)
LARGEST_DIFFERENCE = 0.01
"""Of white, on average over squares: between a raw file and the DNG of it, in the same program by the same settings."""
FEW = (
    "free/raw/derived_dng_CC0/g2_bayer_bggr_512.dng",
    "free/raw/derived_dng_CC0/g2_bayer_odd_511x333.dng",
    "free/raw/derived_dng_CC0/g2_bayer_rggb_orient8_480x320.dng",
    "free/raw/derived_dng_CC0/g2_monochrome_512.dng",
)
FOLDERS = ("free/raw", "research/raw_unstated_licence")
NOT_READ = ("BROKEN", "Issue_247-1.nef", "Canon-R6-pruned.CR3", "IMG_1361.dng")
"""Files that end too early."""
OTHER_COLOURS = {".qtk", ".kdc"}
"""LibRaw has colours of its own for these cameras of the nineties, which are no matrix that DNG could hold."""
SAME = (
    "Make", "Model", "LensModel", "LensInfo", "LensMake", "ExposureTime", "FNumber", "ISO", "FocalLength",
    "ExposureCompensation", "Orientation", "DateTimeOriginal", "CreateDate", "OffsetTimeOriginal", "GPSLatitude",
    "GPSLongitude", "GPSAltitude", "GPSDateStamp", "Artist", "Copyright", "SerialNumber", "LensSerialNumber", "Flash",
    "MeteringMode", "WhiteBalance",
)  # fmt: skip
"""What exiftool has to show alike, where the source has it."""
OF_CANON = ("Make", "Model", "ISO", "Orientation", "DateTimeOriginal")
"""The same of CRW, which has no EXIF: exiftool knows more of Canon's own records than LibRaw, which
tells the exposure that the camera aimed at (1/50 s) where exiftool shows the one it measured (1/54 s)."""


def scene(height: int = 324, width: int = 420) -> np.ndarray:
    """Return light in a camera's channels: patches from black to near white, with shades across them."""
    random = np.random.default_rng(5)
    colours = random.uniform(0.02, 0.7, (4, 5, 3))
    colours[0] = np.geomspace(0.003, 0.9, 5)[:, None]
    flat = np.kron(colours, np.ones((height // 4, width // 5, 1)))
    return np.asarray(flat * np.linspace(0.8, 1, width)[None, :, None] * NEUTRAL)


def synthetic() -> dict[str, bytes]:
    """Return a file of each kind of sensor."""
    noise = Noise(photons=20_000, read=3)
    light = scene()
    return {
        "grbg": mosaic_dng(light, pattern="GRBG", orientation=6, noise=noise),
        "margins": mosaic_dng(light, pattern="BGGR", margins=(6, 10, 4, 8), crop=(8, 8, 400, 304), noise=noise),
        # LibRaw demosaics X-Trans from 512 pixels on.
        "xtrans": mosaic_dng(scene(528, 540), pattern=XTRANS, noise=noise),
        "grey": mosaic_dng(light[..., 1], pattern="MONO", orientation=3, noise=noise),
        # A black level of three channels is what darktable and RawTherapee do not take off.
        "linear": mosaic_dng(light, pattern="LINEAR", black=0.0, white=65535.0, noise=noise),
    }


def real(group: str) -> list[Path]:
    if not TESTDATA.is_dir():
        return []
    if group == "few":
        return [TESTDATA / name for name in FEW]
    files = [path for folder in FOLDERS for path in sorted((TESTDATA / folder).rglob("*")) if path.is_file()]
    return [path for path in files if not path.name.startswith(NOT_READ)]


@pytest.fixture(scope="module", params=["few", pytest.param("all", marks=pytest.mark.slow)])
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    """Raw files of sensors of every kind and what kbnet made of them."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "written").mkdir()
    sources = real(request.param)
    if request.param == "few":
        for name, data in synthetic().items():
            sources.append(folder / f"{name}.dng")
            sources[-1].write_bytes(data)
    named = [(path, f"{number:02}-{path.stem}") for number, path in enumerate(sources)]
    return [convert(path, folder / "written" / f"{name}.dng") for path, name in named]


def differences(pair: Pair, before: np.ndarray, after: np.ndarray) -> list[str]:
    """Tell what is wrong with the picture of a DNG, given that of its source."""
    found = programs.likeness(before, after, pair.camera.crop)
    if found is None:
        return [f"{pair.name}: {before.shape} became {after.shape}"]
    apart, brighter = found
    return [f"{pair.name}: {apart:.2%} apart, {brighter} brighter"] if apart > LARGEST_DIFFERENCE else []


def test_libraw_shows_the_same(pairs: list[Pair]) -> None:
    wrong: list[str] = []
    for pair in pairs:
        before, after = programs.libraw(pair.source), programs.libraw(pair.written)
        if pair.source.suffix.lower() in OTHER_COLOURS:
            wrong += [] if before.shape == after.shape else [f"{pair.name}: {before.shape} became {after.shape}"]
            continue
        wrong += differences(pair, before, after)
    assert not wrong


def test_libraw_finds_the_same_white_balance(pairs: list[Pair]) -> None:
    for pair in pairs:
        with rawpy.imread(str(pair.source)) as before, rawpy.imread(str(pair.written)) as after:
            assert after.num_colors == before.num_colors, pair.name
            assert after.sizes.flip == before.sizes.flip, pair.name
            expected, found = (np.array(each.camera_whitebalance[:3]) for each in (before, after))
            if before.num_colors == 3 and expected.all():
                np.testing.assert_allclose(found / found[1], expected / expected[1], rtol=1e-3, err_msg=pair.name)


def same_in(program: Callable[[Sequence[Path], Path], Rendered], pairs: list[Pair], folder: Path) -> list[str]:
    """Tell what differs between a program's pictures of raw files and of the DNGs, each opened in one call for all."""
    # Two files of a folder may have the same name but for the ending.
    copies = [folder / f"{pair.name}{pair.source.suffix}" for pair in pairs]
    for pair, copy in zip(pairs, copies, strict=True):
        copy.write_bytes(pair.source.read_bytes())
    before = program(copies, folder / "before")
    after = program([pair.written for pair in pairs], folder / "after")
    wrong = [f"exit code {after.code}"] if after.code else []
    wrong += [f"it says: {line}" for line in after.words if line not in before.words]
    for pair in pairs:
        if pair.name not in after.pictures:
            wrong.append(f"{pair.name}: not opened")
        elif pair.name in before.pictures and pair.source.suffix.lower() not in OTHER_COLOURS:
            wrong += differences(pair, before.pictures[pair.name], after.pictures[pair.name])
    return wrong


@needs("darktable-cli")
def test_darktable_opens_them_and_shows_the_same(pairs: list[Pair], tmp_path: Path) -> None:
    assert same_in(programs.darktable, pairs, tmp_path) == []


@needs("rawtherapee-cli")
def test_rawtherapee_opens_them_and_shows_the_same(pairs: list[Pair], tmp_path: Path) -> None:
    assert same_in(programs.rawtherapee, pairs, tmp_path) == []


@needs("exiftool")
def test_exiftool_shows_the_same_and_finds_nothing_wrong(pairs: list[Pair]) -> None:
    sources, written = [pair.source for pair in pairs], [pair.written for pair in pairs]
    names = [f"-{name}" for name in SAME]
    before, after = programs.exiftool(sources, *names), programs.exiftool(written, *names)
    for pair, shown, found in zip(pairs, before, after, strict=True):
        kept = OF_CANON if pair.source.suffix.lower() == ".crw" else SAME
        expected = {name: value for name, value in shown.items() if name in kept}
        assert {name: found.get(name) for name in expected} == expected, pair.name
    old, new = programs.complaints(sources), programs.complaints(written)
    for pair, source, own in zip(pairs, old, new, strict=True):
        assert own <= source, pair.name


@needs("exiv2")
def test_exiv2_reads_them(pairs: list[Pair]) -> None:
    for pair in pairs:
        tags, words = programs.exiv2(pair.written)
        assert tags["Exif.Image.UniqueCameraModel"], pair.name
        assert tags["Exif.Image.DNGVersion"].startswith("1 4"), pair.name
        assert not words, pair.name


@needs("exiftool")
def test_lens_place_and_date_come_along(tmp_path: Path) -> None:
    path = tmp_path / "photo.dng"
    path.write_bytes(mosaic_dng(scene(), pattern="RGGB"))
    said = (
        "-LensModel=50mm f/1.8 -LensInfo=50 50 1.8 1.8 -FocalLength=50 -FNumber=2.8 -ISO=3200 -ExposureTime=1/60 "
        "-DateTimeOriginal=2024:05:06 07:08:09 -OffsetTimeOriginal=+02:00 -GPSLatitude=46.5 -GPSLatitudeRef=N "
        "-GPSLongitude=7.25 -GPSLongitudeRef=W -GPSAltitude=1200 -Artist=A. B. -SerialNumber=0042 -XMP:Rating=4"
    )
    command = ["exiftool", "-q", "-overwrite_original", *(f"-{tag.strip()}" for tag in said[1:].split(" -")), str(path)]
    subprocess.run(command, check=True)
    written = convert(path, tmp_path / "written.dng").written
    names = [*(f"-{name}" for name in SAME), "-XMP:Rating"]
    before, after = programs.exiftool([path, written], *names)
    assert {"LensModel", "GPSLatitude", "DateTimeOriginal", "Rating"} <= before.keys()
    assert after == before
    old, new = programs.complaints([path, written])
    assert new <= old


def test_the_command_writes_what_the_functions_write(tmp_path: Path) -> None:
    path = tmp_path / "photo.dng"
    path.write_bytes(mosaic_dng(scene(), pattern="GBRG", orientation=6))
    done = kbnet("denoise", "--strength", "0", "--no-provenance", str(path))
    assert done.returncode == 0, done.stderr
    expected = convert(path, tmp_path / "expected.dng").written
    assert (tmp_path / "photo_denoised.dng").read_bytes() == expected.read_bytes()


def kbnet(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kbnet_cli", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=programs.SECONDS, check=False)


def linear(path: Path) -> np.ndarray:
    """Return a linear DNG's samples, 0 no light, 1 a full sensor: h w 3."""
    with rawpy.imread(str(path)) as raw:
        samples = raw.raw_image_visible[..., :3].astype(float)
        black = np.array(raw.black_level_per_channel[:3], float)
        return np.asarray((samples - black) / (raw.white_level - black))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((np.clip(one, 0, 1) - np.clip(other, 0, 1)) ** 2)))


@pytest.mark.slow
def test_the_bundled_weights_bring_a_noisy_raw_file_nearer_to_the_truth(tmp_path: Path) -> None:
    """A photo's light with the noise of high ISO, restored as a whole: before and after rendering, and in the dark."""
    shown = imagecodecs.imread(EXAMPLES / "rocks_clean.jpg")[:322, :450] / 255
    light = np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4) * NEUTRAL
    # As soft as a lens makes it: else what demosaicing guesses wrong would count for more than the noise.
    light = np.mean([light[y : y + 320, x : x + 448] for y in range(3) for x in range(3)], axis=0)
    light[:96, :96] = flat = 0.002 * np.array(NEUTRAL)
    truth, noisy = tmp_path / "truth.dng", tmp_path / "noisy.dng"
    truth.write_bytes(mosaic_dng(light, pattern="LINEAR", black=0.0, white=65535.0))
    noisy.write_bytes(mosaic_dng(light, noise=Noise(photons=400, read=60)))
    before = convert(noisy, tmp_path / "before.dng").written
    after = tmp_path / "after.dng"
    done = kbnet("denoise", str(noisy), "-o", str(after))
    assert done.returncode == 0, done.stderr
    assert psnr(linear(after), light) > psnr(linear(before), light) + 4
    expected = programs.libraw(truth)
    assert psnr(programs.libraw(after), expected) > psnr(programs.libraw(before), expected) + 4
    np.testing.assert_allclose(linear(after)[16:80, 16:80].mean(axis=(0, 1)), flat, rtol=0, atol=0.001)
