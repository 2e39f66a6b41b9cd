"""What was found, as Markdown and as JSON, written anew whenever something comes."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Cell = str | int | float | None
Row = Mapping[str, Cell]


@dataclass(frozen=True)
class Told:
    """Something found: rows of a table, figures that targets ask for, notes."""

    rows: tuple[Row, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """What is asked of a figure."""

    what: str
    figure: str
    least: float
    aim: float | None = None
    unit: str = ""
    most: bool = False
    """Whether the figure is to be no more, not no less."""

    def judged(self, figures: Mapping[str, float]) -> Row:
        """Return the row of the table."""
        found = figures.get(self.figure)
        sign = "≤" if self.most else "≥"

        def reached(limit: float | None) -> bool:
            if found is None or limit is None:
                return False
            return found <= limit if self.most else found >= limit

        verdict = "not measured" if found is None else "aim reached" if reached(self.aim) else "no"
        if verdict == "no" and reached(self.least):
            verdict = "yes"
        return {
            "what": self.what,
            "at least": f"{sign} {self.least:g}{self.unit}",
            "aim": "–" if self.aim is None else f"{sign} {self.aim:g}{self.unit}",
            "measured": "–" if found is None else f"{number(found)}{self.unit}",
            "reached": verdict,
        }


TARGETS = (
    Target("network, 24 MP photo in tiles of 512, bf16", "photo, MP/s", 12, 25, " MP/s"),
    Target("tiles of 512 through the network alone, bf16", "small kbnet, bf16, MP/s", 12, 25, " MP/s"),
    Target("ratio to spandrel's float32, as torch comes", "ratio to float32", 8, 15, "×"),
    Target("ratio to spandrel's bf16", "ratio to bf16", 4, 8, "×"),
    Target("peak memory above the weights, one tile of 512", "ratio of memory", 0.25, 0.1, "×", most=True),
    Target("KBA operator against its floor (level 1, bf16)", "attention, of its floor", 35, 60, " %"),
    Target("GPU busy, 24 MP photos from disk to disk", "disk, GPU busy", 90, None, " %"),
    Target("bf16 against float32 on the example photo", "example, PSNR", 55, None, " dB"),
)
QUOTIENTS = {
    "ratio to float32": ("small kbnet, bf16, MP/s", "small published float32 as torch comes, MP/s"),
    "ratio to float32, TF32 off": ("small kbnet, bf16, MP/s", "small published float32 TF32 off, MP/s"),
    "ratio to float32, TF32 on": ("small kbnet, bf16, MP/s", "small published float32 TF32 on, MP/s"),
    "ratio of fp32 to float32, TF32 off": ("small kbnet, fp32, MP/s", "small published float32 TF32 off, MP/s"),
    "ratio of tf32 to float32, TF32 on": ("small kbnet, tf32, MP/s", "small published float32 TF32 on, MP/s"),
    "ratio to bf16": ("small kbnet, bf16, MP/s", "small published bf16, MP/s"),
    "ratio of memory": ("small kbnet, bf16, peak bytes", "small published, peak bytes"),
    "KBNet-L, ratio to float32": ("large kbnet, bf16, MP/s", "large published float32 as torch comes, MP/s"),
    "KBNet-L, ratio to bf16": ("large kbnet, bf16, MP/s", "large published bf16, MP/s"),
    "KBNet-L, ratio of memory": ("large kbnet, bf16, peak bytes", "large published, peak bytes"),
}
"""What follows from two figures. Of speeds the best batch counts on both sides."""


class Report:
    """Keep what is told, part by part, in the files of a folder."""

    def __init__(self, folder: Path, titles: Mapping[str, str], remark: str) -> None:
        self.folder, self.titles, self.remark = folder, titles, remark
        self.parts: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, part: str, told: Told) -> None:
        """Take in what a part tells, and write the files anew."""
        kept = self.parts.setdefault(part, {"title": self.titles[part], "rows": [], "notes": []})
        kept["rows"] += told.rows
        kept["notes"] += told.notes
        for name, value in told.figures.items():
            self.figures[name] = max(value, self.figures.get(name, 0.0)) if name.endswith("MP/s") else value
        for name, (above, below) in QUOTIENTS.items():
            if above in self.figures and below in self.figures:
                self.figures[name] = self.figures[above] / self.figures[below]
        self.write()

    def write(self) -> None:
        """Write both files."""
        facts = {"remark": self.remark, "figures": self.figures, "targets": self.verdicts(), "parts": self.parts}
        _write(self.folder / "gpu.json", json.dumps(facts, ensure_ascii=False, indent=1))
        _write(self.folder / "gpu.md", self.markdown())

    def verdicts(self) -> list[Row]:
        """Return the rows of the targets."""
        return [target.judged(self.figures) for target in TARGETS]

    def markdown(self) -> str:
        """Return everything as Markdown."""
        lines = ["# kbnet on a GPU", "", self.remark, "", "## Targets", "", table(self.verdicts())]
        ratios: list[Row] = [{"ratio": name, "value": self.figures[name]} for name in QUOTIENTS if name in self.figures]
        if ratios:
            lines += ["", table(ratios)]
        # In the order of the titles, whatever order they came in.
        for part in (name for name in self.titles if name in self.parts):
            kept = self.parts[part]
            lines += ["", f"## {kept['title']}", ""]
            if kept["rows"]:
                lines += [table(kept["rows"]), ""]
            lines += [f"- {note}" for note in kept["notes"]]
        return "\n".join(lines).rstrip() + "\n"


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def table(rows: Sequence[Row]) -> str:
    """Return rows as a Markdown table; the columns are all that any row has."""
    headings = list(dict.fromkeys(heading for row in rows for heading in row))
    lines = [headings, ["---"] * len(headings)]
    lines += [[_cell(row.get(heading)) for heading in headings] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Cell) -> str:
    text = "–" if value is None else number(value) if isinstance(value, float) else str(value)
    return text.replace("|", "/").replace("\n", " ")


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


BEGINNING = '{"part": '


def as_line(part: str, item: int, told: Told, *, begins: str = "") -> str:
    """Return one line of JSON, as a part's process tells it; `begins` is the name of an item that begins."""
    return json.dumps({"part": part, "item": item, "begins": begins, "told": asdict(told)}, ensure_ascii=False)


def is_line(line: str) -> bool:
    """Say whether a line is one of these; libraries print what they like."""
    return line.startswith(BEGINNING)


def from_line(line: str) -> tuple[str, int, Told, str]:
    """Read what `as_line` wrote."""
    facts = json.loads(line)
    told = facts["told"]
    found = Told(tuple(told["rows"]), told["figures"], tuple(told["notes"]))
    return facts["part"], facts["item"], found, facts["begins"]


@dataclass(frozen=True)
class Item:
    """One step of a part: if it fails, the others go on."""

    name: str
    run: Callable[[], Iterable[Told]]
