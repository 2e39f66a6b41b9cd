"""Provenance: kbnet's entry in XMP, and every byte of others where it was."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kbnet_cli.formats import codec, fit, iptc, provenance, xmp
from kbnet_cli.formats.provenance import Entry, signed, with_provenance
from kbnet_cli.formats.table import BY_NAME
from kbnet_cli.photo import Metadata, Photo
from tests.pictures import picture

FIRST = Entry(version="1.2.3", task="denoise", weights="bundled-camera", weights_sha256="ab" * 32, strength=0.75)
SECOND = Entry(version="1.3", task="dejpeg", weights="a <b> & 'c'", weights_sha256="cd" * 32, strength=1.0)
RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
MINE = 'xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
MARKED = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF}>\n'
    f' <rdf:Description rdf:about="" {MINE} xmp:Rating="4" dc:format="a > b"/>\n'
    f" <rdf:Description rdf:about='' {MINE}><!-- </rdf:RDF> --><xmp:Label>é</xmp:Label></rdf:Description >\n"
    "</rdf:RDF ></x:xmpmeta>" + "\n" + " " * 300 + '\n<?xpacket end="w"?>'
)
PACKETS = {
    "marked and padded": MARKED.encode(),
    "UTF-16": MARKED.encode("utf-16-le"),
    "UTF-16, big, with a mark": b"\xfe\xff" + MARKED.encode("utf-16-be"),
    "zeros around it": b"\n" + MARKED.encode() + b"\0\0\n",
    "byte order mark": b"\xef\xbb\xbf" + f"<rdf:RDF {RDF}></rdf:RDF>".encode(),
    "self-closing": f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {RDF} /></x:xmpmeta>'.encode(),
    "no rdf:RDF": b"<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk='a/>b'/>",
    "other prefixes": b'<rdf:xmpmeta xmlns:rdf="adobe:ns:meta/"><kbnet:RDF xmlns:kbnet="http://www.w3.org/1999/02/22-rdf'
    b'-syntax-ns#"><kbnet:Description kbnet:about="uuid:1"/></kbnet:RDF></rdf:xmpmeta>',
    "declared": b'<?xml version="1.0" encoding="UTF-8"?>' + f"<rdf:RDF {RDF}/>".encode(),
}


def extended(packet: bytes | None, *entries: Entry) -> bytes:
    metadata = Metadata(xmp=packet)
    for entry in entries:
        metadata = with_provenance(metadata, entry)
    assert metadata.xmp is not None
    return metadata.xmp


def same(one: bytes, other: bytes) -> int:
    """Count the bytes in which two begin alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


@pytest.mark.parametrize("name", PACKETS)
def test_what_others_wrote_stays_byte_for_byte(name: str) -> None:
    packet = PACKETS[name]
    once = extended(packet, FIRST)
    assert xmp.is_well_formed(once)
    before, behind = same(packet, once), same(packet[::-1], once[::-1])
    slash = 1 if name in ("self-closing", "no rdf:RDF", "declared") else 0
    assert before + behind >= len(packet) - slash
    assert len(once) > len(packet) + 300


@pytest.mark.parametrize("name", [*PACKETS, "none"])
def test_a_photo_that_goes_through_twice_lists_both(name: str) -> None:
    once = extended(PACKETS.get(name), FIRST)
    twice = extended(once, SECOND)
    text = xmp.read(twice)
    assert text is not None
    root = ElementTree.fromstring(text.xml, ElementTree.XMLParser(encoding="utf-8"))
    assert len(list(root.iter(f"{{{provenance.NAMESPACE}}}Restorations"))) == 1
    values = text.xml.decode()
    assert values.index("denoise") < values.index("dejpeg")
    assert values.count("parseType=") == 2
    assert twice == extended(PACKETS.get(name), FIRST, SECOND), "equal work, equal bytes"


def test_an_empty_list_of_ours_is_filled() -> None:
    inside = f'<rdf:Description xmlns:k="{provenance.NAMESPACE}"><k:Restorations><rdf:Seq/></k:Restorations>'
    packet = f"<rdf:RDF {RDF}>{inside}</rdf:Description></rdf:RDF>".encode()
    once = extended(packet, FIRST)
    assert b"<rdf:Seq><rdf:li" in once
    assert once.count(b"Restorations") == 2


