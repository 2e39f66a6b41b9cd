"""What a file is, by how it begins."""

HEAD_BYTES = 64
"""How much of a file `sniff` wants to see; it works with less."""

_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\x0a", "jxl"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jxl"),
    (b"II*\x00", "tif"),
    (b"MM\x00*", "tif"),
    (b"II+\x00", "tif"),
    (b"MM\x00+", "tif"),
    (b"FUJIFILMCCD-RAW", "raw"),
    (b"IIRO", "raw"),  # Olympus ORF
    (b"IIRS", "raw"),  # Olympus ORF of early cameras
    (b"MMOR", "raw"),  # Olympus ORF, the other byte order
    (b"IIU\x00", "raw"),  # Panasonic RW2, Leica RWL
    (b"qktk", "raw"),  # Apple QuickTake 100
    (b"qktn", "raw"),  # Apple QuickTake 150
    (b"FOVb", "raw"),  # Sigma X3F
    (b"\x00MRM", "raw"),  # Minolta MRW
    (b"BM", "bmp"),
    (b"GIF8", "gif"),
    (b"\x00\x00\x00\x0cjP  ", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"v/1\x01", "exr"),
    (b"8BPS", "psd"),
)
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs")


def sniff(head: bytes) -> str | None:
    """Name the format of a file that begins so, or None.

    Raw files that are built like TIFF (DNG, NEF, ARW, CR2 without its mark …) are called "tif" here: telling them
    apart needs the directory, which `formats.raw.reader.looks_raw` reads.
    """
    if head[8:10] == b"CR" and head[:4] == b"II*\x00":
        return "raw"  # Canon CR2
    if head[6:14] == b"HEAPCCDR" or head[6:14] == b"HEAPJPGM":
        return "raw" if head[6:14] == b"HEAPCCDR" else None  # Canon CRW; the other is its thumbnail alone
    for start, name in _STARTS:
        if head.startswith(start):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:2] in (b"P5", b"P6", b"P7") and head[2:3] in (b" ", b"\t", b"\n", b"\r", b"\v", b"\f", b"#"):
        return "ppm"
    if head[4:8] == b"ftyp":
        return _brand(head)
    return None


def _brand(head: bytes) -> str | None:
    """Tell the members of the ISO media family apart by their major brand, then by the compatible ones."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12]] + [head[at : at + 4] for at in range(16, end - 3, 4)]
    if brands[0] == b"crx ":
        return "raw"  # Canon CR3
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "avif"
        if brand in _HEIC_BRANDS:
            return "heic"
    return None
