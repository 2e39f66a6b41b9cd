"""`benchmarks/gpu`: its report, its processes, and all of it in a tiny form on the CPU."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import absent, children, published, references, report, run, scale, shapes
from benchmarks.gpu.calls import recorded
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.photos import ROUNDS
from benchmarks.gpu.report import Report, Target, Told
from kbnet_cli.kernels import plain
from kbnet_cli.networks.accelerating import accelerated

TITLES = {part.name: part.title for part in PARTS}


def rehearse(folder: Path, *only: str) -> str:
    words = [sys.executable, str(children.RUN), "--out", str(folder), "--rehearse", "--only", *only]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.stderr == ""
    return done.stdout


@pytest.mark.slow
def test_a_rehearsal_keeps_what_it_finds(tmp_path: Path) -> None:
    shown = rehearse(tmp_path, "machine", "photos")
    facts = json.loads((tmp_path / "gpu.json").read_text())
    assert list(facts["parts"]) == ["machine", "photos"]
    assert [row["precision"] for row in facts["parts"]["photos"]["rows"]] == ["fp32"] * ROUNDS
    assert all(row["MP/s of the photo"] > 0 for row in facts["parts"]["photos"]["rows"])
    assert facts["parts"]["photos"]["notes"] == []
    assert shown.endswith((tmp_path / "gpu.md").read_text() + "\n")
    assert "A rehearsal" in shown


@pytest.mark.slow
def test_everything_runs_in_a_tiny_form(tmp_path: Path) -> None:
    rehearse(tmp_path, *TITLES)
    facts = json.loads((tmp_path / "gpu.json").read_text())
    assert list(facts["parts"]) == list(TITLES)
    assert [note for part in facts["parts"].values() for note in part["notes"] if note.startswith("**")] == []
    told = {name for name, part in facts["parts"].items() if part["rows"]}
    assert told == set(TITLES) - {"warming", "shapes_warming"}
    assert all(row["right"] == "yes" for row in facts["parts"]["agreement"]["rows"])
    assert {"ratio to float32", "ratio to bf16", "example, PSNR", "disk, MP/s"} <= set(facts["figures"])


def test_targets_are_judged_both_ways() -> None:
    least, most = Target("speed", "speed", 12, 25), Target("memory", "memory", 0.25, 0.1, most=True)
    verdicts = [least.judged({"speed": value})["reached"] for value in (11, 12, 25)]
    verdicts += [most.judged({"memory": value})["reached"] for value in (0.3, 0.2, 0.1)]
    assert verdicts == ["no", "yes", "aim reached"] * 2
    assert least.judged({})["reached"] == "not measured"


def test_ratios_are_of_the_best_speeds(tmp_path: Path) -> None:
    found = Report(tmp_path, TITLES, "now")
    for ours, theirs in ((10.0, 1.0), (30.0, 2.0), (20.0, 1.5)):
        figures = {"small kbnet, bf16, MP/s": ours, "small published bf16, MP/s": theirs}
        found.add("small", Told(({"form": "a|b", "MP/s": ours},), figures))
    assert found.figures["ratio to bf16"] == 15
    assert "| a/b | 30 |" in found.markdown()
    assert json.loads((tmp_path / "gpu.json").read_text())["figures"]["ratio to bf16"] == 15


def test_a_line_says_what_was_told() -> None:
    told = Told(({"form": "x", "ms": 1.5, "none": None},), {"speed": 2.0}, ("a note",))
    line = report.as_line("small", 3, told, begins="bf16")
    assert report.is_line(line)
    assert not report.is_line("a warning of a library")
    assert report.from_line(line) == ("small", 3, told, "bf16")


def test_a_broken_process_is_followed_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 1 breaks its process: 0 and 2 are told all the same."""
    script = tmp_path / "breaks.py"
    script.write_text(
        "import json, sys\n"
        "first, step = map(int, sys.argv[-2:])\n"
        "for number in range(first, 3, step):\n"
        "    told = {'rows': [{'item': number}], 'figures': {}, 'notes': []}\n"
        "    begins = {'part': 'small', 'item': number, 'begins': f'item {number}', 'told': told | {'rows': []}}\n"
        "    print(json.dumps(begins))\n"
        "    if number == 1:\n"
        "        sys.stdout.flush()\n"
        "        sys.exit(3)\n"
        "    print(json.dumps({'part': 'small', 'item': number, 'begins': '', 'told': told}))\n"
    )
    monkeypatch.setattr(children, "RUN", script)
    found = Report(tmp_path, TITLES, "now")
    runner = children.Runner(found, dict(os.environ), threading.Lock(), tmp_path / "log")
    runner.run([part for part in PARTS if part.name == "small"], deadline=time.monotonic() + 60)
    assert found.parts["small"]["rows"] == [{"item": 0}, {"item": 2}]
    assert found.parts["small"]["notes"] == ["**“item 1” ended its process**"]


