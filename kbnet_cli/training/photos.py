"""The photos that weights were trained on, by name, address, licence and hash; and whether a folder holds them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kbnet_cli.errors import UsageError
from kbnet_cli.training.pictures import is_photo
from kbnet_cli.training.recipe import read_toml


@dataclass(frozen=True)
class SourcePhoto:
    """One photo that weights were trained on."""

    name: str
    address: str
    licence: str
    sha256: str


def read_photos(path: Path) -> tuple[SourcePhoto, ...]:
    """Read a list of photos: TOML tables `[[photo]]`.

    Raises:
        UsageError: the file is missing, no TOML, or a photo lacks something.
    """
    try:
        return tuple(SourcePhoto(**photo) for photo in read_toml(path)["photo"])
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{path}: not a list of photos: {error}", hint="expected [[photo]] with name, address, licence, sha256"
        ) from error


def differences(folder: Path, listed: Path) -> Iterator[str]:
    """Tell in what a folder of photos differs from the list that a recipe names: one line a kind of difference."""
    known = {photo.sha256: photo for photo in read_photos(listed)}
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in folder.rglob("*") if is_photo(path)}
    missing = [known[digest].name for digest in known if digest not in found]
    other = [found[digest].name for digest in found if digest not in known]
    if missing:
        yield f"{len(missing)} of the recipe's {len(known)} photos are not in {folder}: {_some(missing)}"
    if other:
        yield f"{len(other)} photos in {folder} are not among the recipe's: {_some(other)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(sorted(names)[:3])
    return shown if len(names) <= 3 else f"{shown}, …"
