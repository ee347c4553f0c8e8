"""Schedules of an organization: which pipelines it has run by themselves, and when."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated

import msgspec
from flask import Response
from msgspec import Meta

from functions.api.http import Call, PageSize, Time, answer, known_org
from functions.api.views import SchedulesView, SkippedPageView
from shared.accounts import Change
from shared.core.record import Json, Record
from shared.core.schedule import Enrolment
from shared.core.spec import NAME_PATTERN, Catchup, Cron, Overlap
from shared.engine import schedules as engine
from shared.engine.schedules import ScheduleView, SkippedView
from shared.errors import Fault, Invalid


class WantedSchedule(Record, frozen=True, kw_only=True):
    """What to run, and when. What is left out follows the pipeline's own schedule."""

    pipeline: Annotated[
        str, Meta(description="Its address.", examples=["aws/cost/billing"], max_length=200)
    ]
    enabled: Annotated[bool, Meta(description="False keeps it, but starts nothing.")] = True
    cron: Cron | None = None
    timezone: (
        Annotated[
            str,
            Meta(
                description="IANA zone of `cron`; without it that of the pipeline, or UTC for a "
                "`cron` of your own.",
                max_length=64,
                examples=["Europe/Berlin"],
            ),
        ]
        | None
    ) = None
    overlap: Overlap | None = None
    catchup: Catchup | None = None
    credential_id: Annotated[str, Meta(max_length=63)] | None = None
    parameters: dict[str, Json] = {}


class SkippedQuery(Record, frozen=True, kw_only=True):
    """Which of them."""

    limit: PageSize = 50
    before: (
        Annotated[Time, Meta(description="Those that begin before it: `next` of the page before.")]
        | None
    ) = None


def list_schedules(call: Call, org: str) -> Response:
    """Every schedule of the organization, with its next times."""
    known_org(call, org)
    app = call.engine.app
    found: list[Enrolment] = []
    while page := app.schedules.enrolments(org, (org, found[-1].schedule_id if found else "")):
        found += page
    return answer(SchedulesView(schedules=tuple(engine.view(app, one) for one in found)))


def show_schedule(call: Call, org: str, schedule_id: str) -> Response:
    """One schedule, with its next times."""
    app = call.engine.app
    return answer(engine.view(app, engine.find(app, org, schedule_id), 10))


def put_schedule(call: Call, org: str, schedule_id: str, body: WantedSchedule) -> Response:
    """Has the pipeline run by itself, or changes when it does. It begins with the next due time."""
    known_org(call, org)
    if not re.fullmatch(NAME_PATTERN, schedule_id):
        fault = Fault("schedule_id", f"{schedule_id!r} is not a name ({NAME_PATTERN})")
        raise Invalid("the schedule is not valid", [fault])
    app = call.engine.app
    now = app.now()
    wanted = Enrolment(
        org=org,
        schedule_id=schedule_id,
        address=body.pipeline,
        enabled=body.enabled,
        cron=body.cron,
        timezone=body.timezone,
        overlap=body.overlap,
        catchup=body.catchup,
        credential_id=body.credential_id,
        parameters=body.parameters,
        created_at=now,
        updated_at=now,
    )
    after, before = engine.enrol(app, wanted)
    _note(call, "schedule.put", org, before, after)
    return answer(after, 201 if before is None else 200)


def remove_schedule(call: Call, org: str, schedule_id: str) -> Response:
    """Ends the schedule. Runs that it started go on."""
    app = call.engine.app
    before = engine.view(app, engine.find(app, org, schedule_id))
    app.schedules.remove(org, schedule_id)
    _note(call, "schedule.removed", org, before, None)
    return Response(status=204)


def list_skipped(call: Call, org: str, schedule_id: str, query: SkippedQuery) -> Response:
    """What the schedule was due for and did not start, the newest first."""
    app = call.engine.app
    engine.find(app, org, schedule_id)
    found = app.schedules.skipped(org, schedule_id, query.before, query.limit + 1)
    page, more = found[: query.limit], len(found) > query.limit
    following: datetime | None = page[-1].skip.first if more else None
    shown = tuple(SkippedView(**msgspec.structs.asdict(one.skip), at=one.at) for one in page)
    return answer(SkippedPageView(skipped=shown, next=following))


def _note(
    call: Call, verb: str, org: str, before: ScheduleView | None, after: ScheduleView | None
) -> None:
    shown = after or before
    if shown is None:
        raise AssertionError("a change is of something")
    call.note(Change(org, verb, shown.schedule_id, _said(before), _said(after)))


def _said(view: ScheduleView | None) -> dict[str, Json] | None:
    """What of a schedule is somebody's decision."""
    if view is None:
        return None
    names = ("pipeline", "enabled", *view.own, "credential_id", "parameters")
    return {name: getattr(view, name) for name in names}
