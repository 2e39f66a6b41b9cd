"""The batcher: tiles of many callers gathered, a full memory, errors, and threads that end."""

import gc
import threading
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from kbnet_cli.batching import FLIGHTS, MOST, Batcher, Landing, Shape, Tile
from kbnet_cli.errors import DeviceError
from tests.watchdog import SECONDS, Meeting, no_thread_left, within


class Doubler:
    """A device that doubles tiles, with memory for so many at once, and doors at which batches can be held."""

    def __init__(self, fits: int = MOST, room: int = MOST) -> None:
        self.fits, self.tiles_of_room = fits, room
        self.batches: list[list[float]] = []
        """The first number of each tile, by the batch."""
        self.begun, self.released = Meeting(), 0
        self.door = threading.Event()
        self.door.set()
        self.before: Callable[[Sequence[Tile]], None] = lambda _tiles: None

    def launch(self, tiles: Sequence[Tile]) -> Landing:
        assert len({tile.shape for tile in tiles}) == 1
        if len(tiles) > self.fits:
            raise torch.OutOfMemoryError("full")
        self.before(tiles)
        self.batches.append([float(tile.flat[0]) for tile in tiles])
        answers = 2 * np.stack(tiles)
        self.begun.add()

        def landing() -> tuple[np.ndarray, np.ndarray]:
            assert self.door.wait(SECONDS)
            return answers, np.isfinite(answers).reshape(len(answers), -1).all(1)

        return landing

    def room(self, shape: Shape) -> int | None:  # noqa: ARG002
        return self.tiles_of_room if self.batches else None

    def release(self) -> None:
        self.released += 1

    def full(self, shape: Shape) -> DeviceError:
        return DeviceError(f"no room for {shape[0]}×{shape[1]}")


def tile(value: float, size: int = 2) -> np.ndarray:
    return np.full((1, size, size, 3), value, np.float32)


def asked(batcher: Batcher, given: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray | BaseException]]:
    """Ask for tiles, each from a thread of its own, in their order; what is returned waits for what they get."""
    found: list[np.ndarray | BaseException] = [ValueError()] * len(given)

    def ask(number: int) -> None:
        try:
            found[number] = batcher.answer(given[number])[0]
        except BaseException as error:
            found[number] = error

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(given))]
    for thread in threads:
        thread.start()

    def gathered() -> list[np.ndarray | BaseException]:
        for thread in threads:
            within(thread.join)
        return found

    return gathered


def held_up(device: Doubler, batcher: Batcher, count: int) -> Callable[[], list[np.ndarray | BaseException]]:
    """Let so many tiles wait while the device is at one; they may go when its door opens."""
    within(lambda: batcher.answer(tile(0)))  # from now on it is known how many fit
    device.door.clear()
    asked(batcher, [tile(100)])
    device.begun.await_most(2)
    come, line = Meeting(), batcher._line
    put = line.put

    def counted(requests: list[object]) -> None:
        put(requests)  # type: ignore[arg-type]
        come.add()

    line.put = counted  # type: ignore[assignment,method-assign]
    others = asked(batcher, [tile(value + 1) for value in range(count)])
    come.await_most(count)
    line.put = put  # type: ignore[method-assign]
    return others


def doubled(found: list[np.ndarray | BaseException]) -> list[float]:
    return [float(each.flat[0]) for each in found if isinstance(each, np.ndarray)]


def test_what_waits_goes_together_and_everybody_gets_his_own() -> None:
    device = Doubler(room=8)
    batcher = Batcher(device)
    found = held_up(device, batcher, 7)
    device.door.set()
    assert doubled(found()) == [2 * (value + 1) for value in range(7)]
    assert [len(batch) for batch in device.batches] == [1, 1, 4, 2, 1], "in powers of two"
    batcher.close()


def test_a_full_batch_goes_while_the_device_is_busy_and_no_more_than_two() -> None:
    device = Doubler(room=4)
    batcher = Batcher(device)
    found = held_up(device, batcher, 9)
    device.begun.await_most(3)
    assert [len(batch) for batch in device.batches] == [1, 1, 4]
    assert FLIGHTS == 2
    device.door.set()
    assert len(doubled(found())) == 9
    assert [len(batch) for batch in device.batches][3:] == [4, 1]
    batcher.close()


def test_shapes_do_not_mix() -> None:
    batcher = Batcher(Doubler())
    given = [tile(value, size=2 + value % 3) for value in range(30)]
    found = asked(batcher, given)()
    for before, after in zip(given, found, strict=True):
        np.testing.assert_array_equal(after, 2 * before)
    batcher.close()


