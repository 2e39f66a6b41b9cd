"""Photos side by side: in order, bounded, one apart from the other, and an end whatever happens."""

import io
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kbnet_cli.batch import (
    STANDARD,
    Claims,
    Job,
    Order,
    Outcome,
    Pace,
    Restored,
    Stop,
    jobs,
    opening,
    pipeline,
    writing,
)
from kbnet_cli.batch.budget import Turns
from kbnet_cli.batch.opening import open_photo
from kbnet_cli.batch.pipeline import process
from kbnet_cli.batch.planning import settle as settled
from kbnet_cli.errors import DeviceError, InputError, OutputError, UsageError
from kbnet_cli.formats import codec
from kbnet_cli.photo import Photo
from tests.pictures import write_picture
from tests.watchdog import Meeting, await_event, no_thread_left, within

ROOMY = Pace(photos=8, lanes=4)
"""Eight photos in the network at once."""


@pytest.fixture
def order(tmp_path: Path) -> Order:
    """Twelve small photos on their way into a folder, each a column wider than the one before."""
    for number in range(12):
        write_picture(tmp_path / f"{number}.png", size=(8, 8 + number))
    names = tuple(tmp_path / f"{number}.png" for number in range(12))
    return Order(names, "denoised", output=tmp_path / "out", output_is_folder=True)


def number_of(job: Job) -> int:
    return int(job.source.stem)


def as_it_is(_job: Job, photo: Photo) -> Restored:
    return Restored(photo)


def numbers(outcomes: list[Outcome]) -> list[int]:
    return [number_of(outcome.job) for outcome in outcomes]


def written(order: Order) -> set[int]:
    assert order.output is not None
    return {int(path.stem) for path in order.output.iterdir()} if order.output.is_dir() else set()


def all_of(order: Order, restore: Callable[[Job, Photo], Restored] = as_it_is, **how: object) -> list[Outcome]:
    with no_thread_left():
        return within(lambda: list(process(jobs(order), order, restore, **how)))  # type: ignore[arg-type]


def fails(monkeypatch: pytest.MonkeyPatch, place: object, name: str, when: Callable[..., bool]) -> None:
    """Let a function explode in some of its calls."""
    original = getattr(place, name)

    def explode(*words: object, **named: object) -> object:
        if when(*words, **named):
            raise ZeroDivisionError("surprise")
        return original(*words, **named)

    monkeypatch.setattr(place, name, explode)


def test_outcomes_come_in_the_order_of_the_inputs_whatever_is_done_first(order: Order) -> None:
    order = replace(order, inputs=order.inputs[:8])
    over = [threading.Event() for _ in range(9)]
    over[8].set()
    finished: list[int] = []

    def backwards(job: Job, photo: Photo) -> Restored:
        await_event(over[number_of(job) + 1])
        finished.append(number_of(job))
        over[number_of(job)].set()
        return Restored(photo)

    assert numbers(all_of(order, backwards, pace=ROOMY)) == list(range(8))
    assert finished == list(range(7, -1, -1))


