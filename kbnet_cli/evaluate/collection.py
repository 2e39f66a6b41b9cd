"""Folders of pictures, and which of them belong together."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kbnet_cli.errors import InputError, UsageError
from kbnet_cli.evaluate.picture import LOSSLESS, READABLE

NAME = "{name}"
SAME_NAME = f"{NAME}={NAME}"


@dataclass(frozen=True)
class Sample:
    """A clean picture, and where there is one the degraded picture of the same scene."""

    clean: Path
    degraded: Path | None = None

    @property
    def name(self) -> str:
        """What it is called: by the degraded picture, where there is one."""
        return (self.degraded or self.clean).name


@dataclass(frozen=True)
class Collection:
    """Where pictures lie: clean ones, or pairs of a degraded and a clean one."""

    folder: Path
    """Of the clean pictures, or of the degraded ones of pairs."""
    clean: Path | None = None
    """The folder of the clean pictures of pairs. None: the same folder, or no pairs."""
    match: str | None = None
    """`DEGRADED=CLEAN`, two names with {name} for what a pair shares. None: the same name, whatever the ending."""

    @property
    def paired(self) -> bool:
        """Whether it holds pairs."""
        return self.clean is not None or self.match is not None

    def samples(self) -> tuple[Sample, ...]:
        """Find the pictures, by name.

        Raises:
            InputError: a folder is not there or holds no picture, or a degraded picture has no clean one, or two.
            UsageError: `match` is not as it should be.
        """
        found = tuple(self._pairs()) if self.paired else tuple(Sample(path) for path in _files(self.folder, LOSSLESS))
        if not found:
            expected = (
                f"pairs by {SAME_NAME if self.match is None else self.match}"
                if self.paired
                else "PNG, TIFF or BMP files"
            )
            raise InputError(f"{self.folder}: holds no picture to evaluate", hint=f"expected {expected}")
        return found

    def _pairs(self) -> Iterator[Sample]:
        clean_folder = self.clean or self.folder
        before, after = _sides(SAME_NAME if self.match is None else self.match)
        if before == after and clean_folder.resolve() == self.folder.resolve():
            raise UsageError(
                "each picture would be compared with itself",
                hint="give another folder with --clean, or two different names with --match",
            )
        clean = dict(_by_name(clean_folder, after))
        degraded = dict(_by_name(self.folder, before))
        # In one folder {name}.png also finds the clean {name}_clean.png.
        taken = {clean[name] for name in degraded.keys() & clean.keys()}
        pairs = {name: path for name, path in degraded.items() if path not in taken}
        alone = [name for name in pairs if name not in clean]
        if alone:
            missing = clean_folder / after.replace(NAME, alone[0])
            more = f" (and {len(alone) - 1} more have none)" if len(alone) > 1 else ""
            raise InputError(
                f"{pairs[alone[0]]}: has no clean picture {missing}{more}",
                hint="take it out of the folder, or say with --match how names belong together",
            )
        for name, path in pairs.items():
            yield Sample(clean[name], path)


def _sides(match: str) -> tuple[str, str]:
    sides = match.split("=")
    if len(sides) != 2 or any(side.count(NAME) != 1 or "/" in side or "\\" in side for side in sides):
        raise UsageError(
            f"--match {match}: expected DEGRADED=CLEAN with {NAME} once on each side and no folders",
            hint=f'as in --match "{NAME}_noisy.png={NAME}_clean.png"',
        )
    return sides[0], sides[1]


def _by_name(folder: Path, pattern: str) -> Iterator[tuple[str, Path]]:
    """Give what stands for {name} in the names of a folder's pictures, each once."""
    start, end = pattern.split(NAME)
    ending = end.lower().endswith(tuple(READABLE))
    seen: dict[str, Path] = {}
    for path in _files(folder, READABLE):
        text = path.name if ending else path.stem
        if len(text) <= len(start) + len(end) or not (text.startswith(start) and text.endswith(end)):
            continue
        name = text[len(start) : len(text) - len(end)]
        if name in seen:
            raise InputError(
                f"{path}: has the same name as {seen[name].name}",
                hint="take one out of the folder, or write the ending in --match",
            )
        seen[name] = path
        yield name, path


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder", hint="give a folder of pictures")
    return sorted(path for path in folder.glob("[!.]*") if path.suffix.lower() in suffixes)
