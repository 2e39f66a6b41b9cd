"""JPEG: whole or refused, and all that stands around the picture comes back byte for byte."""

from io import BytesIO
from typing import Any

import imagecodecs
import numpy as np
import pytest
from jaxtyping import Shaped
from PIL import Image

from kbnet_cli.errors import InputError, UnsupportedError
from kbnet_cli.formats import jpeg, jpeg_metadata, xmp
from kbnet_cli.formats.segments import APP0, APP1, APP2, APP13, APP14, COM, Segment, parse
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

EXIF = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>'
IPTC = b"\x1c\2\x05\0\5Title"
ICC = bytes(range(256)) * 600  # longer than two segments
CLOSE = 3.0 / 255
"""What quality 95 changes on average in a noisy picture, with room above."""


def with_segments(stream: bytes, *segments: Segment) -> bytes:
    return stream[:2] + b"".join(segment.to_bytes() for segment in segments) + stream[2:]


def encoded(samples: Shaped[np.ndarray, "..."], **options: Any) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(samples), level=95, **options))


def round_trip(data: bytes) -> tuple[Photo, Photo, bytes]:
    photo = jpeg.decode(data)
    again = jpeg.encode(photo, depth=photo.depth, quality=None)
    return photo, jpeg.decode(again), again


def test_every_segment_comes_back_in_order() -> None:
    odd = [
        Segment(APP1, b"Exif\0\0" + EXIF),
        Segment(COM, b"a remark"),
        Segment(APP1, jpeg_metadata.XMP + XMP),
        Segment(0xE5, b"of a maker nobody knows"),
        Segment(APP13, jpeg_metadata.PHOTOSHOP + b"8BIM\3\xed\0\0\0\0\0\2\0\x48" + b"8BIM\4\4\0\0\0\0\0\x0a" + IPTC),
        Segment(APP2, jpeg_metadata.ICC + b"\1\1" + b"profile"),
    ]
    stream = encoded(picture())
    head = 2 + len(parse(stream).segments[0].to_bytes())
    data = stream[:head] + b"".join(s.to_bytes() for s in odd) + stream[head:]
    photo, again, written = round_trip(data)
    assert photo.metadata == Metadata(EXIF, XMP, IPTC, b"profile")
    assert again.metadata == photo.metadata
    assert [s.to_bytes() for s in parse(written).segments] == [s.to_bytes() for s in parse(data).segments]
    assert np.abs(photo.pixels.astype(int) - again.pixels).mean() < 255 * CLOSE


def test_blocks_from_another_format_become_segments() -> None:
    metadata = Metadata(EXIF, XMP, IPTC, ICC)
    photo = Photo(picture(), "rgb", 8, metadata=metadata)
    data = jpeg.encode(photo, depth=8, quality=None)
    assert jpeg.decode(data).metadata == metadata
    read = Image.open(BytesIO(data))
    assert read.info["icc_profile"] == ICC
    assert read.getexif()[274] == 6
    assert [h * v for _, h, v in parse(data).frame.components] == [1, 1, 1]


def test_a_changed_block_replaces_the_old_one_and_no_other() -> None:
    data = with_segments(encoded(picture()), Segment(APP1, b"Exif\0\0" + EXIF), Segment(COM, b"a remark"))
    photo = jpeg.decode(data)
    changed = Photo(photo.pixels, "rgb", 8, metadata=Metadata(exif=EXIF + b"more"), origin=photo.origin)
    written = jpeg.encode(changed, depth=8, quality=None)
    assert jpeg.decode(written).metadata.exif == EXIF + b"more"
    assert [s.payload for s in parse(written).segments if s.marker == COM] == [b"a remark"]


def test_a_long_packet_is_parted_and_joined() -> None:
    field = b"<rdf:Description><dc:t xmlns:dc='d'>" + b"word " * 30_000 + b"</dc:t></rdf:Description>"
    long = XMP.replace(b"/></x", b">" + field + b"</rdf:RDF></x")
    data = jpeg.encode(Photo(picture(), "rgb", 8, metadata=Metadata(xmp=long)), depth=8, quality=None)
    found = jpeg.decode(data).metadata.xmp
    assert found is not None
    assert b"word " * 30_000 in found
    assert b"HasExtendedXMP" not in found
    assert xmp.is_well_formed(found)


