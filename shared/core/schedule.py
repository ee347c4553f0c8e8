"""When a schedule is due, and which of the due times are started: pure, from the expression and the clock.

A due time is computed from the cron expression in its zone, never from the one before it, so that nothing
can stop the chain. Where clocks change, it is as Debian's cron has it: a time of day that the clock
leaps over is due right after the leap; one that comes twice is due once, at its first; an expression
whose hour or minute is `*` is due by real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import NamedTuple

from shared.core.cron import five_fields
from shared.core.record import Document, Json
from shared.core.run import derived_run_id
from shared.core.spec import Catchup, Overlap, Schedule

LATE = timedelta(minutes=10)  # what is started later than this was missed
BURST = 10  # of one schedule, and of one tick: an outage must not flood a provider


class Enrolment(Document, frozen=True, kw_only=True, omit_defaults=False):
    """An organization's schedule of a pipeline. What is None follows the pipeline's own schedule.

    `due_at` is the earliest due time that nobody has dealt with (None: it is never due), `timing` what it
    was computed from. `version` counts the writes.
    """

    org: str
    schedule_id: str
    address: str
    version: int = 1
    enabled: bool = True
    cron: str | None = None
    timezone: str | None = None
    overlap: Overlap | None = None
    catchup: Catchup | None = None
    credential_id: str | None = None
    parameters: dict[str, Json] = {}
    timing: str = ""
    due_at: datetime | None = None
    last_due_at: datetime | None = None
    last_run_id: str | None = None
    created_at: datetime
    updated_at: datetime

    def run_id(self, due_at: datetime) -> str:
        """The run of that due time: asked for twice, it is one."""
        return derived_run_id(self.org, "schedule", self.schedule_id, due_at.isoformat())


class Skip(Document, frozen=True, kw_only=True, omit_defaults=False):
    """Due times that were not started, from the first to the last of them, and why."""

    first: datetime
    last: datetime
    count: int
    reason: str


class Firing(NamedTuple):
    """What to do about a schedule that is due: start these times, tell of those, and look again then."""

    starts: tuple[datetime, ...]
    skipped: tuple[Skip, ...]
    due_at: datetime | None


def effective(own: Schedule | None, enrolment: Enrolment) -> Schedule | None:
    """The schedule as it is for the organization; None when neither has an expression."""
    cron = enrolment.cron or (own.cron if own else None)
    if cron is None:
        return None
    base = own or Schedule(cron=cron)
    return Schedule(
        cron=cron,
        # An expression of the organization's own is not read in a zone that it did not know of.
        timezone=enrolment.timezone or (base.timezone if enrolment.cron is None else "UTC"),
        enabled=enrolment.enabled and base.enabled,
        overlap=enrolment.overlap or base.overlap,
        catchup=enrolment.catchup or base.catchup,
    )


def timing_of(schedule: Schedule | None) -> str:
    """Changes when due times must be computed anew."""
    if schedule is None or not schedule.enabled:
        return ""
    return f"{five_fields(schedule.cron)} {schedule.timezone}"


def due_times(schedule: Schedule, after: datetime) -> Iterator[datetime]:
    """Every due time after that moment, in UTC, earliest first, each once."""
    from cronsim import CronSim  # noqa: PLC0415  # 30 ms, for the functions that look at schedules

    local = after.astimezone(_zone(schedule))
    for due in CronSim(five_fields(schedule.cron), local):
        yield due.astimezone(UTC)


def next_due(schedule: Schedule | None, after: datetime) -> datetime | None:
    """The first due time after that moment; None when there is none (29 February of no year, disabled)."""
    if schedule is None or not schedule.enabled:
        return None
    return next(due_times(schedule, after), None)


def day_of(schedule: Schedule, due_at: datetime) -> date:
    """The day that a run of that due time is about: the one before, where the schedule is at home."""
    return due_at.astimezone(_zone(schedule)).date() - timedelta(days=1)


def _zone(schedule: Schedule) -> tzinfo:
    from zoneinfo import ZoneInfo  # noqa: PLC0415  # 4 ms, for the functions that look at schedules

    return ZoneInfo(schedule.timezone)


def fire(schedule: Schedule, due_at: datetime, now: datetime, *, busy: bool) -> Firing:
    """Decides about every time that is due by now. `busy`: the run before is still at work.

    All of them are made up for up to the burst, or one by one where runs may not overlap: what is left
    stays due. Otherwise only the newest is started, and unless it is to be caught up it must not be late.
    """
    upcoming = due_times(schedule, due_at - timedelta(microseconds=1))
    alone = schedule.overlap is Overlap.SKIP
    if schedule.catchup is Catchup.ALL:
        cap = 0 if busy and alone else 1 if alone else BURST
        starts = tuple(islice(takewhile(lambda at: at <= now, upcoming), cap))
        after = next_due(schedule, starts[-1]) if starts else due_at
        return Firing(starts, (), after)
    newest: datetime | None = None
    missed: Skip | None = None
    after = next(upcoming, None)
    while after is not None and after <= now:
        missed = _with(missed, newest, "missed")
        newest, after = after, next(upcoming, None)
    if newest is not None and newest <= now - LATE and schedule.catchup is Catchup.NONE:
        missed, newest = _with(missed, newest, "missed"), None
    overlap = _with(None, newest if busy and alone else None, "overlap")
    return Firing(
        starts=() if newest is None or overlap is not None else (newest,),
        skipped=tuple(skip for skip in (missed, overlap) if skip is not None),
        due_at=after,
    )


def _with(skip: Skip | None, at: datetime | None, reason: str) -> Skip | None:
    """The skip with one more due time in it."""
    if at is None:
        return skip
    if skip is None:
        return Skip(first=at, last=at, count=1, reason=reason)
    return Skip(first=skip.first, last=at, count=skip.count + 1, reason=reason)
