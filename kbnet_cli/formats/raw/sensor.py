"""A raw file's photo in the sensor's own channels, through LibRaw: its levels and colours, and its mosaic filled in."""

import numpy as np
import rawpy
from jaxtyping import Int, UInt16

from kbnet_cli.errors import InputError
from kbnet_cli.formats.raw import linear as raw_linear
from kbnet_cli.formats.raw.colour import camera_to_srgb, white_balance, xyz_to_camera
from kbnet_cli.formats.raw.levels import DNGLevels, Window, crop_within, read_levels
from kbnet_cli.formats.raw.linear import BLACK, SECOND_GREEN, WHITE, Sites
from kbnet_cli.photo import CameraColour, Crop

_PERIODS = (1, 2, 4, 6, 8, 16)
_GRID = 48
_XTRANS_PERIOD = 6
_XTRANS_LEAST_SIDE = 512
"""LibRaw's way of filling in X-Trans works in tiles of this size and refuses what is smaller."""
_FOR_SMALL_XTRANS = (rawpy.DemosaicAlgorithm.LINEAR, rawpy.DemosaicAlgorithm.VNG)
_DEVELOPED = "develop it: --raw-mode developed, into another format than DNG"
Answer = tuple[UInt16[np.ndarray, "h w c"], CameraColour, tuple[str, ...]]


def read(raw: rawpy.RawPy, data: bytes, demosaic: rawpy.DemosaicAlgorithm | None) -> Answer:
    """Return an unpacked file's photo in the sensor's channels, what it takes to show it, and what was assumed.

    Samples are h w 1 for a grey sensor and h w 3 for all others; the file's own buffer is overwritten.

    Raises:
        InputError: The sensor is of a kind that does not give three channels.
    """
    channels = _channels(raw)
    _refuse_phase_one(data)
    visible = raw.raw_image_visible
    mosaic = raw.raw_type == rawpy.RawType.Flat
    visible = visible[:, :, None] if mosaic else _three(visible)
    sizes = raw.sizes
    window = Window(sizes.top_margin, sizes.left_margin, sizes.height, sizes.width)
    told = read_levels(data, (sizes.raw_height, sizes.raw_width), window)
    pattern = pattern_of(raw) if mosaic and channels == 3 else np.arange(channels)[None, None]
    sites = _sites(raw, pattern, told)
    multipliers = white_balance(raw, _spans(sites)) if channels == 3 else None
    sites = raw_linear.greens_alike(sites, pattern == SECOND_GREEN, _green_ratio(raw))
    neutral = raw_linear.neutral_of(multipliers.camera) if multipliers else (1.0,)
    raw_linear.balance(visible, sites, neutral)
    notes = list(multipliers.notes) if multipliers else []
    if (mosaic and channels == 3) or sizes.pixel_aspect != 1.0:
        samples, more = _demosaic(raw, demosaic, pattern)
        notes += more
    else:
        samples = visible.copy()  # LibRaw frees what it lies in
    raw_linear.unbalance(samples, neutral)
    camera = CameraColour(
        make="",
        model="",
        black=BLACK,
        white=WHITE,
        neutral=neutral,
        xyz_to_camera=xyz_to_camera(raw, multipliers) if multipliers else None,
        camera_to_srgb=camera_to_srgb(raw) if multipliers else None,
        crop=_crop(raw, told, samples.shape[:2]),
    )
    return samples, camera, tuple(notes)


def pattern_of(raw: rawpy.RawPy) -> Int[np.ndarray, "rows columns 1"]:
    """Return the colours of the mosaic from its first visible sample on, by LibRaw's numbers.

    Raises:
        InputError: They do not repeat.
    """
    top, left = raw.sizes.top_margin, raw.sizes.left_margin
    grid = np.array([[raw.raw_color(top + y, left + x) for x in range(_GRID)] for y in range(_GRID)])
    for period in _PERIODS:
        if (grid[period:] == grid[:-period]).all() and (grid[:, period:] == grid[:, :-period]).all():
            return grid[:period, :period, None]
    raise InputError("the sensor's colour filters follow no pattern that is known here", hint=_DEVELOPED)


def demosaic_for(
    raw: rawpy.RawPy, wanted: rawpy.DemosaicAlgorithm | None
) -> tuple[rawpy.DemosaicAlgorithm | None, list[str]]:
    """Return how to fill in an unpacked file's mosaic, and a note where that is not what was wanted."""
    small = min(raw.sizes.height, raw.sizes.width) < _XTRANS_LEAST_SIDE
    if not small or raw.raw_type != rawpy.RawType.Flat or raw.num_colors != 3:
        return wanted, []
    if len(pattern_of(raw)) != _XTRANS_PERIOD or wanted in _FOR_SMALL_XTRANS:
        return wanted, []
    return rawpy.DemosaicAlgorithm.VNG, [
        f"LibRaw demosaics X-Trans below {_XTRANS_LEAST_SIDE} pixels a side only in simpler ways: VNG was used"
    ]


def _channels(raw: rawpy.RawPy) -> int:
    channels: int = raw.num_colors
    if channels == 3 or (channels == 1 and raw.raw_type == rawpy.RawType.Flat):
        return channels
    filters = raw.color_desc.decode(errors="replace")[:channels]
    raise InputError(
        f"the sensor has {channels} colours ({filters}), expected red, green and blue, or grey", hint=_DEVELOPED
    )


