"""Schedules in PostgreSQL, beside the accounts, in the schema of `supabase/`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared.core.schedule import Enrolment
from shared.schedules import Skipped

PATIENCE = timedelta(seconds=8)  # above the 5 s that the role's settings give a statement

_ONE = "SELECT enrolment FROM accounts.schedules WHERE org = %(org)s AND schedule_id = %(id)s"
_ALL = """
SELECT enrolment FROM accounts.schedules
WHERE (%(org)s::text IS NULL OR org = %(org)s::text)
    AND (org COLLATE "C", schedule_id COLLATE "C") > (%(after_org)s, %(after_id)s)
ORDER BY org COLLATE "C", schedule_id COLLATE "C" LIMIT %(limit)s
"""
_DUE = """
SELECT enrolment FROM accounts.schedules WHERE due_at <= %(now)s
ORDER BY due_at, org COLLATE "C", schedule_id COLLATE "C" LIMIT %(limit)s OFFSET %(skip)s
"""
# What has a version above 1 must be there; what is there already as given was written by this very call.
_WRITE = """
WITH told AS (
    INSERT INTO accounts.skipped (org, schedule_id, first, reason, skipped)
    SELECT * FROM unnest(
        %(s_orgs)s::text[], %(s_ids)s::text[], %(s_firsts)s::timestamptz[], %(s_reasons)s::text[],
        %(s_texts)s::text[]
    )
    ON CONFLICT DO NOTHING
), given (org, schedule_id, version, due_at, enrolment) AS (
    SELECT * FROM unnest(
        %(orgs)s::text[], %(ids)s::text[], %(versions)s::int[], %(dues)s::timestamptz[],
        %(texts)s::text[]
    )
)
INSERT INTO accounts.schedules AS s (org, schedule_id, version, due_at, enrolment)
SELECT g.* FROM given AS g
WHERE g.version = 1 OR EXISTS (
    SELECT FROM accounts.schedules AS t WHERE t.org = g.org AND t.schedule_id = g.schedule_id
)
ORDER BY g.org, g.schedule_id
ON CONFLICT (org, schedule_id) DO UPDATE SET
    version = excluded.version, due_at = excluded.due_at, enrolment = excluded.enrolment
WHERE s.version = excluded.version - 1 OR s.enrolment = excluded.enrolment
RETURNING org, schedule_id
"""
_REMOVE = """
DELETE FROM accounts.schedules WHERE org = %(org)s AND schedule_id = %(id)s RETURNING schedule_id
"""
_SKIPPED = """
SELECT skipped FROM accounts.skipped
WHERE org = %(org)s AND schedule_id = %(id)s
    AND (%(before)s::timestamptz IS NULL OR first < %(before)s::timestamptz)
ORDER BY first DESC, reason COLLATE "C" LIMIT %(limit)s
"""


class PostgresSchedules:
    """The port of schedules over a database that has the migrations."""

    def __init__(self, dsn: str, *, connections: int = 1, patience: timedelta = PATIENCE) -> None:
        """Connects at the first call. Raises ConfigError for an unreadable DSN."""
        from shared.postgres import Connections  # noqa: PLC0415 -- psycopg costs 0.2 s

        self._database = Connections(dsn, connections, patience)

    def enrolment(self, org: str, schedule_id: str) -> Enrolment | None:
        found = self._enrolments(_ONE, {"org": org, "id": schedule_id})
        return found[0] if found else None

    def enrolments(
        self, org: str | None = None, after: tuple[str, str] = ("", ""), limit: int = 500
    ) -> list[Enrolment]:
        values = {"org": org, "after_org": after[0], "after_id": after[1], "limit": limit}
        return self._enrolments(_ALL, values)

    def due(self, now: datetime, limit: int = 500, skip: int = 0) -> list[Enrolment]:
        return self._enrolments(_DUE, {"now": now, "limit": limit, "skip": skip})

    def write(
        self, enrolments: Sequence[Enrolment], skipped: Sequence[Skipped] = ()
    ) -> list[Enrolment]:
        values = {
            "orgs": [one.org for one in enrolments],
            "ids": [one.schedule_id for one in enrolments],
            "versions": [one.version for one in enrolments],
            "dues": [one.due_at for one in enrolments],
            "texts": [_json(one) for one in enrolments],
            "s_orgs": [one.org for one in skipped],
            "s_ids": [one.schedule_id for one in skipped],
            "s_firsts": [one.skip.first for one in skipped],
            "s_reasons": [one.skip.reason for one in skipped],
            "s_texts": [_json(one) for one in skipped],
        }
        stored = set(self._database.ask(_WRITE, values))
        return [one for one in enrolments if (one.org, one.schedule_id) in stored]

    def remove(self, org: str, schedule_id: str) -> bool:
        return bool(self._database.ask(_REMOVE, {"org": org, "id": schedule_id}))

    def skipped(
        self, org: str, schedule_id: str, before: datetime | None = None, limit: int = 50
    ) -> list[Skipped]:
        values = {"org": org, "id": schedule_id, "before": before, "limit": limit}
        rows = self._database.ask(_SKIPPED, values)
        return [msgspec.json.decode(text, type=Skipped) for (text,) in rows]

    def close(self) -> None:
        self._database.close()

    def _enrolments(self, statement: str, values: dict[str, Any]) -> list[Enrolment]:
        rows = self._database.ask(statement, values)
        return [msgspec.json.decode(text, type=Enrolment) for (text,) in rows]


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
