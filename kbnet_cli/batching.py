"""Tiles that wait, from all lanes and photos, gathered into batches: a GPU wants to have much to do at a time.

Nobody waits for a batch to be full. Whatever waits when the device has nothing to do goes to it, and a full batch
already while it is at the one before. One thread begins batches, another hands out their answers; both end with the
batcher.
"""

import contextlib
import copy
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float32

MOST = 16
"""Tiles of a batch: more of them make no GPU faster, and each holds its feature maps."""
FLIGHTS = 2
"""Batches on the device at once: one is computed while the next comes and the one before goes."""

Shape = tuple[int, ...]
"""Of a tile: height, width, channels."""
Tile = Float32[np.ndarray, "h w c"]
Landing = Callable[[], tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, " b"]]]
"""Waits for the answers, and tells of each whether it is finite. They stand there until `FLIGHTS` more have begun."""


@runtime_checkable
class Runner(Protocol):
    """What answers batches. It is called by one thread, but landings by another."""

    def launch(self, tiles: Sequence[Tile]) -> Landing:
        """Begin to answer tiles of one shape.

        Raises:
            torch.OutOfMemoryError: nothing has begun.
        """

    def room(self, shape: Shape) -> int | None:
        """Return how many tiles of a shape there is memory for; None before one was answered."""

    def release(self) -> None:
        """Give back all memory but the weights'. Nothing is on the device."""

    def full(self, shape: Shape) -> Exception:
        """Return the error to raise where one tile alone does not fit."""


@dataclass(eq=False)
class _Request:
    """A tile, and what becomes of it."""

    tile: Tile
    future: "Future[tuple[Tile, bool]]" = field(default_factory=Future)
    again: bool = False
    """Whether it had the device for itself and did not fit, with something else left there."""


class Batcher:
    """Answer tiles of many callers in batches."""

    def __init__(self, runner: Runner) -> None:
        self._line = _Line(runner)
        self._threads = [
            threading.Thread(target=work, args=(self._line,), name=name, daemon=True)
            for work, name in ((_launch, "batches"), (_land, "answers"))
        ]
        for thread in self._threads:
            thread.start()
        # The threads know the line only, so that it ends when nobody knows the batcher any more.
        self._end = weakref.finalize(self, self._line.close)

    def answer(
        self, tiles: Float32[np.ndarray, "b h w c"]
    ) -> tuple[Float32[np.ndarray, "b h w c"], Bool[np.ndarray, " b"]]:
        """Return the answers to tiles, and of each whether it is finite; from any thread.

        Raises:
            Exception: what the runner raises, an object of this caller's own.
        """
        requests = [_Request(tile) for tile in tiles]
        try:
            self._line.put(requests)
            found = [request.future.result() for request in requests]
        except BaseException:
            self._line.forget(requests)
            raise
        answers = found[0][0][None] if len(found) == 1 else np.stack([answer for answer, _ in found])
        return answers, np.array([finite for _, finite in found])

    def close(self) -> None:
        """End the threads and give back memory. What waits still fails; what is on the device is answered."""
        self._end()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(Exception):  # of a device that does not work any more
            self._line.runner.release()


