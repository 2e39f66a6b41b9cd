"""The engine: which arithmetic runs for which precision, and what it answers."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch

from kbnet_cli import checkpoint
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Choice, Engine
from kbnet_cli.errors import DeviceError, PhotoError
from kbnet_cli.hub.library import Library
from kbnet_cli.kernels import compiled, threads
from kbnet_cli.networks import inference, kbnet_s
from kbnet_cli.networks.compiling import CompiledBlocks
from kbnet_cli.networks.folding import FoldedBlockS
from kbnet_cli.settings import Places
from tests.networks import TINY, random_network

CPU = torch.device("cpu")
EXAMPLES = Path(__file__).parent.parent / "examples"
EXACT, ROUGH = Choice(CPU, "fp32", "asked for"), Choice(CPU, "bf16", "asked for")


def tiles(batch: int = 2, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(3).random((batch, height, width, 3)).astype(np.float32)


def loaded() -> Checkpoint:
    return Checkpoint(random_network(replace(TINY, width=16)), Facts(), "random")


def forms_of(engine: Engine) -> set[str]:
    """Return the forms that an engine's blocks are compiled in; none: they run in plain torch."""
    blocks = [module for module in engine.network.modules() if isinstance(module, CompiledBlocks)]
    return {block.fusion.form for module in blocks for block in module.blocks}


@pytest.mark.skipif(not compiled.available(), reason="the compiled form is not installed")
def test_fp32_runs_compiled_and_says_what_the_network_says() -> None:
    given = loaded()
    engine = Engine(given, EXACT)
    assert forms_of(engine) == {compiled.forms()[0]}
    assert not engine.autocast
    batch = torch.from_numpy(tiles()).permute(0, 3, 1, 2)
    expected = (given.network.double()(batch.double()) - batch).permute(0, 2, 3, 1).numpy()
    got = engine.residual(tiles())
    assert got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.skipif(not compiled.forms("bf16"), reason="this machine does not multiply in bfloat16")
def test_bf16_runs_compiled_where_the_processor_has_it() -> None:
    engine = Engine(loaded(), ROUGH)
    assert forms_of(engine) == {compiled.forms("bf16")[0]}
    assert not engine.autocast, "a compiled network has its precision in itself"
    exact, rough = Engine(loaded(), EXACT).residual(tiles()), engine.residual(tiles())
    assert 0 < np.abs(exact - rough).max() < 0.05 * np.abs(exact).max()


def test_bf16_is_autocast_where_the_processor_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Engine(loaded(), EXACT).residual(tiles())
    exactly = compiled.forms()
    monkeypatch.setattr(compiled, "forms", lambda precision="fp32": exactly if precision == "fp32" else ())
    engine = Engine(loaded(), ROUGH)
    assert engine.autocast
    assert forms_of(engine) == set()
    assert any(isinstance(module, FoldedBlockS) for module in engine.network.modules())
    rough = engine.residual(tiles())
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


def test_without_the_extension_blocks_are_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = Engine(loaded(), EXACT).residual(tiles())
    monkeypatch.setattr(compiled, "HAS_EXTENSION", False)
    engine = Engine(loaded(), EXACT)
    assert forms_of(engine) == set()
    assert not engine.autocast
    plainly = engine.residual(tiles())
    assert np.abs(plainly - with_it).max() <= 1e-5 * np.abs(plainly).max()


def test_the_weights_are_not_held_twice(random_weights: Path) -> None:
    given = checkpoint.load(random_weights)
    engine = Engine(given, EXACT)
    assert engine.checkpoint.network is engine.network
    assert engine.checkpoint.facts == given.facts
    assert engine.checkpoint.architecture == "KBNet-S"
    assert any(isinstance(module, kbnet_s.KBBlock) for module in given.network.modules()), "as it was"
    assert not any(isinstance(module, kbnet_s.KBBlock) for module in engine.network.modules())


def test_values_outside_the_limit_and_no_numbers() -> None:
    engine = Engine(loaded(), EXACT)
    inside = tiles(1)
    inside[0, 5:9, :, 0] = 0
    inside[0, 20:30, :, 1] = 1
    outside = inside.copy()
    outside[0, 5, :, 0], outside[0, 6, :, 0], outside[0, 7, :, 0] = -3, np.nan, -np.inf
    outside[0, 20:25, :, 1], outside[0, 25:30, :, 1] = 7, np.inf
    assert np.array_equal(engine.residual(outside), engine.residual(inside))


