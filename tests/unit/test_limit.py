"""How fast a caller may be."""

from __future__ import annotations

import threading
from datetime import timedelta

from shared.engine.limit import MAX_CALLERS, Limit


class Clock:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at


def test_so_many_may_come_at_once_and_then_as_they_are_refilled() -> None:
    clock = Clock()
    limit = Limit(60, clock)
    standings = [limit.take("a") for _ in range(60)]
    assert [standing.left for standing in standings] == list(range(59, -1, -1))
    assert not any(standing.wait for standing in standings)
    assert standings[-1].full_in == timedelta(seconds=60)
    refused = limit.take("a")
    assert (refused.left, refused.wait) == (0, timedelta(seconds=1))
    clock.at += 0.5
    assert limit.take("a").wait == timedelta(seconds=0.5)
    clock.at += 0.5
    assert limit.take("a") == (0, timedelta(seconds=60), timedelta(0))
    clock.at += 1000
    assert limit.look("a") == (60, timedelta(0), timedelta(0))


def test_a_refused_call_costs_nothing_and_nobody_pays_for_another() -> None:
    clock = Clock()
    limit = Limit(1, clock)
    assert not limit.take("a").wait
    for _ in range(100):
        assert limit.take("a").wait == timedelta(seconds=60)
    assert not limit.take("b").wait
    assert limit.look("a").wait


def test_memory_is_bounded_and_the_quietest_caller_is_forgotten() -> None:
    clock = Clock()
    limit = Limit(1, clock)
    for number in range(MAX_CALLERS + 1):
        limit.take(str(number))
    assert len(limit._spent) == MAX_CALLERS
    assert not limit.look("0").wait
    assert limit.look("1").wait
    for number in range(MAX_CALLERS):
        limit.look(f"looked {number}")
    assert len(limit._spent) == MAX_CALLERS


def test_threads_get_no_more_than_there_is() -> None:
    limit = Limit(1000, Clock())
    let_in: list[bool] = []

    def call() -> None:
        let_in.extend(not limit.take("a").wait for _ in range(500))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(let_in), sum(let_in)) == (4000, 1000)
