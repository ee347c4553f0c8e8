"""Runs again what has ended: from where it stopped (resume), or as the pipeline is now (rerun).

Each is a run of its own, with its own reservation. Its id is that of the first retry of the old run
which nobody has made yet, so that two clicks are one run and the retries of a run are found from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

import msgspec

from shared.app import App
from shared.core.lineage import NO_CREDENTIAL
from shared.core.plan import Plan
from shared.core.resume import MAX_RETRIES, RetryMode, differences, kept_steps, retry_id
from shared.core.run import Run, RunStatus, Trigger
from shared.engine.query import find_run
from shared.engine.submit import Submission, Submitted, Wanted, create, prepare
from shared.errors import Conflict, Fault, Invalid, Mismatch, NotFound
from shared.state import StoredRun


class Retry(NamedTuple):
    """What a caller asks for: another run of an ended one."""

    org: str
    run_id: str
    mode: RetryMode = RetryMode.RESUME
    idempotency_key: str | None = None
    trace: str = ""


def retry(app: App, asked: Retry) -> Submitted:
    """Starts the retry, or finds the one that the same call started before.

    Without an idempotency key a retry of the same mode that has not ended stands for the call. Raises
    NotFound, Conflict (`run_not_ended`, `run_completed`, `pipeline_changed`, `credential_gone`,
    `too_many_retries`) and what `submit` raises.
    """
    old = find_run(app, asked.org, asked.run_id)
    _refuse(old.run, asked)
    for number in range(MAX_RETRIES):
        run_id = retry_id(asked.run_id, number)
        there = app.runs.run(run_id)
        made_meanwhile = there is None
        if there is None:
            now = app.now()
            made = create(app, run_id, _wanted(app, asked, old, run_id, now), now)
            if made is not None:
                return Submitted(made, replayed=False)
            there = app.runs.run(run_id)
        if there is None or there.run.tombstone or not _same(there.run, asked):
            continue
        if asked.idempotency_key is not None or made_meanwhile or not there.run.status.terminal:
            return Submitted(there.run, replayed=True)
    raise Conflict(
        f"run {asked.run_id} was retried {MAX_RETRIES} times; retry one of its retries instead",
        code="too_many_retries",
    )


def _refuse(old: Run, asked: Retry) -> None:
    if not old.status.terminal:
        raise Conflict(
            f"run {old.run_id} is {old.status}; only a run that has ended can be retried",
            code="run_not_ended",
        )
    if asked.mode is RetryMode.RESUME and old.status is RunStatus.COMPLETED:
        raise Conflict(
            f"run {old.run_id} completed, so that there is nothing to resume;"
            " to run it again from the start, ask for the mode 'rerun'",
            code="run_completed",
        )


def _wanted(app: App, asked: Retry, stored: StoredRun, run_id: str, now: datetime) -> Wanted:
    old = stored.run
    _has_its_credential(app, stored)
    if asked.mode is RetryMode.RESUME:
        _unchanged(app, stored)
        params, plan, steps = old.params, stored.plan, kept_steps(old, stored.plan)
    else:
        params, plan = prepare(app, _asked_before(old), run_id, now)
        steps = {}
    return Wanted(
        org=old.org,
        address=old.address,
        trigger=Trigger.RETRY,
        request_hash=_request_hash(asked.mode, asked.idempotency_key),
        # Its loads replace those of the old run, whatever the clock of the machine that made that.
        created_at=max(now, old.created_at + timedelta(microseconds=1)),
        params=params,
        plan=plan,
        trace=asked.trace,
        reason=f"{asked.mode} of {old.run_id}",
        retry_of=old.run_id,
        steps=steps,
    )


def _asked_before(old: Run) -> Submission:
    """What the old run was asked to do."""
    params = old.params
    return Submission(
        org=old.org,
        address=old.address,
        start_date=params.start_date.isoformat(),
        end_date=params.end_date.isoformat(),
        credential_id=None if params.credential_id == NO_CREDENTIAL else params.credential_id,
        parameters=params.parameters,
    )


def _has_its_credential(app: App, stored: StoredRun) -> None:
    """Raises Conflict when the credential of the run is gone: in either mode it is that of a retry."""
    old, provider = stored.run, stored.plan.provider
    if old.params.credential_id == NO_CREDENTIAL:
        return
    info = app.vault.info(old.org, provider, old.params.credential_id)
    if info is None or not info.active:
        raise Conflict(
            f"the {provider} credential {old.params.credential_id!r} of run {old.run_id} is not active"
            " any more; store it again, or start a new run with another one",
            code="credential_gone",
        )


def _unchanged(app: App, stored: StoredRun) -> None:
    """Raises Conflict when the run cannot go on with the plan that it began with."""
    old, plan = stored.run, stored.plan
    try:
        now_is = app.catalog().get(old.address).config_hash
    except NotFound as error:
        raise _changed(old, [Fault(old.address, "is no pipeline of this release")]) from error
    if now_is != old.config_hash:
        raise _changed(old, list(_changes(app, old, plan)))


def _changes(app: App, old: Run, plan: Plan) -> Iterator[Fault]:
    try:
        _, now_is = prepare(app, _asked_before(old), old.run_id, app.now())
    except Invalid as error:
        yield Fault(old.address, f"cannot run with the values of this run: {error.detail}")
        yield from error.faults
        return
    yield from differences(plan, now_is)


def _changed(old: Run, faults: list[Fault]) -> Conflict:
    less = "" if faults else " (in nothing that this run does)"
    return Conflict(
        f"the pipeline {old.address!r} has changed{less} since run {old.run_id}; its steps cannot be"
        " mixed with those of then: retry it with the mode 'rerun'",
        faults,
        code="pipeline_changed",
    )


def _same(there: Run, asked: Retry) -> bool:
    """Did the same call make that run? Raises Mismatch when its key was used for another mode."""
    key = asked.idempotency_key
    if there.request_hash == _request_hash(asked.mode, key):
        return True
    if key is not None and any(
        there.request_hash == _request_hash(mode, key) for mode in RetryMode
    ):
        raise Mismatch(
            f"this Idempotency-Key started retry {there.run_id} with another mode;"
            " use a new key for a new request"
        )
    return False


def _request_hash(mode: RetryMode, key: str | None) -> str:
    return sha256(msgspec.json.encode(["retry", mode, key])).hexdigest()
