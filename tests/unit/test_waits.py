"""What a run is said to wait for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from shared.core.plan import Plan, StepPlan
from shared.core.run import (
    Attempt,
    AttemptStatus,
    Params,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Trigger,
)
from shared.engine.waits import WaitFor, waits

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=1)
PLAN = Plan(
    address="a/b/c",
    pipeline_id="p",
    provider="a",
    domain="b",
    version="1",
    config_hash="",
    steps=(
        StepPlan(step_id="short", ps_type="generic.noop"),
        StepPlan(step_id="long", ps_type="generic.noop", timeout_seconds=3600),
    ),
)
QUEUED = StepState(status=StepStatus.QUEUED, attempt=1, look_at=LATER)
RUN = Run(
    run_id="r1",
    org="acme",
    dataset="acme_test",
    address="a/b/c",
    pipeline_id="p",
    trigger=Trigger.API,
    request_hash="h",
    created_at=NOW,
    status=RunStatus.RUNNING,
    params=Params(start_date=NOW.date(), end_date=NOW.date()),
    steps={"short": QUEUED, "long": StepState()},
)
OPEN = Attempt(
    run_id="r1",
    step_id="short",
    number=1,
    owner="w",
    status=AttemptStatus.OPEN,
    started_at=NOW,
    lease_until=LATER,
)


def only(run: Run, attempt: Attempt | None = None, *, jobs: bool = False) -> tuple[object, ...]:
    attempts = {} if attempt is None else {"short": attempt}
    (wait,) = waits(run, PLAN, attempts, NOW, jobs=jobs)
    return wait.what, wait.step_id, wait.until


def test_a_run_that_was_not_admitted_waits_for_its_quota() -> None:
    run = replace(RUN, status=RunStatus.PENDING, waiting_for="daily limit", retry_at=LATER)
    assert only(run) == (WaitFor.QUOTA, None, LATER)
    assert waits(replace(run, waiting_for=None), PLAN, {}, NOW, jobs=False) == ()


@pytest.mark.parametrize("status", [one for one in RunStatus if one.terminal])
def test_a_run_that_has_ended_waits_for_nothing(status: RunStatus) -> None:
    assert waits(replace(RUN, status=status), PLAN, {}, NOW, jobs=False) == ()


def test_a_step_that_nobody_has_taken_waits_for_a_worker_or_a_job() -> None:
    assert only(RUN) == (WaitFor.WORKER, "short", LATER)
    long = replace(RUN, steps={"short": StepState(), "long": QUEUED})
    assert only(long) == (WaitFor.WORKER, "long", LATER)
    assert only(long, jobs=True) == (WaitFor.JOB, "long", LATER)


def test_a_step_that_is_to_run_again_waits_for_its_time() -> None:
    again = replace(QUEUED, attempt=2, not_before=LATER)
    assert only(replace(RUN, steps={"short": again, "long": StepState()})) == (
        WaitFor.RETRY,
        "short",
        LATER,
    )
    due = replace(again, not_before=NOW)
    assert only(replace(RUN, steps={"short": due, "long": StepState()}))[0] is WaitFor.WORKER


def test_a_step_that_runs_is_waited_for_until_its_lease_runs_out() -> None:
    assert only(RUN, OPEN) == (WaitFor.STEP, "short", LATER)
    assert only(RUN, replace(OPEN, lease_until=NOW)) == (WaitFor.LEASE, "short", NOW)
    closed = replace(OPEN, status=AttemptStatus.CLOSED, closed_at=NOW)
    assert only(RUN, closed) == (WaitFor.STEP, "short", None)
