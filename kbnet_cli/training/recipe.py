"""A recipe: everything that decides what comes out of a training but for the photos and the time."""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from kbnet_cli.errors import UsageError
from kbnet_cli.networks.kbnet_s import KBNetSSizes

Section = TypeVar("Section")


@dataclass(frozen=True)
class DataRecipe:
    """Where clean patches come from."""

    shrink: tuple[int, ...] = (2, 3, 4, 6)
    """Photos are shrunk by each of these whole numbers, in linear light."""
    scenes: int = 160
    """Generated pictures."""
    scene_size: int = 384
    """Their height and width."""
    scene_share: float = 0.2
    """The share of the patches that is cut from them, 0…1."""
    held_out_photos: int = 2
    """Whole photos that are kept for the figure told during training."""


@dataclass(frozen=True)
class NoiseRecipe:
    """Gaussian noise, not clipped."""

    sigma: tuple[float, float] = (0.0, 55.0)
    """The range of standard deviations in 1/255, drawn uniformly for each patch."""


@dataclass(frozen=True)
class OptimisationRecipe:
    """AdamW on the mean absolute difference."""

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
    """What the weights say of themselves, as in `catalogue.Facts`."""

    tile: int = 256
    limit: tuple[float, float] = (-0.5, 1.5)
    card: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A training of a KBNet-S for denoising."""

    task: str
    network: KBNetSSizes
    data: DataRecipe = DataRecipe()
    noise: NoiseRecipe = NoiseRecipe()
    optimisation: OptimisationRecipe = OptimisationRecipe()
    facts: FactsRecipe = FactsRecipe()


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file.

    Raises:
        UsageError: the file is missing or no TOML, a key is unknown or missing, or a value is of the wrong kind.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not a TOML file: {error}", hint="see weights/denoise-small.toml") from error
    recipe = _section(Recipe, table, f"{path}: ")
    if recipe.task != "denoise":
        raise UsageError(
            f"{path}: task is {recipe.task!r}, expected 'denoise'", hint="other tasks have no training yet"
        )
    return recipe


def _section(kind: type[Section], table: dict[str, Any], place: str) -> Section:
    """Make a dataclass of a table whose keys are its fields, all those without a default and no others."""
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass, by construction
    for key in table:
        if key not in known:
            raise UsageError(f"{place}unknown key {key!r}", hint=f"expected {', '.join(known)}")
    for name, field in known.items():
        if name not in table and field.default is MISSING:
            raise UsageError(f"{place}missing key {name!r}", hint="see weights/denoise-small.toml")
    return kind(**{key: _value(hints[key], value, f"{place}{key}") for key, value in table.items()})


def _value(hint: Any, value: Any, place: str) -> Any:
    """Check a value against a field's type; whole numbers are floats too, lists become tuples, tables sections."""
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        if isinstance(value, dict):
            return _section(hint, value, f"{place}.")
    elif get_origin(hint) is tuple:
        items = get_args(hint)
        length = None if items[-1] is Ellipsis else len(items)
        if isinstance(value, list) and (length is None or len(value) == length):
            return tuple(_value(items[0], item, place) for item in value)
    else:
        allowed = get_args(hint) or (hint,)
        if float in allowed and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        # type() and not isinstance(): to Python a bool is an int.
        if type(value) in allowed:
            return value
    expected = getattr(hint, "__name__", str(hint)) if get_origin(hint) is None else str(hint)
    raise UsageError(f"{place} is {value!r}, expected {expected}", hint="see weights/denoise-small.toml")
