"""Which devices and which precision are chosen, and what is said of those that are not: by torch's answers made up."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet_cli.choosing import Choice, choose, see_to
from kbnet_cli.errors import DeviceError
from kbnet_cli.kernels import compiled, devices
from kbnet_cli.kernels.float32 import Precision, settle_float32
from kbnet_cli.settings import devices_of
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet
H100, A100, T4, GTX = ("H100", 9, 0), ("A100", 8, 0), ("T4", 7, 5), ("GTX 980", 5, 2)
VERSION = torch.__version__


@dataclass
class Machine:
    """A computer whose GPUs, and what torch says of them, are made up."""

    patch: pytest.MonkeyPatch

    def __post_init__(self) -> None:
        self.patch.delenv(devices.VISIBLE, raising=False)
        self.patch.setattr(devices, "NVIDIA_SIGNS", ())
        self.patch.setattr("sys.platform", "linux")
        self.patch.setattr(torch.version, "hip", None)
        self.patch.setattr(compiled, "bfloat16_pays", lambda: False)
        self.without("cuda")
        self.patch.setattr(torch.xpu, "init", _raises(AssertionError("Torch not compiled with XPU enabled")))

    def without(self, _cuda: str) -> None:
        self.patch.setattr(torch.backends.cuda, "is_built", lambda: False)

    def fails(self, reason: str) -> None:
        """Have torch, built for CUDA, say why it does not start."""
        self.patch.setattr(torch.backends.cuda, "is_built", lambda: True)
        self.patch.setattr(torch.cuda, "init", _raises(RuntimeError(reason)))

    def has(self, *gpus: tuple[str, int, int], faults: dict[int, str] | None = None) -> None:
        """Have GPUs by name and compute capability; by their numbers what is wrong with them."""
        found = [SimpleNamespace(name=name, major=major, minor=minor, total_memory=16e9) for name, major, minor in gpus]

        def properties(device: torch.device | int) -> SimpleNamespace:
            return found[device if isinstance(device, int) else device.index]

        self.patch.setattr(torch.backends.cuda, "is_built", lambda: True)
        self.patch.setattr(torch.cuda, "init", lambda: None)
        self.patch.setattr(torch.cuda, "is_available", lambda: True)
        self.patch.setattr(torch.cuda, "device_count", lambda: len(found))
        self.patch.setattr(torch.cuda, "get_device_properties", properties)
        self.patch.setattr(devices, "fault", lambda device: (faults or {}).get(device.index))

    def shows(self, sign: Path) -> None:
        """Have a sign of an NVIDIA GPU that programs can reach."""
        sign.touch()
        self.patch.setattr(devices, "NVIDIA_SIGNS", (sign,))


def _raises(error: Exception) -> Callable[[], None]:
    def start() -> None:
        raise error

    return start


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def refused(device: str, precision: str = "auto") -> DeviceError:
    with pytest.raises(DeviceError) as found:
        choose(device, precision)
    assert found.value.hint, "every error tells how to go on"
    assert "\n" not in found.value.message + found.value.hint
    return found.value


def test_auto_is_the_cpu_where_no_gpu_is_and_says_why(machine: Machine) -> None:
    found = choose("auto", "auto")
    assert (found.name, found.reason) == ("cpu", f"no GPU: torch {VERSION} is built without CUDA")
    assert (found.precision, found.precision_reason) == ("fp32", "the processor has no tiles for bf16, AMX")
    assert found.warning == ""
    machine.fails("Found no NVIDIA driver on your system.\nmore")
    assert choose("auto", "auto").reason == "no GPU: Found no NVIDIA driver on your system."
    machine.patch.setattr(compiled, "bfloat16_pays", lambda: True)
    found = choose("auto", "auto")
    assert (found.precision, found.precision_reason) == ("bf16", "the processor has tiles for it, AMX")


def test_auto_is_the_first_gpu_by_name(machine: Machine) -> None:
    machine.has(H100)
    found = choose("auto", "auto")
    assert (found.name, found.reason, found.warning) == ("cuda:0", "H100", "")
    assert (found.precision, found.precision_reason) == ("bf16", "tensor cores multiply it")
    machine.has(H100, A100)
    found = choose("auto", "fp32")
    assert (found.name, found.reason) == ("cuda:0", "H100, one of 2 GPUs: --device cuda takes all")
    assert found.precision_reason == "", "it was asked for"


def test_auto_goes_past_gpus_that_do_not_compute_and_warns(machine: Machine) -> None:
    machine.has(GTX, H100, faults={0: "no kernels"})
    found = choose("auto", "auto")
    assert (found.name, found.precision) == ("cuda:1", "bf16")
    assert found.warning == "cuda:0 (GTX 980) does not work and is not used: no kernels"
    machine.has(GTX, faults={0: "no kernels"})
    found = choose("auto", "auto")
    assert (found.name, found.reason) == ("cpu", "no GPU that works")
    assert found.warning == "cuda:0 (GTX 980) does not work and is not used: no kernels"


def test_an_idle_gpu_is_a_warning_and_no_answer_to_those_who_ask_for_the_cpu(
    machine: Machine, tmp_path: Path, kbnet: Call, identity_weights: Path
) -> None:
    machine.shows(tmp_path / "nvidia0")
    warning = choose("auto", "auto").warning
    assert warning.startswith(f"an NVIDIA GPU is idle: torch {VERSION} is built without CUDA (install a torch that is")
    assert choose("cpu", "auto").warning == ""
    write_picture(tmp_path / "a.png")
    words = ("denoise", tmp_path / "a.png", "--overwrite", "-w", identity_weights)
    assert f"warning: {warning}" in " ".join(kbnet(*words).stderr.split())
    assert "GPU is idle" not in kbnet(*words, "--device", "cpu").stderr
    assert kbnet(*words, "-q").stderr == ""
    machine.fails("The NVIDIA driver on your system is too old (found version 11040).")
    assert "too old (found version 11040). (update NVIDIA's driver" in choose("auto", "auto").warning
    machine.fails("No CUDA GPUs are available")
    machine.patch.setenv(devices.VISIBLE, "")
    assert choose("auto", "auto").warning == "", "somebody has hidden it"


@pytest.mark.parametrize(
    ("reason", "visible", "message", "hint"),
    [
        ("Found no NVIDIA driver on your system.", None, "Found no NVIDIA driver", "install NVIDIA's driver"),
        ("Found no NVIDIA driver on your system.", "", "Found no NVIDIA driver", "install NVIDIA's driver"),
        ("The NVIDIA driver on your system is too old (found 1).", None, "is too old", "update NVIDIA's driver"),
        ("No CUDA GPUs are available", None, "No CUDA GPUs are available", "nvidia-smi"),
        ("No CUDA GPUs are available", " ", "CUDA_VISIBLE_DEVICES is empty", "unset CUDA_VISIBLE_DEVICES"),
        ("No CUDA GPUs are available", "7", "CUDA_VISIBLE_DEVICES is '7', which leaves no GPU", "unset"),
    ],
)
def test_a_gpu_that_is_not_there_is_an_error_with_the_reason(
    reason: str, visible: str | None, message: str, hint: str, machine: Machine
) -> None:
    machine.fails(reason)
    if visible is not None:
        machine.patch.setenv(devices.VISIBLE, visible)
    for device in ("cuda", "cuda:1", "cuda:0,cuda:1"):
        error = refused(device)
        assert error.message.startswith(f"device {device} is not there: ")
        assert message in error.message
        assert hint in error.hint


def test_a_torch_without_a_kind_of_device_says_where_to_get_another(machine: Machine) -> None:
    error = refused("cuda")
    assert error.message == f"device cuda is not there: torch {VERSION} is built without CUDA"
    assert error.hint == "install a torch that is built for CUDA: pytorch.org/get-started tells the command"
    assert "is built without XPU" in refused("xpu:0").message
    assert refused("mps").message == "device mps is not there: only on Macs"
    machine.patch.setattr("sys.platform", "darwin")
    assert "no such torch for Macs" in refused("cuda").hint
    machine.patch.setattr(torch.backends.mps, "is_built", lambda: True)
    machine.patch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "too old" in refused("mps").message


def test_a_number_that_is_not_there_names_those_that_are(machine: Machine) -> None:
    machine.has(H100, A100)
    error = refused("cuda:0,cuda:7")
    assert error.message == "device cuda:7 is not there: there is cuda:0 (H100), cuda:1 (A100)"
    assert "counted from 0" in error.hint


def test_lists_and_all_gpus(machine: Machine) -> None:
    machine.has(H100, A100, A100)
    found = choose("cuda", "auto")
    assert (found.name, found.reason) == ("cuda:0,cuda:1,cuda:2", "all 3 GPUs")
    assert found.devices == tuple(torch.device("cuda", number) for number in range(3))
    assert found.device == found.devices[0]
    assert found.on(found.devices[2]).devices == (torch.device("cuda:2"),)
    assert (found.first.name, found.first.precision) == ("cuda:0", "bf16")
    assert found.first.reason == "the first of 3: only photos go to several"
    found = choose("cuda:2,cuda:0", "auto")
    assert (found.name, found.reason) == ("cuda:2,cuda:0", "asked for")
    machine.has(H100)
    assert (choose("cuda", "auto").name, choose("cuda", "auto").reason) == ("cuda:0", "asked for")
    assert choose("cpu,cpu", "fp32").devices == (torch.device("cpu"),) * 2
    assert choose("cpu", "fp32").first == Choice(torch.device("cpu"), "fp32", "asked for")


def test_the_first_of_those_asked_for_has_to_compute(machine: Machine) -> None:
    machine.has(H100, GTX, faults={1: "no kernels"})
    error = refused("cuda:1")
    assert error.message == "device cuda:1 does not work: no kernels"
    assert "--device cpu" in error.hint
    assert choose("cuda:0,cuda:1", "fp32").name == "cuda:0,cuda:1", "its own process will find out"
    with pytest.raises(DeviceError, match="cuda:1 does not work"):
        see_to(torch.device("cuda:1"))
    see_to(torch.device("cpu"))


def test_a_gpu_that_torch_has_no_kernels_for_is_named(machine: Machine) -> None:
    fault = devices.fault
    machine.has(GTX)
    assert fault(torch.device("cpu")) is None

    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    machine.patch.setattr(torch, "ones", missing)
    wanted = f"torch {VERSION} is not built for GTX 980 (compute capability 5.2)"
    assert fault(torch.device("cuda:0")) == wanted
    machine.patch.setattr(torch, "ones", _fails_with_memory)
    assert fault(torch.device("cuda:0")) == "CUDA out of memory"
    nothing = torch.zeros(2)
    machine.patch.setattr(torch, "ones", lambda *_, **__: nothing)
    assert fault(torch.device("cuda:0")) == "it computes something else"


def _fails_with_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(("gpus", "fits"), [([H100], True), ([A100, H100], True), ([H100, T4], False), ([T4], False)])
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_precision_has_to_be_possible_on_all_devices(
    gpus: list[tuple[str, int, int]], fits: bool, precision: Precision, machine: Machine
) -> None:
    machine.has(*gpus)
    assert choose("cuda", "fp32").precision == "fp32"
    settled = choose("cuda", "auto")
    if fits:
        assert choose("cuda", precision).precision == precision
        assert settled.precision == "bf16"
    else:
        number = len(gpus) - 1
        error = refused("cuda", precision)
        assert error.message.startswith(f"no {precision} on cuda:{number}: T4 (compute capability 7.5) ")
        assert (settled.precision, settled.precision_reason) == (
            "fp32",
            f"no bf16 on cuda:{number}: T4 (compute capability 7.5) only emulates it, slower than fp32",
        )


def test_tf32_is_for_nvidias_gpus_and_bf16_is_chosen_nowhere_else_untried(machine: Machine) -> None:
    assert refused("cpu", "tf32").message == "no tf32 on cpu: it is a rounding of NVIDIA's tensor cores"
    assert choose("cpu", "bf16").precision == "bf16"
    machine.has(("MI300", 9, 4))
    machine.patch.setattr(torch.version, "hip", "6.3")
    assert "NVIDIA" in refused("cuda", "tf32").message
    found = choose("cuda", "auto")
    assert (found.precision, found.precision_reason) == ("fp32", "bf16 is untried on GPUs of AMD")
    assert choose("cuda", "bf16").precision == "bf16"
    machine.without("cuda")
    machine.patch.setattr(torch.xpu, "init", lambda: None)
    machine.patch.setattr(torch.xpu, "is_available", lambda: True)
    machine.patch.setattr(torch.xpu, "device_count", lambda: 2)
    machine.patch.setattr(torch.xpu, "get_device_name", lambda number: f"Arc {number}")
    found = choose("auto", "auto")
    assert (found.name, found.reason) == ("xpu:0", "Arc 0, one of 2 GPUs: --device xpu takes all")
    assert (found.precision, found.precision_reason) == ("fp32", "bf16 is untried on xpu")
    assert choose("xpu", "bf16").name == "xpu:0,xpu:1"


NUMBERS = st.lists(st.integers(0, 20), min_size=1, max_size=5)


@settings(deadline=None)
@given(NUMBERS, st.sampled_from(["cuda", "xpu"]))
def test_a_list_of_gpus_is_taken_as_it_stands_unless_one_is_there_twice(numbers: list[int], kind: str) -> None:
    names = tuple(f"{kind}:{number}" for number in numbers)
    if len(set(numbers)) == len(numbers):
        assert devices_of(",".join(names)) == names
    else:
        with pytest.raises(DeviceError, match="names a GPU twice"):
            devices_of(",".join(names))


@settings(deadline=None)
@given(st.integers(1, 50))
def test_the_cpu_may_be_there_many_times(count: int) -> None:
    assert devices_of(",".join(["cpu"] * count)) == ("cpu",) * count


@settings(deadline=None)
@given(st.lists(st.sampled_from(["auto", "cpu", "cuda", "cuda:0", "cuda:1", "xpu:0", "mps"]), min_size=2, max_size=4))
def test_kinds_do_not_mix(names: list[str]) -> None:
    kinds = {name.partition(":")[0] for name in names}
    once = kinds == {"cpu"} or len(set(names)) == len(names)
    if len(kinds) == 1 and once and not {"auto", "cuda"} & set(names):
        assert devices_of(",".join(names)) == tuple(names)
    else:
        with pytest.raises(DeviceError, match=re.escape(",".join(names))):
            devices_of(",".join(names))


@settings(deadline=None)
@given(st.text(alphabet="cpu,: ", max_size=12))
def test_whatever_is_written_is_taken_or_refused_with_a_hint(text: str) -> None:
    if re.fullmatch("cpu(,cpu)*", text):
        assert devices_of(text) == tuple(text.split(","))
    else:
        with pytest.raises(DeviceError) as found:
            devices_of(text)
        assert found.value.hint


@pytest.mark.parametrize("precision", ["tf32", "fp32", "bf16"])
def test_torch_rounds_float32_in_tf32_alone_and_nothing_warns(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", precision != "tf32")  # and as it was after the test
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle_float32(precision)
    rounded = precision == "tf32"
    assert torch.backends.cudnn.allow_tf32 is rounded
    assert torch.backends.cuda.matmul.allow_tf32 is rounded
    assert torch.get_float32_matmul_precision() == ("high" if rounded else "highest")
    settle_float32("fp32")
