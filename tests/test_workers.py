"""Several devices as one: tiles answered in processes of their own, and what becomes of all when one of them ends."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from kbnet_cli import checkpoint
from kbnet_cli.choosing import choose
from kbnet_cli.engine import Engine
from kbnet_cli.errors import DeviceError, InputError, KBNetError, PhotoError, WeightsError
from kbnet_cli.slots import Slots
from kbnet_cli.worker import Answer, Failure, Request, Start
from kbnet_cli.workers import RemoteEngine, Workers
from tests.networks import random_network, save
from tests.pictures import write_picture
from tests.processes import alive, children

if sys.platform != "linux":
    pytest.skip("reads Linux's maps of a process", allow_module_level=True)

from tests.launching import Launcher, Run
from tests.long_jobs import Bytes, contents

SECONDS = 60
TILE = 64
PAIR = choose("cpu,cpu", "fp32")


def worker_ids(parent: int | None = None) -> list[int]:
    """Return the worker processes of a process, of this one without any, the eldest first."""
    return children(parent, running="kbnet_cli.worker")


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def tiles(count: int, size: tuple[int, int] = (TILE, TILE)) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.random((1, *size, 3)).astype(np.float32) for _ in range(count)]


@pytest.fixture
def pair() -> Iterator[Workers]:
    """Two processes that are not started yet."""
    workers = Workers(PAIR, tile=TILE)
    yield workers
    workers.close()
    assert worker_ids() == []


def remote(path: Path, workers: Workers) -> RemoteEngine:
    return RemoteEngine(checkpoint.load(path), workers)


@pytest.fixture
def single(random_weights: Path) -> Iterator[Engine]:
    """The same network in this process, with as many threads as each of two has."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    yield Engine(checkpoint.load(random_weights), choose("cpu", "fp32"))
    torch.set_num_threads(before)


def test_many_callers_get_what_one_engine_answers_to_the_bit(
    pair: Workers, random_weights: Path, single: Engine, tmp_path: Path
) -> None:
    other_weights = save(random_network(seed=1), tmp_path / "other.safetensors", limit="-0.5,1.5")
    engine, other = remote(random_weights, pair), remote(other_weights, pair)
    assert (engine.image_channels, engine.size_multiple) == (single.image_channels, single.size_multiple)
    assert (engine.checkpoint.name, engine.checkpoint.sha256) == (single.checkpoint.name, single.checkpoint.sha256)
    assert worker_ids() == [], "started without need"
    (first, *rest) = asked = tiles(20) + tiles(20, (34, 50))
    np.testing.assert_array_equal(engine.residual(first), single.residual(first))
    assert len(worker_ids()) == 1, "one tile needs one process only"
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(engine.residual, rest))
        started = worker_ids()
        others = list(pool.map(other.residual, asked[:4]))
    assert len(started) == 2
    for tile, answer in zip(rest, answers, strict=True):
        np.testing.assert_array_equal(answer, single.residual(tile))
    expected = Engine(checkpoint.load(other_weights), single.choice)
    for tile, answer in zip(asked, others, strict=False):
        np.testing.assert_array_equal(answer, expected.residual(tile))
    together = np.concatenate(asked[:3])
    # One after the other: what torch sums up in a batch is rounded in another way.
    expected_together = np.concatenate([single.residual(tile) for tile in asked[:3]])
    np.testing.assert_array_equal(engine.residual(together), expected_together)
    assert worker_ids() == started, "both networks are in the same processes"


def test_tiles_of_a_process_that_is_killed_go_to_the_other(random_weights: Path, single: Engine) -> None:
    told: list[str] = []
    workers = Workers(PAIR, tile=TILE, tell=told.append)
    engine = remote(random_weights, workers)
    asked = tiles(12)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(engine.residual, tile) for tile in asked]
        until(lambda: len(worker_ids()) == 2)
        # Stopped, so that it has tiles in hand when it ends: half of the six that are asked for at once.
        os.kill(worker_ids()[0], signal.SIGSTOP)
        until(lambda: sum(future.done() for future in answers) > 2)
        os.kill(worker_ids()[0], signal.SIGKILL)
        found = [future.result(SECONDS) for future in answers]
    for tile, answer in zip(asked, found, strict=True):
        np.testing.assert_array_equal(answer, single.residual(tile))
    assert told == ["the process on cpu was killed by SIGKILL; the other devices go on without it"]
    del engine, workers
    gc.collect()
    assert worker_ids() == [], "they end with what they answer to"


