"""Photoshop's image resources ("8BIM"), the wrapper around IPTC records in JPEG, TIFF and PNG."""

SIGNATURE = b"8BIM"
IPTC = 0x0404


def read_iptc(resources: bytes) -> bytes | None:
    """Return the IPTC-IIM records in a run of image resources, or None; a broken run gives what came before."""
    at = 0
    while resources[at : at + 4] == SIGNATURE and at + 12 <= len(resources):
        kind = int.from_bytes(resources[at + 4 : at + 6], "big")
        at += 6
        at += 1 + resources[at]  # the name, a counted string
        at += at % 2  # padded to an even length; resources start at even offsets
        size = int.from_bytes(resources[at : at + 4], "big")
        at += 4
        if kind == IPTC:
            records = resources[at : at + size]
            return records or None
        at += size + size % 2
    return None


def wrap_iptc(records: bytes) -> bytes:
    """Return IPTC-IIM records as one image resource without a name."""
    padding = b"\0" * (len(records) % 2)
    return SIGNATURE + IPTC.to_bytes(2, "big") + b"\0\0" + len(records).to_bytes(4, "big") + records + padding
