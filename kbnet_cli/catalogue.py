"""The table of known weights, typed, and what weights say of themselves."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from kbnet_cli.errors import WeightsError

Task = Literal["denoise", "derain", "deblur", "dejpeg"]
TASKS: tuple[Task, ...] = get_args(Task)
Architecture = Literal["KBNet-S", "KBNet-L"]
LARGEST_TILE = 4096
"""What weights may name for their tile: ten times what any were trained on, and what still fits a large memory."""


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
class Source:
    """Where weights can be had."""

    address: str
    """As `hub.address` reads it: https:… or hf:OWNER/REPO/FILE."""
    sha256: str | None = None
    """Of the file there, in hexadecimal digits. None: nobody has published it; the one seen first is kept to."""


@dataclass(frozen=True)
class Figure:
    """How good weights are on a set of pictures."""

    pictures: str
    psnr: float
    """Mean, in dB."""
    before: float | None = None
    """That of the degraded pictures, where it was measured too."""


@dataclass(frozen=True)
class Entry:
    """Weights known by a name."""

    name: str
    summary: str
    architecture: Architecture
    width: int
    """Channels of the first level."""
    channels: int
    """Of the pictures: 1 grey, 3 colour."""
    parameters: int
    facts: Facts
    licence: str
    figures: tuple[Figure, ...] = ()
    """Of published ones the paper's, of bundled ones measured with `kbnet evaluate`."""
    bundled: str | None = None
    """The file in `weights/`, of those that come with kbnet."""
    sources: tuple[Source, ...] = ()
    """Public places, best first. A Hub repository that the user names comes before them."""

    @property
    def task(self) -> Task:
        """What they take out of a photo."""
        assert self.facts.task is not None
        return self.facts.task

    @property
    def path(self) -> Path | None:
        """Where the bundled file lies, in a checkout or in an installed package."""
        return None if self.bundled is None else weights_folder() / self.bundled

    @property
    def size_bytes(self) -> int:
        """How large the weights are: of the bundled file, else four bytes a parameter."""
        return 4 * self.parameters if self.path is None else self.path.stat().st_size

    @property
    def largest_bytes(self) -> int:
        """How large a file with these weights can be: eight bytes a parameter, and names and wrappings beside them."""
        return 8 * self.parameters + 4_000_000


AUTHORS_LICENCE = "MIT"
"""Of the authors' repository; nothing else is said of the weights."""
MIRROR = "https://github.com/OpenModelDB/model-hub/releases/download/kbnet/"
"""OpenModelDB's copies of two of the authors' files. The authors' own links are dead (zhangyi-3/KBNet, issue 14)."""
UNCLIPPED = (-0.5, 1.5)
"""Gaussian noise was added in training and in the paper's tests without clipping it."""


def _gaussian(colours: str, channels: int, sigma: float, figures: tuple[Figure, ...]) -> Entry:
    return Entry(
        name=f"gaussian-{colours}-{sigma:g}",
        summary=f"Gaussian noise of σ {sigma:g}, {colours} pictures",
        architecture="KBNet-S",
        width=64,
        channels=channels,
        parameters=141_966_659 if channels == 3 else 141_964_353,
        # Training ended with patches of 384.
        facts=Facts(task="denoise", tile=384, limit=UNCLIPPED, sigma=(sigma, sigma)),
        licence=AUTHORS_LICENCE,
        figures=figures,
    )


def _figures(**psnr: float) -> tuple[Figure, ...]:
    return tuple(Figure(pictures, value) for pictures, value in psnr.items())


def _bundled(name: str, summary: str, facts: Facts, figures: tuple[Figure, ...]) -> Entry:
    return Entry(
        name=name,
        summary=summary,
        architecture="KBNet-S",
        width=32,
        channels=3,
        parameters=1_900_707,
        facts=replace(facts, card=f"{name}.md"),
        licence="MIT",
        figures=figures,
        bundled=f"{name}.safetensors",
    )