def test_no_more_photos_are_in_hand_or_in_the_network_than_are_to_be(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, network = Meeting(), Meeting()
    one = pipeline._Run._one

    def counted(self: pipeline._Run, ticket: int, job: Job) -> Outcome:
        hand.add()
        try:
            return one(self, ticket, job)
        finally:
            hand.add(-1)

    def restore(_job: Job, photo: Photo) -> Restored:
        network.add()
        network.await_most(2)
        hand.await_most(5)  # read ahead while the network is busy
        network.add(-1)
        return Restored(photo)

    monkeypatch.setattr(pipeline._Run, "_one", counted)
    assert len(all_of(order, restore, pace=Pace(photos=5))) == 12
    assert (hand.most, network.most) == (5, 2)


def test_jobs_are_taken_one_ahead_of_the_photos_in_hand(order: Order) -> None:
    taken, gate = Meeting(), threading.Event()

    def coming() -> Iterator[Job]:
        for job in jobs(order):
            taken.add()
            yield job

    def restore(_job: Job, photo: Photo) -> Restored:
        taken.await_most(4)
        await_event(gate)
        return Restored(photo)

    run = pipeline._Run(order, restore, Pace(photos=3), Claims(), None, Stop())
    asked = Meeting()
    acquire = run.slots.acquire

    def ask() -> bool:
        asked.add()
        return acquire()

    run.slots.acquire = ask  # type: ignore[assignment, method-assign]
    with no_thread_left():
        outcomes: list[Outcome] = []
        reader = threading.Thread(target=lambda: outcomes.extend(run.outcomes(coming())))
        reader.start()
        asked.await_most(4)  # the fourth asks for a slot, and none is free until the gate opens
        assert taken.value == 4
        gate.set()
        reader.join()
    assert len(outcomes) == 12


def test_large_photos_share_the_network_by_two_and_small_ones_by_more(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = replace(order, inputs=order.inputs[:6])
    share = {8: 2, 9: 2}
    photos, places = Meeting(), Meeting()
    turn, asked = Turns.turn, {}

    def asking(self: Turns, ticket: int, *, places: int = 1) -> AbstractContextManager[None]:
        asked[ticket] = places
        return turn(self, ticket, places=places)

    monkeypatch.setattr(Turns, "turn", asking)

    def restore(_job: Job, photo: Photo) -> Restored:
        taken = share.get(photo.size[1], 1)
        places.add(taken)
        photos.add()
        photos.await_most(2 if taken == 2 else 4)
        photos.add(-1)
        places.add(-taken)
        return Restored(photo)

    pace = Pace(photos=6, lanes=2, tiles=lambda photo: {8: 9, 9: 2}.get(photo.size[1], 1))
    assert len(all_of(order, restore, pace=pace)) == 6
    assert (photos.most, places.most) == (4, 4)
    assert asked == {0: 2, 1: 2, 2: 1, 3: 1, 4: 1, 5: 1}


def test_photos_take_no_more_memory_together_than_there_is(order: Order) -> None:
    order = replace(order, inputs=order.inputs[:7])
    bytes_of = {8: 40, 9: 50, 10: 60, 11: 1000, 12: 30, 13: 30, 14: 40}
    held, large = Meeting(), []

    def restore(_job: Job, photo: Photo) -> Restored:
        count = bytes_of[photo.size[1]]
        held.add(min(count, 100))
        if count in (40, 50):
            held.await_most(90)
        if count > 100:
            large.append(held.value)
        if count == 30:
            held.await_most(100)
        held.add(-min(count, 100))
        return Restored(photo)

    pace = Pace(photos=8, lanes=4, memory_bytes=100, cost=lambda job: bytes_of[8 + number_of(job)])
    assert len(all_of(order, restore, pace=pace)) == 7
    assert held.most == 100
    assert large == [100], "one that is larger than all memory goes alone"


@pytest.mark.parametrize("stage", ["read", "decode", "restore", "encode", "write"])
@pytest.mark.parametrize("to_stdout", [False, True], ids=["folder", "stdout"])
def test_a_photo_that_fails_anywhere_lets_all_others_pass(
    stage: str, to_stdout: bool, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = {0, 3, 4, 5, 11}
    widths, files = {8 + number for number in bad}, {order.inputs[number].read_bytes() for number in bad}
    explodes: dict[str, tuple[object, str, Callable[..., bool]]] = {
        "read": (opening, "read", lambda source: int(source.stem) in bad),
        "decode": (codec, "decode", lambda data, **_: data in files),
        "restore": (Restored, "__init__", lambda _self, photo: photo.size[1] in widths),
        "encode": (codec, "encode", lambda photo, *_, **__: photo.size[1] in widths),
        "write": (writing, "write", lambda _target, data, **_: codec.decode(data).size[1] in widths),
    }
    fails(monkeypatch, *explodes[stage])
    planned = jobs(order)
    stdout = io.BytesIO()
    if to_stdout:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout))
        planned = [replace(job, target=STANDARD) for job in planned]
    with no_thread_left():
        outcomes = within(lambda: list(process(planned, order, as_it_is, pace=Pace(photos=3))))
    assert numbers(outcomes) == list(range(12))
    assert {number_of(outcome.job) for outcome in outcomes if outcome.status == "failed"} == bad
    for outcome in outcomes:
        if outcome.error is not None:
            assert outcome.error.message == f"{outcome.job.source}: unexpected ZeroDivisionError: surprise"
    good = [number for number in range(12) if number not in bad]
    if to_stdout:
        assert widths_of(stdout.getvalue()) == [8 + number for number in good]
    else:
        assert written(order) == set(good)


def widths_of(pictures: bytes) -> list[int]:
    """Return the widths of concatenated PNGs."""
    parts = pictures.split(b"\x89PNG")[1:]
    return [codec.decode(b"\x89PNG" + part).size[1] for part in parts]


def test_pictures_on_standard_output_stand_in_their_order(order: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    stdout = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stdout))
    over = [threading.Event() for _ in range(9)]
    over[8].set()

    def backwards(job: Job, photo: Photo) -> Restored:
        await_event(over[photo.size[1] - 7])
        over[photo.size[1] - 8].set()
        return Restored(photo)

    pictures = [path.read_bytes() for path in order.inputs[:8]]
    stream = [Job(STANDARD, STANDARD, True, data=data, number=number) for number, data in enumerate(pictures, 1)]
    with no_thread_left():
        outcomes = within(lambda: list(process(iter(stream), replace(order, output=STANDARD), backwards, pace=ROOMY)))
    assert [outcome.job.number for outcome in outcomes] == list(range(1, 9))
    assert all(outcome.status == "done" and outcome.job.data is None for outcome in outcomes)
    assert widths_of(stdout.getvalue()) == list(range(8, 16))


