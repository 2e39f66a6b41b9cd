"""Memory that is shared, and turns that are taken."""

import threading

import pytest

from kbnet_cli.batch.budget import Budget, Turns
from tests.watchdog import Watched, await_event, within


def test_a_budget_lets_nobody_in_before_there_is_room() -> None:
    budget = Budget(100)
    budget._changed = watched = Watched()
    taken = budget.take(30), budget.take(70)
    for asked in (1, 500):
        watched.waits.clear()
        inside = threading.Event()
        waiting = threading.Thread(target=lambda asked=asked, inside=inside: (budget.take(asked), inside.set()))
        waiting.start()
        await_event(watched.waits)
        assert not inside.is_set()
        budget.give_back(taken[0])
        if asked == 500:
            budget.give_back(1)
            assert not inside.is_set(), "70 are taken yet"
            budget.give_back(taken[1])
        await_event(inside)
        waiting.join()
        if asked == 1:
            taken = budget.take(29), taken[1]
    budget.give_back(100)
    assert within(lambda: budget.take(10**12)) == 100


def test_turns_come_in_their_order_and_skipped_ones_are_not_waited_for() -> None:
    turns = Turns(1)
    entered: list[int] = []

    def enter(ticket: int) -> None:
        with turns.turn(ticket):
            entered.append(ticket)

    threads = [threading.Thread(target=enter, args=(ticket,)) for ticket in (5, 3, 0, 4)]
    turns.skip(2)
    for thread in threads:
        thread.start()
    turns.skip(1)
    for thread in threads:
        within(thread.join)
    turns.skip(0)  # passed already
    assert entered == [0, 3, 4, 5]
    with pytest.raises(ZeroDivisionError), turns.turn(6):
        raise ZeroDivisionError
    within(lambda: enter(7))
    within(lambda: turns.wait_for(8))


def test_a_ticket_waits_for_a_free_place_and_for_those_before_it() -> None:
    turns = Turns(2)
    turns._changed = watched = Watched()
    inside = threading.Event()

    def enter() -> None:
        with turns.turn(1, places=2):
            inside.set()

    with turns.turn(0):
        thread = threading.Thread(target=enter)
        thread.start()
        await_event(watched.waits)
        assert not inside.is_set()
    await_event(inside)
    thread.join()
    watched.waits.clear()
    later = threading.Thread(target=lambda: turns.wait_for(3))
    later.start()
    await_event(watched.waits)
    turns.skip(2)
    within(later.join)
