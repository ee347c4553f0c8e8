"""The engine as deployed, on machines that die: real engine code over the real embedded stores, in one
process, under a virtual clock, with every fault that the protocol must survive.

Machines (each with a Coordinator and a Worker) share one run store and one Accounts in memory, and a
bus that loses, doubles, delays and reorders. A step of the world is one call of a port: before each of
them a machine may die, a thread or a machine may freeze for longer than any lease, and an answer may
get lost after the call took effect. After every write the stores are read again, behind the ports'
back, and held against what protocol.md promises; at the end everything must have come to rest.

One seed is one history. `World(seed, …)` makes it; a broken promise raises Broken with its trace.
"""

from __future__ import annotations

import io
import random
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, cast

from msgspec.structs import replace

from shared.accounts import Limits, ReservationStatus
from shared.accounts.sqlite import SqliteAccounts
from shared.app import App
from shared.bus import Outgoing
from shared.core.lineage import Evidence
from shared.core.message import CompletionMessage, RunEvent, StepMessage, Topic, decode, encode
from shared.core.pipeline import Pipeline, Step, resolve_plan
from shared.core.plan import OnFailure, Plan
from shared.core.record import Record
from shared.core.run import (
    RUN_MOVES,
    STEP_MOVES,
    Attempt,
    Params,
    Result,
    Run,
    RunStatus,
    StepState,
    StepStatus,
    Summary,
    Timing,
    Trigger,
    derived_run_id,
    shard_of,
)
from shared.engine import advance, lease, submit, tick
from shared.engine.advance import Coordinator
from shared.engine.submit import Submission
from shared.engine.work import Worker
from shared.errors import Mismatch, QuotaExceeded, Terminal, Transient, Unavailable
from shared.journal import Journal
from shared.log import Level, Log
from shared.state import RunStore
from shared.state.sqlite import SqliteRunStore
from shared.step import Processor, StepContext, StepResult
from tests.support import virtual
from tests.support.virtual import Actor, Killed, Scheduler

_NOTHING = StepState()
EPOCH = datetime(2026, 3, 10, 12, tzinfo=UTC)
ORG = "acme"
PS_TYPE = "test.step"
TICK = 5.0
REDELIVERY = (1.0, 8.0)

# Seconds like those of production divided by about twenty, in the same order of size.
TIMING = Timing(
    lease=timedelta(seconds=10),
    heartbeat=timedelta(seconds=3),
    lease_grace=timedelta(seconds=1),
    requeue=timedelta(seconds=4),
    requeue_cap=timedelta(seconds=30),
    cancel_grace=timedelta(seconds=5),
    deadline_grace=timedelta(seconds=3),
    effects_delay=timedelta(seconds=2),
    orphan_age=timedelta(seconds=8),
    reservation_slack=timedelta(seconds=90),
    quota_wait=timedelta(seconds=4),
    lost_budget=3,
    fold_interval=timedelta(milliseconds=100),
)

# After the last fault every run has ended and every slot is free within this many seconds, deadlines
# of two minutes included. Measured over 20,000 seeds: the slowest took 1xx.
REST = 300.0
MOST_CALLS = 5_000  # the busiest made a third of that


class Broken(AssertionError):
    """A promise of the protocol does not hold."""


class Faults(NamedTuple):
    """How often, per call or message, each thing goes wrong. `theme` names a call to freeze at."""

    kill: float = 0.0
    freeze: float = 0.0
    freeze_machine: float = 0.0
    refuse: float = 0.0
    lose: float = 0.0
    double: float = 0.0
    delay: float = 0.0
    theme: str = ""
    theme_after: bool = False
    theme_seconds: float = 0.0


NONE = Faults()


class Trouble(NamedTuple):
    """What happens to one call: seconds it hangs before and after it takes effect, and how it is
    refused: not at all, `before` it takes effect, or `after` (its answer got lost)."""

    before: float = 0.0
    after: float = 0.0
    refused: str = ""


class Build(NamedTuple):
    """What the world is made of. A mutant replaces a part of it."""

    store: Callable[[Journal], RunStore] = SqliteRunStore
    accounts: Callable[[Journal, Mapping[str, Limits]], SqliteAccounts] = SqliteAccounts
    patches: tuple[tuple[object, str, object], ...] = ()
    wire: Callable[[World, Any], object] = lambda _, runs: runs


REAL = Build()


class StepConfig(Record, frozen=True, kw_only=True):
    """Nothing: the world knows what its steps do."""


