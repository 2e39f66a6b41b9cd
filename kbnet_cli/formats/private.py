"""What a photo says of people, places and things, and the photo without it (`--strip`).

What is not named here as staying goes, so that a tag which nobody has heard of yet goes as well.

| stays | tags |
|---|---|
| camera and lens by make and model | EXIF 271, 272, 42034–42036; DNG 50708, 50736 |
| exposure, ISO, focal length, flash, metering, camera's settings | 33434–37386 as listed below, 41483–41996 |
| day and time of taking, to the second | 36867, 36868 |
| what it takes to show the photo: orientation, resolution, colours | 274, 282, 283, 296, 318, 319, 40961, ICC |
| stars | 18246, 18249 |
| the noise profile of DNG | 51041 |

| goes | for example |
|---|---|
| places | all GPS, time zones (they tell the country), temperature, height, direction |
| people | artist, copyright, owner, photographer; captions, comments, titles; where the subject is |
| things | serial numbers of camera and lens, image numbers and names, computers, programs, original files |
| maker notes | they hold serial numbers, counters and faces, each maker's in its own way |
| XMP and IPTC | all: captions, people, places, face regions, edits with their history |
| pictures beside the picture | thumbnails, previews, further pages, gain maps: they may show what was cropped away |
| the rest of the file | comments, text chunks, Photoshop's resources, content credentials, what stands behind the end |
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from kbnet_cli.errors import InputError
from kbnet_cli.formats import bare, exif
from kbnet_cli.formats.exif import Description
from kbnet_cli.formats.ifd import Entry
from kbnet_cli.photo import Metadata, Photo

_IMAGE = frozenset(
    {271, 272}  # make, model
    | {274, 282, 283, 296}  # orientation, resolution and its unit
    | {318, 319}  # white point, primaries
    | {18246, 18249}  # stars, as a number and in percent
    | {50708, 50736, 51041}  # DNG: unique camera model, lens, noise profile
)
_TAKEN = frozenset(
    {33434, 33437, 34850, 34855, 34864, 34865, 34866, 34867, 34868, 34869}  # exposure, programme, sensitivity
    | {36864, 36867, 36868, 37121, 37122, 40960, 40961, 40962, 40963, 42240}  # versions, dates, size, colours
    | {37377, 37378, 37379, 37380, 37381, 37382, 37383, 37384, 37385, 37386}  # shutter to focal length
    | {41483, 41486, 41487, 41488, 41493, 41495, 41728, 41729}  # flash energy, sensor, source
    | {41985, 41986, 41987, 41988, 41989, 41990, 41991, 41992, 41993, 41994, 41996}  # the camera's settings
    | {42034, 42035, 42036, 42080}  # lens; whether it is several exposures
)
_INTEROP = frozenset({1, 2})  # which of the standard's colour spaces
_TEXT = 2
_NO_LONGER = ("further page", "previews inside", "content credentials (C2PA) come", "extended XMP")
"""Parts of notes that tell of what comes along, which it does not here."""


def stripped_photo(photo: Photo) -> Photo:
    """Return the photo without private metadata, and with an origin from which encoders can carry none over."""
    origin, notes = photo.origin, [note for note in photo.notes if not any(part in note for part in _NO_LONGER)]
    if origin is not None:
        if bare.holds_more_pictures(origin):
            notes.append("further pictures in the file, such as pages, previews or gain maps, are left out")
        origin = bare.bare(origin)
    return replace(photo, metadata=stripped(photo.metadata), origin=origin, notes=tuple(notes))


def stripped(metadata: Metadata) -> Metadata:
    """Return the metadata without what is private: a new EXIF block, the ICC profile, and nothing else."""
    described = Description("<")
    if metadata.exif is not None:
        with suppress(InputError):
            described = exif.read(metadata.exif)
    kept = replace(
        described,
        image=_kept(described.image, _IMAGE),
        exif=_kept(described.exif, _TAKEN),
        gps=(),
        interop=_kept(described.interop, _INTEROP),
    )
    return Metadata(exif=exif.pack(kept) if kept else None, icc=metadata.icc)


def _kept(entries: Iterable[Entry], tags: frozenset[int]) -> tuple[Entry, ...]:
    return tuple(_until_zero(entry) for entry in entries if entry.tag in tags)


def _until_zero(entry: Entry) -> Entry:
    """Return a text as readers show it: what stands behind its end is somebody's memory."""
    if entry.type != _TEXT or entry.value is None:
        return entry
    value = entry.value.partition(b"\0")[0] + b"\0"
    return replace(entry, count=len(value), value=value)
