"""Options, environment and config file to one frozen value, with where each part came from.

What is a setting, how it is written in each of the three, and which values it may have. Which of them wins is the
command line's own mechanism: an option, else the variable, else the config file, else what is built in.
"""

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import platformdirs

from kbnet_cli import naming
from kbnet_cli.errors import DeviceError, KBNetError, SettingsError, UsageError

CONFIG_VARIABLE = "KBNET_CONFIG"
"""Names another config file than the usual one."""
TOLD_VARIABLES = (
    "KBNET_STATUS",
    "KBNET_DONE",
    "KBNET_KEPT",
    "KBNET_SKIPPED",
    "KBNET_FAILED",
    "KBNET_LEFT",
    "KBNET_SECONDS",
    "KBNET_MEGAPIXELS",
    "KBNET_STOPPED",
    "KBNET_OUTPUT",
)
"""What a command of `--then` finds in its environment: no settings."""
PRECISIONS = ("auto", "fp32", "tf32", "bf16")
DEVICES = "auto, cpu, cuda, cuda:N, mps or xpu"


def default_weights_folder() -> Path:
    """Return where weights are kept unless told otherwise: in the platform's folder for data.

    Not in the one for caches, which may be emptied: imported weights have no source to come from again, and beside them
    lie the hashes that were seen first.
    """
    return platformdirs.user_data_path("kbnet", appauthor=False) / "weights"


@dataclass(frozen=True)
class Places:
    """Where weights come from and where they are kept."""

    hub_repo: str | None = None
    """OWNER/NAME of the Hub repository that is asked first, or None."""
    weights_folder: Path = field(default_factory=default_weights_folder)


def check_device(given: str) -> None:
    """Refuse what is no device's name, or no list of devices; whether they are there is not asked.

    Raises:
        DeviceError: it is none of auto, cpu, cuda, cuda:N, mps, xpu, xpu:N, nor several of one kind between commas; of
            GPUs each once.
    """
    devices_of(given)


def devices_of(given: str) -> tuple[str, ...]:
    """Take a list of devices apart, as `cuda:0,cuda:2`; of one device a list of one.

    Several times cpu is as many processes, each with its share of the threads.

    Raises:
        DeviceError: as `check_device`.
    """
    names = tuple(given.split(","))
    for name in names:
        if not re.fullmatch(r"auto|cpu|mps|(cuda|xpu)(:(0|[1-9][0-9]{0,3}))?", name):
            raise DeviceError(f"no device {name!r}: expected {DEVICES}", hint="use --device auto")
    if len(names) == 1:
        return names
    kinds = list(dict.fromkeys(name.partition(":")[0] for name in names))
    if "auto" in kinds:
        raise DeviceError(f"{given}: auto settles on devices by itself", hint="use --device auto alone")
    if len(kinds) > 1:
        raise DeviceError(
            f"{given} mixes {' and '.join(kinds)}: tiles of one photo would differ by their rounding",
            hint="name devices of one kind",
        )
    kind = kinds[0]
    if kind in ("cuda", "xpu") and kind in names:
        raise DeviceError(
            f"{given}: {kind} alone means all its GPUs", hint=f"use --device {kind}, or numbers: {kind}:0"
        )
    if kind != "cpu" and len(set(names)) < len(names):
        raise DeviceError(f"{given} names a GPU twice", hint="name each GPU once")
    return names


def check_precision(given: str) -> None:
    """Refuse what is no precision.

    Raises:
        DeviceError: it is none of auto, fp32, tf32, bf16; for fp16 with the reason.
    """
    if given == "fp16":
        raise DeviceError(
            "fp16 is refused: KBNet's activations leave its range and pictures come out black or spotted",
            hint="use --precision bf16, as fast and safe, or fp32",
        )
    if given not in PRECISIONS:
        raise DeviceError(
            f"no precision {given!r}: expected one of {', '.join(PRECISIONS)}", hint="use --precision auto"
        )


def check_hub_repo(given: str) -> None:
    """Refuse what the Hub takes for no repository.

    Raises:
        UsageError: it is not OWNER/NAME.
    """
    part = r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
    if not re.fullmatch(f"{part}/{part}", given) or "--" in given or ".." in given or given.endswith(".git"):
        raise UsageError(f"{given!r} is no repository of the Hub", hint="expected OWNER/NAME, without an address")