@pytest.mark.parametrize(
    "packet",
    [
        b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>",
        b"<!DOCTYPE a>" + PACKETS["self-closing"],
        '<!DOCTYPE a><x:xmpmeta xmlns:x="adobe:ns:meta/"/>'.encode("utf-16-le"),
        b"<note>not XMP</note>",
        MARKED.encode("latin-1", "replace").replace(b"Label>", b"Label>\xe9"),
        MARKED.encode().replace(b'xmp:Rating="4"', b'xmlns:xmpNote="n" xmpNote:HasExtendedXMP="0123"'),
        MARKED.replace("<xmp:Label", f'<k:Restorations xmlns:k="{provenance.NAMESPACE}">x</k:Restorations><xmp:Label')
        .encode(),
    ],
)  # fmt: skip
def test_an_odd_packet_is_left_alone_and_told_of(packet: bytes) -> None:
    photo = Photo(picture(), "rgb", 8, metadata=Metadata(xmp=packet))
    after = signed(photo, FIRST)
    assert after.metadata == photo.metadata
    assert any("stays as it is" in note for note in after.notes)


def test_a_name_that_is_no_text_does_no_harm() -> None:
    packet = extended(None, replace(FIRST, weights="a\0b\udc80\x1bc"))
    assert b"<kbnet:weights>a?b??c</kbnet:weights>" in packet


@pytest.mark.parametrize("format", ["jpg", "png", "tif", "webp", "avif", "jxl"])
def test_every_format_that_holds_xmp_keeps_the_entry(format: str) -> None:
    photo = signed(Photo(picture(), "rgb", 8), FIRST)
    assert photo.notes == ()
    encoded = codec.encode(photo, format)
    assert encoded.notes == ()
    assert codec.decode(encoded.data).metadata.xmp == extended(None, FIRST)


def test_iptc_finds_its_place_beside_the_entry() -> None:
    block = b"\x1c\2\x69\0\x04Head"
    fitted = fit.fit(
        signed(Photo(picture(), "rgb", 8, metadata=Metadata(iptc=block)), FIRST), BY_NAME["png"], depth=None
    )
    assert [record for _, record, _ in iptc.records(block)] == [105]
    packet = fitted.photo.metadata.xmp
    assert packet is not None
    assert b"<photoshop:Headline>Head</photoshop:Headline>" in packet
    assert b"kbnet:Restorations" in packet


def exiftool(path: Path, packet: bytes) -> dict[str, Any]:
    path.write_bytes(packet)
    command = ["exiftool", "-j", "-struct", "-G1", "-a", str(path)]
    [found] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {name: value for name, value in found.items() if name.startswith("XMP") or name.endswith("Warning")}


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("name", ["marked and padded", "UTF-16", "self-closing", "no rdf:RDF"])
def test_exiftool_reads_both_entries_and_the_rest(name: str, tmp_path: Path) -> None:
    # Its reader of XML is a simple one: no end tags in comments, no > in values.
    plain = MARKED.replace("<!-- </rdf:RDF> -->", "").replace("a > b", "ab").replace("n >", "n>").replace("F >", "F>")
    simple = {"marked and padded": plain.encode(), "UTF-16": plain.encode("utf-16-le")}
    packet = simple.get(name, PACKETS[name])
    before = exiftool(tmp_path / "before.xmp", packet)
    found = exiftool(tmp_path / "after.xmp", extended(packet, FIRST, SECOND))
    mine = found.pop("XMP-kbnet:Restorations")
    assert found == before
    assert before.get("XMP-xmp:Rating") == (4 if name in simple else None)
    assert [each["Task"] for each in mine] == ["denoise", "dejpeg"]
    assert mine[0] == {
        "Software": "kbnet", "Version": "1.2.3", "Task": "denoise", "Weights": "bundled-camera",
        "WeightsSHA256": "ab" * 32, "Strength": 0.75,
    }  # fmt: skip
    assert mine[1]["Weights"] == SECOND.weights


@pytest.mark.skipif(shutil.which("exiv2") is None, reason="exiv2 is not installed")
@pytest.mark.parametrize("name", ["marked and padded", "no rdf:RDF", "none"])
def test_exiv2_reads_both_entries(name: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    photo = Photo(picture(), "rgb", 8, metadata=Metadata(xmp=extended(PACKETS.get(name), FIRST, SECOND)))
    path.write_bytes(codec.encode(photo, "jpg").data)
    done = subprocess.run(["exiv2", "-pX", str(path)], capture_output=True, check=True)
    assert done.stdout == photo.metadata.xmp
    done = subprocess.run(["exiv2", "-px", str(path)], capture_output=True, check=True)
    text = done.stdout.decode()
    assert "Restorations[1]" in text
    assert "Restorations[2]" in text
    assert done.stderr == b""
