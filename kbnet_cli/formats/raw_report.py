"""What the process that develops a raw file tells the one that asked for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What LibRaw says about a file beside its samples, or why there are none."""

    height: int = 0
    width: int = 0
    channels: int = 0
    flip: int = 0
    """LibRaw's code: bit 0 mirrors left and right, bit 1 top and bottom, bit 2 swaps rows and columns."""
    pixel_aspect: float = 1.0
    iso: float = 0.0
    exposure_seconds: float = 0.0
    aperture: float = 0.0
    focal_length_mm: float = 0.0
    timestamp: str = ""
    error: str = ""
    hint: str = ""
