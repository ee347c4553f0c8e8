"""The engine keeps the promises of a run whatever dies, freezes, gets lost or comes twice.

Random histories by seed, and small ones by enumeration: one fault at every call of a port, two deaths
at every pair of calls, and every order in which a few actors can take turns. What is promised stands
in `tests/support/promises.py`, what goes wrong in `tests/support/world.py`.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from shared.core.plan import Plan, RetryPolicy
from shared.core.run import Result
from shared.settings import ROOT
from tests.support.histories import (
    CHAIN,
    DIAMOND,
    HASTY,
    ONE,
    Case,
    cancel,
    cancel_race,
    chaos,
    death,
    each_call,
    each_message,
    each_order,
    each_pair,
    freeze,
    lease_race,
    lost_answer,
    plain,
    refusal,
    replay,
    retried,
    retry_again,
    retry_race,
    shape,
    slow_answer,
    step,
    submit_race,
    tick,
)
from tests.support.world import EPOCH, TIMING, Trouble, World

HISTORIES = 500  # in CI, and as many seconds as stand here
SECONDS = 8.0

PLANS = {"chain": CHAIN, "diamond": DIAMOND}
HOUR = timedelta(hours=1)
AT_ONCE = replace(TIMING, orphan_age=timedelta(0))


def first_seed() -> int:
    """The seeds change with every commit, so that CI does not look at the same ones for ever."""
    head = subprocess.run(
        ["git", "rev-parse", "--short=6", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return int(head.stdout.strip() or "1", 16) * 1_000


def play(cases: Iterable[Case]) -> Counter[str]:
    """Plays them all; how their runs ended."""
    ends: Counter[str] = Counter()
    for case in cases:
        world = case.world()
        try:
            world.run()
        except AssertionError as error:
            raise AssertionError(f"{case.name}: {error}") from None
        ends.update(run.status for run in world.promises.runs.values() if not run.tombstone)
    return ends


@pytest.mark.parametrize(
    ("embedded", "retries"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=[
        "machines",
        "one process that forgets",
        "machines, and retries",
        "one process that forgets, and retries",
    ],
)
def test_random_histories_keep_every_promise(
    request: pytest.FixtureRequest, *, embedded: bool, retries: bool
) -> None:
    """Embedded, a crash also takes back the writes that nobody waited for."""
    alone: int | None = request.config.getoption("--history", None)
    count: int | None = request.config.getoption("--histories", None)
    first = first_seed() if alone is None else alone
    seeds = range(first, first + (1 if alone is not None else count or HISTORIES))
    until = time.monotonic() + (SECONDS if count is None else 86_400)
    played, kills, calls, slowest = 0, 0, 0, 0.0
    for seed in seeds:
        world = chaos(seed, embedded=embedded, retries=retries)
        world.run()
        played, kills, calls = played + 1, kills + world.kills, calls + world.calls
        slowest = max(slowest, world.rest)
        if time.monotonic() > until:
            break
    print(
        f"seeds {first} to {first + played - 1}: {calls} calls, {kills} deaths,"
        f" at rest {slowest:.0f} s after the last fault"
    )
    assert played


def test_a_seed_is_one_history() -> None:
    for seed in (3, 33, 333):
        one = chaos(seed)
        one.run()
        other = chaos(seed)
        other.run()
        assert one.labels == other.labels
        assert one.promises.runs == other.promises.runs


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(
    ("trouble", "options"),
    [
        pytest.param(death, {}, id="a death"),
        pytest.param(death, {"tries": 1}, id="a death, and the client gives up"),
        pytest.param(death, {"machines": 1}, id="the death of the only machine"),
        pytest.param(freeze(15), {}, id="a freeze past the lease"),
        pytest.param(slow_answer(15), {}, id="an answer later than the lease"),
        pytest.param(freeze(140), {}, id="a freeze past the deadline"),
        pytest.param(slow_answer(140), {}, id="an answer later than the deadline"),
        pytest.param(freeze(240), {}, id="a freeze past the reservation"),
        pytest.param(refusal, {}, id="a refusal"),
        pytest.param(lost_answer, {}, id="a lost answer"),
        pytest.param(tick(1), {"timing": AT_ONCE}, id="a tick"),
        pytest.param(replay(3), {}, id="a replay"),
        pytest.param(replay(20), {}, id="a replay before a late first call"),
    ],
)
def test_a_fault_at_any_call_harms_no_run(
    plan: Plan, trouble: Callable[[World], Trouble], options: dict[str, Any]
) -> None:
    ends = play(each_call("fault", trouble, plan, **options))
    assert ends["completed"] > 10
    assert not ends["cancelled"]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("held", [0, 1, 15])
def test_a_cancel_at_any_call_ends_the_run_and_starts_nothing_more(plan: Plan, held: float) -> None:
    ends = play(each_call("cancel", cancel(held), plan))
    assert ends["cancelled"] > 10
    assert not ends["failed"]


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("copies", [0, 2])
def test_a_message_that_is_lost_or_doubled_harms_no_run(plan: Plan, copies: int) -> None:
    assert set(play(each_message(copies, plan))) == {"completed"}


def test_two_deaths_at_any_two_calls_harm_no_run() -> None:
    ends = play(each_pair("deaths", death, death, CHAIN))
    assert set(ends) == {"completed"}


def test_a_worker_and_whoever_looks_for_it_may_freeze_at_any_calls() -> None:
    ends = play(each_pair("freezes", freeze(16), freeze(5), ONE, reach=2))
    assert set(ends) == {"completed"}


def test_a_cancel_may_meet_a_death_at_any_two_calls() -> None:
    play(each_pair("cancel, death", cancel(0), death, ONE))


@pytest.mark.parametrize(
    ("trouble", "options"),
    [
        pytest.param(death, {}, id="a death"),
        pytest.param(death, {"machines": 1}, id="the death of the only machine"),
        pytest.param(freeze(15), {}, id="a freeze past the lease"),
        pytest.param(refusal, {}, id="a refusal"),
        pytest.param(lost_answer, {}, id="a lost answer"),
        pytest.param(tick(1), {"timing": AT_ONCE}, id="a tick"),
        pytest.param(retry_again(3), {}, id="another click"),
        pytest.param(retry_again(20), {}, id="another click before a late first one"),
    ],
)
def test_a_fault_at_any_call_harms_no_run_and_no_retry_of_it(
    trouble: Callable[[World], Trouble], options: dict[str, Any]
) -> None:
    ends = play(each_call("fault", trouble, CHAIN, history=retried, **options))
    assert set(ends) == {"failed", "completed"}
    assert ends["completed"] == ends["failed"] > 30


def test_posts_of_one_retry_and_a_tick_make_one_run_in_any_order() -> None:
    ends = play(each_order(retry_race, switches=2))
    assert set(ends) == {"completed"}


def test_posts_of_one_key_and_a_tick_make_one_run_in_any_order() -> None:
    ends = play(each_order(submit_race, switches=2))
    assert set(ends) == {"completed"}


def test_a_cancel_is_safe_in_any_order_with_the_run_it_ends() -> None:
    ends = play(each_order(cancel_race, switches=1))
    assert set(ends) == {"cancelled", "completed"}


def test_a_cancel_is_safe_when_leases_and_graces_are_over_at_once() -> None:
    play(each_order(lambda: cancel_race(timing=HASTY), switches=0))


def test_leases_that_run_out_at_once_make_no_attempt_count_twice() -> None:
    play(each_order(lease_race, switches=0))


def test_work_longer_than_its_lease_is_one_attempt() -> None:
    world = plain(shape(step("a", timeout_seconds=100)), work_seconds=lambda *_: 60.0)
    world.run()
    assert [there.number for there in world.promises.attempts.values()] == [1]
    assert world.labels.count("runs.renew") >= 15


def test_a_worker_that_is_cancelled_sees_it_at_its_next_heartbeat_and_closes_its_attempt() -> None:
    world = plain(ONE, work_seconds=lambda *_: 15.0, timing=replace(TIMING, cancel_grace=HOUR))
    world.promises.must_complete = False
    world.cancel("k", at=4.0)
    world.run()
    (attempt,) = world.promises.attempts.values()
    assert attempt.result is Result.CANCELLED
    assert attempt.closed_at is not None
    asked = EPOCH + timedelta(seconds=4)
    assert attempt.closed_at - asked < TIMING.heartbeat + timedelta(seconds=3)  # and one nap
    assert attempt.error is not None
    assert attempt.error.code == "stopped"


def test_a_statement_that_outlives_its_step_is_a_timeout_and_not_a_loss() -> None:
    plan = shape(step("a", timeout_seconds=7, retry=RetryPolicy(max_attempts=2)))
    world = plain(plan, results=lambda *_: Result.OVERDUE)
    world.run()
    ends = [(there.result, there.error) for there in world.promises.attempts.values()]
    assert [result for result, _ in ends] == [Result.TRANSIENT, Result.TRANSIENT]
    assert {error.code for _, error in ends if error is not None} == {"timeout"}


def test_a_statement_that_a_cancel_interrupts_closes_its_attempt_as_cancelled() -> None:
    world = plain(ONE, results=lambda *_: Result.OVERDUE, timing=replace(TIMING, cancel_grace=HOUR))
    world.cancel("k", at=4.0)
    world.run()
    (attempt,) = world.promises.attempts.values()
    assert attempt.result is Result.CANCELLED


def test_a_result_that_comes_too_late_is_noted_and_counts_for_nothing() -> None:
    late = []
    for case in each_call("freeze", freeze(25), ONE):
        world = case.world()
        world.run()
        late += [there for there in world.promises.attempts.values() if there.late]
    assert {there.result for there in late} == {Result.LOST}
    assert {there.late for there in late} == {"ok"}


def test_a_step_that_hangs_is_given_up_when_its_budget_is_spent() -> None:
    plan = shape(step("a", timeout_seconds=1), minutes=4)
    world = plain(plan, results=lambda *_: Result.LOST)
    world.run()
    (run,) = world.promises.runs.values()
    assert run.status == "failed"
    assert run.steps["a"].attempt == TIMING.lost_budget + 1
    assert run.error is not None
    assert run.error.code == "lost"
