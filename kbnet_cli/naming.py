"""The names of files: templates such as `{stem}_{done}.{ext}` for outputs, and the order of names."""

import os
import re
import string
import unicodedata
from collections.abc import Iterator

from kbnet_cli.errors import UsageError

BESIDE = "{stem}_{done}.{ext}"
"""An output beside its input has another name."""
INSIDE = "{stem}.{ext}"
"""An output in a folder keeps the name."""
FIELDS = ("stem", "done", "ext")
LONGEST_BYTES = 255
"""What a name may take on the usual file systems."""
_END = ".{ext}"
# In any script, and of no more digits than int() always takes.
_NUMBER = re.compile(r"(\d{1,600})")


def check(template: str) -> None:
    """Refuse a template that would not name files.

    Raises:
        UsageError: it has a path separator or a control character, lacks {stem}, has other fields, or does not end in
            .{ext}.
    """
    if any(character in "/\\" or not character.isprintable() for character in template):
        raise UsageError(
            f"{template!r} has a path separator or a control character, expected a name",
            hint="folders are given with -o",
        )
    used = list(_fields(template))
    for field in used:
        if field not in FIELDS:
            expected = ", ".join(f"{{{name}}}" for name in FIELDS)
            raise UsageError(f"{template!r} has {{{field}}}, expected only {expected}", hint=f"as in {BESIDE}")
    if "stem" not in used:
        raise UsageError(
            f"{template!r} has no {{stem}}: every photo would have the same name", hint=f"put it in, as in {BESIDE}"
        )
    if not template.endswith(_END) or used.count("ext") != 1:
        raise UsageError(
            f"{template!r} does not end in {_END} or has it twice: the ending is the format's",
            hint=f"end it in {_END}, and choose the format with --format",
        )


def _fields(template: str) -> Iterator[str]:
    """Give the fields of a template as they are written between its braces.

    Raises:
        UsageError: its braces do not match.
    """
    try:
        for _, field, form, conversion in string.Formatter().parse(template):
            if field is not None:
                yield field + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
    except ValueError as error:
        raise UsageError(f"{template!r}: {error}", hint=f"fields stand in braces, as in {BESIDE}") from error


def name(template: str, *, stem: str, done: str, extension: str) -> str:
    """Return the name that a checked template gives.

    Args:
        template: as `check` lets it through.
        stem: the input's name without its extension.
        done: what became of it: denoised, derained, deblurred, dejpegged.
        extension: with its dot; empty where it is not known yet.

    Raises:
        UsageError: the name is longer than file systems take.
    """
    found = template.removesuffix(_END).format(stem=stem, done=done) + extension
    if len(found.encode(errors="surrogateescape")) > LONGEST_BYTES:
        raise UsageError(
            f"{found}: a name of more than {LONGEST_BYTES} bytes", hint="give a shorter --name, or -o FILE"
        )
    return found


def natural_key(name: str) -> tuple[list[str | int], list[str | int], str]:
    """Order names as people count: IMG_2 before IMG_10, and IMG_2.cr2 and IMG_2.jpg before IMG_2-1.jpg.

    Upper and lower case, and how accents are written (NFC, NFD), do not count, and Ä comes after A. The order is total:
    names that are the same but for that are in the order of their characters.
    """
    stem, extension = os.path.splitext(unicodedata.normalize("NFD", name).casefold())  # noqa: PTH122, a name, no path
    return _counted(stem), _counted(extension), name


def _counted(text: str) -> list[str | int]:
    """Return text, number, text, and so on; texts may be empty, so that numbers meet numbers."""
    return [int(part) if at % 2 else part for at, part in enumerate(_NUMBER.split(text))]
