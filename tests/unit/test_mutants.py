"""The protocol with one rule taken out: the world of tests/support must notice each time.

A mutant is planted by replacing a port, or a function of the engine, by one that breaks the rule; the
table says how, and which histories catch it. `pytest -s` prints the first history that did, with its
seed where it has one. That a claim needs its condition is also shown on emulators, where real functions
run without it (tests/chaos/test_cloud_kill.py).

Three rules wait for the notifier, which is not here yet: a notice is stored before the message that
tells of it, is marked as sent after it was sent, and is claimed by who sends it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain, count
from random import Random
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from shared.accounts import NotAllowed, Refused, Reserved, Spent
from shared.accounts.sqlite import SqliteAccounts
from shared.core import decide as decision
from shared.core.decide import Decision, Publish, decide, outstanding
from shared.core.message import CompletionMessage
from shared.core.plan import Plan, StepPlan
from shared.core.run import (
    Attempt,
    AttemptStatus,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Timing,
    derived_run_id,
)
from shared.engine import advance, retry
from shared.engine import tick as tick_use_case
from shared.engine.advance import Coordinator, step_messages
from shared.engine.lease import Lease
from shared.errors import Unavailable
from shared.state import Close, StoredAttempt, StoredRun
from shared.state.sqlite import SqliteRunStore
from tests.support.histories import (
    CHAIN,
    DIAMOND,
    HASTY,
    JOIN,
    ONE,
    WIDE,
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
    plain,
    retried,
    retry_again,
    shape,
    slow_answer,
    step,
    submit_race,
    tick,
)
from tests.support.promises import Broken
from tests.support.world import TIMING, Build, Faults, World

# --- stores that break a rule ---


class ClaimOverwrites(SqliteRunStore):
    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        key = (attempt.run_id, attempt.step_id, attempt.number)
        self._journal.execute(
            "DELETE FROM attempts WHERE run_id = ? AND step_id = ? AND number = ?", key
        )
        return super().claim(attempt)


class _ClosesAnyhow(SqliteRunStore):
    results: frozenset[Result]

    def close_attempt(self, stored: StoredAttempt, how: Close) -> bool:
        if how.result in self.results:
            there = stored.attempt
            now = self.attempt(there.run_id, there.step_id, there.number)
            assert now is not None
            opened = replace(now.attempt, status=AttemptStatus.OPEN)
            return super().close_attempt(StoredAttempt(opened, now.version), how)
        return super().close_attempt(stored, how)


class WorkerClosesAnyhow(_ClosesAnyhow):
    results = frozenset({Result.OK, Result.TRANSIENT, Result.TERMINAL})


class ReaperClosesAnyhow(_ClosesAnyhow):
    results = frozenset({Result.LOST, Result.CANCELLED, Result.OVERDUE})


class RenewsAnyhow(SqliteRunStore):
    def renew(
        self, stored: StoredAttempt, lease_until: datetime, heartbeat_at: datetime
    ) -> StoredAttempt | None:
        there = stored.attempt
        now = self.attempt(there.run_id, there.step_id, there.number)
        version = stored.version if now is None else now.version
        return super().renew(StoredAttempt(there, version), lease_until, heartbeat_at)


class WritesAnyhow(SqliteRunStore):
    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        now = self.run(stored.run.run_id)
        return super().replace_run(now or stored, after, writer)


class CancelsAnyhow(WritesAnyhow):
    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        asked = after.cancel_at is not None and stored.run.cancel_at is None
        if asked:
            return super().replace_run(stored, after, writer)
        return SqliteRunStore.replace_run(self, stored, after, writer)


class NoTombstoneOfSteps(SqliteRunStore):
    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        return StoredAttempt(attempt, 0) if attempt.closed else super().claim(attempt)


class NoTombstoneOfRuns(SqliteRunStore):
    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        if run.tombstone:
            return self.run(run.run_id) is None
        return super().create_run(run, plan, writer)


class EffectsDoneFirst(SqliteRunStore):
    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        if after.status.terminal and not stored.run.status.terminal:
            after = replace(after, effects_done=True, wake_at=None)
        return super().replace_run(stored, after, writer)


# --- accounts that break a rule ---


class SettlesWithoutKey(SqliteAccounts):
    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        def anyhow(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE usage SET concurrent = concurrent - 1, succeeded = succeeded + ?,"
                " failed = failed + ?",
                (succeeded, not succeeded),
            )
            db.execute(
                "UPDATE reservations SET status = 'settled', outcome = 'ended' WHERE run_id = ?",
                (run_id,),
            )

        self._journal.write(anyhow)


class SettlesWhatExpired(SqliteAccounts):
    """A reservation that the sweep ended gives its slot back again."""

    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        self._journal.execute(
            "UPDATE reservations SET status = 'held' WHERE run_id = ? AND status = 'expired'",
            (run_id,),
        )
        super().settle(run_id, org, now, succeeded=succeeded, our_fault=our_fault)


class ForgetsWhatItSettled(SqliteAccounts):
    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        super().settle(run_id, org, now, succeeded=succeeded, our_fault=our_fault)
        self._journal.execute("DELETE FROM reservations WHERE run_id = ?", (run_id,))


class ForgetsWhenItExpires(SqliteAccounts):
    """A reservation found again is said to last as long as it was asked for, not as it does."""

    def reserve(
        self, run_id: str, org: str, now: datetime, expires_at: datetime
    ) -> Reserved | Spent | Refused | NotAllowed:
        answer = super().reserve(run_id, org, now, expires_at)
        return Reserved(expires_at) if isinstance(answer, Reserved) else answer


class SettlesWithoutVoid(SqliteAccounts):
    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        super().settle(run_id, org, now, succeeded=succeeded, our_fault=our_fault)
        self._journal.execute(
            "DELETE FROM reservations WHERE run_id = ? AND status = 'void'", (run_id,)
        )


# --- an engine that does things in another order ---


class _Runs:
    """The real run store, with a verb that calls another port first. Machines die in between."""

    def __init__(self, world: World, runs: Any) -> None:
        self.world, self.runs = world, runs

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.runs, verb)


class PublishesBeforeWriting(_Runs):
    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        self.world.app.bus.publish(
            step_messages(after, stored.plan, _newly_queued(stored.run, after))
        )
        result: StoredRun | None = self.runs.replace_run(stored, after, writer)
        return result


class PublishesBeforeCreating(_Runs):
    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        if not run.tombstone:
            nothing = replace(run, steps={})
            self.world.app.bus.publish(step_messages(run, plan, _newly_queued(nothing, run)))
        created: bool = self.runs.create_run(run, plan, writer)
        return created


class SettlesBeforeWriting(_Runs):
    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        if after.status.terminal and not stored.run.status.terminal:
            self.world.app.accounts.settle(
                after.run_id, after.org, self.world.clock(), succeeded=True, our_fault=False
            )
        result: StoredRun | None = self.runs.replace_run(stored, after, writer)
        return result


class LoserReleases(_Runs):
    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        created: bool = self.runs.create_run(run, plan, writer)
        if not created and not run.tombstone:
            self.world.app.accounts.release(run.run_id)
        return created


def _newly_queued(before: Run, after: Run) -> list[Publish]:
    return [
        Publish(step_id, state.attempt, None)
        for step_id, state in after.steps.items()
        if state.status is StepStatus.QUEUED
        and (step_id not in before.steps or state.attempt > before.steps[step_id].attempt)
    ]


# --- a core that decides otherwise ---

Decide = Callable[[Run, Plan, Mapping[str, Attempt | None], datetime, Timing], Decision]


def deciding(rule: Decide, *more: tuple[object, str, object]) -> Build:
    def instead(*args: Any, **_: Any) -> Decision:
        return rule(*args)

    return Build(patches=((advance, "decide", instead), *more))


def folds_any_number(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    renumbered = {
        step_id: None if there is None else replace(there, number=run.steps[step_id].attempt)
        for step_id, there in seen.items()
    }
    return decide(run, plan, renumbered, now, timing)


def releases_on_any_parent(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    def waits_for(step: StepPlan, index: int) -> tuple[str, ...]:
        return step.depends_on[index : index + 1] or step.depends_on[:1]

    first, last = (
        replace(plan, steps=tuple(replace(s, depends_on=waits_for(s, i)) for s in plan.steps))
        for i in (0, 1)
    )
    result = decide(run, first, seen, now, timing)
    return result if result.publish else decide(run, last, seen, now, timing)


def ends_while_open(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    if run.status is RunStatus.CANCELLING:
        seen = {
            step_id: there
            and replace(there, status=AttemptStatus.CLOSED, result=Result.CANCELLED, closed_at=now)
            for step_id, there in seen.items()
        }
    return decide(run, plan, seen, now, timing)


def requeues_with_a_new_number(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    result = decide(run, plan, seen, now, timing)
    steps, publish = dict(result.run.steps), []
    for message in result.publish:
        step_id, number, not_before = message
        if run.steps[step_id].attempt == number:
            number += 1
            steps[step_id] = replace(steps[step_id], attempt=number)
        publish.append(Publish(step_id, number, not_before))
    return Decision(replace(result.run, steps=steps) if publish else result.run, tuple(publish))


def loses_for_ever(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    return decide(run, plan, seen, now, replace(timing, lost_budget=10**6))


def never_requeues(
    run: Run, plan: Plan, seen: Mapping[str, Attempt | None], now: datetime, timing: Timing
) -> Decision:
    there = {step_id: attempt for step_id, attempt in seen.items() if attempt is not None}
    return decide(run, plan, there, now, timing)


def sleeps_over_running_steps(run: Run, timing: Timing) -> datetime | None:
    waiting = {
        step_id: replace(state, look_at=None) if state.status is StepStatus.RUNNING else state
        for step_id, state in run.steps.items()
    }
    return _wake_at(replace(run, steps=waiting), timing)


def forgets_ended_runs(run: Run, timing: Timing) -> datetime | None:
    return None if run.status.terminal else _wake_at(run, timing)


_wake_at = decision.wake_at


def acks_a_lost_write(coordinator: Coordinator, hint: CompletionMessage) -> None:
    """Whose conditional write was lost does not look again, and its message does not come again."""
    try:
        _handle(coordinator, hint)
    except Unavailable as error:
        if not str(error).endswith("conditional writes in a row were lost"):
            raise


_handle = Coordinator.handle
# The tick would find what such a coordinator has left, so it must be seen without one.
NO_TICK = (tick_use_case, "tick", lambda _: None)


def looks_at_no_attempt(_: Coordinator, run: Run, __: datetime) -> dict[str, Attempt | None]:
    return dict.fromkeys(step_id for step_id, _ in outstanding(run))


def leases_from_the_start(
    run: Run, stored: StoredAttempt | None, now: datetime, app: Any
) -> Close | None:
    if stored is not None:
        since = stored.attempt.started_at + app.timing.lease
        stored = stored._replace(attempt=replace(stored.attempt, lease_until=since))
    return _end_from_outside(run, stored, now, app)


_end_from_outside = advance._end_from_outside


def retries_anew(run_id: str, _: int) -> str:
    return derived_run_id(run_id, "retry", str(next(_numbers)))


_numbers = count()


def keeps_what_it_tried(run: Run, plan: Plan) -> dict[str, StepState]:
    return {
        step_id: replace(
            state, status=StepStatus.COMPLETED, attempt=0, from_run=run.run_id, look_at=None
        )
        for step_id, state in run.steps.items()
        if state.attempt
    }


def starts_whatever_the_clock_says(lease: Lease) -> None:
    """A lease that never looks at the clock."""


def patched(owner: object, name: str, value: object) -> Build:
    return Build(patches=((owner, name, value),))


# --- the histories they are tried on ---

Hunt = Callable[[Build], Iterable[Case]]


def seeds(most: int) -> Hunt:
    def hunt(build: Build) -> Iterator[Case]:
        for seed in range(most):
            yield Case(f"seed {seed}", lambda seed=seed: chaos(seed, build))  # type: ignore[misc]

    hunt.__name__ = "random"
    return hunt


def deaths(build: Build) -> Iterator[Case]:
    return chain(each_call("death", death, CHAIN, build), each_call("death", death, ONE, build))


def cancels(build: Build) -> Iterator[Case]:
    return chain(
        *(each_call(f"cancel, held {s}", cancel(s), CHAIN, build) for s in (0, 1, 15)),
    )


def freezes(build: Build) -> Iterator[Case]:
    return chain(
        each_call("freeze", freeze(15), CHAIN, build),
        each_call("slow answer", slow_answer(15), CHAIN, build),
        each_call("freeze past the deadline", freeze(140), CHAIN, build),
    )


def retries(build: Build) -> Iterator[Case]:
    return chain(
        each_call("another click", retry_again(3), CHAIN, build, history=retried),
        (
            Case(f"seed {seed}", lambda seed=seed: chaos(seed, build, retries=True))  # type: ignore[misc]
            for seed in range(400)
        ),
    )


def pairs(build: Build) -> Iterator[Case]:
    """A worker hangs past its lease, and whoever looks after it hangs too."""
    return each_pair("freezes", freeze(16), freeze(5), ONE, build, reach=2)


def meetings(build: Build) -> Iterator[Case]:
    """Ten steps end at nearly the same time, and some writes of their run take a while."""
    slow = Faults(theme="runs.replace_run", theme_seconds=0.04)

    def ends(seed: int) -> Callable[[str, str, int], float]:
        return lambda _, step_id, __: Random(f"{seed} {step_id}").uniform(0, 0.1)

    return (
        Case(
            f"seed {seed}",
            lambda seed=seed: plain(  # type: ignore[misc]
                WIDE, build, seed=seed, faults=slow, fault_seconds=5, work_seconds=ends(seed)
            ),
        )
        for seed in range(30)
    )


def sweeps(build: Build) -> Iterator[Case]:
    """Every call hangs until the reservation has expired."""
    return each_call("freeze past the reservation", freeze(240), CHAIN, build)


def losses(build: Build) -> Iterator[Case]:
    return chain(each_message(0, CHAIN, build), each_message(2, CHAIN, build))


def ticks(build: Build) -> Iterator[Case]:
    timing = replace(TIMING, orphan_age=timedelta(0))
    return chain(
        each_call("tick", tick(1), CHAIN, build, timing=timing),
        each_order(lambda: submit_race(build), 1),
    )


def orders(build: Build) -> Iterator[Case]:
    return chain(
        each_order(lambda: cancel_race(build), 1),
        each_order(lambda: lease_race(build), 1),
        each_order(lambda: cancel_race(build, HASTY), 1),
    )


def joins(build: Build) -> Iterator[Case]:
    def uneven(_: str, step_id: str, __: int) -> float:
        return 1.0 if step_id in ("a", "c") else 0.01

    return iter(
        [
            Case("a join", lambda: plain(JOIN, build, work_seconds=uneven)),
            Case("a diamond", lambda: plain(DIAMOND, build, work_seconds=uneven)),
        ]
    )


def hangs(build: Build) -> Iterator[Case]:
    """A step that never ends: its timeout lets its lease run out, its budget ends the run."""
    plan = shape(step("a", timeout_seconds=1), minutes=4)
    return iter([Case("a hang", lambda: plain(plan, build, results=lambda *_: Result.LOST))])


def long_work(build: Build) -> Iterator[Case]:
    plan = shape(step("a", timeout_seconds=100))
    return iter([Case("long work", lambda: plain(plan, build, work_seconds=lambda *_: 40.0))])


class Mutant(NamedTuple):
    """A rule taken out. `hunts` are tried in this order; one must catch it."""

    name: str
    build: Build
    hunts: tuple[Hunt, ...]


CHAOS = seeds(400)

SAFETY = [
    Mutant("claim without if-absent", Build(store=ClaimOverwrites), (losses, freezes)),
    Mutant("close unconditional", Build(store=WorkerClosesAnyhow), (freezes,)),
    Mutant("reap unconditional", Build(store=ReaperClosesAnyhow), (pairs,)),
    Mutant("heartbeat unconditional", Build(store=RenewsAnyhow), (CHAOS,)),
    Mutant("run written without version", Build(store=WritesAnyhow), (cancels,)),
    Mutant("cancel written without version", Build(store=CancelsAnyhow), (orders,)),
    Mutant(
        "fold any number",
        deciding(folds_any_number, (advance, "_stale", lambda *_: False)),
        (freezes, CHAOS),
    ),
    Mutant("release on any dependency", deciding(releases_on_any_parent), (joins,)),
    Mutant("publish before CAS", Build(wire=PublishesBeforeWriting), (joins,)),
    Mutant("publish before create", Build(wire=PublishesBeforeCreating), (joins,)),
    Mutant("settle before CAS", Build(wire=SettlesBeforeWriting), (joins,)),
    Mutant("settle not keyed", Build(accounts=SettlesWithoutKey), (deaths, CHAOS)),
    Mutant("settle and sweep both decrement", Build(accounts=SettlesWhatExpired), (sweeps, CHAOS)),
    Mutant("reservation row deleted on settle", Build(accounts=ForgetsWhatItSettled), (CHAOS,)),
    Mutant("settle of absent row without void", Build(accounts=SettlesWithoutVoid), (CHAOS,)),
    Mutant("deadline not from the reservation", Build(accounts=ForgetsWhenItExpires), (deaths,)),
    Mutant("race loser releases", Build(wire=LoserReleases), (ticks,)),
    Mutant("orphan release without tombstone", Build(store=NoTombstoneOfRuns), (ticks,)),
    Mutant("no tombstone on cancel or deadline", Build(store=NoTombstoneOfSteps), (cancels,)),
    Mutant("terminal while an attempt is open", deciding(ends_while_open), (cancels,)),
    Mutant("requeue with a new number", deciding(requeues_with_a_new_number), (losses,)),
    Mutant("effects_done first", Build(store=EffectsDoneFirst), (joins,)),
    Mutant("lost budget never spent", deciding(loses_for_ever), (hangs,)),
    Mutant("a run for every click", patched(retry, "retry_id", retries_anew), (retries,)),
    Mutant("retry before the end", patched(retry, "_refuse", lambda *_: None), (retries,)),
    Mutant("what failed is kept", patched(retry, "kept_steps", keeps_what_it_tried), (retries,)),
    Mutant(
        "clock not looked at before the start",
        Build(patches=((Lease, "check", starts_whatever_the_clock_says),)),
        (freezes, CHAOS),
    ),
]

LIVENESS = [
    Mutant(
        "wake_at ignores running steps",
        Build(patches=((decision, "wake_at", sleeps_over_running_steps),)),
        (deaths,),
    ),
    Mutant(
        "the tick does not look at attempts",
        Build(patches=((Coordinator, "_look_at_all", looks_at_no_attempt),)),
        (deaths,),
    ),
    Mutant(
        "lease from the wrong clock",
        Build(patches=((advance, "_end_from_outside", leases_from_the_start),)),
        (long_work,),
    ),
    Mutant("no message is sent again", deciding(never_requeues), (losses,)),
    Mutant(
        "conflict acks, and there is no tick",
        Build(
            patches=(NO_TICK, (advance, "_TRIES", 1), (Coordinator, "handle", acks_a_lost_write))
        ),
        (meetings,),
    ),
    Mutant(
        "effects only by the event handler",
        Build(
            patches=(
                (decision, "wake_at", forgets_ended_runs),
                (advance, "wake_at", forgets_ended_runs),
            )
        ),
        (CHAOS,),
    ),
]


def caught(mutant: Mutant) -> str:
    """The first history that catches it, and what it says."""
    for hunt in mutant.hunts:
        for number, case in enumerate(hunt(mutant.build), 1):
            try:
                case.world().run()
            except Broken as broken:
                what = str(broken).partition("\n")[0]
                return f"{hunt.__name__}, history {number} ({case.name}): {what}"
    return ""


@pytest.mark.parametrize("mutant", [*SAFETY, *LIVENESS], ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_noticed(mutant: Mutant) -> None:
    by = caught(mutant)
    print(f"{mutant.name}: {by}")
    assert by, f"no history of {[hunt.__name__ for hunt in mutant.hunts]} catches it"


@pytest.mark.parametrize(
    "hunt", [deaths, cancels, freezes, sweeps, losses, ticks, joins, hangs, long_work]
)
def test_the_histories_that_catch_mutants_accept_the_protocol(hunt: Hunt) -> None:
    for case in hunt(Build()):
        case.world().run()


def test_steps_that_end_together_need_no_tick() -> None:
    for case in meetings(Build(patches=(NO_TICK,))):
        case.world().run()
