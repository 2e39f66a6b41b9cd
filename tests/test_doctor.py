"""The doctor: what it finds, and that nothing that is broken stops it."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from kbnet_cli import catalogue, doctor, machine
from kbnet_cli.choosing import Choice
from kbnet_cli.errors import WeightsError
from kbnet_cli.findings import Finding, Look, Probe
from kbnet_cli.kernels import compiled, devices, running
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.networks import agreement, compiling
from kbnet_cli.networks.kbnet_l import KBNetL
from kbnet_cli.networks.kbnet_s import KBNetS
from kbnet_cli.settings import Settings, Survey
from tests import test_cli
from tests.networks import random_network
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet
needs_compiled = pytest.mark.skipif(not compiled.available(), reason="this installation has no compiled form")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask no Hub: the tests of the row that does are in `test_doctor_places`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the two rows that compute, for tests that look at others."""
    monkeypatch.setattr(doctor, "_network_test", lambda: Look("left out"))
    monkeypatch.setattr(doctor, "_tile_test", lambda _settings: Look("left out"))


def row(name: str, **settings: str) -> Finding:
    probes = doctor.probes(Survey(Settings(**settings)))  # type: ignore[arg-type]
    return next(probe for probe in probes if probe.name == name).finding()


@pytest.mark.usefixtures("quick")
def test_each_finding_is_a_row(kbnet: Call) -> None:
    shown = kbnet("doctor")
    assert (shown.code, shown.stderr) == (0, "")
    names = (
        "settings",
        "torch",
        "processor",
        "kernels",
        "device cpu",
        "device cuda",
        "device xpu",
        "device mps",
        "chosen",
        "tile test",
        "memory",
        "weights denoise-small",
        "weights folder",
        "Hugging Face cache",
        "Hub",
        "camera raw",
        "HEIC",
    )
    for name in names:
        assert f" {name} " in shown.stdout
    assert machine.processor() in shown.stdout
    assert "--device auto is " in shown.stdout


def test_a_machine_that_can_run_the_tests_is_well_and_json_is_one_object(kbnet: Call) -> None:
    shown = kbnet("doctor", "--json")
    assert shown.stdout.count("\n") == 1
    event = json.loads(shown.stdout)
    assert (shown.code, shown.stderr, event["event"], event["well"]) == (0, "", "doctor", True)
    says = {finding["name"]: finding["says"] for finding in event["findings"]}
    assert says["network test"].startswith("small networks agree with their plain modules to ")
    assert ": agrees with plain torch on the CPU to " in says["tile test"]
    assert [finding["name"] for finding in event["findings"]] == [probe.name for probe in doctor.probes(Survey())]
    assert {tuple(finding) for finding in event["findings"]} == {("name", "state", "says", "hint")}


@pytest.mark.usefixtures("quick")
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
    for name in [
        name for name in sys.modules if name.startswith(("kbnet_cli.kernels", "kbnet_cli.engine", "kbnet_cli.choosing"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delattr("kbnet_cli.kernels")
    monkeypatch.delattr("kbnet_cli.engine", raising=False)
    monkeypatch.delattr("kbnet_cli.choosing", raising=False)
    shown = kbnet("doctor", "--json")
    assert shown.code == 2
    states = {finding["name"]: finding["state"] for finding in json.loads(shown.stdout)["findings"]}
    assert states["torch"] == states["chosen"] == states["tile test"] == "problem"
    assert states["camera raw"] == states["kbnet"] == states["weights folder"] == "ok"


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
@pytest.mark.usefixtures("quick")
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
    right = compiling.compiled

    def wrong(network: KBNetS | KBNetL, form: str | None) -> Callable[[Tensor], Tensor]:
        return lambda picture: factor * right(network, form)(picture)

    monkeypatch.setattr(agreement, "compiled", wrong)
    assert row("network test").state == "problem"


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_what_is_optional_and_not_there_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    monkeypatch.setenv("PATH", "")
    assert (row("pylibjxl").state, row("exiftool").state) == ("note", "note")
    assert "kbnet[jxl]" in row("pylibjxl").hint
    assert doctor.examine(Survey()).well


@pytest.mark.parametrize(("precision", "how"), [("fp32", "to [0-9]e-0[6-9]$"), ("bf16", "to [678][0-9] dB PSNR$")])
def test_a_tile_on_the_chosen_device_agrees_with_plain_torch(precision: str, how: str) -> None:
    found = row("tile test", device="cpu", precision=precision)
    assert found.state == "ok", found.says
    assert f"denoise-small, 96×96 pixels on cpu in {precision}: agrees" in found.says
    assert re.search(how, found.says)


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.001), ("bf16", 1.2), ("fp32", float("nan"))])
def test_a_tile_that_comes_out_otherwise_is_a_problem(
    precision: str, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = agreement.exact_residual
    monkeypatch.setattr(agreement, "exact_residual", lambda network, tile: factor * right(network, tile))
    monkeypatch.setattr(doctor, "TILE", 32)
    found = row("tile test", device="cpu", precision=precision)
    assert found.state == "problem"
    assert "pictures would be wrong" in found.says


def test_the_exact_residual_uses_no_compiled_form_and_leaves_the_network_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = random_network()
    tiles = np.random.default_rng(0).random((1, 32, 48, 3), np.float32)
    with torch.inference_mode():
        batch = torch.from_numpy(tiles).permute(0, 3, 1, 2).contiguous()
        expected = (network(batch) - batch).permute(0, 2, 3, 1).numpy()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the compiled form ran")

    monkeypatch.setattr(compiled, "kernel_basis_attention", refuse)
    found = agreement.exact_residual(network, tiles)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}


