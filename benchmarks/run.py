"""kbnet against spandrel's KBNet, the same weights in the same run, as a table.

    python benchmarks/run.py                                # everything: about half an hour on two cores
    python benchmarks/run.py --only operator block          # some minutes
    python benchmarks/run.py --no-large --rounds 1          # without KBNet-L, whose published form takes minutes a tile
    python benchmarks/run.py --megapixels 1 12 --markdown > table.md

Progress goes to standard error.
"""

import argparse
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import turns
from benchmarks.turns import Row, Work

GROUPS = ("operator", "block", "network", "photo")
PUBLISHED = "spandrel's KBNet"
PLAIN, BF16 = "kbnet in plain torch", "kbnet in bf16"


def comparisons(wanted: argparse.Namespace) -> list[list[Row]]:
    """Return the rows of the table, those together whose forms take turns. A form is kind/whose/size."""
    size, half = wanted.size, wanted.size // 2

    def row(what: str, kind: str, amount: float, *, ours: str = "kbnet") -> Row:
        return Row(what, f"{kind}/{ours}/{amount:g}", f"{kind}/spandrel/{amount:g}", PUBLISHED)

    network = [
        row(f"KBNet-S (SIDD sizes), {size}×{size}, float32", "network-s", size),
        row("the same in bf16, against float32", "network-s", size, ours=BF16),
        row("the same without a compiler: plain torch", "network-s", size, ours=PLAIN),
        Row(
            "KBNet-S, float32, against NAFNet of width 64",
            f"network-s/kbnet/{size}",
            f"nafnet/spandrel/{size}",
            "spandrel's NAFNet",
        ),
        Row(
            "KBNet-S, float32: peak memory above the loaded weights",
            f"network-s/kbnet/{size}",
            f"network-s/spandrel/{size}",
            PUBLISHED,
            by="memory",
        ),
    ]
    if not has_bf16():
        del network[1]
    groups = {
        "operator": [
            [row(f"KBA, 64 channels, {half}×{half}, N = 32, float32", "operator", half)],
            [row("KBA forward and backward, 16 pictures of 64×64×16", "training", 64)],
        ],
        "block": [[row(f"a block of KBNet-S, 64 channels, {half}×{half}, float32", "block", half)]],
        "network": [
            network,
            *(
                []
                if wanted.no_large
                else [[row(f"KBNet-L (deraining sizes), {size}×{size}, float32", "network-l", size)]]
            ),
        ],
        "photo": [[photo(megapixels, wanted.spandrel_up_to)] for megapixels in wanted.megapixels],
    }
    return [rows for group in GROUPS if group in wanted.only for rows in groups[group]]


def photo(megapixels: float, published_up_to: float) -> Row:
    """Return the row of a photo; a large one takes the published network an hour, and has nothing to compare with."""
    theirs = f"photo/spandrel/{megapixels:g}" if megapixels <= published_up_to else None
    what = f"`denoise-small`, a photo of {megapixels:g} megapixels, PNG to PNG"
    return Row(what, f"photo/kbnet/{megapixels:g}", theirs, f"{PUBLISHED} in the same tiles")


def has_bf16() -> bool:
    """Say whether the processor computes in bf16; where the system does not tell, try."""
    facts = Path("/proc/cpuinfo")
    return not facts.is_file() or bool({"avx512_bf16", "amx_bf16", "bf16"} & set(facts.read_text().split()))


def work(form: str) -> Work:
    """Build what a form's name says."""
    from benchmarks import attention, network
    from benchmarks import photo as photos

    kind, whose, amount = form.split("/")
    size, named = round(float(amount)), cast("network.Form", whose)
    if kind == "operator":
        return attention.forward(whose, channels=64, size=size)
    if kind == "training":
        return attention.training(whose, batch=16, channels=16, size=size)
    if kind == "nafnet":
        return network.nafnet(size=size)
    if kind == "photo":
        return photos.whole(named, megapixels=float(amount))
    return network.whole(named, network.SIZES[kind], size=size)


def main() -> None:
    """Measure what is asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--rounds", type=int, default=3, help="processes a form; medians are printed")
    parser.add_argument(
        "--size", type=int, default=512, help="of the networks' tile; operator and block take half of it"
    )
    parser.add_argument("--no-large", action="store_true", help="leave KBNet-L out")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[1.0], help="of the photos")
    parser.add_argument("--spandrel-up-to", type=float, default=1.0, metavar="MEGAPIXELS", help="for photos")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--form", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.form:
        print(turns.as_json(turns.measure(work(wanted.form))))
        return
    groups = comparisons(wanted)
    runs: turns.Runs = {}
    for rows in groups:
        forms = list(dict.fromkeys(form for row in rows for form in (row.theirs, row.ours) if form))
        runs |= turns.take_turns(forms, lambda form: [sys.executable, __file__, "--form", form], wanted.rounds)
    rows = [row for group in groups for row in group]
    plural = "" if wanted.rounds == 1 else "s"
    print(f"On {turns.machine()}; {wanted.rounds} round{plural}.\n")
    print(turns.table(turns.cells(rows, runs), markdown=wanted.markdown))
    print(f"\n{turns.spread(runs)}", file=sys.stderr)
    for line in turns.agreement(rows, runs):
        print(line, file=sys.stderr)


if __name__ == "__main__":
    main()