BUNDLED = (
    _bundled(
        "denoise-small",
        "noise of cameras and Gaussian noise of any strength (σ 0 to 55), small and fast",
        Facts(task="denoise", limit=UNCLIPPED, sigma=(0.0, 55.0)),
        (
            Figure("CBSD68 σ 15", 33.56, 24.84),
            Figure("CBSD68 σ 25", 30.92, 20.54),
            Figure("CBSD68 σ 50", 27.66, 15.00),
            Figure("PolyU", 38.03, 35.92),
            Figure("Nam", 39.82, 36.05),
        ),
    ),
    _bundled(
        "derain-small",
        "streaks of rain and mist, small and fast",
        Facts(task="derain"),
        (Figure("Fu 2017", 30.53, 23.23), Figure("Rain100", 32.28, 21.29)),
    ),
    _bundled(
        "deblur-small",
        "defocus of a few pixels, small and fast",
        Facts(task="deblur"),
        (Figure("Kodak24 radius 2", 29.63, 27.25), Figure("Kodak24 radius 4", 27.41, 24.30)),
    ),
    _bundled(
        "dejpeg-small",
        "marks of JPEG compression, small and fast",
        Facts(task="dejpeg"),
        (Figure("Kodak24 quality 10", 27.42, 26.58), Figure("Kodak24 quality 30", 31.26, 30.34)),
    ),
)
PUBLISHED = (
    _gaussian("color", 3, 15.0, _figures(CBSD68=34.41, Kodak24=35.46, McMaster=35.56, Urban100=35.15)),
    _gaussian("color", 3, 25.0, _figures(CBSD68=31.80, Kodak24=33.05, McMaster=33.31, Urban100=32.96)),
    _gaussian("color", 3, 50.0, _figures(CBSD68=28.62, Kodak24=30.04, McMaster=30.27, Urban100=30.04)),
    _gaussian("gray", 1, 15.0, _figures(Set12=33.40, BSD68=31.98, Urban100=33.77)),
    _gaussian("gray", 1, 25.0, _figures(Set12=31.08, BSD68=29.54, Urban100=31.45)),
    _gaussian("gray", 1, 50.0, _figures(Set12=28.04, BSD68=26.65, Urban100=28.33)),
    Entry(
        name="sidd",
        summary="noise of telephone cameras",
        architecture="KBNet-S",
        width=64,
        channels=3,
        parameters=128_403_395,
        facts=Facts(task="denoise", tile=256),
        licence=AUTHORS_LICENCE,
        figures=_figures(SIDD=40.35),
        sources=(Source(MIRROR + "1x-KBNet_sidd.pth"),),
    ),
    Entry(
        name="sensenoise",
        summary="noise of cameras, learnt from SenseNoise-500",
        architecture="KBNet-S",
        width=64,
        channels=3,
        parameters=128_403_395,
        facts=Facts(task="denoise", tile=256),
        licence=AUTHORS_LICENCE,
        figures=(Figure("SenseNoise-500", 35.60),),
    ),
    Entry(
        name="derain",
        summary="streaks of rain",
        architecture="KBNet-L",
        width=48,
        channels=3,
        parameters=29_568_100,
        facts=Facts(task="derain", tile=320),
        licence=AUTHORS_LICENCE,
        figures=_figures(Test2800=34.19, Test1200=33.82),
        sources=(Source(MIRROR + "1x-KBNet_derain.pth"),),
    ),
    Entry(
        name="defocus",
        summary="defocus blur",
        architecture="KBNet-L",
        width=48,
        channels=3,
        parameters=29_568_100,
        facts=Facts(task="deblur", tile=320),
        licence=AUTHORS_LICENCE,
        figures=(Figure("DPDD indoor", 28.89), Figure("DPDD outdoor", 23.32)),
    ),
)
ENTRIES = BUNDLED + PUBLISHED
DEFAULTS: Mapping[Task, str] = {
    "denoise": "denoise-small",
    "derain": "derain-small",
    "deblur": "deblur-small",
    "dejpeg": "dejpeg-small",
}
"""Which entry a task takes when none is named."""


def weights_folder() -> Path:
    """Return the folder of the bundled weights: `weights/` beside the package, or inside it once installed."""
    installed = Path(__file__).parent / "weights"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "weights"


def find(name: str) -> Entry | None:
    """Return the entry that has a name."""
    return next((entry for entry in ENTRIES if entry.name == name), None)


def default(task: Task) -> str:
    """Return the name of a task's weights when none are named."""
    return DEFAULTS[task]


def facts_to_metadata(facts: Facts) -> dict[str, str]:
    """Write what tensors' shapes cannot tell as the `kbnet.*` keys of a safetensors file."""
    metadata = {"kbnet.tile": str(facts.tile), "kbnet.limit": _ends(facts.limit)}
    if facts.task is not None:
        metadata["kbnet.task"] = facts.task
    if facts.sigma is not None:
        metadata["kbnet.sigma"] = _ends(facts.sigma)
    if facts.card is not None:
        metadata["kbnet.card"] = facts.card
    return metadata


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
        numbers = (*limit, *(sigma or ()))
        if not 8 <= tile <= LARGEST_TILE or not limit[0] < limit[1] or not all(map(math.isfinite, numbers)):
            raise ValueError(tile, *numbers)
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


def _ends(values: tuple[float, float]) -> str:
    return f"{values[0]:g},{values[1]:g}"
