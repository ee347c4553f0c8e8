"""The documents of a run: what is stored of a run and of its attempts, and which moves are legal."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from enum import StrEnum
from hashlib import sha256

from shared.core.record import Document, Json

SHARDS = 8
MAX_ERROR_BYTES = 2048
MAX_SUMMARY_BYTES = 1024


class RunStatus(StrEnum):
    """Where a run stands. `validating` is only ever a stored transition."""

    PENDING = "pending"
    VALIDATING = "validating"
    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL_RUN


class StepStatus(StrEnum):
    """Where a step of a run stands."""

    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        return self in _TERMINAL_STEP

    @property
    def released(self) -> bool:
        """An attempt of it may exist and is not folded yet."""
        return self is StepStatus.QUEUED or self is StepStatus.RUNNING


class Outcome(StrEnum):
    """How good a completed run is."""

    OK = "ok"
    OK_WITH_WARNINGS = "ok_with_warnings"
    NO_DATA = "no_data"


class Result(StrEnum):
    """How an attempt was closed."""

    OK = "ok"
    TRANSIENT = "transient"
    TERMINAL = "terminal"
    LOST = "lost"
    CANCELLED = "cancelled"
    OVERDUE = "overdue"


class Trigger(StrEnum):
    """What started a run."""

    API = "api"
    SCHEDULE = "schedule"
    EVENT = "event"
    BACKFILL = "backfill"
    RETRY = "retry"


_TERMINAL_RUN = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
_TERMINAL_STEP = frozenset(
    {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED}
)

RUN_MOVES: dict[RunStatus, frozenset[RunStatus]] = {
    RunStatus.PENDING: frozenset(
        {RunStatus.VALIDATING, RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}
    ),
    RunStatus.VALIDATING: frozenset({RunStatus.RUNNING, RunStatus.FAILED, RunStatus.CANCELLED}),
    RunStatus.RUNNING: frozenset(
        {RunStatus.CANCELLING, RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED}
    ),
    RunStatus.CANCELLING: frozenset({RunStatus.CANCELLED}),
    RunStatus.COMPLETED: frozenset(),
    RunStatus.FAILED: frozenset(),
    RunStatus.CANCELLED: frozenset(),
}
STEP_MOVES: dict[StepStatus, frozenset[StepStatus]] = {
    StepStatus.PENDING: frozenset(
        {StepStatus.QUEUED, StepStatus.SKIPPED, StepStatus.CANCELLED, StepStatus.COMPLETED}
    ),
    StepStatus.QUEUED: frozenset(
        {
            StepStatus.RUNNING,
            StepStatus.QUEUED,
            StepStatus.COMPLETED,
            StepStatus.FAILED,
            StepStatus.CANCELLED,
        }
    ),
    StepStatus.RUNNING: frozenset(
        {
            StepStatus.RUNNING,
            StepStatus.QUEUED,
            StepStatus.COMPLETED,
            StepStatus.FAILED,
            StepStatus.CANCELLED,
        }
    ),
    StepStatus.COMPLETED: frozenset(),
    StepStatus.FAILED: frozenset(),
    StepStatus.SKIPPED: frozenset(),
    StepStatus.CANCELLED: frozenset(),
}


class ErrorInfo(Document, frozen=True, kw_only=True):
    """What went wrong, for people and for statistics. At most 2 KiB as JSON."""

    code: str
    message: str


class Summary(Document, frozen=True, kw_only=True):
    """What a step reports of itself. At most 1 KiB as JSON; the rest stands in its evidence."""

    extracted: int = 0
    loaded: int = 0
    rejected: int = 0
    deduplicated: int = 0
    no_data: bool = False
    warnings: int = 0
    message: str = ""


class StepState(Document, frozen=True, kw_only=True):
    """A step as its run sees it. `attempt` counts from 1; `look_at` is when to look again.

    `counted` is the attempt whose result stands: of this run, or of `from_run` when the step was taken
    over from there.
    """

    status: StepStatus = StepStatus.PENDING
    attempt: int = 0
    look_at: datetime | None = None
    not_before: datetime | None = None
    requeues: int = 0
    failures: int = 0
    losses: int = 0
    counted: int | None = None
    from_run: str | None = None
    summary: Summary | None = None
    error: ErrorInfo | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None


class Transition(Document, frozen=True, kw_only=True):
    """One move of a run (`step` empty) or of a step, with its time and its reason."""

    at: datetime
    to: str
    step: str = ""
    attempt: int = 0
    reason: str = ""


class Params(Document, frozen=True, kw_only=True):
    """What a run was asked to do. Dates are inclusive UTC days."""

    start_date: date
    end_date: date
    credential_id: str = "none"
    parameters: dict[str, Json] = {}


class Run(Document, frozen=True, kw_only=True):
    """The run document. `wake_at` is the only thing the tick looks for; absent when nothing is due."""

    run_id: str
    org: str
    dataset: str
    address: str
    pipeline_id: str
    trigger: Trigger
    request_hash: str
    created_at: datetime
    status: RunStatus
    params: Params
    shard: int = 0
    tombstone: bool = False
    retry_of: str | None = None
    config_hash: str = ""
    code_version: str = ""
    trace: str = ""
    deadline: datetime | None = None
    reservation_expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    outcome: Outcome | None = None
    cancel_at: datetime | None = None
    stop_reason: str | None = None
    waiting_for: str | None = None
    retry_at: datetime | None = None
    wait_until: datetime | None = None
    mark: datetime | None = None
    wake_at: datetime | None = None
    effects_at: datetime | None = None
    effects_done: bool = False
    error: ErrorInfo | None = None
    steps: dict[str, StepState] = {}
    transitions: tuple[Transition, ...] = ()


class AttemptStatus(StrEnum):
    """An attempt is open while a worker holds it, then closed once and for ever."""

    OPEN = "open"
    CLOSED = "closed"


class Attempt(Document, frozen=True, kw_only=True):
    """One attempt of one step: `runs/{run_id}/attempts/{step_id}.{number}`.

    Created by the claim (open) or, for a step nobody has claimed, by a cancel or the deadline (closed).
    """

    run_id: str
    step_id: str
    number: int
    owner: str
    status: AttemptStatus
    started_at: datetime
    lease_until: datetime | None = None
    heartbeat_at: datetime | None = None
    result: Result | None = None
    closed_at: datetime | None = None
    retry_after_seconds: float | None = None
    summary: Summary | None = None
    error: ErrorInfo | None = None
    late: str | None = None

    @property
    def key(self) -> str:
        return attempt_key(self.step_id, self.number)

    @property
    def closed(self) -> bool:
        return self.status is AttemptStatus.CLOSED


class Timing(Document, frozen=True, kw_only=True):
    """Every time the protocol uses. Any values are safe; they move latency and cost only.

    A step that nobody has claimed is sent again after `requeue`; a long one, which a job claims when its
    machine is there, after `job_start`.
    """

    lease: timedelta = timedelta(seconds=180)
    heartbeat: timedelta = timedelta(seconds=60)
    lease_grace: timedelta = timedelta(seconds=15)
    requeue: timedelta = timedelta(seconds=60)
    job_start: timedelta = timedelta(minutes=5)
    requeue_cap: timedelta = timedelta(minutes=15)
    cancel_grace: timedelta = timedelta(seconds=90)
    deadline_grace: timedelta = timedelta(seconds=30)
    effects_delay: timedelta = timedelta(seconds=15)
    orphan_age: timedelta = timedelta(seconds=120)
    reservation_slack: timedelta = timedelta(minutes=15)
    quota_wait: timedelta = timedelta(seconds=60)
    lost_budget: int = 3
    fold_interval: timedelta = timedelta(milliseconds=250)


# One process: a restart ends the leases of the process before it, so they may outlast a slow disk.
EMBEDDED_TIMING = Timing(
    lease=timedelta(seconds=10),
    heartbeat=timedelta(seconds=2),
    lease_grace=timedelta(seconds=1),
    requeue=timedelta(seconds=5),
    job_start=timedelta(seconds=5),
    requeue_cap=timedelta(seconds=60),
    cancel_grace=timedelta(seconds=5),
    deadline_grace=timedelta(seconds=5),
    effects_delay=timedelta(seconds=1),
    orphan_age=timedelta(seconds=30),
    quota_wait=timedelta(seconds=2),
    fold_interval=timedelta(milliseconds=20),
)


def attempt_key(step_id: str, number: int) -> str:
    """The id of an attempt document inside its run."""
    return f"{step_id}.{number}"


def shard_of(run_id: str) -> int:
    """Spreads the tick's index; stored from the first day so that it can be used on any."""
    return sha256(run_id.encode()).digest()[0] % SHARDS


def derived_run_id(*parts: str) -> str:
    """The run id that follows from `parts` (organization, idempotency key, counter): same in, same out."""
    return "r" + sha256("\x1f".join(parts).encode()).hexdigest()[:25]


def clip(text: str, limit: int) -> str:
    """`text` in at most `limit` bytes of UTF-8, marked where it was cut."""
    raw = text.encode()
    if len(raw) <= limit:
        return text
    return raw[: limit - 4].decode(errors="ignore") + " …"
