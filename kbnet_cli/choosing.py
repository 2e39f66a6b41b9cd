"""Which devices and which precision a call goes by, settled before the first photo, and why."""

from dataclasses import dataclass, replace
from typing import cast

import torch

from kbnet_cli.errors import DeviceError
from kbnet_cli.kernels import compiled, devices
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.settings import check_device, check_precision, devices_of

TENSOR_CORES = (8, 0)
"""The compute capability from which on NVIDIA's GPUs multiply bfloat16 and TF32 in tensor cores: Ampere."""


@dataclass(frozen=True)
class Choice:
    """Devices and a precision, settled before the first photo, and why."""

    device: torch.device
    """The first one, or the only one."""
    precision: Precision
    reason: str
    """Why that device."""
    others: tuple[torch.device, ...] = ()
    """Behind the first one: each has a process of its own. cpu may be there several times."""
    precision_reason: str = ""
    """Why that precision; empty where it was asked for."""
    warning: str = ""
    """What stands in the way of a faster device that is there, and what to do; empty where nothing does."""

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices."""
        return self.device, *self.others

    @property
    def name(self) -> str:
        """All devices as `--device` takes them."""
        return ",".join(map(str, self.devices))

    @property
    def first(self) -> "Choice":
        """The same for the first device alone, where nothing is shared out to several."""
        if not self.others:
            return self
        return replace(self, others=(), reason=f"the first of {len(self.devices)}: only photos go to several")

    def on(self, device: torch.device) -> "Choice":
        """Return the same for one of the devices alone, as its own process takes it."""
        return replace(self, device=device, others=())


def choose(device: str, precision: str) -> Choice:
    """Settle what `auto` means on this machine, and see to it that the (first) device computes.

    Args:
        device: auto, cpu, cuda, cuda:N, mps, xpu, xpu:N, or several of a kind between commas. cuda and xpu are all GPUs
            of the kind, auto is the first GPU that computes, or the CPU.
        precision: auto, fp32, tf32 or bf16. auto takes bf16 where it is much faster: on NVIDIA's GPUs that have tensor
            cores for it, and on CPUs with tiles for it (AMX). Its pictures differ from fp32's by more than 55 dB PSNR.

    Raises:
        DeviceError: a device is not there or does not compute, or the precision is not to be had on it.
    """
    check_precision(precision)
    check_device(device)
    found = _automatic() if device == "auto" else _asked(device)
    if precision == "auto":
        settled, why = _fastest(found.devices)
        return replace(found, precision=settled, precision_reason=why)
    for one in found.devices:
        reason = _reason_against(precision, one)
        if reason is not None:
            raise DeviceError(
                f"no {precision} on {one}: {reason}",
                hint="use --precision auto, which takes what the device is good at",
            )
    return replace(found, precision=cast(Precision, precision))


def see_to(device: torch.device) -> None:
    """Compute a little on a device: of several that were chosen only the first is tried, the others by their processes.

    Raises:
        DeviceError: it does not compute.
    """
    fault = None if device.type == "cpu" else devices.fault(device)
    if fault is not None:
        raise DeviceError(f"device {device} does not work: {fault}", hint="use another --device, or --device cpu")


def _asked(given: str) -> Choice:
    names = devices_of(given)
    kind = devices.kind(names[0].partition(":")[0])
    if not kind.there:
        raise DeviceError(f"device {given} is not there: {kind.says}", hint=kind.hint)
    for name in names:
        if int(name.partition(":")[2] or 0) >= len(kind.names):
            there = ", ".join(f"{kind.name}:{number} ({one})" for number, one in enumerate(kind.names))
            hint = "GPUs are counted from 0" + (f"; {devices.VISIBLE} may hide some" if kind.name == "cuda" else "")
            raise DeviceError(f"device {name} is not there: there is {there}", hint=hint)
    reason = "asked for"
    if kind.name in ("cuda", "xpu") and names == (kind.name,):
        names = tuple(f"{kind.name}:{number}" for number in range(len(kind.names)))
        reason = "asked for" if len(names) == 1 else f"all {len(names)} GPUs"
    first, *others = (torch.device(name) for name in names)
    see_to(first)
    return Choice(first, "fp32", reason, tuple(others))


def _automatic() -> Choice:
    """Choose the first GPU that computes: others may be in use, and are taken where they are asked for."""
    faults: list[str] = []
    looked: list[devices.Kind] = []
    for name in devices.ALL_GPUS:
        kind = devices.kind(name)
        looked.append(kind)
        for number, title in enumerate(kind.names):
            device = torch.device(name) if name == "mps" else torch.device(name, number)
            fault = devices.fault(device)
            if fault is None:
                more = f", one of {len(kind.names)} GPUs: --device {name} takes all" if len(kind.names) > 1 else ""
                return Choice(device, "fp32", title + more, warning="; ".join(faults))
            faults.append(f"{device} ({title}) does not work and is not used: {fault}")
    cpu = torch.device("cpu")
    if faults:
        return Choice(cpu, "fp32", "no GPU that works", warning="; ".join(faults))
    cuda = looked[0]
    # Of the kinds that this torch is built for one has the reason; a torch for the CPU lacks them all.
    expected = next((kind for kind in looked if kind.built), cuda)
    warning = ""
    if devices.idle_nvidia() and not cuda.hidden:
        warning = f"an NVIDIA GPU is idle: {cuda.says} ({cuda.hint}; --device cpu goes without this warning)"
    return Choice(cpu, "fp32", f"no GPU: {expected.says}", warning=warning)


def _fastest(chosen: tuple[torch.device, ...]) -> tuple[Precision, str]:
    """Return the precision that is best on all devices, and why."""
    kind = chosen[0].type
    if kind == "cpu":
        if compiled.bfloat16_pays():
            return "bf16", "the processor has tiles for it, AMX"
        return "fp32", "the processor has no tiles for bf16, AMX"
    if any(devices.capability(device) is None for device in chosen):
        # Nobody has compared pictures or times there.
        return "fp32", f"bf16 is untried on {'GPUs of AMD' if kind == 'cuda' else kind}"
    for device in chosen:
        reason = _reason_against("bf16", device)
        if reason is not None:
            return "fp32", f"no bf16 on {device}: {reason}"
    return "bf16", "tensor cores multiply it"


def _reason_against(precision: str, device: torch.device) -> str | None:
    """Return why a precision is not to be had on a device, None if it is."""
    capability = devices.capability(device)
    if capability is None:
        return "it is a rounding of NVIDIA's tensor cores" if precision == "tf32" else None
    if precision == "fp32" or capability >= TENSOR_CORES:
        return None
    if precision == "tf32":
        return f"{devices.described(device)} has no tensor cores for it"
    return f"{devices.described(device)} only emulates it, slower than fp32"
