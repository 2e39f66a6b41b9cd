"""Linear photos: the light of a known scene comes back from a sensor's samples, whatever its filters and levels."""

from pathlib import Path

import numpy as np
import pytest

from kbnet_cli.colour import srgb_encode
from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.development import Development
from kbnet_cli.formats.raw import linear as raw_linear
from kbnet_cli.formats.raw import reader as raw
from kbnet_cli.formats.raw.develop import answer
from kbnet_cli.formats.raw.linear import BLACK, WHITE, Sites
from kbnet_cli.formats.raw.report import Report, Wishes
from kbnet_cli.photo import CameraColour, Crop
from tests.mosaics import BAYER, XTRANS, Noise, mosaic_dng

LINEAR = Development(mode="linear")
SPAN = WHITE - BLACK
COLOUR = (0.2, 0.4, 0.3)


def read(data: bytes) -> tuple[np.ndarray, CameraColour, Report]:
    """Read a file without a process of its own, which takes longer than all else in a test."""
    report, samples = answer(data, Wishes(LINEAR))
    assert report.camera is not None
    return samples, report.camera, report


def light(samples: np.ndarray) -> np.ndarray:
    return (samples.astype(float) - BLACK) / SPAN


def flat(height: int = 61, width: int = 83) -> np.ndarray:
    return np.broadcast_to(COLOUR, (height, width, 3))


def sites(black: np.ndarray, channel: np.ndarray, white: float = 1000.0, **more: np.ndarray) -> Sites:
    return Sites(channel[:, :, None], black[:, :, None], np.full((*black.shape, 1), white), **more)


def test_samples_are_scaled_by_the_levels_of_their_sites_and_back() -> None:
    black = np.array([[100.0, 110.0], [120.0, 130.0]])
    channel = np.array([[0, 1], [1, 2]])
    neutral = (0.5, 1.0, 0.25)
    whole = (np.tile(black, (300, 4)) + 0.5 * (1000 - np.tile(black, (300, 4))))[:599, :7]
    samples = np.rint(whole).astype(np.uint16)[:, :, None]
    raw_linear.balance(samples, sites(black, channel), neutral)
    weakened = np.array([0.5, 0.25, 1.0])[np.tile(channel, (300, 4))[:599, :7]]
    np.testing.assert_allclose(light(samples[:, :, 0]), 0.5 * weakened, atol=2e-3)
    pixels = np.stack([np.full((300, 5), BLACK + round(SPAN * part), np.uint16) for part in (0.25, 0.125, 0.5)], axis=2)
    raw_linear.unbalance(pixels, neutral)
    np.testing.assert_allclose(light(pixels), 0.5, atol=1e-4)


def test_black_levels_of_rows_and_columns_are_taken_off() -> None:
    rows, columns = np.arange(600.0), 2 * np.arange(9.0)
    black = np.array([[100.0, 110.0], [120.0, 130.0]])
    told = np.tile(black, (300, 5))[:, :9] + rows[:, None] + columns
    samples = told.astype(np.uint16)[:, :, None]
    known = sites(black, np.zeros((2, 2), int), 5000.0, black_of_rows=rows, black_of_columns=columns)
    raw_linear.balance(samples, known, (1.0,))
    assert np.abs(samples.astype(int) - BLACK).max() <= 1


@pytest.mark.parametrize(("level", "gain"), [(0.0, 8.0), (0.01, 8.0), (0.2, 4.0), (0.8, 1.0), (1.07, 1.0)])
def test_dark_photos_are_shown_brighter_to_the_network_within_limits(level: float, gain: float) -> None:
    samples = np.full((40, 50, 3), BLACK, np.uint16)
    samples[..., 0] = BLACK + round(level * 0.5 * SPAN)  # white-balanced, red is the brightest
    levels = raw_linear.levels_for(samples, (0.5, 1.0, 0.6))
    assert levels.black == (BLACK,) * 3
    np.testing.assert_allclose(levels.white, [BLACK + SPAN * part / gain for part in (0.5, 1.0, 0.6)], rtol=1e-3)


