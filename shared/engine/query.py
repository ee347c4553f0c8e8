"""What may be read of a run: views made for people and programs, true at the moment of reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import msgspec

from shared.app import App
from shared.core.lineage import Evidence
from shared.core.plan import Plan
from shared.core.record import Document, Json
from shared.core.resume import MAX_RETRIES, retry_id
from shared.core.run import (
    Attempt,
    AttemptStatus,
    ErrorInfo,
    Outcome,
    Result,
    Run,
    RunStatus,
    StepStatus,
    Summary,
    Trigger,
)
from shared.engine.waits import Wait, waits
from shared.errors import NotFound
from shared.state import HistoryFilter, StoredRun


class View(Document, frozen=True, kw_only=True, omit_defaults=False):
    """An answer: every field is always there."""


class StepView(View, frozen=True, kw_only=True):
    """A step as it stands: the run's word, and that of its open attempt.

    `from_run` is the run whose result stands for a step that did not run here again.
    """

    step_id: str
    ps_type: str
    depends_on: tuple[str, ...]
    status: StepStatus
    attempt: int
    max_attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    next_attempt_at: datetime | None
    from_run: str | None
    reason: str | None
    summary: Summary | None
    error: ErrorInfo | None


class RunView(View, frozen=True, kw_only=True):
    """A run as it stands. Dates are inclusive UTC days."""

    run_id: str
    org: str
    pipeline: str
    pipeline_id: str
    status: RunStatus
    outcome: Outcome | None
    trigger: Trigger
    start_date: date
    end_date: date
    credential_id: str
    parameters: dict[str, Json]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    deadline: datetime | None
    waiting_for: str | None
    retry_of: str | None
    config_hash: str
    code_version: str
    steps_done: int
    steps_total: int
    error: ErrorInfo | None


class Progress(View, frozen=True, kw_only=True):
    """How far a run has come: the share of its steps that have ended, and how many are in each state."""

    percent: int
    steps: dict[StepStatus, int]


class StatusView(RunView, frozen=True, kw_only=True):
    """A run with its steps, in the order in which they were planned, and the newest retry of it."""

    retried_by: str | None
    progress: Progress
    waits_for: tuple[Wait, ...]
    steps: tuple[StepView, ...]


class AttemptView(View, frozen=True, kw_only=True):
    """One attempt, as it was or is."""

    step_id: str
    attempt: int
    status: AttemptStatus
    result: Result | None
    started_at: datetime
    finished_at: datetime | None
    duration_seconds: float | None
    lease_until: datetime | None
    summary: Summary | None
    error: ErrorInfo | None
    late_result: str | None


class TransitionView(View, frozen=True, kw_only=True):
    """One move of the run (`step_id` null) or of a step."""

    at: datetime
    step_id: str | None
    attempt: int | None
    to: str
    reason: str | None


class HistoryView(View, frozen=True, kw_only=True):
    """A page of runs, newest first. `next` is the cursor of the next page, null at the end."""

    runs: tuple[RunView, ...]
    next: str | None


class EvidenceView(View, frozen=True, kw_only=True):
    """What one attempt proved. `run_id` is another run for a step that was taken over from there."""

    run_id: str
    step_id: str
    attempt: int
    evidence: Evidence


def status(app: App, org: str, run_id: str) -> StatusView:
    """Raises NotFound, also for another organization's run."""
    stored = find_run(app, org, run_id)
    run, plan = stored.run, stored.plan
    released = [
        (step_id, state.attempt) for step_id, state in run.steps.items() if state.status.released
    ]
    found = app.runs.attempts(run_id, released) if released else {}
    attempts = {step_id: stored.attempt for (step_id, _), stored in found.items()}
    opened = {step_id: attempt for step_id, attempt in attempts.items() if not attempt.closed}
    steps = tuple(
        _step_view(run, plan, step.step_id, opened.get(step.step_id)) for step in plan.steps
    )
    return StatusView(
        **_run_fields(run),
        retried_by=_newest_retry(app, run),
        progress=_progress(steps),
        waits_for=waits(run, plan, attempts, app.now(), jobs=app.jobs is not None),
        steps=steps,
    )


def history(
    app: App, org: str, where: HistoryFilter, limit: int, cursor: str | None
) -> HistoryView:
    """The organization's runs, newest first. Raises Invalid for a cursor that is not ours."""
    page = app.runs.history(org, where, limit, cursor)
    return HistoryView(
        runs=tuple(RunView(**_run_fields(run)) for run in page.runs), next=page.cursor
    )


