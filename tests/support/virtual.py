"""Threads that hand a baton to each other under a virtual clock: one runs, the rest wait their turn.

A thread gives the baton away only where it calls `pause` or waits for a `Lock`, so what happens between
two such calls is atomic, and the same seed gives the same run. `Lock`, `RLock`, `Event` and `Thread` stand
in for those of `threading` in the modules under test.
"""

from __future__ import annotations

import heapq
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

TURN = 0.001  # seconds that a step takes while the turns are chosen


class Killed(BaseException):
    """The machine of this thread died. Not an Exception: no handler may survive it."""


class _Carrier:
    """A real thread, used again and again: making one costs more than most handlers do."""

    idle: list[_Carrier] = []

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()
        self.job: Callable[[], None] = lambda: None
        threading.Thread(target=self._loop, name="carrier", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self.go.acquire()
            self.job()


class Actor:
    """One thread of the world. `group` dies as one (a machine)."""

    def __init__(self, name: str, body: Callable[[], None], group: object) -> None:
        self.name = name
        self.body = body
        self.group = group
        self.carrier: _Carrier | None = None
        self.killed = False
        self.done = False
        self.racing = False
        self.ready = False  # racing, and able to take the next turn
        self.ticket = 0  # only the wake-up with the last ticket counts


class Scheduler:
    """Runs actors until `finished` says so. `now` is in seconds."""

    current: Scheduler | None = None  # the one whose locks are asked for

    def __init__(self) -> None:
        self.now = 0.0
        self.actor = Actor("main", lambda: None, None)
        self.error: str | None = None
        self.finished: Callable[[], bool] = lambda: False
        self.held_back: Callable[[Actor], float] = lambda _: 0.0
        self.choose: Callable[[Sequence[Actor]], Actor] = lambda actors: actors[0]
        self._main = self.actor
        self._main.carrier = _Main()
        self._queue: list[tuple[float, int, int, Actor | Callable[[], None]]] = []
        self._count = 0
        self._alive: dict[Actor, None] = {}
        self._racing: list[Actor] = []
        self._stopping = False

    # --- for the world ---

    def spawn(
        self,
        name: str,
        body: Callable[[], None],
        group: object = None,
        delay: float = 0.0,
        *,
        racing: bool = False,
    ) -> Actor:
        """A new actor. Racing ones take turns as `choose` says, before anything else happens."""
        actor = Actor(name, body, group)
        self._alive[actor] = None
        if racing:
            actor.racing = actor.ready = True
            self._racing.append(actor)
        else:
            self.wake(actor, delay)
        return actor

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Calls `action`, which must not pause, after `delay`."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, 0, action))

    def wake(self, actor: Actor, delay: float = 0.0) -> None:
        """Lets a waiting actor go on after `delay`; an earlier wake-up is forgotten."""
        self._count += 1
        actor.ticket += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, actor.ticket, actor))

    def kill(self, group: object) -> None:
        """Every actor of the group dies where it stands; the caller must raise Killed if it is one."""
        for actor in self._alive:
            if actor.group is group and not actor.killed:
                actor.killed = True
                if actor is not self.actor:
                    actor.ready = actor.racing
                    self.wake(actor)

    def run(self, finished: Callable[[], bool]) -> None:
        """Runs until `finished`, or an error; raises it as AssertionError."""
        self.finished = finished
        Scheduler.current = self
        self._switch(self._main)
        if self.error is not None:
            raise AssertionError(self.error)

    def close(self) -> None:
        """Ends every actor."""
        self._stopping = True
        for actor in self._alive:
            actor.killed = True
        self._switch(self._main)
        Scheduler.current = None

    def fail(self, error: str) -> None:
        """Ends the run with an error; the first one stays."""
        if self.error is None and not self._stopping:
            self.error = error

    # --- for actors ---

    def pause(self, delay: float = 0.0) -> None:
        """Lets others run. Raises Killed when this actor's machine died meanwhile."""
        me = self.actor
        if not me.killed:
            if me.racing and delay <= 0:
                me.ready = True
            else:
                self.wake(me, delay)
            self._switch(me)
        if me.killed:
            raise Killed

    def block(self) -> None:
        """Waits for a `wake`. Raises Killed."""
        me = self.actor
        if not me.killed:
            self._switch(me)
        if me.killed:
            raise Killed

    # --- the baton ---

    def _pick(self) -> Actor:
        while True:
            if self._stopping:
                return next(iter(self._alive), self._main)
            if self.error is not None or self.finished():
                return self._main
            if self._racing:
                ready = [actor for actor in self._racing if actor.ready]
                if ready:
                    self.now += TURN
                    chosen = self.choose(ready)
                    chosen.ready = False
                    chosen.ticket += 1
                    return chosen
            if not self._queue:
                self.fail("nothing is left to happen")
                continue
            time, _, ticket, what = heapq.heappop(self._queue)
            if isinstance(what, Actor):
                if what.done or ticket != what.ticket:
                    continue
                self.now = max(self.now, time)
                back = 0.0 if what.killed else self.held_back(what)
                if back > 0:
                    self.wake(what, back)
                    continue
                return what
            self.now = max(self.now, time)
            try:
                what()
            except Exception:  # noqa: BLE001  # told by `run`, in its own thread
                self.fail(traceback.format_exc())

    def _switch(self, me: Actor | None) -> None:
        """Hands the baton to who is next, and waits for it if `me` goes on later."""
        chosen = self._pick()
        if chosen is me:
            return
        self.actor = chosen
        if chosen.carrier is None:
            chosen.carrier = _Carrier.idle.pop() if _Carrier.idle else _Carrier()
            chosen.carrier.job = lambda: self._carry(chosen)
        carrier = chosen.carrier
        mine = me.carrier if me is not None else None
        carrier.go.release()
        if mine is not None:
            mine.go.acquire()

    def _carry(self, actor: Actor) -> None:
        try:
            actor.body()
        except Killed:
            pass
        except BaseException:  # noqa: BLE001  # told by `run`, in its own thread
            self.fail(traceback.format_exc())
        actor.done = True
        self._alive.pop(actor, None)
        if actor.racing:
            self._racing.remove(actor)
        carrier = actor.carrier
        assert carrier is not None
        _Carrier.idle.append(carrier)
        self._switch(None)