def test_exif_longer_than_a_segment_is_refused() -> None:
    photo = Photo(picture(), "rgb", 8, metadata=Metadata(exif=EXIF + bytes(70_000)))
    with pytest.raises(UnsupportedError, match="70026 bytes of EXIF"):
        jpeg.encode(photo, depth=8, quality=None)


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
def test_the_source_s_chroma_sampling_is_kept(sampling: str) -> None:
    data = encoded(picture(), subsampling=sampling)
    _, _, written = round_trip(data)
    assert parse(written).frame.components == parse(data).frame.components


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_is_written_as_it_was_stored(adobe: bool) -> None:
    ink = np.dstack([picture(), picture(seed=1)[:, :, :1]])
    data = encoded(ink, colorspace="CMYK", outcolorspace="CMYK")
    if not adobe:
        marker = next(s for s in parse(data).segments if s.marker == APP14)
        data = data.replace(marker.to_bytes(), b"")
    photo, again, written = round_trip(data)
    assert photo.colour == "cmyk"
    assert any(s.marker == APP14 for s in parse(written).segments) == adobe
    stored = 255 - photo.pixels if adobe else photo.pixels
    assert np.abs(stored.astype(int) - ink).mean() < 255 * CLOSE
    before, after = (np.asarray(Image.open(BytesIO(d)).convert("RGB")).astype(int) for d in (data, written))
    assert np.abs(before - after).mean() < 255 * CLOSE
    assert np.abs(photo.pixels.astype(int) - again.pixels).mean() < 255 * CLOSE


def test_rgb_stored_as_rgb_stays_so() -> None:
    data = encoded(picture(), colorspace="RGB", outcolorspace="RGB")
    photo, _, written = round_trip(data)
    assert np.abs(photo.pixels.astype(int) - picture()).mean() < 255 * CLOSE
    assert [c[0] for c in parse(written).frame.components] == list(b"RGB")


def test_grey_stays_one_channel() -> None:
    photo, again, _ = round_trip(encoded(picture()[:, :, 0]))
    assert photo.colour == again.colour == "grey"


def test_12_bits_stay_12_bits() -> None:
    photo, again, written = round_trip(encoded(picture(depth=12), bitspersample=12))
    assert (photo.depth, again.depth, parse(written).frame.precision) == (12, 12, 12)


def test_lossless_stays_lossless() -> None:
    data = bytes(imagecodecs.jpeg8_encode(picture(depth=16), lossless=True, bitspersample=16))
    photo, again, _ = round_trip(data)
    assert photo.origin is not None
    assert photo.origin.lossless
    assert np.array_equal(photo.pixels, picture(depth=16))
    assert np.array_equal(again.pixels, photo.pixels)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused(kept: float) -> None:
    data = encoded(picture(100, 100))
    with pytest.raises(InputError, match=r"cut short|broken"):
        jpeg.decode(data[: int(len(data) * kept)])


def test_missing_data_in_the_middle_is_refused_and_not_painted_grey() -> None:
    data = encoded(picture(200, 200))
    with pytest.raises(InputError, match="broken"):
        jpeg.decode(data[: len(data) // 2] + data[-2:])


def test_zeros_before_the_end_mark_are_harmless() -> None:
    data = encoded(picture())
    assert np.array_equal(jpeg.decode(data[:-2] + bytes(30) + data[-2:]).pixels, jpeg.decode(data).pixels)


def test_what_trails_the_picture_is_kept() -> None:
    data = encoded(picture()) + b"\0\0\0\x18ftypmp42 and a short film"
    _, _, written = round_trip(data)
    assert written.endswith(b"\0\0\0\x18ftypmp42 and a short film")


def test_a_multi_picture_file_stays_one() -> None:
    file = BytesIO()
    first, second = Image.fromarray(picture()), Image.fromarray(picture(24, 32, seed=1))
    first.save(file, "MPO", save_all=True, append_images=[second], quality=85)
    _, _, written = round_trip(file.getvalue())
    assert len(written) != len(file.getvalue())
    with Image.open(BytesIO(file.getvalue())) as before, Image.open(BytesIO(written)) as after:
        before.seek(1)
        after.seek(1)
        assert np.array_equal(np.asarray(before), np.asarray(after))


def test_density_and_jfif_are_the_source_s() -> None:
    file = BytesIO()
    Image.fromarray(picture()).save(file, "JPEG", dpi=(240, 240))
    _, _, written = round_trip(file.getvalue())
    assert Image.open(BytesIO(written)).info["dpi"] == (240, 240)
    assert sum(s.marker == APP0 for s in parse(written).segments) == 1
