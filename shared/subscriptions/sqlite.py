"""Subscriptions in the journal's SQLite file, beside the accounts and their audit."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec

from shared.journal import Journal
from shared.subscriptions import Revision

SCHEMA = """
CREATE TABLE IF NOT EXISTS subscriptions (
    org TEXT NOT NULL,
    subscription_id TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    revision TEXT NOT NULL,                 -- JSON
    PRIMARY KEY (org, subscription_id, number)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER IF NOT EXISTS subscriptions_stay_as_they_were BEFORE UPDATE ON subscriptions
BEGIN SELECT raise(ABORT, 'a revision is never changed'); END;
CREATE TRIGGER IF NOT EXISTS subscriptions_stay BEFORE DELETE ON subscriptions
BEGIN SELECT raise(ABORT, 'a revision is never deleted'); END;
"""

_NEWEST = """
SELECT revision FROM subscriptions AS s
WHERE org = ? AND subscription_id > ? AND (? IS NULL OR subscription_id IN (SELECT value FROM json_each(?)))
    AND number = (
        SELECT max(number) FROM subscriptions AS o
        WHERE o.org = s.org AND o.subscription_id = s.subscription_id
    )
ORDER BY subscription_id LIMIT ?
"""
_HISTORY = """
SELECT revision FROM subscriptions
WHERE org = ? AND subscription_id = ? AND number < ? ORDER BY number DESC LIMIT ?
"""
_STORED = """
SELECT coalesce(max(number), 0), max(iif(number = :number, revision, NULL)) FROM subscriptions
WHERE org = :org AND subscription_id = :id
"""
_ADD = "INSERT INTO subscriptions VALUES (:org, :id, :number, :revision)"
_NOTE = """
INSERT OR IGNORE INTO audit (entry, at, org, key_id, key_name, request_id, verb, target, before, after)
VALUES (:entry, :at, :org, :key_id, :key_name, :request_id, :verb, :id, :before, :after)
"""
_NO_END = 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteSubscriptions:
    """The port of subscriptions over a journal."""

    def __init__(self, journal: Journal) -> None:
        """Makes the table."""
        self._journal = journal
        journal.extend(SCHEMA)

    def newest(
        self, org: str, after: str = "", limit: int = 200, ids: Sequence[str] | None = None
    ) -> list[Revision]:
        wanted = None if ids is None else _json(list(ids))
        return self._read(_NEWEST, (org, after, wanted, wanted, limit))

    def history(
        self, org: str, subscription_id: str, before: int | None = None, limit: int = 50
    ) -> list[Revision]:
        return self._read(_HISTORY, (org, subscription_id, before or _NO_END, limit))

    def add(self, org: str, revisions: Sequence[Revision]) -> bool:
        rows = [{"org": org, **_row(one)} for one in revisions]

        def add(db: sqlite3.Connection) -> bool:
            new = []
            for row in rows:
                newest, same = db.execute(_STORED, row).fetchone()
                if same == row["revision"]:
                    continue
                if row["number"] != newest + 1:
                    return False
                new.append(row)
            db.executemany(_ADD, new)
            db.executemany(_NOTE, new)
            return True

        return self._journal.write(add)

    def close(self) -> None:
        """Nothing is held: the journal is its owner's, who closes it after all that share it."""

    def _read(self, statement: str, values: Sequence[object]) -> list[Revision]:
        rows = self._journal.read(lambda db: db.execute(statement, values).fetchall())
        return [msgspec.json.decode(text, type=Revision) for (text,) in rows]


def _row(revision: Revision) -> dict[str, object]:
    return {
        "id": revision.subscription.subscription_id,
        "number": revision.number,
        "revision": _json(revision),
        "entry": revision.entry,
        "at": (revision.at - _EPOCH) // _MICROSECOND,
        "key_id": revision.key_id,
        "key_name": revision.key_name,
        "request_id": revision.request_id,
        "verb": revision.verb,
        "before": None if revision.before is None else _json(revision.before),
        "after": None if revision.after is None else _json(revision.after),
    }


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
