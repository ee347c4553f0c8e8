"""Moves a run on: one visit stands behind completion events, the tick, a cancel and a redelivery.

Reads the run and some attempts, lets the core decide, writes the run back if it is still as read, and
only then carries out what follows. Whoever loses the write reads again; nothing is ever overwritten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import assert_never

from msgspec.structs import replace

from shared.accounts import NotAllowed, Refused, Reserved, Spent
from shared.app import App
from shared.bus import Outgoing
from shared.core.decide import Publish, cancel, decide, fail_waiting, outstanding, start, wake_at
from shared.core.message import (
    CompletionMessage,
    RunEvent,
    StepMessage,
    Topic,
    attributes_of,
    encode,
)
from shared.core.plan import Plan
from shared.core.run import Attempt, AttemptStatus, ErrorInfo, Result, Run, RunStatus
from shared.errors import Unavailable
from shared.state import Close, StoredAttempt, StoredRun

_TRIES = 50
_REMEMBERED = 10_000
_WIDE = 8  # more outstanding steps than this are folded together, at most one fold an interval
_RARELY = 10  # a run that waits for a slot asks at least every so many waits
_OUR_FAULT = frozenset({"lost", "unavailable"})
_CANCEL_REASON = "cancelled by request"


class Coordinator:
    """One a process: remembers which events it has finished, and lets one thread at a run at a time."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._mutex = threading.Lock()
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._finished: OrderedDict[CompletionMessage, None] = OrderedDict()
        self._last_fold: OrderedDict[str, float] = OrderedDict()

    def handle(self, hint: CompletionMessage) -> None:
        """Handles a completion event, or a hint of the tick (without a step). Raises Unavailable."""
        if hint in self._finished:
            return
        with self._alone(hint.run_id):
            if hint not in self._finished:
                self.visit(hint.run_id, hint if hint.step_id else None)

    def recover(self, run_id: str) -> None:
        """Looks at everything of the run at once, due or not: what a restart does.

        The messages of queued steps are sent again: they may have died between the write of the run
        and their own. Where they have not, the claim makes both one attempt.
        """
        with self._alone(run_id):
            self.visit(run_id, None, everything=True)

    def visit(
        self, run_id: str, hint: CompletionMessage | None, *, everything: bool = False
    ) -> None:
        """Brings the run as far as what is known allows. Does nothing when there is nothing to do."""
        app = self._app
        for _ in range(_TRIES):
            stored = app.runs.run(run_id)
            if stored is None:
                return
            run, now = stored.run, app.now()
            if run.status.terminal:
                if not run.effects_done and (
                    everything or run.effects_at is None or now >= run.effects_at
                ):
                    self._effects(stored)
                return
            due = everything or (run.wake_at is not None and now >= run.wake_at)
            if run.status is RunStatus.PENDING:
                if not due or self._admit(stored, now):
                    return
                continue
            if due:
                seen = self._look_at_all(run, now)
            elif hint is None or _stale(run, hint):
                return
            else:
                self._pace(run)
                seen = self._collect(run, hint)
            decision = decide(run, stored.plan, seen, now, app.timing, resend=everything)
            if decision.run is run:
                return
            written = app.runs.replace_run(stored, decision.run, app.new_id())
            if written is None:
                app.sleep(0.005 + app.random() * 0.055)
                continue
            app.bus.publish(step_messages(decision.run, stored.plan, decision.publish))
            if decision.run.status.terminal:
                self._effects(written)
            self._remember(decision.run, seen)
            return
        raise Unavailable(f"run {run_id}: {_TRIES} conditional writes in a row were lost")

    def cancel(self, run_id: str, reason: str = _CANCEL_REASON) -> Run | None:
        """Asks for the end of the run; None when there is none. Twice is once."""
        app = self._app
        for _ in range(_TRIES):
            stored = app.runs.run(run_id)
            if stored is None or stored.run.tombstone:
                return None
            after = cancel(stored.run, stored.plan, app.now(), app.timing, reason)
            if after is stored.run:
                return after
            written = app.runs.replace_run(stored, after, app.new_id())
            if written is None:
                app.sleep(0.005 + app.random() * 0.055)
                continue
            if after.status.terminal:
                self._effects(written)
            else:
                self.recover(run_id)
            latest = app.runs.run(run_id)
            return after if latest is None else latest.run
        raise Unavailable(f"run {run_id}: {_TRIES} conditional writes in a row were lost")

    def _admit(self, stored: StoredRun, now: datetime) -> bool:
        """Lets a waiting run go if its organization has room. False: read it again."""
        app, run = self._app, stored.run
        timeout = stored.plan.timeout
        expires_at = now + timeout + app.timing.reservation_slack
        answer = app.accounts.reserve(run.run_id, run.org, now, expires_at)
        publish: Sequence[Publish] = ()
        match answer:
            case Reserved():
                deadline = min(now + timeout, answer.expires_at - app.timing.reservation_slack)
                ready = replace(run, deadline=deadline, reservation_expires_at=answer.expires_at)
                after, publish = start(ready, stored.plan, now, app.timing, "quota reserved")
            case Spent():
                latest = app.runs.run(run.run_id)
                if latest is None or latest.run.status is not RunStatus.PENDING:
                    return False  # somebody else was faster
                after = fail_waiting(
                    run, now, app.timing, ErrorInfo(code="reservation_over", message=answer.status)
                )
            case Refused() | NotAllowed():
                why = _waiting_for(answer)
                if isinstance(answer, NotAllowed) or (run.wait_until and now >= run.wait_until):
                    after = fail_waiting(
                        run, now, app.timing, ErrorInfo(code="not_admitted", message=why)
                    )
                else:
                    after = replace(
                        run, retry_at=now + self._patience(run, answer, now), waiting_for=why
                    )
                    after = replace(after, wake_at=wake_at(after, app.timing))
            case _:
                assert_never(answer)
        written = app.runs.replace_run(stored, after, app.new_id())
        if written is None:
            return False
        app.bus.publish(step_messages(after, stored.plan, publish))
        if after.status.terminal:
            self._effects(written)
        return True

    def _patience(self, run: Run, refused: Refused | NotAllowed, now: datetime) -> timedelta:
        """How long until the quota is asked again: the longer a run has waited, the less often.

        So many that wait cost little, and the times at which they ask spread out.
        """
        least = self._app.timing.quota_wait
        wait = min(max(least, (now - run.created_at) / 8), _RARELY * least)
        if isinstance(refused, Refused) and refused.reset_at is not None:
            wait = min(max(least, refused.reset_at - now), 60 * least)
        return wait * (1 + self._app.random() / 5)

    def _collect(self, run: Run, hint: CompletionMessage) -> dict[str, Attempt | None]:
        app = self._app
        seen: dict[str, Attempt | None] = {}
        if len(outstanding(run)) > 1:
            for attempt in app.runs.closed_since(run.run_id, run.mark):
                if attempt.number == run.steps[attempt.step_id].attempt:
                    seen[attempt.step_id] = attempt
        if hint.step_id not in seen:
            found = app.runs.attempt(run.run_id, hint.step_id, hint.attempt)
            if found is not None:
                seen[hint.step_id] = found.attempt
        return seen

    def _look_at_all(self, run: Run, now: datetime) -> dict[str, Attempt | None]:
        wanted = outstanding(run)
        found = self._app.runs.attempts(run.run_id, wanted)
        return {key[0]: self._ended(run, key, found.get(key), now) for key in wanted}

    def _ended(
        self, run: Run, key: tuple[str, int], stored: StoredAttempt | None, now: datetime
    ) -> Attempt | None:
        """The attempt after whatever has to end it from outside was tried; first come, first served."""
        runs = self._app.runs
        while True:
            how = _end_from_outside(run, stored, now, self._app)
            if how is None:
                return None if stored is None else stored.attempt
            if stored is None:
                closed = Attempt(
                    run_id=run.run_id,
                    step_id=key[0],
                    number=key[1],
                    owner="",
                    status=AttemptStatus.CLOSED,
                    started_at=now,
                    result=how.result,
                    closed_at=now,
                    error=how.error,
                )
                if runs.claim(closed):
                    return closed
            else:
                runs.close_attempt(stored, how)
            stored = runs.attempt(run.run_id, *key)

    def _effects(self, stored: StoredRun) -> None:
        """What the end of a run brings about. The flag comes last: everything here may be redone."""
        app, run = self._app, stored.run
        if run.finished_at is None:
            raise AssertionError(f"run {run.run_id} is {run.status} without an end")
        app.accounts.settle(
            run.run_id,
            run.org,
            app.now(),
            succeeded=run.status is RunStatus.COMPLETED,
            our_fault=run.error is not None and run.error.code in _OUR_FAULT,
        )
        event = RunEvent(
            id=f"{run.run_id}.{run.status}",
            run_id=run.run_id,
            org=run.org,
            address=run.address,
            pipeline_id=run.pipeline_id,
            status=run.status,
            outcome=run.outcome,
            finished_at=run.finished_at,
            error=None if run.error is None else run.error.message,
        )
        attributes = attributes_of(run.run_id, run.org, run.trace)
        app.bus.publish([Outgoing(Topic.RUN_EVENTS, encode(event), None, attributes)])
        after = replace(run, effects_done=True, wake_at=None)
        app.runs.replace_run(stored, after, app.new_id())
        app.log.info("run.ended", run=run.run_id, org=run.org, status=run.status)

    def _pace(self, run: Run) -> None:
        if len(outstanding(run)) <= _WIDE:
            return
        app = self._app
        interval = app.timing.fold_interval / timedelta(seconds=1)
        last = self._last_fold.get(run.run_id)
        now = app.monotonic()
        if last is not None and now - last < interval:
            app.sleep(interval - (now - last))
        self._last_fold[run.run_id] = app.monotonic()
        while len(self._last_fold) > 1000:
            self._last_fold.popitem(last=False)

    def _remember(self, run: Run, seen: dict[str, Attempt | None]) -> None:
        for step_id, attempt in seen.items():
            if attempt is not None and attempt.closed:
                key = CompletionMessage(run_id=run.run_id, step_id=step_id, attempt=attempt.number)
                self._finished[key] = None
        while len(self._finished) > _REMEMBERED:
            self._finished.popitem(last=False)

    @contextmanager
    def _alone(self, run_id: str) -> Iterator[None]:
        with self._mutex:
            lock, users = self._locks.get(run_id) or (threading.Lock(), 0)
            self._locks[run_id] = (lock, users + 1)
        try:
            with lock:
                yield
        finally:
            with self._mutex:
                lock, users = self._locks[run_id]
                if users == 1:
                    del self._locks[run_id]
                else:
                    self._locks[run_id] = (lock, users - 1)


