"""The published weights, where they are at hand, give the pictures that spandrel made with them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from PIL import Image

from kbnet_cli import checkpoint
from kbnet_cli.errors import WeightsError
from kbnet_cli.hub.library import Library
from kbnet_cli.networks.compiling import compiled
from kbnet_cli.settings import Places


@pytest.mark.weights
@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("sidd", "inputs/jpeg-15.jpg", "outputs/jpeg-15/1x-KBNet_sidd.png"),
        ("derain", "inputs/32x32.png", "outputs/32x32/1x-KBNet_derain.png"),
    ],
)
def test_published_weights_give_the_published_pictures(
    name: str, given: str, expected: str, testdata: Path, kept_weights: Path
) -> None:
    try:
        path = Library(Places(weights_folder=kept_weights)).path(name)
    except WeightsError:
        pytest.skip(f"{name} is not in {kept_weights}: kbnet weights pull {name}, or name a folder: --kept-weights DIR")
    goldens = testdata / "free" / "goldens_kbnet_spandrel"
    picture, golden = (
        torch.from_numpy(np.asarray(Image.open(goldens / file).convert("RGB"), np.float32) / 255)
        for file in (given, expected)
    )
    network = compiled(checkpoint.load(path).network, None)
    height, width, _ = picture.shape
    with torch.inference_mode():
        # As spandrel does: reflected on the right and below, to multiples of 16.
        padded = F.pad(picture.permute(2, 0, 1)[None], (0, -width % 16, 0, -height % 16), mode="reflect")
        answer = network(padded)[0, :, :height, :width].permute(1, 2, 0).clamp(0, 1)
    # The picture was rounded to 8 bits, and another decoder of JPEG may round the input otherwise by a level.
    levels = (answer - golden).abs() * 255
    assert levels.mean() < 0.5
    assert levels.max() < 3
