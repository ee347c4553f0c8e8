"""Runs one attempt of one step: claim, work, close, tell.

The claim is the creation of the attempt. After it, the lease decides whose the attempt is, and the
conditional close decides what it came to; the message decides nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from functools import cached_property
from itertools import chain
from typing import Any

import msgspec

from shared.app import App
from shared.bus import Outgoing
from shared.core.lineage import Evidence, Fence, Finding, LoadReceipt, Slice, Writer
from shared.core.message import CompletionMessage, StepMessage, Topic, attributes_of, encode
from shared.core.plan import PUSH_SECONDS
from shared.core.providers import Provider
from shared.core.run import (
    MAX_ERROR_BYTES,
    MAX_SUMMARY_BYTES,
    Attempt,
    AttemptStatus,
    ErrorInfo,
    Result,
    Summary,
    clip,
)
from shared.core.secret import Secret
from shared.engine.advance import step_message
from shared.engine.lease import CANCELLED, TERMINATED, TIMED_OUT, TIMEOUT, Lease, LeaseKeeper
from shared.engine.subscriptions import every
from shared.engine.tokens import token_exchange
from shared.errors import (
    NotFound,
    PipelinesError,
    StepError,
    Stopped,
    Terminal,
    Transient,
    Unavailable,
)
from shared.http import Caller, Http
from shared.log import Level, fault_of, line_of
from shared.objects import ObjectStore
from shared.service_account import Tokens
from shared.state import Close, LogChunk
from shared.step import Processor
from shared.subscriptions import Revision
from shared.vault import Credential
from shared.warehouse import Batches, Files, Load, Table, Warehouse

MAX_LOG_BYTES = 256 * 1024
MAX_EVIDENCE_BYTES = 512 * 1024
LISTED_OBJECTS = 1000
MAX_LINE_BYTES = 16 * 1024
_MAX_EVENT_BYTES = 1024
_OUR_FIELDS = frozenset({"severity", "time", "message", "step", "attempt", "org", "run", "event"})
_OVERRUN_GRACE = timedelta(seconds=30)
_OUR_STORE = "a store of the engine could not be reached"  # which, and where, is for its operator


class Worker:
    """One a process: its leases are renewed by one thread."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._leases = LeaseKeeper(app)

    def close(self) -> None:
        self._leases.close()

    def end(self) -> None:
        """Stops what runs and closes its attempts as lost: this machine is about to go away."""
        self._leases.end()

    def take(self, message: StepMessage) -> None:
        """Runs the attempt, or has a job run it when it may take longer than a push request lives.

        Raises Unavailable as `work` does. A job that cannot be started is not told to the bus, which
        would hold up every other step: the visit that finds no claim sends the message again.
        """
        app = self._app
        if app.jobs is None or message.timeout_seconds <= PUSH_SECONDS:
            self.work(message)
            return
        place = {"run": message.run_id, "step": message.step_id, "attempt": message.attempt}
        if app.now() >= message.not_after or self._is_claimed(message):
            return
        try:
            app.jobs.start(
                message.run_id,
                message.step_id,
                message.attempt,
                timedelta(seconds=message.timeout_seconds),
            )
        except Unavailable as error:
            app.log.error("step.job_not_started", org=message.org, **place, error=str(error))
        else:
            app.log.info("step.job_started", org=message.org, **place)

    def work_in_job(self, run_id: str, step_id: str, attempt: int) -> None:
        """What `take` has started. Does nothing when the run does not wait for that attempt (any more).

        Raises Unavailable.
        """
        app = self._app
        stored = app.runs.run(run_id)
        state = None if stored is None else stored.run.steps.get(step_id)
        if stored is None or state is None or not state.status.released or state.attempt != attempt:
            app.log.info("step.not_wanted", run=run_id, step=step_id, attempt=attempt)
            return
        self.work(step_message(stored.run, stored.plan, step_id, attempt))

    def work(self, message: StepMessage) -> None:
        """Runs the attempt if it is still to be had. Returns when its end is stored and told.

        Raises Unavailable when the run store cannot be reached: then the message must come again.
        """
        app = self._app
        if app.now() >= message.not_after:
            return  # the deadline closes what nobody claimed
        owner = app.new_id()
        now = app.now()
        claim = Attempt(
            run_id=message.run_id,
            step_id=message.step_id,
            number=message.attempt,
            owner=owner,
            status=AttemptStatus.OPEN,
            started_at=now,
            lease_until=min(now + app.timing.lease, message.not_after + _OVERRUN_GRACE),
        )
        stored = app.runs.claim(claim)
        if stored is None:
            self._is_claimed(message)
            return
        lease = Lease(app, stored, timedelta(seconds=message.timeout_seconds))
        log = StepLines(app, message)
        how = self._run(message, lease, log)
        if how is None:
            app.runs.record_late(message.run_id, message.step_id, message.attempt, "stopped")
            log.flush()
            return
        rest = log.rest()
        if not self._close(message, lease, how._replace(log=rest)):
            log.keep(rest)

    def _is_claimed(self, message: StepMessage) -> bool:
        there = self._app.runs.attempt(message.run_id, message.step_id, message.attempt)
        if there is not None and there.attempt.closed:
            self._tell(message)  # its worker may have died before it could
        return there is not None

    def _run(self, message: StepMessage, lease: Lease, log: StepLines) -> Close | None:
        """How the attempt ends; None when it is no longer this worker's to end."""
        app = self._app
        step = RunningStep(app, message, lease, log)
        self._leases.add(lease)
        lease.flush = log.flush
        error: ErrorInfo | None = None
        retry_after: float | None = None
        try:
            processor = app.processors.get(message.ps_type)
            if processor is None:
                raise Terminal(f"no processor {message.ps_type!r} in this release", code="config")
            config = _config(processor, message)
            lease.check()
            result = processor.run(step, config)
            return Close(
                Result.OK,
                app.now(),
                summary=_bounded(result.summary),
                evidence=_encoded(result.evidence),
            )
        except Transient as raised:
            if raised.retry_after is not None:
                retry_after = raised.retry_after.total_seconds()
            outcome, error = Result.TRANSIENT, _info(raised.code, str(raised))
        except Stopped as raised:
            if lease.stopped == TIMEOUT:  # a statement was interrupted, the attempt is still ours
                outcome, error = Result.TRANSIENT, _info(TIMEOUT, TIMED_OUT)
            elif lease.stopped == CANCELLED:
                outcome, error = Result.CANCELLED, _info(raised.code, str(raised))
            elif lease.stopped == TERMINATED:
                outcome, error = Result.LOST, _info("lost", TERMINATED)
            else:
                return None
        except StepError as raised:
            outcome, error = Result.TERMINAL, _info(raised.code, str(raised))
        except Unavailable as raised:
            app.log.error("store.unavailable", run=message.run_id, error=str(raised))
            outcome, error = Result.TRANSIENT, _info("unavailable", _OUR_STORE)
        except PipelinesError as raised:
            outcome, error = Result.TERMINAL, _info("config", str(raised))
        except Exception as raised:  # noqa: BLE001  # a fault in a processor ends its step, not the worker
            fault = fault_of(raised)
            said = f"{fault['error']} in {fault['where']}"
            outcome, error = Result.TERMINAL, _info("processor_fault", said)
        finally:
            self._leases.remove(lease)
        log.error("step.failed", code=error.code, error=error.message)
        return Close(outcome, app.now(), error=error, retry_after_seconds=retry_after)

    def _close(self, message: StepMessage, lease: Lease, how: Close) -> bool:
        """False: the attempt is closed, but by somebody else."""
        app = self._app
        if app.runs.close_attempt(lease.stored, how):
            self._tell(message)
            return True
        there = app.runs.attempt(message.run_id, message.step_id, message.attempt)
        # A heartbeat of ours may have come between: then the attempt is as we renewed it.
        if (
            there is not None
            and not there.attempt.closed
            and there.attempt.owner == lease.stored.attempt.owner
            and app.runs.close_attempt(there, how)
        ):
            self._tell(message)
            return True
        if there is not None and there.attempt.closed:
            app.runs.record_late(message.run_id, message.step_id, message.attempt, how.result)
        return False

    def _tell(self, message: StepMessage) -> None:
        done = CompletionMessage(
            run_id=message.run_id, step_id=message.step_id, attempt=message.attempt
        )
        attributes = attributes_of(message.run_id, message.org, message.trace)
        self._app.bus.publish([Outgoing(Topic.COMPLETIONS, encode(done), None, attributes)])