@pytest.mark.skipif(not compiled.forms("bf16"), reason="the processor multiplies no bfloat16")
def test_the_example_photo_in_bf16_is_within_55_decibels_of_fp32() -> None:
    weights = checkpoint.load(Library(Places()).obtain(None, "denoise"))
    pixels = imagecodecs.png_decode((EXAMPLES / "rocks.png").read_bytes())
    tile = pixels[None, :256, :256].astype(np.float32) / 255
    exact, rough = (Engine(weights, choice).residual(tile) for choice in (EXACT, ROUGH))
    difference = float(np.mean((exact - rough) ** 2))
    assert difference > 0
    assert -10 * np.log10(difference) > 55


def spoiled(engine: Engine, bad: int) -> list[int]:
    """Let one tile of the next answers be no number, and return a list of how many were done again."""
    right = engine._residual

    def answer(tiles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answers, finite = (each.clone() for each in right(tiles))
        answers[bad], finite[bad] = torch.nan, False
        return answers, finite

    engine._residual = answer  # type: ignore[assignment]
    return []


def test_a_tile_that_is_not_finite_is_done_again_in_float32_and_counted(random_weights: Path) -> None:
    given = checkpoint.load(random_weights)
    engine, exact = Engine(given, ROUGH), Engine(given, EXACT)
    as_it_was = engine.residual(tiles(3))
    told = spoiled(engine, 1)
    found = engine.residual(tiles(3), told.append)
    np.testing.assert_array_equal(found[[0, 2]], as_it_was[[0, 2]])
    np.testing.assert_array_equal(found[1:2], exact.residual(tiles(3)[1:2]))
    assert (told, engine.redone) == ([1], 1)
    engine.residual(tiles(3))
    assert engine.redone == 2


def test_what_cannot_be_done_again_is_an_error(tmp_path: Path, random_weights: Path) -> None:
    path = tmp_path / "own.safetensors"
    path.write_bytes(random_weights.read_bytes())
    gone = Engine(checkpoint.load(path), ROUGH)
    path.unlink()
    for engine in (gone, Engine(loaded(), ROUGH)):
        spoiled(engine, 0)
        with pytest.raises(PhotoError, match="not finite") as caught:
            engine.residual(tiles())
        assert "--precision fp32" in caught.value.hint
        assert engine.redone == 0
    exact = Engine(checkpoint.load(random_weights), EXACT)
    spoiled(exact, 0)
    with pytest.raises(PhotoError, match="not finite") as caught:
        exact.residual(tiles())
    assert caught.value.hint == "use other weights"


def test_an_interruption_awaits_what_has_begun() -> None:
    """Memory that a thread writes into must not be given back before it has finished."""
    begun, ended = threading.Event(), []

    def work(part: tuple[int, int], _scratch: int) -> None:
        if threading.current_thread() is threading.main_thread():
            begun.wait()
            raise KeyboardInterrupt
        begun.set()
        time.sleep(0.05)  # an operation under way
        ended.append(part)

    count = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyboardInterrupt):
            threads.share(work, threads.parts(100, 100))
    finally:
        torch.set_num_threads(count)
    # What was begun has ended, and all that waited was left: a thread may have begun at most one more meanwhile.
    assert 1 <= len(ended) <= 2


@pytest.mark.parametrize(
    ("device", "error"),
    [
        ("xpu", torch.OutOfMemoryError("XPU out of memory. Tried to allocate 20 MiB")),
        ("mps", RuntimeError("MPS backend out of memory (MPS allocated: 18 GB)")),
    ],
)
def test_weights_that_do_not_fit_are_an_error_of_the_device(
    monkeypatch: pytest.MonkeyPatch, device: str, error: Exception
) -> None:
    def full(*_: object) -> inference.Ready:
        raise error

    monkeypatch.setattr(inference, "ready", full)
    with pytest.raises(DeviceError, match=rf"^out of memory on {device} for random$") as failed:
        Engine(loaded(), Choice(torch.device(device), "fp32", "asked for"))
    assert "--device cpu" in failed.value.hint
    assert str(failed.value.__cause__) == str(error)