def _check_weights(given: str) -> None:
    if not given.strip() or "\0" in given:
        raise UsageError(f"{given!r} names no weights", hint="give a name of the catalogue, a file or an hf: address")


def _check_folder(given: str) -> None:
    if not given.strip() or "\0" in given:
        raise UsageError(f"{given!r} is no folder", hint="give a path")
    try:
        folder = stat.S_ISDIR(Path(given).expanduser().stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):  # it can be made, or it is told why not when something is kept
        return
    except RuntimeError as error:
        raise UsageError(f"{given}: nobody here has that home folder", hint="give the whole path") from error
    except OSError as error:
        shown = given if len(given) <= 200 else f"{given[:100]}…"
        raise UsageError(
            f"{shown}: cannot be looked into: {error.strerror}", hint="choose another folder, or check its permissions"
        ) from error
    if not folder:
        raise UsageError(f"{given}: is a file, expected a folder", hint="give the folder that weights are kept in")


def home(path: str) -> Path:
    """Return a path whose ~ is the home folder: nobody but a shell does that for variables and files."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~ of somebody who is not there
        return Path(path)


@dataclass(frozen=True)
class Key:
    """A setting: how it is written in the config file, in the environment and on the command line."""

    name: str
    """In the config file; a dot stands before what is in a table."""
    variable: str
    option: str
    check: Callable[[str], None]
    """Raises a KBNetError for a value that cannot be meant."""

    def checked(self, value: str, where: str) -> str:
        """Return a value that can be meant.

        Raises:
            SettingsError: it cannot; the message says where it stands.
        """
        try:
            self.check(value)
        except KBNetError as error:
            raise SettingsError(f"{where}: {error.message}", hint=error.hint) from error
        return value


KEYS = (
    Key("device", "KBNET_DEVICE", "--device", check_device),
    Key("precision", "KBNET_PRECISION", "--precision", check_precision),
    Key("name", "KBNET_NAME", "--name", naming.check),
    Key("hub_repo", "KBNET_HUB_REPO", "--hub-repo", check_hub_repo),
    Key("weights_folder", "KBNET_WEIGHTS_FOLDER", "--weights-folder", _check_folder),
    Key("weights.denoise", "KBNET_WEIGHTS_DENOISE", "--weights", _check_weights),
    Key("weights.derain", "KBNET_WEIGHTS_DERAIN", "--weights", _check_weights),
    Key("weights.deblur", "KBNET_WEIGHTS_DEBLUR", "--weights", _check_weights),
    Key("weights.dejpeg", "KBNET_WEIGHTS_DEJPEG", "--weights", _check_weights),
)
BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}
BY_VARIABLE: Mapping[str, Key] = {key.variable: key for key in KEYS}


@dataclass(frozen=True)
class Config:
    """What the config file says."""

    path: Path
    named: bool = False
    """Whether the environment names it; else it is the usual one, which need not be there."""
    there: bool = False
    values: Mapping[str, str] = field(default_factory=dict)
    """By the names of `KEYS`."""


def config_place(environment: Mapping[str, str] = os.environ) -> Config:
    """Return where the config file is to be looked for, unread."""
    named = environment.get(CONFIG_VARIABLE)
    if named:
        return Config(home(named), named=True)
    return Config(platformdirs.user_config_path("kbnet", appauthor=False) / "config.toml")


def read_config(place: Config) -> Config:
    """Read the config file. The usual one need not be there, one that is named has to be.

    Raises:
        SettingsError: it cannot be read, is no TOML, or has a key or a value that cannot be meant.
    """
    path = place.path
    try:
        # Some editors put a mark at the beginning of UTF-8 files, which TOML does not know.
        text = path.read_text(encoding="utf-8-sig")
        content = tomllib.loads(text)
    except FileNotFoundError as error:
        if not place.named:
            return place
        raise SettingsError(
            f"{path}: no such config file, named by {CONFIG_VARIABLE}", hint=f"make it, or unset {CONFIG_VARIABLE}"
        ) from error
    except OSError as error:
        raise SettingsError(
            f"{path}: the config file cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text", hint="save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path}: no TOML: {error}", hint='expected lines such as device = "cpu"') from error
    return Config(path, place.named, there=True, values=dict(_values(content, path)))


def _values(content: Mapping[str, object], path: Path, table: str = "") -> Iterator[tuple[str, str]]:
    """Give the names and values of a table of the config file, checked."""
    tables = {key.name.partition(".")[0] for key in KEYS if "." in key.name}
    for word, value in content.items():
        name = table + word
        if not table and word in tables:
            if not isinstance(value, Mapping):
                raise SettingsError(
                    f"{path}: {name} is {_kind(value)}, expected a table",
                    hint=f'write [{name}] on a line of its own, and below it denoise = "{value}"',
                )
            yield from _values(value, path, f"{name}.")
        elif name not in BY_NAME:
            raise SettingsError(f"{path}: unknown key {name}", hint=_meant(name))
        elif not isinstance(value, str):
            raise SettingsError(
                f"{path}: {name} is {_kind(value)}, expected text", hint=f'put it in quotes: {word} = "…"'
            )
        else:
            if name == "weights_folder" and value.strip() and not value.startswith("~"):
                value = str(path.absolute().parent / value)  # relative to this file, wherever the program is called
            yield name, BY_NAME[name].checked(value, f"{path}: {name}")


def _kind(value: object) -> str:
    """Name the type of a value as TOML does."""
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "a table", str: "text"}
    return kinds.get(type(value), "a date")


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, BY_NAME, n=1)
    if not close:  # right by itself, but outside its table or in the wrong one
        close = [known for known in BY_NAME if known.rpartition(".")[2] == name.rpartition(".")[2]]
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(BY_NAME)}"


@dataclass(frozen=True)
class Origin:
    """Where a setting came from."""

    kind: Literal["option", "environment", "file", "built in"]
    name: str = ""
    """The option, the variable, or the config file's name; empty for what is built in."""


