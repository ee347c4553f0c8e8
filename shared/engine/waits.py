"""What a run waits for, as it stands: pure, from the run and the attempts of the steps at work."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from shared.core.plan import Plan, StepPlan
from shared.core.record import Document
from shared.core.run import Attempt, Run, RunStatus, StepState


class WaitFor(StrEnum):
    """The kinds of things that a run waits for."""

    QUOTA = "quota"  # a slot, a day, a month of the organization
    RETRY = "retry"  # the time of the next attempt
    WORKER = "worker"  # somebody who takes the attempt
    JOB = "job"  # the machine of a long step
    STEP = "step"  # the end of an attempt
    LEASE = "lease"  # the end of an attempt whose worker was not heard of in time


class Wait(Document, frozen=True, kw_only=True, omit_defaults=False):
    """One thing that the run waits for."""

    what: WaitFor
    step_id: Annotated[str | None, Meta(description="Null for what the whole run waits for.")]
    until: Annotated[
        datetime | None,
        Meta(
            description="quota, worker, job: when it is tried again; retry: when the attempt starts; "
            "step, lease: when its worker is held for lost, null when its end is stored already."
        ),
    ]


def waits(
    run: Run, plan: Plan, attempts: Mapping[str, Attempt], now: datetime, *, jobs: bool
) -> tuple[Wait, ...]:
    """In the order of the plan. `jobs`: long steps are run by machines of their own."""
    if run.status is RunStatus.PENDING:
        quota = run.waiting_for is not None
        return (Wait(what=WaitFor.QUOTA, step_id=None, until=run.retry_at),) if quota else ()
    if run.status.terminal:
        return ()
    return tuple(
        _of_step(step, run.steps[step.step_id], attempts.get(step.step_id), now, jobs=jobs)
        for step in plan.steps
        if run.steps[step.step_id].status.released
    )


def _of_step(
    step: StepPlan, state: StepState, attempt: Attempt | None, now: datetime, *, jobs: bool
) -> Wait:
    if attempt is not None:
        until = None if attempt.closed else attempt.lease_until
        late = until is not None and until <= now
        return Wait(what=WaitFor.LEASE if late else WaitFor.STEP, step_id=step.step_id, until=until)
    if state.not_before is not None and now < state.not_before:
        return Wait(what=WaitFor.RETRY, step_id=step.step_id, until=state.not_before)
    what = WaitFor.JOB if jobs and step.long else WaitFor.WORKER
    return Wait(what=what, step_id=step.step_id, until=state.look_at)
