"""Ports that count who passes, and end or freeze the process at the passage they were told.

Each proxy does what its port does. What no test could see from the documents afterwards (a step that
started before its run knew of it, an attempt closed twice) is noted where it happens.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec

from shared.app import App
from shared.bus import Outgoing
from shared.core.lineage import LoadReceipt
from shared.core.plan import Plan
from shared.core.run import Attempt, Run, StepStatus
from shared.objects import ObjectStore
from shared.state import Close, RunStore, StoredAttempt, StoredRun
from shared.step import Processor, StepContext, StepResult
from shared.warehouse import Load, Warehouse

# Where a process can be told to die, by what it is doing there.
POINTS: Mapping[str, tuple[str, ...]] = {
    "reserve": ("reserve.before", "reserve.after"),
    "claim": ("claim.before", "claim.after"),
    "processor": ("processor.enter", "processor.read", "processor.exit"),
    "before commit": ("load.enter", "load.check", "load.checked"),
    "after commit": ("load.done",),
    "attempt write": ("attempt.before", "attempt.after"),
    "run write": ("run.before", "run.after"),
    "publish": ("publish.before", "publish.after"),
    "settle": ("settle.before", "settle.after"),
    "ack": ("ack.before",),
}


class Kill(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Die at that passage of the point.

    `durable`: what was written so far is on the disk by then; else the journal's tail is lost with the
    process. `delay_seconds`: the work goes on for so long, to die inside of what follows. `machine`: with
    the process dies its whole process group.
    """

    point: str
    passage: int = 1
    durable: bool = False
    delay_seconds: float = 0
    machine: bool = False


