"""Camera noise: photons counted by a sensor, and what a camera makes of them on the way to a file.

The patch is taken back to what a sensor saw, noise is added there, and the difference goes through what a camera does,
after Brooks et al., Unprocessing Images for Learned Raw Denoising, CVPR 2019. The noise's variance is a straight line
over the light and the sensor clips: Foi et al., Practical Poissonian-Gaussian Noise Modeling and Fitting for
Single-Image Raw-Data, IEEE TIP 2008. Demosaicing, colour matrix, noise reduction and sharpening are linear here, so
only the noise goes through them and the clean patch stays as it is: the network has only noise to take away.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from jaxtyping import Float, Float32

from kbnet_cli.colour import srgb_decode, srgb_encode
from kbnet_cli.training.degradations.jpeg import UNIT, saved, to_bytes
from kbnet_cli.training.degradations.pair import Pair
from kbnet_cli.training.degradations.ranges import check_above_zero

# From a sensor's red, green and blue to those of sRGB, white balanced: rows sum to 1, so that grey stays grey. Of no
# camera in particular; of the size of the matrices that raw developers derive from the DNG format's colour matrices.
MATRICES: Final = np.array(
    [
        [[1.70, -0.55, -0.15], [-0.22, 1.55, -0.33], [0.02, -0.48, 1.46]],
        [[1.90, -0.80, -0.10], [-0.18, 1.62, -0.44], [0.03, -0.60, 1.57]],
        [[1.60, -0.42, -0.18], [-0.28, 1.50, -0.22], [-0.04, -0.35, 1.39]],
        [[1.82, -0.62, -0.20], [-0.15, 1.46, -0.31], [0.05, -0.70, 1.65]],
    ]
)
# Brooks et al. fitted the logarithm of the read noise's variance to that of the shot noise's: slope and intercept.
READ_OF_SHOT: Final = (2.18, 1.20)
LUMA: Final = np.array([[0.299, 0.587, 0.114]])
STEPS: Final = 4096
"""Of the tables of tone curves."""
TONES: Final = 16
"""Tone curves from none to a smoothstep; each is tabulated once."""
BRIGHTEST: Final = 4.0
"""Light beyond which the tone curve stays as it is; 1 is white."""


@dataclass(frozen=True)
class Camera:
    """Shot and read noise, made coarse and coloured by demosaicing and noise reduction, then rounded or a JPEG."""

    share: float = 1.0
    """How often it is taken, relative to the recipe's other degradations."""
    untouched: float = 0.05
    """How often a patch is left as it is, so that a clean photo stays clean."""
    full_size: float = 0.4
    """How often the patch is blurred first, and what the network must answer with it: photos at full size are soft."""
    full_size_blur: tuple[float, float] = (0.4, 1.2)
    """The range of that blur: sigma in pixels."""
    noiseless: float = 0.05
    """How often the sensor adds no noise, though the file may be a JPEG."""
    shot: tuple[float, float] = (1e-4, 2.5e-2)
    """The range of the variance of the shot noise at white (white is 1), above 0, drawn by its logarithm."""
    read_scatter: float = 0.4
    """The standard deviation of the natural logarithm of the read noise's variance around Brooks et al.'s line."""
    rows: tuple[float, float] = (0.0, 0.3)
    """The range of the noise that all pixels of a sensor's row have in common, relative to the read noise."""
    red_gain: tuple[float, float] = (1.5, 2.5)
    """The range of the white balance's gain on red, relative to green."""
    blue_gain: tuple[float, float] = (1.3, 2.2)
    """The range of the white balance's gain on blue, relative to green."""
    exposure: tuple[float, float] = (1.0, 1.6)
    """The range of the gain on all three."""
    over: tuple[float, float] = (1.0, 1.6)
    """How bright a display's white was on the sensor, which clips at 1."""
    no_pedestal: float = 0.2
    """How often the sensor clips at black; else it has a pedestal that keeps noise below black."""
    tone: tuple[float, float] = (0.0, 1.0)
    """The range of how far the camera's S-shaped tone curve goes from none to a smoothstep."""
    whole: float = 0.2
    """How often there is no mosaic, as in photos that were made smaller: noise of each pixel and colour by itself."""
    gradients: float = 0.5
    """How often a mosaic is filled in by Malvar, He and Cutler's filters instead of bilinear ones."""
    reduced: float = 0.85
    """How often the camera reduces noise: keeps the coarse noise and part of the fine."""
    luma_kept: tuple[float, float] = (0.2, 1.0)
    """The range of the part of fine brightness noise that noise reduction keeps."""
    luma_coarse: tuple[float, float] = (0.7, 4.0)
    """The range of how coarse the brightness noise is that it keeps whole: sigma in pixels."""
    chroma_kept: tuple[float, float] = (0.0, 0.2)
    """The range of the part of fine colour noise that noise reduction keeps."""
    chroma_coarse: tuple[float, float] = (1.5, 8.0)
    """The range of how coarse the colour noise is that it keeps whole: sigma in pixels."""
    colourful: tuple[float, float] = (0.4, 1.0)
    """The range of how much noise reduction leaves of all colour noise."""
    soft: tuple[float, float] = (0.0, 0.9)
    """The range of the blur that all noise has gone through: sigma in pixels."""
    sharpened: float = 0.3
    """How often brightness is sharpened."""
    sharpening: tuple[float, float] = (0.2, 1.0)
    """The range of the amount of the unsharp mask."""
    jpeg: float = 0.75
    """How often the file is a JPEG; else values are only rounded to 8 bits."""
    quality: tuple[int, int] = (70, 100)
    """The range of the JPEG's quality, libjpeg's, both ends included."""
    subsampling: tuple[float, float, float] = (0.3, 0.4, 0.3)
    """How often chroma is kept whole (4:4:4), halved across (4:2:2), and halved both ways (4:2:0)."""

    def __post_init__(self) -> None:
        """Refuse what has no logarithm."""
        check_above_zero(self, "shot")

    @property
    def margin(self) -> int:
        """Pixels needed on each side beyond what is returned: for the JPEG's blocks, and some for coarse noise."""
        return UNIT + 4

    def apply(self, clean: Float32[np.ndarray, "h w c"], generator: np.random.Generator) -> Pair:
        """Photograph the patch; the degraded one holds 8-bit values, or is the clean one where nothing was done."""
        if generator.random() < self.full_size:
            clean = np.moveaxis(blurred(np.moveaxis(clean, -1, 0), generator.uniform(*self.full_size_blur)), 0, -1)
        target = np.ascontiguousarray(clean[self.margin : -self.margin, self.margin : -self.margin])
        if generator.random() < self.untouched:
            return Pair(target, target)
        picture = clean
        if generator.random() >= self.noiseless:
            picture = clean + self.noise(clean, generator)
        inner = slice(self.margin - UNIT, UNIT - self.margin)
        pixels = to_bytes(picture[inner, inner])
        if generator.random() < self.jpeg:
            low, high = self.quality
            odds = np.cumsum(self.subsampling)
            subsampling = int(np.searchsorted(odds, generator.random() * odds[-1], side="right"))
            pixels = saved(pixels, generator, quality=int(generator.integers(low, high + 1)), subsampling=subsampling)
        else:
            pixels = pixels[UNIT:-UNIT, UNIT:-UNIT]
        return Pair(pixels / np.float32(255), target)

    def noise(
        self, clean: Float32[np.ndarray, "h w 3"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "h w 3"]:
        """Draw a camera and its noise, display-encoded, before clipping and rounding."""
        to_light, to_display = tone_tables(round(generator.uniform(*self.tone) * TONES) / TONES)
        shares = generator.random(len(MATRICES))
        matrix = np.tensordot(shares / shares.sum(), MATRICES, 1)
        gains = np.array([generator.uniform(*self.red_gain), 1.0, generator.uniform(*self.blue_gain)])
        gains *= generator.uniform(*self.exposure)

        planes = np.ascontiguousarray(np.moveaxis(clean, -1, 0))
        light = to_light[(np.clip(planes, 0, 1) * np.float32(STEPS) + np.float32(0.5)).astype(np.intp)]
        sensor = mixed(np.linalg.inv(matrix), light)
        # Bright greys were bright in all colours on the sensor, whatever the gains: they were clipped there.
        bright = np.clip(light.min(axis=0) * np.float32(10) - np.float32(9), 0, 1) ** 2
        over = np.float32(generator.uniform(*self.over))
        sensor *= (1 / gains).astype(np.float32)[:, None, None] * (1 - bright) + over * bright

        spread = self._spread(sensor, generator)
        change = mixed(matrix * gains, spread)
        # Half the difference of both signs, since the tone curve bends: the mean of many such photos is the clean one.
        # So it is in cameras that reduce noise before the curve, and in test sets whose truth is the mean of photos.
        difference = (encoded(light + change, to_display) - encoded(light - change, to_display)) / 2
        residual = self._reduced(difference, generator)
        return np.moveaxis(residual, 0, -1)

    def _spread(
        self, sensor: Float32[np.ndarray, "3 h w"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "3 h w"]:
        """Draw the sensor's noise and spread it over the colours that each pixel did not see."""
        low, high = np.log(self.shot)
        shot = generator.uniform(low, high)
        slope, intercept = READ_OF_SHOT
        read = np.exp(slope * shot + intercept + generator.normal(0, self.read_scatter))
        common = generator.uniform(*self.rows)
        pedestal = 0.0 if generator.random() < self.no_pedestal else 1.0
        if generator.random() < self.whole:
            return sensor_noise(sensor, generator, shot=np.exp(shot), read=read, rows=common, pedestal=pedestal)
        phase = (int(generator.integers(2)), int(generator.integers(2)))
        noise = sensor_noise(
            mosaic(sensor, phase), generator, shot=np.exp(shot), read=read, rows=common, pedestal=pedestal
        )
        return demosaic(noise, phase, gradients=generator.random() < self.gradients)

    def _reduced(
        self, noise: Float32[np.ndarray, "3 h w"], generator: np.random.Generator
    ) -> Float32[np.ndarray, "3 h w"]:
        """Take the noise through the camera's noise reduction and sharpening, brightness and colours apart."""
        noise = blurred(noise, generator.uniform(*self.soft))
        luma = mixed(LUMA, noise)
        chroma = noise - luma
        if generator.random() < self.reduced:
            luma = coarser(luma, generator.uniform(*self.luma_kept), generator.uniform(*self.luma_coarse))
            chroma = coarser(chroma, generator.uniform(*self.chroma_kept), generator.uniform(*self.chroma_coarse))
            chroma *= np.float32(generator.uniform(*self.colourful))
        if generator.random() < self.sharpened:
            luma = coarser(luma, 1 + generator.uniform(*self.sharpening), 1.0)
        return luma + chroma


@lru_cache(maxsize=TONES + 1)
def tone_tables(amount: float) -> tuple[Float32[np.ndarray, " steps"], Float32[np.ndarray, " steps"]]:
    """Tabulate the tone curve both ways: light over display-encoded values, and display-encoded values over light.

    The curve is sRGB's, then `amount` of the way to a smoothstep. The first table has equal steps of display-encoded
    values over 0…1, the second of the light's square root over 0…√`BRIGHTEST`: finer where the curve is steep.
    """
    steps = np.linspace(0, 1, STEPS + 1, dtype=np.float32)
    to_light = srgb_decode(np.interp(steps, toned(steps, amount), steps).astype(np.float32))
    return to_light, toned(srgb_encode(np.float32(BRIGHTEST) * steps**2), amount)


def toned(display: Float32[np.ndarray, " steps"], amount: float) -> Float32[np.ndarray, " steps"]:
    """Go `amount` of the way to a smoothstep, which is taken to stay at 1 beyond 1."""
    inside = np.minimum(display, np.float32(1))
    return display + np.float32(amount) * (inside * inside * (3 - 2 * inside) - display)


def encoded(
    light: Float32[np.ndarray, "3 h w"], to_display: Float32[np.ndarray, " steps"]
) -> Float32[np.ndarray, "3 h w"]:
    """Look light up in `tone_tables`' second table; oddly below 0."""
    steps = np.abs(light)
    np.minimum(steps, np.float32(BRIGHTEST), out=steps)
    np.sqrt(steps, out=steps)
    steps *= np.float32(STEPS / BRIGHTEST**0.5)
    steps += np.float32(0.5)
    display = to_display[steps.astype(np.intp)]
    return np.copysign(display, light, out=display)


def mixed(
    matrix: Float[np.ndarray, "colours 3"], planes: Float32[np.ndarray, "3 h w"]
) -> Float32[np.ndarray, "colours h w"]:
    """Mix the colours of each pixel by a matrix."""
    return (matrix.astype(np.float32) @ planes.reshape(3, -1)).reshape(-1, *planes.shape[1:])


def sensor_noise(
    signal: Float32[np.ndarray, "*planes h w"],
    generator: np.random.Generator,
    *,
    shot: float,
    read: float,
    rows: float,
    pedestal: float,
) -> Float32[np.ndarray, "*planes h w"]:
    """Draw what a sensor adds to a signal: its variance is `shot` · signal + `read`, a straight line (Foi et al.).

    Args:
        signal: Light, where the sensor clips at 1; what lies above comes back without noise, unless it reaches below 1.
        generator: What draws.
        shot: The variance of the shot noise at 1.
        read: The variance of the read noise.
        rows: The standard deviation of noise that each row has in common, relative to the read noise's.
        pedestal: How far below black the sensor can see before it clips.
    """
    signal = np.maximum(signal, 0)
    noise = generator.standard_normal(signal.shape, dtype=np.float32)
    noise *= np.sqrt(np.float32(shot) * signal + np.float32(read))
    noise += np.float32(rows * read**0.5) * generator.standard_normal((*signal.shape[:-1], 1), dtype=np.float32)
    noise += signal
    return np.clip(noise, np.float32(-pedestal), 1, out=noise) - np.minimum(signal, 1)


def mosaic(planes: Float32[np.ndarray, "3 h w"], phase: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Keep the colour that a Bayer filter lets through; `phase` is the row and column of the first red."""
    row, column = phase
    seen = planes[1].copy()
    seen[row::2, column::2] = planes[0, row::2, column::2]
    seen[1 - row :: 2, 1 - column :: 2] = planes[2, 1 - row :: 2, 1 - column :: 2]
    return seen


def demosaic(
    seen: Float32[np.ndarray, "h w"], phase: tuple[int, int], *, gradients: bool
) -> Float32[np.ndarray, "3 h w"]:
    """Fill in the colours that each pixel did not see.

    Bilinear, or with the gradients of the colour that was seen: Malvar, He, Cutler, High-Quality Linear Interpolation
    for Demosaicing of Bayer-Patterned Color Images, ICASSP 2004.
    """
    height, width = seen.shape
    wide = np.pad(seen, ((2, 3), (2, 2)), mode="reflect")  # which keeps the phase
    line, flat = width + 4, wide.ravel()

    def at(down: int, right: int) -> Float32[np.ndarray, " all"]:
        # Whole lines with their padding, as one row of numbers: several times faster than a window of the picture.
        start = (2 + down) * line + 2 + right
        return flat[start : start + height * line]

    across, along = at(0, -1) + at(0, 1), at(-1, 0) + at(1, 0)
    corners = at(-1, -1) + at(-1, 1)
    corners += at(1, -1)
    corners += at(1, 1)
    cross = across + along
    if gradients:
        far_across, far_along = at(0, -2) + at(0, 2), at(-2, 0) + at(2, 0)
        # In eighths: what the bilinear filter finds, and a part of how far the pixel's own colour is from its own kind.
        own = at(0, 0) * np.float32(5)
        own -= corners
        for near, same, other in ((across, far_across, far_along), (along, far_along, far_across)):
            near *= np.float32(4)
            near += own
            near -= same
            near += np.float32(0.5) * other
        far_across += far_along
        own = at(0, 0) * np.float32(4)
        own -= far_across
        cross += cross
        cross += own
        corners += corners
        own *= np.float32(1.5)
        corners += own
    scales = (8, 8, 8, 8) if gradients else (4, 2, 2, 4)
    for values, scale in zip((cross, across, along, corners), scales, strict=True):
        values *= np.float32(1 / scale)
    cross, across, along, corners = (
        values.reshape(height, line)[:, :width] for values in (cross, across, along, corners)
    )
    row, column = phase
    full = np.empty((3, height, width), np.float32)
    full[1] = seen
    for colour, down, right in ((0, row, column), (2, 1 - row, 1 - column)):
        same, other_row, other_column = full[colour], 1 - down, 1 - right
        same[down::2, right::2] = seen[down::2, right::2]
        same[down::2, other_column::2] = across[down::2, other_column::2]
        same[other_row::2, right::2] = along[other_row::2, right::2]
        same[other_row::2, other_column::2] = corners[other_row::2, other_column::2]
        full[1, down::2, right::2] = cross[down::2, right::2]
    return full


def coarser(planes: Float32[np.ndarray, "n h w"], kept: float, sigma: float) -> Float32[np.ndarray, "n h w"]:
    """Keep the part `kept` of what a Gaussian blur would take away; above 1 it is an unsharp mask."""
    return np.float32(kept) * planes + np.float32(1 - kept) * blurred(planes, sigma)


def blurred(planes: Float32[np.ndarray, "n h w"], sigma: float) -> Float32[np.ndarray, "n h w"]:
    """Blur by a Gaussian whose sigma is rounded to eighths; at the edges, by the part of it that lies inside."""
    eighths = round(8 * sigma)
    if eighths == 0:
        return planes
    height, width = planes.shape[1:]
    # As matrices, which on patches is several times faster than Fourier transforms or sums of shifted pictures.
    return blur_matrix(height, eighths) @ planes @ blur_matrix(width, eighths).T


@lru_cache(maxsize=128)
def blur_matrix(size: int, eighths: int) -> Float32[np.ndarray, "size size"]:
    """Return the matrix that blurs a line of pixels; sigma is in eighths of a pixel."""
    distances = np.arange(1 - size, size) * (8 / eighths)
    kernel = np.exp(-0.5 * distances**2).astype(np.float32)
    kernel[kernel < 1e-6] = 0  # numbers next to 0 (denormal ones) would make the products many times slower
    matrix = np.lib.stride_tricks.sliding_window_view(kernel, size)[::-1]
    return np.ascontiguousarray(matrix / matrix.sum(axis=1, keepdims=True))