class RunningStep:
    """The StepContext of one attempt."""

    def __init__(self, app: App, message: StepMessage, lease: Lease, log: StepLines) -> None:
        self._app = app
        self._lease = lease
        self._provider = message.provider
        self._opened: list[Secret] = []
        self._tokens: dict[str, Tokens] = {}
        self.org = message.org
        self.dataset = message.dataset
        self.pipeline_id = message.pipeline_id
        self.provider = message.provider
        self.run_id = message.run_id
        self.step_id = message.step_id
        self.attempt = message.attempt
        self.start_date: date = message.start_date
        self.end_date: date = message.end_date
        self.credential_id = message.credential_id
        self.log = log
        self.deadline: datetime = min(
            app.now() + timedelta(seconds=message.timeout_seconds), message.not_after
        )
        self.writer = Writer(
            message.run_id,
            message.step_id,
            Fence(message.run_created_at, message.run_created_at, message.attempt),
        )

    @cached_property
    def warehouse(self) -> Warehouse:
        warehouse = self._app.warehouse()
        self._lease.on_stop(lambda: warehouse.interrupt(self.writer))
        return warehouse

    @cached_property
    def registry(self) -> Provider:
        try:
            return self._app.providers().get(self._provider)
        except NotFound as error:
            raise Terminal(str(error), code="config") from error

    @cached_property
    def http(self) -> Http:
        app, lease, registry = self._app, self._lease, self.registry
        return app.http().open(
            Caller(
                account=(registry.name, self.org, self.credential_id),
                addresses=tuple(registry.base_urls.values()),
                rate=registry.limits,
                left=lambda: lease.deadline - app.monotonic(),
                check=lease.check,
                on_stop=lease.on_stop,
                secrets=lambda: chain.from_iterable(map(registry.secrets_of, self._opened)),
                log=self.log,
            )
        )

    def check(self) -> None:
        self._lease.check()

    def now(self) -> datetime:
        return self._app.now()

    def credential(self) -> Credential:
        opened = self._app.vault.open(self.org, self._provider, self.credential_id)
        self._opened.append(opened.secret)
        return opened

    def token(self, scope: str) -> str:
        if scope not in self._tokens:
            exchange = token_exchange(self.http, self.registry)
            self._tokens[scope] = Tokens(
                lambda: self.credential().secret, scope, exchange, now=self._app.now
            )
        return self._tokens[scope].get()

    def objects(self, url: str) -> ObjectStore:
        return self._app.objects(self.org, url, self.credential)

    def subscriptions(self) -> Iterator[Revision]:
        return every(self._app, self.org)

    def slice(self, run_date: date) -> Slice:
        return Slice(self.org, self.pipeline_id, self.credential_id, run_date)

    def load(
        self,
        table: Table,
        source: Files | Batches,
        *,
        covers: frozenset[Slice],
        source_version: str,
        source_at: datetime,
        **options: Any,
    ) -> LoadReceipt:
        warehouse = self.warehouse
        writer = self.writer._replace(fence=self.writer.fence._replace(source_at=source_at))
        self._lease.on_stop(lambda: warehouse.interrupt(writer))
        self.check()
        return warehouse.load(
            Load(
                dataset=self.dataset,
                table=table,
                covers=covers,
                writer=writer,
                source=source,
                source_version=source_version,
                source_at=source_at,
                check=self.check,
                **options,
            )
        )


