"""Starts what schedules say: the tick finds what is due, and each start is a message of its own.

The messages are sent before the schedule moves on, so that a tick which dies in between sends them again;
the id of a run follows from its due time, so that twice is once.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from shared.app import App
from shared.bus import Outgoing
from shared.core.cron import cron_fault, zone_fault
from shared.core.message import StartMessage, Topic, attributes_of, encode
from shared.core.record import Json
from shared.core.run import Trigger
from shared.core.schedule import (
    Enrolment,
    Firing,
    day_of,
    due_times,
    effective,
    fire,
    next_due,
    timing_of,
)
from shared.core.spec import Catchup, Overlap, Schedule
from shared.engine.advance import Coordinator
from shared.engine.query import View
from shared.engine.submit import Submission, enqueue, prepare
from shared.errors import Conflict, Fault, Invalid, NotFound
from shared.schedules import Skipped

_PAGE = 500
_PAGES = 20
_OWN = ("cron", "timezone", "overlap", "catchup")
_ON_ITS_WAY = timedelta(hours=1)  # a start without a run: its message has not been handled yet


def fire_due(app: App) -> int:
    """Starts whatever is due, in pages; the count of starts. Raises Unavailable."""
    started, left = 0, 0
    for _ in range(_PAGES):
        now = app.now()
        due = app.schedules.due(now, _PAGE, left)
        starts, after, skipped = [], [], []
        for enrolment in due:
            schedule = schedule_of(app, enrolment)
            firing = _decide(app, enrolment, schedule, now)
            starts += [_start(enrolment, at) for at in firing.starts]
            skipped += [
                Skipped(org=enrolment.org, schedule_id=enrolment.schedule_id, skip=skip, at=now)
                for skip in firing.skipped
            ]
            if firing.due_at != enrolment.due_at or firing.starts:
                after.append(_fired(enrolment, schedule, firing, now))
        app.bus.publish(starts)
        app.schedules.write(after, skipped)
        started += len(starts)
        left += len(due) - len(after)  # these stay due, and in front
        if len(due) < _PAGE:
            break
    return started


def start(app: App, coordinator: Coordinator, message: StartMessage) -> None:
    """Makes the run of that due time, and lets it go if there is room; else it waits for its turn.

    Does nothing when nobody wants it any more. Raises Unavailable.
    """
    enrolment = app.schedules.enrolment(message.org, message.schedule_id)
    schedule = None if enrolment is None else schedule_of(app, enrolment)
    if enrolment is None or schedule is None or not schedule.enabled:
        place = {"org": message.org, "schedule": message.schedule_id}
        app.log.info("schedule.not_wanted", **place, due_at=message.due_at.isoformat())
        return
    run_id = enrolment.run_id(message.due_at)
    day = day_of(schedule, message.due_at).isoformat()
    asked = Submission(
        org=enrolment.org,
        address=enrolment.address,
        start_date=day,
        end_date=day,
        credential_id=enrolment.credential_id,
        parameters=enrolment.parameters,
        trigger=Trigger.SCHEDULE,
    )
    enqueue(app, asked, run_id)
    coordinator.recover(run_id)


class ScheduleView(View, frozen=True, kw_only=True):
    """A schedule of an organization. What it says itself is in `own`; the rest is the pipeline's."""

    schedule_id: str
    pipeline: str
    enabled: bool
    cron: str | None
    timezone: str | None
    overlap: Overlap | None
    catchup: Catchup | None
    credential_id: str | None
    parameters: dict[str, Json]
    own: Annotated[
        tuple[str, ...], Meta(description="Which of these fields are the organization's own.")
    ]
    next: Annotated[tuple[datetime, ...], Meta(description="The next times at which it is due.")]
    last_due_at: Annotated[
        datetime | None, Meta(description="The newest due time that a run was started for.")
    ]
    last_run_id: str | None


class SkippedView(View, frozen=True, kw_only=True):
    """Due times that were not started, and why."""

    first: datetime
    last: datetime
    count: int
    reason: Annotated[
        str,
        Meta(
            description="`missed`: found too late, and not to be caught up. `overlap`: the run before "
            "was still at work."
        ),
    ]
    at: Annotated[datetime, Meta(description="When that was found.")]


def enrol(app: App, wanted: Enrolment) -> tuple[ScheduleView, ScheduleView | None]:
    """Stores what the organization wants: the schedule as it is now, and as it was before.

    What a run of it needs is looked at now, not at 6 in the morning. Raises Invalid, NotFound, Conflict
    (somebody else changed it meanwhile), Unavailable.
    """
    own = app.catalog().get(wanted.address).schedule
    faults = []
    if wanted.cron is not None and (wrong := cron_fault(wanted.cron)):
        faults.append(Fault("cron", f"is no cron expression: {wrong}"))
    if wanted.timezone is not None and (wrong := zone_fault(wanted.timezone)):
        faults.append(Fault("timezone", wrong))
    if wanted.cron is None and own is None:
        faults.append(Fault("cron", f"is needed: {wanted.address} has no schedule of its own"))
    if faults:
        raise Invalid("the schedule is not valid", faults)
    asked = Submission(
        org=wanted.org,
        address=wanted.address,
        credential_id=wanted.credential_id,
        parameters=wanted.parameters,
    )
    prepare(app, asked, "schedule", app.now())
    before = app.schedules.enrolment(wanted.org, wanted.schedule_id)
    after = wanted
    if before is not None:
        after = replace(
            wanted,
            version=before.version + 1,
            created_at=before.created_at,
            due_at=before.due_at,
            timing=before.timing,
            last_due_at=before.last_due_at,
            last_run_id=before.last_run_id,
        )
    if before is None or timing_of(schedule_of(app, after)) != before.timing:
        after = set_due(app, after)
    if not app.schedules.write([after]):
        raise Conflict(
            f"schedule {wanted.schedule_id!r} was changed by somebody else meanwhile; read it again",
            code="schedule_changed",
        )
    return view(app, after), None if before is None else view(app, before)


