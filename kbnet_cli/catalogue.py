"""The table of known weights, typed, and what weights say of themselves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kbnet_cli.errors import WeightsError

Task = Literal["denoise", "derain", "deblur"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Facts:
    """What tensors' shapes cannot tell of weights: it stands in the safetensors metadata."""

    task: Task | None = None
    """What they take out of a photo."""
    tile: int = 256
    """The tile they are used with: what a pixel becomes depends on its whole tile."""
    limit: tuple[float, float] = (0.0, 1.0)
    """The range they were trained on. Values are clipped to it on the way in; the answer is used as a residual."""
    sigma: tuple[float, float] | None = None
    """The noise they were trained for, in 1/255: equal ends for one level, a range for blind ones."""
    card: str | None = None
    """The file name of their model card."""
    told: bool = True
    """Whether the file said any of this. Where it did not, these are assumptions, and a user is told so."""


@dataclass(frozen=True)
class Entry:
    """Weights known by a name."""

    name: str
    task: Task
    summary: str
    licence: str
    bundled: str
    """The file in `weights/`."""

    @property
    def path(self) -> Path:
        """Where the bundled file lies, in a checkout or in an installed package."""
        return weights_folder() / self.bundled


ENTRIES = (
    Entry(
        name="denoise-small",
        task="denoise",
        summary="Gaussian noise of any strength (σ 0 to 55), small and fast",
        licence="MIT",
        bundled="denoise-small.safetensors",
    ),
)
DEFAULTS: Mapping[Task, str] = {"denoise": "denoise-small"}
"""Which entry a task takes when none is named."""


def weights_folder() -> Path:
    """Return the folder of the bundled weights: `weights/` beside the package, or inside it once installed."""
    installed = Path(__file__).parent / "weights"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "weights"


def resolve(given: str | None, task: Task) -> Path:
    """Return the file for a name of the catalogue or a path, or for the task's default.

    Raises:
        WeightsError: nothing has that name, or the task has no default.
    """
    if given is None:
        if task not in DEFAULTS:
            raise WeightsError(
                f"there are no weights for {task} yet: none come with kbnet",
                hint="give a KBNet checkpoint with --weights FILE (.safetensors or .pth)",
            )
        given = DEFAULTS[task]
    for entry in ENTRIES:
        if given == entry.name:
            return entry.path
    path = Path(given)
    if path.is_dir():
        raise WeightsError(f"{given}: is a folder, expected a checkpoint", hint="give the file inside it")
    if not path.exists():
        names = ", ".join(entry.name for entry in ENTRIES)
        raise WeightsError(
            f"{given}: no such weights, neither a file nor a name of the catalogue",
            hint=f"give a .safetensors or .pth file, or one of: {names}",
        )
    return path


def facts_from_metadata(metadata: Mapping[str, str], name: str) -> Facts:
    """Read the `kbnet.*` keys of a safetensors file; a missing key takes its default.

    Raises:
        WeightsError: a key has a value that cannot be meant.
    """
    own = {key.removeprefix("kbnet."): value for key, value in metadata.items() if key.startswith("kbnet.")}
    facts = Facts(told=bool(own))
    try:
        task = own.get("task", facts.task)
        if task is not None and task not in TASKS:
            raise ValueError(task)
        tile = int(own.get("tile", facts.tile))
        limit = _pair(own["limit"]) if "limit" in own else facts.limit
        sigma = _pair(own["sigma"]) if "sigma" in own else None
        if not 8 <= tile <= 1 << 16 or not limit[0] < limit[1]:
            raise ValueError(tile, limit)
    except ValueError as error:
        raise WeightsError(
            f"{name}: the metadata make no sense: {', '.join(map(repr, error.args))}",
            hint="expected kbnet.task, kbnet.tile, kbnet.limit and kbnet.sigma as the model card format has them",
        ) from error
    return Facts(task=task, tile=tile, limit=limit, sigma=sigma, card=own.get("card"), told=facts.told)


def _pair(text: str) -> tuple[float, float]:
    numbers = [float(part) for part in text.split(",")]
    if len(numbers) not in (1, 2):
        raise ValueError(text)
    return numbers[0], numbers[-1]
