"""Batches on a device: buffers, recordings and memory; on a GPU where there is one, else in this computer's memory."""

import gc
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch

from kbnet_cli import replaying
from kbnet_cli.batching import FLIGHTS, Batcher
from kbnet_cli.errors import LostDeviceError
from kbnet_cli.replaying import RECURS, Cuda, Replaying, Residual
from tests.networks import random_network
from tests.watchdog import within

HAS_GPU = torch.cuda.is_available()


class Host(Cuda):
    """This computer as a device: everything is done when it is asked for, recordings run whenever they are replayed."""

    def __init__(self) -> None:
        self.name = "host"
        self.recorded, self.given_back = 0, 0
        self.fails: Exception | None = None
        self.free = 10_000

    def host(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype)

    empty = host

    def in_force(self) -> AbstractContextManager[object]:
        return nullcontext()

    sending = in_force

    def computing(self, after: object) -> AbstractContextManager[object]:  # noqa: ARG002
        return nullcontext()

    returning = computing

    def mark(self) -> object:
        return None

    def wait(self, mark: object) -> None:
        pass

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recorded += 1
        if self.fails is not None:
            raise self.fails
        made: list[torch.Tensor] = []
        spied = work.__closure__
        assert spied is not None
        work()
        found = next(cell.cell_contents for cell in spied if isinstance(cell.cell_contents, list))
        made.extend(found)

        def replay() -> None:
            found.clear()
            work()
            for place, value in zip(made, found, strict=True):
                place.copy_(value)

        return replay

    def settle(self) -> None:
        pass

    def give_back(self) -> None:
        self.given_back += 1

    def free_bytes(self) -> int:
        return self.free

    def forget_peak(self) -> int:
        return 1000

    def peak_bytes(self) -> int:
        return 2000


def device() -> Cuda:
    return Cuda(torch.device("cuda")) if HAS_GPU else Host()


def residual() -> Residual:
    network = random_network().to("cuda" if HAS_GPU else "cpu")
    return Residual(network, (0.0, 1.0), autocast=False)


def batch(count: int, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 0.4, (count, size, size, 3)).astype(np.float32)


def expected(tiles: np.ndarray) -> np.ndarray:
    clipped = torch.from_numpy(tiles).clamp(0, 1).permute(0, 3, 1, 2).contiguous()
    return (random_network()(clipped) - clipped).permute(0, 2, 3, 1).numpy()


def check(found: np.ndarray, tiles: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected(tiles), atol=2e-3 if HAS_GPU else 2e-5)


def test_answers_are_the_same_at_first_when_recorded_and_replayed() -> None:
    runner = Replaying(residual(), device())
    for turn in range(5):
        for count, size in ((1, 16), (2, 16), (1, 32)):
            tiles = batch(count, size, seed=turn)
            answers, finite = runner.launch(list(tiles))()
            check(answers, tiles)
            assert finite.all()
    assert len(runner._graphs) == 3
    assert not runner.notes


def test_two_batches_are_on_their_way_at_once_and_do_not_touch_each_other() -> None:
    runner = Replaying(residual(), device())
    for turn in range(4):
        given = [batch(2 + number, seed=10 * turn + number) for number in range(FLIGHTS)]
        landings = [runner.launch(list(tiles)) for tiles in given]
        for tiles, landing in zip(given, landings, strict=True):
            check(landing()[0], tiles)


def test_a_tile_that_is_not_finite_is_told_of_alone() -> None:
    def network(tiles: torch.Tensor) -> torch.Tensor:
        return tiles / (tiles.amax((1, 2, 3), keepdim=True) > 0.5)

    runner = Replaying(Residual(network, (0.0, 1.0), autocast=False), device())
    tiles = np.full((3, 8, 8, 3), 0.9, np.float32)
    tiles[1] = 0.2
    for _ in range(3):
        assert runner.launch(list(tiles))()[1].tolist() == [True, False, True]


def test_the_first_tile_tells_how_many_there_is_room_for() -> None:
    runner = Replaying(residual(), device())
    shape = (16, 16, 3)
    assert runner.room(shape) is None
    runner.launch(list(batch(2)))()
    assert runner.room(shape) is None
    runner.launch(list(batch(1)))()
    room = runner.room(shape)
    assert room is not None
    assert room > 100 if HAS_GPU else room == 5, "half of what is free, by what one took"


def test_only_so_many_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "GRAPHS", 3)
    runner = Replaying(residual(), device())
    for size in range(16, 16 * 7, 16):
        for turn in range(RECURS + 1):
            tiles = batch(1, size, seed=turn)
            check(runner.launch(list(tiles))()[0], tiles)
    assert [shape[1] for shape in runner._graphs] == [64, 80, 96]


