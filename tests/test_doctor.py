"""The doctor: what it finds, and that nothing that is broken stops it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from kbnet_cli import catalogue, doctor, machine
from kbnet_cli.doctor import Finding, Look, Probe, examine
from kbnet_cli.errors import WeightsError
from kbnet_cli.kernels import compiled, running
from kbnet_cli.networks import agreement, compiling
from kbnet_cli.networks.kbnet_l import KBNetL
from kbnet_cli.networks.kbnet_s import KBNetS
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet
needs_compiled = pytest.mark.skipif(not compiled.available(), reason="this installation has no compiled form")


def row(name: str) -> Finding:
    return next(probe for probe in doctor.probes() if probe.name == name).finding()


def test_a_machine_that_can_run_the_tests_is_well(kbnet: Call) -> None:
    shown = kbnet("doctor")
    assert (shown.code, shown.stderr) == (0, "")
    names = (
        "torch",
        "processor",
        "kernels",
        "devices",
        "auto",
        "memory",
        "weights denoise-small",
        "camera raw",
        "HEIC",
    )
    for name in names:
        assert f" {name} " in shown.stdout
    assert machine.processor() in shown.stdout
    assert "--device auto is " in shown.stdout


def test_json_is_one_object(kbnet: Call) -> None:
    shown = kbnet("doctor", "--json")
    assert shown.stdout.count("\n") == 1
    event = json.loads(shown.stdout)
    assert (event["event"], event["well"]) == ("doctor", True)
    assert [finding["name"] for finding in event["findings"]] == [probe.name for probe in doctor.probes()]
    assert {tuple(finding) for finding in event["findings"]} == {("name", "state", "says", "hint")}


def test_a_probe_that_fails_is_a_note_and_the_others_go_on(kbnet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Look:
        raise OSError("libraw.so: wrong ELF class\nmore")

    monkeypatch.setattr(doctor, "_camera_raw", broken)
    shown = kbnet("doctor")
    assert shown.code == 0
    assert "note  camera raw             failed: OSError: libraw.so: wrong ELF class" in shown.stdout
    assert "→ install kbnet again" in shown.stdout
    assert "libheif" in shown.stdout, "the row behind it"


def test_a_broken_torch_is_a_problem_of_its_rows(kbnet: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("kbnet_cli.kernels", "kbnet_cli.engine"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delattr("kbnet_cli.kernels")
    monkeypatch.delattr("kbnet_cli.engine", raising=False)
    shown = kbnet("doctor", "--json")
    assert shown.code == 2
    states = {finding["name"]: finding["state"] for finding in json.loads(shown.stdout)["findings"]}
    assert states["torch"] == states["auto"] == "problem"
    assert states["camera raw"] == states["kbnet"] == "ok"


def test_an_error_with_a_hint_keeps_it() -> None:
    def refused() -> Look:
        raise WeightsError("no such weights", hint="buy some")

    assert Probe("weights", refused, vital=True).finding() == Finding(
        "weights", "problem", "no such weights", "buy some"
    )
    assert Probe("weights", refused).finding().state == "note"


def test_without_the_compiled_form_it_says_so(
    kbnet: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, identity_weights: Path
) -> None:
    monkeypatch.setattr(compiled, "available", lambda: False)
    shown = kbnet("doctor")
    assert shown.code == 0
    assert "plain torch (this installation has no compiled form)" in shown.stdout
    assert "install a wheel made for this system" in shown.stdout
    assert row("operator test").says == "nothing to compare: the plain form runs alone"
    write_picture(tmp_path / "a.png")
    verbose = kbnet("denoise", tmp_path / "a.png", "-w", identity_weights, "--device", "cpu", "-v").stderr
    assert "kernels: plain torch (this installation has no compiled form)\n" in verbose


@needs_compiled
def test_the_compiled_form_is_named_and_told_with_v(kbnet: Call, tmp_path: Path, identity_weights: Path) -> None:
    assert row("kernels").says.startswith(f"compiled, {compiled.forms()[0]}")
    write_picture(tmp_path / "a.png")
    words = ("denoise", tmp_path / "a.png", "-w", identity_weights, "--device", "cpu")
    assert f"kernels: compiled, {compiled.forms()[0]}, " in kbnet(*words, "-v", "--precision", "fp32").stderr
    assert "kernels: " not in kbnet(*words, "--overwrite").stderr


@needs_compiled
@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_kernels_that_compute_something_else_are_a_problem(
    factor: float, kbnet: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert running.disagreement() < 1e-5
    right = compiled.kernel_basis_attention
    monkeypatch.setattr(compiled, "kernel_basis_attention", lambda *inputs, **words: factor * right(*inputs, **words))
    shown = kbnet("doctor")
    assert shown.code == 2
    assert "problem  operator test " in shown.stdout
    assert "pictures would be wrong" in shown.stdout


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_networks_that_compute_something_else_are_a_problem(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    assert row("network test").state == "ok"
    right = compiling.compiled

    def wrong(network: KBNetS | KBNetL, form: str | None) -> Callable[[Tensor], Tensor]:
        return lambda picture: factor * right(network, form)(picture)

    monkeypatch.setattr(agreement, "compiled", wrong)
    assert row("network test").state == "problem"


def test_broken_weights_are_a_problem(kbnet: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "denoise-small.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(catalogue, "weights_folder", lambda: tmp_path)
    shown = kbnet("doctor")
    assert shown.code == 2
    assert "problem  weights denoise-small" in shown.stdout


def test_little_memory_and_unused_cores_are_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda: machine.Memory(8_000_000_000, 300_000_000))
    monkeypatch.setattr(machine, "cores", lambda: 64 * running.running().threads)
    assert (row("memory").state, row("memory").says) == ("note", "0.3 of 8.0 GB free")
    assert row("processor").state == "note"
    assert "OMP_NUM_THREADS" in row("processor").hint


def test_what_is_optional_and_not_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    monkeypatch.setenv("PATH", "")
    assert (row("pylibjxl").state, row("exiftool").state) == ("note", "note")
    assert "kbnet[jxl]" in row("pylibjxl").hint
    assert examine().well


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_is_seen_above_what_was_held_and_after_it_is_given_back() -> None:
    def hold(megabytes: int) -> None:
        np.ones(megabytes * 1_000_000, np.uint8)

    hold(300)
    watched = machine.PeakMemory()
    hold(100)
    found = watched.bytes_above_start()
    assert found is not None
    assert 0.9e8 < found < 1.6e8, "the 300 MB before do not count, the 100 MB do though they are gone"


def test_a_system_that_forgets_no_peak_still_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "OWN_PEAK", tmp_path / "none" / "clear_refs")
    watched = machine.PeakMemory()
    found = watched.bytes_above_start()
    assert found is None if sys.platform == "win32" else found is not None and found >= 0
