"""The loop: patches in, weights out, in a given time or number of steps, and on from where it was."""

import csv
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know it by
from torch import Tensor

from kbnet_cli.errors import OutputError
from kbnet_cli.kernels.float32 import Precision, settle_float32
from kbnet_cli.kernels.kba import products
from kbnet_cli.stopping import EXIT_CODES, understood
from kbnet_cli.training.feeder import Batch, Feeder, batches
from kbnet_cli.training.pictures import prepare
from kbnet_cli.training.recipe import OptimisationRecipe, Recipe
from kbnet_cli.training.state import TrainingState, load_state, new_state, save_state, save_weights

LOSS_SMOOTHING = 0.98
NEARLY_EQUAL = (1 / 255) ** 2
"""Mean squares below this count little in the PSNR loss: 48 dB, a step of 8 bits. Equal patches have no logarithm."""


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
    """The recipe's, smoothed over steps."""
    gradient: float
    """Norm of the last step's gradient before it is shortened."""
    learning_rate: float
    waited: float
    """The share of the time in which the network waited for patches, 0…1."""
    held_out_psnr: float | None
    """Mean PSNR in dB on patches that are not trained on; only where a checkpoint is written."""
    held_out_gain: float | None
    """How much that is above the degraded patches', in dB."""


@dataclass(frozen=True)
class Machine:
    """What a training runs on."""

    device: str = "cpu"
    precision: Precision = "fp32"
    """fp32, tf32 or bf16: multiplications in bfloat16, weights and optimiser in float32. On a CPU those of the kernel
    basis attention alone, and only with tiles for it (AMX): small patches gain nothing from the rest."""


@dataclass
class _Clock:
    """Where the time goes since the training was started or resumed."""

    waiting: float = 0.0
    working: float = 0.0

    @property
    def waited(self) -> float:
        return self.waiting / max(1e-9, self.waiting + self.working)


def train(
    recipe: Recipe,
    photos: Path | None,
    output: Path,
    *,
    budget: Budget,
    resume: bool = False,
    seed: int = 0,
    start: Path | None = None,
    machine: Machine = Machine(),
    cache: Path | None = None,
    checkpoint_minutes: float = 3.0,
    preparing: Callable[[int, int], None] = lambda _done, _all: None,
    progress: Callable[[Report], None] = lambda _report: None,
) -> Report:
    """Train a network and write it to a safetensors file.

    Beside the output lie `NAME.state` (to resume from) and `NAME.csv` (how it went); all three are brought up to date
    every few minutes, when it is interrupted, and at the end. With a budget of steps, the same seed gives the same
    weights on the same machine, interrupted or not.

    Args:
        recipe: what is trained and how.
        photos: a folder of photos; None to train on generated scenes alone.
        output: the safetensors file; its moving-average weights are written.
        budget: when to end. The learning rate follows the share of it that is used.
        resume: go on from `NAME.state`.
        seed: of the network, the pictures and the patches. A resumed training keeps its own.
        start: weights to begin with, where the recipe's `init` names some.
        machine: the device and the precision.
        cache: an .npz file for the prepared pictures; made if it is not there.
        checkpoint_minutes: time between two checkpoints.
        preparing: called for each picture that is prepared, with how many are done and how many there are.
        progress: called after each step.

    Raises:
        UsageError: there is nothing to resume from, or it does not fit the recipe.
        WeightsError: the weights to begin with cannot be read.
        InputError: there are no photos to train on.
        OutputError: what comes out cannot be written.
    """
    settle_float32(machine.precision)
    state = new_state(recipe, seed, start=start, device=machine.device)
    state_file = output.with_suffix(".state")
    if resume:
        load_state(state, state_file)
    pictures = prepare(
        recipe.data,
        photos,
        patch=recipe.optimisation.patch,
        margin=recipe.degradations.margin,
        seed=state.seed,
        cache=cache,
        progress=preparing,
    )
    feeder = Feeder(pictures, recipe, state.seed)
    held_out = feeder.held_out()
    log = _Log(output.with_suffix(".csv"), resume=resume)
    # Numbers below 1e-38 cost a hundred times the time of others, and the first layers' gradients are full of them.
    torch.set_flush_denormal(True)
    waiting = batches(feeder, first=state.step, device=torch.device(machine.device))
    gradient, saved_at, clock = math.nan, state.seconds, _Clock()
    with _interrupts() as interrupted:
        while True:
            share = budget.share_used(state)
            ending = share >= 1 or bool(interrupted.numbers)
            due = ending or state.seconds - saved_at >= 60 * checkpoint_minutes
            psnr, gain = held_out_psnr(state, held_out, machine) if due and held_out else (None, None)
            rate = learning_rate(recipe.optimisation, share)
            report = Report(state.step, state.seconds, share, state.loss, gradient, rate, clock.waited, psnr, gain)
            if due:
                saved_at = state.seconds
                save_state(state, state_file)
                save_weights(state.average, recipe, output)
                log.write(report)
            progress(report)
            if ending:
                return report
            began = time.perf_counter()
            batch = next(waiting)
            ready = time.perf_counter()
            loss, gradient = _step(state, recipe.optimisation, batch, rate, machine)
            state.loss = loss if math.isnan(state.loss) else LOSS_SMOOTHING * state.loss + (1 - LOSS_SMOOTHING) * loss
            ended = time.perf_counter()
            clock.waiting += ready - began
            clock.working += ended - ready
            state.seconds += ended - began