def test_several_tiles_a_call_come_back_in_order() -> None:
    batcher = Batcher(Doubler())
    given = np.arange(5 * 12, dtype=np.float32).reshape(5, 2, 2, 3)
    given[3, 0, 0, 0] = np.inf
    answers, finite = within(lambda: batcher.answer(given))
    np.testing.assert_array_equal(answers, 2 * given)
    assert finite.tolist() == [True, True, True, False, True]
    batcher.close()


@pytest.mark.parametrize("fits", [1, 2, 3, 5])
def test_a_full_memory_halves_the_batch_and_it_stays_halved(fits: int) -> None:
    device = Doubler(fits=fits, room=8)
    batcher = Batcher(device)
    found = held_up(device, batcher, 8)
    device.door.set()
    assert sorted(doubled(found())) == [2 * (value + 1) for value in range(8)]
    largest = {1: 1, 2: 2, 3: 2, 5: 4}[fits]
    assert max(len(batch) for batch in device.batches) == largest
    before = device.released
    assert before > 0
    again = asked(batcher, [tile(value) for value in range(20)])
    assert len(doubled(again())) == 20
    assert device.released == before, "no batch was too large any more"
    batcher.close()


def test_one_tile_that_does_not_fit_is_an_error_and_the_next_is_answered() -> None:
    device = Doubler(fits=0)
    batcher = Batcher(device)
    with pytest.raises(DeviceError, match="no room for 2×2"):
        within(lambda: batcher.answer(tile(1)))
    assert device.released == 2, "it was tried again when all else was released"
    device.fits = 1
    np.testing.assert_array_equal(within(lambda: batcher.answer(tile(1)))[0], tile(2))
    batcher.close()


def test_a_device_that_cannot_even_say_how_full_it_is_leaves_nobody_waiting() -> None:
    device = Doubler(fits=0)

    def lost(shape: Shape) -> DeviceError:
        raise RuntimeError(f"CUDA error: unspecified launch failure, with {shape}")

    device.full = lost  # type: ignore[method-assign]
    batcher = Batcher(device)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="unspecified launch failure"):
            within(lambda: batcher.answer(tile(1)))
    batcher.close()


def test_each_caller_of_a_batch_has_an_error_of_its_own_and_the_others_none() -> None:
    device = Doubler(room=4)
    batcher = Batcher(device)
    held: list[weakref.ref[np.ndarray]] = []

    def fail(tiles: Sequence[Tile]) -> None:
        maps = np.zeros(1000)
        held.append(weakref.ref(maps))
        if any(each.flat[0] in (1, 2) for each in tiles):
            raise ZeroDivisionError("no maps")

    device.before = fail
    found = held_up(device, batcher, 6)
    device.door.set()
    errors = [each for each in found() if isinstance(each, BaseException)]
    assert 1 <= len(errors) <= 6
    assert all(isinstance(error, ZeroDivisionError) and str(error) == "no maps" for error in errors)
    assert len(set(map(id, errors))) == len(errors)
    gc.collect()
    assert not any(reference() is not None for reference in held), "a traceback holds what the batch has made"
    batcher.close()


def test_threads_that_hammer_get_what_is_theirs() -> None:
    device = Doubler(fits=6)
    batcher = Batcher(device)
    wrong: list[float] = []

    def hammer(start: int) -> None:
        for value in range(start, start + 50):
            answer = batcher.answer(tile(value, size=2 + value % 2))[0].flat[0]
            wrong.extend([value] if answer != 2 * value else [])

    threads = [threading.Thread(target=hammer, args=(100 * number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        within(thread.join)
    assert not wrong
    assert sum(map(len, device.batches)) == 800
    assert len(device.batches) < 700, "batches form under load"
    batcher.close()


def test_an_interrupted_caller_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Doubler(room=8)
    batcher = Batcher(device)
    others = held_up(device, batcher, 1)
    line = batcher._line
    put = line.put

    def interrupted(requests: list[object]) -> None:
        put(requests)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(line, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        batcher.answer(tile(77))
    monkeypatch.undo()
    device.door.set()
    assert len(doubled(others())) == 1
    assert within(lambda: batcher.answer(tile(5)))[0].flat[0] == 10
    assert 77 not in [value for batch in device.batches for value in batch]
    batcher.close()


def test_after_closing_nothing_hangs_and_no_thread_is_left() -> None:
    with no_thread_left():
        device = Doubler()
        batcher = Batcher(device)
        found = held_up(device, batcher, 3)
        closing = threading.Thread(target=batcher.close)
        closing.start()
        assert all(isinstance(each, RuntimeError) for each in found())
        device.door.set()
        within(closing.join)
        assert device.released == 1, "its memory is given back"
        with pytest.raises(RuntimeError, match="closed"):
            batcher.answer(tile(1))


def test_a_batcher_that_nobody_knows_any_more_ends() -> None:
    with no_thread_left():
        assert Batcher(Doubler()).answer(tile(1))[1].all()
        gc.collect()
