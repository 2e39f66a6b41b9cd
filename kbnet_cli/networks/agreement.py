"""Whether networks compute on this machine what their plain modules say: what the doctor asks, and GPUs are asked."""

import copy
import math

import numpy as np
import torch
from jaxtyping import Float32, Float64

from kbnet_cli.kernels.compiled import fastest_form
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.networks.compiling import compiled
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes

SMALL_S = KBNetSSizes(width=16, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), lightweight=True)
SMALL_L = KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1, heads=(1, 1, 2, 4))
SCALES = ("beta", "gamma", "ga1")
"""What blocks are multiplied with: 0.01 in a new network, which would hide what they do."""
TOLERANCES = {"fp32": 1e-3, "tf32": 1e-2, "bf16": 0.1}
"""How far a network made ready for a GPU may be from plain torch in float32, by the precision: many times what
roundings make, and far less than what a kernel makes that is wrong."""
LEAST = 0.02
"""A root mean square of residuals, 0 is black and 1 is white: below it roundings are all there is."""


def fault(ready: KBNetS | KBNetL, plain: KBNetS | KBNetL, precision: Precision, device: torch.device) -> str | None:
    """Return what is wrong with a network made ready for a device, by a small noisy picture; None if nothing is.

    Its residual is compared with that of the same network in plain torch and float32 there, root mean square to root
    mean square. Weights whose answers are not finite even so have nothing to be compared.
    """
    generator = torch.Generator().manual_seed(0)
    height, width = 3 * ready.size_multiple, 5 * ready.size_multiple
    noise = torch.randn(1, ready.image_channels, height, width, generator=generator)
    picture = (0.5 + 0.1 * noise).clamp(0, 1).to(device)
    with torch.inference_mode():
        expected = plain(picture) - picture
        difference = ready(picture) - picture - expected
    size, distance = (float(one.double().square().mean().sqrt()) for one in (expected, difference))
    if not math.isfinite(size):
        return None
    relative = distance / max(size, LEAST)
    # Compared this way round, numbers that are not finite count as wrong.
    return None if relative <= TOLERANCES[precision] else f"pictures differ from plain torch's by {relative:.1g}"


def disagreement() -> float:
    """Return how far small random networks, made ready to run, are from their plain modules.

    On the CPU in float32; relative to the largest change they make to a picture. The worse of KBNet-S and KBNet-L.
    """
    worst = 0.0
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        for network in (KBNetS(SMALL_S), KBNetL(SMALL_L)):
            network.eval()
            for name, parameter in network.named_parameters():
                if name.endswith(SCALES):
                    parameter.fill_(0.3)
            picture = torch.rand(1, 3, 40, 56)
            expected = network(picture) - picture
            difference = compiled(network, fastest_form())(picture) - picture - expected
            found = float(difference.abs().max() / expected.abs().max())
            # Compared this way round, numbers that are not finite count as wrong.
            worst = worst if found <= worst else found
    return worst


def exact_residual(network: KBNetS | KBNetL, tiles: Float32[np.ndarray, "b h w c"]) -> Float64[np.ndarray, "b h w c"]:
    """Return what a network's plain modules would add to tiles, in float64 on the CPU; the network stays as it is.

    No compiled form takes float64, so that this is plain torch whatever is installed. Tiles as in `Engine.residual`,
    within the range that the weights were trained on.
    """
    plain = copy.deepcopy(network).double()
    batch = torch.from_numpy(tiles).permute(0, 3, 1, 2).double()
    with torch.inference_mode():
        answer = plain(batch) - batch
    result: Float64[np.ndarray, "b h w c"] = answer.permute(0, 2, 3, 1).numpy()
    return result