class Freeze(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Stand still at that passage of the point, until somebody sends SIGCONT."""

    point: str
    passage: int = 1


class Note(NamedTuple):
    """A line of them. `at` is in seconds since 1970."""

    kind: str
    text: str
    at: float


class Notes:
    """Lines that survive the process: what was hit, and what must not have happened."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def add(self, kind: str, text: str) -> None:
        os.write(self._file, msgspec.json.encode(Note(kind, text, time.time())) + b"\n")

    def close(self) -> None:
        os.close(self._file)


def noted(path: Path) -> dict[str, list[Note]]:
    """The notes by their kind. Empty for a kind, or a file, that there is none of."""
    notes: dict[str, list[Note]] = defaultdict(list)
    for line in path.read_bytes().splitlines() if path.exists() else ():
        note = msgspec.json.decode(line, type=Note)
        notes[note.kind].append(note)
    return notes


class Points(ABC):
    """What the proxies tell of: passages, and the few things that only they can see."""

    sync: Callable[[], None] = staticmethod(lambda: None)

    @abstractmethod
    def passing(self, point: str) -> None:
        """May be the end of the process."""

    @abstractmethod
    def note(self, kind: str, text: str) -> None:
        """Adds to the notes."""

    @abstractmethod
    def committed(self) -> None:
        """The last passage of load.check was followed by a COMMIT."""

    @abstractmethod
    def ran(self, step: StepContext) -> None:
        """The step's processor is about to begin."""

    @abstractmethod
    def closed(self, attempt: Attempt, how: Close) -> None:
        """The write that closes the attempt has won."""

    @property
    @abstractmethod
    def twice(self) -> Random | None:
        """What says in which order messages come, when every one comes two times."""

    @contextmanager
    def around(self, what: str) -> Iterator[None]:
        self.passing(f"{what}.before")
        yield
        self.passing(f"{what}.after")

    def violation(self, text: str) -> None:
        self.note("violation", text)

    def strike(self, blow: Kill | Freeze) -> None:
        """Does to this process what `blow` says."""
        if isinstance(blow, Freeze):
            self.note("frozen", str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(0.05)  # this thread runs on for a moment, until all of them stand still
        elif blow.delay_seconds:
            threading.Timer(blow.delay_seconds, self._die, [blow]).start()
        else:
            self._die(blow)

    def _die(self, kill: Kill) -> None:
        if kill.durable:
            self.sync()
        self.note("hit", kill.point)
        if kill.machine:
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # the signal is on its way


class LifePoints(Points):
    """Those of one process that is everything: counted from its birth."""

    def __init__(self, kill: Kill | None, notes: Notes, twice: Random | None) -> None:
        self.counts: Counter[str] = Counter()
        self.commits: list[int] = []  # the passages of load.check that a COMMIT followed
        self.executions: Counter[tuple[str, str]] = Counter()
        self._kill = kill
        self._notes = notes
        self._twice = twice
        self._closed: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    @property
    def twice(self) -> Random | None:
        return self._twice

    def note(self, kind: str, text: str) -> None:
        self._notes.add(kind, text)

    def passing(self, point: str) -> None:
        with self._lock:
            self.counts[point] += 1
            kill = self._kill
            if kill is None or kill.point != point or self.counts[point] != kill.passage:
                return
        self.strike(kill)

    def committed(self) -> None:
        self.commits.append(self.counts["load.check"])

    def ran(self, step: StepContext) -> None:
        self.executions[step.run_id, step.step_id] += 1

    def closed(self, attempt: Attempt, how: Close) -> None:
        key = (attempt.run_id, attempt.key)
        self._closed[key] += 1
        if self._closed[key] > 1:
            self.violation(f"{key} was closed twice")


class _Proxy:
    """Everything that is not said here is the port's own."""

    def __init__(self, port: Any, points: Points) -> None:
        self._port = port
        self._points = points

    def __getattr__(self, name: str) -> Any:
        return getattr(self._port, name)


class RunsProxy(_Proxy):
    _port: RunStore

    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        with self._points.around("run"):
            return self._port.create_run(run, plan, writer)

    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        with self._points.around("run"):
            return self._port.replace_run(stored, after, writer)

    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        with self._points.around("claim"):
            stored = self._port.claim(attempt)
            if stored is not None and not attempt.closed:
                self._known(attempt)
        return stored

    def close_attempt(self, stored: StoredAttempt, how: Close) -> bool:
        with self._points.around("attempt"):
            won = self._port.close_attempt(stored, how)
            if won:
                self._points.closed(stored.attempt, how)
        return won

    def _known(self, attempt: Attempt) -> None:
        stored = self._port.run(attempt.run_id)
        if stored is None:
            self._points.violation(f"{attempt.key} was claimed before its run was")
            return
        state = stored.run.steps[attempt.step_id]
        if state.status is StepStatus.PENDING or state.attempt < attempt.number:
            self._points.violation(f"{attempt.key} was claimed before it was released")
        if stored.run.status.terminal:
            there = self._port.attempt(attempt.run_id, attempt.step_id, attempt.number)
            if there is None or not there.attempt.closed:
                self._points.violation(f"{attempt.key} was claimed after the run's end")


class AccountsProxy(_Proxy):
    def reserve(self, *args: Any, **kwargs: Any) -> Any:
        with self._points.around("reserve"):
            return self._port.reserve(*args, **kwargs)

    def settle(self, run_id: str, *args: Any, **kwargs: Any) -> None:
        self._points.note("settling", run_id)
        with self._points.around("settle"):
            self._port.settle(run_id, *args, **kwargs)


class BusProxy(_Proxy):
    """With `twice`, every message comes two times, and any two of them in any order."""

    def __init__(self, port: Any, points: Points, now: Callable[[], datetime]) -> None:
        super().__init__(port, points)
        self._now = now

    def publish(self, messages: Sequence[Outgoing]) -> None:
        chance = self._points.twice
        if chance is not None:
            messages = [self._late(message, chance) for message in messages for _ in range(2)]
            chance.shuffle(messages)
        with self._points.around("publish"):
            self._port.publish(messages)

    def _late(self, message: Outgoing, chance: Random) -> Outgoing:
        if chance.random() < 0.4:
            return message
        at = self._now() + timedelta(seconds=chance.uniform(0, 0.08))
        return message._replace(not_before=max(message.not_before or at, at))


class WarehouseProxy(_Proxy):
    _port: Warehouse

    def load(self, load: Load) -> LoadReceipt:
        checked = self._checked(load.check)
        return self._whole(lambda: self._port.load(replace(load, check=checked)))

    def call(self, *args: Any, check: Callable[[], None], **kwargs: Any) -> LoadReceipt:
        checked = self._checked(check)
        return self._whole(lambda: self._port.call(*args, check=checked, **kwargs))

    def _checked(self, check: Callable[[], None]) -> Callable[[], None]:
        # Called between the statements of the transaction, the last time just before its COMMIT.
        def counted() -> None:
            self._points.passing("load.check")
            check()
            self._points.passing("load.checked")

        return counted

    def _whole(self, work: Callable[[], LoadReceipt]) -> LoadReceipt:
        self._points.passing("load.enter")
        receipt = work()
        self._points.committed()
        self._points.passing("load.done")
        return receipt


class ObjectsProxy(_Proxy):
    _port: ObjectStore

    @contextmanager
    def fetch(self, key: str) -> Iterator[Path]:
        with self._port.fetch(key) as path:
            self._points.passing("processor.read")
            yield path


def wrapped(app: App, points: Points) -> App:
    """The application with a proxy at every port, and around every processor."""
    points.sync = app.runs.sync

    def counted(made: Processor) -> Processor:
        def run(step: StepContext, config: Any) -> StepResult:
            points.ran(step)
            points.passing("processor.enter")
            result = made.run(step, config)
            points.passing("processor.exit")
            return result

        return replace(made, run=run)

    opened: list[WarehouseProxy] = []

    def warehouse() -> Any:
        if not opened:
            opened.append(WarehouseProxy(app.warehouse(), points))
        return opened[0]

    # Structurally these are the ports; `__getattr__` is what a type checker cannot see through.
    proxies: dict[str, Any] = {
        "runs": RunsProxy(app.runs, points),
        "bus": BusProxy(app.bus, points, app.now),
        "accounts": AccountsProxy(app.accounts, points),
        "warehouse": warehouse,
        "objects": lambda *args: ObjectsProxy(app.objects(*args), points),
        "processors": {name: counted(made) for name, made in app.processors.items()},
    }
    return replace(app, **proxies)
