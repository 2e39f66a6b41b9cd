"""The card of a repository of weights (README.md), and the table it is made from (weights.json)."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from kbnet_cli.catalogue import Figure
from kbnet_cli.errors import WeightsError

README = "README.md"
TABLE = "weights.json"
"""What all cards of a repository are made from, so that files published later keep the words on earlier ones."""
PAPER = "https://arxiv.org/abs/2303.02881"
_FORMAT = 1


@dataclass(frozen=True)
class Section:
    """What the card tells of one file. What is None is not known, and the card says so."""

    file: str
    """Its path in the repository."""
    sha256: str
    size_bytes: int
    architecture: str
    sizes: str
    """Of the network, in words."""
    parameters: int
    numbers: str
    """Their type: float32, bfloat16."""
    tile: int
    limit: tuple[float, float]
    told: bool
    """Whether the file itself names its tile and limit; where not, they are what kbnet assumes."""
    licence: str
    """An identifier of the Hub's: mit, apache-2.0, other."""
    summary: str | None = None
    task: str | None = None
    sigma: tuple[float, float] | None = None
    figures: tuple[Figure, ...] = ()
    figures_from: str | None = None
    """Who measured them."""
    training_data: str | None = None
    own_card: str | None = None
    """The text of the card that the file came with."""
    origin: str | None = None
    """An address, or where else it is from."""
    origin_sha256: str | None = None
    """Of the file that it was converted from."""


def table_of(sections: Iterable[Section]) -> bytes:
    """Write the table of a repository. The same sections give the same bytes."""
    files = [asdict(section) for section in sections]
    return (json.dumps({"format": _FORMAT, "files": files}, indent=1, ensure_ascii=False) + "\n").encode()


def sections_from(table: bytes, name: str) -> tuple[Section, ...]:
    """Read the table of a repository.

    Raises:
        WeightsError: it is damaged, or of a newer kbnet. It is never taken for an empty one.
    """
    try:
        content = json.loads(table)
        if content["format"] == _FORMAT:
            return tuple(_section(entry) for entry in content["files"])
        newer = isinstance(content["format"], int) and content["format"] > _FORMAT
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(name) from error
    if newer:
        raise WeightsError(f"{name}: made by a newer kbnet", hint="install the newest kbnet")
    raise _damaged(name)


def _damaged(name: str) -> WeightsError:
    return WeightsError(
        f"{name}: damaged: it holds what the card tells of the files there",
        hint="bring an earlier one back from the repository's history; or delete it there, and publish all files again",
    )


def _section(entry: Mapping[str, Any]) -> Section:
    figures = tuple(_figure(figure) for figure in entry["figures"])
    sigma = None if entry["sigma"] is None else _ends(entry["sigma"])
    section = Section(**{**entry, "figures": figures, "sigma": sigma, "limit": _ends(entry["limit"])})
    for field in fields(Section):
        if field.name not in ("figures", "sigma", "limit") and not isinstance(
            getattr(section, field.name),
            field.type,  # type: ignore[arg-type]
        ):
            raise TypeError(field.name)
    return section


def _figure(figure: Mapping[str, Any]) -> Figure:
    before = figure.get("before")
    return Figure(str(figure["pictures"]), float(figure["psnr"]), None if before is None else float(before))


def _ends(values: Any) -> tuple[float, float]:
    first, last = values
    return float(first), float(last)


def card(repository: str, sections: Iterable[Section]) -> str:
    """Write the card of a repository. The same sections give the same text, whatever their order."""
    from huggingface_hub import ModelCard, ModelCardData

    ordered = sorted(sections, key=lambda section: section.file)
    licences = sorted({section.licence for section in ordered})
    mixed = len(licences) > 1
    data = ModelCardData(
        license="other" if mixed else licences[0],
        license_name="each-file-has-its-own" if mixed else None,
        library_name="kbnet",
        pipeline_tag="image-to-image",
        tags=["kbnet", "image-restoration", *sorted({section.task for section in ordered if section.task})],
    )
    body = "\n\n".join([_introduction(repository, ordered), *(_chapter(repository, section) for section in ordered)])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n"))


