"""What follows from what is known of a run: the claims of `shared.core.decide`."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.core.decide import (
    Decision,
    Publish,
    cancel,
    decide,
    fail_waiting,
    outstanding,
    start,
    wake_at,
)
from shared.core.plan import (
    PUSH_SECONDS,
    OnFailure,
    Plan,
    RetryPolicy,
    StepPlan,
    backoff,
    jitter,
)
from shared.core.run import (
    RUN_MOVES,
    STEP_MOVES,
    Attempt,
    AttemptStatus,
    ErrorInfo,
    Outcome,
    Params,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Summary,
    Timing,
    Trigger,
)
from tests.support.examples import examples

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
TIMING = Timing()
BOOM = ErrorInfo(code="boom", message="it broke")


def step(step_id: str, *depends_on: str, **changes: object) -> StepPlan:
    made = StepPlan(step_id=step_id, ps_type="test", depends_on=depends_on)
    return replace(made, **changes)


def plan_of(*steps: StepPlan) -> Plan:
    return Plan(
        address="test/cost/pipeline",
        pipeline_id="pipeline",
        provider="test",
        domain="cost",
        version="1",
        config_hash="",
        steps=steps,
    )


def waiting(run_id: str = "r1") -> Run:
    return Run(
        run_id=run_id,
        org="acme",
        dataset="acme_test",
        address="test/cost/pipeline",
        pipeline_id="pipeline",
        trigger=Trigger.API,
        request_hash="",
        created_at=NOW,
        status=RunStatus.PENDING,
        params=Params(start_date=date(2026, 3, 1), end_date=date(2026, 3, 1)),
        deadline=NOW + HOUR,
    )


def started(plan: Plan, run_id: str = "r1") -> Run:
    return start(waiting(run_id), plan, NOW, TIMING).run


def opened(step_id: str, number: int = 1, at: datetime = NOW) -> Attempt:
    return Attempt(
        run_id="r1",
        step_id=step_id,
        number=number,
        owner="w1",
        status=AttemptStatus.OPEN,
        started_at=at,
        lease_until=at + TIMING.lease,
    )


def closed(
    step_id: str,
    number: int = 1,
    result: Result = Result.OK,
    at: datetime = NOW + SECOND,
    **changes: object,
) -> Attempt:
    if result is not Result.OK:
        changes.setdefault("error", BOOM)
    return replace(
        opened(step_id, number, at - SECOND),
        status=AttemptStatus.CLOSED,
        result=result,
        closed_at=at,
        **changes,
    )


def fold(run: Run, plan: Plan, *attempts: Attempt, now: datetime = NOW + SECOND) -> Decision:
    return decide(run, plan, {attempt.step_id: attempt for attempt in attempts}, now, TIMING)


def statuses(run: Run) -> dict[str, str]:
    return {step_id: state.status.value for step_id, state in run.steps.items()}


CHAIN = plan_of(step("a"), step("b", "a"), step("c", "b"))
DIAMOND = plan_of(step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c"))
ONE = plan_of(step("a"))


# --- start ---


def test_a_start_queues_the_steps_that_wait_for_nothing() -> None:
    decision = start(waiting(), DIAMOND, NOW, TIMING)
    assert statuses(decision.run) == {"a": "queued", "b": "pending", "c": "pending", "d": "pending"}
    assert decision.publish == (Publish("a", 1, None),)
    assert decision.run.steps["a"].look_at == NOW + TIMING.requeue


def test_a_long_step_is_given_the_time_that_a_job_needs_to_start() -> None:
    long = step("a", timeout_seconds=PUSH_SECONDS + 1)
    plan = plan_of(long, step("b", timeout_seconds=PUSH_SECONDS))
    run = start(waiting(), plan, NOW, TIMING).run
    assert run.steps["a"].look_at == NOW + TIMING.job_start
    assert run.steps["b"].look_at == NOW + TIMING.requeue
    late = NOW + TIMING.job_start
    again = decide(run, plan, {"a": None}, late, TIMING)
    assert again.publish == (Publish("a", 1, None),)
    assert again.run.steps["a"].look_at == late + 2 * TIMING.job_start
    lost = fold(run, plan, closed("a", result=Result.LOST), now=late).run
    assert lost.steps["a"].look_at == late + TIMING.job_start


def test_a_start_passes_through_validating_and_says_when() -> None:
    run = start(waiting(), ONE, NOW, TIMING, "quota reserved").run
    moves = [(move.to, move.at, move.reason) for move in run.transitions if not move.step]
    assert moves == [("validating", NOW, "quota reserved"), ("running", NOW, "")]
    assert run.status is RunStatus.RUNNING
    assert run.started_at == NOW


@pytest.mark.parametrize("status", [status for status in RunStatus if status != "pending"])
def test_only_a_pending_run_can_start(status: RunStatus) -> None:
    with pytest.raises(AssertionError):
        start(replace(waiting(), status=status), ONE, NOW, TIMING)


def test_no_run_starts_without_a_deadline() -> None:
    with pytest.raises(AssertionError):
        start(replace(waiting(), deadline=None), ONE, NOW, TIMING)


def test_a_run_whose_steps_are_all_disabled_ends_as_it_starts() -> None:
    plan = plan_of(step("a", enabled=False), step("b", "a", enabled=False))
    decision = start(waiting(), plan, NOW, TIMING)
    assert decision.run.status is RunStatus.COMPLETED
    assert statuses(decision.run) == {"a": "skipped", "b": "skipped"}
    assert decision.publish == ()
    assert decision.run.wake_at == NOW + TIMING.effects_delay


# --- release ---


def test_a_step_is_released_when_all_its_parents_completed() -> None:
    run = fold(started(DIAMOND), DIAMOND, closed("a")).run
    half = fold(run, DIAMOND, closed("b"))
    assert half.run.steps["d"].status is StepStatus.PENDING
    assert half.publish == ()
    whole = fold(half.run, DIAMOND, closed("c"))
    assert whole.publish == (Publish("d", 1, None),)


def test_a_failed_step_skips_what_depends_on_it() -> None:
    decision = fold(started(CHAIN), CHAIN, closed("a", result=Result.TERMINAL))
    assert statuses(decision.run) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert decision.run.steps["b"].reason == "a did not complete"
    assert decision.run.status is RunStatus.FAILED
    assert decision.run.error == BOOM


def test_a_failure_that_stops_releases_no_step_of_another_branch() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "b"))
    run = fold(started(plan), plan, closed("a", result=Result.TERMINAL)).run
    assert run.status is RunStatus.RUNNING  # b is still out
    assert statuses(run) == {"a": "failed", "b": "queued", "c": "skipped"}
    ended = fold(run, plan, closed("b")).run
    assert ended.status is RunStatus.FAILED
    assert statuses(ended) == {"a": "failed", "b": "completed", "c": "skipped"}


def test_a_failure_that_stops_lets_no_other_step_try_again() -> None:
    plan = plan_of(step("a"), step("b"))
    run = fold(started(plan), plan, closed("a", result=Result.TERMINAL)).run
    decision = fold(run, plan, closed("b", result=Result.TRANSIENT))
    assert decision.publish == ()
    assert decision.run.status is RunStatus.FAILED


def test_after_a_failure_that_continues_its_dependents_run() -> None:
    plan = plan_of(step("a", on_failure=OnFailure.CONTINUE), step("b", "a"))
    run = fold(started(plan), plan, closed("a", result=Result.TERMINAL))
    assert run.publish == (Publish("b", 1, None),)
    ended = fold(run.run, plan, closed("b")).run
    assert ended.status is RunStatus.COMPLETED
    assert ended.outcome is Outcome.OK_WITH_WARNINGS
    assert ended.error == BOOM


def test_what_follows_a_disabled_step_waits_for_what_it_follows() -> None:
    plan = plan_of(step("a"), step("b", "a", enabled=False), step("c", "b"))
    decision = start(waiting(), plan, NOW, TIMING)
    assert statuses(decision.run) == {"a": "queued", "b": "pending", "c": "pending"}
    after = fold(decision.run, plan, closed("a"))
    assert statuses(after.run) == {"a": "completed", "b": "skipped", "c": "queued"}
    assert after.run.steps["b"].reason == "disabled"


def test_a_disabled_step_lets_no_failure_through() -> None:
    plan = plan_of(step("a"), step("b", "a", enabled=False), step("c", "b"))
    run = fold(started(plan), plan, closed("a", result=Result.TERMINAL)).run
    assert statuses(run) == {"a": "failed", "b": "skipped", "c": "skipped"}
    assert run.status is RunStatus.FAILED


# --- retries ---


def test_a_transient_failure_is_tried_again_after_its_backoff() -> None:
    decision = fold(started(ONE), ONE, closed("a", result=Result.TRANSIENT))
    wait = backoff(RetryPolicy(), 1, jitter("r1", "a", 1))
    at = NOW + SECOND + wait
    assert decision.publish == (Publish("a", 2, at),)
    state = decision.run.steps["a"]
    assert (state.status, state.attempt, state.failures) == (StepStatus.QUEUED, 2, 1)
    assert state.not_before == at
    assert state.look_at == at + TIMING.requeue


@pytest.mark.parametrize("asked", [0.5, 400.0])
def test_retry_after_is_a_least_wait(asked: float) -> None:
    failed = closed("a", result=Result.TRANSIENT, retry_after_seconds=asked)
    decision = fold(started(ONE), ONE, failed)
    own = backoff(RetryPolicy(), 1, jitter("r1", "a", 1))
    assert decision.publish[0].not_before == NOW + SECOND + max(own, timedelta(seconds=asked))


def test_a_backoff_that_has_passed_already_publishes_at_once() -> None:
    decision = fold(
        started(ONE), ONE, closed("a", result=Result.TRANSIENT), now=NOW + timedelta(minutes=10)
    )
    assert decision.publish == (Publish("a", 2, None),)
    assert decision.run.steps["a"].not_before is None


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
def test_max_attempts_counts_all_attempts(max_attempts: int) -> None:
    plan = plan_of(step("a", retry=RetryPolicy(max_attempts=max_attempts)))
    run = started(plan)
    for number in range(1, max_attempts + 1):
        assert run.status is RunStatus.RUNNING
        run = fold(run, plan, closed("a", number, Result.TRANSIENT)).run
    assert run.status is RunStatus.FAILED
    assert run.steps["a"].attempt == max_attempts


@pytest.mark.parametrize("spread", [0.0, 0.5, 0.999])
def test_a_backoff_is_at_least_the_configured_seconds_and_at_most_a_quarter_more(
    spread: float,
) -> None:
    policy = RetryPolicy(backoff_seconds=8)
    assert timedelta(seconds=8) <= backoff(policy, 3, spread) < timedelta(seconds=10)


def test_an_exponential_backoff_doubles_up_to_its_cap() -> None:
    policy = RetryPolicy(backoff_seconds=10, exponential=True, max_backoff_seconds=60)
    waits = [backoff(policy, failures, 0).total_seconds() for failures in (1, 2, 3, 4, 5000)]
    assert waits == [10, 20, 40, 60, 60]


def test_jitter_is_the_same_for_the_same_attempt_and_differs_between_attempts() -> None:
    assert jitter("r1", "a", 1) == jitter("r1", "a", 1)
    assert len({jitter("r1", "a", number) for number in range(100)}) == 100
    assert all(0 <= jitter("r1", "a", number) < 1 for number in range(1000))


def test_a_terminal_failure_is_not_tried_again() -> None:
    decision = fold(started(ONE), ONE, closed("a", result=Result.TERMINAL))
    assert decision.publish == ()
    assert decision.run.status is RunStatus.FAILED


def test_a_lost_attempt_has_a_budget_of_its_own() -> None:
    plan = plan_of(step("a", retry=RetryPolicy(max_attempts=1)))
    run = started(plan)
    for number in range(1, TIMING.lost_budget + 1):
        decision = fold(run, plan, closed("a", number, Result.LOST))
        assert decision.publish == (Publish("a", number + 1, None),)
        run = decision.run
    assert run.steps["a"].failures == 0
    ended = fold(run, plan, closed("a", TIMING.lost_budget + 1, Result.LOST)).run
    assert ended.status is RunStatus.FAILED


def test_losses_do_not_eat_the_retries() -> None:
    plan = plan_of(step("a", retry=RetryPolicy(max_attempts=2)))
    run = fold(started(plan), plan, closed("a", 1, Result.LOST)).run
    decision = fold(run, plan, closed("a", 2, Result.TRANSIENT))
    assert decision.publish[0].attempt == 3
    assert fold(decision.run, plan, closed("a", 3)).run.status is RunStatus.COMPLETED


# --- looking at what is out ---


def test_an_open_attempt_makes_its_step_running_until_its_lease_has_run_out() -> None:
    run = fold(started(ONE), ONE, opened("a")).run
    assert run.steps["a"].status is StepStatus.RUNNING
    assert run.steps["a"].look_at == NOW + TIMING.lease + TIMING.lease_grace
    assert run.wake_at == run.steps["a"].look_at


def test_a_renewed_lease_moves_the_next_look_and_the_same_lease_changes_nothing() -> None:
    run = fold(started(ONE), ONE, opened("a")).run
    assert fold(run, ONE, opened("a")).run is run
    later = replace(opened("a"), lease_until=NOW + HOUR)
    assert fold(run, ONE, later).run.steps["a"].look_at == NOW + HOUR + TIMING.lease_grace


def test_a_message_nobody_claimed_is_sent_again_with_the_same_number() -> None:
    run = started(ONE)
    due = NOW + TIMING.requeue
    assert decide(run, ONE, {"a": None}, due - SECOND, TIMING).run is run
    decision = decide(run, ONE, {"a": None}, due, TIMING)
    assert decision.publish == (Publish("a", 1, None),)
    assert decision.run.steps["a"].attempt == 1


def test_every_requeue_doubles_the_wait_up_to_the_cap() -> None:
    run, now, waits = started(ONE), NOW, []
    for _ in range(6):
        now = run.steps["a"].look_at or now
        run = decide(
            run, ONE, {"a": None}, now, replace(TIMING, requeue_cap=8 * TIMING.requeue)
        ).run
        waits.append(((run.steps["a"].look_at or now) - now) / TIMING.requeue)
    assert waits == [2, 4, 8, 8, 8, 8]
    assert run.steps["a"].requeues == 6


def test_a_restart_sends_the_messages_of_queued_steps_again_before_they_are_due() -> None:
    run = started(ONE)
    decision = decide(run, ONE, {"a": None}, NOW + SECOND, TIMING, resend=True)
    assert decision.publish == (Publish("a", 1, None),)
    assert decision.run.steps["a"].attempt == 1


def test_a_restart_keeps_the_wait_of_a_retry() -> None:
    run = fold(started(ONE), ONE, closed("a", result=Result.TRANSIENT)).run
    at = run.steps["a"].not_before
    decision = decide(run, ONE, {"a": None}, NOW + 2 * SECOND, TIMING, resend=True)
    assert decision.publish == (Publish("a", 2, at),)


def test_a_running_step_is_never_requeued() -> None:
    run = fold(started(ONE), ONE, opened("a")).run
    assert decide(run, ONE, {"a": None}, NOW + timedelta(minutes=50), TIMING).run is run


def test_a_superseded_attempt_never_counts() -> None:
    run = fold(started(ONE), ONE, closed("a", 1, Result.LOST)).run
    for result in Result:
        assert fold(run, ONE, closed("a", 1, result)).run is run
    assert fold(run, ONE, closed("a", 3)).run is run


def test_a_step_nobody_looked_at_is_left_alone() -> None:
    run = started(ONE)
    assert decide(run, ONE, {}, NOW + timedelta(minutes=30), TIMING).run is run


# --- deadline and cancel ---


def test_after_the_deadline_no_step_is_released_and_no_attempt_tried_again() -> None:
    run = fold(started(DIAMOND), DIAMOND, closed("a")).run
    late = NOW + HOUR
    decision = decide(
        run,
        DIAMOND,
        {
            "b": closed("b", result=Result.TRANSIENT, at=late),
            "c": closed("c", result=Result.LOST, at=late),
        },
        late,
        TIMING,
    )
    assert decision.publish == ()
    assert statuses(decision.run) == {
        "a": "completed",
        "b": "failed",
        "c": "failed",
        "d": "cancelled",
    }
    assert decision.run.status is RunStatus.FAILED
    assert decision.run.stop_reason == "deadline"


def test_a_run_past_its_deadline_waits_for_its_open_attempts() -> None:
    run = fold(started(CHAIN), CHAIN, opened("a")).run
    late = NOW + HOUR
    held = replace(opened("a"), lease_until=late + HOUR)
    after = decide(run, CHAIN, {"a": held}, late, TIMING).run
    assert statuses(after) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert after.status is RunStatus.RUNNING
    assert after.wake_at == late + TIMING.deadline_grace
    overdue = closed("a", result=Result.OVERDUE, at=late + TIMING.deadline_grace)
    ended = decide(after, CHAIN, {"a": overdue}, late + TIMING.deadline_grace, TIMING).run
    assert ended.status is RunStatus.FAILED


def test_a_last_step_that_ends_well_just_after_the_deadline_completes_the_run() -> None:
    run = fold(started(ONE), ONE, opened("a")).run
    late = NOW + HOUR + SECOND
    assert fold(run, ONE, closed("a", at=late), now=late).run.status is RunStatus.COMPLETED


def test_an_overdue_step_fails_its_run_even_where_failures_continue() -> None:
    plan = plan_of(step("a", on_failure=OnFailure.CONTINUE))
    late = NOW + HOUR + SECOND
    run = fold(started(plan), plan, closed("a", result=Result.OVERDUE, at=late), now=late).run
    assert run.status is RunStatus.FAILED


def test_a_cancel_stops_what_waits_and_ends_when_what_is_out_is_closed() -> None:
    run = fold(started(CHAIN), CHAIN, opened("a")).run
    stopping = cancel(run, CHAIN, NOW + SECOND, TIMING, "by request")
    assert stopping.status is RunStatus.CANCELLING
    assert statuses(stopping) == {"a": "running", "b": "cancelled", "c": "cancelled"}
    assert stopping.wake_at == NOW + SECOND
    ended = fold(stopping, CHAIN, closed("a", result=Result.CANCELLED)).run
    assert ended.status is RunStatus.CANCELLED
    assert ended.stop_reason == "by request"


@pytest.mark.parametrize("result", [Result.TRANSIENT, Result.LOST])
def test_a_cancelled_run_tries_nothing_again(result: Result) -> None:
    stopping = cancel(started(ONE), ONE, NOW, TIMING, "by request")
    decision = fold(stopping, ONE, closed("a", result=result))
    assert decision.publish == ()
    assert decision.run.status is RunStatus.CANCELLED
    assert statuses(decision.run) == {"a": "cancelled"}


def test_a_cancelled_run_stays_cancelled_when_its_last_attempt_ends_well() -> None:
    stopping = cancel(started(ONE), ONE, NOW, TIMING, "by request")
    ended = fold(stopping, ONE, closed("a")).run
    assert ended.status is RunStatus.CANCELLED
    assert statuses(ended) == {"a": "completed"}
    assert ended.outcome is None


def test_a_pending_run_is_cancelled_at_once() -> None:
    ended = cancel(waiting(), ONE, NOW, TIMING, "by request")
    assert ended.status is RunStatus.CANCELLED
    assert ended.finished_at == NOW
    assert ended.wake_at == NOW + TIMING.effects_delay


def test_a_second_cancel_changes_nothing() -> None:
    stopping = cancel(started(ONE), ONE, NOW, TIMING, "first")
    assert cancel(stopping, ONE, NOW + HOUR, TIMING, "second") is stopping


def test_a_waiting_run_that_is_given_up_says_why() -> None:
    ended = fail_waiting(replace(waiting(), retry_at=NOW, waiting_for="quota"), NOW, TIMING, BOOM)
    assert ended.status is RunStatus.FAILED
    assert (ended.error, ended.stop_reason) == (BOOM, "boom")
    assert ended.retry_at is None
    assert ended.waiting_for is None
    assert ended.wake_at == NOW + TIMING.effects_delay


# --- the end ---


def ended_runs() -> list[Run]:
    stopping = cancel(started(ONE), ONE, NOW, TIMING, "by request")
    return [
        fold(started(ONE), ONE, closed("a")).run,
        fold(started(ONE), ONE, closed("a", result=Result.TERMINAL)).run,
        fold(stopping, ONE, closed("a", result=Result.CANCELLED)).run,
        cancel(waiting(), ONE, NOW, TIMING, "by request"),
        fail_waiting(waiting(), NOW, TIMING, BOOM),
    ]


@pytest.mark.parametrize("run", ended_runs(), ids=lambda run: f"{run.status}-{len(run.steps)}")
def test_a_terminal_run_never_changes(run: Run) -> None:
    for result in Result:
        decision = fold(run, ONE, closed("a", result=result), now=NOW + 2 * HOUR)
        assert decision.run is run
        assert decision.publish == ()
    assert cancel(run, ONE, NOW + HOUR, TIMING, "too late") is run
    with pytest.raises(AssertionError):
        fail_waiting(run, NOW, TIMING, BOOM)


@pytest.mark.parametrize(
    ("summaries", "outcome"),
    [
        ([Summary(extracted=3, loaded=3)], Outcome.OK),
        ([Summary()], Outcome.OK),
        ([Summary(no_data=True)], Outcome.NO_DATA),
        ([Summary(no_data=True), Summary()], Outcome.NO_DATA),  # the second had nothing to extract
        ([Summary(no_data=True), Summary(extracted=1, loaded=1)], Outcome.OK),
        ([Summary(no_data=True), Summary(no_data=True)], Outcome.NO_DATA),
        ([Summary(extracted=3, loaded=2, rejected=1)], Outcome.OK_WITH_WARNINGS),
        ([Summary(extracted=3, loaded=3, warnings=1)], Outcome.OK_WITH_WARNINGS),
        ([Summary(no_data=True, warnings=1)], Outcome.OK_WITH_WARNINGS),
    ],
)
def test_the_outcome_of_a_completed_run_follows_from_what_its_steps_say(
    summaries: list[Summary], outcome: Outcome
) -> None:
    plan = plan_of(*(step(f"s{i}") for i in range(len(summaries))))
    attempts = [closed(f"s{i}", summary=summary) for i, summary in enumerate(summaries)]
    run = fold(started(plan), plan, *attempts).run
    assert run.status is RunStatus.COMPLETED
    assert run.outcome is outcome


def test_only_a_completed_run_has_an_outcome() -> None:
    assert [run.outcome for run in ended_runs()] == [Outcome.OK, None, None, None, None]


def test_no_illegal_move_can_be_said() -> None:
    for run in RunStatus:
        assert not (run.terminal and RUN_MOVES[run])
    for state in StepStatus:
        assert not (state.terminal and STEP_MOVES[state])
    assert set(RUN_MOVES) == set(RunStatus)
    assert set(STEP_MOVES) == set(StepStatus)


# --- wake_at ---


def test_wake_at_is_the_first_thing_that_will_be_due() -> None:
    run = fold(started(DIAMOND), DIAMOND, closed("a")).run
    open_b = replace(opened("b"), lease_until=NOW + 10 * SECOND)
    run = fold(run, DIAMOND, open_b, opened("c")).run
    assert wake_at(run, TIMING) == NOW + 10 * SECOND + TIMING.lease_grace
    assert wake_at(replace(run, deadline=NOW + 5 * SECOND), TIMING) == NOW + 5 * SECOND
    assert wake_at(replace(run, cancel_at=NOW - HOUR), TIMING) == NOW - HOUR + TIMING.cancel_grace


def test_a_run_is_woken_after_its_end_until_its_effects_are_done() -> None:
    run = fold(started(ONE), ONE, closed("a")).run
    assert run.wake_at == run.effects_at == NOW + SECOND + TIMING.effects_delay
    assert wake_at(replace(run, effects_done=True), TIMING) is None


def test_a_waiting_run_is_woken_when_it_asks_for_quota_again() -> None:
    assert wake_at(replace(waiting(), retry_at=NOW + SECOND), TIMING) == NOW + SECOND
    assert wake_at(waiting(), TIMING) is None


# --- any run ---


class Script(NamedTuple):
    """What every attempt comes to, and how the world treats the messages about it."""

    plan: Plan
    results: dict[tuple[str, int], Result]
    seed: int
    cancel_at: int | None


RESULTS = [Result.OK, Result.OK, Result.OK, Result.TRANSIENT, Result.TERMINAL, Result.LOST]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = [f"s{i}" for i in range(draw(st.integers(1, 8)))]
    steps = []
    for i, name in enumerate(names):
        parents = draw(st.sets(st.sampled_from(names[:i]), max_size=3)) if i else set()
        steps.append(
            step(
                name,
                *sorted(parents),
                retry=RetryPolicy(max_attempts=draw(st.integers(1, 3)), backoff_seconds=5),
                on_failure=draw(
                    st.sampled_from([OnFailure.STOP, OnFailure.STOP, OnFailure.CONTINUE])
                ),
                enabled=draw(st.sampled_from([True, True, True, True, False])),
            )
        )
    return plan_of(*steps)


@st.composite
def scripts(draw: st.DrawFn, results: list[Result] = RESULTS, *, cancels: bool = True) -> Script:
    plan = draw(plans())
    return Script(
        plan,
        {
            (s.step_id, n): draw(st.sampled_from(results))
            for s in plan.steps
            for n in range(1, 4 + TIMING.lost_budget)
        },
        draw(st.integers(0, 2**32)),
        draw(st.none() | st.integers(0, 20)) if cancels else None,
    )


class Played(NamedTuple):
    run: Run
    history: list[Run]
    attempts: dict[tuple[str, int], Attempt]


def play(script: Script, kept: Mapping[str, StepState] = {}) -> Played:
    """Runs the plan with the script's results; folds in any order, any number of times, or late."""
    chance = random.Random(script.seed)
    plan, now = script.plan, NOW
    decision = start(replace(waiting(), steps=dict(kept)), plan, now, TIMING)
    run, history = decision.run, [decision.run]
    attempts: dict[tuple[str, int], Attempt] = {}
    check_publish(run, decision, plan)
    for turn in range(400):
        if run.status.terminal:
            return Played(run, history, attempts)
        if turn == script.cancel_at:
            run = cancel(run, plan, now, TIMING, "by request")
            history.append(run)
        # Some of what is out makes progress: is claimed, ends, or is lost with its worker.
        for key in outstanding(run):
            there = attempts.get(key)
            if there is None and chance.random() < 0.6:
                attempts[key] = opened(*key, at=now)
            elif there is not None and not there.closed and chance.random() < 0.6:
                result = script.results[key]
                if result is Result.LOST:
                    now = max(now, NOW + timedelta(seconds=turn))
                attempts[key] = closed(*key, result, at=now)
        # Any of the attempts there ever were, superseded ones too, is looked at.
        look = chance.sample(sorted(attempts), chance.randint(0, len(attempts)))
        seen: dict[str, Attempt | None] = {key[0]: attempts[key] for key in look}
        for key in outstanding(run):
            if key not in attempts and chance.random() < 0.2:
                seen[key[0]] = None
        decision = decide(run, plan, seen, now, TIMING)
        check(run, decision, plan, attempts)
        assert decide(decision.run, plan, seen, now, TIMING) == Decision(decision.run, ())
        if decision.run is not run:
            history.append(decision.run)
        run = decision.run
        now += timedelta(seconds=chance.choice([0, 1, 2, 30]))
    raise AssertionError(f"the run does not end: {statuses(run)}")


