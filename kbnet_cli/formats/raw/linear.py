"""Sensor samples to one scale and back: black above 0, so that noise below it survives, and saturation at one value.

All of it works in place or in bands of rows: a raw file has tens of millions of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, UInt16

from kbnet_cli.photo import Levels, Matrix

BLACK = 4096.0
"""The sample value of no light. A fifteenth of the range below it is more than any sensor's noise reaches."""
WHITE = 61440.0
"""The sample value of a full sensor."""
SECOND_GREEN = 3
"""How LibRaw counts the colours of a mosaic: red, green, blue, and the green in the other rows."""

_BAND = 256
_MOST_GREEN_RATIO = 1.5
"""Two kinds of green filters differ by some hundredths; what differs more was no multiplier."""
_LARGEST = 65535
HEADROOM = (_LARGEST - BLACK) / (WHITE - BLACK)
"""How far samples reach beyond white."""

HIGH_PERCENTILE = 99.0
"""Lamps and reflections, brighter than all else and usually clipped, are less than a hundredth of most photos."""
SHOWN_AT = 0.8
"""Where that percentile comes to lie, white being 1: near white, as in photos that networks were trained on."""
MOST_GAIN = 8.0
"""Three stops: beyond it there is little but noise, and stronger noise than any network has learnt."""
_SQUARE = 16
_NEGATIVE, _MOST_NEGATIVE = -0.02, 0.005
"""Light below this counts as negative, and so much of a photo may be."""
_STEPS = 10


@dataclass(frozen=True)
class Sites:
    """What is known of samples by their place in a pattern that repeats from the first sample on.

    Colours and levels are rows × columns × samples of a pixel: one of a mosaic or a grey sensor, three of pixels that
    have all colours.
    """

    channel: Int[np.ndarray, "rows columns c"]
    """0 red (or grey), 1 green, 2 blue."""
    black: Float64[np.ndarray, "rows columns c"]
    white: Float64[np.ndarray, "rows columns c"]
    black_of_rows: Float64[np.ndarray, " h"] | None = None
    """What is to be added to `black` in each row of the picture."""
    black_of_columns: Float64[np.ndarray, " w"] | None = None


def neutral_of(multipliers: tuple[float, ...]) -> tuple[float, ...]:
    """Return what a white surface gives in each channel, the largest being 1, for multipliers that make it white."""
    smallest = min(multipliers)
    return tuple(smallest / multiplier for multiplier in multipliers)


