"""Weights made ready to be published: named, converted, checked, and told of."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from kbnet_cli import catalogue
from kbnet_cli.catalogue import Entry
from kbnet_cli.errors import UsageError, WeightsError
from kbnet_cli.hub import address as addresses
from kbnet_cli.hub.card import Section
from kbnet_cli.hub.library import Library
from kbnet_cli.hub.shelf import Item, sha256

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LARGEST_CARD_BYTES = 100_000
WORK = ".publish"
"""How the folder begins in which files are made ready, and which lock its process holds."""
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is to be published, and what its publisher says of it."""

    given: tuple[str, ...]
    """Files, or names or addresses of weights on this machine."""
    name: str | None = None
    """What the only one of them is called there; None: as it is called here."""
    dtype: Literal["fp32", "bf16"] | None = None
    """The type of numbers; None: as stored."""
    licence: str | None = None
    """Of what the catalogue does not know."""
    training_data: str | None = None


@dataclass(frozen=True)
class Ready:
    """A file to upload, and what the card tells of it."""

    path: Path
    section: Section


@dataclass(frozen=True)
class _Source:
    """A file to convert."""

    given: str
    path: Path
    name: str
    entry: Entry | None
    """Of the catalogue: what was given is a name of it, or the file is called so."""
    known: bool
    """Whether it is that entry's file, and not only called so: of others nobody knows how good they are, or whose."""
    licence: str
    item: Item | None
    """What is recorded of it on the shelf."""
    numbers: str = ""
    """Their type as stored."""


@contextmanager
def edition(library: Library, order: Order, tell: Tell) -> Iterator[tuple[Ready, ...]]:
    """Convert weights to safetensors in a folder that is there while the block runs, for one process at a time.

    Raises:
        UsageError: two would have one name, or a licence is missing.
        WeightsError: one of them is not here, is not the network that its name says, or no safe KBNet.
    """
    sources = _sources(library, order)
    folder = library.shelf.folder
    with library.shelf.lock(WORK, waiting=lambda: tell("another kbnet is publishing; waiting")):
        with library.shelf.writing():
            # Whoever holds the lock is alone here: what lies there was left by a process that was killed.
            for left in folder.glob(f"{WORK}-*"):
                shutil.rmtree(left, ignore_errors=True)
            # Not in the system's folder for temporary files: that may be in memory, and weights are large.
            temporary = tempfile.TemporaryDirectory(prefix=f"{WORK}-", dir=folder)
        with temporary as place:
            yield tuple(_ready(source, order, Path(place), library, tell) for source in sources)


def _sources(library: Library, order: Order) -> list[_Source]:
    if order.name is not None and len(order.given) != 1:
        raise UsageError("--as names one file, and there are several", hint="publish them one at a time")
    items = {item.path: item for item in library.shelf.items()}
    sources: list[_Source] = []
    for given in order.given:
        path = library.path(given)
        name = _name(given, path, order.name)
        taken = next((other for other in sources if other.name.lower() == name.lower()), None)
        if taken is not None:
            raise UsageError(
                f"{taken.given} and {given} would both be {name}.safetensors",
                hint="rename one, or publish them one at a time, with --as NAME",
            )
        meant, named = catalogue.find(given), catalogue.find(name)
        if meant and named and meant != named:
            raise UsageError(f"{given} is not {name}: the catalogue knows both", hint="choose another name with --as")
        item = library.shelf.find(given) if meant else items.get(path)
        known = meant if meant and _is_its_own(meant, item) else None
        licence = _licence(given, known, order.licence, called=meant is not None)
        sources.append(_Source(given, path, name, meant or named, known is not None, licence, item))
    if order.licence is not None and all(source.known for source in sources):
        raise UsageError(
            f"--licence {order.licence}: of {', '.join(order.given)} the catalogue knows it",
            hint="leave it out; it is for files that the catalogue does not know",
        )
    return [replace(source, numbers=_checked(source)) for source in sources]


def _name(given: str, path: Path, wanted: str | None) -> str:
    if wanted is None:
        address = addresses.parse(given)
        wanted = given if catalogue.find(given) else path.stem if address is None else Path(address.file).stem
    wanted = wanted.removesuffix(".safetensors")
    if not NAME.fullmatch(wanted):
        raise UsageError(
            f"{wanted}: not a name for weights",
            hint="--as NAME: letters, digits, and . _ - between them, 100 at most",
        )
    return wanted


def _is_its_own(entry: Entry, item: Item | None) -> bool:
    """Return whether a file is the one that the catalogue tells of: it comes with kbnet, or from one of its sources."""
    return entry.bundled is not None or (
        item is not None and item.record.origin in {source.address for source in entry.sources}
    )