class QuietJournal(Journal):
    """A journal in memory: no disk to wait for, no thread that commits at its own time."""

    def _flush(self) -> None:
        return

    def forget(self) -> None:
        """What a process that is killed loses: the tail of writes nobody waited for."""
        with self._mutex:
            if self._open:
                self._db.execute("ROLLBACK")
                self._open = False
                self._applied = self._durable

    def wipe(self) -> None:
        """An empty file again."""
        with self._mutex:
            self._end()
            for (table,) in self._db.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
            ).fetchall():
                self._db.execute(f"DELETE FROM {table}")


KEPT = """
CREATE TABLE IF NOT EXISTS kept (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT, body BLOB, not_before TEXT
);
CREATE TABLE IF NOT EXISTS told (run_id TEXT, id TEXT, status TEXT);
"""
_journals = threading.local()


def _journal() -> QuietJournal:
    """This thread's journal: making the tables costs more than most histories do."""
    if not hasattr(_journals, "it"):
        _journals.it = QuietJournal(":memory:", KEPT)
    journal: QuietJournal = _journals.it
    journal.forget()
    return journal


class Machine:
    """One instance of every function; all that is in its memory dies with it."""

    def __init__(self, world: World, number: int) -> None:
        self.name = f"m{number}"
        self.frozen_until = 0.0
        self.coordinator = Coordinator(world.app)
        self.worker = Worker(world.app)
        self.keeper: Actor | None = None
        self.parked = False  # its keeper has no lease to keep


class _Beat(virtual.Event):
    """The lease keeper's clock: it sleeps until a lease of its machine must be renewed."""

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = Scheduler.current
        assert scheduler is not None
        me = scheduler.actor
        machine = cast("Machine", me.group)
        machine.keeper = me
        beats = [
            held.next_heartbeat for held in machine.worker._leases._leases if held._reason is None
        ]
        if beats:
            scheduler.pause(max(min(beats) - scheduler.now, 0.01))
        else:
            machine.parked = True
            scheduler.block()
            machine.parked = False
        return self._set


class _Port:
    """A port whose every call is a step of the world."""

    def __init__(self, world: World, name: str, target: Any) -> None:
        self._world = world
        self._name = name
        self._target = target

    def __getattr__(self, verb: str) -> Any:
        call = getattr(self._target, verb)
        label = f"{self._name}.{verb}"
        world = self._world

        def step(*args: Any, **kwargs: Any) -> Any:
            return world.step(label, call, args, kwargs)

        setattr(self, verb, step)
        return step


class Execution(NamedTuple):
    """A processor that was started."""

    run_id: str
    step_id: str
    number: int
    at: float


