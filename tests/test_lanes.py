"""Tiles side by side: the same pixels in however many lanes, and torch's threads afterwards as they were."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch

from kbnet_cli import tiles
from kbnet_cli.catalogue import Facts
from kbnet_cli.checkpoint import Checkpoint
from kbnet_cli.engine import Choice, Engine
from kbnet_cli.kernels import compiled
from kbnet_cli.kernels.float32 import Precision
from kbnet_cli.lanes import MOST, MOST_ON_GPU, lanes, most_lanes
from kbnet_cli.photo import Photo
from kbnet_cli.restore import Restoration, restore
from tests.networks import random_network
from tests.pictures import picture
from tests.watchdog import SECONDS, no_thread_left, within

CPU = torch.device("cpu")
SETTINGS = Restoration(tile=32, overlap=8)
PRECISIONS = [
    "fp32",
    pytest.param("bf16", marks=pytest.mark.skipif(not compiled.forms("bf16"), reason="no bfloat16 on this machine")),
]


@pytest.fixture(autouse=True)
def threads() -> Iterator[int]:
    """Let torch use four threads, however few there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.fixture(params=PRECISIONS)
def engine(request: pytest.FixtureRequest) -> Engine:
    precision: Precision = request.param
    return Engine(Checkpoint(random_network(), Facts(limit=(-0.5, 1.5)), "random"), Choice(CPU, precision, "asked for"))


def photo(height: int, width: int, seed: int = 0) -> Photo:
    return Photo(picture(height, width, depth=16, seed=seed), "rgb", 16)


@pytest.mark.parametrize("size", [(70, 60), (32, 32), (20, 12)], ids=["tiles", "one", "small"])
def test_pixels_are_the_same_in_any_number_of_lanes_and_without(engine: Engine, size: tuple[int, int]) -> None:
    given = photo(*size)
    expected = restore(given, engine, SETTINGS).pixels
    assert (expected != given.pixels).mean() > 0.5, "the network changes the photo"
    for count in (1, 2, 4):
        for shared in (False, True):
            with lanes(count, shared=shared) as own:
                found = within(lambda own=own: restore(given, engine, SETTINGS, lanes=own).pixels)  # type: ignore[misc]
            np.testing.assert_array_equal(found, expected, err_msg=f"{count} lanes, shared: {shared}")


def test_photos_that_share_lanes_do_not_change_each_other(engine: Engine) -> None:
    given = [photo(70, 60, seed=1), photo(32, 32, seed=2), photo(50, 90, seed=3)]
    expected = [restore(each, engine, SETTINGS).pixels for each in given]
    found: dict[int, np.ndarray] = {}
    with lanes(2, shared=True) as own:

        def work(number: int) -> None:
            found[number] = restore(given[number], engine, SETTINGS, lanes=own).pixels

        at_once = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in at_once:
            thread.start()
        for thread in at_once:
            within(thread.join)
    for number, pixels in enumerate(expected):
        np.testing.assert_array_equal(found[number], pixels)


def run(own: tiles.Lanes | None, answer: Callable[[np.ndarray], np.ndarray], size: int, count: int = 1) -> np.ndarray:
    """Send a ramp through the lanes and return what comes out."""
    given = np.arange(size * size, dtype=np.float32).reshape(size, size, 1)
    written = np.zeros_like(given)

    def write(top: int, values: np.ndarray) -> None:
        written[top : top + len(values)] = values

    layout = tiles.plan((size, size), tile=16, overlap=0, multiple=16)
    tiles.run(
        layout,
        read=lambda rows, columns: given[np.ix_(rows, columns)],
        answer=answer,
        write=write,
        batch=count,
        lanes=own,
    )
    np.testing.assert_allclose(written, given, rtol=1e-5)
    return written


def test_the_tiles_of_two_photos_are_answered_in_all_lanes_at_once() -> None:
    together = threading.Barrier(4)  # nothing goes on before four tiles are in the network
    names: set[str] = set()

    def answer(given: np.ndarray) -> np.ndarray:
        names.add(threading.current_thread().name)
        together.wait(SECONDS)
        return given

    with lanes(4, shared=True) as own:
        others = [threading.Thread(target=run, args=(own, answer, 32)) for _ in range(2)]
        for thread in others:
            thread.start()
        for thread in others:
            within(thread.join)
    assert len(names) == 4
    assert not together.broken


