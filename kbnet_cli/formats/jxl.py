"""JPEG XL: grey and RGB with 8, 10, 12 and 16 bits and float, with and without alpha."""

import imagecodecs
import numpy as np
from jaxtyping import Float32, Shaped

from kbnet_cli.colour import srgb_decode
from kbnet_cli.errors import InputError, OutputError, UnsupportedError
from kbnet_cli.formats import codestream, exif, jxl_profile
from kbnet_cli.formats.boxes import Box, split
from kbnet_cli.formats.chunks import LARGEST_TEXT_BYTES
from kbnet_cli.formats.codestream import ALPHA, GREY, RGB, Header
from kbnet_cli.formats.codestream_rewrite import rewrite
from kbnet_cli.formats.limits import check_size
from kbnet_cli.formats.orientation import exif_to_write, into_exif
from kbnet_cli.photo import ColourModel, Depth, Metadata, Origin, Photo

DEFAULT_QUALITY = 90
_CONTAINER = (Box(b"JXL ", b"\r\n\x87\n"), Box(b"ftyp", b"jxl \0\0\0\0jxl "))
_CODED = (b"JXL ", b"ftyp", b"jxlc", b"jxlp", b"jxll", b"jxli", b"jbrd")
"""Boxes that say how pixels are coded. `jbrd` would bring back the JPEG file it was made of, old pixels and all."""
_BLOCKS = {b"Exif": "exif", b"xml ": "xmp"}
_DEPTHS: dict[tuple[int, bool], Depth] = {
    (8, False): 8, (10, False): 10, (12, False): 12, (16, False): 16, (32, True): 32,
}  # fmt: skip


def decode(data: bytes, *, max_megapixels: float | None = None) -> Photo:
    """Read a JPEG XL file. How it is to be turned goes into the EXIF block, the one place other formats know.

    Raises:
        InputError: If the file is cut short, damaged or too large.
        UnsupportedError: If it is an animation, or holds what could not be written back.
    """
    stream, boxes = _take_apart(data)
    header = codestream.parse(stream)
    check_size(header.height, header.width, len(data), max_megapixels)
    depth = _supported(header)
    try:
        samples = imagecodecs.jpegxl_decode(stream, keeporientation=True)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"the JPEG XL data is broken: {error}") from error
    if samples.ndim == 2:
        samples = samples[:, :, np.newaxis]
    colour: ColourModel = "grey" if header.colours.space == GREY else "rgb"
    has_alpha = bool(header.extra_channels)
    if samples.shape != (header.height, header.width, (1 if colour == "grey" else 3) + has_alpha):
        raise InputError(f"the JPEG XL data is broken: got an array of {samples.shape}")
    blocks = _blocks(boxes)
    return Photo(
        pixels=np.ascontiguousarray(samples[:, :, : 1 if colour == "grey" else 3]),
        colour=colour,
        depth=depth,
        alpha=np.ascontiguousarray(samples[:, :, -1]) if has_alpha else None,
        metadata=Metadata(
            exif=into_exif(blocks.exif, header.orientation),
            xmp=blocks.xmp,
            icc=jxl_profile.read(stream) if header.has_profile else None,
        ),
        origin=Origin("jxl", data, lossless=not header.xyb),
        linear=not header.has_profile and header.colours.transfer == codestream.LINEAR_TRANSFER,
    )


def encode(photo: Photo, *, depth: Depth, quality: int | None) -> bytes:
    """Write a JPEG XL file: lossless where the source was, for floats, and for more than 8 bits with a profile.

    Raises:
        UnsupportedError: If quality is asked for where only lossless is possible.
        OutputError: If the encoder refuses.
    """
    assert photo.depth == depth
    source = photo.origin if photo.origin is not None and photo.origin.format == "jxl" else None
    why = _why_lossless(photo)
    if why and quality is not None and quality < 100:
        raise UnsupportedError(
            f"got quality {quality} for {why}, which is written to JPEG XL only without loss",
            hint="leave --quality out",
        )
    lossless = bool(why) or quality == 100 or (quality is None and source is not None and source.lossless)
    orientation = exif.orientation(photo.metadata.exif)
    samples = photo.pixels
    if photo.alpha is not None:
        samples = np.concatenate([samples, photo.alpha[:, :, np.newaxis]], axis=2)
    distance = 0.0 if lossless else _distance(quality or DEFAULT_QUALITY)
    level, stream = _compress(samples, photo, depth=depth, distance=distance, orientation=orientation)
    block, others = photo.metadata.exif, []
    if source is not None:
        old, boxes = _take_apart(source.data)
        stored = _blocks(boxes)
        block = exif_to_write(photo, stored=stored.exif, orientation=codestream.parse(old).orientation)
        others = [box for box in boxes if box.kind not in (*_CODED, *_BLOCKS) and not _packs_block(box)]
    if block is not None:
        # Four bytes say how far on the TIFF stream begins (ISO/IEC 18181-2, annex A).
        others.append(Box(b"Exif", bytes(4) + block))
    if photo.metadata.xmp is not None:
        others.append(Box(b"xml ", photo.metadata.xmp))
    if not others and not level:
        return stream
    return b"".join(box.to_bytes() for box in (*_CONTAINER, *level, *others, Box(b"jxlc", stream)))


def _why_lossless(photo: Photo) -> str:
    """Say what about a photo no lossy encoder at hand can keep; nothing if one can."""
    if photo.depth == 32:
        return "float samples"
    if photo.linear:
        return "linear light"
    if photo.metadata.icc is not None and photo.depth > 8:
        return f"{photo.depth} bits with an ICC profile"
    if photo.metadata.icc is not None and photo.colour == "grey" and photo.alpha is not None:
        return "grey and alpha with an ICC profile"
    return ""


