"""What the shell completes: the words that could stand under the cursor.

What a value may be is told by the metavar of its option or argument, or by its type; so a new option completes by
itself. Nothing that is slow to import is imported, nothing is fetched, and whatever is wrong with settings is told by
the commands, not here.
"""

import contextlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from kbnet_cli import catalogue
from kbnet_cli.cli import topics
from kbnet_cli.errors import SettingsError

WEIGHTS_FILES = ("safetensors", "pth", "pt", "ckpt")
_MOST_IN_ORDER = 2000
_REDIRECTION = re.compile(r"[0-9]*(&>>?|<>?|>[>|&]?)")


@dataclass(frozen=True)
class Candidate:
    """What could stand under the cursor."""

    value: str
    """Of a file or folder the path as it was begun, ~ included."""
    kind: Literal["word", "file", "folder"] = "word"
    help: str = ""


@dataclass(frozen=True)
class Place:
    """What the word under the cursor is."""

    command: Any
    """Of click, as are parameters: typer's own classes change from version to version."""
    parameter: Any = None
    """The option or argument whose value it is; None: a command's or an option's name, or nothing."""
    begun: str = ""
    """What there is of it."""
    prefix: str = ""
    """What stands before it in the same word, as in --weights=sidd."""
    given: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The values of options that stand before it, by the names of parameters."""
    arguments: tuple[str, ...] = ()
    """What stands before it and is no option's."""
    root: Any = None


def candidates(root: Any, words: Sequence[str]) -> Iterator[Candidate]:
    """Give what the last of some words could become, whole; the words before it are a command line of kbnet."""
    place = locate(root, words)
    for one in at(place):
        yield Candidate(place.prefix + one.value, one.kind, one.help)


def locate(root: Any, words: Sequence[str]) -> Place:
    """Tell what the last word is."""
    *before, last = words
    place, wanted, plain, redirected = Place(root, root=root), None, False, False
    for word in before:
        if redirected or _REDIRECTION.fullmatch(word):
            redirected = not redirected
        elif wanted is not None:
            place, wanted = _with(place, wanted, word), None
        elif plain or not word.startswith("-") or word == "-":
            place = _below(place, word)
        elif word == "--":
            plain = True
        else:
            option, _, value = _option(place.command, word)
            if value is None and _takes_value(option):
                wanted = option
            elif option is not None:
                place = _with(place, option, value or "")
    place = replace(place, begun=last)
    if redirected or wanted is not None:
        return replace(place, parameter=_ANY_FILE if redirected else wanted)
    if last.startswith("-") and not plain:
        return _at_option(place)
    return replace(place, parameter=_argument(place))


def _with(place: Place, option: Any, value: str) -> Place:
    return replace(place, given={**place.given, option.name: (*place.given.get(option.name, ()), value)})


def _below(place: Place, word: str) -> Place:
    """Return the place behind a word that is a command's name or an argument."""
    commands = _commands(place.command)
    if commands:
        return Place(commands.get(word), root=place.root)
    return replace(place, arguments=(*place.arguments, word))


def _at_option(place: Place) -> Place:
    """Return the place of a word that begins with a dash: an option's name, or its value behind it."""
    option, prefix, value = _option(place.command, place.begun)
    if value is None or not _takes_value(option):
        return place
    return replace(place, parameter=option, begun=value, prefix=prefix)


def _argument(place: Place) -> Any:
    """Return the argument of which a value comes next, if there is one."""
    known = [one for one in getattr(place.command, "params", ()) if one.param_type_name == "argument"]
    if known and known[-1].nargs == -1:
        known += known[-1:] * len(place.arguments)
    return known[len(place.arguments)] if len(place.arguments) < len(known) else None


def _commands(command: Any) -> dict[str, Any]:
    return getattr(command, "commands", {})


def _takes_value(option: Any) -> bool:
    return option is not None and not (option.is_flag or option.count)


