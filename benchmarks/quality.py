"""How good the bundled weights are: every figure of the README and of the model cards, by one command.

    python benchmarks/quality.py PICTURES                   # all four weights: about ten minutes on two cores
    python benchmarks/quality.py PICTURES --only derain deblur --markdown

PICTURES is the folder of the sets, laid out as classic/CBSD68, classic/Kodak24, pairs_noisy/PolyU, pairs_noisy/Nam,
pairs_rain/Fu2017/synthetic and pairs_rain/Rain100_rebuilt. Each figure is `kbnet evaluate` with the words
that are told. Progress goes to standard error.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measure:
    """One call of `kbnet evaluate`: its folder below PICTURES and its other words."""

    task: str
    folder: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """One mean that it gave, in dB."""

    what: str
    before: float
    after: float
    gain: float
    least_gain: float
    pictures: int


NOISE, JPEG, DEFOCUS = (
    (f"--{name}", levels) for name, levels in (("sigma", "15 25 50"), ("jpeg", "10 20 30 40"), ("defocus", "1 2 3 4"))
)


def _levels(option: str, levels: str) -> tuple[str, ...]:
    return tuple(word for level in levels.split() for word in (option, level))


MEASURES = (
    Measure("denoise", "classic/CBSD68", _levels(*NOISE)),
    Measure("denoise", "classic/Kodak24", _levels(*NOISE)),
    Measure("denoise", "pairs_noisy/PolyU", ("--match", "{name}_real.JPG={name}_mean.JPG")),
    Measure("denoise", "pairs_noisy/Nam", ("--match", "{name}_noise.png={name}_gt.png")),
    Measure("derain", "pairs_rain/Fu2017/synthetic", ("--match", "{name}rain.jpg={name}ground_truth.jpg")),
    Measure("derain", "pairs_rain/Rain100_rebuilt", ("--match", "{name}_rain.png={name}_gt.png")),
    Measure("deblur", "classic/Kodak24", _levels(*DEFOCUS)),
    Measure("dejpeg", "classic/Kodak24", _levels(*JPEG)),
)


def figures(measure: Measure, pictures: Path, more: list[str]) -> Iterator[Figure]:
    """Run one measure and give its means."""
    words = ["evaluate", str(pictures / measure.folder), "--task", measure.task, *measure.words, *more]
    sys.stderr.write(f"kbnet {' '.join(words)}\n")
    done = subprocess.run(
        [sys.executable, "-m", "kbnet_cli", *words, "--json"], stdout=subprocess.PIPE, text=True, check=True
    )
    for line in done.stdout.splitlines():
        mean = json.loads(line)
        if mean["event"] == "mean":
            level = "" if mean["level"] is None else f" {mean['kind']} {mean['level']:g}"
            what = f"{measure.folder.partition('/')[2]}{level} ({measure.task}, {mean['channel']})"
            numbers = (mean[key] for key in ("psnr_in", "psnr_out", "gain", "least_gain"))
            yield Figure(what, *numbers, pictures=mean["pictures"])


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--only", nargs="+", default=["denoise", "derain", "deblur", "dejpeg"])
    parser.add_argument("--markdown", action="store_true", help="a table for a page")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--weights", help="others than the bundled ones; with one task in --only")
    wanted = parser.parse_args()
    more = ["--precision", wanted.precision] + (["-w", wanted.weights] if wanted.weights else [])
    if wanted.markdown:
        print("| set | pictures | PSNR before | after | gain | least gain |\n|---|---|---|---|---|---|")
    for measure in MEASURES:
        if measure.task in wanted.only:
            for one in figures(measure, wanted.pictures, more):
                row = (
                    one.what,
                    str(one.pictures),
                    *(f"{value:.2f}" for value in (one.before, one.after, one.gain, one.least_gain)),
                )
                print("| " + " | ".join(row) + " |" if wanted.markdown else "  ".join(row), flush=True)


if __name__ == "__main__":
    main()