def test_a_lamp_does_not_set_the_gain() -> None:
    samples = np.full((400, 400, 3), BLACK + SPAN // 5, np.uint16)
    samples[:20, :20] = WHITE
    levels = raw_linear.levels_for(samples, (1.0, 1.0, 1.0))
    assert levels.white[0] == pytest.approx(BLACK + SPAN / 4, rel=1e-3)


def test_colours_outside_of_srgb_are_shown_in_a_wider_space() -> None:
    matrix = ((1.8, -0.9, 0.1), (-0.2, 1.7, -0.5), (0.0, -0.5, 1.5))
    grey = np.full((80, 80, 3), BLACK + SPAN // 4, np.uint16)
    shown = raw_linear.levels_for(grey, (1.0, 1.0, 1.0), matrix).matrix
    np.testing.assert_allclose(np.array(shown), np.array(matrix))
    blue = grey.copy()
    blue[20:60] = BLACK + np.array([0.03, 0.15, 0.35]) * SPAN
    wider = np.array(raw_linear.levels_for(blue, (1.0, 1.0, 1.0), matrix).matrix)
    np.testing.assert_allclose(wider.sum(axis=1), 1, atol=1e-9, err_msg="white stays white")
    assert (wider @ [0.03, 0.15, 0.35]).min() > -0.02 > (np.array(matrix) @ [0.03, 0.15, 0.35]).min()
    noisy = np.random.default_rng(1).normal(BLACK, 300, grey.shape).astype(np.uint16)
    dark = raw_linear.levels_for(noisy, (1.0, 1.0, 1.0), matrix).matrix
    np.testing.assert_allclose(np.array(dark), np.array(matrix), err_msg="noise is no colour")


def test_the_green_of_the_other_rows_is_brought_to_the_first() -> None:
    channel = np.array([[0, 1], [1, 2]])
    second = np.array([[False, False], [True, False]])[:, :, None]
    samples = np.array([[300, 500], [490, 600]], np.uint16)[:, :, None]
    known = raw_linear.greens_alike(sites(np.full((2, 2), 100.0), channel), second, 400 / 390)
    raw_linear.balance(samples, known, (1.0, 1.0, 1.0))
    assert abs(int(samples[0, 1, 0]) - int(samples[1, 0, 0])) <= 1
    assert raw_linear.greens_alike(known, second, 0.01) is known, "no multiplier"


def test_what_a_camera_says_of_full_channels_is_believed_as_far_as_nothing_is_lost() -> None:
    full = raw_linear.full_at((15800.0, 100.0, 16383.0, 99999.0), 16383.0, 1024.0)
    assert (full[0], full[2], full[3]) == (15800.0, 16383.0, 16383.0)
    samples = np.full((1, 1, 1), 16382, np.uint16)
    known = sites(np.full((1, 1), 1024.0), np.zeros((1, 1), int), full[1])
    raw_linear.balance(samples, known, (1.0,))
    assert 65525 < samples[0, 0, 0] < 65535


@pytest.mark.parametrize("pattern", [*BAYER, "LINEAR"])
def test_a_flat_colour_comes_back(pattern: str) -> None:
    samples, camera, _ = read(mosaic_dng(flat(), pattern=pattern))
    assert (samples.dtype.name, samples.shape) == ("uint16", (61, 83, 3))
    np.testing.assert_allclose(light(samples), flat(), atol=1e-4)
    np.testing.assert_allclose(camera.neutral, (0.5, 1.0, 0.625), rtol=1e-6)


@pytest.mark.parametrize("pattern", BAYER)
def test_four_black_levels_are_told_apart_in_every_phase(pattern: str) -> None:
    samples, _, _ = read(mosaic_dng(flat(), pattern=pattern, black=np.array([[400.0, 510.25], [620.5, 730.0]])))
    np.testing.assert_allclose(light(samples), flat(), atol=1e-4)


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG", "LINEAR"])
def test_black_levels_of_more_than_four_sites_rows_and_columns(pattern: str) -> None:
    """LibRaw takes the mean of a row's and column's differences, and of larger patterns the least."""
    black = 500 + 10.0 * np.arange(24 if pattern == "LINEAR" else 8).reshape((4, 2, -1))
    rows, columns = 1.0 * np.arange(61), 2.0 * np.arange(83)
    data = mosaic_dng(flat(), pattern=pattern, black=black, black_of_rows=rows, black_of_columns=columns)
    samples, _, _ = read(data)
    np.testing.assert_allclose(light(samples), flat(), atol=2e-3)  # levels differ, and with them the steps of samples


@pytest.mark.parametrize("margins", [(0, 0, 0, 0), (4, 6, 2, 0), (3, 5, 7, 9)])
@pytest.mark.parametrize("pattern", ["RGGB", "GBRG"])
def test_levels_and_crop_count_from_where_the_active_area_begins(
    pattern: str, margins: tuple[int, int, int, int]
) -> None:
    scene = flat().copy()
    scene[11:31, 13:43] *= 0.25
    black = np.array([[400.0, 510.0], [620.0, 730.0]])
    samples, camera, _ = read(mosaic_dng(scene, pattern=pattern, black=black, margins=margins, crop=(13, 11, 30, 20)))
    assert camera.crop is not None
    assert (camera.crop.height, camera.crop.width) == (20, 30)
    top, left = camera.crop.top, camera.crop.left
    inside = light(samples[top : top + 20, left : left + 30])
    np.testing.assert_allclose(inside[3:-3, 3:-3], np.broadcast_to(scene[12, 14], (14, 24, 3)), atol=1e-3)
    np.testing.assert_allclose(light(samples[top - 3, left - 3]), COLOUR, atol=1e-3)
    np.testing.assert_allclose(light(samples[top + 22, left + 32]), COLOUR, atol=1e-3)


def test_every_site_keeps_its_own_sample() -> None:
    scene = np.random.default_rng(3).uniform(0, 1, (64, 64, 3))
    samples, _, _ = read(mosaic_dng(scene, pattern="RGGB"))
    found = light(samples)
    for top, left, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        np.testing.assert_allclose(found[top::2, left::2, channel], scene[top::2, left::2, channel], atol=1e-4)


@pytest.mark.parametrize("pattern", ["RGGB", "GBRG", "MONO", "LINEAR"])
def test_noise_below_black_survives(pattern: str) -> None:
    """Clipped at black, noise of this strength would lift it by 12 of 15,000, and more after white balance."""
    dark = np.zeros((256, 256) if pattern == "MONO" else (256, 256, 3))
    samples, _, _ = read(mosaic_dng(dark, pattern=pattern, black=2048.0, white=15000.0, noise=Noise(read=30.0)))
    assert np.abs(light(samples).mean((0, 1))).max() < 1e-4
    assert 0.4 < (samples < BLACK).mean() < 0.6


@pytest.mark.parametrize("pattern", ["RGGB", "MONO", "LINEAR"])
def test_values_beyond_white_survive(pattern: str) -> None:
    bright = np.full((40, 40) if pattern == "MONO" else (40, 40, 3), 1.05)
    samples, _, _ = read(mosaic_dng(bright, pattern=pattern))
    np.testing.assert_allclose(light(samples), 1.05, atol=1e-4)


def test_each_channel_has_a_white_level() -> None:
    data = mosaic_dng(np.ones((40, 40, 3)), pattern="LINEAR", white=(16000.0, 15000.0, 12000.0))
    samples, camera, _ = read(data)
    assert np.abs(samples.astype(int) - WHITE).max() <= 1
    np.testing.assert_allclose(camera.neutral, (0.5, 1.0, 0.625), rtol=1e-4)


@pytest.mark.parametrize("neutral", [None, (0.0, 1.0, 0.0), (0.0, 0.0, 0.0)])
def test_without_a_white_balance_it_is_that_of_daylight(neutral: tuple[float, ...] | None) -> None:
    samples, camera, report = read(mosaic_dng(flat(), neutral=neutral))
    assert any("daylight" in note for note in report.notes)
    assert max(camera.neutral) == 1.0
    assert camera.neutral[0] < camera.neutral[2] < camera.neutral[1], "as the matrix says"
    np.testing.assert_allclose(light(samples), flat(), atol=1e-4)


def test_without_a_white_balance_and_a_known_camera_there_is_none() -> None:
    samples, camera, report = read(mosaic_dng(flat(), neutral=None, matrix=None))
    assert any("none was taken" in note for note in report.notes)
    assert camera.neutral == (1.0, 1.0, 1.0)
    assert (camera.camera_to_srgb, camera.xyz_to_camera) == (None, None)
    np.testing.assert_allclose(light(samples), flat(), atol=1e-4)


def test_grey_sensors_have_one_channel() -> None:
    scene = np.linspace(0, 1, 64 * 48).reshape(48, 64)
    samples, camera, _ = read(mosaic_dng(scene, pattern="MONO", black=np.array([[500.0, 520.0], [540.0, 560.0]])))
    assert samples.shape == (48, 64, 1)
    np.testing.assert_allclose(light(samples[:, :, 0]), scene, atol=1e-4)
    assert (camera.neutral, camera.camera_to_srgb, camera.xyz_to_camera) == ((1.0,), None, None)


def test_the_matrices_say_the_same() -> None:
    _, camera, _ = read(mosaic_dng(flat()))
    assert camera.camera_to_srgb is not None
    assert camera.xyz_to_camera is not None
    to_srgb, from_xyz = np.array(camera.camera_to_srgb), np.array(camera.xyz_to_camera)
    np.testing.assert_allclose(to_srgb.sum(axis=1), 1, atol=1e-3)
    matrix = np.array([[0.9194, -0.2787, -0.1059], [-0.8098, 1.5657, 0.2608], [-0.2610, 0.3064, 0.7867]])
    np.testing.assert_allclose(from_xyz / from_xyz[1, 1], matrix / matrix[1, 1], atol=2e-3)


@pytest.mark.parametrize(("size", "noted"), [((512, 515), False), ((513, 512), False), ((96, 100), True)])
def test_xtrans_of_any_size(size: tuple[int, int], noted: bool) -> None:
    """LibRaw refuses X-Trans below 512 pixels a side, and leaves corners without a colour."""
    black = 500 + np.arange(36.0).reshape(6, 6)
    samples, _, report = read(mosaic_dng(flat(*size), pattern=XTRANS, black=black, margins=(7, 8, 0, 1)))
    np.testing.assert_allclose(light(samples), flat(*size), atol=2e-3 if noted else 2e-4)
    assert any("VNG" in note for note in report.notes) == noted


@pytest.mark.parametrize("mode", ["linear", "developed"])
def test_four_colours_are_developed_only(mode: str) -> None:
    data = mosaic_dng(np.full((40, 40, 6), 0.3), pattern="GMCY", matrix=None, neutral=None)
    wishes = Wishes(Development(mode=mode))  # type: ignore[arg-type]
    if mode == "developed":
        assert answer(data, wishes)[1].shape[:2] == (40, 40)
        return
    with pytest.raises(InputError, match="4 colours") as caught:
        answer(data, wishes)
    assert "--raw-mode developed" in caught.value.hint


@pytest.mark.parametrize("head", [b"IIIITwaR", b"MMMMRawT", b"II*\0\x88\0\0\0IIIITwaR"])
def test_phase_one_is_developed_only(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from kbnet_cli.formats.raw import sensor as raw_sensor

    data = mosaic_dng(flat())
    original = raw_sensor.read
    monkeypatch.setattr(raw_sensor, "read", lambda file, _data, how: original(file, head, how))
    with pytest.raises(InputError, match="Phase One") as caught:
        answer(data, Wishes(LINEAR))
    assert "--raw-mode developed" in caught.value.hint


def test_levels_that_make_no_sense_are_an_error() -> None:
    data = mosaic_dng(flat(), black=512.0, extratags=((50718, 5, 2, (1, 1, 1, 1), True),))
    assert answer(data, Wishes(LINEAR))[1].shape == (61, 83, 3)
    upside_down = data.replace((16383).to_bytes(4, "little"), (300).to_bytes(4, "little"))
    with pytest.raises(InputError, match="white level"):
        answer(upside_down, Wishes(LINEAR))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_linear_photo_carries_what_it_needs(orientation: int) -> None:
    data = mosaic_dng(flat(), orientation=orientation, crop=(2, 4, 60, 50))
    photo = raw.decode(data, development=LINEAR)
    assert (photo.size, photo.colour, photo.depth, photo.linear) == ((61, 83), "rgb", 16, True)
    assert photo.metadata.icc is None
    assert exif.orientation(photo.metadata.exif) == orientation
    assert photo.origin is not None
    assert (photo.origin.format, photo.origin.data) == ("raw", data)
    assert photo.camera is not None
    assert photo.levels is not None
    assert (photo.camera.make, photo.camera.model, photo.camera.crop) == ("Maker", "Model 1", Crop(4, 2, 50, 60))
    assert (photo.camera.black, photo.camera.white) == (BLACK, WHITE)
    gain = SPAN / (photo.levels.white[1] - BLACK)
    assert gain == pytest.approx(0.8 / 0.48, rel=1e-3), "0.3 of light in blue, white-balanced, is the brightest"


def test_a_report_is_the_same_after_its_way_through_a_pipe() -> None:
    camera = CameraColour("a", "b", 1.0, 2.0, (0.5, 1.0, 0.7), ((1.0, 0.0, 0.0),) * 3, None, Crop(1, 2, 3, 4))
    report = Report(height=3, camera=camera, notes=("one", "two"))
    assert Report.from_json(report.to_json()) == report
    wishes = Wishes(Development(mode="linear", brightness=1.5), 12.5)
    assert Wishes.from_json(wishes.to_json()) == wishes


REAL = (
    "canon_550d_magiclantern/colorchart.dng",
    "canon_powershot_crw/CRW_0305.CRW",
    "derived_dng_CC0/g2_bayer_gbrg_512.dng",
    "derived_dng_CC0/g2_bayer_odd_511x333.dng",
    "derived_dng_CC0/g2_linear_rgb16_384.dng",
    "derived_dng_CC0/g2_monochrome_512.dng",
    "derived_dng_CC0/g2_xtrans6x6_600.dng",
)


@pytest.mark.parametrize("name", REAL)
def test_a_linear_photo_of_a_real_file_develops_to_what_libraw_makes_of_it(testdata: Path, name: str) -> None:
    data = (testdata / "free" / "raw" / name).read_bytes()
    samples, camera, _ = read(data)
    shown = np.clip(light(samples) / camera.neutral, 0, 1)
    if camera.camera_to_srgb is not None:
        shown = np.clip(shown @ np.array(camera.camera_to_srgb).T, 0, 1)
    _, developed = answer(data, Wishes(Development()))
    difference = srgb_encode(shown.astype(np.float32)) - developed / 65535
    assert np.abs(difference.mean((0, 1))).max() < 1e-3
    assert np.abs(difference).mean() < 2e-3


def test_the_crop_of_a_crw_lies_in_the_middle(testdata: Path) -> None:
    _, camera, _ = read((testdata / "free" / "raw" / "canon_powershot_crw" / "CRW_0113.CRW").read_bytes())
    assert camera.crop == Crop(8, 20, 1704, 2272)


def test_pixels_that_are_not_square_become_square(testdata: Path) -> None:
    samples, _, report = read((testdata / "free" / "raw" / "kodak_dc120" / "P003914.KDC").read_bytes())
    assert samples.shape == (976, 1301, 3)
    assert report.pixel_aspect > 1.5
