"""The published networks as spandrel holds them: what ours are compared with."""

from typing import Any

import torch
from torch import Tensor, nn

from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetSSizes


def published_network(kind: str, **sizes: Any) -> nn.Module:
    """Return spandrel's KBNet_s or KBNet_l with the sizes given under the published names."""
    declare_missing_operators()
    from spandrel.architectures.KBNet import KBNet_l, KBNet_s

    network: nn.Module = {"s": KBNet_s, "l": KBNet_l}[kind](**sizes)
    return network.eval()


def published_twin(sizes: KBNetSSizes | KBNetLSizes) -> nn.Module:
    """Return spandrel's network of our sizes."""
    if isinstance(sizes, KBNetLSizes):
        return published_network(
            "l",
            inp_channels=sizes.input_channels,
            out_channels=sizes.output_channels,
            dim=sizes.width,
            num_blocks=list(sizes.blocks),
            num_refinement_blocks=sizes.refinement_blocks,
            heads=list(sizes.heads),
            ffn_expansion_factor=sizes.expansion,
            bias=sizes.bias,
        )
    return published_network(
        "s",
        img_channel=sizes.image_channels,
        width=sizes.width,
        enc_blk_nums=list(sizes.encoder_blocks),
        middle_blk_num=sizes.middle_blocks,
        dec_blk_nums=list(sizes.decoder_blocks),
        lightweight=sizes.lightweight,
        ffn_scale=sizes.ffn_scale,
    )


def declare_missing_operators() -> None:
    """Let torchvision, which spandrel imports, be imported where its compiled part does not fit a CPU build of torch.

    Its Python part refuses to be imported unless these two operators are declared. Nothing here calls them.
    """
    if LIBRARY or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    LIBRARY.append(library)


LIBRARY: list[Any] = []


def randomise(network: nn.Module, seed: int) -> None:
    """Fill *every* parameter with noise of a scale at which activations stay near 1.

    As initialised, beta, gamma, ga1 and attgamma are 0.01 and would hide a mistake in what they scale.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if name.endswith(("norm1.weight", "norm2.weight")):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() == 1 or parameter.shape[0] == 1:
                scale = parameter.shape[-1] ** -0.25 if name.endswith(".w") else 0.3
                parameter.copy_(scale * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def golden_fill(network: nn.Module) -> None:
    """Fill every tensor by the rule of the golden vectors: a sine of its flat index and of its name's characters."""
    state = network.state_dict()
    for name, tensor in state.items():
        index = torch.arange(tensor.numel(), dtype=torch.float64)
        wave = torch.sin(1 + 0.37 * index + 0.11 * sum(map(ord, name))).view(tensor.shape)
        if tensor.dim() == 1 and tensor.numel() == 1:
            wave = torch.full_like(wave, 0.25)
        elif tensor.dim() == 1:
            wave = 1 + 0.1 * wave if name.endswith("weight") else 0.05 * wave
        elif tensor.dim() == 4 and tensor.shape[0] == 1:
            wave = 0.1 * wave
        else:
            wave = wave / tensor[0].numel() ** 0.5
        tensor.copy_(wave)


def golden_picture(batch: int, channels: int, height: int, width: int) -> Tensor:
    """Return the picture of the golden vectors: a chirp that differs in each channel and row, float64 0…1."""
    b, c, y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (batch, channels, height, width)), indexing="ij"
    )
    return 0.5 + 0.5 * torch.sin(0.9 * b + 0.7 * c + 0.13 * y + 0.29 * x + 0.011 * y * x)