def test_the_doctor_looks_at_the_device_and_precision_that_are_set(
    kbnet: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_network_test", lambda: Look("left out: it takes seconds"))
    monkeypatch.setattr(doctor, "TILE", 32)
    monkeypatch.setenv("KBNET_PRECISION", "bf16")
    shown = kbnet("doctor", "--device", "cpu")
    assert shown.code == 0
    assert "--device cpu is cpu (asked for), --precision bf16 is bf16" in shown.stdout
    assert "32×32 pixels on cpu in bf16" in shown.stdout
    shown = kbnet("doctor", "--device", "cuda:99", "--json")
    assert shown.code == 2
    states = {finding["name"]: finding["state"] for finding in json.loads(shown.stdout)["findings"]}
    assert states["chosen"] == states["tile test"] == "problem"
    assert states["settings"] == states["camera raw"] == states["device cpu"] == "ok"
    assert row("device cpu", device="cuda:99").says.endswith(": not used, because cuda:99 is asked for")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_torch_cannot_use_is_told_with_torchs_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_driver() -> None:
        raise RuntimeError("Found no NVIDIA driver on your system.\nmore")

    driver = tmp_path / "version"
    monkeypatch.setattr(devices, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr(devices, "NVIDIA_SIGNS", ())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: False)
    without = f"torch {torch.__version__} is built without CUDA"
    assert (row("device cuda").state, row("device cuda").says) == ("ok", f"not used: {without}")
    driver.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.129.03  Thu Oct 19 18:56:32 UTC 2023\n")
    assert devices.nvidia_driver() == "535.129.03"
    found = row("device cuda")
    assert (found.state, found.says) == ("note", f"not used, though there seems to be one: {without}")
    assert found.hint.startswith("install a torch that is built for CUDA: ")
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", no_driver)
    assert row("device cuda").says.endswith("Found no NVIDIA driver on your system.")
    assert "nvidia-smi" in row("device cuda").hint
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    assert row("device cuda").says.endswith("no GPU that torch can use")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert row("device cuda") == Finding(
        "device cuda", "ok", "not used: CUDA_VISIBLE_DEVICES is empty, which leaves no GPU", ""
    )


def test_gpus_that_are_there_are_named_and_used_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Fast One", total_memory=80e9, major=9, minor=0)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _number: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((60 + number) * 10**9, 80 * 10**9))
    monkeypatch.setattr(devices, "fault", lambda _device: None)
    monkeypatch.setattr(devices, "nvidia_driver", lambda: "575.1")
    one = "Fast One, 80 GB, compute capability 9.0"
    assert row("device cuda").says == (
        f"0: {one}; 1: {one}; free: 60.0 of 80.0 GB, 61.0 of 80.0 GB; driver 575.1: used"
    )
    assert row("device cpu").says.endswith(": not used, because cuda:0 is")
    assert row("chosen", device="cuda").says == (
        "--device cuda is cuda:0,cuda:1 (all 2 GPUs), --precision auto is bf16 (tensor cores multiply it)"
    )
    assert row("device cuda", device="cpu").says.endswith(": not used, because cpu is")
    assert row("device cpu", device="cpu").says.endswith(": used")


@pytest.mark.parametrize(("precision", "factor"), [("fp32", 1.0), ("bf16", 1.0), ("bf16", 1.1), ("fp32", float("nan"))])
def test_the_kernel_in_triton_is_compared_on_a_gpu_that_is_chosen(
    precision: Precision, factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    attention = pytest.importorskip("kbnet_cli.kernels.gpu.attention")
    right, device = attention.filtered, "cuda:0" if torch.cuda.is_available() else "cpu"  # where it is interpreted
    chosen = Choice(torch.device(device), precision, "made up")
    monkeypatch.setattr(doctor, "_gpus", lambda _settings: (chosen,))
    monkeypatch.setattr(running, "reason_against_triton", lambda _device: None)
    monkeypatch.setattr(attention, "filtered", lambda *inputs, **words: factor * right(*inputs, **words))
    found = row("operator test")
    if factor == 1:
        assert found.state == "ok", found.says
    else:
        assert found.state == "problem"
        assert f"the kernel in Triton on {device} agrees with plain torch in {precision} to " in found.says


def test_other_gpus_are_told_by_what_torch_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(error: Exception) -> Callable[[], None]:
        def start() -> None:
            raise error

        return start

    def says(name: str) -> str:
        return next(kind.says for kind in devices.kinds() if kind.name == name)

    monkeypatch.setattr(torch.xpu, "init", fails(AssertionError("Torch not compiled with XPU enabled")))
    assert says("xpu") == f"torch {torch.__version__} is built without XPU"
    monkeypatch.setattr(torch.xpu, "init", fails(RuntimeError("No XPU devices are available.")))
    assert says("xpu") == "No XPU devices are available."
    monkeypatch.setattr(torch.xpu, "init", lambda: None)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert says("xpu") == "no GPU that torch can use"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 1)
    monkeypatch.setattr(torch.xpu, "get_device_name", lambda _number: "Arc")
    assert says("xpu") == "Arc"
    monkeypatch.setattr(sys, "platform", "linux")
    assert says("mps") == "only on Macs"
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    assert says("mps") == f"torch {torch.__version__} is built without MPS"
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "too old" in says("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert says("mps") == "this Mac's GPU"


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
