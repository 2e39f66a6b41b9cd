"""Small files made to hang a reader, to fill the memory or to crash: each is read or refused at once."""

import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest

from kbnet_cli.errors import InputError
from kbnet_cli.formats import chunks, codec, provenance, xmp
from kbnet_cli.formats.boxes import Box, first, split
from kbnet_cli.formats.chunks import Chunk
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

MOST_SECONDS = 5
"""Of the processor. Each takes some hundredths; before, it was minutes or gigabytes."""
ENTRY = provenance.Entry("1", "denoise", "sidd", "0" * 64, 1.0)
RDF = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{xmp.RDF}">'.encode()
END = b"</rdf:RDF></x:xmpmeta>"


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    begin = time.process_time()
    yield
    assert time.process_time() - begin < MOST_SECONDS


def photo(packet: bytes | None = None) -> Photo:
    return Photo(np.ascontiguousarray(picture()), "rgb", 8, metadata=Metadata(xmp=packet))


def test_a_packet_of_blanks_is_searched_once() -> None:
    packet = RDF + b" " * 200_000 + END
    assert not xmp.lacks_extension(packet)
    assert xmp.lacks_extension(packet.replace(END, b" xmpNote:HasExtendedXMP = '0'" + END))
    signed = provenance.signed(photo(packet), ENTRY)
    assert b"kbnet:Restorations" in (signed.metadata.xmp or b"")


def test_a_pointer_is_taken_away_with_the_blanks_before_it() -> None:
    main = RDF + b'<rdf:Description xmlns:xmpNote="n"  \n xmpNote:HasExtendedXMP="0"/>' + END
    joined = xmp.join(main, RDF + b"<rdf:Description/>" + END)
    assert joined == RDF + b'<rdf:Description xmlns:xmpNote="n"/><rdf:Description/>' + END


def test_marks_without_an_end_are_searched_once() -> None:
    packet = b"<?xpacket " * 50_000
    written = codec.decode(codec.encode(photo(packet), "jpg").data)
    assert written.metadata.xmp is not None
    assert xmp.part(b"<?xpacket begin='?'?><a/><?xpacket end='w'?>")[1] == b"<a/>"


def test_an_extension_of_beginnings_is_searched_once() -> None:
    assert xmp.join(RDF + END, b"<rdf:RDF>" * 50_000) is None
    assert xmp.join(RDF + END, b"<rdf:RDF " * 50_000) is None


def test_elements_within_each_other_take_no_room_for_their_paths() -> None:
    packet = RDF + b"<a>" * 30_000 + b"</a>" * 30_000 + END
    assert len(xmp.elements(packet)) == 16
    signed = provenance.signed(photo(packet), ENTRY)
    assert b"kbnet:Restorations" in (signed.metadata.xmp or b"")


def test_packed_metadata_is_not_inflated_without_end() -> None:
    packed = bytes(imagecodecs.brotli_encode(bytes(1 << 27)))
    data = codec.encode(photo(b"<x/>"), "jxl").data + Box(b"brob", b"xml " + packed).to_bytes()
    with pytest.raises(InputError, match="packed metadata"):
        codec.decode(data)


def test_digits_of_a_profile_may_stand_in_many_pieces() -> None:
    structure = chunks.parse(codec.encode(photo(), "png").data)
    text = b"\nexif\n 8\n" + b"4 \n9 49 2a\t00 " + b"00" * 4
    chunk = Chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    first, *others = structure.chunks
    data = chunks.SIGNATURE + b"".join(each.to_bytes() for each in (first, chunk, *others))
    assert codec.decode(data).metadata.exif == b"II*\0" + bytes(4)


def test_a_width_of_many_digits_is_refused() -> None:
    with pytest.raises(InputError, match="bomb"):
        codec.decode(b"P7\nWIDTH " + b"9" * 400 + b"\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nENDHDR\n")


def test_a_property_said_many_times_is_written_once() -> None:
    data = codec.encode(photo(), "avif").data
    meta = split((first(split(data), b"meta") or b"")[4:])
    iprp = split(first(meta, b"iprp") or b"")
    known, links = first(iprp, b"ipco") or b"", first(iprp, b"ipma") or b""
    count, number = links[10], len(split(known)) + 1
    links = links[:10] + bytes((count + 200,)) + links[11 : 11 + count] + bytes((number,)) * 200
    known += Box(b"pasp", b"\0\0\0\1\0\0\0\1").to_bytes()
    said = Box(b"iprp", Box(b"ipco", known).to_bytes() + Box(b"ipma", links).to_bytes())
    boxes = (said if box.kind == b"iprp" else box for box in meta)
    # Of a source the directory alone is read again, so that the pixels' place need not be true.
    hostile = Box(b"meta", bytes(4) + b"".join(box.to_bytes() for box in boxes)).to_bytes()
    read = codec.decode(data)
    assert read.origin is not None
    written = codec.encode(replace(read, origin=replace(read.origin, data=hostile)), "avif").data
    assert written.count(b"pasp") == 1
