"""The loop: patches in, weights out, in a given time or number of steps, and on from where it was."""

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by

from kbnet_cli.training.degradations import add_gaussian_noise
from kbnet_cli.training.pictures import Pictures, batch, prepare
from kbnet_cli.training.recipe import OptimisationRecipe, Recipe
from kbnet_cli.training.state import TrainingState, load_state, new_state, save_state, save_weights

HELD_OUT_SIGMA = 25.0
LOSS_SMOOTHING = 0.98


@dataclass(frozen=True)
class Budget:
    """When a training ends: after minutes of work, waiting and preparation not counted, or after steps."""

    minutes: float | None = None
    steps: int | None = None

    def share_used(self, state: TrainingState) -> float:
        """Return how much of it is gone, 0…1."""
        by_time = state.seconds / (60 * self.minutes) if self.minutes else 0.0
        by_steps = state.step / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_steps))


@dataclass(frozen=True)
class Report:
    """How a training stands."""

    step: int
    seconds: float
    share: float
    """How much of the budget is used, 0…1."""
    loss: float
    """Mean absolute difference, smoothed over steps; white is 1."""
    gradient: float
    """Norm of the last step's gradient before it is shortened."""
    held_out_psnr: float | None
    """PSNR in dB on patches that are not trained on, at sigma 25; only where a checkpoint is written."""


def train(
    recipe: Recipe,
    photos: Path,
    output: Path,
    *,
    budget: Budget,
    resume: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    checkpoint_minutes: float = 3.0,
    progress: Callable[[Report], None] | None = None,
) -> Report:
    """Train a network and write it to a safetensors file.

    Beside the output lie `NAME.state` (to resume from) and `NAME.csv` (how it went); all three are brought up to date
    every few minutes and at the end. With a budget of steps, the same seed gives the same weights on the same machine,
    interrupted or not.

    Args:
        recipe: what is trained and how.
        photos: a folder of photos.
        output: the safetensors file; its moving-average weights are written.
        budget: when to end. The learning rate follows the share of it that is used.
        resume: go on from `NAME.state`.
        seed: of the network, the pictures and the patches.
        cache: an .npz file for the prepared pictures; made if it is not there.
        checkpoint_minutes: time between two checkpoints.
        progress: called after each step.

    Raises:
        UsageError: there is nothing to resume from, or it does not fit the recipe.
        InputError: there are no photos to train on.
    """
    state = new_state(recipe, seed)
    state_file = output.with_suffix(".state")
    if resume:
        load_state(state, state_file)
    pictures = prepare(recipe.data, photos, patch=recipe.optimisation.patch, seed=seed, cache=cache)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = _Log(output.with_suffix(".csv"), resume=resume)
    # Numbers below 1e-38 cost a hundred times the time of others, and the first layers' gradients are full of them.
    torch.set_flush_denormal(True)
    loss, gradient, saved_at = math.nan, math.nan, state.seconds
    while True:
        share = budget.share_used(state)
        due = share >= 1 or state.seconds - saved_at >= 60 * checkpoint_minutes
        psnr = held_out_psnr(state, pictures) if due else None
        report = Report(state.step, state.seconds, share, loss, gradient, psnr)
        if due:
            saved_at = state.seconds
            save_state(state, state_file)
            save_weights(state.average, recipe, output)
            log.write(report)
        if progress:
            progress(report)
        if share >= 1:
            return report
        start = time.perf_counter()
        now, gradient = _step(state, recipe, pictures, share)
        loss = now if math.isnan(loss) else LOSS_SMOOTHING * loss + (1 - LOSS_SMOOTHING) * now
        state.seconds += time.perf_counter() - start


def learning_rate(how: OptimisationRecipe, share: float) -> float:
    """Return the rate where `share` (0…1) of the budget is used: a straight rise, then half a cosine."""
    if share < how.warm_up:
        return how.learning_rate * max(share / how.warm_up, 0.01)
    fallen = (share - how.warm_up) / max(1 - how.warm_up, 1e-9)
    height = 0.5 * (1 + math.cos(math.pi * fallen))
    return how.final_learning_rate + (how.learning_rate - how.final_learning_rate) * height


def _step(state: TrainingState, recipe: Recipe, pictures: Pictures, share: float) -> tuple[float, float]:
    """Take one step and return the loss and the gradient's norm."""
    how = recipe.optimisation
    clean = batch(pictures, state.generator, count=how.batch, patch=how.patch, scene_share=recipe.data.scene_share)
    noisy = add_gaussian_noise(clean, state.generator, sigma=recipe.noise.sigma)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(how, share)
    state.network.train()
    loss = F.l1_loss(state.network(torch.from_numpy(noisy)), torch.from_numpy(clean))
    state.optimiser.zero_grad()
    loss.backward()
    gradient = torch.nn.utils.clip_grad_norm_(state.network.parameters(), how.longest_gradient)
    state.optimiser.step()
    state.step += 1
    # A mean over few steps follows the first ones fast; later ones weigh as the recipe says.
    kept = min(how.averaging, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        pairs = zip(state.average.parameters(), state.network.parameters(), strict=True)
        for average, latest in pairs:
            average.lerp_(latest, 1 - kept)
    return loss.item(), float(gradient)


def held_out_psnr(state: TrainingState, pictures: Pictures) -> float | None:
    """Return the moving average's PSNR in dB on the held-out patches, the same noise each time; None without any."""
    if not len(pictures.held_out):
        return None
    clean = pictures.held_out.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    noisy = add_gaussian_noise(clean, np.random.default_rng(0), sigma=(HELD_OUT_SIGMA, HELD_OUT_SIGMA))
    state.average.eval()
    with torch.no_grad():
        restored = state.average(torch.from_numpy(noisy)).clamp(0, 1).numpy()
    errors = ((restored - clean) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(-10 * np.log10(errors)))


class _Log:
    """The training's course as CSV, one line a checkpoint."""

    HEADINGS = ("step", "seconds", "loss", "gradient", "held_out_psnr")

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if not (resume and path.is_file()):
            self._write_line("w", self.HEADINGS)

    def write(self, report: Report) -> None:
        psnr = "" if report.held_out_psnr is None else f"{report.held_out_psnr:.3f}"
        self._write_line(
            "a",
            (str(report.step), f"{report.seconds:.1f}", f"{report.loss:.5f}", f"{report.gradient:.4f}", psnr),
        )

    def _write_line(self, mode: str, cells: tuple[str, ...]) -> None:
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(cells)