@dataclass(frozen=True)
class Setting:
    """A setting's value, and where it came from."""

    key: Key
    value: str | None
    origin: Origin


@dataclass(frozen=True)
class Settings:
    """What a command goes by, settled."""

    device: str = "auto"
    precision: str = "auto"
    name: str | None = None
    """The template of outputs' names, or None for the usual ones."""
    weights: str | None = None
    """For the task of the command."""
    places: Places = field(default_factory=Places)
    parts: tuple[Setting, ...] = ()
    """Each of those that the command has, with where it came from."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each setting that neither stands on the command line nor is built in, as -v tells them."""
        return tuple(
            f"{part.key.name.partition('.')[0]}: {part.value} ({part.origin.name})"
            for part in self.parts
            if part.origin.kind in ("environment", "file")
        )


def settle(parts: tuple[Setting, ...]) -> Settings:
    """Check settings and make one value of them.

    Raises:
        SettingsError: one has a value that cannot be meant; the message names its option, variable or file.
    """
    values: dict[str, str] = {}
    for part in parts:
        if part.value is not None and part.origin.kind != "built in":
            values[part.key.name.partition(".")[0]] = part.key.checked(part.value, part.origin.name)
    usual = Settings()
    folder = values.get("weights_folder")
    weights = values.get("weights")
    return Settings(
        device=values.get("device", usual.device),
        precision=values.get("precision", usual.precision),
        name=values.get("name"),
        weights=str(home(weights)) if weights is not None and weights.startswith("~") else weights,
        places=Places(values.get("hub_repo"), usual.places.weights_folder if folder is None else home(folder)),
        parts=parts,
    )


@dataclass(frozen=True)
class Survey:
    """All settings and what is wrong with them, for the doctor, who goes on where others stop."""

    settings: Settings = field(default_factory=Settings)
    """Of the doctor itself; what cannot be meant is left out."""
    config: Config = field(default_factory=config_place)
    parts: tuple[Setting, ...] = ()
    """Of all commands, each once."""
    troubles: tuple[SettingsError, ...] = ()


def sound(parts: Iterable[Setting]) -> tuple[tuple[Setting, ...], tuple[SettingsError, ...]]:
    """Return the settings that can be meant, and what is wrong with the others."""
    good, troubles = [], []
    for part in parts:
        try:
            settle((part,))
        except SettingsError as error:
            troubles.append(error)
        else:
            good.append(part)
    return tuple(good), tuple(troubles)