def balance(samples: UInt16[np.ndarray, "h w c"], sites: Sites, neutral: tuple[float, ...]) -> None:
    """Bring samples of a sensor in place to one scale and to white balance, for demosaicing.

    Black becomes `BLACK`. What a white surface gives is made equal in all channels by lowering the others to the
    weakest, so that nothing is clipped that was not; a full sensor gives `WHITE` in that one.
    """
    width = samples.shape[1]
    across = -(-width // sites.black.shape[1])
    weakened = (min(neutral) / np.asarray(neutral))[sites.channel]
    black, white, weakened = (
        np.tile(table, (1, across, 1))[:, :width] for table in (sites.black, sites.white, weakened)
    )
    down, right = sites.black_of_rows, sites.black_of_columns
    if right is not None:
        black = black + right[:, None]
    most = black + (0.0 if down is None else down.mean())
    scale = weakened * (WHITE - BLACK) / (white - most)
    period = len(black)
    for phase in range(period):
        lower = None if down is None else down[phase::period]
        _affine(samples[phase::period], scale[phase], BLACK - black[phase] * scale[phase], lower)


def full_at(told: Sequence[float], assumed: float, black: float) -> Float64[np.ndarray, " n"]:
    """Return where channels are full, by what the camera says and LibRaw assumes, which is more or the same.

    A channel that is full below white would be shown as no white at all. But what LibRaw assumes shall still have
    room below the largest sample, so that none is clipped.
    """
    least = black + (assumed - black) / HEADROOM
    return np.clip(np.asarray(told, float), least, assumed)


def greens_alike(sites: Sites, second: Bool[np.ndarray, "rows columns n"], ratio: float) -> Sites:
    """Bring the green of the other rows to the scale of the first, where it has to be made `ratio` times stronger."""
    if ratio == 1.0 or not 1 / _MOST_GREEN_RATIO < ratio < _MOST_GREEN_RATIO:
        return sites
    whole = np.tile(second, tuple(a // b for a, b in zip(sites.black.shape, second.shape, strict=True)))
    span = sites.white - sites.black
    return replace(sites, white=sites.black + np.where(whole, span / ratio, span))


def unbalance(samples: UInt16[np.ndarray, "h w c"], neutral: tuple[float, ...]) -> None:
    """Undo in place what `balance` did to the channels: a full sensor is at `WHITE` in each."""
    scale = np.asarray(neutral) / min(neutral)
    _affine(samples, scale, BLACK * (1 - scale))


def fill_corners(samples: UInt16[np.ndarray, "h w 3"]) -> None:
    """Give the corners in place the colours that their neighbours have.

    LibRaw takes what its demosaicing of X-Trans leaves out at the edges from the sites beside it. A corner has three of
    them, and where none has filters of a colour, that colour stays 0.
    """
    for y, beside in ((0, 1), (-1, -2)):
        for x, near in ((0, 1), (-1, -2)):
            samples[y, x] = np.where(samples[y, x] == 0, samples[beside, near], samples[y, x])


def _affine(
    samples: UInt16[np.ndarray, "h w c"],
    scale: Float64[np.ndarray, "*any"],
    offset: Float64[np.ndarray, "*any"],
    lower: Float64[np.ndarray, " h"] | None = None,
) -> None:
    """Scale and shift samples in place, round and clip them to 16 bits, a band of rows at a time.

    `lower` is taken off each row before.
    """
    factor, shift = scale.astype(np.float32), offset.astype(np.float32)
    for top in range(0, len(samples), _BAND):
        part = samples[top : top + _BAND]
        values = part.astype(np.float32)
        if lower is not None:
            values -= lower[top : top + _BAND, None, None].astype(np.float32)
        values *= factor
        values += shift
        np.rint(values, out=values)
        np.clip(values, 0, _LARGEST, out=values)
        part[...] = values


def levels_for(
    samples: UInt16[np.ndarray, "h w c"], neutral: tuple[float, ...], camera_to_srgb: Matrix | None = None
) -> Levels:
    """Return the levels at which a network sees a linear photo: white-balanced, bright enough, and in sRGB's colours.

    The gain brings the brightest of the white-balanced channels, at `HIGH_PERCENTILE` of the photo, to `SHOWN_AT`; it
    never darkens, and brightens at most by `MOST_GAIN`. Where colours lie outside sRGB, the space is made wider until
    they do not: networks have seen no negative light. Both only say how samples are shown: they stay what they are.
    """
    balanced = _balanced(samples, neutral)
    gain = gain_of(balanced)
    return Levels(
        black=(BLACK,) * len(neutral),
        white=tuple(BLACK + (WHITE - BLACK) * part / gain for part in neutral),
        matrix=None if camera_to_srgb is None else _wide_enough(np.array(camera_to_srgb), gain * balanced),
    )


def gain_of(balanced: Float32[np.ndarray, "n c"]) -> float:
    """Return how many times brighter a network is to see white-balanced light: 1 … `MOST_GAIN`."""
    high = float(np.percentile(balanced.max(axis=1), HIGH_PERCENTILE))
    return min(max(SHOWN_AT / max(high, SHOWN_AT / MOST_GAIN), 1.0), MOST_GAIN)


def _balanced(samples: UInt16[np.ndarray, "h w c"], neutral: tuple[float, ...]) -> Float32[np.ndarray, "n c"]:
    """Return the means of small squares, in which noise is no colour, as white-balanced light, 1 being white."""
    side = min(_SQUARE, *samples.shape[:2])
    height, width = (length // side for length in samples.shape[:2])
    bands = (samples[y * side : (y + 1) * side, : width * side] for y in range(height))
    means = np.concatenate([band.reshape(side, width, side, -1).mean(axis=(0, 2), dtype=np.float32) for band in bands])
    return (means - np.float32(BLACK)) / (np.asarray(neutral, np.float32) * np.float32(WHITE - BLACK))


def _wide_enough(matrix: Float64[np.ndarray, "c c"], light: Float32[np.ndarray, "n c"]) -> Matrix:
    """Return a matrix between one and none, as near to it as leaves nearly no light negative."""
    none = np.eye(len(matrix))
    for share in np.linspace(1, 0, _STEPS, endpoint=False):
        chosen = share * matrix + (1 - share) * none
        shown = light @ chosen.T.astype(np.float32)
        if (shown.min(axis=1) < _NEGATIVE).mean() <= _MOST_NEGATIVE:
            return tuple(map(tuple, chosen.tolist()))
    return tuple(map(tuple, none.tolist()))