def _option(command: Any, word: str) -> tuple[Any, str, str | None]:
    """Return the option that a word names, what names it, and the value that stands in the same word."""
    known = (one for one in getattr(command, "params", ()) if one.param_type_name == "option")
    options = {name: one for one in known for name in one.opts}
    if word.startswith("--"):
        name, equals, value = word.partition("=")
        return options.get(name), name + equals, value if equals else None
    for end in range(2, len(word) + 1):  # -rw sidd is -r -w sidd
        option = options.get(f"-{word[end - 1]}")
        if option is None or _takes_value(option):
            return option, word[:end], word[end:] or None
    return options.get(word[:2]), word, None


def at(place: Place) -> Iterator[Candidate]:
    """Give what there could be at a place, whatever its prefix."""
    if place.parameter is not None:
        yield from _values(place)
    elif place.command is not None:
        if not place.begun.startswith("-"):
            for name, command in _commands(place.command).items():
                if name.startswith(place.begun) and not command.hidden:
                    yield Candidate(name, help=command.get_short_help_str(100))
        if place.begun.startswith("-") or not _commands(place.command):
            yield from _options(place)


def _options(place: Place) -> Iterator[Candidate]:
    """Give the options that are not given yet, or may be given again."""
    for option in (one for one in place.command.params if one.param_type_name == "option" and not one.hidden):
        if option.name not in place.given or option.multiple:
            name = next((name for name in reversed(option.opts) if name.startswith(place.begun)), None)
            if name is not None:
                yield Candidate(name, help=_first_sentence(option.help or ""))
    if "--help".startswith(place.begun):
        yield Candidate("--help", help="Show what a command does.")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)\s", " ".join(text.split()), maxsplit=1)[0]


def _values(place: Place) -> Iterator[Candidate]:
    metavar = place.parameter.metavar or ""
    if metavar in _KINDS:
        yield from _KINDS[metavar](place)
        return
    for value in _literals(place) or [word for word in metavar.split("|") if word != word.upper()]:
        if value.startswith(place.begun):
            yield Candidate(value)


def _literals(place: Place) -> list[str]:
    """Return the values of a parameter that has only some: as its command's function is annotated."""
    if place.command.callback is None:
        return []
    parameters = inspect.signature(place.command.callback).parameters
    parameter = parameters.get(place.parameter.name)
    found: list[str] = []
    left = [] if parameter is None else [parameter.annotation]
    while left:
        kind = left.pop()
        if typing.get_origin(kind) is Literal:
            found += typing.get_args(kind)
        else:
            left += [part for part in typing.get_args(kind) if typing.get_args(part)]
    return [value for value in found if isinstance(value, str)]


def _paths(place: Place, endings: tuple[str, ...] | None) -> Iterator[Candidate]:
    """Give folders, and files of some endings (None: of all), in natural order; hidden ones where a dot is typed."""
    from kbnet_cli.naming import natural_key

    folder, slash, name = place.begun.rpartition("/")
    found: list[Candidate] = []
    with contextlib.suppress(OSError, ValueError):
        for entry in os.scandir(os.path.expanduser(folder + slash) if slash else "."):  # noqa: PTH111 - / is no name
            shown = entry.name.startswith(name) and (name.startswith(".") or not entry.name.startswith("."))
            if shown and not {"\n", "\t"} & set(entry.name):  # which would be lines of the answer
                wanted = endings is None or entry.name.rpartition(".")[2].lower() in endings
                if entry.is_dir():
                    found.append(Candidate(folder + slash + entry.name, "folder"))
                elif wanted:
                    found.append(Candidate(folder + slash + entry.name, "file"))
    # In folders of thousands nobody reads the list, and making the order would take longer than making the list.
    yield from sorted(found, key=lambda one: natural_key(one.value)) if len(found) <= _MOST_IN_ORDER else found


def _pictures(place: Place) -> Iterator[Candidate]:
    from kbnet_cli.formats.table import FORMATS

    return _paths(place, tuple(extension for format in FORMATS for extension in format.extensions))


def _weights(place: Place) -> Iterator[Candidate]:
    """Give the names of weights that a command can use, then files."""
    task = place.command.name if place.command.name in catalogue.TASKS else None
    entries = [entry for entry in catalogue.ENTRIES if task in (None, entry.task)]
    families: dict[str, str] = {}
    for entry in entries:
        if entry.facts.sigma is not None and entry.facts.sigma[0] == entry.facts.sigma[1]:
            families.setdefault(entry.name.rpartition("-")[0], "several noise levels as one: --sigma")
    names = {entry.name: entry.summary for entry in entries} | families
    yield from _begun(place, names | _kept(place, known=False))
    yield from _paths(place, WEIGHTS_FILES)