def step_messages(run: Run, plan: Plan, publish: Sequence[Publish]) -> list[Outgoing]:
    """The messages that let workers run the published attempts of a run."""
    attributes = attributes_of(run.run_id, run.org, run.trace)
    return [
        Outgoing(
            Topic.STEPS,
            encode(step_message(run, plan, step_id, attempt)),
            not_before,
            attributes,
        )
        for step_id, attempt, not_before in publish
    ]


def step_message(run: Run, plan: Plan, step_id: str, attempt: int) -> StepMessage:
    """What a worker must know of one attempt."""
    if run.deadline is None:
        raise AssertionError(f"run {run.run_id} releases steps without a deadline")
    step = plan.by_id[step_id]
    return StepMessage(
        run_id=run.run_id,
        run_created_at=run.created_at,
        org=run.org,
        dataset=run.dataset,
        pipeline_id=run.pipeline_id,
        address=run.address,
        provider=plan.provider,
        step_id=step_id,
        attempt=attempt,
        ps_type=step.ps_type,
        config=step.config,
        timeout_seconds=step.timeout_seconds,
        start_date=run.params.start_date,
        end_date=run.params.end_date,
        credential_id=run.params.credential_id,
        not_after=run.deadline,
        trace=run.trace,
    )


def _stale(run: Run, hint: CompletionMessage) -> bool:
    state = run.steps.get(hint.step_id)
    return state is None or not state.status.released or hint.attempt != state.attempt