def attempts(app: App, org: str, run_id: str) -> list[AttemptView]:
    """Every attempt of the run in the order of their start. Raises NotFound."""
    find_run(app, org, run_id)
    return [_attempt_view(attempt) for attempt in app.runs.attempts_of(run_id)]


def transitions(app: App, org: str, run_id: str) -> list[TransitionView]:
    """Every stored move of the run and its steps, in order. Raises NotFound."""
    run = find_run(app, org, run_id).run
    return [
        TransitionView(
            at=move.at,
            step_id=move.step or None,
            attempt=move.attempt or None,
            to=move.to,
            reason=move.reason or None,
        )
        for move in run.transitions
    ]


def evidence(app: App, org: str, run_id: str) -> list[EvidenceView]:
    """The evidence of every attempt that has some, and of the steps taken over. Raises NotFound."""
    run = find_run(app, org, run_id).run
    taken = {
        (state.from_run, step_id, state.counted)
        for step_id, state in run.steps.items()
        if state.from_run is not None
    }
    return [
        EvidenceView(
            run_id=there,
            step_id=step_id,
            attempt=attempt,
            evidence=msgspec.json.decode(found, type=Evidence),
        )
        for there in (*sorted({there for there, _, _ in taken}), run_id)
        for step_id, attempt, found in app.runs.evidence(there)
        if there == run_id or (there, step_id, attempt) in taken
    ]


def find_run(app: App, org: str, run_id: str) -> StoredRun:
    """The organization's run. Raises NotFound, in the same words for a run of somebody else."""
    stored = app.runs.run(run_id)
    if stored is None or stored.run.org != org or stored.run.tombstone:
        raise NotFound(f"there is no run {run_id!r} of organization {org!r}", code="run_not_found")
    return stored


def _newest_retry(app: App, run: Run) -> str | None:
    """One read for a run that was never retried, and none while it cannot be."""
    newest = None
    for number in range(MAX_RETRIES if run.status.terminal else 0):
        there = app.runs.run(retry_id(run.run_id, number))
        if there is None:
            break
        if not there.run.tombstone:
            newest = there.run.run_id
    return newest


def run_view(run: Run) -> RunView:
    """A run without its steps."""
    return RunView(**_run_fields(run))


def _run_fields(run: Run) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "org": run.org,
        "pipeline": run.address,
        "pipeline_id": run.pipeline_id,
        "status": run.status,
        "outcome": run.outcome,
        "trigger": run.trigger,
        "start_date": run.params.start_date,
        "end_date": run.params.end_date,
        "credential_id": run.params.credential_id,
        "parameters": run.params.parameters,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "duration_seconds": _seconds(run.started_at, run.finished_at),
        "deadline": run.deadline,
        "waiting_for": run.waiting_for,
        "retry_of": run.retry_of,
        "config_hash": run.config_hash,
        "code_version": run.code_version,
        "steps_done": sum(state.status.terminal for state in run.steps.values()),
        "steps_total": len(run.steps),
        "error": run.error,
    }


def _step_view(run: Run, plan: Plan, step_id: str, opened: Attempt | None) -> StepView:
    state, step = run.steps[step_id], plan.by_id[step_id]
    # The run hears of a claim only when it looks; the attempt itself knows at once.
    status = StepStatus.RUNNING if opened is not None else state.status
    started_at = state.started_at if opened is None else state.started_at or opened.started_at
    return StepView(
        step_id=step_id,
        ps_type=step.ps_type,
        depends_on=step.depends_on,
        status=status,
        attempt=state.attempt,
        max_attempts=step.retry.max_attempts,
        started_at=started_at,
        finished_at=state.finished_at,
        duration_seconds=_seconds(started_at, state.finished_at),
        next_attempt_at=state.not_before,
        from_run=state.from_run,
        reason=state.reason,
        summary=state.summary,
        error=state.error,
    )


def _progress(steps: Sequence[StepView]) -> Progress:
    ended = sum(step.status.terminal for step in steps)
    return Progress(
        percent=100 * ended // len(steps) if steps else 0,
        steps=dict(Counter(step.status for step in steps)),
    )


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        step_id=attempt.step_id,
        attempt=attempt.number,
        status=attempt.status,
        result=attempt.result,
        started_at=attempt.started_at,
        finished_at=attempt.closed_at,
        duration_seconds=_seconds(attempt.started_at, attempt.closed_at),
        lease_until=attempt.lease_until,
        summary=attempt.summary,
        error=attempt.error,
        late_result=attempt.late,
    )


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else (end - start).total_seconds()