def learning_rate(how: OptimisationRecipe, share: float) -> float:
    """Return the rate where `share` (0…1) of the budget is used: a straight rise, then half a cosine."""
    if share < how.warm_up:
        return how.learning_rate * max(share / how.warm_up, 0.01)
    fallen = (share - how.warm_up) / max(1 - how.warm_up, 1e-9)
    height = 0.5 * (1 + math.cos(math.pi * fallen))
    return how.final_learning_rate + (how.learning_rate - how.final_learning_rate) * height


def psnr_loss(restored: Tensor, clean: Tensor) -> Tensor:
    """Return the mean over patches of ln(mean square difference), to which PSNR is proportional.

    Strongly and weakly degraded patches count alike: a tenth off the error is as much for one as for the other. Source:
    Chen, Lu, Zhang, Chu and Chen, HINet: half instance normalization network for image restoration, 2021.
    """
    return torch.log((restored - clean).square().mean(dim=(1, 2, 3)) + NEARLY_EQUAL).mean()


def _step(
    state: TrainingState, how: OptimisationRecipe, batch: Batch, rate: float, machine: Machine
) -> tuple[float, float]:
    """Take one step and return the loss and the gradient's norm."""
    degraded, clean = (tensor.to(machine.device, non_blocking=True) for tensor in (batch.degraded, batch.clean))
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    state.network.train()
    with _precision(machine):
        restored = state.network(degraded)
    loss = psnr_loss(restored.float(), clean) if how.loss == "psnr" else F.l1_loss(restored.float(), clean)
    state.optimiser.zero_grad()
    loss.backward()
    gradient = torch.nn.utils.clip_grad_norm_(state.network.parameters(), how.longest_gradient)
    state.optimiser.step()
    state.step += 1
    # A mean over few steps follows the first ones fast; later ones weigh as the recipe says.
    kept = min(how.averaging, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(state.average.parameters()), list(state.network.parameters()), 1 - kept)
    return loss.item(), float(gradient)


def _precision(machine: Machine) -> AbstractContextManager[None]:
    device = machine.device.partition(":")[0]
    if machine.precision != "bf16":
        return nullcontext()
    return products("bf16") if device == "cpu" else torch.autocast(device, dtype=torch.bfloat16)


def held_out_psnr(state: TrainingState, held_out: Batch, machine: Machine) -> tuple[float, float]:
    """Return the moving average's mean PSNR in dB on the held-out patches, and its gain over the degraded ones'."""
    state.average.eval()
    found, before = [], []
    for degraded, clean in zip(held_out.degraded.split(8), held_out.clean.split(8), strict=True):
        with torch.no_grad(), _precision(machine):
            restored = state.average(degraded.to(machine.device)).float().cpu()
        found.append(_psnr(restored, clean))
        before.append(_psnr(degraded, clean))
    psnr = float(torch.cat(found).mean())
    return psnr, psnr - float(torch.cat(before).mean())


def _psnr(picture: Tensor, clean: Tensor) -> Tensor:
    # Equal patches count as 48 dB: a mean over infinity would tell nothing.
    return -10 * torch.log10((picture.clamp(0, 1) - clean).square().mean(dim=(1, 2, 3)).clamp_min(NEARLY_EQUAL))


@dataclass
class _Interrupted:
    """The signals that came."""

    numbers: list[int] = field(default_factory=list)

    def take(self, number: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        understood(number)
        self.numbers.append(number)


@contextmanager
def _interrupts() -> Iterator[_Interrupted]:
    """Let signals that would end the program wait until a step is done and saved, then hand them on.

    Those that are ignored stay so. Outside the main thread signals do not arrive, and nothing is changed.
    """
    came = _Interrupted()
    before = {}
    try:
        for number in EXIT_CODES:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, came.take)
    except ValueError:
        before.clear()
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for arrived in came.numbers[:1]:
        signal.raise_signal(arrived)


class _Log:
    """The training's course as CSV, one line a checkpoint."""

    HEADINGS = ("step", "seconds", "loss", "gradient", "learning_rate", "waited", "held_out_psnr", "held_out_gain")

    def __init__(self, path: Path, *, resume: bool) -> None:
        self.path = path
        if not (resume and path.is_file()):
            self._write_line("w", self.HEADINGS)

    def write(self, report: Report) -> None:
        held_out = ("" if one is None else f"{one:.3f}" for one in (report.held_out_psnr, report.held_out_gain))
        self._write_line(
            "a",
            (
                str(report.step),
                f"{report.seconds:.1f}",
                f"{report.loss:.5f}",
                f"{report.gradient:.4f}",
                f"{report.learning_rate:.2e}",
                f"{report.waited:.3f}",
                *held_out,
            ),
        )

    def _write_line(self, mode: str, cells: tuple[str, ...]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode, newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(cells)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror or error}",
                hint="check the folder, its permissions and the free space",
            ) from error
