"""What the process that develops a raw file is asked for, and what it tells the one that asked."""

import dataclasses
import json
from dataclasses import dataclass

from kbnet_cli.formats.development import Development
from kbnet_cli.photo import CameraColour, Crop


@dataclass(frozen=True)
class Wishes:
    """What is asked for."""

    development: Development
    max_megapixels: float | None = None

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Wishes":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        return cls(Development(**fields["development"]), fields["max_megapixels"])


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
    camera: CameraColour | None = None
    """Of a linear photo; make and model are left to whoever reads the file's metadata."""
    notes: tuple[str, ...] = ()
    error: str = ""
    hint: str = ""

    def to_json(self) -> str:
        """Write it as one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Report":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        camera = fields.pop("camera")
        return cls(**{**fields, "notes": tuple(fields["notes"]), "camera": _camera(camera) if camera else None})


def _camera(fields: dict[str, object]) -> CameraColour:
    values = {name: _tuples(value) for name, value in fields.items()}
    crop = fields["crop"]
    return CameraColour(**{**values, "crop": Crop(**crop) if isinstance(crop, dict) else None})  # type: ignore[arg-type]


def _tuples(value: object) -> object:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value
