"""What a resumed run begins with, and what is said of a pipeline that changed under it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shared.core.dag import ancestors
from shared.core.decide import cancel, start
from shared.core.plan import OnFailure, Plan, RetryPolicy
from shared.core.resume import differences, kept_steps, retry_id
from shared.core.run import Outcome, Result, Run, RunStatus, StepState, StepStatus, Summary
from tests.support.examples import examples
from tests.unit.test_decide import (
    CHAIN,
    DIAMOND,
    NOW,
    RESULTS,
    SECOND,
    TIMING,
    Played,
    Script,
    closed,
    fold,
    plan_of,
    play,
    scripts,
    started,
    statuses,
    step,
    waiting,
)


def resumed(old: Run, plan: Plan) -> Run:
    return start(replace(waiting("r2"), steps=kept_steps(old, plan)), plan, NOW, TIMING).run


def kept(old: Run, plan: Plan) -> set[str]:
    return set(kept_steps(old, plan))


# --- what is kept ---


def test_a_completed_step_is_kept_with_its_result_and_where_it_is() -> None:
    summary = Summary(extracted=3, loaded=3)
    done = fold(started(CHAIN), CHAIN, closed("a", summary=summary)).run
    ended = fold(done, CHAIN, closed("b", result=Result.TERMINAL)).run
    (state,) = kept_steps(ended, CHAIN).values()
    assert state == StepState(
        status=StepStatus.COMPLETED,
        counted=1,
        from_run="r1",
        summary=summary,
        started_at=NOW,
        finished_at=NOW + SECOND,
    )


def test_a_step_that_was_kept_before_is_still_that_of_the_run_it_ran_in() -> None:
    first = fold(started(CHAIN), CHAIN, closed("a")).run
    first = fold(first, CHAIN, closed("b", result=Result.TERMINAL)).run
    second = fold(resumed(first, CHAIN), CHAIN, closed("b")).run
    second = fold(second, CHAIN, closed("c", result=Result.TERMINAL)).run
    third = kept_steps(second, CHAIN)
    assert {step_id: state.from_run for step_id, state in third.items()} == {"a": "r1", "b": "r2"}


def test_a_resumed_run_says_what_it_has_taken_over() -> None:
    ended = fold(started(CHAIN), CHAIN, closed("a")).run
    ended = fold(ended, CHAIN, closed("b", result=Result.TERMINAL)).run
    run = resumed(ended, CHAIN)
    assert statuses(run) == {"a": "completed", "b": "queued", "c": "pending"}
    assert [(t.step, t.to, t.attempt, t.reason) for t in run.transitions if t.step] == [
        ("a", "completed", 0, "completed in run r1"),
        ("b", "queued", 1, ""),
    ]


def test_what_failed_or_was_skipped_or_cancelled_runs_from_its_first_attempt() -> None:
    plan = plan_of(step("a"), step("b"), step("c", "b"))
    run = fold(started(plan), plan, closed("a"), closed("b", result=Result.TRANSIENT)).run
    ended = fold(run, plan, closed("b", 2, Result.TERMINAL)).run
    assert statuses(ended) == {"a": "completed", "b": "failed", "c": "skipped"}
    assert resumed(ended, plan).steps == {
        **kept_steps(ended, plan),
        "b": StepState(status=StepStatus.QUEUED, attempt=1, look_at=NOW + TIMING.requeue),
        "c": StepState(),
    }


def test_a_cancelled_run_goes_on_with_what_it_had_completed() -> None:
    run = fold(started(DIAMOND), DIAMOND, closed("a")).run
    run = cancel(run, DIAMOND, NOW, TIMING, "by request")
    ended = fold(run, DIAMOND, closed("b"), closed("c", result=Result.CANCELLED)).run
    assert ended.status is RunStatus.CANCELLED
    assert statuses(resumed(ended, DIAMOND)) == {
        "a": "completed",
        "b": "completed",
        "c": "queued",
        "d": "pending",
    }


def test_a_run_that_was_cancelled_when_all_was_done_ends_as_it_is_resumed() -> None:
    run = cancel(started(CHAIN), CHAIN, NOW, TIMING, "by request")
    steps = {
        step_id: StepState(status=StepStatus.COMPLETED, attempt=1, counted=1)
        for step_id in run.steps
    }
    ended = resumed(replace(run, status=RunStatus.CANCELLED, steps=steps), CHAIN)
    assert ended.status is RunStatus.COMPLETED
    assert ended.wake_at is not None  # the tick gives its slot back


def test_a_run_that_never_began_is_resumed_from_its_beginning() -> None:
    ended = cancel(waiting(), CHAIN, NOW, TIMING, "by request")
    assert statuses(resumed(ended, CHAIN)) == {"a": "queued", "b": "pending", "c": "pending"}


def test_what_completed_after_a_failure_that_continues_runs_again_with_it() -> None:
    plan = plan_of(
        step("a", on_failure=OnFailure.CONTINUE), step("b", "a"), step("other"), step("c", "b")
    )
    run = fold(started(plan), plan, closed("a", result=Result.TERMINAL), closed("other")).run
    run = fold(run, plan, closed("b")).run
    ended = fold(run, plan, closed("c", result=Result.TERMINAL)).run
    assert kept(ended, plan) == {"other"}


def test_what_completed_behind_a_disabled_step_is_kept_as_what_is_before_it() -> None:
    plan = plan_of(step("a"), step("b", "a", enabled=False), step("c", "b"), step("d", "c"))
    run = fold(started(plan), plan, closed("a")).run
    run = fold(run, plan, closed("c")).run
    ended = fold(run, plan, closed("d", result=Result.TERMINAL)).run
    assert kept(ended, plan) == {"a", "c"}
    assert statuses(resumed(ended, plan)) == {
        "a": "completed",
        "b": "skipped",
        "c": "completed",
        "d": "queued",
    }


# --- random runs ---


def finish(old: Played, script: Script, results: dict[tuple[str, int], Result]) -> Played:
    again = script._replace(results=results, cancel_at=None)
    return play(again, kept_steps(old.run, script.plan))


@settings(max_examples=examples(300))
@given(scripts(), st.data())
def test_a_resumed_run_of_successes_completes_and_runs_no_kept_step_again(
    script: Script, data: st.DataObject
) -> None:
    old = play(script)
    again = finish(old, script, dict.fromkeys(script.results, Result.OK))
    assert again.run.status is RunStatus.COMPLETED
    assert again.run.outcome is Outcome.OK
    keeps = kept_steps(old.run, script.plan)
    ran = {step_id for step_id, _ in again.attempts}
    enabled = {s.step_id for s in script.plan.steps if s.enabled}
    assert ran == enabled - set(keeps)
    for step_id, state in keeps.items():
        assert again.run.steps[step_id] == state


@settings(max_examples=examples(300))
@given(scripts())
def test_only_what_stands_on_a_failure_runs_again_after_it_completed(script: Script) -> None:
    old = play(script)
    parents = {planned.step_id: planned.depends_on for planned in script.plan.steps}
    keeps = kept_steps(old.run, script.plan)
    for step_id, state in old.run.steps.items():
        above = ancestors(parents, step_id)
        unaware = any(old.run.steps[one].status is StepStatus.FAILED for one in above)
        assert (step_id in keeps) == (state.status is StepStatus.COMPLETED and not unaware)


@settings(max_examples=examples(300))
@given(scripts(), scripts(RESULTS, cancels=False))
def test_a_resumed_run_ends_as_a_clean_one_of_the_same_results_would(
    script: Script, other: Script
) -> None:
    """What was kept succeeded, so the clean run is given that; the rest does as it likes in both."""
    old = play(script)
    keeps = kept_steps(old.run, script.plan)
    results = {
        key: Result.OK if key[0] in keeps else other.results.get(key, Result.OK)
        for key in script.results
    }
    resumed_run = finish(old, script, results).run
    clean = play(script._replace(results=results, cancel_at=None)).run
    assert resumed_run.status is clean.status
    if clean.status is RunStatus.COMPLETED:
        assert statuses(resumed_run) == statuses(clean)
        assert resumed_run.outcome is clean.outcome


# --- what changed ---


def test_plans_that_do_the_same_differ_in_nothing() -> None:
    assert differences(CHAIN, replace(CHAIN, config_hash="other")) == []


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (replace(CHAIN, timeout_minutes=5.0), ["timeout_minutes was 60, is 5.0"]),
        (plan_of(*CHAIN.steps, step("d", "c")), ["steps.d is new"]),
        (plan_of(*CHAIN.steps[:2]), ["steps.c is gone"]),
        (
            plan_of(step("a"), step("b", "a"), step("c", "a", timeout_seconds=9.0)),
            [
                """steps.c.depends_on was ["b"], is ["a"]""",
                "steps.c.timeout_seconds was 540, is 9.0",
            ],
        ),
        (
            plan_of(*CHAIN.steps[:2], step("c", "b", config={"url": "x" * 500, "empty": None})),
            [f'steps.c.config.url was not there, is "{"x" * 75} …']
            + ["steps.c.config.empty was not there, is null"],
        ),
        (
            plan_of(*CHAIN.steps[:2], step("c", "b", retry=RetryPolicy(max_attempts=1))),
            ['steps.c.retry was {"max_attempts":3'],
        ),
    ],
    ids=["run", "new step", "gone step", "fields", "config", "retry"],
)
def test_what_changed_is_named_by_its_step_and_field(after: Plan, said: list[str]) -> None:
    found = [str(fault) for fault in differences(CHAIN, after)]
    assert len(found) == len(said)
    for one, other in zip(found, said, strict=True):
        assert one.startswith(other)


def test_the_retries_of_a_run_have_ids_of_their_own() -> None:
    ids = {retry_id(run_id, number) for run_id in ("r1", "r2") for number in range(50)}
    assert len(ids) == 100