def _compress(
    samples: Shaped[np.ndarray, "h w c"], photo: Photo, *, depth: Depth, distance: float, orientation: int
) -> tuple[list[Box], bytes]:
    """Return the box that names the level, if one is needed, and the codestream."""
    array = samples[:, :, 0] if samples.shape[2] == 1 else samples
    try:
        if photo.metadata.icc is not None and distance > 0:
            stream = jxl_profile.encode_lossy(samples, photo.metadata.icc, distance=distance)
            return [], jxl_profile.put_into(stream, photo.metadata.icc, orientation=orientation)
        if distance > 0 and depth > 8:
            # The encoder takes samples of more than 8 bits for linear light; so it gets linear light, and then the
            # header says which depth and curve a decoder is to give back.
            light = _light(samples, depth, has_alpha=photo.alpha is not None)
            file = imagecodecs.jpegxl_encode(light[:, :, 0] if light.shape[2] == 1 else light, distance=distance)
            level, stream = _stream(bytes(file))
            return level, rewrite(stream, orientation=orientation, srgb=True, bits=depth)
        file = imagecodecs.jpegxl_encode(
            array,
            lossless=distance == 0 or None,
            distance=None if distance == 0 else distance,
            effort=4 if distance == 0 else 7,
            bitspersample=None if depth == 32 else depth,
        )
    except (RuntimeError, ValueError) as error:
        height, width = photo.size
        raise OutputError(f"the JPEG XL encoder refused {width}×{height} pixels: {error}") from error
    level, stream = _stream(bytes(file))
    if photo.metadata.icc is not None:
        return level, jxl_profile.put_into(stream, photo.metadata.icc, orientation=orientation)
    return level, rewrite(stream, orientation=orientation, srgb=not photo.linear)


def _light(samples: Shaped[np.ndarray, "h w c"], depth: Depth, *, has_alpha: bool) -> Float32[np.ndarray, "h w c"]:
    """Return linear light by the sRGB curve; alpha stays as it is."""
    encoded = samples.astype(np.float32) / np.float32(2**depth - 1)
    light = srgb_decode(encoded)
    if has_alpha:
        light[:, :, -1] = encoded[:, :, -1]
    return light


def _distance(quality: int) -> float:
    """Return libjxl's distance for a quality as JPEG counts it (JxlEncoderDistanceFromQuality)."""
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53.0 / 3000.0 * quality * quality - 23.0 / 20.0 * quality + 25.0


def _supported(header: Header) -> Depth:
    """Return the depth, or refuse what could not be written back."""
    depth = _DEPTHS.get((header.bits, header.is_float))
    if depth is None:
        kind = "float" if header.is_float else "bit"
        raise UnsupportedError(f"got {header.bits}-{kind} JPEG XL, expected 8, 10, 12 or 16 bits, or 32-bit float")
    if header.extra_channels not in ((), (ALPHA,)):
        raise UnsupportedError("got a JPEG XL file with channels besides grey, RGB and alpha, which would be lost")
    if header.premultiplied:
        raise UnsupportedError("got JPEG XL with premultiplied alpha, expected straight alpha")
    if header.has_profile and header.xyb:
        raise UnsupportedError(
            "got a lossy JPEG XL file with an ICC profile, which the decoder cannot give in its colours",
            hint="make a PNG of it first: djxl photo.jxl photo.png",
        )
    colours = header.colours
    known = colours.is_srgb or (colours.is_d65_709 and colours.transfer == codestream.LINEAR_TRANSFER)
    if not header.has_profile and (colours.space not in (RGB, GREY) or not known):
        raise UnsupportedError(
            "got a JPEG XL file with colours given by number that are not sRGB",
            hint="make a PNG of it first: djxl photo.jxl photo.png",
        )
    return depth


def _take_apart(data: bytes) -> tuple[bytes, tuple[Box, ...]]:
    """Return the codestream and the boxes around it."""
    if data.startswith(codestream.SIGNATURE):
        return data, ()
    boxes = split(data)
    # A codestream may be parted; each part begins with four bytes that count the parts.
    stream = b"".join(b.content if b.kind == b"jxlc" else b.content[4:] for b in boxes if b.kind in (b"jxlc", b"jxlp"))
    return stream, boxes


def _stream(file: bytes) -> tuple[list[Box], bytes]:
    stream, boxes = _take_apart(file)
    return [box for box in boxes if box.kind == b"jxll"], stream


def _blocks(boxes: tuple[Box, ...]) -> Metadata:
    """Find EXIF and XMP, packed by Brotli or not."""
    found: dict[str, bytes] = {}
    left = LARGEST_TEXT_BYTES
    for box in boxes:
        packed = _packs_block(box)
        name = _BLOCKS.get(box.content[:4] if packed else box.kind)
        if name is None:
            continue
        content = box.content
        if packed:
            content = _unpack(content[4:], left)
            left -= len(content)
        if name == "exif":
            content = content[4 + int.from_bytes(content[:4], "big") :]
        if content:
            found.setdefault(name, content)
    return Metadata(**found)


def _unpack(packed: bytes, most: int) -> bytes:
    try:
        return bytes(imagecodecs.brotli_decode(packed, out=most))
    except (RuntimeError, ValueError) as error:
        raise InputError("the packed metadata of the JPEG XL file is broken or far too long") from error


def _packs_block(box: Box) -> bool:
    return box.kind == b"brob" and box.content[:4] in _BLOCKS