@pytest.mark.parametrize("error", [DeviceError("out of memory"), UsageError("a tile does not fit")])
def test_an_error_that_would_fail_every_photo_ends_the_run_and_its_threads(
    error: Exception, order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutdown, awaited = ThreadPoolExecutor.shutdown, []

    def ending(self: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False) -> None:
        awaited.append(wait)
        shutdown(self, wait, cancel_futures=cancel_futures)

    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", ending)
    begun = Meeting()

    def restore(job: Job, photo: Photo) -> Restored:
        begun.add()
        if number_of(job) == 2:
            raise error
        return Restored(photo)

    told: list[Outcome] = []

    with no_thread_left(), pytest.raises(type(error), match=str(error)):
        within(lambda: told.extend(process(jobs(order), order, restore, pace=Pace(photos=3))))
    assert numbers(told)[:2] == [0, 1]
    assert 2 not in numbers(told)
    assert set(numbers(told)) == written(order)
    assert awaited == [True]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("photo")]


def test_an_error_that_ends_the_run_comes_when_what_is_in_the_network_is_done_and_told(order: Order) -> None:
    order = replace(order, inputs=order.inputs[:4])
    stop, network, stopped = Stop(), Meeting(), threading.Event()
    stop.tell(stopped.set)

    def restore(job: Job, photo: Photo) -> Restored:
        network.add()
        network.await_most(4)
        if number_of(job) in (0, 2):
            raise DeviceError(f"out of memory {number_of(job)}")
        await_event(stopped)
        return Restored(photo)

    told: list[Outcome] = []
    pace = Pace(photos=4, lanes=2)
    with no_thread_left(), pytest.raises(DeviceError, match="out of memory 0"):
        within(lambda: told.extend(process(jobs(order), order, restore, pace=pace, stop=stop)))
    assert [(number_of(outcome.job), outcome.status) for outcome in told] == [(1, "done"), (3, "done")]
    assert written(order) == {1, 3}


def test_after_stop_what_is_in_the_network_is_finished_and_the_rest_is_left(order: Order) -> None:
    stop, network, read = Stop(), Meeting(), Meeting()

    def restore(job: Job, photo: Photo) -> Restored:
        network.add()
        network.await_most(2)
        read.await_most(4)
        if number_of(job) == 1:
            stop.ask()
        else:
            await_event(stopped)
        return Restored(photo)

    stopped = threading.Event()
    stop.tell(stopped.set)
    with pytest.MonkeyPatch.context() as patch:

        def opened(*words: object, **named: object) -> opening.Opened:
            found = open_photo(*words, **named)  # type: ignore[arg-type]
            read.add()
            return found

        patch.setattr(pipeline, "open_photo", opened)
        outcomes = all_of(order, restore, pace=Pace(photos=4), stop=stop)
    assert (numbers(outcomes), {outcome.status for outcome in outcomes}) == ([0, 1], {"done"})
    assert written(order) == {0, 1}
    assert network.value == 2


def test_stopping_does_not_wait_for_photos_that_never_come(order: Order) -> None:
    stop, waits, gate = Stop(), threading.Event(), threading.Event()

    def coming() -> Iterator[Job]:
        yield jobs(order)[0]
        waits.set()
        await_event(gate)

    def run() -> list[Outcome]:
        outcomes = process(coming(), order, as_it_is, stop=stop)
        told = [next(outcomes)]
        await_event(waits)
        stop.ask()
        return told + list(outcomes)

    with no_thread_left():
        assert numbers(within(run)) == [0]
        gate.set()


def test_a_run_that_is_stopped_before_it_begins_does_nothing(order: Order) -> None:
    stop = Stop()
    stop.ask()
    assert all_of(order, lambda _job, _photo: pytest.fail("restored"), stop=stop) == []
    assert written(order) == set()


def test_who_leaves_early_waits_for_nobody(order: Order) -> None:
    gate, behind = threading.Event(), threading.Event()
    restored = Meeting()

    def restore(job: Job, photo: Photo) -> Restored:
        restored.add()
        if number_of(job) > 0:
            behind.set()
            await_event(gate)
        return Restored(photo)

    def leave() -> None:
        outcomes = process(jobs(order), order, restore, pace=Pace(photos=4))
        assert number_of(next(outcomes).job) == 0
        await_event(behind)
        outcomes.close()

    with no_thread_left():
        within(leave)
        assert not gate.is_set()
        count = restored.value
        gate.set()
    assert restored.value == count <= 3, "the places of those that are finished are not taken again"


