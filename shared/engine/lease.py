"""Keeps the leases of this process's running steps, and stops a step that must not go on.

One thread for all of them. A step that ends before its first heartbeat is due costs no write.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

from shared.app import App
from shared.core.run import RunStatus
from shared.errors import Stopped, Transient, Unavailable
from shared.state import StoredAttempt

CANCELLED = "the run was cancelled"
TERMINATED = "the machine of the step was taken away; the step runs again"
TIMEOUT = "timeout"
TIMED_OUT = "the step did not end within its timeout_seconds"


class Lease:
    """The right to run one attempt, judged by the monotonic clock since the claim."""

    def __init__(self, app: App, stored: StoredAttempt, timeout: timedelta) -> None:
        self._app = app
        self.stored = stored
        self._guard = threading.Lock()
        self._reason: str | None = None
        self._on_stop: list[Callable[[], None]] = []
        started = app.monotonic()
        self.deadline = started + timeout.total_seconds()
        self._valid_until = started + self._left(stored)
        self.next_heartbeat = started + app.timing.heartbeat.total_seconds()
        self.flush: Callable[[], None] = lambda: None

    def _left(self, stored: StoredAttempt) -> float:
        lease_until = stored.attempt.lease_until
        if lease_until is None:
            return 0.0
        return (lease_until - self._app.now()).total_seconds()

    @property
    def stopped(self) -> str | None:
        """Why the step must not go on, or None while it may."""
        if self._reason is None:
            now = self._app.monotonic()
            if now >= self.deadline:
                self.stop(TIMEOUT)
            elif now >= self._valid_until:
                self.stop("lease ran out")
        return self._reason

    def check(self) -> None:
        """Raises Stopped, or Transient for the step's own timeout, when the step must not go on."""
        reason = self.stopped
        if reason == TIMEOUT:
            raise Transient(TIMED_OUT, code=TIMEOUT)
        if reason is not None:
            raise Stopped(reason)

    def on_stop(self, action: Callable[[], None]) -> None:
        """Runs `action` once when the step is stopped; at once when it already is."""
        with self._guard:
            if self._reason is None:
                self._on_stop.append(action)
                return
        action()

    def stop(self, reason: str) -> None:
        """Takes the right away. The first reason stays."""
        with self._guard:
            if self._reason is not None:
                return
            self._reason = reason
            actions, self._on_stop = self._on_stop, []
        for action in actions:
            action()

    def renew(self) -> None:
        """One heartbeat: asks whether the run still wants the step, and extends the lease."""
        app, attempt = self._app, self.stored.attempt
        self.next_heartbeat = app.monotonic() + app.timing.heartbeat.total_seconds()
        status = app.runs.run_status(attempt.run_id)
        if status is None or status is RunStatus.CANCELLING or status.terminal:
            self.stop(CANCELLED if status is RunStatus.CANCELLING else "the run ended")
            return
        now = app.now()
        until = now + app.timing.lease
        renewed = app.runs.renew(self.stored, until, now)
        if renewed is None:
            self.stop("the attempt was closed by somebody else")
            return
        self.stored = renewed
        self._valid_until = app.monotonic() + self._left(renewed)
        self.flush()


class LeaseKeeper:
    """The thread that renews. Started with the first lease, ended by `close`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._mutex = threading.Lock()
        self._leases: set[Lease] = set()
        self._closed = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def add(self, lease: Lease) -> None:
        with self._mutex:
            self._leases.add(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()

    def remove(self, lease: Lease) -> None:
        with self._mutex:
            self._leases.discard(lease)

    def end(self) -> None:
        """Stops every step, those that are added later too. May be called in a signal handler."""
        self._ending = True  # the thread sees it: a handler must not wait for a lock

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        app = self._app
        period = min(app.timing.heartbeat.total_seconds() / 4, 1.0)
        while not self._closed.wait(period):
            with self._mutex:
                leases = list(self._leases)
            now = app.monotonic()
            for lease in leases:
                try:
                    if self._ending:
                        lease.stop(TERMINATED)
                    if lease.stopped is None and now >= lease.next_heartbeat:
                        lease.renew()
                except Unavailable as error:
                    # The next beat tries again; the lease runs out if none gets through.
                    app.log.warning("lease.renewal_failed", error=str(error))
                except Exception as error:  # noqa: BLE001  # one step's fault must not end the others'
                    app.log.error("lease.fault", run=lease.stored.attempt.run_id, error=repr(error))
