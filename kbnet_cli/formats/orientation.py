"""The orientation where a container has its own and EXIF's is not looked at: AVIF, HEIC and JPEG XL.

A photo's orientation stands in its EXIF block, the one place that every format knows. So a container's own goes into
the block when it is read, and out of it when it is written; pixels are turned nowhere.
"""

from kbnet_cli.formats import exif
from kbnet_cli.photo import Photo


def into_exif(block: bytes | None, orientation: int) -> bytes | None:
    """Return the block with the container's orientation; the same block, or none, where it already says so."""
    if exif.orientation(block) == orientation:
        return block
    return exif.with_orientation(block, orientation)


def exif_to_write(photo: Photo, *, stored: bytes | None, orientation: int) -> bytes | None:
    """Return the block as it stood in the source where nothing but `into_exif` changed it."""
    return stored if into_exif(stored, orientation) == photo.metadata.exif else photo.metadata.exif
