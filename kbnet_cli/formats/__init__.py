"""Bytes to photo and photo to bytes: the only rooms that know of picture files' insides."""
