"""The port of runs: documents that are created if absent and changed only conditionally.

Every method that writes says what "no" means, and none overwrites what another actor wrote first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple, Protocol

from shared.core.plan import Plan
from shared.core.run import Attempt, ErrorInfo, Result, Run, RunStatus, Summary


class StoredRun(NamedTuple):
    """A run as read: the plan it runs by, and the version that a conditional write names."""

    run: Run
    plan: Plan
    version: object
    writer: str


class StoredAttempt(NamedTuple):
    """An attempt as read, with the version that a conditional write names."""

    attempt: Attempt
    version: object


class Close(NamedTuple):
    """How an attempt ends. `evidence` and `log` are JSON, stored beside the attempt."""

    result: Result
    at: datetime
    summary: Summary | None = None
    error: ErrorInfo | None = None
    retry_after_seconds: float | None = None
    evidence: bytes = b""
    log: bytes = b""


class Page(NamedTuple):
    """A page of history, newest first; `cursor` is None at the end."""

    runs: list[Run]
    cursor: str | None


class HistoryFilter(NamedTuple):
    """Empty fields do not filter. Times are half-open on `created_at`."""

    pipeline_id: str | None = None
    status: RunStatus | None = None
    outcome: str | None = None
    trigger: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None


class LogChunk(NamedTuple):
    """A part of an attempt's log: JSON lines, at most 256 KiB. `number` counts from 1 in its attempt."""

    step_id: str
    attempt: int
    number: int
    lines: bytes


class PlacedChunk(NamedTuple):
    """A chunk as read. `place` is where it stands in its run's log: what a reader goes on behind."""

    place: str
    chunk: LogChunk


class RunStore(Protocol):
    """Runs and their attempts. Every method raises Unavailable when it cannot answer.

    Writes survive in the order in which they were made; where a method does not say that its write
    survives the process when it returns, `sync` does.
    """

    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        """Creates the run if absent. False: a run (or tombstone) of that id was there first.

        When it returns, the run survives the process.
        """

    def run(self, run_id: str) -> StoredRun | None:
        """The run, or None."""

    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        """Writes `after` if the run is still as read. None: somebody else wrote since; read again.

        `writer` is a nonce of this write: a backend whose answer got lost finds out by it who won.
        """

    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        """Creates the attempt if absent, open or closed. None: another owner's was there first.

        When it returns, the claim survives the process: a step may be started on it.
        """

    def attempt(self, run_id: str, step_id: str, number: int) -> StoredAttempt | None:
        """One attempt, or None."""

    def attempts(
        self, run_id: str, keys: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], StoredAttempt]:
        """Those of the named attempts that exist."""

    def closed_since(self, run_id: str, mark: datetime | None) -> list[Attempt]:
        """The attempts closed after `mark` (all closed ones without). An optimisation: may miss some."""

    def renew(
        self, stored: StoredAttempt, lease_until: datetime, heartbeat_at: datetime
    ) -> StoredAttempt | None:
        """Extends the lease if the attempt is as read. None: it was closed or taken."""

    def close_attempt(self, stored: StoredAttempt, how: Close) -> bool:
        """Closes the attempt if it is open and as read. False: somebody else was first."""

    def record_late(self, run_id: str, step_id: str, number: int, late: str) -> None:
        """Notes a result that came after the close. Never changes how the attempt was closed."""

    def run_status(self, run_id: str) -> RunStatus | None:
        """Only the status: what a worker asks at a heartbeat."""

    def due(self, now: datetime, limit: int = 500) -> list[str]:
        """The ids of runs whose `wake_at` has come, earliest first."""

    def history(
        self, org: str, where: HistoryFilter, limit: int = 50, cursor: str | None = None
    ) -> Page:
        """The organization's runs, newest first. Raises Invalid for a cursor that is not ours."""

    def attempts_of(self, run_id: str) -> list[Attempt]:
        """All attempts of a run, in the order of their start."""

    def evidence(self, run_id: str) -> list[tuple[str, int, bytes]]:
        """(step, attempt, evidence) of every closed attempt that has evidence."""

    def append_log(self, run_id: str, chunk: LogChunk, at: datetime) -> None:
        """Stores a chunk of the log of a running attempt; a number that is there stays as it is."""

    def read_log(
        self,
        run_id: str,
        after: str | None = None,
        step_id: str | None = None,
        *,
        live: bool = False,
        limit: int = 4,
    ) -> list[PlacedChunk]:
        """The next chunks behind the place `after`, in the order in which they were stored.

        The log that is stored with the close of an attempt is a chunk too, which may be empty.
        `live`: workers are at it; what is so young that something may still come before it is left
        out, so that a reader who goes on behind the last place misses nothing. Raises Invalid for a
        place that is not ours.
        """

    def sync(self) -> None:
        """Returns when every write so far survives the process: before a caller is told of it."""

    def close(self) -> None:
        """Releases what the store holds. Twice is once."""
