"""Runs in one SQLite file: the embedded run store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast

import msgspec
from msgspec.structs import replace

from shared.core.plan import Plan
from shared.core.run import Attempt, AttemptStatus, Run, RunStatus
from shared.errors import Invalid
from shared.journal import Journal
from shared.state import (
    Close,
    HistoryFilter,
    LogChunk,
    Page,
    PlacedChunk,
    StoredAttempt,
    StoredRun,
)

SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT,
    pipeline_id TEXT NOT NULL,
    trigger TEXT NOT NULL,
    tombstone INTEGER NOT NULL,
    wake_at INTEGER,
    version INTEGER NOT NULL,
    writer TEXT NOT NULL,
    doc BLOB NOT NULL,
    plan BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_due ON runs (wake_at) WHERE wake_at IS NOT NULL;
-- Every filter of a history is answered from this index alone; a page then reads its own runs only.
DROP INDEX IF EXISTS runs_history;
CREATE INDEX IF NOT EXISTS runs_by_time ON runs
    (org, created_at DESC, run_id DESC, pipeline_id, trigger, status, outcome, tombstone);
CREATE TABLE IF NOT EXISTS attempts (
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    version INTEGER NOT NULL,
    open INTEGER NOT NULL,
    closed_at INTEGER,
    doc BLOB NOT NULL,
    evidence BLOB NOT NULL DEFAULT x'',
    PRIMARY KEY (run_id, step_id, number)
);
CREATE INDEX IF NOT EXISTS attempts_open ON attempts (run_id) WHERE open;
CREATE TABLE IF NOT EXISTS log_chunks (
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    number INTEGER NOT NULL,
    lines BLOB NOT NULL,
    PRIMARY KEY (run_id, step_id, attempt, number)
);
CREATE INDEX IF NOT EXISTS log_order ON log_chunks (run_id);  -- by rowid: as they were stored
"""

# The log that is stored with the close of an attempt follows every chunk flushed while it ran.
LAST_CHUNK = 1 << 30