def check(
    before: Run, decision: Decision, plan: Plan, attempts: Mapping[tuple[str, int], Attempt]
) -> None:
    run = decision.run
    check_publish(before, decision, plan)
    for step_id, state in run.steps.items():
        was = before.steps[step_id]
        if (state.status, state.attempt) != (was.status, was.attempt):
            assert state.status in STEP_MOVES[was.status]
        assert was.attempt <= state.attempt <= was.attempt + 1
        if was.attempt and (state.status.terminal or state.attempt > was.attempt):
            there = attempts[step_id, was.attempt]
            assert there.closed, "a step moved on while its attempt was open"
    if run.status is not before.status:
        assert run.status in RUN_MOVES[before.status]
    if run.status.terminal and not before.status.terminal:
        assert all(state.status.terminal for state in run.steps.values())
        assert all(
            attempts[step_id, state.attempt].closed
            for step_id, state in run.steps.items()
            if state.attempt
        )
    assert run.wake_at is not None or run.effects_done
    if run is not before:
        assert run.wake_at == wake_at(run, TIMING)


def check_publish(before: Run, decision: Decision, plan: Plan) -> None:
    for message in decision.publish:
        state = decision.run.steps[message.step_id]
        assert (state.status, state.attempt) == (StepStatus.QUEUED, message.attempt)
        for parent in plan.by_id[message.step_id].depends_on:
            there = decision.run.steps[parent]
            assert (
                there.status is StepStatus.COMPLETED
                or (there.status is StepStatus.SKIPPED and there.reason == "disabled")
                or (
                    there.status is StepStatus.FAILED
                    and plan.by_id[parent].on_failure is OnFailure.CONTINUE
                )
            )
    assert len({message.step_id for message in decision.publish}) == len(decision.publish)


