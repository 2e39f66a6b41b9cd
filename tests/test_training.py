"""The loop: what it learns, and that it can be interrupted, resumed, begun from weights and run in bf16."""

import csv
import errno
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import load, outline
from kbnet_cli.errors import InputError, OutputError, UsageError
from kbnet_cli.kernels import kba
from kbnet_cli.networks.kbnet_l import KBNetLSizes
from kbnet_cli.networks.kbnet_s import KBNetSSizes
from kbnet_cli.stopping import EXIT_CODES
from kbnet_cli.training import loop, pictures
from kbnet_cli.training.degradations.gaussian import Gaussian
from kbnet_cli.training.degradations.jpeg import Jpeg
from kbnet_cli.training.degradations.mixture import Mixture
from kbnet_cli.training.loop import Budget, Machine, Report, learning_rate, psnr_loss, train
from kbnet_cli.training.recipe import DataRecipe, FactsRecipe, OptimisationRecipe, Recipe
from kbnet_cli.training.state import new_state
from tests import test_cli
from tests.test_cli import Call

kbnet = test_cli.kbnet

SIZES = KBNetSSizes(width=8, encoder_blocks=(1,), middle_blocks=1, decoder_blocks=(1,), lightweight=True)
TINY = Recipe(
    task="denoise",
    network=SIZES,
    degradations=Mixture(gaussian=Gaussian(sigma=(25.0, 25.0))),
    data=DataRecipe(shrink=(2,), scenes=2, scene_size=48, scene_share=0.5, held_out_photos=1),
    optimisation=OptimisationRecipe(patch=16, batch=2),
    facts=FactsRecipe(limit=(-0.5, 1.5), sigma=(25.0, 25.0)),
)
TINY_FILE = """task = "denoise"
[network]
width = 8
encoder_blocks = [1]
middle_blocks = 1
decoder_blocks = [1]
[data]
shrink = [2]
scenes = 2
scene_size = 48
held_out_photos = 1
[optimisation]
patch = 16
batch = 2
[degradations.gaussian]
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for index in range(3):
        coarse = generator.integers(0, 256, (14, 12, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((288, 300), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


@pytest.fixture(autouse=True)
def few_held_out_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "HELD_OUT_PATCHES", 4)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load(path).network.state_dict()


def same(one: Path, other: Path) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_learning_rate_rises_and_falls() -> None:
    how = OptimisationRecipe(learning_rate=1.0, final_learning_rate=0.1, warm_up=0.1)
    rates = [learning_rate(how, share) for share in (0.0, 0.05, 0.1, 0.55, 1.0)]
    assert rates == pytest.approx([0.01, 0.5, 1.0, 0.55, 0.1])


def test_the_psnr_loss_is_the_patches_psnr_and_harmless_where_they_are_equal() -> None:
    clean = torch.rand(2, 3, 8, 8)
    restored = clean + torch.tensor([0.1, 0.05]).view(2, 1, 1, 1)
    # 20 dB and 26 dB are 23 dB on average, as natural logarithm of the mean square.
    assert psnr_loss(restored, clean).item() == pytest.approx(-23.01 * math.log(10) / 10, abs=0.01)
    equal = clean.clone().requires_grad_()
    psnr_loss(equal, clean).backward()
    assert equal.grad is not None
    assert torch.equal(equal.grad, torch.zeros_like(clean))


def test_an_interrupted_training_ends_with_the_same_weights(photos: Path, tmp_path: Path) -> None:
    class StopNowError(Exception):
        pass

    def interrupt(report: Report) -> None:
        if report.step == 2:
            raise StopNowError

    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    steps = Budget(steps=3)
    last = train(TINY, photos, whole, budget=steps, seed=4)
    with pytest.raises(StopNowError):
        train(TINY, photos, parts, budget=steps, seed=4, checkpoint_minutes=0.0, progress=interrupt)
    # The seed is in the state: that of the call does not count.
    resumed = train(TINY, photos, parts, budget=steps, seed=99, resume=True)
    assert (last.step, resumed.step, resumed.share) == (3, 3, 1.0)
    assert last.held_out_psnr == resumed.held_out_psnr
    assert last.loss == resumed.loss
    assert same(whole, parts)
    assert load(whole).facts == Facts(task="denoise", tile=256, limit=(-0.5, 1.5), sigma=(25.0, 25.0), card=None)
    with parts.with_suffix(".csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[-1]["held_out_gain"]) == pytest.approx(last.held_out_gain or 0, abs=1e-3)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("number", list(EXIT_CODES))
def test_a_signal_waits_for_the_checkpoint(photos: Path, tmp_path: Path, number: signal.Signals) -> None:
    came: list[int] = []

    def send(report: Report) -> None:
        if report.step == 1 and not came:
            os.kill(os.getpid(), number)

    before = signal.signal(number, lambda arrived, _frame: came.append(arrived))
    try:
        last = train(TINY, photos, tmp_path / "w.safetensors", budget=Budget(steps=4), progress=send)
    finally:
        signal.signal(number, before)
    assert came == [number], "it is handed on"
    assert last.step == 2, "the step that ran is done"
    whole = train(TINY, photos, tmp_path / "whole.safetensors", budget=Budget(steps=4), seed=0)
    resumed = train(TINY, photos, tmp_path / "w.safetensors", budget=Budget(steps=4), resume=True)
    assert (whole.step, resumed.step) == (4, 4)
    assert same(tmp_path / "whole.safetensors", tmp_path / "w.safetensors")


def test_a_signal_that_is_ignored_stays_so(photos: Path, tmp_path: Path) -> None:
    def send(_: Report) -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        last = train(TINY, photos, tmp_path / "w.safetensors", budget=Budget(steps=2), progress=send)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert last.step == 2


@pytest.mark.skipif(sys.platform == "win32", reason="there no terminal hangs up")
def test_a_terminal_that_is_closed_ends_a_training_that_is_saved(photos: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "tiny.toml", tmp_path / "w.safetensors"
    recipe.write_text(TINY_FILE)
    words = ["train", str(recipe), "--photos", str(photos), "-o", str(output), "--minutes", "10", "--device", "cpu"]
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "kbnet_cli", *words], stdin=theirs, stdout=theirs, stderr=theirs
    ) as run:
        os.close(theirs)
        shown = b""
        while b"step" not in shown and run.poll() is None:
            shown += os.read(ours, 4096)
        os.close(ours)
        run.send_signal(signal.SIGHUP)  # as the system does when a terminal goes
        assert run.wait(60) == 129, shown
    assert load(output).facts.task == "denoise"
    assert output.with_suffix(".state").is_file()


def test_a_training_runs_outside_the_main_thread(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "w.safetensors"
    thread = threading.Thread(target=train, args=(TINY, photos, output), kwargs={"budget": Budget(steps=1)})
    thread.start()
    thread.join()
    assert load(output).facts.task == "denoise"


def test_training_learns(photos: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, optimisation=replace(TINY.optimisation, batch=4, learning_rate=5e-3))
    for loss in ("l1", "psnr"):
        chosen = replace(recipe, optimisation=replace(recipe.optimisation, loss=loss))
        last = train(chosen, photos, tmp_path / f"{loss}.safetensors", budget=Budget(steps=40))
        assert last.held_out_gain is not None
        assert last.held_out_gain > 0.5, loss


def test_training_needs_no_photos(tmp_path: Path) -> None:
    recipe = replace(TINY, data=replace(TINY.data, scenes=4, scene_size=64))
    last = train(recipe, None, tmp_path / "w.safetensors", budget=Budget(steps=2))
    assert last.held_out_psnr is not None


def test_bf16_multiplies_in_bf16_and_keeps_float32(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    known = kba.products

    def watched(precision: Literal["fp32", "bf16"]) -> AbstractContextManager[None]:
        asked.append(precision)
        return known(precision)

    monkeypatch.setattr(loop, "products", watched)
    losses = [
        train(
            TINY, photos, tmp_path / "w.safetensors", budget=Budget(steps=3), machine=Machine(precision=precision)
        ).loss
        for precision in ("fp32", "bf16")
    ]
    assert set(asked) == {"bf16"}
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert {tensor.dtype for tensor in tensors(tmp_path / "w.safetensors").values()} == {torch.float32}


def test_weights_can_be_stored_in_half_the_bytes(photos: Path, tmp_path: Path) -> None:
    recipe = replace(TINY, facts=replace(TINY.facts, storage="float16"))
    for name, chosen in (("whole", TINY), ("half", recipe)):
        train(chosen, photos, tmp_path / f"{name}.safetensors", budget=Budget(steps=1))
    whole, half = (tmp_path / f"{name}.safetensors" for name in ("whole", "half"))
    assert outline(half).dtype == "float16"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    for name, tensor in tensors(whole).items():
        assert torch.equal(tensor.half().float(), tensors(half)[name])


def test_a_kbnet_l_can_be_trained(photos: Path, tmp_path: Path) -> None:
    sizes = KBNetLSizes(width=8, blocks=(1, 0, 0, 0), refinement_blocks=1)
    recipe = replace(TINY, task="dejpeg", network=sizes, degradations=Mixture(jpeg=Jpeg()))
    recipe = replace(recipe, data=replace(TINY.data, shrink=(1,)))
    train(recipe, photos, tmp_path / "w.safetensors", budget=Budget(steps=2))
    done = load(tmp_path / "w.safetensors")
    assert done.network.sizes == sizes
    assert done.facts.task == "dejpeg"


def test_a_training_begins_with_weights(photos: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    train(TINY, photos, first, budget=Budget(steps=2))
    begun = new_state(replace(TINY, network=None, init="first.safetensors"), 5, start=first)
    for name, tensor in tensors(first).items():
        assert torch.equal(begun.network.state_dict()[name], tensor)
        assert torch.equal(begun.average.state_dict()[name], tensor)
    assert all(parameter.requires_grad for parameter in begun.network.parameters())
    wider = replace(TINY, network=replace(SIZES, width=16))
    with pytest.raises(UsageError, match="the recipe asks for"):
        new_state(wider, 0, start=first)


def test_resuming_needs_a_state_of_the_same_recipe(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "w.safetensors"
    with pytest.raises(UsageError, match="no such file to resume from"):
        train(TINY, photos, output, budget=Budget(steps=1), resume=True)
    train(TINY, photos, output, budget=Budget(steps=1))
    wider = replace(TINY, network=replace(SIZES, width=16))
    with pytest.raises(UsageError, match="does not fit the recipe"):
        train(wider, photos, output, budget=Budget(steps=2), resume=True)
    output.with_suffix(".state").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="does not fit the recipe"):
        train(TINY, photos, output, budget=Budget(steps=2), resume=True)


def test_a_full_disk_is_an_error_and_keeps_the_last_checkpoint(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "w.safetensors"
    train(TINY, photos, output, budget=Budget(steps=1))
    before = [path.read_bytes() for path in (output, output.with_suffix(".state"))]

    def full(_number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        train(TINY, photos, output, budget=Budget(steps=2), resume=True)
    assert [path.read_bytes() for path in (output, output.with_suffix(".state"))] == before
    assert not list(tmp_path.glob("*.partial"))


def test_a_folder_that_cannot_be_made_is_named(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        train(TINY, photos, tmp_path / "file" / "w.safetensors", budget=Budget(steps=1))


def test_a_folder_without_photos_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 photos"):
        train(TINY, tmp_path, tmp_path / "w.safetensors", budget=Budget(steps=1))
    with pytest.raises(InputError, match="is no folder"):
        train(TINY, tmp_path / "none", tmp_path / "w.safetensors", budget=Budget(steps=1))


def test_the_command(kbnet: Call, photos: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "r.toml", tmp_path / "w.safetensors"
    recipe.write_text(TINY_FILE)
    words: Callable[..., tuple[object, ...]] = lambda *more: (  # noqa: E731
        "train", recipe, "--photos", photos, "-o", output, "--minutes", "0.01", *more,
    )  # fmt: skip
    done = kbnet(*words())
    assert done.code == 0
    assert done.stdout == ""
    assert "held out" in done.stderr
    assert f"wrote {output}" in done.stderr
    assert load(output).facts.task == "denoise"
    again = kbnet(*words())
    assert again.code == 2
    assert "exists" in again.stderr
    assert "--resume" in again.stderr
    assert kbnet(*words("--resume")).code == 0
    assert kbnet(*words("--overwrite")).code == 0
    tuned = tmp_path / "tuned.toml"
    tuned.write_text(
        'task = "denoise"\ninit = "w.safetensors"\n[degradations.camera]\n'
        "[data]\nshrink = [1]\nscenes = 0\nheld_out_photos = 1\n"
    )
    done = kbnet("train", tuned, "--photos", photos, "-o", tmp_path / "t.safetensors", "--minutes", "0.01")
    assert done.code == 0, done.stderr
    assert load(tmp_path / "t.safetensors").network.sizes == load(output).network.sizes
    again = kbnet("train", tuned, "--photos", photos, "-o", tmp_path / "t.safetensors", "--minutes", "0.02", "--resume")
    assert again.code == 0, again.stderr
    wrong = kbnet("train", recipe, "-o", tmp_path / "w.pth")
    assert wrong.code == 2
    assert "safetensors" in wrong.stderr
