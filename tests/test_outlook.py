"""The outlook of a job: speed and time left from megapixels, with a clock of the test's own."""

import random
from collections.abc import Sequence

import pytest

from kbnet_cli.outlook import Outlook


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Told = tuple[float, float | None, float]
"""A share of the job's time that has passed, the time left as reckoned, and as it truly was, in seconds."""


def played(
    sizes: Sequence[float],
    *,
    seconds_a_megapixel: float = 0.5,
    bytes_a_megapixel: Sequence[float] | None = None,
    headers: bool = False,
    tiles: int = 8,
) -> list[Told]:
    """Play a job of photos of so many megapixels, and ask after each tile."""
    clock = Clock()
    outlook = Outlook(photos=len(sizes), clock=clock)
    ratios = bytes_a_megapixel or [300_000.0] * len(sizes)
    for key, (size, ratio) in enumerate(zip(sizes, ratios, strict=True)):
        outlook.expect(key, size if headers else None, round(size * ratio))
    whole, past, told = sum(sizes) * seconds_a_megapixel, 0.0, []
    for key, size in enumerate(sizes):
        outlook.begin(key, size)
        for tile in range(1, tiles + 1):
            clock.now += size * seconds_a_megapixel / tiles
            past += size * seconds_a_megapixel / tiles
            outlook.tile(key, tile, tiles)
            told.append((past / whole, outlook.seconds_left, whole - past))
        outlook.finish(key, "done", size)
    assert outlook.seconds_left == 0
    assert outlook.megapixels_done == pytest.approx(sum(sizes))
    assert outlook.megapixels_expected == pytest.approx(sum(sizes))
    assert outlook.totals().megapixels == pytest.approx(sum(sizes))
    return told


def worst(told: list[Told], *, until: float = 0.99) -> float:
    """Return how wrong the time left was at most from a fifth of the time on, as a share of what was true."""
    wrong = [abs((left or 0.0) - true) / true for share, left, true in told if 0.2 <= share < until]
    assert wrong
    return max(wrong)


MIXED = [random.Random(7).choice((0.3, 2.0, 12.0, 24.0, 45.0)) for _ in range(60)]


@pytest.mark.parametrize("headers", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [[1.0] * 10 + [24.0] * 10, [24.0] * 10 + [1.0] * 10, MIXED, [24.0]],
    ids=["growing", "falling", "mixed", "one"],
)
def test_time_left_is_learned_from_megapixels(sizes: list[float], headers: bool) -> None:
    assert worst(played(sizes, headers=headers)) < 0.01


def test_files_that_are_packed_differently_are_reckoned_well_enough() -> None:
    chance = random.Random(3)
    sizes = MIXED * 4
    ratios = [300_000 * chance.uniform(0.6, 1.4) for _ in sizes]
    assert worst(played(sizes, bytes_a_megapixel=ratios), until=0.9) < 0.15


def test_each_kind_of_file_has_its_own_megapixels_a_byte() -> None:
    clock = Clock()
    outlook = Outlook(photos=4, clock=clock)
    outlook.expect("a.jpg", 20.0, 5_000_000, "jpg")
    outlook.expect("a.cr3", 20.0, 25_000_000, "cr3")
    outlook.expect("b.jpg", None, 10_000_000, "jpg")
    outlook.expect("b.cr3", None, 50_000_000, "cr3")
    assert outlook.megapixels_expected == pytest.approx(120)
    outlook.expect("b.cr3", 30.0, 50_000_000, "cr3")
    assert outlook.megapixels_expected == pytest.approx(110)


def test_photos_of_which_nothing_is_told_count_as_the_mean() -> None:
    outlook = Outlook(photos=10, clock=Clock())
    assert outlook.megapixels_expected is None
    outlook.expect("a", 2.0, 0)
    outlook.expect("b", 4.0, 0)
    outlook.expect("c", None, 0)
    assert outlook.megapixels_expected == pytest.approx(30)


def test_a_resume_that_passes_over_nearly_all_says_nothing_of_the_speed() -> None:
    clock = Clock()
    outlook = Outlook(photos=3000, clock=clock)
    for key in range(3000):
        outlook.expect(key, None, 6_000_000)
    for key in range(2900):
        clock.now += 5 / 2900
        outlook.finish(key, "kept")
    assert outlook.megapixels_a_second is None
    assert outlook.seconds_left is None
    for key in range(2900, 2920):
        outlook.begin(key, 24.0)
        clock.now += 12
        outlook.tile(key, 1, 1)
        outlook.finish(key, "done", 24.0)
    assert outlook.megapixels_a_second == pytest.approx(2.0)
    assert outlook.seconds_left == pytest.approx(80 * 12)
    assert outlook.megapixels_done == pytest.approx(2920 * 24)
    totals = outlook.totals()
    assert (totals.done, totals.kept, totals.left) == (20, 2900, 80)
    assert totals.megapixels_a_second == pytest.approx(480 / 245)


def test_passing_over_between_photos_does_not_slow_the_job_down() -> None:
    clock = Clock()
    outlook = Outlook(photos=40, clock=clock)
    for key in range(0, 30, 3):
        outlook.begin(key, 10.0)
        clock.now += 5
        outlook.tile(key, 1, 1)
        outlook.finish(key, "done", 10.0)
        clock.now += 20
        outlook.finish(key + 1, "skipped", 10.0)
        clock.now += 20
        outlook.finish(key + 2, "failed", 10.0)
    assert outlook.megapixels_a_second == pytest.approx(2.0)
    assert outlook.seconds_left == pytest.approx(50)


