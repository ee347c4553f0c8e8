"""What follows from what is known of a run: the one place where a run's future is decided.

Pure. The caller reads the run and some attempts, asks here, writes the run back conditionally on the
version it read, and only then carries out the effects.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple, assert_never

from msgspec.structs import replace

from shared.core.plan import OnFailure, Plan, StepPlan, backoff, jitter
from shared.core.run import (
    RUN_MOVES,
    STEP_MOVES,
    Attempt,
    AttemptStatus,
    ErrorInfo,
    Outcome,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Timing,
    Transition,
)

DISABLED = "disabled"
DEADLINE = "deadline"


class Publish(NamedTuple):
    """A step message to send after the run is written. `not_before` set: through the delayed path."""

    step_id: str
    attempt: int
    not_before: datetime | None


class Decision(NamedTuple):
    """`run` is what to write (the same object when nothing changed); `publish` what to send after."""

    run: Run
    publish: tuple[Publish, ...]


class _Draft:
    """The run while it is being decided; every move passes the table of legal moves."""

    def __init__(self, run: Run, now: datetime) -> None:
        self.now = now
        self.status = run.status
        self.steps = dict(run.steps)
        self.transitions: list[Transition] = []
        self.publish: list[Publish] = []
        self.touched = False

    def step(self, step_id: str, to: StepState, reason: str = "") -> None:
        before = self.steps[step_id]
        if to.status is not before.status or to.attempt != before.attempt:
            if to.status not in STEP_MOVES[before.status]:
                raise AssertionError(f"step {step_id}: {before.status} -> {to.status} is no move")
            self.transitions.append(
                Transition(
                    at=self.now, step=step_id, to=to.status, attempt=to.attempt, reason=reason
                )
            )
        self.steps[step_id] = to
        self.touched = True

    def run(self, to: RunStatus, reason: str = "") -> None:
        if to is self.status:
            return
        if to not in RUN_MOVES[self.status]:
            raise AssertionError(f"run: {self.status} -> {to} is no move")
        self.transitions.append(Transition(at=self.now, to=to, reason=reason))
        self.status = to
        self.touched = True


def decide(
    run: Run,
    plan: Plan,
    attempts: Mapping[str, Attempt | None],
    now: datetime,
    timing: Timing,
    *,
    resend: bool = False,
) -> Decision:
    """Folds `attempts` into `run`, releases what became ready and ends the run when all is done.

    `attempts` maps a step to its attempt as just read; None says that it was looked for and is not
    there. A step that is not in the mapping was not looked at. A terminal run never changes.
    `resend`: the messages of the queued steps may be lost, so that nothing waits for them.
    """
    if run.status.terminal or run.status is RunStatus.PENDING:
        return Decision(run, ())
    draft = _Draft(run, now)
    overdue = run.deadline is not None and now >= run.deadline
    stop_reason = run.stop_reason
    if overdue and run.status is RunStatus.RUNNING and stop_reason is None:
        stop_reason = DEADLINE
        draft.touched = True
    halted = run.status is RunStatus.CANCELLING or overdue
    doomed = _doomed(plan, run.steps)
    mark = run.mark
    # A failure that stops the run stops every retry, in whatever order the two were read.
    for step_id, attempt in sorted(
        attempts.items(), key=lambda seen: _has_budget(plan.by_id[seen[0]], run, seen[1], timing)
    ):
        state = draft.steps[step_id]
        if not state.status.released:
            continue
        if attempt is None:
            _requeue_when_due(draft, plan.by_id[step_id], state, timing, resend=resend)
        elif attempt.number == state.attempt:
            step = plan.by_id[step_id]
            _fold(draft, run, step, state, attempt, halted or doomed, timing)
            doomed = doomed or _fatal(step, draft.steps[step_id])
            if attempt.closed_at is not None and (mark is None or attempt.closed_at > mark):
                mark = attempt.closed_at
    _release(draft, plan, run, halted, timing)
    _finish(draft, plan, run, stop_reason)
    if not draft.touched:
        return Decision(run, ())
    after = replace(
        run,
        status=draft.status,
        steps=draft.steps,
        transitions=run.transitions + tuple(draft.transitions),
        stop_reason=stop_reason,
        mark=mark,
    )
    if draft.status.terminal:
        after = replace(
            after,
            finished_at=now,
            effects_at=now + timing.effects_delay,
            outcome=_outcome(draft.steps) if draft.status is RunStatus.COMPLETED else None,
            error=_first_error(plan, draft.steps),
        )
    return Decision(replace(after, wake_at=wake_at(after, timing)), tuple(draft.publish))


def _requeue_when_due(
    draft: _Draft, step: StepPlan, state: StepState, timing: Timing, *, resend: bool
) -> None:
    # The message may be lost, or only slow: the same number again, so that both are one attempt.
    if state.status is not StepStatus.QUEUED or state.look_at is None:
        return
    if draft.now < state.look_at and not resend:
        return
    requeues = state.requeues + 1
    wait = min(_start_within(step, timing) * 2 ** min(requeues, 20), timing.requeue_cap)
    start = max(state.not_before or draft.now, draft.now)
    draft.step(step.step_id, replace(state, requeues=requeues, look_at=start + wait))
    later = start if start > draft.now else None
    draft.publish.append(Publish(step.step_id, state.attempt, later))


def _start_within(step: StepPlan, timing: Timing) -> timedelta:
    """When to send the message again if nobody has claimed the attempt by then."""
    return timing.job_start if step.long else timing.requeue


def _fold(
    draft: _Draft,
    run: Run,
    step: StepPlan,
    state: StepState,
    attempt: Attempt,
    halted: bool,
    timing: Timing,
) -> None:
    if attempt.status is AttemptStatus.OPEN:
        look_at = (attempt.lease_until or draft.now) + timing.lease_grace
        if state.status is not StepStatus.RUNNING or state.look_at != look_at:
            draft.step(
                step.step_id,
                replace(
                    state,
                    status=StepStatus.RUNNING,
                    look_at=look_at,
                    started_at=state.started_at or attempt.started_at,
                ),
            )
        return
    if attempt.result is None or attempt.closed_at is None:
        raise AssertionError(f"attempt {attempt.key} is closed without a result")
    closed = replace(
        state,
        look_at=None,
        not_before=None,
        started_at=state.started_at or attempt.started_at,
        finished_at=attempt.closed_at,
        counted=attempt.number,
        error=attempt.error,
    )
    match attempt.result:
        case Result.OK:
            draft.step(
                step.step_id,
                replace(closed, status=StepStatus.COMPLETED, summary=attempt.summary),
            )
        case Result.TRANSIENT:
            closed = replace(closed, failures=state.failures + 1)
            if _has_budget(step, run, attempt, timing) and not halted:
                wait = backoff(
                    step.retry, closed.failures, jitter(run.run_id, step.step_id, attempt.number)
                )
                asked = timedelta(seconds=attempt.retry_after_seconds or 0)
                _again(draft, step, closed, attempt.closed_at + max(wait, asked), timing)
            else:
                _end(draft, run, step.step_id, closed)
        case Result.LOST:
            closed = replace(closed, losses=state.losses + 1)
            if _has_budget(step, run, attempt, timing) and not halted:
                _again(draft, step, closed, draft.now, timing)
            else:
                _end(draft, run, step.step_id, closed)
        case Result.TERMINAL:
            draft.step(step.step_id, replace(closed, status=StepStatus.FAILED), _why(attempt.error))
        case Result.OVERDUE:
            draft.step(step.step_id, replace(closed, status=StepStatus.FAILED), "run deadline")
        case Result.CANCELLED:
            draft.step(step.step_id, replace(closed, status=StepStatus.CANCELLED), "cancelled")
        case _:
            assert_never(attempt.result)


def _has_budget(step: StepPlan, run: Run, attempt: Attempt | None, timing: Timing) -> bool:
    """Would the step run again after this attempt, if nothing else stopped it?"""
    state = run.steps[step.step_id]
    match attempt.result if attempt is not None else None:
        case Result.TRANSIENT:
            return state.failures + 1 < step.retry.max_attempts
        case Result.LOST:
            return state.losses + 1 <= timing.lost_budget
        case _:
            return False


def _again(
    draft: _Draft, step: StepPlan, state: StepState, not_before: datetime, timing: Timing
) -> None:
    later = not_before > draft.now
    number = state.attempt + 1
    start = max(not_before, draft.now)
    draft.step(
        step.step_id,
        replace(
            state,
            status=StepStatus.QUEUED,
            attempt=number,
            requeues=0,
            counted=None,
            finished_at=None,
            not_before=not_before if later else None,
            look_at=start + _start_within(step, timing),
        ),
        _why(state.error) or "lost",
    )
    draft.publish.append(Publish(step.step_id, number, not_before if later else None))


def _end(draft: _Draft, run: Run, step_id: str, state: StepState) -> None:
    # A failure while the run is being cancelled is not this step's fault.
    if run.status is RunStatus.CANCELLING:
        draft.step(step_id, replace(state, status=StepStatus.CANCELLED), "cancelled")
    else:
        draft.step(step_id, replace(state, status=StepStatus.FAILED), _why(state.error))


def _release(draft: _Draft, plan: Plan, run: Run, halted: bool, timing: Timing) -> None:
    # Any failure that stops the run blocks every step that has not started.
    fatal = next((s.step_id for s in plan.steps if _fatal(s, draft.steps[s.step_id])), None)
    for step in plan.steps:
        state = draft.steps[step.step_id]
        if state.status is not StepStatus.PENDING:
            continue
        if halted:
            reason = "cancelled" if run.status is RunStatus.CANCELLING else "run deadline"
            draft.step(
                step.step_id, _closed(state, StepStatus.CANCELLED, reason, draft.now), reason
            )
        elif blocker := fatal or _blocker(plan, step, draft.steps):
            reason = f"{blocker} did not complete"
            draft.step(step.step_id, _closed(state, StepStatus.SKIPPED, reason, draft.now), reason)
        elif not all(_satisfied(plan, parent, draft.steps) for parent in step.depends_on):
            continue
        elif not step.enabled:  # in its turn: what follows it still waits for what it follows
            draft.step(
                step.step_id, _closed(state, StepStatus.SKIPPED, DISABLED, draft.now), DISABLED
            )
        else:
            draft.step(
                step.step_id,
                replace(
                    state,
                    status=StepStatus.QUEUED,
                    attempt=1,
                    look_at=draft.now + _start_within(step, timing),
                ),
            )
            draft.publish.append(Publish(step.step_id, 1, None))


def _closed(state: StepState, status: StepStatus, reason: str, now: datetime) -> StepState:
    return replace(state, status=status, reason=reason, finished_at=now, look_at=None)


def _satisfied(plan: Plan, step_id: str, steps: Mapping[str, StepState]) -> bool:
    match steps[step_id].status:
        case StepStatus.COMPLETED:
            return True
        case StepStatus.FAILED:
            return plan.by_id[step_id].on_failure is OnFailure.CONTINUE
        case StepStatus.SKIPPED:
            return steps[step_id].reason == DISABLED
        case _:
            return False


def _blocker(plan: Plan, step: StepPlan, steps: Mapping[str, StepState]) -> str | None:
    """The parent because of which `step` will never run."""
    for parent in step.depends_on:
        if steps[parent].status.terminal and not _satisfied(plan, parent, steps):
            return parent
    return None


def _fatal(step: StepPlan, state: StepState) -> bool:
    return state.status is StepStatus.FAILED and step.on_failure is OnFailure.STOP


def _doomed(plan: Plan, steps: Mapping[str, StepState]) -> bool:
    return any(_fatal(step, steps[step.step_id]) for step in plan.steps)


def _finish(draft: _Draft, plan: Plan, run: Run, stop_reason: str | None) -> None:
    if not all(state.status.terminal for state in draft.steps.values()):
        return
    if run.status is RunStatus.CANCELLING:
        draft.run(RunStatus.CANCELLED, run.stop_reason or "cancelled")
    elif _doomed(plan, draft.steps):
        draft.run(RunStatus.FAILED, _failed_steps(plan, draft.steps))
    elif any(state.status is StepStatus.CANCELLED for state in draft.steps.values()) or any(
        state.status is StepStatus.FAILED and stop_reason == DEADLINE
        for state in draft.steps.values()
    ):
        draft.run(RunStatus.FAILED, "run deadline")
    else:
        draft.run(RunStatus.COMPLETED)


def _failed_steps(plan: Plan, steps: Mapping[str, StepState]) -> str:
    names = [step.step_id for step in plan.steps if _fatal(step, steps[step.step_id])]
    return f"failed: {', '.join(names[:5])}"


def _outcome(steps: Mapping[str, StepState]) -> Outcome:
    summaries = [state.summary for state in steps.values() if state.summary is not None]
    if any(state.status is StepStatus.FAILED for state in steps.values()) or any(
        summary.warnings or summary.rejected for summary in summaries
    ):
        return Outcome.OK_WITH_WARNINGS
    extracting = [summary for summary in summaries if summary.no_data or summary.extracted]
    if extracting and all(summary.no_data for summary in extracting):
        return Outcome.NO_DATA
    return Outcome.OK


def _first_error(plan: Plan, steps: Mapping[str, StepState]) -> ErrorInfo | None:
    return next(
        (
            steps[step.step_id].error
            for step in plan.steps
            if steps[step.step_id].status is StepStatus.FAILED
        ),
        None,
    )


def _why(error: ErrorInfo | None) -> str:
    return error.code if error is not None else ""


def wake_at(run: Run, timing: Timing) -> datetime | None:
    """When the tick must look at this run, from the document alone; None when never again."""
    if run.status.terminal:
        return None if run.effects_done else run.effects_at
    if run.status is RunStatus.PENDING:
        return run.retry_at
    times = [
        state.look_at
        for state in run.steps.values()
        if state.status.released and state.look_at is not None
    ]
    if run.deadline is not None:
        passed = run.stop_reason == DEADLINE
        times.append(run.deadline + timing.deadline_grace if passed else run.deadline)
    if run.cancel_at is not None:
        times.append(run.cancel_at + timing.cancel_grace)
    return min(times) if times else None


def start(run: Run, plan: Plan, now: datetime, timing: Timing, reason: str = "") -> Decision:
    """Lets a pending run go: queues the steps that wait for nothing. `run.deadline` must be set.

    `run.steps` are those that the run takes over from the one it resumes; they do not run again.
    """
    if run.status is not RunStatus.PENDING or run.deadline is None:
        raise AssertionError(f"run {run.run_id} cannot start: {run.status}")
    draft = _Draft(run, now)
    draft.steps = {step.step_id: StepState() for step in plan.steps}
    draft.run(RunStatus.VALIDATING, reason)
    draft.run(RunStatus.RUNNING)
    for step_id, kept in run.steps.items():
        draft.step(step_id, kept, f"completed in run {kept.from_run}")
    _release(draft, plan, run, False, timing)
    running = replace(
        run,
        status=RunStatus.RUNNING,
        steps=draft.steps,
        started_at=now,
        retry_at=None,
        waiting_for=None,
        transitions=run.transitions + tuple(draft.transitions),
    )
    if all(state.status.terminal for state in draft.steps.values()):  # every step is disabled
        return decide(running, plan, {}, now, timing)
    return Decision(replace(running, wake_at=wake_at(running, timing)), tuple(draft.publish))


def cancel(run: Run, plan: Plan, now: datetime, timing: Timing, reason: str) -> Run:
    """The run after somebody asked for its end; the same object when there is nothing to cancel.

    A pending run ends at once. A running one stops releasing steps and ends when every attempt is
    closed, by its worker or from outside after the grace.
    """
    if run.status.terminal or run.status is RunStatus.CANCELLING:
        return run
    draft = _Draft(run, now)
    if run.status is RunStatus.PENDING:
        draft.run(RunStatus.CANCELLED, reason)
        ended = replace(
            run,
            status=RunStatus.CANCELLED,
            finished_at=now,
            effects_at=now + timing.effects_delay,
            stop_reason=reason,
            retry_at=None,
            waiting_for=None,
            transitions=run.transitions + tuple(draft.transitions),
        )
        return replace(ended, wake_at=wake_at(ended, timing))
    draft.run(RunStatus.CANCELLING, reason)
    for step in plan.steps:
        state = draft.steps[step.step_id]
        if state.status is StepStatus.PENDING:
            draft.step(
                step.step_id, _closed(state, StepStatus.CANCELLED, "cancelled", now), "cancelled"
            )
    return replace(
        run,
        status=RunStatus.CANCELLING,
        steps=draft.steps,
        cancel_at=now,
        stop_reason=reason,
        wake_at=now,
        transitions=run.transitions + tuple(draft.transitions),
    )


def fail_waiting(run: Run, now: datetime, timing: Timing, error: ErrorInfo) -> Run:
    """A pending run that will never be let go: it ends failed, and says why."""
    if run.status is not RunStatus.PENDING:
        raise AssertionError(f"run {run.run_id} does not wait: {run.status}")
    draft = _Draft(run, now)
    draft.run(RunStatus.FAILED, error.code)
    ended = replace(
        run,
        status=RunStatus.FAILED,
        finished_at=now,
        effects_at=now + timing.effects_delay,
        error=error,
        stop_reason=error.code,
        retry_at=None,
        waiting_for=None,
        transitions=run.transitions + tuple(draft.transitions),
    )
    return replace(ended, wake_at=wake_at(ended, timing))


def outstanding(run: Run) -> list[tuple[str, int]]:
    """The (step, attempt) pairs whose attempt may be open or closed and is not folded yet."""
    return [
        (step_id, state.attempt) for step_id, state in run.steps.items() if state.status.released
    ]
