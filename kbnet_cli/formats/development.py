"""How camera raw becomes a photo."""

from dataclasses import dataclass
from typing import Literal

RawMode = Literal["linear", "developed"]
Demosaic = Literal["auto", "linear", "vng", "ppg", "ahd", "dcb", "dht", "aahd"]
Highlights = Literal["clip", "ignore", "blend", "rebuild"]
WhiteBalance = Literal["camera", "auto", "daylight"]
ColourSpace = Literal["srgb", "display-p3", "rec2020", "prophoto"]


@dataclass(frozen=True)
class Development:
    """What LibRaw is asked for, in its own terms where it has any."""

    mode: RawMode = "developed"
    """linear: the sensor's own channels, demosaiced and nothing else, for DNG. developed: a picture to look at."""
    demosaic: Demosaic = "auto"
    """auto: LibRaw's own choice, AHD for Bayer sensors. X-Trans always has a way of its own."""
    highlights: Highlights = "clip"
    """What becomes of values beyond the white of one channel. Developed pictures only, like all that follow."""
    white_balance: WhiteBalance = "camera"
    """camera: what it found; where it says nothing, LibRaw guesses from the picture.

    Linear photos always tell the camera's; where it says nothing, that of daylight.
    """
    brightness: float = 1.0
    """Light is multiplied by it."""
    colour_space: ColourSpace = "srgb"

    @property
    def of_developed(self) -> tuple[str, ...]:
        """The wishes that say nothing to a linear photo, as options are called."""
        usual = Development()
        names = ("highlights", "white_balance", "brightness", "colour_space")
        return tuple(f"--{name.replace('_', '-')}" for name in names if getattr(self, name) != getattr(usual, name))