@settings(max_examples=examples(300))
@given(scripts())
def test_every_run_ends_and_only_when_all_that_was_released_is_closed(script: Script) -> None:
    played = play(script)
    for step_id, state in played.run.steps.items():
        if state.attempt:
            counted = played.attempts[step_id, state.attempt]
            assert state.counted == state.attempt
            assert (counted.result is Result.OK) == (state.status is StepStatus.COMPLETED)
    first_end = next(run for run in played.history if run.status.terminal)
    assert played.run is first_end


@settings(max_examples=examples(200))
@given(scripts([Result.OK], cancels=False))
def test_a_run_of_successes_completes_every_enabled_step(script: Script) -> None:
    run = play(script).run
    assert run.status is RunStatus.COMPLETED
    assert all(
        run.steps[s.step_id].status is (StepStatus.COMPLETED if s.enabled else StepStatus.SKIPPED)
        for s in script.plan.steps
    )


@settings(max_examples=examples(200))
@given(scripts([Result.OK], cancels=False), st.data())
def test_fewer_losses_than_the_budget_harm_no_run(script: Script, data: st.DataObject) -> None:
    for s in script.plan.steps:
        for number in range(1, data.draw(st.integers(0, TIMING.lost_budget)) + 1):
            script.results[s.step_id, number] = Result.LOST
    assert play(script).run.status is RunStatus.COMPLETED


