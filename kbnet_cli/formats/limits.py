"""What a header may ask for before anything is allocated."""

from kbnet_cli.errors import InputError

SUSPECT_MEGAPIXELS = 100.0
"""Up to here a picture is decoded whatever its file weighs: 100 megapixels of 16-bit RGB are 600 MB."""
SUSPECT_PIXELS_PER_BYTE = 1000.0
"""More than any photograph reaches; deflate and AV1 both pass it only with areas of one colour."""


def check_size(height: int, width: int, file_bytes: int, max_megapixels: float | None) -> None:
    """Refuse a picture without pixels, a decompression bomb, and what is above a limit the user set.

    Raises:
        InputError: If the picture is empty or larger than it may be.
    """
    if height < 1 or width < 1:
        raise InputError(f"got a header of {width}×{height} pixels, expected at least 1×1")
    megapixels = height * width / 1e6
    if max_megapixels is not None:
        if megapixels > max_megapixels:
            raise InputError(
                f"got {width}×{height} pixels, {megapixels:.0f} megapixels, expected at most {max_megapixels:g}",
                hint=f"raise the limit with --max-megapixels {megapixels + 0.5:.0f}",
            )
        return
    if megapixels > SUSPECT_MEGAPIXELS and height * width > SUSPECT_PIXELS_PER_BYTE * file_bytes:
        raise InputError(
            f"got {width}×{height} pixels from {file_bytes} bytes, which looks like a decompression bomb",
            hint=f"if it is a real picture: --max-megapixels {megapixels + 0.5:.0f}",
        )
