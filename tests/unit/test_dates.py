from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.dates import MAX_DAYS, Dates, parse_dates, parse_span
from shared.errors import Fault, Invalid

NOW = datetime(2026, 3, 15, 0, 30, tzinfo=UTC)
TODAY = date(2026, 3, 15)


def faults(start: object, end: object, now: datetime = NOW) -> list[str]:
    with pytest.raises(Invalid) as raised:
        parse_dates(start, end, now)
    return [str(fault) for fault in raised.value.faults]


def test_without_dates_a_run_is_for_yesterday() -> None:
    assert parse_dates(None, None, NOW) == Dates(date(2026, 3, 14), date(2026, 3, 14))


def test_yesterday_is_the_utc_day_before_whatever_the_zone_of_the_clock() -> None:
    evening = NOW.astimezone(timezone(timedelta(hours=-8)))
    assert evening.date() == date(2026, 3, 14)
    assert parse_dates(None, None, evening).start == date(2026, 3, 14)


def test_one_date_alone_is_that_day() -> None:
    day = Dates(date(2026, 1, 31), date(2026, 1, 31))
    assert parse_dates("2026-01-31", None, NOW) == day
    assert parse_dates(None, "2026-01-31", NOW) == day


def test_both_dates_are_inclusive_and_today_is_allowed() -> None:
    assert parse_dates("2026-03-01", "2026-03-15", NOW) == Dates(date(2026, 3, 1), TODAY)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "2026-1-31",
        "20260131",
        "2026-W05-6",
        "31.01.2026",
        "2026-01-31T00:00:00Z",
        " 2026-01-31",
        "2026-01-31\n",
        "२०२६-01-31",
        20260131,
        True,
        [],
        date(2026, 1, 31),
    ],
)
def test_anything_but_a_day_is_a_fault_of_its_field(value: object) -> None:
    assert faults(value, "2026-03-01") == ["start_date must be a day like 2026-01-31"]
    assert faults("2026-03-01", value) == ["end_date must be a day like 2026-01-31"]


def test_a_day_that_no_month_has_is_a_fault() -> None:
    [fault] = faults("2026-02-29", None)
    assert fault.startswith("start_date is no day of the calendar: ")


def test_both_fields_have_their_own_fault() -> None:
    assert faults("2026-13-01", "2026-03-16") == [
        "start_date is no day of the calendar: month must be in 1..12",
        "end_date 2026-03-16 is in the future (today is 2026-03-15, UTC)",
    ]


def test_a_reversed_range_is_a_fault() -> None:
    assert faults("2026-03-02", "2026-03-01") == [
        "end_date 2026-03-01 is before start_date 2026-03-02"
    ]


def test_a_range_that_is_too_long_says_what_to_use() -> None:
    end = TODAY - timedelta(days=1)
    start = end - timedelta(days=MAX_DAYS - 1)
    assert parse_dates(start.isoformat(), end.isoformat(), NOW) == Dates(start, end)
    before = (start - timedelta(days=1)).isoformat()
    assert faults(before, end.isoformat()) == [
        f"end_date 401 days from {before} to {end}; a run takes 400: use a backfill"
    ]


def test_a_year_before_any_cloud_is_a_slip() -> None:
    assert faults("0206-01-01", None) == ["start_date 0206-01-01 is before 2000-01-01"]


anything = st.none() | st.text(max_size=12) | st.dates().map(str) | st.integers()
# timezones= wants a naive bound
clock = st.datetimes(datetime(2001, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(anything, anything, clock)
def test_dates_are_in_order_and_not_in_the_future_or_refused(
    start: object, end: object, now: datetime
) -> None:
    refused: tuple[Fault, ...] = ()
    try:
        days = parse_dates(start, end, now)
    except Invalid as invalid:
        refused = invalid.faults
    else:
        assert days.start <= days.end <= now.date()
        assert (days.end - days.start).days < MAX_DAYS
    assert {fault.where for fault in refused} <= {"start_date", "end_date"}


def test_what_is_looked_at_ends_yesterday_and_has_its_length() -> None:
    yesterday = date(2026, 3, 14)
    assert parse_span(None, None, NOW, 35) == Dates(date(2026, 2, 8), yesterday)
    assert parse_span("2026-03-01", None, NOW, 35) == Dates(date(2026, 3, 1), yesterday)
    assert parse_span("2026-03-15", None, NOW, 35) == Dates(TODAY, TODAY)
    assert parse_span(None, "2026-01-31", NOW, 31) == Dates(date(2026, 1, 1), date(2026, 1, 31))
    assert parse_span(None, "2000-01-02", NOW, 35) == Dates(date(2000, 1, 1), date(2000, 1, 2))


def test_more_days_than_a_run_takes_are_not_looked_at() -> None:
    with pytest.raises(Invalid) as raised:
        parse_span("2025-01-01", None, NOW, 35)
    assert [str(fault) for fault in raised.value.faults] == [
        f"end_date 438 days from 2025-01-01 to 2026-03-14; ask for at most {MAX_DAYS}"
    ]