class _Line:
    """What waits, and what is on the device. `launch` and `land` are each one thread's."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.landings: SimpleQueue[tuple[list[_Request], Landing] | None] = SimpleQueue()
        """What is on the device, in the order of its beginning; None: no more."""
        self._waiting: deque[_Request] = deque()
        self._flying = 0
        """Batches that have left the waiting and are not handed out yet."""
        self._limits: dict[Shape, int] = {}
        """Tiles a batch, powers of two so that few sizes occur; settled by the first tile of a shape."""
        self._closed = False
        self._changed = threading.Condition()

    def put(self, requests: list[_Request]) -> None:
        """Let tiles wait."""
        with self._changed:
            if self._closed:
                raise RuntimeError("the network is closed")
            self._waiting.extend(requests)
            self._changed.notify_all()

    def forget(self, requests: list[_Request]) -> None:
        """Drop tiles that nobody waits for any more; those on the device are answered for nothing."""
        with self._changed:
            for request in requests:
                request.future.cancel()

    def close(self) -> None:
        """Let nothing more wait, and fail what does."""
        with self._changed:
            self._closed = True
            for request in self._waiting:
                if not request.future.done():
                    request.future.set_exception(RuntimeError("the network was closed"))
            self._waiting.clear()
            self._changed.notify_all()

    def take(self) -> list[_Request]:
        """Wait for tiles that should go to the device now, all of one shape; none when it is over."""
        with self._changed:
            while not self._closed:
                batch = self._next()
                if batch:
                    self._flying += 1
                    return batch
                self._changed.wait()
            return []

    def _next(self) -> list[_Request]:
        self._waiting = deque(request for request in self._waiting if not request.future.done())
        if not self._waiting or self._flying == FLIGHTS:
            return []
        shape = self._waiting[0].tile.shape
        same = [request for request in self._waiting if request.tile.shape == shape]
        limit = self._limit(shape)
        if self._flying and len(same) < limit:
            return []  # the device is busy, and more may have come when it is not
        batch = same[: _power_of_two(min(limit, len(same)))]
        taken = set(map(id, batch))
        self._waiting = deque(request for request in self._waiting if id(request) not in taken)
        return batch

    def _limit(self, shape: Shape) -> int:
        if shape not in self._limits:
            room = None
            with contextlib.suppress(Exception):  # of a device that does not work any more: launching will tell
                room = self.runner.room(shape)
            if room is None:
                return 1
            self._limits[shape] = _power_of_two(max(1, min(MOST, room)))
        return self._limits[shape]

    def hand_out(self, batch: list[_Request], answers: Float32[np.ndarray, "b h w c"], finite: list[bool]) -> None:
        """Give each caller its answer."""
        for request, answer, whole in zip(batch, answers, finite, strict=True):
            own = answer.copy()
            with self._changed:
                if not request.future.done():
                    request.future.set_result((own, whole))

    def fail(self, batch: list[_Request], error: BaseException) -> None:
        """Give each caller an error of its own: where it is raised, a traceback is put onto it."""
        for request in batch:
            own = _copied(error)
            with self._changed:
                if not request.future.done():
                    request.future.set_exception(own)

    def over(self) -> None:
        """Say that a batch is on the device no more."""
        with self._changed:
            self._flying -= 1
            self._changed.notify_all()

    def await_others(self) -> None:
        """Wait until nothing is on the device but what the caller has taken last."""
        with self._changed:
            self._changed.wait_for(lambda: self._flying == 1)

    def split(self, batch: list[_Request]) -> None:
        """Let tiles that did not fit together wait again, first of all, and go in halves from now on."""
        shape = batch[0].tile.shape
        with self._changed:
            self._limits[shape] = max(1, len(batch) // 2)
            if self._closed:
                self.fail(batch, RuntimeError("the network was closed"))
            else:
                self._waiting.extendleft(reversed(batch))


def _launch(line: _Line) -> None:
    """Begin one batch after the other."""
    try:
        while batch := line.take():
            _begin(line, batch)
            del batch  # waiting for more holds nothing
    finally:
        line.close()
        line.landings.put(None)


def _begin(line: _Line, batch: list[_Request]) -> None:
    shape = batch[0].tile.shape
    failure: BaseException | None = None
    said = ""
    try:
        line.landings.put((batch, line.runner.launch([request.tile for request in batch])))
        return
    except torch.OutOfMemoryError as error:
        said = str(error)
        _clear(error)
    except BaseException as error:
        failure = error
        _clear(error)
    # Only here is the traceback of a full memory gone, and with it what that held.
    line.await_others()
    with contextlib.suppress(Exception):  # of a device that does not work any more
        line.runner.release()
    if failure is not None:
        line.fail(batch, failure)
    elif len(batch) > 1 or not batch[0].again:
        batch[0].again = len(batch) == 1  # what else was there is released now
        line.split(batch)
    else:
        line.fail(batch, _full(line.runner, shape, said))
    line.over()


def _full(runner: Runner, shape: Shape, said: str) -> Exception:
    """Return the runner's error for a tile that does not fit alone, with what the device has said behind it."""
    try:
        error = runner.full(shape)
    except Exception as instead:  # of a device that does not work any more
        return instead
    error.__cause__ = RuntimeError(said)
    return error


def _land(line: _Line) -> None:
    """Hand out answers in the order in which batches have begun."""
    while flight := line.landings.get():
        _hand_out(line, *flight)
        del flight


def _hand_out(line: _Line, batch: list[_Request], landing: Landing) -> None:
    try:
        answers, finite = landing()
        line.hand_out(batch, answers, finite.tolist())
    except BaseException as error:
        _clear(error)
        line.fail(batch, error)
    line.over()


def _power_of_two(count: int) -> int:
    """Return the largest power of two up to a number."""
    return 1 << (count.bit_length() - 1)


def _clear(error: BaseException | None) -> None:
    """Empty the frames that an error and what lies behind it have passed: they hold tensors."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _copied(error: BaseException) -> BaseException:
    """Return the same error as an object of its own, with the first one behind it."""
    try:
        own = copy.copy(error)
    except Exception:  # a class whose arguments are not its message
        own = RuntimeError(f"{type(error).__name__}: {error}")
    own.__cause__ = error
    return own
