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

from shared.accounts import Limits
from shared.accounts.sqlite import SqliteAccounts
from shared.app import App
from shared.bus import Outgoing
from shared.core.decide import cancel
from shared.core.lineage import Evidence
from shared.core.message import CompletionMessage, RunEvent, StepMessage, Topic, decode, encode
from shared.core.pipeline import Pipeline, Step, resolve_plan
from shared.core.plan import Plan
from shared.core.record import Record
from shared.core.resume import RetryMode
from shared.core.run import (
    Params,
    Result,
    Run,
    RunStatus,
    Summary,
    Timing,
    Trigger,
    derived_run_id,
    shard_of,
)
from shared.engine import advance, lease, retry, submit, tick, work
from shared.engine.advance import Coordinator
from shared.engine.retry import Retry
from shared.engine.submit import Submission
from shared.engine.work import Worker
from shared.errors import (
    Conflict,
    Mismatch,
    NotFound,
    QuotaExceeded,
    Stopped,
    Terminal,
    Transient,
    Unavailable,
)
from shared.journal import Journal
from shared.log import Level, Log
from shared.schedules.sqlite import SqliteSchedules
from shared.state import RunStore
from shared.state.sqlite import SqliteRunStore
from shared.step import Processor, StepContext, StepResult
from tests.support import virtual
from tests.support.promises import Broken, Promises
from tests.support.virtual import Actor, Killed, Scheduler

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

# After the last fault every run has ended, and every slot is free, within this many seconds, deadlines
# of two minutes and calls that hang for four included. Measured: 160 in the slowest of 27,000 seeds.
REST = 300.0
MOST_CALLS = 5_000  # the busiest of 27,000 seeds made half of that


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
        self.skew = timedelta(seconds=world.chance.uniform(-world.skew, world.skew))
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