@pytest.mark.parametrize(
    "error", [UsageError("the folder has gone"), InputError("gone"), ZeroDivisionError("surprise")]
)
def test_what_goes_wrong_with_the_jobs_is_told_after_those_that_came(error: Exception, order: Order) -> None:
    def coming() -> Iterator[Job]:
        yield from jobs(order)[:3]
        raise error

    told: list[Outcome] = []
    with no_thread_left(), pytest.raises(type(error)):
        within(lambda: told.extend(process(coming(), order, as_it_is)))
    assert numbers(told) == [0, 1, 2]


def test_a_job_that_brings_its_error_is_that_photo_s(order: Order) -> None:
    found = jobs(order)[:3]
    found[1] = replace(found[1], error=InputError("the stream broke off"))
    outcomes = within(lambda: list(process(found, order, as_it_is)))
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]


@pytest.mark.parametrize("first", ["a.jpg", "a.bmp"])
@pytest.mark.parametrize("listed", [True, False])
def test_of_two_that_turn_out_to_write_one_output_the_earlier_has_it(
    first: str, listed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {"a.jpg": "a.bmp", "a.bmp": "a.jpg"}[first]
    for name in (first, second):
        write_picture(tmp_path / name, size=(8, 8))  # both hold a PNG
    order = Order((tmp_path / first, tmp_path / second), "denoised", output=tmp_path / "o", output_is_folder=True)
    later_was_read = threading.Event()

    def settle(job: Job, *words: object) -> Job:
        # The later one knows its output while the earlier one does not.
        found = settled(job, *words)  # type: ignore[arg-type]
        if job.source.name == second:
            later_was_read.set()
        else:
            await_event(later_was_read)
        return found

    monkeypatch.setattr(opening, "settle", settle)
    planned = jobs(order)
    with no_thread_left():
        outcomes = within(lambda: list(process(planned if listed else iter(planned), order, as_it_is)))
    assert [(outcome.job.source.name, outcome.status) for outcome in outcomes] == [(first, "done"), (second, "failed")]
    assert isinstance(outcomes[1].error, OutputError)
    assert f"is that of {tmp_path / first} too" in outcomes[1].error.message


def test_a_photo_that_comes_again_while_it_is_in_hand_is_done_again_behind_itself(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = replace(order, existing="overwrite")
    (job, *_) = jobs(order)
    again = threading.Event()
    looked = opening.existing_output
    waited = Turns.wait_for
    calls = Meeting()

    def look(*words: object) -> object:
        found = looked(*words)  # type: ignore[arg-type]
        calls.add()
        if calls.value == 2:
            again.set()
        return found

    def wait(self: Turns, ticket: int) -> None:
        again.set()
        waited(self, ticket)

    monkeypatch.setattr(opening, "existing_output", look)
    monkeypatch.setattr(Turns, "wait_for", wait)
    widths: list[int] = []

    def restore(_job: Job, photo: Photo) -> Restored:
        widths.append(photo.size[1])
        if len(widths) == 1:
            write_picture(job.source, size=(8, 30))  # saved once more
            await_event(again)
        return Restored(photo)

    with no_thread_left():
        outcomes = within(lambda: list(process(iter([job, job]), order, restore)))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert codec.decode(job.target.read_bytes()).size[1] == 30


def test_a_photo_is_never_on_its_way_without_standing_in_the_line(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who stops while a photo is being begun hears of it, if it is done."""
    stop, done = Stop(), threading.Event()
    submit = ThreadPoolExecutor.submit

    def restore(_job: Job, photo: Photo) -> Restored:
        done.set()
        return Restored(photo)

    def slow(*words: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = submit(*words, **named)
        await_event(done)
        stop.ask()
        future.result(20)
        return future

    monkeypatch.setattr(ThreadPoolExecutor, "submit", slow)
    assert numbers(all_of(order, restore, stop=stop)) == [0]
    assert written(order) == {0}


def test_abandoning_leaves_no_partial_file_and_lets_nothing_be_written(
    order: Order, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_abandoned", False)
    target = jobs(order)[0].target
    promised = Meeting()

    def promise(_status: object) -> None:
        promised.add()
        assert len(list(target.parent.iterdir())) == 1
        writing.abandon()
        assert list(target.parent.iterdir()) == []

    with pytest.raises(writing.Abandoned):
        writing.write(target, b"data", overwrite=False, promise=promise)
    with pytest.raises(writing.Abandoned):
        writing.write(target, b"data", overwrite=False)
    assert promised.value == 1
    assert list(target.parent.iterdir()) == []
    assert writing._unfinished == set()