def _names(place: Place) -> Iterator[Candidate]:
    """Give the names that a command of `kbnet weights` can do something with."""
    kept = _kept(place)
    match place.command.name:
        case "pull":
            names = {entry.name: entry.summary for entry in catalogue.PUBLISHED if entry.sources}
        case "remove":
            names = kept
        case "import":
            names = {entry.name: entry.summary for entry in catalogue.PUBLISHED}
        case _:
            names = {entry.name: entry.summary for entry in catalogue.BUNDLED} | kept
    return _begun(place, names)


def _published(place: Place) -> Iterator[Candidate]:
    yield from _names(place)
    yield from _paths(place, WEIGHTS_FILES)


def _kept(place: Place, *, known: bool = True) -> dict[str, str]:
    """Return what has been fetched or imported, and what it is; without what the catalogue knows if so wished.

    Its records are not read, only their names: the shelf takes longer to import than all else.
    """
    entries = {entry.name: entry.summary for entry in catalogue.ENTRIES}
    names: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        names = sorted(path.stem for path in _weights_folder(place).glob("*.json"))
    return {name: entries.get(name, "your own") for name in names if known or name not in entries}


def _weights_folder(place: Place) -> Path:
    """Return where weights are kept, as the command itself will find it."""
    from kbnet_cli.settings import BY_NAME, config_place, default_weights_folder, home, read_config

    named = (place.given.get("weights_folder") or [os.environ.get(BY_NAME["weights_folder"].variable)])[-1]
    if not named:
        with contextlib.suppress(SettingsError):
            named = read_config(config_place()).values.get("weights_folder")
    return home(named) if named else default_weights_folder()


def _begun(place: Place, names: dict[str, str]) -> Iterator[Candidate]:
    for name, told in names.items():
        if name.startswith(place.begun):
            yield Candidate(name, help=" ".join(told.split()))


def _devices(place: Place) -> Iterator[Candidate]:
    """Give kinds of devices; behind a comma those of which there may be several."""
    before, comma, _ = place.begun.rpartition(",")
    kinds: tuple[str, ...] = ("auto", "cpu", "cuda", "mps", "xpu")
    if comma:
        kind = before.partition(":")[0].partition(",")[0]
        kinds = ("cpu",) if kind == "cpu" else (f"{kind}:",) if kind in ("cuda", "xpu") else ()
    return _begun(place, {before + comma + kind: "" for kind in kinds})


def _templates(place: Place) -> Iterator[Candidate]:
    from kbnet_cli.naming import BESIDE, INSIDE

    return _begun(place, {BESIDE: "beside the input", INSIDE: "in a folder"})


def _topics(place: Place) -> Iterator[Candidate]:
    """Give topics and commands; behind a group its commands."""
    told = {} if place.arguments else {name: topic.title for name, topic in topics.TOPICS.items()}
    command = place.root
    for name in place.arguments:
        command = _commands(command).get(name)
    return _begun(place, {name: one.get_short_help_str(100) for name, one in _commands(command).items()} | told)


def _folders(place: Place) -> Iterator[Candidate]:
    return _paths(place, ())


def _files(place: Place) -> Iterator[Candidate]:
    return _paths(place, None)


@dataclass(frozen=True)
class _File:
    """Any file: what stands behind < or >."""

    metavar: str = "FILE"


_ANY_FILE = _File()
_KINDS: dict[str, Callable[[Place], Iterator[Candidate]]] = {
    "INPUT": _pictures,
    "PATH": _files,
    "FILE": _files,
    "FILE...": _published,
    "DIR": _folders,
    "FOLDER": _folders,
    "RECIPE": lambda place: _paths(place, ("toml",)),
    "X": _weights,
    "NAME": _names,
    "NAME...": _names,
    "DEVICE": _devices,
    "TEMPLATE": _templates,
    "TOPIC": _topics,
}
"""What the values of a metavar are."""
