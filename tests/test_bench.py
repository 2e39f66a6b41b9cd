"""`kbnet bench`, and the mechanics of `benchmarks/`."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import attention, network, photo, run, turns
from benchmarks.turns import Row, Run, Work
from kbnet_cli import bench
from kbnet_cli.bench import measure
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Engine, choose
from kbnet_cli.kernels import compiled, running
from kbnet_cli.kernels.gpu import launching
from kbnet_cli.networks import inference
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from tests import test_cli
from tests.networks import TINY, TINY_GREY, random_network
from tests.test_cli import Call

kbnet = test_cli.kbnet
CPU = ("--device", "cpu", "--size", "64", "--rounds", "2")


def test_the_table_is_on_standard_output(kbnet: Call, random_weights: Path) -> None:
    shown = kbnet("bench", "-w", random_weights, *CPU, "--precision", "fp32")
    assert (shown.code, shown.stderr) == (0, "")
    said = {line[:11].strip(): line[11:].strip() for line in shown.stdout.splitlines()}
    assert list(said) == ["weights", "machine", "kernels", "time", "speed", "peak memory", "at once", "24 MP photo"]
    assert said["weights"] == "random (KBNet-S), fp32 on cpu"
    assert said["time"].endswith(" s for 64×64 pixels (median of 2 rounds)")
    assert said["24 MP photo"].endswith("in the weights' own tiles of 64")


def test_json_is_one_object_that_adds_up(kbnet: Call, random_weights: Path) -> None:
    shown = kbnet("bench", "-w", random_weights, *CPU, "--precision", "bf16", "--json")
    found = json.loads(shown.stdout)
    assert set(found) == {
        "event", "weights", "architecture", "device", "precision", "processor", "threads", "kernels", "torch", "size",
        "seconds", "peak_memory_bytes", "tile", "tiles_at_once",
        "at_once_megapixels_a_second", "photo_seconds", "median_seconds", "megapixels_a_second", "notes",
    }  # fmt: skip
    assert (found["event"], found["precision"], found["size"], found["tile"]) == ("bench", "bf16", 64, 64)
    assert len(found["seconds"]) == 2
    assert found["median_seconds"] == pytest.approx(sum(found["seconds"]) / 2)
    assert found["megapixels_a_second"] == pytest.approx(64**2 / 1e6 / found["median_seconds"])
    if sys.platform == "linux":
        assert 0 <= found["peak_memory_bytes"] < 1e9


def test_the_bundled_weights_are_the_default(kbnet: Call) -> None:
    shown = kbnet("bench", "--size", "32", "--rounds", "1", "--json")
    assert json.loads(shown.stdout)["weights"] == "denoise-small"


@pytest.mark.parametrize(("sizes", "passes"), [(TINY, 1), (TINY_GREY, 3)], ids=["colour", "grey"])
def test_a_photo_takes_its_overlapping_tiles_for_each_pass(sizes: KBNetSSizes, passes: int) -> None:
    engine = Engine(Checkpoint(random_network(sizes), Facts(tile=1000), "made"), choose("cpu", "fp32"))
    steps: list[tuple[int, int]] = []
    found = measure(engine, size=32, rounds=3, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # An eighth of 1000 is shared by neighbours, half of that lies beyond each edge: 4000 + 125 is 4.6 steps of 875.
    tiles_of_photo = 5 * 7
    assert found.photo_seconds * found.at_once_megapixels_a_second == pytest.approx(tiles_of_photo * passes)


def test_on_cuda_the_device_tells_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Checkpoint(random_network(), Facts(), "made"), choose("cpu", "fp32"))
    cuda = torch.device("cuda:0")
    engine.choice = replace(engine.choice, device=cuda)
    monkeypatch.setattr(running, "forget_peak", lambda device: 100 if device == cuda else 0)
    monkeypatch.setattr(running, "peak_bytes", lambda device: 700 if device == cuda else 0)
    assert bench.watch_memory(engine)() == 600


def test_on_cuda_what_sets_a_batch_up_and_records_it_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Checkpoint(random_network(), Facts(), "made"), choose("cpu", "fp32"))
    monkeypatch.setattr(engine, "choice", replace(engine.choice, device=torch.device("cuda:0")))
    monkeypatch.setattr(running, "forget_peak", lambda _device: 0)
    monkeypatch.setattr(running, "peak_bytes", lambda _device: 0)
    monkeypatch.setattr(launching, "reason_against", lambda _device: "there is no GPU")
    calls: list[int] = []
    monkeypatch.setattr(engine, "residual", lambda tile: calls.append(tile.shape[1]))
    steps: list[tuple[int, int]] = []
    found = measure(engine, size=128, rounds=3, progress=lambda done, total: steps.append((done, total)))
    assert (len(found.seconds), steps[-1]) == (3, (bench.DROPPED_ON_GPU + 3,) * 2)
    before, timed = bench.DROPPED_ON_GPU, bench.AT_ONCE_ROUNDS_ON_GPU
    assert calls.count(128) == before + 3 + (before + timed) * found.tiles_at_once


def test_what_runs_on_a_gpu_is_named_and_why_it_is_not_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, found = torch.device("cuda:0"), running.running()
    monkeypatch.setattr(launching, "reason_against", lambda _device: None)
    monkeypatch.setattr(running, "triton_version", lambda: "3.6.0")
    assert found.on(cuda, "bf16") == "Triton 3.6.0 on cuda:0, bf16"
    monkeypatch.setattr(launching, "reason_against", lambda _device: "Triton is not installed")
    assert found.on(cuda, "tf32") == "plain torch on cuda:0, tf32 (Triton is not installed)"
    assert found.on(torch.device("mps"), "fp32") == "plain torch on mps, fp32"


def test_plain_torch_instead_of_kernels_that_fail_is_told(
    kbnet: Call, random_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = inference.ready

    def failing(*words: Any) -> inference.Ready:
        return replace(ready(*words), against_triton="Triton's kernels fail there: out of resource")

    monkeypatch.setattr(inference, "ready", failing)
    monkeypatch.setattr(Engine, "notes", property(lambda engine: (f"slow: {engine._against_triton}",)))
    shown = kbnet("bench", "-w", random_weights, *CPU, "--precision", "fp32", "--json")
    found = json.loads(shown.stdout)
    assert found["kernels"] == "plain torch on cpu, fp32 (Triton's kernels fail there: out of resource)"
    assert found["notes"] == ["slow: Triton's kernels fail there: out of resource"]
    assert found["notes"][0] in kbnet("bench", "-w", random_weights, *CPU).stderr


def test_of_several_devices_the_first_is_measured(kbnet: Call, random_weights: Path) -> None:
    words = ("--device", "cpu,cpu", "--size", "32", "--rounds", "1", "--json")
    assert json.loads(kbnet("bench", "-w", random_weights, *words).stdout)["device"] == "cpu"


def test_a_size_that_does_not_fit_is_wrong_usage(kbnet: Call, random_weights: Path) -> None:
    refused = kbnet("bench", "-w", random_weights, "--size", "65")
    assert (refused.code, refused.stdout) == (2, "")
    assert "use --size 64" in refused.stderr
    assert kbnet("bench", "-w", "nothing.pth").code == 2


def test_an_interruption_is_130(kbnet: Call, random_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "residual", interrupted)
    ended = kbnet("bench", "-w", random_weights, *CPU)
    assert (ended.code, ended.stdout) == (130, "")


def measured(seconds: float, peak_bytes: int | None = None, *samples: float) -> Run:
    return Run(seconds, peak_bytes, samples)


def test_medians_and_ratios_become_a_table() -> None:
    runs = {
        "a/kbnet/1": [measured(0.05, 90_000_000, 1.0), measured(0.1, 80_000_000), measured(9.0, 100_000_000)],
        "a/spandrel/1": [measured(1.5, 1_800_000_000, 1.0, 2.0)],
        "b/kbnet/1": [],
    }
    runs["a/kbnet/1"][0] = measured(0.05, 90_000_000, 1.0, 2.5)
    rows = [
        Row("one", "a/kbnet/1", "a/spandrel/1", "theirs"),
        Row("memory of one", "a/kbnet/1", "a/spandrel/1", "theirs", by="memory"),
        Row("alone", "a/kbnet/1", None, "theirs"),
        Row("failed", "b/kbnet/1", "a/spandrel/1", "theirs"),
    ]
    cells = turns.cells(rows, runs)
    assert cells == [
        ("one", "100 ms", "1.5 s, theirs", "15.0×"),
        ("memory of one", "90 MB", "1.80 GB, theirs", "0.05×"),
        ("alone", "100 ms", "–", "–"),
        ("failed", "–", "1.5 s, theirs", "–"),
    ]
    written = turns.table(cells, markdown=True).splitlines()
    assert written[:3] == [
        "| what | kbnet | compared with | ratio |",
        "|---|---|---|---|",
        "| one | 100 ms | 1.5 s, theirs | 15.0× |",
    ]
    assert turns.table(cells, markdown=False).splitlines()[1] == "one            100 ms  1.5 s, theirs    15.0×"
    assert turns.agreement(rows, runs) == ["a/kbnet/1 is within 2e-01 of a/spandrel/1"]
    assert turns.spread(runs).splitlines()[0] == "a/kbnet/1: 50 ms to 9 s"


def test_forms_take_turns_in_processes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    program = (
        "import os, sys; form, log = sys.argv[1:]; open(log, 'a').write(f'{form} {os.getpid()}\\n')\n"
        "if form == 'broken': sys.exit('no memory')\n"
        'print(\'noise\'); print(\'{"seconds": 0.5, "peak_bytes": null, "samples": [1]}\')'
    )
    runs = turns.take_turns(
        ["a", "broken", "b"], lambda form: [sys.executable, "-c", program, form, str(log)], rounds=2
    )
    lines = [line.split() for line in log.read_text().splitlines()]
    assert [form for form, _ in lines] == ["a", "broken", "b", "a", "b"]
    assert len({process for _, process in lines}) == 5
    assert runs == {"a": [measured(0.5, None, 1.0)] * 2, "broken": [], "b": [measured(0.5, None, 1.0)] * 2}
    assert "broken: failed: no memory" in capsys.readouterr().err


def test_a_process_measures_time_memory_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def work() -> turns.Array:
        done.append("run")
        return np.arange(1000.0)

    monkeypatch.setattr(turns, "ENOUGH_SECONDS", 0)
    found = turns.measure(Work(work, lambda: done.append("warm-up")))
    assert done == ["warm-up", "run", "run"], "the first run only warms up"
    assert found.samples[:2] == (0.0, 3.0)
    assert len(found.samples) == 256
    assert turns.from_json(turns.as_json(found)) == found
    monkeypatch.setattr(turns, "WARM_SECONDS", 0)
    turns.measure(Work(work, lambda: None))
    assert len(done) == 4, "a long run counts at once"


def test_what_is_compared_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "available", compiled.available)  # so that it is put back
    works = [
        (attention.forward("kbnet", channels=8, size=9), attention.forward("spandrel", channels=8, size=9)),
        (
            attention.training("kbnet", batch=2, channels=8, size=9),
            attention.training("spandrel", batch=2, channels=8, size=9),
        ),
        *(
            (network.whole(form, network.BLOCK, size=16), network.whole("spandrel", network.BLOCK, size=16))
            for form in ("kbnet", "kbnet in plain torch")
        ),
        (photo.whole("kbnet", megapixels=0.001), photo.whole("spandrel", megapixels=0.001)),
    ]
    for ours, theirs in works:
        found, expected = ours.run(), theirs.run()
        assert np.abs(expected).max() > 0.01
        # Photos are rounded to 8 bits: a value may fall on the other side.
        np.testing.assert_allclose(found, expected, atol=1.0 if expected.max() > 100 else 1e-4 * np.abs(expected).max())


def test_the_whole_table_has_the_rows_of_the_readme(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def take_turns(forms: list[str], words: Callable[[str], list[str]], rounds: int) -> turns.Runs:
        assert rounds == 2
        asked.append(forms)
        assert words(forms[0])[-2:] == ["--form", forms[0]]
        return {form: [measured(1.0 if "kbnet" in form else 8.0, 10, 1.0)] for form in forms}

    monkeypatch.setattr(turns, "take_turns", take_turns)
    monkeypatch.setattr(run, "has_bf16", lambda: True)
    monkeypatch.setattr(sys, "argv", ["run.py", "--rounds", "2", "--megapixels", "1", "12", "--markdown"])
    run.main()
    printed, told = capsys.readouterr()
    lines = printed.splitlines()
    assert lines[0].startswith("On ")
    assert [line.split("|")[-2].strip() for line in lines[4:]] == ["8.0×"] * 7 + ["1.00×", "8.0×", "8.0×", "–"]
    # Forms of one network take turns with each other, and each is measured once for all its rows.
    assert asked[3] == [
        "network-s/spandrel/512",
        "network-s/kbnet/512",
        "network-s/kbnet in bf16/512",
        "network-s/kbnet in plain torch/512",
        "nafnet/spandrel/512",
    ]
    assert asked[-1] == ["photo/kbnet/12"]
    assert "network-l/kbnet/512 is within 0e+00 of network-l/spandrel/512" in told
    monkeypatch.setattr(sys, "argv", ["run.py", "--rounds", "2", "--only", "network", "--no-large", "--size", "128"])
    asked.clear()
    run.main()
    assert {form.rpartition("/")[2] for forms in asked for form in forms} == {"128"}
    assert not any("network-l" in form for forms in asked for form in forms)


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        ("operator/kbnet/16", (1, 64, 16, 16)),
        ("training/spandrel/8", (16 * 16 * 64 + 16 * 16 * 64 + 16 * 32 * 64 + 32 * 16 * 36 + 32 * 16,)),
        ("block/kbnet/16", (1, 16, 16, 3)),
        ("photo/kbnet/0.001", (26, 39, 3)),
    ],
)
def test_a_form_is_built_from_its_name(form: str, shape: tuple[int, ...]) -> None:
    assert run.work(form).run().shape == shape