def test_without_any_process_left_it_is_an_error_of_the_device(pair: Workers, random_weights: Path) -> None:
    engine = remote(random_weights, pair)
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(engine.residual, tile) for tile in tiles(2)]
        until(lambda: len(worker_ids()) == 2)
        for process in worker_ids():
            os.kill(process, signal.SIGKILL)
        for answer in answers:
            with pytest.raises(DeviceError, match=r"the process on cpu was killed by SIGKILL") as failed:
                answer.result(SECONDS)
            assert "memory" in failed.value.hint
    with pytest.raises(DeviceError, match=r"^no process is left to answer tiles: .*; .*$"):
        engine.residual(tiles(1)[0])


def test_nothing_is_started_after_the_end(pair: Workers, random_weights: Path) -> None:
    engine = remote(random_weights, pair)
    engine.residual(tiles(1)[0])
    pair.close()
    with pytest.raises(DeviceError, match=r"^the processes that answer tiles were ended$"):
        engine.residual(tiles(1)[0])
    assert worker_ids() == []


def test_what_a_process_said_before_its_end_is_kept(
    pair: Workers, random_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError, match=r"ended with exit code 1 \(ImportError: this torch is broken\)") as failed:
        remote(random_weights, pair).residual(tiles(1)[0])
    assert "Traceback" in str(failed.value.__cause__)


LOST = """
from kbnet_cli import engine
from kbnet_cli.errors import LostDeviceError

def residual(*_):
    raise LostDeviceError("cuda:7 has stopped working: CUDA error")

engine.Engine.residual = residual
"""


def test_a_process_whose_device_is_lost_ends(
    pair: Workers, random_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOST)
    monkeypatch.syspath_prepend(tmp_path)
    lost = r"^a tile was given to 2 processes.*ended with exit code 1 \(.*LostDeviceError: cuda:7 has stopped working"
    with pytest.raises(DeviceError, match=lost):
        remote(random_weights, pair).residual(tiles(1)[0])
    until(lambda: not worker_ids())


def test_errors_of_a_process_arrive_as_they_are(pair: Workers, random_weights: Path, tmp_path: Path) -> None:
    network = random_network()
    network.ending.weight.mul_(1e38)
    broken = save(network, tmp_path / "broken.safetensors")
    (tile,) = tiles(1)
    with pytest.raises(PhotoError, match=r"^the network's answer is not finite$") as unfinished:
        remote(broken, pair).residual(tile)
    assert "other weights" in unfinished.value.hint
    assert unfinished.value.__cause__ is None

    engine = remote(broken, pair)
    save(random_network(seed=2), broken)
    engine.checkpoint = checkpoint.load(random_weights)
    with pytest.raises(WeightsError, match="was changed while it was used"):
        engine.residual(tile)

    with pytest.raises(PhotoError, match=r"^unexpected [A-Za-z]+: ") as unexpected:
        remote(random_weights, pair).residual(np.zeros((1, 8, 8, 2), np.float32))
    assert 'File "' in str(unexpected.value.__cause__)
    assert remote(random_weights, pair).residual(tile).shape == tile.shape, "it is well after all that"


@pytest.mark.parametrize("error", [InputError("a", hint="b"), DeviceError("c"), KBNetError("d", hint="e")])
def test_messages_come_out_as_they_went_in(error: KBNetError) -> None:
    error.__cause__ = ValueError("behind it")
    failure = Failure.of(error)
    for answer in (Answer(3, failure), Answer(4, redone=1, notes=("one", "two"))):
        assert Answer.from_json(answer.to_json()) == answer
    again = failure.error()
    assert (type(again), again.message, again.hint) == (type(error), error.message, error.hint)
    assert "ValueError: behind it" in str(again.__cause__)
    request = Request(1, (2, 3, 4), "ü/\udce9.safetensors", "abc")
    assert Request.from_json(request.to_json()) == request
    slots = Slots.create(2, 5)
    start = Start("cuda:1", "bf16", 3, slots.where)
    assert Start.from_json(start.to_json()) == start
    slots.close()