class World:
    """One history. Set it up with `submit`, `cancel`, `retry`, `wait_for_quota`, `tick`; then `run`."""

    def __init__(
        self,
        seed: int = 0,
        *,
        shapes: Mapping[str, Plan],
        faults: Faults = NONE,
        fault_seconds: float = 0.0,
        machines: int = 2,
        concurrent: int = 2,
        skew: float = 0.0,
        timing: Timing = TIMING,
        build: Build = REAL,
        results: Callable[[str, str, int], Result] | None = None,
        work_seconds: Callable[[str, str, int], float] | None = None,
        embedded: bool = False,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.skew = skew  # seconds that the clock of a machine may be wrong, either way
        self.timing = timing
        self.faults = faults
        self.fault_seconds = fault_seconds
        self.embedded = embedded
        self.calls = 0
        self.labels: list[str] = []
        self.at_call: dict[int, Callable[[], Trouble]] = {}
        self.at_message: dict[int, int] = {}  # how many copies of the n-th message arrive
        self.messages = 0
        self.race = False  # everything takes turns, as `scheduler.choose` says
        self.trace: list[tuple[float, str, str, Any]] = []
        self.kills = 0
        self._results = results or (lambda *_: Result.OK)
        self._work_seconds = work_seconds or (lambda *_: 0.01)
        self._shapes = {name: _pipeline(name, plan) for name, plan in shapes.items()}
        self._in_flight: set[object] = set()
        self._tokens: dict[Actor, object] = {}
        self._life = 0
        self._ids = 0
        self.rest = 0.0
        self._build = build
        self._journal = _journal()
        limits = {"test": Limits(daily=None, monthly=None, concurrent=concurrent)}
        accounts = build.accounts(self._journal, limits)
        self._journal.wipe()
        accounts.create_organization(ORG, "Acme", "test", EPOCH)
        self.scheduler = Scheduler()
        self.promises = Promises(self._journal, timing, concurrent, self.clock, self.scheduler.fail)
        self.scheduler.held_back = self._held_back
        self._undo: list[tuple[object, str, object]] = []
        runs = build.wire(self, build.store(self._journal))
        self.app = App(
            runs=cast("Any", _Port(self, "runs", runs)),
            accounts=cast("Any", _Port(self, "accounts", accounts)),
            subscriptions=cast("Any", None),
            schedules=SqliteSchedules(self._journal),
            bus=cast("Any", _Port(self, "bus", _Bus(self))),
            vault=cast("Any", None),
            warehouse=cast("Any", None),
            objects=cast("Any", None),
            http=cast("Any", None),
            catalog=lambda: self,
            providers=cast("Any", None),
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
            now=self._read_clock,
            monotonic=lambda: self.scheduler.now,
            sleep=self.scheduler.pause,
            random=self.chance.random,
            new_id=self._new_id,
        )
        self._patch()
        self.machines = [Machine(self, i) for i in range(1 if embedded else machines)]
        self._machine_count = len(self.machines)

    def _patch(self) -> None:
        patches: list[tuple[object, str, object]] = [
            *(
                (engine, "threading", virtual.module(Event=_Beat))
                for engine in (advance, lease, retry, submit, tick, work)
                if hasattr(engine, "threading")
            ),
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
        """The true time."""
        return EPOCH + timedelta(seconds=self.scheduler.now)

    def _read_clock(self) -> datetime:
        machine = self.scheduler.actor.group
        return self.clock() + machine.skew if isinstance(machine, Machine) else self.clock()

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
        self.promises.keys |= dict.fromkeys(_ids(key), key)

        def post() -> None:
            try:
                answer = submit.submit(self.app, asked)
            except QuotaExceeded:
                return
            except Mismatch:
                self.promises.broken(f"the same request under key {key} was called another one")
            else:
                self.promises.answered(key, answer.run)

        def again() -> None:
            if tries > 1:
                self.submit(key, shape, at=self.chance.uniform(0.5, 6), tries=tries - 1)

        self._send(f"submit {key}", post, again, at, racing=racing)

    def wait_for_quota(self, run_id: str, shape: str, *, at: float = 0.0) -> None:
        """A schedule starts a run that may wait: protocol.md S7, which has no caller yet."""

        def create() -> None:
            made, plan = self._waiting(run_id, shape)
            self.app.runs.create_run(made, plan, self.app.new_id())
            hint = encode(CompletionMessage(run_id=run_id))
            self.app.bus.publish([Outgoing(Topic.COMPLETIONS, hint)])

        self._send(f"start {run_id}", create, lambda: None, at)

    def ended(self, run_id: str, shape: str) -> None:
        """There was a run that was cancelled before it began; everything about it is done."""
        run, plan = self._waiting(run_id, shape)
        run = cancel(run, plan, self.clock(), self.timing, "before our time")
        self.promises.truth.create_run(replace(run, effects_done=True, wake_at=None), plan, "")

    def _waiting(self, run_id: str, shape: str) -> tuple[Run, Plan]:
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
        return made, plan

    def cancel(self, key: str, *, at: float = 0.0, racing: bool = False) -> None:
        """Somebody asks for the end of the run of that key (or of that id)."""

        def ask() -> None:
            machine = cast("Machine", self.scheduler.actor.group)
            for run_id in (key, self.run_id(key)):
                if run_id in self.promises.runs:
                    machine.coordinator.cancel(run_id)

        def again() -> None:
            if not self.calm:
                self.cancel(key, at=self.chance.uniform(0.5, 4))

        self._send(f"cancel {key}", ask, again, at, racing=racing)

    def retry(
        self,
        key: str,
        client: str,
        mode: RetryMode = RetryMode.RESUME,
        *,
        at: float = 0.0,
        tries: int = 1,
        racing: bool = False,
    ) -> None:
        """A client asks for a retry of the run of that key (or of that id), under a key of its own.

        Again when it hears nothing, and as long as there are faults also until the run has ended.
        """

        def ask() -> None:
            old = key if self.promises.truth.run(key) is not None else self.run_id(key)
            try:
                answer = retry.retry(self.app, Retry(ORG, old, mode, client))
            except (NotFound, QuotaExceeded):
                return
            except Conflict as error:
                if error.code == "run_not_ended" and not self.calm:
                    later = self.chance.uniform(0.5, 6)
                    self.retry(key, client, mode, at=later, tries=tries)
            except Mismatch:
                self.promises.broken(f"the same retry under {client} was called another one")
            else:
                self.promises.answered(f"{old} {client}", answer.run)

        def again() -> None:
            if tries > 1:
                later = self.chance.uniform(0.5, 6)
                self.retry(key, client, mode, at=later, tries=tries - 1)

        self._send(f"retry {key} {client}", ask, again, at, racing=racing)

    def tick(self, *, at: float = 0.0, racing: bool = False) -> None:
        """One tick."""

        def body() -> None:
            tick.tick(self.app)

        self._send("tick", body, lambda: None, at, racing=racing)

    def run_id(self, key: str) -> str:
        """The id of the run that stands for a key."""
        runs = self.promises.runs
        made = [i for i in _ids(key) if i in runs and not runs[i].tombstone]
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
                    f" {self.promises.unfinished()}"
                )
            return self.calm and not self._in_flight and not self.promises.unfinished()

        self._tick_again()
        try:
            self.scheduler.run(finished)
            self.rest = self.scheduler.now - self.fault_seconds
            self.promises.the_end()
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
        self.promises.check(label, args, result)
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
                self.promises.broken(f"{name}: {traceback.format_exc()}")
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
                self.promises.events.setdefault(event.run_id, []).append((event.id, event.status))
                if self.embedded:
                    self._journal.execute(
                        "INSERT INTO told VALUES (?, ?, ?)",
                        (event.run_id, event.id, event.status),
                        wait=False,
                    )
                continue
            self.promises.message(message)
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
            attempt = decode(message.body, StepMessage)
            name = f"work {attempt.step_id}.{attempt.attempt}"

            def body() -> None:
                self._machine().worker.work(attempt)
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
        self.trace.append((self.scheduler.now, self.scheduler.actor.name, "STARTED", None))
        self.promises.holds(key)
        left, result = self._work_seconds(*key), self._results(*key)
        machine = self._machine()
        endless = result in (Result.LOST, Result.OVERDUE)
        if machine.parked and machine.keeper is not None and (left > 0 or endless):
            self.scheduler.wake(machine.keeper)
        while left > 0:
            nap = min(left, 2.0)
            left -= nap
            self.scheduler.pause(nap)
            step.check()
            self.promises.holds(key)
        match result:
            case Result.TRANSIENT:
                after = timedelta(seconds=1) if step.attempt == 1 else None
                raise Transient("told so", retry_after=after)
            case Result.TERMINAL:
                raise Terminal("told so")
            case Result.LOST:  # hangs for ever: only its timeout and its lease can end it
                self._in_flight.discard(self._tokens[self.scheduler.actor])
                self.scheduler.block()
            case Result.OVERDUE:  # a statement in the warehouse: only an interrupt ends it
                me = self.scheduler.actor
                cast("Any", step)._lease.on_stop(lambda: self.scheduler.wake(me))
                self.scheduler.block()
                raise Stopped("interrupted")
        return StepResult(summary=Summary(extracted=1, loaded=1), evidence=Evidence())

    def _new_id(self) -> str:
        self._ids += 1
        return f"id{self._ids}"

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

    def _restart(self) -> None:
        """What bootstrap does when the process is started again."""
        machine = self.machines[0]
        self.promises.truth.expire_leases(self.clock())
        self.promises.remember()
        for row, topic, body, not_before in self.promises.sql("SELECT * FROM kept ORDER BY id"):
            later = None if not_before is None else datetime.fromisoformat(not_before)
            self._deliver(Outgoing(Topic(topic), body, later), 0.01, row)

        def recover() -> None:
            for run_id in self.promises.truth.unfinished():
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