def find(app: App, org: str, schedule_id: str) -> Enrolment:
    """Raises NotFound."""
    found = app.schedules.enrolment(org, schedule_id)
    if found is None:
        raise NotFound(
            f"organization {org!r} has no schedule {schedule_id!r}", code="schedule_not_found"
        )
    return found


def view(app: App, enrolment: Enrolment, count: int = 3) -> ScheduleView:
    """The schedule for people and programs, with the next `count` times."""
    schedule = schedule_of(app, enrolment)
    upcoming: tuple[datetime, ...] = ()
    if schedule is not None and schedule.enabled and enrolment.due_at is not None:
        before = enrolment.due_at - timedelta(microseconds=1)
        upcoming = tuple(islice(due_times(schedule, before), count))
    return ScheduleView(
        schedule_id=enrolment.schedule_id,
        pipeline=enrolment.address,
        enabled=schedule is not None and schedule.enabled,
        cron=None if schedule is None else schedule.cron,
        timezone=None if schedule is None else schedule.timezone,
        overlap=None if schedule is None else schedule.overlap,
        catchup=None if schedule is None else schedule.catchup,
        credential_id=enrolment.credential_id,
        parameters=enrolment.parameters,
        own=tuple(name for name in _OWN if getattr(enrolment, name) is not None),
        next=upcoming,
        last_due_at=enrolment.last_due_at,
        last_run_id=enrolment.last_run_id,
    )


def schedule_of(app: App, enrolment: Enrolment) -> Schedule | None:
    """As it is today: of the pipeline in this release, and what the organization wants different."""
    try:
        own = app.catalog().get(enrolment.address).schedule
    except NotFound:
        return None
    return effective(own, enrolment)


def set_due(app: App, enrolment: Enrolment) -> Enrolment:
    """The enrolment with its due time computed anew, as from now."""
    schedule = schedule_of(app, enrolment)
    return replace(enrolment, timing=timing_of(schedule), due_at=next_due(schedule, app.now()))


def refresh(app: App) -> int:
    """Computes anew what a release has changed the schedule of; the count. Raises Unavailable."""
    changed = 0
    for enrolment in _all(app):
        if timing_of(schedule_of(app, enrolment)) != enrolment.timing:
            after = replace(set_due(app, enrolment), version=enrolment.version + 1)
            changed += len(app.schedules.write([after]))
    return changed


def _all(app: App) -> Iterable[Enrolment]:
    after = ("", "")
    while found := app.schedules.enrolments(None, after, _PAGE):
        yield from found
        after = (found[-1].org, found[-1].schedule_id)


def _decide(app: App, enrolment: Enrolment, schedule: Schedule | None, now: datetime) -> Firing:
    if schedule is None or not schedule.enabled or enrolment.due_at is None:
        return Firing((), (), None)
    if timing_of(schedule) != enrolment.timing:  # another release: what was due is not known to be
        return Firing((), (), next_due(schedule, now))
    busy = schedule.overlap is Overlap.SKIP and _is_at_work(app, enrolment, now)
    return fire(schedule, enrolment.due_at, now, busy=busy)


def _is_at_work(app: App, enrolment: Enrolment, now: datetime) -> bool:
    if enrolment.last_run_id is None or enrolment.last_due_at is None:
        return False
    status = app.runs.run_status(enrolment.last_run_id)
    if status is None:
        return now < enrolment.updated_at + _ON_ITS_WAY
    return not status.terminal


def _start(enrolment: Enrolment, due_at: datetime) -> Outgoing:
    message = StartMessage(org=enrolment.org, schedule_id=enrolment.schedule_id, due_at=due_at)
    attributes = attributes_of(enrolment.run_id(due_at), enrolment.org)
    return Outgoing(Topic.STARTS, encode(message), None, attributes)


def _fired(
    enrolment: Enrolment, schedule: Schedule | None, firing: Firing, now: datetime
) -> Enrolment:
    last = firing.starts[-1] if firing.starts else None
    return replace(
        enrolment,
        version=enrolment.version + 1,
        timing=timing_of(schedule),
        due_at=firing.due_at,
        last_due_at=last or enrolment.last_due_at,
        last_run_id=enrolment.run_id(last) if last else enrolment.last_run_id,
        updated_at=now,
    )