def test_slots_are_seen_from_elsewhere_and_have_no_name() -> None:
    slots = Slots.create(3, 100)
    elsewhere = Slots(slots.where)
    slots.view(2, (2, 3, 4))[:] = 7
    assert (elsewhere.view(2, (2, 3, 4)) == 7).all()
    assert not elsewhere.view(1, (2, 3, 4)).any()
    with pytest.raises(AssertionError):
        slots.view(0, (1000, 1000, 3))
    if sys.platform == "linux":
        link = Path(f"/proc/self/fd/{slots.where.descriptor}").readlink()
        assert str(link).endswith(" (deleted)")
    slots.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, random_weights: Path) -> tuple[Path, Bytes]:
    """A folder of photos, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "in").mkdir()
    for number in range(12):
        write_picture(folder / "in" / f"{number:02}.png", size=(100 + number, 150))
    done = Launcher(folder, random_weights).run("denoise", "in", "-r", "--json", "-o", "out/", "--device", "cpu")
    assert done.code == 0, done.stderr
    return folder / "in", contents(folder / "out")


@pytest.fixture
def place(tmp_path: Path, random_weights: Path) -> Iterator[Launcher]:
    """A folder of its own, and runs of kbnet in it."""
    launcher = Launcher(tmp_path, random_weights)
    yield launcher
    launcher.close()


def begun(place: Launcher, photos: tuple[Path, Bytes]) -> tuple[Run, list[int]]:
    """Start a run on two devices, and wait for both processes and for the first photo."""
    run = place.start("denoise", photos[0], "-r", "--json", "-o", "out/", "--device", "cpu,cpu")
    assert run.until(lambda: len(worker_ids(run.pid)) == 2 and contents(place.folder / "out"))
    return run, worker_ids(run.pid)


def test_pictures_of_two_devices_are_those_of_one_to_the_bit(place: Launcher, photos: tuple[Path, Bytes]) -> None:
    run, workers = begun(place, photos)
    os.kill(workers[1], signal.SIGKILL)
    assert run.end() == 0, run.stderr
    assert contents(place.folder / "out") == photos[1]
    assert {event["device"] for event in run.events} == {"cpu,cpu"}
    assert "warning: the process on cpu was killed by SIGKILL; the other devices go on without it" in run.stderr
    until(lambda: not any(map(alive, workers)))


def test_a_run_whose_processes_are_all_killed_says_so(place: Launcher, photos: tuple[Path, Bytes]) -> None:
    run, workers = begun(place, photos)
    for worker in workers:
        os.kill(worker, signal.SIGKILL)
    assert run.end() == 2
    assert "the process on cpu was killed by SIGKILL" in run.stderr
    assert "hint: the system ends programs when memory runs out" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.slow
def test_nothing_is_left_of_a_run_that_is_killed(place: Launcher, photos: tuple[Path, Bytes]) -> None:
    run, workers = begun(place, photos)
    shared = [line for process in (run.pid, *workers) for line in mapped(process) if "/dev/shm/" in line]
    assert [line for line in mapped(run.pid) if "memfd:kbnet" in line]
    run.kill()
    until(lambda: not any(map(alive, workers)))
    assert not [line for line in shared if Path(line.split(maxsplit=5)[5]).exists()]


def mapped(process: int) -> list[str]:
    return Path(f"/proc/{process}/maps").read_text().splitlines()


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_of_a_terminal_lets_photos_in_hand_be_finished_once(
    times: int, place: Launcher, photos: tuple[Path, Bytes]
) -> None:
    run, workers = begun(place, photos)
    for _ in range(times):
        run.send(signal.SIGINT, group=True)
        run.until(run.was_asked)
    assert run.end(30) == 130
    assert "Traceback" not in run.stderr
    until(lambda: not any(map(alive, workers)))
    found = contents(place.folder / "out")
    assert found.items() <= photos[1].items()
    if times == 1:
        summary = run.events[-1]
        assert (summary["stopped"], summary["failed"]) == ("interrupted", 0)
        assert summary["done"] == len(found)
        assert summary["left"] > 0