class _Main(_Carrier):
    """The thread that calls `run`: it is there already."""

    def __init__(self) -> None:
        self.go = threading.Lock()
        self.go.acquire()


class Lock:
    """threading.Lock among actors; outside of them nobody competes for it."""

    def __init__(self) -> None:
        self._held = False
        self._waiting: list[Actor] = []

    def __enter__(self) -> None:
        scheduler = Scheduler.current
        while self._held:
            assert scheduler is not None
            self._waiting.append(scheduler.actor)
            scheduler.block()
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False
        waiting, self._waiting = self._waiting, []
        scheduler = Scheduler.current
        for actor in waiting:
            assert scheduler is not None
            if actor.racing:
                actor.ready = True
            else:
                scheduler.wake(actor)


class RLock(Lock):
    """threading.RLock among actors."""

    def __init__(self) -> None:
        super().__init__()
        self._owner: Actor | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = None if Scheduler.current is None else Scheduler.current.actor
        if not self._depth or self._owner is not me:
            super().__enter__()
            self._owner = me
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            super().__exit__()


class Event:
    """threading.Event; `wait` lets virtual time pass."""

    def __init__(self) -> None:
        self._set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = Scheduler.current
        assert scheduler is not None
        if not self._set:
            scheduler.pause(timeout or 0.0)
        return self._set


class Thread:
    """threading.Thread: an actor of the group that starts it."""

    def __init__(self, *, target: Callable[[], None], name: str, daemon: bool) -> None:
        self._target = target
        self._name = name

    def start(self) -> None:
        scheduler = Scheduler.current
        assert scheduler is not None
        scheduler.spawn(self._name, self._target, scheduler.actor.group)

    def join(self, timeout: float | None = None) -> None:
        """The machine ends with its world."""


def module(**replaced: Any) -> Any:
    """What takes the place of `threading` in a module under test."""
    names = {"Lock": Lock, "RLock": RLock, "Event": Event, "Thread": Thread, **replaced}
    return type("virtual_threading", (), names)
