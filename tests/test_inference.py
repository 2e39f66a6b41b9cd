"""What a network runs on where Triton's kernels may be had: they are tried before they are trusted."""

from typing import Any

import pytest
import torch

from kbnet_cli.errors import LostDeviceError
from kbnet_cli.kernels import devices
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.networks import agreement, inference
from kbnet_cli.networks.folding import folded
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import randomise

pytest.importorskip("triton")

from kbnet_cli.kernels.gpu import attention
from kbnet_cli.networks.accelerating import AcceleratedBlocks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
S = KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=0, decoder_blocks=(0,), lightweight=True, ffn_scale=1.5)
L = KBNetLSizes(width=8, blocks=(0, 0, 0, 0), refinement_blocks=1, heads=(2, 1, 1, 1))
Tried = tuple[KBNetS | KBNetL | None, str | None]


def network(sizes: KBNetSSizes | KBNetLSizes = S) -> KBNetS | KBNetL:
    made = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    randomise(made, seed=4)
    return made.eval().requires_grad_(False)


def tried(given: KBNetS | KBNetL, precision: Precision = "fp32") -> Tried:
    return inference.tried(given, folded(given).to(DEVICE), precision, DEVICE)


@pytest.mark.parametrize("sizes", [S, pytest.param(L, marks=pytest.mark.slow)])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_kernels_that_agree_are_taken(sizes: KBNetSSizes | KBNetLSizes, precision: Precision) -> None:
    quick, against = tried(network(sizes), precision)
    assert against is None
    assert any(isinstance(module, AcceleratedBlocks) for module in quick.modules())  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_kernel_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, precision: Precision) -> None:
    right = attention.filtered

    def wrong(*words: Any, **more: Any) -> torch.Tensor:
        return right(*words, **more).roll(1, dims=2)

    monkeypatch.setattr(attention, "filtered", wrong)
    quick, against = tried(network(), precision)
    assert quick is None
    assert against is not None
    assert against.startswith("Triton's kernels fail there: pictures differ from plain torch's by ")


def test_a_kernel_that_does_not_run_is_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **_more: object) -> torch.Tensor:
        raise ValueError("out of resource: shared memory, Required: 200000, Hardware limit: 101376.\nmore")

    monkeypatch.setattr(attention, "filtered", broken)
    quick, against = tried(network())
    assert quick is None
    assert against == (
        "Triton's kernels fail there: out of resource: shared memory, Required: 200000, Hardware limit: 101376."
    )


def test_a_full_memory_is_no_fault_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **_more: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(attention, "filtered", full)
    with pytest.raises(torch.OutOfMemoryError):
        tried(network())


def test_a_device_that_a_kernel_has_ended_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    given = network()

    def ended(*_: object) -> str:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(agreement, "fault", ended)
    monkeypatch.setattr(devices, "fault", lambda _device: "it computes something else")
    with pytest.raises(LostDeviceError, match=r"^meta has stopped working: it computes something else$"):
        inference.tried(given, given, "fp32", torch.device("meta"))


def test_weights_that_give_no_numbers_even_in_plain_torch_are_not_held_against_kernels() -> None:
    given = network()
    assert isinstance(given, KBNetS)
    given.ending.weight.mul_(1e38)
    assert tried(given)[1] is None
