"""Photos on their way: read ahead, restored, encoded and written side by side, told of in the order of the inputs.

Each photo goes its way in one thread, from its file to its output. What threads share is bounded: as many photos as
`Pace.photos` at once, `Pace.in_network` of them in the network or more small ones, together no larger than the memory
set aside for them.
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from queue import SimpleQueue

from kbnet_cli.batch import sidecars, writing
from kbnet_cli.batch.budget import Budget, Turns
from kbnet_cli.batch.isolation import Dropped, extent_of, isolated
from kbnet_cli.batch.journals import Journals
from kbnet_cli.batch.opening import Opened, open_photo
from kbnet_cli.batch.order import STANDARD, Job, Order, Outcome, Restore, Restored
from kbnet_cli.batch.planning import Claims
from kbnet_cli.formats import codec
from kbnet_cli.journal import Stamp
from kbnet_cli.photo import Photo


class Stop:
    """Whether photos that are not in the network yet are to be left."""

    def __init__(self) -> None:
        self._asked = False
        self._listeners: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return self._asked

    def ask(self) -> None:
        """Finish what is in the network or behind it, and begin nothing more."""
        self._asked = True
        for listener in self._listeners:
            listener()

    def tell(self, listener: Callable[[], None]) -> None:
        """Call a listener when stopping is asked for."""
        self._listeners.append(listener)


@dataclass(frozen=True)
class Pace:
    """How much is done at once."""

    photos: int = 4
    """Photos in hand: read, restored, written."""
    memory_bytes: int = 1 << 32
    """What they may hold together; one that is larger goes alone."""
    cost: Callable[[Job], int] = lambda _job: 0
    """How many bytes a photo will hold, told from its header."""
    lanes: int = 1
    """Tiles that the network answers at once."""
    tiles: Callable[[Photo], int] = lambda _photo: 1
    """How many tiles a photo has."""
    in_network: int = 2
    """Photos in the network at once, if each has as many tiles as there are lanes or more."""


def process(
    found: Iterable[Job],
    order: Order,
    restore: Restore,
    *,
    pace: Pace | None = None,
    journals: Journals | None = None,
    stop: Stop | None = None,
) -> Generator[Outcome]:
    """Restore photos and tell what became of each, in their order.

    `restore` turns a photo into a restored one; it is called from several threads. What it raises, and whatever goes
    wrong with one file, fails that photo only; an error of weights or device, which would fail every photo alike, ends
    the run: it is let through when all that is in the network or behind it has been finished and told of. Jobs that
    stand in a sequence claim their outputs before the first is read; others as they come. After `stop` was asked, what
    is not yet in the network is left and not told of.
    """
    claims = Claims(found) if isinstance(found, Sequence) else Claims()
    return _Run(order, restore, pace or Pace(), claims, journals, Stop() if stop is None else stop).outcomes(found)


class _Run:
    def __init__(
        self,
        order: Order,
        restore: Restore,
        pace: Pace,
        claims: Claims,
        journals: Journals | None,
        stop: Stop,
    ) -> None:
        self.order, self.restore, self.pace = order, restore, pace
        self.claims, self.journals, self.stop = claims, journals, stop
        self.budget = Budget(pace.memory_bytes)
        self.slots = threading.Semaphore(pace.photos)
        # More tiles than are answered at once: the next photo's are there when the last of one are blended.
        places = pace.in_network * pace.lanes
        self.network, self.output, self.ended = Turns(places), Turns(1), Turns(1)
        self.line: deque[Future[Outcome] | None] = deque()
        """What became, or will have become, of photos not told of yet, in their order; None: there are no more."""
        self.news: SimpleQueue[None] = SimpleQueue()
        self.beginning = threading.Lock()
        """Held while a photo is begun, so that none is on its way that does not stand in the line."""
        self.over = False
        self.problem: Exception | None = None
        """What ends the run before its time, when those in hand are told of."""
        self.stop.tell(self._nudge)

    def outcomes(self, found: Iterable[Job]) -> Generator[Outcome]:
        pool = ThreadPoolExecutor(self.pace.photos, thread_name_prefix="photo")
        # Where jobs come from may wait for them for ever: a pipe, a folder that is watched.
        threading.Thread(target=self._feed, args=(found, pool), name="feeder", daemon=True).start()
        wait = False
        try:
            yield from self._told()
            wait = True
        finally:
            self.over = True
            self.stop.ask()
            pool.shutdown(wait=wait, cancel_futures=True)
        if self.problem is not None:
            raise self.problem

    def _told(self) -> Generator[Outcome]:
        """Give outcomes in their order, until there are no more or the rest is left."""
        while True:
            while self.line and (self.line[0] is None or self.line[0].done()):
                future = self.line.popleft()
                if future is None:
                    return
                try:
                    outcome = future.result()
                except (Dropped, CancelledError):
                    continue
                except Exception as error:
                    self.problem = self.problem or error
                    self.stop.ask()
                    continue
                yield outcome
            with self.beginning:
                if self.stop and not self.line:
                    return
            self.news.get()

    def _nudge(self) -> None:
        self.news.put(None)

    def _feed(self, found: Iterable[Job], pool: ThreadPoolExecutor) -> None:
        """Begin one photo after the other, as there is room. What goes wrong with the jobs is let through."""
        try:
            for ticket, job in enumerate(found):
                self.slots.acquire()
                taken = self.budget.take(self.pace.cost(job))
                with self.beginning:
                    if self.stop:
                        break
                    future = pool.submit(self._one, ticket, job)
                    self.line.append(future)
                future.add_done_callback(partial(self._leave, taken))
                self._nudge()
        except BaseException as error:
            failure: Future[Outcome] = Future()
            failure.set_exception(error)
            self.line.append(failure)
        finally:
            self.line.append(None)
            self._nudge()

    def _leave(self, taken: int, _future: Future[Outcome]) -> None:
        self.budget.give_back(taken)
        self.slots.release()
        self._nudge()

    def _one(self, ticket: int, job: Job) -> Outcome:
        """Do one photo, apart from the others whatever goes wrong with it."""
        try:
            outcome = isolated(job, partial(self._processed, ticket, job))
            if self.over and outcome.status == "failed":
                raise Dropped  # for what the end of the run takes from under it, above all
            if self.journals is not None:
                self.journals.tell(outcome)
            if outcome.status == "failed":
                self.claims.release(job)
            return replace(outcome, job=replace(outcome.job, data=None))
        finally:
            for turns in (self.network, self.output, self.ended):
                turns.skip(ticket)

    def _processed(self, ticket: int, job: Job) -> Outcome:
        if self.stop:
            raise Dropped
        watch = _Watch()
        opened = open_photo(job, self.order, self.claims, self.journals, wait=partial(self.ended.wait_for, ticket))
        if opened.photo is None:
            assert opened.status is not None
            sidecars.write(opened.sidecars, overwrite=False)
            return Outcome(opened.job, opened.status, seconds=watch.seconds)
        photo, job = opened.photo, opened.job
        share = min(self.pace.lanes, self.pace.tiles(photo))
        with watch.waiting(self.network.turn(ticket, places=share)):
            if self.stop:
                raise Dropped
            restored = self.restore(job, photo)
        assert job.format is not None
        encoded = codec.encode(restored.photo, job.format, depth=self.order.depth, quality=self.order.quality)
        sidecars.write(opened.sidecars, overwrite=self.order.existing == "overwrite")
        self._write(ticket, opened, restored, encoded.data, watch)
        notes = (*restored.photo.notes, *encoded.notes)
        return Outcome(job, "done", extent_of(job.format, photo), notes, watch.seconds, restored.redone)

    def _write(self, ticket: int, opened: Opened, restored: Restored, data: bytes, watch: "_Watch") -> None:
        job = opened.job
        if job.target == STANDARD:
            with watch.waiting(self.output.turn(ticket)):
                writing.write(job.target, data, overwrite=False)
            return
        stamp, journals = opened.stamp, self.journals
        if journals is not None:
            journals.make_ready(job)

        def promise(status: os.stat_result) -> None:
            if journals is not None and stamp is not None:
                result = Stamp.of(data, status)
                megapixels = restored.photo.megapixels
                journals.promise(job, stamp, result, restored.weights, megapixels=megapixels, seconds=watch.seconds)

        writing.write(job.target, data, overwrite=opened.replaces, promise=promise)


class _Watch:
    """Seconds since it was made, without those of waiting."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @contextlib.contextmanager
    def waiting(self, turn: contextlib.AbstractContextManager[None]) -> Iterator[None]:
        """Enter a turn, and leave out what it took to come."""
        before = time.perf_counter()
        with turn:
            self._started += time.perf_counter() - before
            yield
