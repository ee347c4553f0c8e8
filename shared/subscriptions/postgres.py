"""Subscriptions in PostgreSQL, beside the accounts, in the schema of `supabase/`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import msgspec

from shared.core.lineage import SLUG
from shared.subscriptions import Revision

PATIENCE = timedelta(seconds=8)  # above the 5 s that the role's settings give a statement

_NEWEST = """
SELECT DISTINCT ON (subscription_id COLLATE "C") revision::text FROM accounts.subscriptions
WHERE org = %(org)s AND subscription_id COLLATE "C" > %(after)s
    AND (%(ids)s::text[] IS NULL OR subscription_id = ANY(%(ids)s::text[]))
ORDER BY subscription_id COLLATE "C", number DESC LIMIT %(limit)s
"""
_HISTORY = """
SELECT revision::text FROM accounts.subscriptions
WHERE org = %(org)s AND subscription_id = %(id)s
    AND (%(before)s::int IS NULL OR number < %(before)s::int)
ORDER BY number DESC LIMIT %(limit)s
"""
_ADD = "SELECT accounts.add_revisions(%(org)s, %(revisions)s::jsonb[])"


class PostgresSubscriptions:
    """The port of subscriptions over a database that has the migrations."""

    def __init__(self, dsn: str, *, connections: int = 1, patience: timedelta = PATIENCE) -> None:
        """Connects at the first call. Raises ConfigError for an unreadable DSN."""
        from shared.postgres import Connections  # noqa: PLC0415 -- psycopg costs 0.2 s

        self._database = Connections(dsn, connections, patience)

    def newest(
        self, org: str, after: str = "", limit: int = 200, ids: Sequence[str] | None = None
    ) -> list[Revision]:
        wanted = None if ids is None else list(ids)
        return self._read(_NEWEST, org, {"after": after, "limit": limit, "ids": wanted})

    def history(
        self, org: str, subscription_id: str, before: int | None = None, limit: int = 50
    ) -> list[Revision]:
        return self._read(_HISTORY, org, {"id": subscription_id, "before": before, "limit": limit})

    def add(self, org: str, revisions: Sequence[Revision]) -> bool:
        texts = [msgspec.json.encode(one).decode() for one in revisions]
        ((added,),) = self._database.ask(_ADD, {"org": org, "revisions": texts})
        return bool(added)

    def close(self) -> None:
        self._database.close()

    def _read(self, statement: str, org: str, values: dict[str, Any]) -> list[Revision]:
        if not SLUG.fullmatch(org):
            return []
        rows = self._database.ask(statement, {"org": org, **values})
        return [msgspec.json.decode(text, type=Revision) for (text,) in rows]