def _refuse_phase_one(data: bytes) -> None:
    # At the beginning, or behind the header of a TIFF file: IIIITwaR or MMMMRawT.
    if any((data[at : at + 4], data[at + 5 : at + 8]) == (b"IIII", b"waR") for at in (0, 8)) or any(
        data[at : at + 7] == b"MMMMRaw" for at in (0, 8)
    ):
        # LibRaw would take off their black levels, one a row and column, a second time.
        raise InputError("Phase One's raw files cannot become linear photos", hint=_DEVELOPED)


def _three(visible: UInt16[np.ndarray, "h w c"]) -> UInt16[np.ndarray, "h w 3"]:
    """Return the channels of full pixels; LibRaw has a fourth, either empty or a second green."""
    if visible.shape[2] > SECOND_GREEN:
        for row in visible:
            if row[:, SECOND_GREEN].any():
                row[:, 1] = (row[:, 1].astype(np.uint32) + row[:, SECOND_GREEN] + 1) // 2
    return visible[:, :, :3]


def _sites(raw: rawpy.RawPy, pattern: Int[np.ndarray, "rows columns n"], told: DNGLevels | None) -> Sites:
    channel = np.where(pattern == SECOND_GREEN, 1, pattern)
    black = np.asarray(raw.black_level_per_channel, float)[pattern]
    white = np.full(channel.shape, float(raw.white_level))
    rows = columns = None
    if told is not None and told.black is not None and told.black.shape[2] == channel.shape[2]:
        # Both repeat from the first visible sample on, each with a period of its own.
        height, width = (np.lcm(a, b) for a, b in zip(channel.shape[:2], told.black.shape[:2], strict=True))
        channel, white, black = (
            np.tile(table, (height // table.shape[0], width // table.shape[1], 1))
            for table in (channel, white, told.black)
        )
        rows, columns = told.black_of_rows, told.black_of_columns
    if told is not None:
        if told.white is not None and told.white.size == channel.shape[2]:
            white = np.broadcast_to(told.white, channel.shape).astype(float)
    elif raw.camera_white_level_per_channel is not None:
        white = raw_linear.full_at(raw.camera_white_level_per_channel, raw.white_level, black.min())[pattern]
    if not (white > black + 1).all():
        raise InputError(f"got a white level of {white.min():g} and a black level of {black.max():g}")
    return Sites(channel, black, white, rows, columns)


def _spans(sites: Sites) -> tuple[float, ...]:
    span = sites.white - sites.black
    return tuple(float(span[sites.channel == channel].mean()) for channel in range(3))


def _green_ratio(raw: rawpy.RawPy) -> float:
    """Return how much stronger the green of the other rows is to be than the first; 1 where the camera does not say."""
    _, green, _, second = raw.camera_whitebalance
    return second / green if green > 0 and second > 0 else 1.0


def _demosaic(
    raw: rawpy.RawPy, demosaic: rawpy.DemosaicAlgorithm | None, pattern: Int[np.ndarray, "rows columns n"]
) -> tuple[UInt16[np.ndarray, "h w c"], list[str]]:
    sizes = raw.sizes
    demosaic, notes = demosaic_for(raw, demosaic)
    samples: UInt16[np.ndarray, "h w c"] = raw.postprocess(
        demosaic_algorithm=demosaic,
        gamma=(1, 1),
        no_auto_bright=True,
        no_auto_scale=True,
        adjust_maximum_thr=0.0,
        user_black=0,
        user_cblack=[0, 0, 0, 0],
        user_sat=65535,
        user_wb=[1, 1, 1, 1],
        user_flip=0,
        output_color=rawpy.ColorSpace.raw,
        output_bps=16,
    )
    aspect = sizes.pixel_aspect
    expected = (round(sizes.height / min(aspect, 1.0)), round(sizes.width * max(aspect, 1.0)))
    if any(abs(got - wanted) > 1 for got, wanted in zip(samples.shape, expected, strict=False)):
        raise InputError(
            f"LibRaw turns the sensor's {sizes.width}×{sizes.height} pixels into "
            f"{samples.shape[1]}×{samples.shape[0]}, which is no grid of its own",
            hint=_DEVELOPED,
        )
    if len(pattern) == _XTRANS_PERIOD:
        raw_linear.fill_corners(samples)
    return samples, notes


def _crop(raw: rawpy.RawPy, told: DNGLevels | None, size: tuple[int, int]) -> Crop | None:
    """Return the crop within the samples, which LibRaw may have stretched to make their pixels square."""
    sizes = raw.sizes
    found = told.crop if told is not None else None
    if told is None and sizes.crop_width and sizes.crop_height:
        # LibRaw counts from the first stored sample, and so not from the first visible one.
        top, left = sizes.crop_top_margin - sizes.top_margin, sizes.crop_left_margin - sizes.left_margin
        found = crop_within(top, left, sizes.crop_height, sizes.crop_width, sizes.height, sizes.width)
    if found is None:
        return None
    down, across = size[0] / sizes.height, size[1] / sizes.width
    top, left = round(found.top * down), round(found.left * across)
    return crop_within(top, left, round(found.height * down), round(found.width * across), *size)
