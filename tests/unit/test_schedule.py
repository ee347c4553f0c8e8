"""Due times are those of the expression in its zone, and the policy decides what becomes of each."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import islice, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.schedule import (
    BURST,
    LATE,
    Enrolment,
    day_of,
    due_times,
    effective,
    fire,
    next_due,
    timing_of,
)
from shared.core.spec import Catchup, Overlap, Schedule

YEAR = 2028  # a leap year


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def until(end: datetime, schedule: Schedule, after: datetime) -> list[datetime]:
    return list(takewhile(lambda due: due <= end, due_times(schedule, after)))


def first(cron: str, zone: str, after: str, count: int) -> list[str]:
    found = due_times(Schedule(cron=cron, timezone=zone), at(after))
    return [f"{due:%Y-%m-%dT%H:%M}" for due in islice(found, count)]


@pytest.mark.parametrize(
    ("cron", "zone", "after", "expected"),
    [
        # Berlin leaps from 02:00 to 03:00 on 29 March 2026: what the leap swallows is due right after it
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-03-28T12:00",
            ["2026-03-29T01:00", "2026-03-30T00:30"],
        ),
        # and has 02:30 twice on 25 October: it is due once, at the first
        (
            "30 2 * * *",
            "Europe/Berlin",
            "2026-10-24T12:00",
            ["2026-10-25T00:30", "2026-10-26T01:30"],
        ),
        # an hour that is `*` is due by real time, through both
        (
            "0 * * * *",
            "America/New_York",
            "2026-11-01T04:30",
            ["2026-11-01T05:00", "2026-11-01T06:00", "2026-11-01T07:00"],
        ),
        (
            "0 * * * *",
            "America/New_York",
            "2026-03-08T05:30",
            ["2026-03-08T06:00", "2026-03-08T07:00", "2026-03-08T08:00"],
        ),
        # Lord Howe's clocks change by half an hour
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["2026-10-03T15:30"]),
        ("0 6 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T06:00", "2032-02-29T06:00"]),
        ("0 6 31 * *", "UTC", "2026-01-01T00:00", ["2026-01-31T06:00", "2026-03-31T06:00"]),
        ("@daily", "Asia/Tokyo", "2026-01-01T00:00", ["2026-01-01T15:00"]),
        ("0 9 * * mon-fri", "UTC", "2026-01-02T10:00", ["2026-01-05T09:00"]),
    ],
)
def test_a_time_of_day_is_due_where_the_clocks_of_its_zone_say(
    cron: str, zone: str, after: str, expected: list[str]
) -> None:
    assert first(cron, zone, after, len(expected)) == expected


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_has_a_run_for_each_of_its_days(zone: str) -> None:
    schedule = Schedule(cron="30 2 * * *", timezone=zone)

    days = [
        day_of(schedule, due)
        for due in until(at(f"{YEAR + 1}-01-01T12:00"), schedule, at(f"{YEAR}-01-01T12:00"))
    ]

    assert len(days) == 366
    assert days == [days[0] + timedelta(days=n) for n in range(366)]


def test_a_run_is_about_the_day_before_where_its_schedule_is_at_home() -> None:
    tokyo = Schedule(cron="0 6 * * *", timezone="Asia/Tokyo")
    (due,) = islice(due_times(tokyo, at("2026-06-14T12:00")), 1)

    assert due == at("2026-06-14T21:00")
    assert day_of(tokyo, due) == date(2026, 6, 14), "in Tokyo it is the 15th already"


@given(
    cron=st.sampled_from(["*/7 * * * *", "0 6 * * *", "30 2 * * *", "0 0 1 * *", "15 2 * * sun"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
    start=st.datetimes(datetime(2025, 1, 1), datetime(2029, 1, 1)),  # noqa: DTZ001  # made aware below
    hours=st.lists(st.integers(1, 100), min_size=1, max_size=8),
)
def test_the_same_times_are_due_wherever_one_begins_to_look(
    cron: str, zone: str, start: datetime, hours: list[int]
) -> None:
    schedule = Schedule(cron=cron, timezone=zone)
    begin = start.replace(tzinfo=UTC)
    end = begin + timedelta(hours=sum(hours))
    whole = until(end, schedule, begin)

    parts: list[datetime] = []
    for width in hours:
        stop = begin + timedelta(hours=width)
        parts += until(stop, schedule, begin)
        begin = stop

    assert parts == whole
    assert len(set(whole)) == len(whole)


HOURLY = "0 * * * *"
NOON = at("2026-06-15T12:00")


def hourly(catchup: Catchup, overlap: Overlap = Overlap.SKIP) -> Schedule:
    return Schedule(cron=HOURLY, catchup=catchup, overlap=overlap)


def test_what_is_due_now_is_started_and_the_next_is_looked_at_in_its_time() -> None:
    firing = fire(hourly(Catchup.NONE), NOON, NOON + timedelta(seconds=40), busy=False)

    assert firing == ((NOON,), (), NOON + timedelta(hours=1))


def test_what_was_missed_is_told_and_not_started() -> None:
    firing = fire(hourly(Catchup.NONE), NOON, NOON + timedelta(hours=2, minutes=30), busy=False)

    assert firing.starts == ()
    (skip,) = firing.skipped
    assert (skip.first, skip.last, skip.count, skip.reason) == (
        NOON,
        NOON + timedelta(hours=2),
        3,
        "missed",
    )
    assert firing.due_at == NOON + timedelta(hours=3)


def test_a_tick_that_is_late_has_not_missed_it() -> None:
    on_the_edge = NOON + LATE - timedelta(microseconds=1)

    assert fire(hourly(Catchup.NONE), NOON, on_the_edge, busy=False).starts == (NOON,)
    assert fire(hourly(Catchup.NONE), NOON, NOON + LATE, busy=False).starts == ()


def test_the_last_of_those_missed_is_caught_up() -> None:
    firing = fire(hourly(Catchup.LAST), NOON, NOON + timedelta(hours=2, minutes=30), busy=False)

    assert firing.starts == (NOON + timedelta(hours=2),)
    (skip,) = firing.skipped
    assert (skip.count, skip.reason) == (2, "missed")


def test_a_run_that_is_still_at_work_is_not_overlapped() -> None:
    firing = fire(hourly(Catchup.NONE), NOON, NOON, busy=True)

    assert firing.starts == ()
    assert [skip.reason for skip in firing.skipped] == ["overlap"]
    assert firing.due_at == NOON + timedelta(hours=1)


def test_runs_that_may_overlap_do() -> None:
    assert fire(hourly(Catchup.NONE, Overlap.ALLOW), NOON, NOON, busy=True).starts == (NOON,)


def test_all_that_were_missed_are_made_up_for_one_after_another() -> None:
    schedule, now = hourly(Catchup.ALL), NOON + timedelta(hours=2, minutes=30)

    assert fire(schedule, NOON, now, busy=False) == ((NOON,), (), NOON + timedelta(hours=1))
    # nothing is lost while the one before runs: it stays due
    assert fire(schedule, NOON + timedelta(hours=1), now, busy=True) == (
        (),
        (),
        NOON + timedelta(hours=1),
    )


def test_all_that_were_missed_come_in_bursts_where_they_may_overlap() -> None:
    schedule, now = hourly(Catchup.ALL, Overlap.ALLOW), NOON + timedelta(hours=100)

    firing = fire(schedule, NOON, now, busy=True)

    assert firing.starts == tuple(NOON + timedelta(hours=n) for n in range(BURST))
    assert firing.due_at == NOON + timedelta(hours=BURST)


@given(
    catchup=st.sampled_from(Catchup),
    overlap=st.sampled_from(Overlap),
    gaps=st.lists(st.integers(1, 5000), min_size=1, max_size=30),
    busy=st.lists(st.booleans(), min_size=30, max_size=30),
)
def test_every_due_time_is_started_or_told_or_still_due_and_none_twice(
    catchup: Catchup, overlap: Overlap, gaps: list[int], busy: list[bool]
) -> None:
    schedule = Schedule(
        cron="*/20 * * * *", timezone="Europe/Berlin", catchup=catchup, overlap=overlap
    )
    begin = at("2026-10-24T20:00")
    now = begin
    due = next_due(schedule, begin)
    started: list[datetime] = []
    skipped = 0
    for gap, at_work in zip(gaps, busy, strict=False):
        now += timedelta(minutes=gap)
        while due is not None and due <= now:
            firing = fire(schedule, due, now, busy=at_work)
            started += firing.starts
            skipped += sum(skip.count for skip in firing.skipped)
            if firing.due_at == due:
                break
            due = firing.due_at

    assert len(set(started)) == len(started)
    assert started == sorted(started)
    assert due is not None
    came = until(now, schedule, begin)
    left = [time for time in came if time >= due]
    assert len(started) + skipped + len(left) == len(came)
    if catchup is Catchup.ALL:
        assert not skipped
        assert [*started, *left] == came
    else:
        assert not left


def enrolled(**changes: object) -> Enrolment:
    base = {
        "org": "acme",
        "schedule_id": "daily",
        "address": "aws/cost/billing",
        "created_at": NOON,
        "updated_at": NOON,
    }
    return Enrolment(**{**base, **changes})  # type: ignore[arg-type]  # fields by name


def test_an_organization_follows_the_pipeline_where_it_says_nothing() -> None:
    own = Schedule(cron="0 6 * * *", timezone="Europe/Berlin", catchup=Catchup.LAST)

    assert effective(own, enrolled()) == own
    assert effective(own, enrolled(catchup=Catchup.NONE)) == Schedule(
        cron="0 6 * * *", timezone="Europe/Berlin", catchup=Catchup.NONE
    )
    assert effective(own, enrolled(cron="0 9 * * *")) == Schedule(
        cron="0 9 * * *", timezone="UTC", catchup=Catchup.LAST
    ), "its own expression is in UTC unless it says otherwise"
    assert effective(None, enrolled()) is None


def test_a_schedule_that_either_has_turned_off_is_never_due() -> None:
    on, off = Schedule(cron=HOURLY), Schedule(cron=HOURLY, enabled=False)

    for schedule in (effective(off, enrolled()), effective(on, enrolled(enabled=False)), None):
        assert next_due(schedule, NOON) is None
        assert timing_of(schedule) == ""


def test_the_run_of_a_due_time_is_one_and_its_own() -> None:
    one, other = enrolled(), enrolled(org="other")

    assert one.run_id(NOON) == one.run_id(NOON)
    assert len({one.run_id(NOON), one.run_id(NOON + timedelta(hours=1)), other.run_id(NOON)}) == 3
