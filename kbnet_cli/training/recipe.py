"""A recipe: everything that decides what comes out of a training but for the photos and the time."""

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from kbnet_cli.catalogue import Task
from kbnet_cli.errors import UsageError
from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from kbnet_cli.training.degradations.mixture import Mixture

Section = TypeVar("Section")
ARCHITECTURES: Mapping[str, type] = {"KBNet-S": KBNetSSizes, "KBNet-L": KBNetLSizes}
EXAMPLE = "see weights/denoise-small.toml"


@dataclass(frozen=True)
class DataRecipe:
    """Where clean patches come from."""

    photos: str | None = None
    """A TOML file beside the recipe that names each photo it was made with: address, licence, sha256."""
    shrink: tuple[int, ...] = (2, 3, 4, 6)
    """Photos are shrunk by each of these whole numbers, in linear light."""
    scenes: int = 160
    """Generated pictures."""
    scene_size: int = 384
    """Their height and width."""
    scene_share: float = 0.2
    """The share of the patches that is cut from them, 0…1."""
    flat_share: float = 0.0
    """The share of the patches that is one colour or goes evenly from one to another: skies, walls, bokeh."""
    grey_share: float = 0.0
    """The share of the patches that is grey: three equal channels, degraded alike, as grey photos come."""
    held_out_photos: int = 2
    """Whole photos that are kept for the figure told during training."""


@dataclass(frozen=True)
class OptimisationRecipe:
    """AdamW."""

    loss: Literal["l1", "psnr"] = "l1"
    """What is made small: the mean absolute difference; or the logarithm of each patch's mean square, which is PSNR."""
    patch: int = 64
    """Height and width of a patch."""
    batch: int = 8
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    """Where the cosine ends."""
    warm_up: float = 0.01
    """The share of the training in which the rate rises from zero."""
    weight_decay: float = 1e-4
    longest_gradient: float = 0.5
    """Gradients with a longer norm are shortened to it."""
    averaging: float = 0.999
    """The saved weights are a moving average with this factor a step."""


@dataclass(frozen=True)
class FactsRecipe:
    """What the weights say of themselves, as in `catalogue.Facts`, and how they are stored."""

    tile: int = 256
    limit: tuple[float, float] = (0.0, 1.0)
    sigma: tuple[float, float] | None = None
    card: str | None = None
    storage: Literal["float32", "float16", "bfloat16"] = "float32"
    """The type in the file; they are computed with in float32 all the same."""


@dataclass(frozen=True)
class Recipe:
    """A training of a KBNet for one task."""

    task: Task
    degradations: Mixture
    network: KBNetSSizes | KBNetLSizes | None = None
    """None: that of the weights it begins with."""
    init: str | None = None
    """Weights to begin with: a file beside the recipe, a name of the catalogue, or an hf: address."""
    data: DataRecipe = field(default_factory=DataRecipe)
    optimisation: OptimisationRecipe = field(default_factory=OptimisationRecipe)
    facts: FactsRecipe = field(default_factory=FactsRecipe)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: the file is missing or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}", hint=EXAMPLE) from error


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        UsageError: the file is missing or no TOML, a key is unknown or missing, or a value is of the wrong kind.
    """
    recipe = _section(Recipe, read_toml(path), f"{path}: ")
    if recipe.network is None and recipe.init is None:
        raise UsageError(f"{path}: missing key 'network'", hint="or say with init which weights to begin with")
    for part in recipe.degradations.parts:
        _check_ranges(part, f"{path}: degradations.{type(part).__name__.lower()}.")
    if not recipe.degradations.parts or sum(part.share for part in recipe.degradations.parts) <= 0:
        raise UsageError(f"{path}: degradations has none to take", hint=EXAMPLE)
    how = recipe.optimisation
    if how.patch < 8 or how.batch < 1:
        raise UsageError(f"{path}: optimisation.patch or batch is too small", hint="patches of 8 pixels or more")
    return recipe


def _check_ranges(part: Any, place: str) -> None:
    """Refuse ranges that fall, and shares that are no shares."""
    for one in fields(part):
        value = getattr(part, one.name)
        if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
            raise UsageError(f"{place}{one.name} is {list(value)!r}, expected a range that rises", hint=EXAMPLE)
        if isinstance(value, float) and value < 0:
            raise UsageError(f"{place}{one.name} is {value!r}, expected 0 or more", hint=EXAMPLE)


def _section(kind: type[Section], table: Mapping[str, Any], place: str) -> Section:
    """Make a dataclass of a table whose keys are its fields, all those without a default and no others."""
    hints = get_type_hints(kind)
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]  # a dataclass, by construction
    for key in table:
        if key not in known:
            raise UsageError(f"{place}unknown key {key!r}", hint=f"expected {', '.join(known)}")
    for name, one in known.items():
        if name not in table and one.default is MISSING and one.default_factory is MISSING:
            raise UsageError(f"{place}missing key {name!r}", hint=EXAMPLE)
    values = {key: _value(hints[key], value, f"{place}{key}") for key, value in table.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(f"{place}{error}", hint=EXAMPLE) from error


def _value(hint: Any, value: Any, place: str) -> Any:
    """Check a value against a field's type; whole numbers are floats too, lists become tuples, tables sections."""
    options = get_args(hint) if get_origin(hint) in (UnionType, None) and get_args(hint) else (hint,)
    kinds = [option for option in options if isinstance(option, type) and is_dataclass(option)]
    if kinds and isinstance(value, dict):
        return _section(*_which(kinds, value, place), f"{place}.")
    for option in options:
        if get_origin(option) is tuple and isinstance(value, list):
            items = get_args(option)
            length = None if items[-1] is Ellipsis else len(items)
            if length is None or len(value) == length:
                return tuple(_value(items[0], item, place) for item in value)
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if option is float and type(value) is int:
            return float(value)
        # type() and not isinstance(): to Python a bool is an int.
        if type(value) is option:
            return value
    raise UsageError(f"{place} is {value!r}, expected {_described(hint)}", hint=EXAMPLE)


def _which(kinds: list[type], table: Mapping[str, Any], place: str) -> tuple[type, Mapping[str, Any]]:
    """Choose among several kinds of section by the key `architecture`."""
    if len(kinds) == 1:
        return kinds[0], table
    name = table.get("architecture", "KBNet-S")
    if name not in ARCHITECTURES:
        raise UsageError(f"{place}.architecture is {name!r}, expected {' or '.join(ARCHITECTURES)}", hint=EXAMPLE)
    return ARCHITECTURES[cast(str, name)], {key: value for key, value in table.items() if key != "architecture"}


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(repr(value) for value in get_args(hint))
    return getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
