"""A photo is one value: pixels and everything known about them travel together."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32, Shaped, UInt8, UInt16

Pixels = UInt8[np.ndarray, "h w c"] | UInt16[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]
"""Samples as they are stored: integers 0 … 2^depth - 1, or float32 where 1 is white."""

ColourModel = Literal["grey", "rgb", "cmyk"]
Transfer = Literal["display", "linear"]
Depth = Literal[8, 10, 12, 16, 32]

CHANNELS: dict[ColourModel, int] = {"grey": 1, "rgb": 3, "cmyk": 4}


@dataclass(frozen=True)
class Metadata:
    """Blocks that ride along with the pixels, each as the raw bytes found in the file."""

    exif: bytes | None = None
    """A TIFF stream ("II*…" or "MM…"), without the "Exif" mark that JPEG puts before it. Holds the orientation."""
    xmp: bytes | None = None
    """The packet, UTF-8 XML."""
    iptc: bytes | None = None
    """IPTC-IIM records, without Photoshop's wrapper around them."""
    icc: bytes | None = None
    """The ICC profile."""


@dataclass(frozen=True)
class Origin:
    """Where a photo came from, so that the same container can be written again with all it held."""

    format: str
    """The format's name as `formats.sniff` gives it: jpg, png, tif, webp, avif, jxl, heic, ppm, raw …"""
    data: bytes = field(repr=False)
    """The whole file. Encoders of the same format carry over from it what no other format knows."""
    lossless: bool = True
    """Whether the file's own compression kept each sample exactly."""


Matrix = tuple[tuple[float, ...], ...]
"""Rows of numbers."""


@dataclass(frozen=True)
class Levels:
    """Which sample values a network is to see as black and as white, one for each channel.

    They say nothing about what is clipped: samples below and above pass through.
    """

    black: tuple[float, ...]
    white: tuple[float, ...]
    matrix: Matrix | None = None
    """From the channels, where black is 0 and white 1, to the colours of a display; None: they are such colours."""


@dataclass(frozen=True)
class Crop:
    """The part of the pixels that is meant to be shown."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class CameraColour:
    """What it takes to develop a linear photo, whose samples are a sensor's and in no standard colour space."""

    make: str
    model: str
    black: float
    """The sample value of no light, in each channel. Noise reaches below it."""
    white: float
    """The sample value at which the sensor is full, in each channel. A few samples reach above it."""
    neutral: tuple[float, ...]
    """How much of each channel a white surface gives in the light of the photo, the largest being 1."""
    xyz_to_camera: Matrix | None = None
    """Three rows, for light of D65; None for a grey sensor or an unknown camera."""
    camera_to_srgb: Matrix | None = None
    """From white-balanced samples to linear sRGB, three rows; None for a grey sensor."""
    crop: Crop | None = None
    """None: all of it."""
    noise_left: float = 1.0
    """The share of the sensor's noise that is left, as variance: 1 before it is restored."""


@dataclass(frozen=True)
class Photo:
    """Pixels as stored, never turned, with everything that came along.

    Pixels are turned neither in memory nor in the file: the orientation stays in the metadata.
    """

    pixels: Shaped[np.ndarray, "h w c"]
    """h w c samples: uint8, uint16 or float32, with one channel (grey), three (RGB) or four (CMYK, as stored)."""
    colour: ColourModel
    depth: Depth
    """Bits that count: 8 in uint8; 10, 12 or 16 in uint16, where white is 2^depth - 1; 32 in float32."""
    alpha: Shaped[np.ndarray, "h w"] | None = None
    """Opacity in the type and range of the pixels. Carried, never restored."""
    metadata: Metadata = field(default_factory=Metadata)
    origin: Origin | None = None
    linear: bool = False
    """Whether samples are proportional to light where no ICC profile says otherwise (float TIFF, EXR, linear DNG)."""
    levels: Levels | None = None
    """None: the network sees 0 as black and `white` as white."""
    camera: CameraColour | None = None
    """Of a linear photo from a camera raw file, whose colours only a raw developer can show."""
    notes: tuple[str, ...] = ()
    """What a user should be told about how this photo was read."""

    def __post_init__(self) -> None:
        expected = {8: np.uint8, 10: np.uint16, 12: np.uint16, 16: np.uint16, 32: np.float32}[self.depth]
        assert self.pixels.dtype == expected, f"{self.depth} bits in {self.pixels.dtype}"
        assert self.pixels.ndim == 3, self.pixels.shape
        assert self.pixels.shape[2] == CHANNELS[self.colour], (self.colour, self.pixels.shape)
        assert self.levels is None or len(self.levels.black) == len(self.levels.white) == self.pixels.shape[2]
        assert self.alpha is None or self.alpha.shape == self.pixels.shape[:2]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.pixels.shape[0] * self.pixels.shape[1] / 1e6

    @property
    def white(self) -> float:
        """The sample value of full white: 2^depth - 1, or 1 for float."""
        return 1.0 if self.depth == 32 else float(2**self.depth - 1)

    def with_pixels(self, pixels: Shaped[np.ndarray, "h w c"]) -> "Photo":
        """Return the same photo with other pixels of the same type and shape."""
        assert pixels.shape == self.pixels.shape
        assert pixels.dtype == self.pixels.dtype
        return replace(self, pixels=pixels)
