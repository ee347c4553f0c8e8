"""Starts a run: reserve, create if absent, publish. Never releases what it reserved.

The run id follows from the organization and the idempotency key, so that the same call makes the same
run; the creation of the run document is the last word on who made it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple, assert_never

import msgspec

from shared.accounts import NotAllowed, Refused, Reserved, Spent
from shared.app import App
from shared.core.dates import parse_dates
from shared.core.decide import fail_waiting, start
from shared.core.lineage import NO_CREDENTIAL, dataset_of
from shared.core.pipeline import Pipeline, resolve_plan
from shared.core.plan import NO_PLAN, Plan
from shared.core.record import Document, Json
from shared.core.run import (
    MAX_ERROR_BYTES,
    ErrorInfo,
    Params,
    Run,
    RunStatus,
    StepState,
    Transition,
    Trigger,
    clip,
    derived_run_id,
    shard_of,
)
from shared.engine.advance import step_messages
from shared.errors import (
    Fault,
    Forbidden,
    Invalid,
    Mismatch,
    NotFound,
    QuotaExceeded,
    RequestError,
    Unavailable,
)

_TRIES = 20
PATIENCE = timedelta(hours=48)  # how long a start waits for quota before it fails
MAX_PARAMETERS_BYTES = 16 * 1024
MAX_PLAN_BYTES = 512 * 1024


class Submission(NamedTuple):
    """What a caller asks for. Dates are ISO days, inclusive; left out, yesterday (UTC)."""

    org: str
    address: str
    start_date: str | None = None
    end_date: str | None = None
    credential_id: str | None = None
    parameters: Mapping[str, Json] = {}
    idempotency_key: str | None = None
    trigger: Trigger = Trigger.API
    trace: str = ""


class Submitted(NamedTuple):
    """The run that stands for the call; `replayed` when an earlier call had made it."""

    run: Run
    replayed: bool


class Wanted(NamedTuple):
    """A run that may be, if there is room for it. `steps` are taken over from the run it resumes."""

    org: str
    address: str
    trigger: Trigger
    request_hash: str
    created_at: datetime
    params: Params
    plan: Plan
    trace: str
    reason: str
    retry_of: str | None = None
    steps: Mapping[str, StepState] = {}


def submit(app: App, asked: Submission) -> Submitted:
    """Starts the run, or finds the one that the same call started before.

    Raises Invalid, NotFound, Forbidden, Mismatch, QuotaExceeded (nothing was stored), Unavailable.
    """
    request_hash = _request_hash(asked)
    for k in range(_TRIES):
        run_id = app.new_id() if asked.idempotency_key is None else _run_id(asked, k)
        there = None if asked.idempotency_key is None else app.runs.run(run_id)
        if there is None:
            now = app.now()
            made = create(app, run_id, _wanted(app, asked, run_id, request_hash, now), now)
            if made is not None:
                return Submitted(made, replayed=False)
            there = app.runs.run(run_id)
        if there is not None and not there.run.tombstone:
            return _replay(there.run, request_hash)
    raise Unavailable(f"{_TRIES} run ids in a row belong to abandoned runs; try again")


class Preview(Document, frozen=True, kw_only=True, omit_defaults=False):
    """What a run would do, and what quota is left for it. Nothing was stored."""

    org: str
    params: Params
    plan: Plan
    concurrent_left: int
    daily_left: int | None
    monthly_left: int | None


def preview(app: App, asked: Submission) -> Preview:
    """A dry run. Raises as `submit` does, quota apart."""
    now = app.now()
    params, plan = prepare(app, asked, "dry-run", now)
    usage = app.accounts.usage(asked.org, now)
    if usage is None:
        raise NotFound(f"there is no organization {asked.org!r}", code="org_not_found")
    limits = usage.limits
    return Preview(
        org=asked.org,
        params=params,
        plan=plan,
        concurrent_left=max(0, limits.concurrent - usage.concurrent),
        daily_left=None if limits.daily is None else max(0, limits.daily - usage.today),
        monthly_left=None if limits.monthly is None else max(0, limits.monthly - usage.month),
    )


def prepare(app: App, asked: Submission, run_id: str, now: datetime) -> tuple[Params, Plan]:
    """What the run would do: its parameters and its resolved plan. Raises as `submit` does."""
    organization = app.accounts.organization(asked.org)
    if organization is None:
        raise NotFound(f"there is no organization {asked.org!r}", code="org_not_found")
    if not organization.may_run:
        raise _forbidden(asked.org, organization.status)
    if len(msgspec.json.encode(asked.parameters)) > MAX_PARAMETERS_BYTES:
        raise Invalid(
            "the request cannot be stored",
            [Fault("parameters", f"are more than {MAX_PARAMETERS_BYTES} bytes as JSON")],
        )
    pipeline = app.catalog().get(asked.address)
    dates = parse_dates(asked.start_date, asked.end_date, now)
    credential_id, metadata = _credential(app, asked, pipeline)
    params = Params(
        start_date=dates.start,
        end_date=dates.end,
        credential_id=credential_id,
        parameters=dict(asked.parameters),
    )
    plan = resolve_plan(
        pipeline,
        app.processors,
        org=asked.org,
        dataset=dataset_of(asked.org, app.environment),
        run_id=run_id,
        params=params,
        credential_metadata=metadata,
        project_id=app.project_id,
    )
    if (size := len(msgspec.json.encode(plan))) > MAX_PLAN_BYTES:
        raise Invalid(
            f"the resolved pipeline has {size} bytes, of {MAX_PLAN_BYTES} at most:"
            " make its configuration smaller, or split it",
            code="plan_too_large",
        )
    return params, plan


def create(app: App, run_id: str, wanted: Wanted, now: datetime) -> Run | None:
    """Reserves and creates the run and sends its first messages.

    None: somebody else settled the fate of that id. Raises Forbidden, QuotaExceeded, Unavailable.
    """
    plan, slack = wanted.plan, app.timing.reservation_slack
    answer = app.accounts.reserve(run_id, wanted.org, now, now + plan.timeout + slack)
    match answer:
        case Spent():
            if app.runs.run(run_id) is None:
                _abandon(app, run_id, wanted, now)
            return None
        case NotAllowed():
            raise _forbidden(wanted.org, answer.status)
        case Refused():
            raise quota_exceeded(answer)
        case Reserved():
            expires_at = answer.expires_at
        case _:
            assert_never(answer)
    waiting = Run(
        run_id=run_id,
        org=wanted.org,
        dataset=dataset_of(wanted.org, app.environment),
        address=wanted.address,
        pipeline_id=plan.pipeline_id,
        trigger=wanted.trigger,
        request_hash=wanted.request_hash,
        created_at=wanted.created_at,
        status=RunStatus.PENDING,
        params=wanted.params,
        shard=shard_of(run_id),
        retry_of=wanted.retry_of,
        config_hash=plan.config_hash,
        code_version=app.code_version,
        trace=wanted.trace,
        deadline=min(now + plan.timeout, expires_at - slack),
        reservation_expires_at=expires_at,
        steps=dict(wanted.steps),
        transitions=(Transition(at=now, to=RunStatus.PENDING, reason=wanted.reason),),
    )
    decision = start(waiting, plan, now, app.timing, "quota reserved")
    if not app.runs.create_run(decision.run, plan, app.new_id()):
        return None
    app.bus.publish(step_messages(decision.run, plan, decision.publish))
    app.log.info("run.accepted", run=run_id, org=wanted.org, pipeline=plan.pipeline_id)
    return decision.run


def enqueue(app: App, asked: Submission, run_id: str) -> None:
    """Creates the run if absent, as one that waits for its turn: a visit lets it go.

    What cannot be made is created too, as a run that failed and says why: nobody hears an answer, so it
    must be found. Raises Unavailable.
    """
    if app.runs.run(run_id) is not None:
        return
    now = app.now()
    error: ErrorInfo | None = None
    try:
        params, plan = prepare(app, asked, run_id, now)
    except RequestError as refused:
        dates = parse_dates(asked.start_date, asked.end_date, now)
        params = Params(
            start_date=dates.start, end_date=dates.end, parameters=dict(asked.parameters)
        )
        plan = msgspec.structs.replace(NO_PLAN, address=asked.address)
        error = ErrorInfo(code=refused.code, message=clip(str(refused), MAX_ERROR_BYTES - 100))
    waiting = Run(
        run_id=run_id,
        org=asked.org,
        dataset=dataset_of(asked.org, app.environment),
        address=asked.address,
        pipeline_id=plan.pipeline_id,
        trigger=asked.trigger,
        request_hash=_request_hash(asked),
        created_at=now,
        status=RunStatus.PENDING,
        params=params,
        shard=shard_of(run_id),
        config_hash=plan.config_hash,
        code_version=app.code_version,
        trace=asked.trace,
        wake_at=now,
        wait_until=now + PATIENCE,
        transitions=(Transition(at=now, to=RunStatus.PENDING, reason=asked.trigger),),
    )
    made = waiting if error is None else fail_waiting(waiting, now, app.timing, error)
    if app.runs.create_run(made, plan, app.new_id()):
        app.log.info("run.queued", run=run_id, org=asked.org, address=asked.address)


def _wanted(app: App, asked: Submission, run_id: str, request_hash: str, now: datetime) -> Wanted:
    params, plan = prepare(app, asked, run_id, now)
    return Wanted(
        org=asked.org,
        address=asked.address,
        trigger=asked.trigger,
        request_hash=request_hash,
        created_at=now,
        params=params,
        plan=plan,
        trace=asked.trace,
        reason=asked.trigger,
    )


def _abandon(app: App, run_id: str, wanted: Wanted, now: datetime) -> None:
    """Writes a tombstone where a reservation ended without a run: the id is used up."""
    grave = tombstone(run_id, wanted.org, app.environment, now)
    app.runs.create_run(grave, wanted.plan, app.new_id())


def tombstone(run_id: str, org: str, environment: str, now: datetime) -> Run:
    """A run that never was: fixes that nobody can create it any more."""
    day = now.date()
    return Run(
        run_id=run_id,
        org=org,
        dataset=dataset_of(org, environment),
        address="",
        pipeline_id="",
        trigger=Trigger.API,
        request_hash="",
        created_at=now,
        finished_at=now,
        status=RunStatus.FAILED,
        params=Params(start_date=day, end_date=day),
        tombstone=True,
        effects_done=True,
    )


def quota_exceeded(refused: Refused) -> QuotaExceeded:
    """The refusal in words, with what a client needs to come back in time."""
    until = (
        "when one of them ends, and Retry-After is when to ask again"
        if refused.reset_at is None
        else f"at {refused.reset_at:%Y-%m-%d %H:%M} UTC"
    )
    return QuotaExceeded(
        f"the {refused.limit_type} limit of {refused.limit} runs is reached"
        f" ({refused.used} used); it frees {until}",
        limit_type=refused.limit_type,
        limit=refused.limit,
        used=refused.used,
        reset_at=refused.reset_at,
        retry_after=refused.retry_after,
    )


def _replay(run: Run, request_hash: str) -> Submitted:
    if run.request_hash != request_hash:
        raise Mismatch(
            f"this Idempotency-Key started run {run.run_id} with another request;"
            " use a new key for a new request"
        )
    return Submitted(run, replayed=True)


def _credential(app: App, asked: Submission, pipeline: Pipeline) -> tuple[str, dict[str, Json]]:
    if not pipeline.needs_credential(app.processors):
        if asked.credential_id is not None:
            # It would name slices of its own, beside those of the runs without it: the rows twice.
            raise Invalid(
                f"pipeline {pipeline.address!r} uses no credential",
                [Fault("credential_id", "is not for this pipeline; leave it out")],
                code="credential_not_used",
            )
        return NO_CREDENTIAL, {}
    if asked.credential_id is not None:
        info = app.vault.info(asked.org, pipeline.provider, asked.credential_id)
        if info is None or not info.active:
            raise Invalid(
                f"organization {asked.org!r} has no active {pipeline.provider} credential"
                f" {asked.credential_id!r}",
                [Fault("credential_id", _known(app, asked.org, pipeline.provider))],
                code="credential_not_found",
            )
        return info.credential_id, info.metadata
    active = app.vault.find(asked.org, pipeline.provider)
    if len(active) == 1:
        return active[0].credential_id, active[0].metadata
    raise Invalid(
        f"organization {asked.org!r} has {len(active) or 'no'} active {pipeline.provider}"
        f" credential{'s; say which' if active else '; add one first'}",
        [Fault("credential_id", _known(app, asked.org, pipeline.provider))],
        code="credential_ambiguous" if active else "credential_missing",
    )


def _known(app: App, org: str, provider: str) -> str:
    ids = [info.credential_id for info in app.vault.find(org, provider)]
    return f"is one of: {', '.join(ids)}" if ids else "none is stored for this provider"


def _forbidden(org: str, status: str | None) -> Forbidden:
    return Forbidden(
        f"organization {org!r} is {status or 'unknown'}; only ACTIVE and TRIAL may run",
        code="org_not_active",
    )


def _run_id(asked: Submission, k: int) -> str:
    return derived_run_id(asked.org, asked.idempotency_key or "", str(k))


def _request_hash(asked: Submission) -> str:
    asks = (asked.address, asked.start_date, asked.end_date, asked.credential_id, asked.parameters)
    # The order of an object's fields says nothing, at any depth: another order is the same request.
    return sha256(msgspec.json.encode(asks, order="deterministic")).hexdigest()