def test_a_late_process_is_stopped(tmp_path: Path) -> None:
    found = Report(tmp_path, TITLES, "now")
    runner = children.Runner(found, dict(os.environ), threading.Lock(), tmp_path / "log")
    runner.run([PARTS[0]], deadline=time.monotonic())
    assert found.parts["machine"]["notes"] == ["stopped during “the start”: its time was over"]


def test_stand_ins_can_be_imported_caught_and_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "OPTIONAL", ("not_installed_anywhere", "numpy"))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    assert absent.missing() == ("not_installed_anywhere",)
    absent.stand_in()
    import not_installed_anywhere  # type: ignore[import-not-found]
    import not_installed_anywhere.within  # type: ignore[import-not-found]

    assert issubclass(not_installed_anywhere.within.Problem, Exception)
    assert issubclass(not_installed_anywhere.within.Problem.Special, Exception)
    assert absent.missing() == ("not_installed_anywhere",)
    for name in ("not_installed_anywhere", "not_installed_anywhere.within"):
        del sys.modules[name]


def test_the_published_form_written_anew_is_the_operator() -> None:
    maps, mixture = torch.randn(2, 8, 5, 7), torch.randn(2, 32, 5, 7)
    weight, bias = torch.randn(1, 32, 8 * 4 * 9), torch.randn(1, 32, 8)
    expected = plain.kernel_basis_attention(*(x.double() for x in (maps, mixture, weight, bias)), group_size=4)
    anew = published.whole_kernels(maps.double(), mixture.double(), weight.double(), bias.double(), 4)
    assert torch.allclose(anew, expected, rtol=1e-10)
    pixels = maps.permute(0, 2, 3, 1), mixture.permute(0, 2, 3, 1)
    exact = references.attention(*pixels, weight, bias, 4).permute(0, 3, 1, 2)
    assert torch.allclose(exact, expected, rtol=1e-10)


def test_calls_are_listened_to_and_shapes_known() -> None:
    tiny = scale.TINY
    network = accelerated(scale.random_small(tiny.small), "fp32", torch.device("cpu"))
    if torch.cuda.is_available():
        network = accelerated(scale.random_small(tiny.small), "fp32", torch.device("cuda"))
    device = next(network.parameters()).device
    with torch.inference_mode(), recorded() as calls:
        network(tiny.pictures(1).to(device))
    names = [call.name for call in calls]
    assert "attention.filtered adds times" in names
    filtered = next(call for call in calls if call.name.startswith("attention.filtered"))
    pixels, channels = 4 * 4, 16
    assert filtered.operations == pixels * (2 * 32 * 37 * channels + 2 * 36 * channels)
    assert filtered.bytes >= 4 * pixels * (3 * channels + 32)
    with torch.inference_mode():
        usual = shapes.default_shape(filtered)
    near = shapes.neighbours(usual)
    assert usual not in near
    assert len(near) > 4
    assert len(set(near)) == len(near)


def test_processes_share_the_time_and_know_a_rehearsal() -> None:
    assert run.REHEARSAL == scale.REHEARSAL
    assert sum(part.share for part in PARTS) == pytest.approx(1)
    alone = sum(part.seconds for part in PARTS if not part.share)
    assert alone + max(part.seconds for part in PARTS if part.share) < 700
