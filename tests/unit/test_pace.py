"""An account is asked no faster than its provider allows, and not slower than that either."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.providers import Rate
from shared.http.pace import Pace

RATES = st.integers(min_value=1, max_value=600)
PAUSES = st.lists(st.floats(min_value=0, max_value=40), max_size=150)


def begun(pace: Pace, pauses: list[float]) -> list[float]:
    """When each request began of a caller that pauses before each, and then waits as it is told."""
    now, times = 1000.0, []
    for pause in pauses:
        now += pause
        now += pace.wait(now)
        pace.begin(now)
        pace.end()
        times.append(now)
    return times


@given(RATES, PAUSES)
def test_no_minute_has_more_requests_than_may_be(rate: int, pauses: list[float]) -> None:
    times = begun(Pace(Rate(requests_per_minute=rate)), pauses)
    for first in times:
        assert sum(first <= time < first + 60 - 1e-6 for time in times) <= rate


@given(RATES)
def test_who_always_waits_is_let_through_as_often_as_may_be(rate: int) -> None:
    times = begun(Pace(Rate(requests_per_minute=rate)), [0.0] * (rate + 1))
    assert times[-1] - times[0] <= 60 + 1e-6


def test_a_quarter_of_a_minute_may_come_at_once() -> None:
    times = begun(Pace(Rate(requests_per_minute=60)), [0.0] * 16)
    assert times[14] == pytest.approx(times[0])
    assert times[15] > times[0] + 1


def test_no_more_run_at_a_time_than_may() -> None:
    pace = Pace(Rate(requests_per_minute=600, concurrent=2))
    pace.begin(0.0)
    pace.begin(0.0)
    assert pace.wait(0.0) == inf
    pace.end()
    assert pace.wait(0.0) == 0


def test_nothing_begins_while_the_provider_wants_to_be_left_alone() -> None:
    pace = Pace(Rate(requests_per_minute=600))
    pace.hold(30.0)
    pace.hold(10.0)
    assert pace.wait(5.0) == 25
    assert pace.wait(30.0) == 0