def _introduction(repository: str, sections: list[Section]) -> str:
    rows = [
        (
            f"[{section.file}](#{re.sub(r'[^a-z0-9_-]', '', section.file.lower())})",
            section.task or "unknown",
            section.architecture,
            section.numbers,
            f"{section.size_bytes / 1e6:.1f} MB",
            section.licence,
        )
        for section in sections
    ]
    return f"""<!-- Made by kbnet weights publish from {TABLE}: what is changed here is lost when more is published. -->
# {repository}

Weights of [KBNet]({PAPER}), networks that take noise, rain or blur out of photographs, for the program kbnet.
It fetches a file when it is first used, checks it, and needs no connection after that.
With `--hub-repo {repository}`, or `KBNET_HUB_REPO={repository}` in the environment, it looks here first for the
weights that it knows by name.

{_table(("file", "task", "network", "numbers", "size", "licence"), rows)}"""


def _chapter(repository: str, section: Section) -> str:
    parts = [
        f"## {section.file}",
        section.summary and f"{_line(section.summary)}.",
        f"    kbnet {section.task or 'denoise'} photo.jpg -w hf:{repository}/{section.file}",
        None if section.task else "What they take out of a photo is not known: the file does not say.",
        _table(("", ""), _facts(section)),
        "### Figures",
        _figures(section),
        "### Training data",
        section.training_data or ("As its own card says, below." if section.own_card else "Not known."),
        *(("### The card it came with", _demoted(section.own_card)) if section.own_card else ()),
    ]
    return "\n\n".join(part for part in parts if part)


def _facts(section: Section) -> list[tuple[str, str]]:
    assumed = "" if section.told else " (assumed: the file does not say)"
    low, high = section.limit
    if section.sigma is None:
        noise = "not known" if section.task in (None, "denoise") else "none: they are for something else"
    else:
        noise = "σ " + " to ".join(dict.fromkeys(f"{end:g}" for end in section.sigma)) + ", in 1/255"
    converted = section.origin_sha256 is not None and section.origin_sha256 != section.sha256
    original = f", converted from a file with sha256 `{section.origin_sha256}`" if converted else ""
    return [
        ("task", section.task or "not known"),
        ("network", f"{section.architecture}: {section.sizes}"),
        ("parameters", f"{section.parameters:,}"),
        ("numbers", section.numbers),
        ("tile", f"{section.tile}{assumed}"),
        ("values", f"{low:g} to {high:g}, display-encoded; 0 is black, 1 is white{assumed}"),
        ("noise", noise),
        ("licence", section.licence),
        ("from", (section.origin or "a file of whoever published it here") + original),
        ("size", f"{section.size_bytes:,} bytes"),
        ("sha256", f"`{section.sha256}`"),
    ]


def _figures(section: Section) -> str:
    if not section.figures:
        return "Not known."
    compared = any(figure.before is not None for figure in section.figures)
    heads = ("pictures", "mean PSNR in dB before", "after") if compared else ("pictures", "mean PSNR in dB")
    rows = [
        (figure.pictures, *((_psnr(figure.before),) if compared else ()), _psnr(figure.psnr))
        for figure in section.figures
    ]
    who = section.figures_from or "Who measured them is not known"
    return f"{_table(heads, rows)}\n\n{who}."


def _psnr(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [heads, ("---",) * len(heads), *(tuple(_line(cell).replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _line(text: str) -> str:
    return " ".join(text.split())


def _demoted(text: str) -> str:
    """Put a card's headings below ours, and leave out its metadata and its title. Code keeps its number signs."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    lines: list[str] = []
    fence = ""
    for line in text.strip().splitlines():
        mark = re.match(r" {0,3}(```+|~~~+)", line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
        heading = None if fence else re.match(r"(#{1,6})(?=\s)", line)
        if heading and len(heading[1]) == 1 and not any(lines):
            continue
        lines.append("#" * min(6, len(heading[1]) + 2) + line[heading.end() :] if heading else line)
    return "\n".join([*lines, fence] if fence else lines).strip()
