"""Which camera and lens a DNG file is from, and what of its maker's own data may come along."""

from contextlib import suppress

from kbnet_cli.errors import InputError
from kbnet_cli.formats import exif
from kbnet_cli.formats.dng.source import Source, in_order
from kbnet_cli.formats.dng.values import text
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry, Order
from kbnet_cli.formats.tiff_blocks import XMP
from kbnet_cli.photo import CameraColour, Photo

_MAKE, _MODEL, _UNIQUE_MODEL = 271, 272, 50708
_LENS_INFO, _LENS_SPECIFICATION, _MAKER_NOTE_SAFETY, _PRIVATE = 50736, 42034, 50741, 50740
_OF_MAKER = frozenset({305, 306, 315, 33432, 50735, 50827, exif.MAKER_NOTE, 42032, 42033, 42037})
"""Software, date, people, serial numbers, names of files: what is gone from a photo whose private metadata is."""


def identity_entries(photo: Photo, camera: CameraColour, source: Source | None, order: Order) -> dict[int, Entry]:
    """Return tags of the first directory about camera, lens and maker; what the EXIF block says itself goes before."""
    described = _described(photo)
    said = {entry.tag: entry for entry in described.image}
    make, model = (_text(said.get(tag)) or name.strip() for tag, name in ((_MAKE, camera.make), (_MODEL, camera.model)))
    entries = [text(_MAKE, make), text(_MODEL, model), text(_UNIQUE_MODEL, model_name(make, model))]
    lens = next((entry for entry in described.exif if entry.tag == _LENS_SPECIFICATION and entry.count == 4), None)
    if lens is not None:
        entries.append(Entry(_LENS_INFO, lens.type, lens.count, lens.value))
    if source is not None:
        safety = source.find(_MAKER_NOTE_SAFETY)
        if safety is not None and any(entry.tag == exif.MAKER_NOTE for entry in described.exif):
            entries += in_order((safety,), source.layout.order, order)
        private = source.find(_PRIVATE)
        if private is not None and _is_all_there(source, photo, described):
            entries += in_order((private,), source.layout.order, order)
    return {entry.tag: entry for entry in entries}


def model_name(make: str, model: str) -> str:
    """Return make and model as one name as Adobe writes it: the make's first word, capitalised, and not twice."""
    first, _, rest = model.partition(" ")
    if not make or not model:
        return model or make or "unknown camera"
    if first.lower() in (*make.lower().split(), "pentax"):  # of Ricoh
        return f"{first.capitalize()} {rest}".strip()
    return f"{make.split()[0].capitalize()} {model}"


def _described(photo: Photo) -> Description:
    with suppress(InputError):
        if photo.metadata.exif is not None:
            return exif.read(photo.metadata.exif)
    return Description("<")


def _is_all_there(source: Source, photo: Photo, described: Description) -> bool:
    """Tell whether a photo has all metadata of its maker's that the file had, and so was not stripped of it.

    What a maker keeps in private data may be as private as a serial number.
    """
    before = _tags(exif.describe(source.data, source.first)) & _OF_MAKER
    xmp = source.first.find(XMP) is not None
    return bool(before or xmp) and before <= _tags(described) and (photo.metadata.xmp is not None or not xmp)


def _tags(described: Description) -> set[int]:
    return {entry.tag for entry in (*described.image, *described.exif)}


def _text(entry: Entry | None) -> str:
    return (entry.value or b"").rstrip(b"\0 ").decode("ascii", "replace").strip() if entry is not None else ""