def _licence(given: str, known: Entry | None, told: str | None, *, called: bool) -> str:
    if known is not None:
        return known.licence.lower()
    if told is None:
        why = ": it came from no source of the catalogue" if called else ""
        raise UsageError(
            f"{given}: its licence is not known{why}",
            hint="--licence mit, apache-2.0, cc-by-4.0, other, or what else the Hub knows; ask whoever trained them",
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", told.lower()):
        raise UsageError(f"--licence {told}: not an identifier", hint="such as mit, apache-2.0, cc-by-4.0, other")
    return told.lower()


def _checked(source: _Source) -> str:
    """Return the type of numbers in a file that is the network its name says, as far as can be told."""
    from kbnet_cli import checkpoint

    outline, entry = checkpoint.outline(source.path), source.entry
    if entry is not None and (outline.architecture, outline.parameters) != (entry.architecture, entry.parameters):
        raise WeightsError(
            f"{source.given}: {outline.architecture} with {outline.parameters:,} parameters, "
            f"but {entry.name} is a {entry.architecture} with {entry.parameters:,}",
            hint="this is another network: give it another name with --as NAME",
        )
    return outline.dtype


def _ready(source: _Source, order: Order, place: Path, library: Library, tell: Tell) -> Ready:
    from kbnet_cli import checkpoint

    file = f"{source.name}.safetensors"
    path, entry = place / file, source.entry
    tell(f"converting {source.given}")
    with library.shelf.writing():
        checkpoint.convert(source.path, path, facts=entry.facts if entry else None, dtype=order.dtype)
    outline = checkpoint.outline(path)
    facts = outline.facts
    entry = entry if source.known else None
    section = Section(
        file=file,
        sha256=sha256(path),
        size_bytes=path.stat().st_size,
        architecture=outline.architecture,
        sizes=_in_words(asdict(outline.sizes)),
        parameters=outline.parameters,
        numbers=outline.dtype,
        tile=facts.tile,
        limit=facts.limit,
        told=facts.told,
        licence=source.licence,
        summary=entry.summary if entry else None,
        task=facts.task,
        sigma=facts.sigma,
        figures=entry.figures if entry else (),
        figures_from=_measured(entry, rounded=outline.dtype != source.numbers) if entry and entry.figures else None,
        training_data=order.training_data,
        own_card=_own_card(source, facts.card, tell),
        origin=_origin(source),
        origin_sha256=sha256(source.path) if source.item is None else source.item.record.origin_sha256,
    )
    return Ready(path, section)


def _in_words(sizes: dict[str, object]) -> str:
    """Write the sizes of a network: width 16, encoder blocks 1 1 2, not lightweight."""
    words = []
    for name, value in sizes.items():
        plain = name.replace("_", " ")
        if isinstance(value, bool):
            words.append(plain if value else f"not {plain}" if plain == "lightweight" else f"no {plain}")
        elif isinstance(value, tuple):
            words.append(f"{plain} {' '.join(map(str, value))}")
        else:
            words.append(f"{plain} {value:g}" if isinstance(value, float) else f"{plain} {value}")
    return ", ".join(words)


def _measured(entry: Entry, *, rounded: bool) -> str:
    who = "The paper's, for the authors' weights" if entry.bundled is None else "Measured with `kbnet evaluate`"
    return f"{who}, before the weights were rounded to the numbers of this file" if rounded else who


def _own_card(source: _Source, named: str | None, tell: Tell) -> str | None:
    """Return the text of the card that a file names, if it lies beside it.

    The name comes from the file, which may be a stranger's: no other folder, and no other kind of file is opened.
    """
    if named is None:
        return None
    path = source.path.parent / named
    if Path(named).name != named or path.suffix != ".md" or path.is_symlink() or not path.is_file():
        tell(f"{source.given}: the card that it names is not beside it, and is left out")
        return None
    if path.stat().st_size > LARGEST_CARD_BYTES:
        raise WeightsError(f"{path}: over {LARGEST_CARD_BYTES:,} bytes, too large for a card", hint="shorten it")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: cannot be read as text", hint="save it as UTF-8") from error
    tell(f"{source.given}: the text of {path} becomes part of the card")
    return text


def _origin(source: _Source) -> str | None:
    """Return where a file is from, as far as it concerns others: paths of this machine and secrets do not."""
    if source.known and source.entry is not None and source.entry.bundled is not None:
        return "comes with kbnet"
    origin = "" if source.item is None else source.item.record.origin
    if origin.startswith("https:"):
        return urlsplit(origin)._replace(query="", fragment="").geturl()
    return origin if origin.startswith("hf:") else None
