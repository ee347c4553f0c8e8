"""What protocol.md promises, asked of the stores themselves after every write and in the end.

Nothing here believes what a port answered: the documents are read again behind the ports' back, and
held against what they were before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

from msgspec.structs import replace

from shared.accounts import ReservationStatus
from shared.bus import Outgoing
from shared.core.message import StepMessage, Topic, decode
from shared.core.plan import OnFailure, Plan
from shared.core.run import (
    RUN_MOVES,
    STEP_MOVES,
    Attempt,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Timing,
)
from shared.journal import Journal
from shared.state.sqlite import SqliteRunStore

CLOCKS = timedelta(seconds=1)  # the most by which two clocks differ

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOTHING = StepState()


class Broken(AssertionError):
    """A promise of the protocol does not hold."""


class Promises:
    """What was seen of one world so far. Every method that asks raises Broken."""

    def __init__(
        self,
        journal: Journal,
        timing: Timing,
        limit: int,
        now: Callable[[], datetime],
        tell: Callable[[str], None],
    ) -> None:
        self.timing = timing
        self.limit = limit
        self.must_complete = False  # nothing happens that a run may fail of
        self.runs: dict[str, Run] = {}
        self.plans: dict[str, Plan] = {}
        self.attempts: dict[tuple[str, str, int], Attempt] = {}
        self.events: dict[str, list[tuple[str, str]]] = {}
        self.answers: dict[str, set[str]] = {}
        self.keys: dict[str, str] = {}  # which run ids may stand for a key
        self.truth = SqliteRunStore(journal)
        self._journal = journal
        self._now = now
        self._tell = tell

    def broken(self, what: str) -> NoReturn:
        """Ends the world, also where the engine would catch the error."""
        self._tell(what)
        raise Broken(what)

    # --- what must hold after every write ---

    def check(self, label: str, args: Sequence[Any], result: Any) -> None:
        match label:
            case "runs.create_run":
                self._check_run(args[0].run_id)
            case "runs.replace_run":
                self._check_run(args[1].run_id)
            case "runs.claim":
                attempt: Attempt = args[0]
                self._check_attempt(attempt.run_id, attempt.step_id, attempt.number)
                if result is not None and not attempt.closed:
                    self._check_claim(attempt)
            case "runs.renew" | "runs.close_attempt":
                attempt = args[0].attempt
                self._check_attempt(attempt.run_id, attempt.step_id, attempt.number)
            case "runs.record_late":
                self._check_attempt(*args[:3])
            case "accounts.reserve" | "accounts.settle" | "accounts.release" | "accounts.sweep":
                self._check_quota()

    def _check_run(self, run_id: str) -> None:
        stored = self.truth.run(run_id)
        if stored is None:
            return
        run, before = stored.run, self.runs.get(run_id)
        self.runs[run_id], self.plans[run_id] = run, stored.plan
        if before is None:
            if run.tombstone:
                return
            before = replace(
                run,
                status=RunStatus.PENDING,
                steps=dict.fromkeys(run.steps, _NOTHING),
                transitions=run.transitions[:1],
            )
            self._one_run_per_key(run)
            self._check_kept(run)
        if before.status.terminal:
            same = replace(before, effects_done=run.effects_done, wake_at=run.wake_at)
            if same != run or (before.effects_done and not run.effects_done):
                self.broken(f"{run_id} changed after its end")
        else:
            self._check_moves(before, run)
            self._check_steps(before, run, stored.plan)
            if run.status.terminal:
                self._check_ending(run)
        if run.effects_done and not before.effects_done:
            self._check_effects(run)
        self._check_quota()

    def _check_kept(self, run: Run) -> None:
        """A retry takes over what its old run completed, and nothing else."""
        for step_id, state in run.steps.items():
            if state.from_run is None:
                continue
            there = self.truth.attempt(state.from_run, step_id, state.counted or 0)
            if there is None or there.attempt.result is not Result.OK:
                self.broken(f"{run.run_id} takes {step_id} from {state.from_run}, where it is not")
        if run.retry_of is not None:
            old = self.truth.run(run.retry_of)
            if old is None or not old.run.status.terminal:
                self.broken(f"{run.run_id} retries {run.retry_of}, which has not ended")
            elif run.created_at <= old.run.created_at:
                self.broken(f"{run.run_id} is not newer than {run.retry_of}")

    def _check_moves(self, before: Run, run: Run) -> None:
        """One write may make several moves; each of them is stored."""
        at = before.status
        for move in run.transitions[len(before.transitions) :]:
            if not move.step:
                to = RunStatus(move.to)
                if to not in RUN_MOVES[at]:
                    self.broken(f"{run.run_id} went from {at} to {to}")
                at = to
        if at is not run.status:
            self.broken(f"{run.run_id} went from {before.status} to {run.status} unseen")

    def _check_steps(self, before: Run, run: Run, plan: Plan) -> None:
        for step_id, state in run.steps.items():
            was = before.steps.get(step_id, _NOTHING)
            if state is was or state == was:
                continue
            moved = (state.status, state.attempt) != (was.status, was.attempt)
            if moved and state.status not in STEP_MOVES[was.status]:
                self.broken(f"{step_id} went from {was.status} to {state.status}")
            if not was.attempt <= state.attempt <= was.attempt + 1:
                self.broken(f"{step_id} went from attempt {was.attempt} to {state.attempt}")
            if state.attempt > was.attempt == 0:
                self._check_parents(run, plan, step_id)
            if was.attempt and (state.attempt > was.attempt or state.status.terminal):
                self._check_counted(run.run_id, step_id, was.attempt, state.status)
            most = plan.by_id[step_id].retry.max_attempts + self.timing.lost_budget
            if state.attempt > most:
                self.broken(f"{step_id} is tried {state.attempt} times, its budgets allow {most}")

    def _check_parents(self, run: Run, plan: Plan, step_id: str) -> None:
        for parent in plan.by_id[step_id].depends_on:
            there = run.steps[parent]
            if not (
                there.status is StepStatus.COMPLETED
                or (there.status is StepStatus.SKIPPED and there.reason == "disabled")
                or (
                    there.status is StepStatus.FAILED
                    and plan.by_id[parent].on_failure is OnFailure.CONTINUE
                )
            ):
                self.broken(f"{step_id} is released while {parent} is {there.status}")

    def _check_counted(self, run_id: str, step_id: str, number: int, to: StepStatus) -> None:
        there = self.attempts.get((run_id, step_id, number))
        if there is None or not there.closed:
            self.broken(f"{step_id} is {to} while its attempt {number} is not closed")
        elif (to is StepStatus.COMPLETED) != (there.result is Result.OK):
            self.broken(f"{step_id} is {to}, its attempt {number} ended {there.result}")

    def _check_ending(self, run: Run) -> None:
        for step_id, state in run.steps.items():
            if not state.status.terminal:
                self.broken(f"{run.run_id} is {run.status} while {step_id} is {state.status}")
            if state.attempt:
                there = self.truth.attempt(run.run_id, step_id, state.attempt)
                if there is None or not there.attempt.closed:
                    self.broken(f"{run.run_id} is {run.status} while {step_id} is not closed")

    def _check_effects(self, run: Run) -> None:
        if run.tombstone:
            return
        if not self.events.get(run.run_id):
            self.broken(f"{run.run_id}: effects_done, and nobody was told")
        row = self._reservations().get(run.run_id)
        if row is None or row[0] == "held" or (row[0] != "void" and row[1] is None):
            self.broken(f"{run.run_id}: effects_done, and its reservation is {row}")

    def _check_attempt(self, run_id: str, step_id: str, number: int) -> None:
        key = (run_id, step_id, number)
        stored = self.truth.attempt(*key)
        before = self.attempts.get(key)
        if stored is None:
            if before is not None:
                self.broken(f"{step_id}.{number} vanished")
            return
        after = stored.attempt
        self.attempts[key] = after
        if before is not None:
            if before.owner != after.owner:
                self.broken(f"{step_id}.{number} was taken from {before.owner} by {after.owner}")
            if before.closed and replace(after, late=before.late) != before:
                self.broken(f"{step_id}.{number} was closed {before.result}, now {after.result}")
        if not after.closed:
            for other in range(1, number + 2):
                there = self.attempts.get((run_id, step_id, other))
                if other != number and there is not None and not there.closed:
                    self.broken(f"{step_id}: attempts {other} and {number} are both open")

    def _check_claim(self, attempt: Attempt) -> None:
        run = self.runs.get(attempt.run_id)
        if run is None:
            self.broken(f"{attempt.key} is claimed for a run that is not there")
        if run.status not in (RunStatus.RUNNING, RunStatus.CANCELLING):
            self.broken(f"{attempt.key} is claimed while its run is {run.status}")
        state = run.steps[attempt.step_id]
        if state.from_run is not None:
            self.broken(f"{attempt.key} is claimed, which {state.from_run} has completed")
        if not state.status.released or state.attempt != attempt.number:
            self.broken(f"{attempt.key} is claimed: its step is {state.status} {state.attempt}")
        self._check_parents(run, self.plans[attempt.run_id], attempt.step_id)

    def message(self, message: Outgoing) -> None:
        if message.topic is not Topic.STEPS:
            return
        step = decode(message.body, StepMessage)
        run = self.runs.get(step.run_id)
        if run is None or run.steps[step.step_id].attempt < step.attempt:
            self.broken(f"{step.step_id}.{step.attempt} is sent before its run says so")

    def holds(self, key: tuple[str, str, int]) -> None:
        """A processor goes on: nobody else may have its step by now."""
        run_id, step_id, number = key
        for other in range(number + 1, number + 4):
            if (run_id, step_id, other) in self.attempts:
                self.broken(f"{step_id}.{number} works on while there is {step_id}.{other}")
        there = self.attempts.get(key)
        if there is None:
            self.broken(f"{step_id}.{number} works without a claim")

    def _reservations(self) -> dict[str, tuple[str, str | None, int]]:
        rows = self.sql("SELECT run_id, status, outcome, expires_at FROM reservations")
        return {row[0]: row[1:] for row in rows}

    def sql(self, query: str) -> list[Any]:
        return self._journal.read(lambda db: db.execute(query).fetchall())

    def _check_quota(self) -> None:
        rows = self._reservations()
        held = sum(status == ReservationStatus.HELD for status, _, _ in rows.values())
        ((counter,),) = self.sql("SELECT concurrent FROM usage")
        if counter != held:
            self.broken(f"{counter} slots are counted, {held} reservations are held")
        if held > self.limit:
            self.broken(f"{held} slots are taken of {self.limit}")
        for run in self.runs.values():
            if run.status not in (RunStatus.RUNNING, RunStatus.CANCELLING):
                continue
            row = rows.get(run.run_id)
            if row is None or row[0] not in ("held", "expired"):
                self.broken(f"{run.run_id} is {run.status}, its reservation is {row}")
            expires = _EPOCH + timedelta(microseconds=row[2])
            if row[0] == "expired" and expires > self._now() + CLOCKS:
                self.broken(f"{run.run_id} is {run.status}, its reservation expired too soon")
            if run.deadline is None or run.deadline + self.timing.reservation_slack > expires:
                self.broken(f"{run.run_id} may run until {run.deadline}, its slot until {expires}")

    def _one_run_per_key(self, run: Run) -> None:
        key = self.keys.get(run.run_id)
        for other in self.runs.values():
            same = key is not None and self.keys.get(other.run_id) == key
            if run.retry_of is not None and other.retry_of == run.retry_of:
                same = other.request_hash == run.request_hash
            if same and other.run_id != run.run_id and not other.tombstone:
                self.broken(f"{run.run_id} and {other.run_id} stand for one call ({key})")

    def answered(self, key: str, run: Run) -> None:
        told = self.answers.setdefault(key, set())
        told.add(run.run_id)
        if len(told) > 1:
            self.broken(f"key {key} was answered with {sorted(told)}")
        if run.tombstone or run.run_id not in self.runs:
            self.broken(f"key {key} was answered with a run that is not there")

    # --- what must hold in the end ---

    def unfinished(self) -> list[str]:
        left = [
            f"{run.run_id} is {run.status}, effects not done"
            for run in self.runs.values()
            if not run.effects_done
        ]
        if not left:
            left = [f"{i} is held" for i, row in self._reservations().items() if row[0] == "held"]
        return left

    def the_end(self) -> None:
        rows = self._reservations()
        runs = [run for run in self.runs.values() if not run.tombstone]
        ((counter, today, succeeded, failed),) = self.sql(
            "SELECT concurrent, today, succeeded, failed FROM usage"
        )
        counted = [run for run in runs if run.run_id in rows and rows[run.run_id][0] != "void"]
        good = sum(run.status is RunStatus.COMPLETED for run in counted)
        back = sum(
            run.status is not RunStatus.COMPLETED
            and run.error is not None
            and run.error.code in ("lost", "unavailable")
            for run in counted
        )
        if (counter, succeeded, failed) != (0, good, len(counted) - good):
            self.broken(
                f"usage is {counter} running, {succeeded} + {failed} ended;"
                f" {good} + {len(counted) - good} did"
            )
        if today != len(counted) - back:
            self.broken(f"{today} runs are counted today, {len(counted)} were and {back} came back")
        for run in runs:
            told = set(self.events.get(run.run_id, []))
            if told != {(f"{run.run_id}.{run.status}", run.status.value)}:
                self.broken(f"{run.run_id} is {run.status}, told was {told}")
            self._check_deserved(run)
            if self.must_complete and run.status is not RunStatus.COMPLETED:
                self.broken(f"{run.run_id} is {run.status} ({run.stop_reason}), of nothing")
        for key, told_ids in self.answers.items():
            for run_id in told_ids:
                if run_id not in self.runs or self.runs[run_id].tombstone:
                    self.broken(f"key {key} was answered with {run_id}, which is gone")

    def _check_deserved(self, run: Run) -> None:
        """A run whose processors all succeed, with losses within the budget, completes."""
        if run.status is not RunStatus.FAILED or not run.steps or run.stop_reason is not None:
            return
        if not any(
            there.result in (Result.TRANSIENT, Result.TERMINAL)
            for (run_id, _, _), there in self.attempts.items()
            if run_id == run.run_id
        ) and all(state.losses <= self.timing.lost_budget for state in run.steps.values()):
            self.broken(f"{run.run_id} failed without a reason: {run.error}")

    # --- after a crash that took a tail of the writes ---

    def remember(self) -> None:
        """After a rollback: what is stored is what there is."""
        self.runs = {
            run_id: stored.run
            for run_id in self.runs
            if (stored := self.truth.run(run_id)) is not None
        }
        self.events = {}
        for run_id, event_id, status in self.sql("SELECT * FROM told"):
            self.events.setdefault(run_id, []).append((event_id, status))
        self.attempts = {
            key: there.attempt
            for key in self.attempts
            if (there := self.truth.attempt(*key)) is not None
        }