@settings(max_examples=examples(200))
@given(scripts(cancels=False), st.integers(0, 2**32))
def test_the_order_of_folding_does_not_change_how_a_run_ends(script: Script, seed: int) -> None:
    one, other = play(script).run, play(script._replace(seed=seed)).run
    assert one.status is other.status
    if one.status is RunStatus.COMPLETED:
        assert statuses(one) == statuses(other)
        assert one.outcome is other.outcome


@settings(max_examples=examples(200))
@given(plans(), st.data())
def test_attempts_that_are_read_together_may_be_folded_in_any_order(
    plan: Plan, data: st.DataObject
) -> None:
    run = started(plan)
    out = [
        closed(*key, data.draw(st.sampled_from([r for r in Result if r is not Result.CANCELLED])))
        for key in outstanding(run)
    ]
    one = fold(run, plan, *out)
    other = fold(run, plan, *data.draw(st.permutations(out)))
    assert statuses(one.run) == statuses(other.run)
    assert set(one.publish) == set(other.publish)


@settings(max_examples=examples(200))
@given(scripts(), st.integers(0, 3))
def test_a_run_past_its_deadline_ends_with_one_look_at_what_is_closed(
    script: Script, skip: int
) -> None:
    """As the visit does it: what is absent is created closed, what is open is closed."""
    run = play_to(script, skip)
    late = (run.deadline or NOW) + TIMING.deadline_grace
    seen = {key[0]: closed(*key, Result.OVERDUE, at=late) for key in outstanding(run)}
    decision = decide(run, script.plan, seen, late, TIMING)
    assert decision.run.status.terminal
    assert decision.publish == ()


def play_to(script: Script, turns: int) -> Run:
    history = play(script).history
    return next(
        (run for run in reversed(history[: turns + 1]) if not run.status.terminal), history[0]
    )