def test_passing_over_while_the_network_works_is_the_networks_time() -> None:
    clock = Clock()
    outlook = Outlook(photos=4, clock=clock)
    outlook.begin(0, 10.0)
    for passed in (1, 2):
        clock.now += 4
        outlook.finish(passed, "kept", 10.0)
    clock.now += 2
    outlook.tile(0, 1, 1)
    assert outlook.megapixels_a_second == pytest.approx(1.0)
    assert outlook.seconds_left == pytest.approx(10)


def test_a_photo_that_fails_in_the_network_took_its_time() -> None:
    clock = Clock()
    outlook = Outlook(photos=3, clock=clock)
    for key, status in (("a", "failed"), ("b", "done")):
        outlook.begin(key, 10.0)
        clock.now += 5
        outlook.finish(key, "done" if status == "done" else "failed")
    assert outlook.megapixels_a_second == pytest.approx(1.0)
    assert outlook.totals().megapixels == 10


def test_photos_that_are_written_while_the_next_is_in_the_network_count_once() -> None:
    clock = Clock()
    outlook = Outlook(photos=3, clock=clock)
    for key in range(3):
        outlook.begin(key, 6.0)
        clock.now += 3
        outlook.tile(key, 2, 2)
        assert outlook.megapixels_done == pytest.approx(6.0 * (key + 1))
    assert outlook.photos_done == 0
    assert outlook.megapixels_a_second == pytest.approx(2.0)
    for key in range(3):
        outlook.finish(key, "done", 6.0)
    assert outlook.megapixels_done == outlook.megapixels_expected == pytest.approx(18)


def test_a_machine_that_became_slower_shows_within_minutes() -> None:
    clock = Clock()
    outlook = Outlook(photos=10_000, clock=clock)

    def work(minutes: float, megapixels_a_second: float) -> None:
        for _ in range(round(minutes * 6)):
            outlook.begin(clock.now, 10 * megapixels_a_second)
            clock.now += 10
            outlook.finish(clock.now - 10, "done")

    work(120, 4.0)
    assert outlook.megapixels_a_second == pytest.approx(4.0)
    work(15, 1.0)
    assert outlook.megapixels_a_second == pytest.approx(1.0, rel=0.2)


def test_time_left_runs_down_between_tiles_and_not_below_nothing() -> None:
    clock = Clock()
    outlook = Outlook(photos=1, clock=clock)
    outlook.begin("a", 8.0)
    clock.now += 10
    outlook.tile("a", 1, 4)
    assert outlook.seconds_left == pytest.approx(30)
    clock.now += 4
    assert outlook.seconds_left == pytest.approx(26)
    clock.now += 100
    assert outlook.seconds_left == 0


def test_a_tile_longer_than_what_is_remembered_does_not_bend_the_speed() -> None:
    clock = Clock()
    outlook = Outlook(photos=2, clock=clock)
    outlook.begin("a", 8.0)
    for tile in (1, 2):
        clock.now += 4000
        outlook.tile("a", tile, 2)
    assert outlook.megapixels_a_second == pytest.approx(0.001)


def test_where_nobody_knows_how_many_photos_there_are_no_time_is_told() -> None:
    clock = Clock()
    outlook = Outlook(photos=None, clock=clock)
    for key in range(5):
        outlook.begin(key, 2.0)
        clock.now += 1
        outlook.finish(key, "done", 2.0)
    assert outlook.megapixels_a_second == pytest.approx(2.0)
    assert (outlook.megapixels_expected, outlook.seconds_left) == (None, None)
    assert outlook.totals().left == 0
    assert outlook.totals("interrupted").left is None


def test_nothing_is_kept_of_photos_with_an_outcome() -> None:
    outlook = Outlook(photos=None, clock=Clock())
    for key in range(100):
        outlook.begin(f"frame {key}", 2.0)
        outlook.finish(f"frame {key}", "done", 2.0)
    assert not outlook._ahead
    assert not outlook._unexpected


def test_whoever_looks_ahead_may_come_late() -> None:
    clock = Clock()
    outlook = Outlook(photos=4, clock=clock)
    outlook.begin("a", 10.0)
    clock.now += 1
    outlook.finish("a", "done", 10.0)
    outlook.begin("b", 20.0)
    outlook.expect("a", 10.0, 1_000_000, "jpg")
    outlook.expect("b", None, 4_000_000, "jpg")
    outlook.expect("c", None, 2_000_000, "jpg")
    assert outlook.megapixels_expected == pytest.approx(10 + 20 + 10 + 15), "b teaches c; d is the mean of a and b"
    outlook.finish("b", "done")
    outlook.finish("d", "failed")
    outlook.expect("d", 99.0, 5_000_000, "jpg")
    assert outlook.megapixels_done == pytest.approx(45)
    assert outlook.megapixels_expected == pytest.approx(55)
    assert outlook.photos_done == 3


def test_a_photo_of_unknown_size_that_fails_leaves_the_sums_whole() -> None:
    clock = Clock()
    outlook = Outlook(photos=3, clock=clock)
    outlook.expect("good", None, 1_000_000)
    outlook.expect("bad", None, 1_000_000)
    outlook.expect("empty", None, 0)
    outlook.finish("bad", "failed")
    outlook.finish("empty", "failed")
    assert outlook.megapixels_done == 0
    outlook.begin("good", 3.0)
    clock.now += 1
    outlook.finish("good", "done", 3.0)
    assert outlook.megapixels_done == outlook.megapixels_expected == pytest.approx(9.0)
    assert outlook.totals().as_event() == {
        "event": "summary", "done": 1, "kept": 0, "skipped": 0, "failed": 2, "left": 0, "seconds": 1.0,
        "megapixels": 3.0, "megapixels_a_second": 3.0, "stopped": None,
    }  # fmt: skip