@pytest.mark.parametrize(("shared", "size", "in_lanes"), [(False, 16, False), (True, 16, True), (False, 32, True)])
def test_a_single_tile_of_a_lone_photo_is_answered_by_the_caller(shared: bool, size: int, in_lanes: bool) -> None:
    seen: set[threading.Thread] = set()

    def answer(given: np.ndarray) -> np.ndarray:
        seen.add(threading.current_thread())
        return given

    with lanes(2, shared=shared) as own:
        run(own, answer, size)
    assert (threading.current_thread() not in seen) == in_lanes


def test_each_lane_has_its_share_of_the_threads(threads: int) -> None:
    for count, share in ((1, 4), (2, 2), (3, 1), (4, 1), (8, 1)):
        with lanes(count, shared=False) as own:
            assert own.pool.submit(torch.get_num_threads).result(SECONDS) == share
        assert torch.get_num_threads() == threads
    with lanes(4, shared=False, device=torch.device("cuda")) as own:
        assert own.pool.submit(torch.get_num_threads).result(SECONDS) == threads, "they only wait for it"
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert found == [threads], "also in threads that begin later"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_no_thread_is_left_and_all_is_as_before(error: type[BaseException], threads: int) -> None:
    def answer(_given: np.ndarray) -> np.ndarray:
        raise error

    def fail() -> None:
        with lanes(2, shared=False) as own:
            run(own, answer, 64)

    with no_thread_left(), pytest.raises(error):
        fail()
    assert torch.get_num_threads() == threads


def test_a_photo_that_fails_leaves_its_waiting_tiles_undone() -> None:
    """The lanes go on with the next photo's."""
    gate, asked = threading.Event(), []

    def first_fails(given: np.ndarray) -> np.ndarray:
        asked.append(1)
        if len(asked) == 1:
            raise ZeroDivisionError
        assert gate.wait(SECONDS)
        return given

    with lanes(2, shared=True) as own:
        with pytest.raises(ZeroDivisionError):
            run(own, first_fails, 160)
        gate.set()
        run(own, lambda given: given, 32)
    assert len(asked) <= 3, "no more than had begun already, of four that were asked for"


def test_several_tiles_a_call_go_through_lanes_as_well() -> None:
    counts: list[int] = []

    def answer(given: np.ndarray) -> np.ndarray:
        counts.append(len(given))
        return given

    with lanes(2, shared=False) as own:
        run(own, answer, 48, count=2)
    assert sorted(counts) == [1, 1, 1, 2, 2, 2]


def test_no_more_answers_wait_than_twice_the_lanes() -> None:
    """What is ahead of blending is bounded, however large the photo."""
    waiting: list[int] = []

    class Counted(ThreadPoolExecutor):
        taken = 0

        def submit(self, *words: Any, **named: Any) -> Future[Any]:
            future = super().submit(*words, **named)
            result = future.result

            def take(timeout: float | None = None) -> object:
                self.taken += 1
                return result(timeout)

            future.result = take  # type: ignore[method-assign]
            waiting.append(len(waiting) + 1 - self.taken)
            return future

    with Counted(2) as pool:
        run(tiles.Lanes(pool, 2), lambda given: given, 160)
    assert len(waiting) == 100
    assert max(waiting) == 4


def test_so_many_lanes_as_threads_where_the_compiled_form_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "fastest_form", lambda _precision: "any")
    for count in (1, 3, 5):
        torch.set_num_threads(count)
        assert most_lanes(CPU, "fp32") == count
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert most_lanes(CPU, "fp32") == MOST
    assert most_lanes(torch.device("cuda"), "fp32") == MOST_ON_GPU
    assert most_lanes(torch.device("mps"), "fp32") == 1
    monkeypatch.setattr(compiled, "fastest_form", lambda _precision: None)
    assert most_lanes(CPU, "fp32") == 1