class World:
    """One history. Set it up with `submit`, `cancel`, `wait_for_quota`, `ticks`; then `run`."""

    def __init__(
        self,
        seed: int = 0,
        *,
        shapes: Mapping[str, Plan],
        faults: Faults = NONE,
        fault_seconds: float = 0.0,
        machines: int = 2,
        concurrent: int = 2,
        timing: Timing = TIMING,
        build: Build = REAL,
        results: Callable[[str, str, int], Result] | None = None,
        work_seconds: Callable[[str, str, int], float] | None = None,
        embedded: bool = False,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.timing = timing
        self.faults = faults
        self.fault_seconds = fault_seconds
        self.embedded = embedded
        self.calls = 0
        self.labels: list[str] = []
        self.at_call: dict[int, Callable[[], Trouble]] = {}
        self.at_message: dict[int, int] = {}  # how many copies of the n-th message arrive
        self.messages = 0
        self.must_complete = False  # nothing happens to it that a run may fail of
        self.race = False  # everything takes turns, as `scheduler.choose` says
        self.trace: list[tuple[float, str, str, Any]] = []
        self.runs: dict[str, Run] = {}
        self.plans: dict[str, Plan] = {}
        self.attempts: dict[tuple[str, str, int], Attempt] = {}
        self.executions: list[Execution] = []
        self.events: dict[str, list[tuple[str, str]]] = {}
        self.answers: dict[str, set[str]] = {}
        self.kills = 0
        self._results = results or (lambda *_: Result.OK)
        self._work_seconds = work_seconds or (lambda *_: 0.01)
        self._shapes = {name: _pipeline(name, plan) for name, plan in shapes.items()}
        self._in_flight: set[object] = set()
        self._tokens: dict[Actor, object] = {}
        self._keys: dict[str, str] = {}
        self._life = 0
        self._ids = 0
        self.rest = 0.0
        self._build = build
        self._journal = _journal()
        self.truth = SqliteRunStore(self._journal)
        limits = {"test": Limits(daily=None, monthly=None, concurrent=concurrent)}
        accounts = build.accounts(self._journal, limits)
        self._journal.wipe()
        accounts.create_organization(ORG, "Acme", "test", EPOCH)
        self.limit = concurrent
        self.scheduler = Scheduler()
        self.scheduler.held_back = self._held_back
        self._undo: list[tuple[object, str, object]] = []
        runs = build.wire(self, build.store(self._journal))
        self.app = App(
            runs=cast("Any", _Port(self, "runs", runs)),
            accounts=cast("Any", _Port(self, "accounts", accounts)),
            bus=cast("Any", _Port(self, "bus", _Bus(self))),
            vault=cast("Any", None),
            warehouse=cast("Any", None),
            objects=cast("Any", None),
            catalog=lambda: self,
            processors={
                PS_TYPE: Processor(
                    ps_type=PS_TYPE,
                    config=StepConfig,
                    run=self._process,
                    needs_credential=False,
                    description="",
                )
            },
            timing=timing,
            environment="test",
            project_id="test",
            code_version="test",
            log=Log(Level.ERROR, stream=io.StringIO()),
            now=self.clock,
            monotonic=lambda: self.scheduler.now,
            sleep=self.scheduler.pause,
            random=self.chance.random,
            new_id=self._new_id,
        )
        self._patch()
        self.machines = [Machine(self, i) for i in range(1 if embedded else machines)]
        self._machine_count = len(self.machines)

    def _patch(self) -> None:
        threads = virtual.module()
        patches: list[tuple[object, str, object]] = [
            (advance, "threading", threads),
            (lease, "threading", virtual.module(Event=_Beat)),
            *self._build.patches,
        ]
        for owner, name, value in patches:
            self._undo.append((owner, name, getattr(owner, name)))
            setattr(owner, name, value)

    def close(self) -> None:
        """Ends every thread of the world and puts the modules back."""
        self.scheduler.close()
        for owner, name, value in reversed(self._undo):
            setattr(owner, name, value)
        self._undo.clear()

    # --- what happens in it ---

    def clock(self) -> datetime:
        return EPOCH + timedelta(seconds=self.scheduler.now)

    def get(self, address: str) -> Pipeline:
        """The catalog."""
        return self._shapes[address]

    def addresses(self) -> list[str]:
        return list(self._shapes)

    def submit(
        self, key: str, shape: str, *, at: float = 0.0, tries: int = 1, racing: bool = False
    ) -> None:
        """A client posts a run, and again with the same key when it hears nothing."""
        asked = Submission(org=ORG, address=shape, idempotency_key=key)
        self._keys |= dict.fromkeys(_ids(key), key)

        def post() -> None:
            try:
                answer = submit.submit(self.app, asked)
            except QuotaExceeded:
                return
            except Mismatch:
                self._broken(f"the same request under key {key} was called another one")
            else:
                self._answered(key, answer.run)

        def again() -> None:
            if tries > 1:
                self.submit(key, shape, at=self.chance.uniform(0.5, 6), tries=tries - 1)

        self._send(f"submit {key}", post, again, at, racing=racing)

    def wait_for_quota(self, run_id: str, shape: str, *, at: float = 0.0) -> None:
        """A schedule starts a run that may wait: protocol.md S7, which has no caller yet."""

        def create() -> None:
            now = self.clock()
            params = Params(start_date=now.date(), end_date=now.date())
            plan = resolve_plan(
                self.get(shape),
                self.app.processors,
                org=ORG,
                project_id="test",
                dataset="acme_test",
                run_id=run_id,
                params=params,
                credential_metadata={},
            )
            made = Run(
                run_id=run_id,
                org=ORG,
                dataset="acme_test",
                address=shape,
                pipeline_id=plan.pipeline_id,
                trigger=Trigger.SCHEDULE,
                request_hash="",
                created_at=now,
                status=RunStatus.PENDING,
                params=params,
                shard=shard_of(run_id),
                retry_at=now,
                wake_at=now,
                wait_until=now + timedelta(seconds=60),
            )
            self.app.runs.create_run(made, plan, self.app.new_id())
            hint = encode(CompletionMessage(run_id=run_id))
            self.app.bus.publish([Outgoing(Topic.COMPLETIONS, hint)])

        self._send(f"start {run_id}", create, lambda: None, at)

    def cancel(self, key: str, *, at: float = 0.0, racing: bool = False) -> None:
        """Somebody asks for the end of the run of that key (or of that id)."""

        def ask() -> None:
            machine = cast("Machine", self.scheduler.actor.group)
            for run_id in (key, self.run_id(key)):
                if run_id in self.runs:
                    machine.coordinator.cancel(run_id)

        def again() -> None:
            if not self.calm:
                self.cancel(key, at=self.chance.uniform(0.5, 4))

        self._send(f"cancel {key}", ask, again, at, racing=racing)

    def tick(self, *, at: float = 0.0, racing: bool = False) -> None:
        """One tick."""

        def body() -> None:
            tick.tick(self.app)

        self._send("tick", body, lambda: None, at, racing=racing)

    def run_id(self, key: str) -> str:
        """The id of the run that stands for a key."""
        made = [i for i in _ids(key) if i in self.runs and not self.runs[i].tombstone]
        return made[0] if made else _ids(key)[0]

    @property
    def calm(self) -> bool:
        """No more faults."""
        return self.scheduler.now >= self.fault_seconds

    def run(self) -> None:
        """Runs to the end of all runs, then asks what must hold in the end. Raises Broken."""
        limit = self.fault_seconds + REST

        def finished() -> bool:
            if self.scheduler.now > limit or self.calls > MOST_CALLS:
                self.scheduler.fail(
                    f"no rest {REST:.0f} s after the last fault, or after {MOST_CALLS} calls:"
                    f" {self._unfinished()}"
                )
            return self.calm and not self._in_flight and not self._unfinished()

        self._tick_again()
        try:
            self.scheduler.run(finished)
            self.rest = self.scheduler.now - self.fault_seconds
            self._check_the_end()
        except Broken as broken:
            raise self._told(str(broken)) from None
        except AssertionError as error:
            raise self._told(str(error)) from None
        finally:
            self.close()

    def _tick_again(self) -> None:
        self.tick()
        self.scheduler.at(TICK, self._tick_again)

    def kill_machine(self) -> Trouble:
        """The machine that makes this call dies; another one takes its place."""
        self.kill(self._machine())
        return Trouble()

    def kill(self, machine: Machine) -> None:
        self.kills += 1
        self.trace.append((self.scheduler.now, machine.name, "KILLED", None))
        if self.embedded:
            self._journal.forget()
            self._life += 1
        if self.scheduler.actor.group is machine:
            self.scheduler.actor.killed = True
        self.scheduler.kill(machine)
        if machine in self.machines:
            self.machines.remove(machine)
            self._machine_count += 1
            self.machines.append(Machine(self, self._machine_count))
        if self.embedded:
            self._restart()

    # --- one step ---

    def step(
        self, label: str, call: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        """One call of a port, with whatever happens before and after it."""
        me = self.scheduler.actor
        if me.killed:
            raise Killed
        self.calls += 1
        self.labels.append(label)
        hook = self.at_call.pop(self.calls, None)
        trouble = Trouble()
        if hook is not None:
            trouble = hook()
        elif not self.calm:
            trouble = self._trouble(label)
        if me.killed:
            raise Killed
        taken = 0.005 if self.calm else self.chance.uniform(0.001, 0.02)
        if me.racing:
            taken = 0.0
        self.scheduler.pause(taken + trouble.before)
        if trouble.refused == "before":
            raise Unavailable(f"{label}: not reached")
        result = call(*args, **kwargs)
        if self.embedded and self.chance.random() < 0.3:
            self._journal.sync()
        self.trace.append((self.scheduler.now, me.name, label, result))
        self._check(label, args, result)
        if trouble.after:
            self.scheduler.pause(trouble.after)
        if trouble.refused == "after":
            raise Unavailable(f"{label}: the answer got lost")
        return result

    def _trouble(self, label: str) -> Trouble:
        chance, faults, machine = self.chance, self.faults, self._machine()
        before = after = 0.0
        refused = ""
        if label == faults.theme and chance.random() < 0.3:
            if faults.theme_after:
                after = faults.theme_seconds
            else:
                before = faults.theme_seconds
        draw = chance.random()
        if draw < faults.kill:
            self.kill(machine)
        elif (draw := draw - faults.kill) < faults.freeze:
            if chance.random() < 0.5:
                before += self._freeze()
            else:
                after += self._freeze()
        elif (draw := draw - faults.freeze) < faults.freeze_machine:
            machine.frozen_until = self.scheduler.now + self._freeze()
        elif (draw - faults.freeze_machine) < faults.refuse:
            refused = chance.choice(("before", "after"))
        return Trouble(before, after, refused)

    def _freeze(self) -> float:
        return self.chance.choice((0.3, 2.0, 6.0, 12.0, 25.0)) * self.chance.uniform(0.8, 1.2)

    def _held_back(self, actor: Actor) -> float:
        if not isinstance(actor.group, Machine):
            return 0.0
        return actor.group.frozen_until - self.scheduler.now

    def _send(
        self,
        name: str,
        body: Callable[[], None],
        again: Callable[[], None],
        delay: float,
        *,
        racing: bool = False,
        answer: Callable[[], None] = lambda: None,
        life: int | None = None,
    ) -> None:
        """A request to some machine; `again` when it is refused or its machine dies."""
        token = object()
        self._in_flight.add(token)

        def guarded() -> None:
            self._tokens[self.scheduler.actor] = token
            try:
                if self.scheduler.actor.killed:  # before it began
                    raise Killed
                body()
                self.step("answer", answer, (), {})
            except Unavailable:
                self.trace.append((self.scheduler.now, name, "REFUSED", None))
                again()
            except Killed:
                again()
                raise
            except Broken:
                raise
            except Exception:  # noqa: BLE001  # nothing else may come out of a handler
                self._broken(f"{name}: {traceback.format_exc()}")
            finally:
                self._in_flight.discard(token)

        def arrive() -> None:
            if (
                life is not None and life != self._life
            ):  # what waited in the memory of a process that died
                self._in_flight.discard(token)
                return
            machine = self.chance.choice(self.machines)
            self.scheduler.spawn(f"{machine.name} {name}", guarded, machine)

        if racing or (self.race and delay < 1):
            machine = self.machines[len(self.scheduler._racing) % len(self.machines)]
            self.scheduler.spawn(f"{machine.name} {name}", guarded, machine, racing=True)
        else:
            self.scheduler.at(delay, arrive)

    # --- messages ---

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """The bus: every message zero, one or two times, in any order."""
        for message in messages:
            if message.topic is Topic.RUN_EVENTS:
                event = decode(message.body, RunEvent)
                self.events.setdefault(event.run_id, []).append((event.id, event.status))
                if self.embedded:
                    self._journal.execute(
                        "INSERT INTO told VALUES (?, ?, ?)",
                        (event.run_id, event.id, event.status),
                        wait=False,
                    )
                continue
            self._check_message(message)
            self.messages += 1
            copies, chance = self.at_message.get(self.messages, 1), self.chance
            if not self.calm:
                copies = 0 if chance.random() < self.faults.lose else 1
                copies += chance.random() < self.faults.double
            if not copies:
                self.trace.append((self.scheduler.now, "bus", f"LOST {message.topic}", None))
            for _ in range(copies):
                late = 0.01
                if not self.calm:
                    slow = chance.random() < self.faults.delay
                    late = chance.uniform(0.005, 12.0) if slow else chance.uniform(0.005, 0.06)
                self._deliver(message, late, self._keep(message) if self.embedded else 0)

    def _deliver(self, message: Outgoing, delay: float, row: int) -> None:
        if message.not_before is not None:
            delay += max(0.0, (message.not_before - self.clock()).total_seconds())
        if message.topic is Topic.STEPS:
            work = decode(message.body, StepMessage)
            name = f"work {work.step_id}.{work.attempt}"

            def body() -> None:
                self._machine().worker.work(work)
        else:
            hint = decode(message.body, CompletionMessage)
            name = f"visit {hint.step_id}.{hint.attempt}" if hint.step_id else "visit"

            def body() -> None:
                self._machine().coordinator.handle(hint)

        life = self._life

        def again() -> None:
            if life == self._life and (self.calm or self.chance.random() >= self.faults.lose):
                self._deliver(message, self.chance.uniform(*REDELIVERY), row)

        def answer() -> None:
            if row:
                self._journal.execute("DELETE FROM kept WHERE id = ?", (row,), wait=False)

        self._send(name, body, again, delay, answer=answer, life=life)

    def _keep(self, message: Outgoing) -> int:
        """The embedded bus keeps its messages in the journal that also has the runs."""
        values = (
            message.topic,
            message.body,
            message.not_before and message.not_before.isoformat(),
        )
        cursor = self._journal.execute(
            "INSERT INTO kept (topic, body, not_before) VALUES (?, ?, ?)", values, wait=False
        )
        return cursor.lastrowid or 0

    def _machine(self) -> Machine:
        return cast("Machine", self.scheduler.actor.group)

    # --- work ---

    def _process(self, step: StepContext, _: StepConfig) -> StepResult:
        key = (step.run_id, step.step_id, step.attempt)
        self.executions.append(Execution(*key, self.scheduler.now))
        self.trace.append((self.scheduler.now, self.scheduler.actor.name, "STARTED", None))
        self._holds(key)
        left, result = self._work_seconds(*key), self._results(*key)
        machine = self._machine()
        if machine.parked and machine.keeper is not None and (left > 0 or result is Result.LOST):
            self.scheduler.wake(machine.keeper)
        while left > 0:
            nap = min(left, 2.0)
            left -= nap
            self.scheduler.pause(nap)
            step.check()
            self._holds(key)
        match result:
            case Result.TRANSIENT:
                after = timedelta(seconds=1) if step.attempt == 1 else None
                raise Transient("told so", retry_after=after)
            case Result.TERMINAL:
                raise Terminal("told so")
            case Result.LOST:  # hangs for ever: only its timeout and its lease can end it
                self._in_flight.discard(self._tokens[self.scheduler.actor])
                self.scheduler.block()
        return StepResult(summary=Summary(extracted=1, loaded=1), evidence=Evidence())

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

    # --- what must hold after every write ---

    def _check(self, label: str, args: Sequence[Any], result: Any) -> None:
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
        if before.status.terminal:
            same = replace(before, effects_done=run.effects_done, wake_at=run.wake_at)
            if same != run or (before.effects_done and not run.effects_done):
                self._broken(f"{run_id} changed after its end")
        else:
            self._check_moves(before, run)
            self._check_steps(before, run, stored.plan)
            if run.status.terminal:
                self._check_ending(run)
        if run.effects_done and not before.effects_done:
            self._check_effects(run)
        self._check_quota()

    def _check_moves(self, before: Run, run: Run) -> None:
        """One write may make several moves; each of them is stored."""
        at = before.status
        for move in run.transitions[len(before.transitions) :]:
            if not move.step:
                to = RunStatus(move.to)
                if to not in RUN_MOVES[at]:
                    self._broken(f"{run.run_id} went from {at} to {to}")
                at = to
        if at is not run.status:
            self._broken(f"{run.run_id} went from {before.status} to {run.status} unseen")

    def _check_steps(self, before: Run, run: Run, plan: Plan) -> None:
        for step_id, state in run.steps.items():
            was = before.steps.get(step_id, _NOTHING)
            if state is was or state == was:
                continue
            moved = (state.status, state.attempt) != (was.status, was.attempt)
            if moved and state.status not in STEP_MOVES[was.status]:
                self._broken(f"{step_id} went from {was.status} to {state.status}")
            if not was.attempt <= state.attempt <= was.attempt + 1:
                self._broken(f"{step_id} went from attempt {was.attempt} to {state.attempt}")
            if state.attempt > was.attempt == 0:
                self._check_parents(run, plan, step_id)
            if was.attempt and (state.attempt > was.attempt or state.status.terminal):
                self._check_counted(run.run_id, step_id, was.attempt, state.status)
            most = plan.by_id[step_id].retry.max_attempts + self.timing.lost_budget
            if state.attempt > most:
                self._broken(f"{step_id} is tried {state.attempt} times, its budgets allow {most}")

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
                self._broken(f"{step_id} is released while {parent} is {there.status}")

    def _check_counted(self, run_id: str, step_id: str, number: int, to: StepStatus) -> None:
        there = self.attempts.get((run_id, step_id, number))
        if there is None or not there.closed:
            self._broken(f"{step_id} is {to} while its attempt {number} is not closed")
        elif (to is StepStatus.COMPLETED) != (there.result is Result.OK):
            self._broken(f"{step_id} is {to}, its attempt {number} ended {there.result}")

    def _check_ending(self, run: Run) -> None:
        for step_id, state in run.steps.items():
            if not state.status.terminal:
                self._broken(f"{run.run_id} is {run.status} while {step_id} is {state.status}")
            if state.attempt:
                there = self.truth.attempt(run.run_id, step_id, state.attempt)
                if there is None or not there.attempt.closed:
                    self._broken(f"{run.run_id} is {run.status} while {step_id} is not closed")

    def _check_effects(self, run: Run) -> None:
        if run.tombstone:
            return
        if not self.events.get(run.run_id):
            self._broken(f"{run.run_id}: effects_done, and nobody was told")
        row = self._reservations().get(run.run_id)
        if row is None or row[0] == "held" or (row[0] != "void" and row[1] is None):
            self._broken(f"{run.run_id}: effects_done, and its reservation is {row}")

    def _check_attempt(self, run_id: str, step_id: str, number: int) -> None:
        key = (run_id, step_id, number)
        stored = self.truth.attempt(*key)
        before = self.attempts.get(key)
        if stored is None:
            if before is not None:
                self._broken(f"{step_id}.{number} vanished")
            return
        after = stored.attempt
        self.attempts[key] = after
        if before is not None:
            if before.owner != after.owner:
                self._broken(f"{step_id}.{number} was taken from {before.owner} by {after.owner}")
            if before.closed and replace(after, late=before.late) != before:
                self._broken(f"{step_id}.{number} was closed {before.result}, now {after.result}")
        if not after.closed:
            for other in range(1, number + 2):
                there = self.attempts.get((run_id, step_id, other))
                if other != number and there is not None and not there.closed:
                    self._broken(f"{step_id}: attempts {other} and {number} are both open")

    def _check_claim(self, attempt: Attempt) -> None:
        run = self.runs.get(attempt.run_id)
        if run is None:
            self._broken(f"{attempt.key} is claimed for a run that is not there")
        if run.status not in (RunStatus.RUNNING, RunStatus.CANCELLING):
            self._broken(f"{attempt.key} is claimed while its run is {run.status}")
        state = run.steps[attempt.step_id]
        if not state.status.released or state.attempt != attempt.number:
            self._broken(f"{attempt.key} is claimed: its step is {state.status} {state.attempt}")
        self._check_parents(run, self.plans[attempt.run_id], attempt.step_id)

    def _check_message(self, message: Outgoing) -> None:
        if message.topic is not Topic.STEPS:
            return
        step = decode(message.body, StepMessage)
        run = self.runs.get(step.run_id)
        if run is None or run.steps[step.step_id].attempt < step.attempt:
            self._broken(f"{step.step_id}.{step.attempt} is sent before its run says so")

    def _holds(self, key: tuple[str, str, int]) -> None:
        """A processor goes on: nobody else may have its step by now."""
        run_id, step_id, number = key
        for other in range(number + 1, number + 4):
            if (run_id, step_id, other) in self.attempts:
                self._broken(f"{step_id}.{number} works on while there is {step_id}.{other}")
        there = self.attempts.get(key)
        if there is None:
            self._broken(f"{step_id}.{number} works without a claim")

    def _reservations(self) -> dict[str, tuple[str, str | None, int]]:
        rows = self._sql("SELECT run_id, status, outcome, expires_at FROM reservations")
        return {row[0]: row[1:] for row in rows}

    def _sql(self, query: str) -> list[Any]:
        return self._journal.read(lambda db: db.execute(query).fetchall())

    def _check_quota(self) -> None:
        rows = self._reservations()
        held = sum(status == ReservationStatus.HELD for status, _, _ in rows.values())
        ((counter,),) = self._sql("SELECT concurrent FROM usage")
        if counter != held:
            self._broken(f"{counter} slots are counted, {held} reservations are held")
        if held > self.limit:
            self._broken(f"{held} slots are taken of {self.limit}")
        now = int(self.scheduler.now * 1_000_000)
        start = int(EPOCH.timestamp()) * 1_000_000
        for run in self.runs.values():
            if run.status not in (RunStatus.RUNNING, RunStatus.CANCELLING):
                continue
            row = rows.get(run.run_id)
            expired = row is not None and row[0] == "expired" and row[2] < start + now
            if not expired and (row is None or row[0] != "held"):
                self._broken(f"{run.run_id} is {run.status}, its reservation is {row}")

    def _one_run_per_key(self, run: Run) -> None:
        key = self._keys.get(run.run_id)
        for other in self.runs.values():
            same = key is not None and self._keys.get(other.run_id) == key
            if same and other.run_id != run.run_id and not other.tombstone:
                self._broken(f"{run.run_id} and {other.run_id} stand for key {key}")

    def _answered(self, key: str, run: Run) -> None:
        told = self.answers.setdefault(key, set())
        told.add(run.run_id)
        if len(told) > 1:
            self._broken(f"key {key} was answered with {sorted(told)}")
        if run.tombstone or run.run_id not in self.runs:
            self._broken(f"key {key} was answered with a run that is not there")

    # --- what must hold in the end ---

    def _unfinished(self) -> list[str]:
        left = [
            f"{run.run_id} is {run.status}, effects not done"
            for run in self.runs.values()
            if not run.effects_done
        ]
        if not left:
            left = [f"{i} is held" for i, row in self._reservations().items() if row[0] == "held"]
        return left

    def _check_the_end(self) -> None:
        rows = self._reservations()
        runs = [run for run in self.runs.values() if not run.tombstone]
        ((counter, today, succeeded, failed),) = self._sql(
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
            self._broken(
                f"usage is {counter} running, {succeeded} + {failed} ended;"
                f" {good} + {len(counted) - good} did"
            )
        if today != len(counted) - back:
            self._broken(
                f"{today} runs are counted today, {len(counted)} were and {back} came back"
            )
        for run in runs:
            told = set(self.events.get(run.run_id, []))
            if told != {(f"{run.run_id}.{run.status}", run.status.value)}:
                self._broken(f"{run.run_id} is {run.status}, told was {told}")
            self._check_deserved(run)
            if self.must_complete and run.status is not RunStatus.COMPLETED:
                self._broken(f"{run.run_id} is {run.status} ({run.stop_reason}), of nothing")
        for key, told_ids in self.answers.items():
            for run_id in told_ids:
                if run_id not in self.runs or self.runs[run_id].tombstone:
                    self._broken(f"key {key} was answered with {run_id}, which is gone")

    def _check_deserved(self, run: Run) -> None:
        """A run whose processors all succeed, with losses within the budget, completes."""
        if run.status is not RunStatus.FAILED or not run.steps or run.stop_reason is not None:
            return
        if not any(
            there.result in (Result.TRANSIENT, Result.TERMINAL)
            for (run_id, _, _), there in self.attempts.items()
            if run_id == run.run_id
        ) and all(state.losses <= self.timing.lost_budget for state in run.steps.values()):
            self._broken(f"{run.run_id} failed without a reason: {run.error}")

    # --- telling ---

    def _broken(self, what: str) -> NoReturn:
        self.scheduler.fail(what)
        raise Broken(what)

    def _told(self, what: str) -> Broken:
        lines = [
            f"{at:9.3f}  {who:<22} {label:<22} {_short(result)}"
            for at, who, label, result in self.trace[-90:]
        ]
        return Broken("\n".join([f"seed {self.seed}: {what}", *lines]))

    # --- one process that forgets ---

    def _remember(self) -> None:
        """After a rollback: what is stored is what there is."""
        self.runs = {
            run_id: stored.run
            for run_id in self.runs
            if (stored := self.truth.run(run_id)) is not None
        }
        self.events = {}
        for run_id, event_id, status in self._sql("SELECT * FROM told"):
            self.events.setdefault(run_id, []).append((event_id, status))
        self.attempts = {
            key: there.attempt
            for key in self.attempts
            if (there := self.truth.attempt(*key)) is not None
        }

    def _restart(self) -> None:
        """What bootstrap does when the process is started again."""
        machine = self.machines[0]
        self.truth.expire_leases(self.clock())
        self._remember()
        for row, topic, body, not_before in self._sql("SELECT * FROM kept ORDER BY id"):
            later = None if not_before is None else datetime.fromisoformat(not_before)
            self._deliver(Outgoing(Topic(topic), body, later), 0.01, row)

        def recover() -> None:
            for run_id in self.truth.unfinished():
                machine.coordinator.recover(run_id)

        self._send("recover", recover, lambda: None, 0.0, life=self._life)


class _Bus:
    """The bus as the engine sees it."""

    def __init__(self, world: World) -> None:
        self._world = world

    def publish(self, messages: Sequence[Outgoing]) -> None:
        self._world.publish(messages)


def _pipeline(name: str, plan: Plan) -> Pipeline:
    return Pipeline(
        pipeline_id=plan.pipeline_id,
        provider=plan.provider,
        domain=plan.domain,
        address=name,
        config_hash="",
        timeout_minutes=plan.timeout_minutes,
        steps=tuple(
            Step(
                step_id=step.step_id,
                ps_type=step.ps_type,
                depends_on=step.depends_on,
                timeout_seconds=step.timeout_seconds,
                retry=step.retry,
                on_failure=step.on_failure,
                enabled=step.enabled,
            )
            for step in plan.steps
        ),
    )


def _ids(key: str) -> list[str]:
    return [derived_run_id(ORG, key, str(k)) for k in range(6)]


def _short(result: Any) -> str:
    text = " ".join(str(result).split())
    return text if len(text) < 90 else text[:87] + "…"