class StepLines:
    """The log of one attempt: kept in memory, flushed as numbered chunks with each lease renewal.

    The step's thread and that of the leases both flush. A store that is away does not fail a step that
    writes to its log: one chunk waits, and beyond another one's lines, lines are dropped and counted.
    """

    def __init__(self, app: App, message: StepMessage) -> None:
        self._app = app
        self._message = message
        self._guard = threading.RLock()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._dropped = 0
        self._chunks = 0
        self._chunk: LogChunk | None = None  # made, and not known to be stored

    def info(self, event: str, **fields: object) -> None:
        self._add(Level.INFO, event, fields)

    def warning(self, event: str, **fields: object) -> None:
        self._add(Level.WARNING, event, fields)

    def error(self, event: str, **fields: object) -> None:
        self._add(Level.ERROR, event, fields)

    def flush(self) -> None:
        """Stores what was written since the last flush. Raises Unavailable: then it comes with the next."""
        with self._guard:
            self._store()
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self.warning("log.lines_dropped", lines=dropped)
            lines = self._take()
            if lines:
                self._chunks += 1
                message = self._message
                self._chunk = LogChunk(message.step_id, message.attempt, self._chunks, lines)
                self._store()

    def rest(self) -> bytes:
        """What no chunk has, for the close of the attempt to store. Raises Unavailable as `flush`."""
        with self._guard:
            self._store()
            return self._take()

    def keep(self, lines: bytes) -> None:
        """Stores the rest as a chunk, since the close that should have stored it was somebody else's."""
        with self._guard:
            self._lines.insert(0, lines)
            self._bytes += len(lines)
            self.flush()

    def _take(self) -> bytes:
        lines, self._lines, self._bytes = b"".join(self._lines), [], 0
        return lines

    def _store(self) -> None:
        # The same lines as often as it takes: a try without an answer may have stored them.
        if self._chunk is not None:
            self._app.runs.append_log(self._message.run_id, self._chunk, self._app.now())
            self._chunk = None

    def _add(self, level: Level, event: str, given: dict[str, object]) -> None:
        message = self._message
        place: dict[str, object] = {"step": message.step_id, "attempt": message.attempt}
        fields = {f"{name}_" if name in _OUR_FIELDS else name: given[name] for name in given}
        now = self._app.now()
        line = line_of(level, event, {**place, **fields}, now).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            began = line[:1000].decode(errors="ignore")
            event = clip(event, _MAX_EVENT_BYTES)
            line = line_of(level, event, {**place, "too_long": began}, now).encode() + b"\n"
        with self._guard:
            if self._bytes + len(line) > MAX_LOG_BYTES:
                self._make_room()
            if self._bytes + len(line) > MAX_LOG_BYTES:
                self._dropped += 1
            else:
                self._lines.append(line)
                self._bytes += len(line)
        if level >= self._app.log.level:
            log = self._app.log
            write = {Level.WARNING: log.warning, Level.ERROR: log.error}.get(level, log.info)
            write(event, org=message.org, run=message.run_id, **place, **fields)

    def _make_room(self) -> None:
        try:
            self.flush()
        except Unavailable:
            return  # the next flush tries again


def _config(processor: Processor, message: StepMessage) -> object:
    try:
        return msgspec.convert(message.config, processor.config)
    except msgspec.ValidationError as error:
        raise Terminal(f"{message.ps_type}: config: {error}", code="config") from error


def _info(code: str, message: str) -> ErrorInfo:
    return ErrorInfo(code=code, message=clip(message, MAX_ERROR_BYTES - 100))


def _encoded(evidence: Evidence) -> bytes:
    """The evidence as stored. Of very many objects the first are listed, and that it is so is told."""
    raw = msgspec.json.encode(evidence)
    if len(raw) <= MAX_EVIDENCE_BYTES:
        return raw
    cut = Finding(
        code="objects_listed_in_part",
        message=f"{len(evidence.objects)} objects were read; the first {LISTED_OBJECTS} are listed",
    )
    listed = evidence.objects[:LISTED_OBJECTS]
    return msgspec.json.encode(
        msgspec.structs.replace(evidence, objects=listed, findings=(*evidence.findings, cut))
    )


def _bounded(summary: Summary) -> Summary:
    return msgspec.structs.replace(summary, message=clip(summary.message, MAX_SUMMARY_BYTES - 300))