def _end_from_outside(
    run: Run, stored: StoredAttempt | None, now: datetime, app: App
) -> Close | None:
    """How an attempt that its worker has not closed must end now, if it must."""
    timing = app.timing
    cancelling = run.status is RunStatus.CANCELLING
    overdue = run.deadline is not None and now >= run.deadline
    if stored is None:
        if cancelling:
            return Close(Result.CANCELLED, now)
        return Close(Result.OVERDUE, now, error=_OVERDUE) if overdue else None
    attempt = stored.attempt
    if attempt.closed:
        return None
    if attempt.lease_until is not None and now > attempt.lease_until + timing.lease_grace:
        return Close(Result.LOST, now, error=_LOST)
    if cancelling and run.cancel_at is not None and now >= run.cancel_at + timing.cancel_grace:
        return Close(Result.CANCELLED, now)
    if run.deadline is not None and now >= run.deadline + timing.deadline_grace:
        return Close(Result.OVERDUE, now, error=_OVERDUE)
    return None


_LOST = ErrorInfo(
    code="lost", message="the worker stopped answering and its lease ran out; the step ran again"
)
_OVERDUE = ErrorInfo(
    code="run_deadline",
    message="the run's timeout_minutes passed before the step ended; raise it or split the dates",
)


def _waiting_for(answer: Refused | NotAllowed) -> str:
    if isinstance(answer, NotAllowed):
        return f"the organization may not run: {answer.status or 'it does not exist'}"
    return f"{answer.limit_type} limit: {answer.used} of {answer.limit} runs"
