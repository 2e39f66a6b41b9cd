"""A network for inference on a device, in whatever answers fastest and right there."""

from dataclasses import dataclass

import torch

from kbnet_cli.errors import LostDeviceError
from kbnet_cli.kernels import compiled, devices
from kbnet_cli.kernels.devices import first_line, is_full
from kbnet_cli.kernels.float32 import Precision, settle_float32
from kbnet_cli.kernels.gpu import launching
from kbnet_cli.networks import agreement, compiling
from kbnet_cli.networks.kbnet_l import KBNetL
from kbnet_cli.networks.kbnet_s import KBNetS

Network = KBNetS | KBNetL


@dataclass(frozen=True)
class Ready:
    """A network for inference on a device."""

    network: Network
    autocast: bool = False
    """Whether autocast is to give it its precision: compiled networks and Triton's kernels have it in themselves."""
    against_triton: str | None = None
    """Why it is not Triton's kernels that it runs on; None where it is, and where nobody expects them."""


def ready(network: Network, device: torch.device, precision: Precision) -> Ready:
    """Return a network for inference on a device; the network given stays as it is.

    Raises:
        LostDeviceError: the device has stopped working.
    """
    rough = precision == "bf16"
    if device.type == "cpu":
        form = compiled.fastest_form(precision)
        return Ready(compiling.compiled(network, form), autocast=rough and form is None)
    plain = compiling.compiled(network, None).to(device)
    if device.type != "cuda":
        return Ready(plain, autocast=rough)
    settle_float32(precision)
    against = launching.reason_against(device)
    if against is None:
        quick, against = tried(network, plain, precision, device)
        if quick is not None:
            return Ready(quick)
    return Ready(plain, autocast=rough, against_triton=against)


def tried(
    network: Network, plain: Network, precision: Precision, device: torch.device
) -> tuple[Network, None] | tuple[None, str]:
    """Return the network in Triton's kernels, if a small picture comes out of them as it does in plain torch; else why.

    Nobody has tried every GPU with every Triton. It also compiles them, before the first photo.

    Raises:
        LostDeviceError: the device has stopped working.
        RuntimeError: its memory is full.
    """
    try:
        from kbnet_cli.kernels.gpu.arithmetic import current
        from kbnet_cli.networks.accelerating import accelerated

        quick = accelerated(network, precision, device)
        with current(device):
            fault = agreement.fault(quick, plain, precision, device)
    except Exception as error:  # whatever Triton, its compiler or the driver says
        if is_full(error):
            raise
        gone = None if device.type == "cpu" else devices.fault(device)
        if gone is not None:
            raise LostDeviceError(f"{device} has stopped working: {gone}") from error
        fault = first_line(error)
    return (quick, None) if fault is None else (None, f"Triton's kernels fail there: {fault}")