_APPEND = (
    "INSERT OR IGNORE INTO log_chunks (run_id, step_id, attempt, number, lines)"
    " VALUES (?, ?, ?, ?, ?)"
)
_READ_LOG = (
    "SELECT rowid, step_id, attempt, number, lines FROM log_chunks"
    " WHERE run_id = :run AND rowid > :after AND (:step IS NULL OR step_id = :step)"
    " ORDER BY rowid LIMIT :limit"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = msgspec.json.Encoder().encode
_decode_run = msgspec.json.Decoder(Run).decode
_decode_attempt = msgspec.json.Decoder(Attempt).decode


@lru_cache(maxsize=64)  # a plan may have hundreds of kilobytes
def _decode_plan(plan: bytes) -> Plan:
    return msgspec.json.decode(plan, type=Plan)


def _micros(at: datetime | None) -> int | None:
    return None if at is None else (at - _EPOCH) // _MICROSECOND


class SqliteRunStore:
    """RunStore over a Journal. A claim and a new run are waited for; the rest follows in order."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        journal.extend(SCHEMA)

    def create_run(self, run: Run, plan: Plan, writer: str) -> bool:
        row = (
            run.run_id,
            run.org,
            _micros(run.created_at),
            run.status,
            run.outcome,
            run.pipeline_id,
            run.trigger,
            run.tombstone,
            _micros(run.wake_at),
            writer,
            _encode(run),
            _encode(plan),
        )
        cursor = self._journal.execute(
            "INSERT INTO runs (run_id, org, created_at, status, outcome, pipeline_id, trigger,"
            " tombstone, wake_at, version, writer, doc, plan)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?, ?, ?) ON CONFLICT (run_id) DO NOTHING",
            row,
            wait=True,
        )
        return cursor.rowcount == 1

    def run(self, run_id: str) -> StoredRun | None:
        def select(db: sqlite3.Connection) -> tuple[bytes, bytes, int, str] | None:
            found: tuple[bytes, bytes, int, str] | None = db.execute(
                "SELECT doc, plan, version, writer FROM runs WHERE run_id = ?", (run_id,)
            ).fetchone()
            return found

        row = self._journal.read(select)
        if row is None:
            return None
        return StoredRun(_decode_run(row[0]), _decode_plan(row[1]), row[2], row[3])

    def replace_run(self, stored: StoredRun, after: Run, writer: str) -> StoredRun | None:
        row = (
            after.status,
            after.outcome,
            _micros(after.wake_at),
            writer,
            _encode(after),
            after.run_id,
            stored.version,
        )
        cursor = self._journal.execute(
            "UPDATE runs SET status = ?, outcome = ?, wake_at = ?, version = version + 1,"
            " writer = ?, doc = ? WHERE run_id = ? AND version = ?",
            row,
            wait=False,
        )
        if cursor.rowcount != 1:
            return None
        return StoredRun(after, stored.plan, cast("int", stored.version) + 1, writer)

    def claim(self, attempt: Attempt) -> StoredAttempt | None:
        is_open = attempt.status is AttemptStatus.OPEN
        row = (
            attempt.run_id,
            attempt.step_id,
            attempt.number,
            is_open,
            _micros(attempt.closed_at),
            _encode(attempt),
        )
        cursor = self._journal.execute(
            "INSERT INTO attempts (run_id, step_id, number, version, open, closed_at, doc)"
            " VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (run_id, step_id, number) DO NOTHING",
            row,
            wait=is_open,
        )
        return StoredAttempt(attempt, 1) if cursor.rowcount == 1 else None

    def attempt(self, run_id: str, step_id: str, number: int) -> StoredAttempt | None:
        return self.attempts(run_id, [(step_id, number)]).get((step_id, number))

    def attempts(
        self, run_id: str, keys: Iterable[tuple[str, int]]
    ) -> Mapping[tuple[str, int], StoredAttempt]:
        def select(db: sqlite3.Connection) -> list[tuple[tuple[str, int], bytes, int]]:
            found = []
            for key in keys:
                row = db.execute(
                    "SELECT doc, version FROM attempts"
                    " WHERE run_id = ? AND step_id = ? AND number = ?",
                    (run_id, *key),
                ).fetchone()
                if row is not None:
                    found.append((key, row[0], row[1]))
            return found

        return {
            key: StoredAttempt(_decode_attempt(doc), version)
            for key, doc, version in self._journal.read(select)
        }

    def closed_since(self, run_id: str, mark: datetime | None) -> list[Attempt]:
        since = -1 if mark is None else _micros(mark)

        def select(db: sqlite3.Connection) -> list[tuple[bytes]]:
            return db.execute(
                "SELECT doc FROM attempts WHERE run_id = ? AND closed_at > ?", (run_id, since)
            ).fetchall()

        return [_decode_attempt(row[0]) for row in self._journal.read(select)]

    def renew(
        self, stored: StoredAttempt, lease_until: datetime, heartbeat_at: datetime
    ) -> StoredAttempt | None:
        after = replace(stored.attempt, lease_until=lease_until, heartbeat_at=heartbeat_at)
        if not self._change(stored, after):
            return None
        return StoredAttempt(after, cast("int", stored.version) + 1)

    def close_attempt(self, stored: StoredAttempt, how: Close) -> bool:
        if stored.attempt.closed:
            return False
        after = replace(
            stored.attempt,
            status=AttemptStatus.CLOSED,
            result=how.result,
            closed_at=how.at,
            summary=how.summary,
            error=how.error,
            retry_after_seconds=how.retry_after_seconds,
        )
        return self._change(stored, after, how.evidence, how.log)

    def _change(
        self, stored: StoredAttempt, after: Attempt, evidence: bytes = b"", log: bytes = b""
    ) -> bool:
        key = (after.run_id, after.step_id, after.number)
        row = (
            not after.closed,
            _micros(after.closed_at),
            _encode(after),
            evidence,
            *key,
            stored.version,
        )

        def update(db: sqlite3.Connection) -> bool:
            changed = db.execute(
                "UPDATE attempts SET open = ?, closed_at = ?, doc = ?, evidence = ?,"
                " version = version + 1"
                " WHERE run_id = ? AND step_id = ? AND number = ? AND version = ?",
                row,
            )
            if changed.rowcount == 1 and log:
                db.execute(_APPEND, (*key, LAST_CHUNK, log))
            return changed.rowcount == 1

        return self._journal.write(update, wait=False)

    def record_late(self, run_id: str, step_id: str, number: int, late: str) -> None:
        key = (run_id, step_id, number)

        def update(db: sqlite3.Connection) -> None:
            row = db.execute(
                "SELECT doc FROM attempts WHERE run_id = ? AND step_id = ? AND number = ?", key
            ).fetchone()
            if row is not None:
                after = _encode(replace(_decode_attempt(row[0]), late=late))
                db.execute(
                    "UPDATE attempts SET doc = ?, version = version + 1"
                    " WHERE run_id = ? AND step_id = ? AND number = ?",
                    (after, *key),
                )

        self._journal.write(update, wait=False)

    def run_status(self, run_id: str) -> RunStatus | None:
        row = self._journal.read(
            lambda db: db.execute("SELECT status FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        )
        return None if row is None else RunStatus(row[0])

    def due(self, now: datetime, limit: int = 500) -> list[str]:
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT run_id FROM runs WHERE wake_at <= ? ORDER BY wake_at LIMIT ?",
                (_micros(now), limit),
            ).fetchall()
        )
        return [row[0] for row in rows]

    def history(
        self, org: str, where: HistoryFilter, limit: int = 50, cursor: str | None = None
    ) -> Page:
        clauses, values = ["org = ?", "NOT tombstone"], [org]
        for column, value in (
            ("pipeline_id = ?", where.pipeline_id),
            ("status = ?", where.status),
            ("outcome = ?", where.outcome),
            ("trigger = ?", where.trigger),
            ("created_at >= ?", _micros(where.created_from)),
            ("created_at < ?", _micros(where.created_before)),
        ):
            if value is not None:
                clauses.append(column)
                values.append(value)  # type: ignore[arg-type]  # SQLite takes texts and integers
        if cursor is not None:
            clauses.append("(created_at, run_id) < (?, ?)")
            values.extend(_read_cursor(cursor))  # type: ignore[arg-type]  # as above
        rows = self._journal.read(
            lambda db: db.execute(
                f"SELECT doc FROM runs WHERE {' AND '.join(clauses)}"
                " ORDER BY created_at DESC, run_id DESC LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        )
        runs = [_decode_run(row[0]) for row in rows[:limit]]
        more = len(rows) > limit
        return Page(runs, f"{_micros(runs[-1].created_at)}.{runs[-1].run_id}" if more else None)

    def attempts_of(self, run_id: str) -> list[Attempt]:
        rows = self._journal.read(
            lambda db: db.execute("SELECT doc FROM attempts WHERE run_id = ?", (run_id,)).fetchall()
        )
        found = [_decode_attempt(row[0]) for row in rows]
        return sorted(found, key=lambda attempt: (attempt.started_at, attempt.key))

    def evidence(self, run_id: str) -> list[tuple[str, int, bytes]]:
        return self._journal.read(
            lambda db: db.execute(
                "SELECT step_id, number, evidence FROM attempts"
                " WHERE run_id = ? AND evidence != x'' ORDER BY closed_at",
                (run_id,),
            ).fetchall()
        )

    def append_log(self, run_id: str, chunk: LogChunk, at: datetime) -> None:  # noqa: ARG002  # the file has an order of its own
        row = (run_id, chunk.step_id, chunk.attempt, chunk.number, chunk.lines)
        self._journal.execute(_APPEND, row, wait=False)

    def read_log(
        self,
        run_id: str,
        after: str | None = None,
        step_id: str | None = None,
        *,
        live: bool = False,  # noqa: ARG002  # one writer: nothing comes before what is there
        limit: int = 4,
    ) -> list[PlacedChunk]:
        values = {
            "run": run_id,
            "after": 0 if after is None else _read_place(after),
            "step": step_id,
            "limit": limit,
        }
        rows = self._journal.read(lambda db: db.execute(_READ_LOG, values).fetchall())
        return [PlacedChunk(str(place), LogChunk(*chunk)) for place, *chunk in rows]

    def unfinished(self) -> list[str]:
        """The runs that somebody still has to look at: what a restart begins with."""
        rows = self._journal.read(
            lambda db: db.execute(
                "SELECT run_id FROM runs WHERE wake_at IS NOT NULL ORDER BY wake_at"
            ).fetchall()
        )
        return [row[0] for row in rows]

    def expire_leases(self, now: datetime) -> int:
        """Ends the lease of every open attempt; the count of them.

        Only for the process that has just taken over the file: every worker there was is dead.
        """
        ended = now - timedelta(hours=1)

        def update(db: sqlite3.Connection) -> int:
            rows = db.execute(
                "SELECT run_id, step_id, number, doc FROM attempts WHERE open"
            ).fetchall()
            for run_id, step_id, number, doc in rows:
                after = _encode(replace(_decode_attempt(doc), lease_until=ended))
                db.execute(
                    "UPDATE attempts SET doc = ?, version = version + 1"
                    " WHERE run_id = ? AND step_id = ? AND number = ?",
                    (after, run_id, step_id, number),
                )
            return len(rows)

        return self._journal.write(update)

    def sync(self) -> None:
        self._journal.sync()

    def close(self) -> None:
        self._journal.close()


def _read_cursor(cursor: str) -> tuple[int, str]:
    micros, dot, run_id = cursor.partition(".")
    if not dot or not micros.isascii() or not micros.isdigit() or len(micros) > 18:
        raise Invalid("cursor: not one of ours; take it from `next` of the page before")
    return int(micros), run_id


def _read_place(place: str) -> int:
    if not place.isascii() or not place.isdigit() or len(place) > 18:
        raise Invalid("cursor: not a place in a log of ours")
    return int(place)