@pytest.mark.skipif(HAS_GPU, reason="it takes a device that fails at will")
def test_what_cannot_be_recorded_runs_as_it_is_and_is_told_once() -> None:
    host = Host()
    host.fails = RuntimeError("operation not permitted when stream is capturing\nmore")
    runner = Replaying(residual(), host)
    for turn in range(4):
        tiles = batch(1, seed=turn)
        check(runner.launch(list(tiles))()[0], tiles)
    assert host.recorded == 1
    assert runner.notes == [
        "CUDA graphs are not used on host, which costs time: operation not permitted when stream is capturing"
    ]


@pytest.mark.skipif(HAS_GPU, reason="it takes a device that fails at will")
def test_a_memory_that_is_full_while_recording_is_no_reason_to_give_recording_up() -> None:
    host = Host()
    host.fails = RuntimeError("invalid capture")
    host.fails.__context__ = torch.OutOfMemoryError("full")
    runner = Replaying(residual(), host)
    for _ in range(RECURS):
        runner.launch(list(batch(1)))()
    with pytest.raises(torch.OutOfMemoryError):
        runner.launch(list(batch(1)))
    host.fails = None
    runner.release()
    for turn in range(RECURS + 1):
        check(runner.launch(list(batch(1, seed=turn)))()[0], batch(1, seed=turn))
    assert host.recorded == 2
    assert "16×16" in str(runner.full((16, 16, 3)))


@pytest.mark.skipif(HAS_GPU, reason="it takes a device that fails at will")
def test_nothing_is_recorded_where_others_have_taken_the_memory() -> None:
    host = Host()
    runner = Replaying(residual(), host)
    runner.launch(list(batch(1)))()
    host.free = 1
    for _ in range(RECURS + 1):
        runner.launch(list(batch(1)))()
    assert host.recorded == 0
    host.free = 10_000
    runner.launch(list(batch(1)))()
    assert host.recorded == 1


@pytest.mark.skipif(HAS_GPU, reason="it takes a device that fails at will")
def test_a_device_that_has_stopped_working_is_told_from_an_error_of_a_tile() -> None:
    host = Host()
    runner = Replaying(residual(), host)
    with pytest.raises(RuntimeError, match="size") as usual:
        runner.launch([np.zeros((16, 16, 5), np.float32)])
    assert not isinstance(usual.value, LostDeviceError)

    def lost(*_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might …")

    begun = runner.launch(list(batch(1)))
    host.wait = lost  # type: ignore[assignment,method-assign]
    says = "^host has stopped working: CUDA error: an illegal memory access was encountered$"
    with pytest.raises(LostDeviceError, match=says):
        begun()
    host.settle = lost  # type: ignore[method-assign]
    with pytest.raises(LostDeviceError, match=says):
        runner.launch([np.zeros((16, 16, 5), np.float32)])
    batcher = Batcher(runner)
    with pytest.raises(LostDeviceError, match=says):
        within(lambda: batcher.answer(batch(1)))
    batcher.close()


@pytest.mark.skipif(HAS_GPU, reason="it takes a device that fails at will")
@pytest.mark.parametrize(
    "says",
    [
        "CUDA error: out of memory",
        "Triton Error [CUDA]: out of memory",
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_a_full_memory_is_known_by_its_words_too(says: str) -> None:
    host = Host()
    runner = Replaying(residual(), host)

    def full(count: int, dtype: torch.dtype) -> torch.Tensor:
        raise RuntimeError(says)

    host.host = full  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError, match=re.escape(says)):
        runner.launch(list(batch(1)))
    del host.host
    check(runner.launch(list(batch(1)))()[0], batch(1))


def test_release_drops_buffers_and_recordings() -> None:
    place = device()
    runner = Replaying(residual(), place)
    for _ in range(3):
        runner.launch(list(batch(2)))()
    before = torch.cuda.memory_allocated() if HAS_GPU else 0
    runner.release()
    gc.collect()
    assert not runner._graphs
    assert runner._stages == [None] * FLIGHTS
    if isinstance(place, Host):
        assert place.given_back == 1
    else:
        assert torch.cuda.memory_allocated() < before
    check(runner.launch(list(batch(2)))()[0], batch(2))


def test_the_batcher_drives_it() -> None:
    batcher = Batcher(Replaying(residual(), device()))
    for turn in range(4):
        tiles = batch(7, seed=turn)
        answers, finite = within(lambda tiles=tiles: batcher.answer(tiles))  # type: ignore[misc]
        check(answers, tiles)
        assert finite.all()
    batcher.close()
