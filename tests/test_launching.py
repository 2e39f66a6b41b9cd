"""Whether Triton's kernels can run, and whether they are compiled yet."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kbnet_cli.kernels import running
from kbnet_cli.kernels.gpu import launching
from tests import test_cli
from tests.pictures import write_picture
from tests.test_cli import Call

kbnet = test_cli.kbnet
GPU = torch.device("cuda:3")


@pytest.fixture(autouse=True)
def _nvidia(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(launching, "HAS_TRITON", True)
    launching._fault.cache_clear()
    yield
    launching._fault.cache_clear()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Errors that the next attempts end with, the last first."""
    pytest.importorskip("triton")
    from kbnet_cli.kernels.gpu import arithmetic

    errors: list[Exception] = []

    def attempt(device: torch.device) -> None:
        assert device == GPU
        if errors:
            raise errors.pop()

    monkeypatch.setattr(arithmetic, "attempt", attempt)
    return errors


def test_a_fault_of_triton_is_asked_for_once(attempts: list[Exception]) -> None:
    attempts.append(RuntimeError("/bin/sh: gcc: not found\nFailed to find C compiler."))
    assert launching.reason_against(GPU) == launching.reason_against(GPU) == "Failed to find C compiler."


def test_a_full_memory_may_not_be_full_another_time(attempts: list[Exception]) -> None:
    attempts.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."))
    assert launching.reason_against(GPU) == "CUDA out of memory. Tried to allocate 2.00 MiB."
    assert launching.available(GPU)


def test_a_broken_triton_is_a_reason_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python imports nothing under a name that stands for None.
    monkeypatch.delattr("kbnet_cli.kernels.gpu.arithmetic", raising=False)
    monkeypatch.setitem(sys.modules, "kbnet_cli.kernels.gpu.arithmetic", None)
    reason = launching.reason_against(GPU)
    assert reason is not None
    assert "arithmetic" in reason


@pytest.mark.usefixtures("attempts")
def test_kernels_are_compiled_first_where_triton_has_kept_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    assert launching.compiles_first(GPU)
    kept = tmp_path / ".triton" / "cache"
    kept.mkdir(parents=True)
    (kept / "of the attempt").mkdir()
    assert launching.compiles_first(GPU)
    for number in range(40):
        (kept / str(number)).mkdir()
    assert not launching.compiles_first(GPU)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert launching.compiles_first(GPU)
    assert not launching.compiles_first(torch.device("cpu"))
    monkeypatch.setattr(launching, "HAS_TRITON", False)
    assert not launching.compiles_first(GPU)


def test_a_user_is_told_of_what_is_compiled_first(
    kbnet: Call, monkeypatch: pytest.MonkeyPatch, random_weights: Path, tmp_path: Path
) -> None:
    write_picture(tmp_path / "a.png")
    words = ("denoise", tmp_path / "a.png", "-w", random_weights, "--device", "cpu", "--overwrite", "-o")
    assert "compiled first" not in kbnet(*words, tmp_path / "b.png").stderr
    monkeypatch.setattr(running, "compiles_first", lambda _device: True)
    told = kbnet(*words, tmp_path / "c.png")
    assert told.code == 0
    assert "the kernels for cpu are compiled first, once: a minute or two" in told.stderr
    assert "compiled first" not in kbnet(*words, tmp_path / "d.png", "--quiet").stderr


def test_nothing_is_said_of_kernels_that_will_not_run_or_that_nobody_can_look_up(
    monkeypatch: pytest.MonkeyPatch, attempts: list[Exception], tmp_path: Path
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "none"))
    attempts.append(RuntimeError("Failed to find C compiler."))
    assert not launching.compiles_first(GPU)
    launching._fault.cache_clear()
    assert launching.compiles_first(GPU)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file"))
    assert not launching.compiles_first(GPU), "what is no folder cannot be looked into"
