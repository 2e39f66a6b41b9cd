"""Our networks against the published ones: names, shapes and values."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kbnet_cli.kernels import compiled
from kbnet_cli.networks import compiling
from kbnet_cli.networks.kbnet_l import KBNetL, KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetS, KBNetSSizes
from tests.oracle import golden_fill, golden_picture, published_network, randomise

S_NAMES = {
    "image_channels": "img_channel",
    "width": "width",
    "encoder_blocks": "enc_blk_nums",
    "middle_blocks": "middle_blk_num",
    "decoder_blocks": "dec_blk_nums",
    "lightweight": "lightweight",
    "ffn_scale": "ffn_scale",
}
L_NAMES = {
    "input_channels": "inp_channels",
    "output_channels": "out_channels",
    "width": "dim",
    "blocks": "num_blocks",
    "refinement_blocks": "num_refinement_blocks",
    "heads": "heads",
    "expansion": "ffn_expansion_factor",
    "bias": "bias",
}
ODD_S = [
    KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,)),
    KBNetSSizes(width=16, encoder_blocks=(1, 2), middle_blocks=0, decoder_blocks=(2, 1)),
    KBNetSSizes(image_channels=1, width=32, encoder_blocks=(0, 1), middle_blocks=1, decoder_blocks=(1, 0)),
    KBNetSSizes(width=64, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(0,)),
    KBNetSSizes(width=16, encoder_blocks=(1, 1, 2), middle_blocks=2, decoder_blocks=(1, 1, 1), lightweight=True),
    KBNetSSizes(width=8, encoder_blocks=(1, 1), middle_blocks=1, decoder_blocks=(1, 1), ffn_scale=1.5),
    KBNetSSizes(
        width=32,
        encoder_blocks=(1, 0, 0, 1),
        middle_blocks=1,
        decoder_blocks=(0, 1, 0, 1),
        lightweight=True,
        ffn_scale=1.5,
    ),
    KBNetSSizes(image_channels=4, width=8, encoder_blocks=(2,), middle_blocks=1, decoder_blocks=(1,), ffn_scale=3.0),
]
ODD_L = [
    KBNetLSizes(width=24, blocks=(1, 1, 1, 1), refinement_blocks=1),
    KBNetLSizes(width=24, blocks=(1, 2, 1, 0), refinement_blocks=2, heads=(2, 2, 4, 4), bias=True),
    KBNetLSizes(width=48, blocks=(1, 0, 0, 1), refinement_blocks=0, expansion=2.0),
    KBNetLSizes(
        input_channels=1,
        output_channels=1,
        width=24,
        blocks=(1, 1, 0, 1),
        refinement_blocks=1,
        expansion=1.25,
    ),
]


def ours(sizes: KBNetSSizes | KBNetLSizes) -> KBNetS | KBNetL:
    network = KBNetS(sizes) if isinstance(sizes, KBNetSSizes) else KBNetL(sizes)
    return network.eval()


def published(sizes: KBNetSSizes | KBNetLSizes) -> nn.Module:
    names = S_NAMES if isinstance(sizes, KBNetSSizes) else L_NAMES
    values: dict[str, Any] = {name: getattr(sizes, own) for own, name in names.items()}
    lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return published_network("s" if isinstance(sizes, KBNetSSizes) else "l", **lists)


PUBLISHED = [
    pytest.param(KBNetSSizes(), 141_966_659, 1168, id="gaussian-colour"),
    pytest.param(KBNetSSizes(image_channels=1), 141_964_353, 1168, id="gaussian-grey"),
    pytest.param(KBNetSSizes(lightweight=True, ffn_scale=1.5), 128_403_395, 1168, id="sidd"),
    pytest.param(KBNetLSizes(), 29_568_100, 1110, id="derain"),
]


@pytest.mark.parametrize(("sizes", "parameters", "keys"), PUBLISHED)
def test_published_configurations_have_the_published_names_and_shapes(
    sizes: KBNetSSizes | KBNetLSizes, parameters: int, keys: int
) -> None:
    with torch.device("meta"):
        own, theirs = ours(sizes), published(sizes)
    shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert len(shapes) == keys
    assert sum(parameter.numel() for parameter in own.parameters()) == parameters


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("sizes", [*ODD_S, *ODD_L], ids=str)
def test_odd_configurations_give_the_published_values(sizes: KBNetSSizes | KBNetLSizes, dtype: torch.dtype) -> None:
    theirs = published(sizes).to(dtype)
    randomise(theirs, seed=1)
    own = ours(sizes).to(dtype)
    own.load_state_dict(theirs.state_dict())
    # KBNet-S pads odd sizes by itself; KBNet-L needs multiples of 8.
    picture_sizes = [(24, 40), (37, 19), (5, 64)] if isinstance(sizes, KBNetSSizes) else [(24, 40), (8, 64)]
    for seed, (height, width) in enumerate(picture_sizes):
        generator = torch.Generator().manual_seed(seed)
        picture = torch.rand(2, own.image_channels, height, width, generator=generator, dtype=dtype)
        with torch.no_grad():
            expected, got = theirs(picture), own(picture)
        tolerance = 1e-9 if dtype == torch.float64 else 1e-4
        assert got.shape == picture.shape
        assert (expected - picture).abs().max() > 0.05, "the network must do something for this to be a test"
        assert (got - expected).abs().max() <= tolerance * expected.abs().max()


GOLDEN = [
    pytest.param(
        KBNetSSizes(),
        (3, 24, 36),
        (0.460137107207, 0.319470900006, 0.687147206392, 0.010244006546, 0.585859884679),
        id="s",
    ),
    pytest.param(
        KBNetSSizes(image_channels=1),
        (1, 24, 36),
        (-2.065432228370, 1.407756314240, -3.460636725821, -1.508597371855, -2.570471878832),
        id="s-grey",
    ),
    pytest.param(
        KBNetSSizes(lightweight=True, ffn_scale=1.5),
        (3, 24, 36),
        (0.456963313393, 0.320319152700, 0.688702493602, 0.013484933675, 0.585537677124),
        id="s-sidd",
    ),
    pytest.param(
        KBNetLSizes(),
        (3, 24, 32),
        (0.384895323194, 0.353635510853, 0.574954011145, 0.732367526340, 0.517390306498),
        id="l",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "shape", "expected"), GOLDEN)
def test_golden_vectors_of_the_published_code(
    sizes: KBNetSSizes | KBNetLSizes, shape: tuple[int, int, int], expected: tuple[float, ...]
) -> None:
    network = ours(sizes).double()
    golden_fill(network)
    with torch.no_grad():
        answer = network(golden_picture(1, *shape))[0]
    # 1e-6: the vectors were computed with mixed care for their last digits.
    assert off(answer, expected) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "shape", "expected"), GOLDEN)
def test_golden_vectors_in_what_runs(
    sizes: KBNetSSizes | KBNetLSizes, shape: tuple[int, int, int], expected: tuple[float, ...]
) -> None:
    network = ours(sizes)
    golden_fill(network)
    picture = golden_picture(1, *shape).float()
    for form in (*compiled.forms(), None):
        quick = compiling.compiled(network, form)
        with torch.inference_mode():
            answer = quick(picture)[0]
        assert answer.dtype == torch.float32
        # Relative to the largest of the answer: about 5 for grey pictures and 1 for the others.
        assert off(answer, expected) < 1e-5 * max(1.0, float(answer.abs().max())), form


def off(answer: Tensor, expected: tuple[float, ...]) -> float:
    """Return how far the worst of a golden vector's five numbers is."""
    wide = answer.double()
    got = torch.stack([wide.mean(), wide.std(correction=0), wide[0, 0, 0], wide[-1, -1, -1], wide[0, 5, 7]])
    return float((got - torch.tensor(expected, dtype=torch.float64)).abs().max())
