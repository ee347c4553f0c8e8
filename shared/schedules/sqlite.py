"""Schedules in the journal's SQLite file. Times are whole microseconds since 1970, UTC."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from shared.core.schedule import Enrolment
from shared.journal import Journal
from shared.schedules import Skipped

SCHEMA = """
CREATE TABLE IF NOT EXISTS schedules (
    org TEXT NOT NULL,
    schedule_id TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    due_at INTEGER,                         -- NULL: never
    enrolment BLOB NOT NULL,                -- JSON
    PRIMARY KEY (org, schedule_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS schedules_due ON schedules (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE IF NOT EXISTS skipped (
    org TEXT NOT NULL,
    schedule_id TEXT NOT NULL,
    first INTEGER NOT NULL,
    reason TEXT NOT NULL,
    skipped BLOB NOT NULL,                  -- JSON
    PRIMARY KEY (org, schedule_id, first, reason)
) STRICT, WITHOUT ROWID;
"""

_ONE = "SELECT enrolment FROM schedules WHERE org = ? AND schedule_id = ?"
_ALL = """
SELECT enrolment FROM schedules
WHERE (?1 IS NULL OR org = ?1) AND (org, schedule_id) > (?2, ?3)
ORDER BY org, schedule_id LIMIT ?4
"""
_DUE = "SELECT enrolment FROM schedules WHERE due_at <= ? ORDER BY due_at, org, schedule_id LIMIT ? OFFSET ?"
_WRITE = """
INSERT INTO schedules (org, schedule_id, version, due_at, enrolment)
SELECT :org, :id, :version, :due_at, :enrolment
WHERE :version = 1 OR EXISTS (SELECT 1 FROM schedules WHERE org = :org AND schedule_id = :id)
ON CONFLICT (org, schedule_id) DO UPDATE SET
    version = excluded.version, due_at = excluded.due_at, enrolment = excluded.enrolment
WHERE schedules.version = excluded.version - 1 OR schedules.enrolment = excluded.enrolment
RETURNING version
"""
_SKIP = "INSERT OR IGNORE INTO skipped VALUES (?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM schedules WHERE org = ? AND schedule_id = ?"
_SKIPPED = """
SELECT skipped FROM skipped WHERE org = ?1 AND schedule_id = ?2 AND (?3 IS NULL OR first < ?3)
ORDER BY first DESC, reason LIMIT ?4
"""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteSchedules:
    """The port of schedules over a journal."""

    def __init__(self, journal: Journal) -> None:
        """Makes the tables."""
        self._journal = journal
        journal.extend(SCHEMA)

    def enrolment(self, org: str, schedule_id: str) -> Enrolment | None:
        found = self._enrolments(_ONE, (org, schedule_id))
        return found[0] if found else None

    def enrolments(
        self, org: str | None = None, after: tuple[str, str] = ("", ""), limit: int = 500
    ) -> list[Enrolment]:
        return self._enrolments(_ALL, (org, *after, limit))

    def due(self, now: datetime, limit: int = 500, skip: int = 0) -> list[Enrolment]:
        return self._enrolments(_DUE, (_micros(now), limit, skip))

    def write(
        self, enrolments: Sequence[Enrolment], skipped: Sequence[Skipped] = ()
    ) -> list[Enrolment]:
        skips = [
            (one.org, one.schedule_id, _micros(one.skip.first), one.skip.reason, _json(one))
            for one in skipped
        ]

        def write(db: sqlite3.Connection) -> list[Enrolment]:
            db.executemany(_SKIP, skips)
            return [one for one in enrolments if db.execute(_WRITE, _row(one)).fetchone()]

        return self._journal.write(write)

    def remove(self, org: str, schedule_id: str) -> bool:
        return self._journal.write(lambda db: db.execute(_REMOVE, (org, schedule_id)).rowcount == 1)

    def skipped(
        self, org: str, schedule_id: str, before: datetime | None = None, limit: int = 50
    ) -> list[Skipped]:
        values = (org, schedule_id, None if before is None else _micros(before), limit)
        rows = self._journal.read(lambda db: db.execute(_SKIPPED, values).fetchall())
        return [msgspec.json.decode(raw, type=Skipped) for (raw,) in rows]

    def close(self) -> None:
        """Nothing is held: the journal is its owner's, who closes it after all that share it."""

    def _enrolments(self, statement: str, values: Sequence[object]) -> list[Enrolment]:
        rows = self._journal.read(lambda db: db.execute(statement, values).fetchall())
        return [msgspec.json.decode(raw, type=Enrolment) for (raw,) in rows]


def _row(enrolment: Enrolment) -> dict[str, object]:
    return {
        "org": enrolment.org,
        "id": enrolment.schedule_id,
        "version": enrolment.version,
        "due_at": None if enrolment.due_at is None else _micros(enrolment.due_at),
        "enrolment": _json(enrolment),
    }


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND
