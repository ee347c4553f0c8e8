"""Accounts in PostgreSQL (Supabase, through its transaction pooler), in the schema of `supabase/`.

A run costs two transactions, `reserve` and `settle`. Each is one call of one function of the database,
so that the usage row of an organization is locked for no round trip. That reaches 0.6 to 0.8 of the
rate of a bare UPDATE of one row (the more, the more the disk costs); the same statements sent by the
client 0.25 to 0.75, over a socket, where a round trip costs least (`benchmarks/reservations.py`).

Organizations and keys are read at most once a minute. A process that makes a change sees it at once;
another one shows the old status or limits, and opens a revoked key, for up to `CACHED`. No run starts
by it: `reserve` looks at status and limits in the database itself.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from shared.accounts import (
    ApiKey,
    AuditEntry,
    AuditPage,
    Author,
    Change,
    Held,
    Limits,
    NotAllowed,
    Organization,
    OrgStatus,
    Orphan,
    Refused,
    ReservationStatus,
    Reserved,
    Scope,
    Spent,
    Usage,
    rules,
)
from shared.core.lineage import SLUG
from shared.core.record import Json
from shared.errors import Conflict, Unavailable

T = TypeVar("T")

CACHED = timedelta(seconds=60)
MOST_CACHED = 10_000
# Above the 5 s that the role's settings give a statement, so that the server's reason comes first.
PATIENCE = timedelta(seconds=8)

_PLANS = "SELECT name, daily, monthly, concurrent FROM accounts.plans"
_FOLLOW = """
INSERT INTO accounts.plans AS p (name, daily, monthly, concurrent)
SELECT * FROM unnest(%(names)s::text[], %(daily)s::int[], %(monthly)s::int[], %(concurrent)s::int[])
ON CONFLICT (name) DO UPDATE SET
    daily = excluded.daily, monthly = excluded.monthly, concurrent = excluded.concurrent
WHERE (p.daily, p.monthly, p.concurrent)
    IS DISTINCT FROM (excluded.daily, excluded.monthly, excluded.concurrent)
RETURNING p.name
"""

_ORGANIZATION = """
SELECT slug, name, status, plan, daily, monthly, concurrent, created_at FROM accounts.standings
"""
_ONE_ORGANIZATION = f"{_ORGANIZATION} WHERE slug = %(slug)s"
_ALL_ORGANIZATIONS = f'{_ORGANIZATION} ORDER BY slug COLLATE "C"'
# A part of the statement of a change: its entry, if it has an author, beside the rows that it changed.
# The entry's id makes twice once. What is looked at by it is as it was before the statement.
_NOTED = """
noted AS (
    INSERT INTO accounts.audit
        (entry, at, org, key_id, key_name, request_id, verb, target, before, after)
    SELECT %(by_entry)s::text, %(by_at)s::timestamptz, %(by_org)s::text, %(by_key_id)s::text,
        %(by_key_name)s::text, %(by_request_id)s::text, %(by_verb)s::text, %(by_target)s::text,
        {before}, %(by_after)s::jsonb
    FROM {changed}
    WHERE %(by_entry)s::text IS NOT NULL AND {before} IS DISTINCT FROM %(by_after)s::jsonb
    ON CONFLICT DO NOTHING
)
"""
_BEFORE = "%(by_before)s::jsonb"

_CREATE = """
WITH made AS (
    INSERT INTO accounts.organizations AS o (slug, name, status, plan, created_at)
    VALUES (%(slug)s, %(name)s, %(status)s, %(plan)s, %(at)s)
    {taken}
    RETURNING slug
), counted AS (
    INSERT INTO accounts.usage (org) SELECT slug FROM made ON CONFLICT DO NOTHING
), {noted}
SELECT slug FROM made
"""
_OF_MADE = _NOTED.format(before=_BEFORE, changed="made")
_CREATE_ORGANIZATION = _CREATE.format(taken="ON CONFLICT DO NOTHING", noted=_OF_MADE)
# After a lost answer: the row may be the one this very call made.
_CREATE_AGAIN = _CREATE.format(
    taken="""ON CONFLICT (slug) DO UPDATE SET slug = o.slug
    WHERE (o.name, o.plan, o.created_at) = (%(name)s, %(plan)s, %(at)s)""",
    noted=_OF_MADE,
)
_CHANGE = """
WITH changed AS (
    UPDATE accounts.organizations SET {{what}} WHERE slug = %(slug)s RETURNING slug
), {noted}
SELECT slug FROM changed
"""
_SET_STATUS = _CHANGE.format(
    noted=_NOTED.format(
        before="jsonb_build_object('status', s.status)",
        changed="changed JOIN accounts.standings AS s USING (slug)",
    )
).format(what="status = %(status)s")
_SET_PLAN = _CHANGE.format(
    noted=_NOTED.format(
        before="""jsonb_build_object('plan', s.plan, 'limits', jsonb_build_object(
            'daily', s.daily, 'monthly', s.monthly, 'concurrent', s.concurrent))""",
        changed="changed JOIN accounts.standings AS s USING (slug)",
    )
).format(
    what="""plan = %(plan)s,
    own_daily = %(daily)s, own_monthly = %(monthly)s, own_concurrent = %(concurrent)s"""
)

_KEY = """
SELECT key_id, org, name, scopes, created_at, expires_at, revoked_at, last_used_at, secret_hash
FROM accounts.api_keys
"""
_ONE_KEY = f"{_KEY} WHERE key_id = %(key_id)s"
_KEYS = f"{_KEY} WHERE org IS NOT DISTINCT FROM %(org)s ORDER BY created_at, key_id"
# The condition makes twice once; another key with this id (48 random bits) would be no row, and no key.
_ADD_KEY = """
    INSERT INTO accounts.api_keys AS k
        (key_id, secret_hash, org, name, scopes, created_at, expires_at)
    SELECT %(key_id)s, %(hash)s, %(org)s, %(name)s, %(scopes)s, %(at)s, %(expires_at)s
    {where}
    ON CONFLICT (key_id) DO UPDATE SET key_id = k.key_id WHERE k.secret_hash = excluded.secret_hash
    RETURNING key_id
"""
_EXISTS = """WHERE %(org)s::text IS NULL
        OR EXISTS (SELECT FROM accounts.organizations AS o WHERE o.slug = %(org)s)"""
_CREATE_KEY = f"WITH made AS ({_ADD_KEY.format(where=_EXISTS)}), {_OF_MADE} SELECT key_id FROM made"
# Good now, or this very rotation's work already.
_ROTATE = f"""
WITH old AS (
    UPDATE accounts.api_keys AS o SET expires_at = %(ends)s
    WHERE o.key_id = %(old_id)s AND o.org IS NOT DISTINCT FROM %(org)s AND o.revoked_at IS NULL
        AND (
            o.expires_at IS NOT DISTINCT FROM %(old_expires_at)s::timestamptz
            OR EXISTS (SELECT FROM accounts.api_keys AS n WHERE n.key_id = %(key_id)s)
        )
    RETURNING o.key_id
), made AS ({_ADD_KEY.format(where="FROM old")}), {_OF_MADE}
SELECT key_id FROM made
"""
_NOTE_USE = """
UPDATE accounts.api_keys SET last_used_at = %(now)s
WHERE key_id = %(key_id)s AND (last_used_at IS NULL OR last_used_at <= %(before)s)
RETURNING key_id
"""
_REVOKE = f"""
WITH old AS (
    SELECT key_id, revoked_at FROM accounts.api_keys
    WHERE key_id = %(key_id)s AND org IS NOT DISTINCT FROM %(org)s
    FOR UPDATE
), revoked AS (
    UPDATE accounts.api_keys AS k SET revoked_at = %(now)s
    FROM old WHERE k.key_id = old.key_id AND old.revoked_at IS NULL
    RETURNING k.key_id
), {_NOTED.format(before=_BEFORE, changed="revoked")}
SELECT key_id FROM old
"""

_NOTE = f"WITH {_NOTED.format(before=_BEFORE, changed='(SELECT) AS once')} SELECT"
_AUDIT = """
SELECT entry, at, org, key_id, key_name, request_id, verb, target, before, after
FROM accounts.audit
WHERE (%(org)s::text IS NULL OR org = %(org)s)
    AND (%(at)s::timestamptz IS NULL OR (at, entry COLLATE "C") < (%(at)s, %(entry)s))
ORDER BY at DESC, entry COLLATE "C" DESC LIMIT %(limit)s
"""

_RESERVE = """
SELECT answer, status, expires_at, standing
FROM accounts.reserve(%(run_id)s, %(org)s, %(now)s, %(expires_at)s)
"""
_FINISH = """
SELECT accounts.finish(%(run_id)s, %(org)s, %(now)s, %(status)s, %(outcome)s, %(back)s)
"""
_CONFIRM = """
UPDATE accounts.reservations SET confirmed = true
WHERE run_id = %(run_id)s AND status = 'held' AND NOT confirmed RETURNING run_id
"""
_SWEEP = "SELECT accounts.sweep(%(now)s)"
_ORPHANS = """
SELECT run_id, org FROM accounts.reservations
WHERE status = 'held' AND NOT confirmed AND created_at < %(before)s
ORDER BY created_at, run_id COLLATE "C" LIMIT %(limit)s
"""
_HELD = """
SELECT run_id, created_at, expires_at FROM accounts.reservations
WHERE org = %(org)s AND status = 'held'
ORDER BY created_at, run_id COLLATE "C" LIMIT %(limit)s
"""
# Whoever holds a row is about to count it; it is purged with the next batch.
_PURGE = """
WITH old AS (
    SELECT run_id FROM accounts.reservations
    WHERE created_at < %(before)s AND status <> 'held'
    ORDER BY created_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
DELETE FROM accounts.reservations AS r USING old WHERE r.run_id = old.run_id RETURNING r.run_id
"""
_USAGE = """
SELECT s.status, s.daily, s.monthly, s.concurrent, u.concurrent,
    CASE WHEN u.day >= %(day)s THEN u.today ELSE 0 END,
    CASE WHEN u.day >= %(month)s THEN u.this_month ELSE 0 END,
    u.succeeded, u.failed
FROM accounts.standings AS s JOIN accounts.usage AS u ON u.org = s.slug WHERE s.slug = %(org)s
"""


class PostgresAccounts:
    """The port of accounts over a database that has the migrations."""

    def __init__(
        self,
        dsn: str,
        plans: Mapping[str, Limits],
        *,
        connections: int = 2,
        cached: timedelta = CACHED,
        patience: timedelta = PATIENCE,
    ) -> None:
        """Connects at the first call, which writes the plans when they have changed.

        Organizations follow the plans of the process that started last. `connections` of all instances
        together must stay below what the pooler takes (200 on the smallest Supabase); `patience` is
        the longest wait for one, and for an answer. Raises ConfigError for an unreadable DSN.
        """
        from shared.postgres import Connections  # noqa: PLC0415 -- psycopg costs 0.2 s

        self._database = Connections(dsn, connections, patience)
        self._plans = dict(plans)
        self._follow = threading.Lock()
        self._followed = False
        self._organizations: _Cache[Organization] = _Cache(cached)
        self._keys: _Cache[_StoredKey] = _Cache(cached)

    # --- organizations ---

    def create_organization(
        self, slug: str, name: str, plan: str, now: datetime, *, author: Author | None = None
    ) -> Organization:
        made = rules.new_organization(slug, name, plan, self._plans, now)
        values = {
            "slug": slug,
            "name": made.name,
            "status": made.status,
            "plan": plan,
            "at": made.created_at,
            **_noted(author, rules.made_organization(made)),
        }
        if not self._ask(_CREATE_ORGANIZATION, values, again=_CREATE_AGAIN):
            raise Conflict(f"organization {slug!r} exists already", code="organization_exists")
        return made

    def organization(self, slug: str) -> Organization | None:
        """As it was within the last minute; one that was not there is looked for each time."""
        if not SLUG.fullmatch(slug):
            return None
        return self._organizations.get(slug) or self._read_organization(slug)

    def organizations(self) -> list[Organization]:
        return [_organization(row) for row in self._ask(_ALL_ORGANIZATIONS)]

    def set_status(
        self, slug: str, status: OrgStatus, *, author: Author | None = None
    ) -> Organization:
        after: dict[str, Json] = {"status": status.value}
        noted = _noted(author, Change(slug, "organization.status_set", slug, None, after))
        return self._change(slug, _SET_STATUS, {"status": status.value, **noted})

    def set_plan(
        self, slug: str, plan: str, limits: Limits | None = None, *, author: Author | None = None
    ) -> Organization:
        rules.check_plan(plan, limits, self._plans)
        own = rules.columns(limits) if limits else _FOLLOWS_ITS_PLAN
        after = {"plan": plan, "limits": rules.columns(limits or self._plans[plan])}
        noted = _noted(author, Change(slug, "organization.plan_set", slug, None, after))
        return self._change(slug, _SET_PLAN, {"plan": plan, **own, **noted})

    def _change(self, slug: str, statement: str, values: Mapping[str, Any]) -> Organization:
        changed = SLUG.fullmatch(slug) and self._ask(statement, {**values, "slug": slug})
        organization = self._read_organization(slug) if changed else None
        if organization is None:
            raise rules.no_organization(slug)
        return organization

    def _read_organization(self, slug: str) -> Organization | None:
        rows = self._ask(_ONE_ORGANIZATION, {"slug": slug})
        return self._organizations.put(slug, _organization(rows[0])) if rows else None

    # --- keys ---

    def create_key(
        self,
        org: str | None,
        name: str,
        scopes: Sequence[Scope],
        now: datetime,
        expires_at: datetime | None = None,
        *,
        author: Author | None = None,
    ) -> tuple[ApiKey, str]:
        """Raises NotFound for an unknown organization, Invalid for a key that could do nothing."""
        key, secret = rules.new_key(org, name, scopes, now, expires_at)
        noted = _noted(author, rules.changed_key("key.created", key))
        values = {**_columns(key, secret), **noted}
        if (org is not None and not SLUG.fullmatch(org)) or not self._ask(_CREATE_KEY, values):
            raise rules.no_organization(str(org))
        return key, rules.key_text(key, secret)

    def rotate_key(
        self,
        org: str | None,
        key_id: str,
        now: datetime,
        overlap: timedelta,
        *,
        author: Author | None = None,
    ) -> tuple[ApiKey, str] | None:
        old = next((key for key in self.keys(org) if key.key_id == key_id), None)
        following = rules.rotated(old, now, overlap) if old else None
        if old is None or following is None:
            return None
        key, secret, ends = following
        values = {
            **_columns(key, secret),
            **_noted(author, rules.rotation(old, key, ends)),
            "old_id": key_id,
            "old_expires_at": old.expires_at,
            "ends": ends,
        }
        made = self._ask(_ROTATE, values)
        self._keys.forget(key_id)
        return (key, rules.key_text(key, secret)) if made else None

    def authenticate(self, text: str, now: datetime) -> ApiKey | None:
        parsed = rules.parse_key(text)
        if parsed is None:
            return None
        key_id, secret = parsed
        stored = self._keys.get(key_id)
        if stored is None:
            rows = self._ask(_ONE_KEY, {"key_id": key_id})
            if not rows:
                return None
            stored = self._keys.put(key_id, _StoredKey(_key(rows[0]), bytes(rows[0][-1])))
        key, secret_hash = stored
        if not rules.opens(key, secret_hash, secret, now):
            return None
        if rules.use_is_due(key, now):
            self._note_use(stored, now)
        return key

    def _note_use(self, stored: _StoredKey, now: datetime) -> None:
        key_id = stored.key.key_id
        # First, and whatever comes of it: the note is for people, and no request waits for it twice.
        self._keys.amend(key_id, stored._replace(key=replace(stored.key, last_used_at=now)))
        try:
            before = now - rules.LAST_USE_EVERY
            self._ask(_NOTE_USE, {"key_id": key_id, "now": now, "before": before})
        except Unavailable:
            return

    def keys(self, org: str | None) -> list[ApiKey]:
        if org is not None and not SLUG.fullmatch(org):
            return []
        return [_key(row) for row in self._ask(_KEYS, {"org": org})]

    def revoke_key(
        self, org: str | None, key_id: str, now: datetime, *, author: Author | None = None
    ) -> bool:
        if "\0" in key_id or (org is not None and not SLUG.fullmatch(org)):
            return False
        noted = _noted(author, rules.revocation(org, key_id, now))
        revoked = self._ask(_REVOKE, {"key_id": key_id, "org": org, "now": now, **noted})
        self._keys.forget(key_id)
        return bool(revoked)

    # --- audit ---

    def note(self, author: Author, change: Change) -> None:
        self._ask(_NOTE, _noted(author, change))

    def audit(self, org: str | None, limit: int = 50, cursor: str | None = None) -> AuditPage:
        at, entry = (None, "") if cursor is None else rules.read_audit_cursor(cursor)
        if org is not None and not SLUG.fullmatch(org):
            return AuditPage([], None)
        values = {"org": org, "at": at, "entry": entry, "limit": limit + 1}
        return rules.audit_page([_entry(row) for row in self._ask(_AUDIT, values)], limit)

    # --- quota ---

    def reserve(
        self, run_id: str, org: str, now: datetime, expires_at: datetime
    ) -> Reserved | Spent | Refused | NotAllowed:
        """Raises Conflict when the run id is held by another organization: a fault of the caller."""
        if not SLUG.fullmatch(org):
            return NotAllowed(None)
        values = {"run_id": run_id, "org": org, "now": now, "expires_at": expires_at}
        ((answer, status, until, standing),) = self._ask(_RESERVE, values)
        match answer:
            case "reserved":
                return Reserved(until.astimezone(UTC))
            case "spent":
                return Spent(ReservationStatus(status))
            case "foreign":
                raise Conflict(f"run {run_id!r} belongs to another organization")
        refusal = rules.why_not(_standing(status, standing) if status is not None else None, now)
        if isinstance(refusal, NotAllowed):
            self._organizations.forget(org)  # whoever asks next shall see why
        return refusal

    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        outcome = "succeeded" if succeeded else "failed"
        back = our_fault and not succeeded
        self._finish(run_id, org, now, ReservationStatus.SETTLED, outcome, back=back)

    def release(self, run_id: str) -> None:
        self._finish(run_id, None, None, ReservationStatus.RELEASED, "never", back=True)

    def _finish(
        self,
        run_id: str,
        org: str | None,
        now: datetime | None,
        status: ReservationStatus,
        outcome: str,
        *,
        back: bool,
    ) -> None:
        self._ask(
            _FINISH,
            {
                "run_id": run_id,
                "org": org,
                "now": now,
                "status": status.value,
                "outcome": outcome,
                "back": back,
            },
        )

    def confirm(self, run_id: str) -> None:
        self._ask(_CONFIRM, {"run_id": run_id})

    def sweep(self, now: datetime) -> int:
        """Leaves out an organization that another transaction has in hand: it comes with the next."""
        ((swept,),) = self._ask(_SWEEP, {"now": now})
        return int(swept)

    def orphans(self, created_before: datetime, limit: int = 100) -> list[Orphan]:
        rows = self._ask(_ORPHANS, {"before": created_before, "limit": limit})
        return [Orphan(*row) for row in rows]

    def held(self, org: str, limit: int = 100) -> list[Held]:
        if not SLUG.fullmatch(org):
            return []
        rows = self._ask(_HELD, {"org": org, "limit": limit})
        return [
            Held(run_id, made.astimezone(UTC), ends.astimezone(UTC)) for run_id, made, ends in rows
        ]

    def purge(self, created_before: datetime, limit: int = 1_000) -> int:
        return len(self._ask(_PURGE, {"before": created_before, "limit": limit}))

    def usage(self, org: str, now: datetime) -> Usage | None:
        if not SLUG.fullmatch(org):
            return None
        day = rules.utc_day(now)
        rows = self._ask(_USAGE, {"org": org, "day": day, "month": day.replace(day=1)})
        if not rows:
            return None
        status, *standing, succeeded, failed = rows[0]
        return rules.usage(_standing(status, standing), succeeded, failed, now)

    def close(self) -> None:
        self._database.close()

    def _ask(
        self, statement: str, values: Mapping[str, Any] | None = None, *, again: str | None = None
    ) -> list[tuple[Any, ...]]:
        if not self._followed:
            with self._follow:
                self._follow_plans()
        return self._database.ask(statement, values or {}, again=again)

    def _follow_plans(self) -> None:
        if self._followed:
            return
        stored = {
            name: Limits(daily=daily, monthly=monthly, concurrent=concurrent)
            for name, daily, monthly, concurrent in self._database.ask(_PLANS, {})
        }
        # One that is no longer in the file stays for the organizations that have it.
        if stored | self._plans != stored:
            limits = self._plans.values()
            self._database.ask(
                _FOLLOW,
                {
                    "names": list(self._plans),
                    "daily": [own.daily for own in limits],
                    "monthly": [own.monthly for own in limits],
                    "concurrent": [own.concurrent for own in limits],
                },
            )
        self._followed = True


class _StoredKey(NamedTuple):
    key: ApiKey
    secret_hash: bytes


class _Cache(Generic[T]):
    """What was read a short while ago, and was there."""

    def __init__(self, age: timedelta) -> None:
        self._age = age.total_seconds()
        self._mutex = threading.Lock()
        self._kept: dict[str, tuple[float, T]] = {}

    def get(self, key: str) -> T | None:
        with self._mutex:
            until, value = self._kept.get(key, (0.0, None))
        return value if time.monotonic() < until else None

    def put(self, key: str, value: T) -> T:
        with self._mutex:
            if len(self._kept) >= MOST_CACHED:
                self._kept.clear()  # filled anew by those who still come
            self._kept[key] = time.monotonic() + self._age, value
        return value

    def amend(self, key: str, value: T) -> None:
        """Gets no older by it, and no younger."""
        with self._mutex:
            if key in self._kept:
                self._kept[key] = self._kept[key][0], value

    def forget(self, key: str) -> None:
        with self._mutex:
            self._kept.pop(key, None)


_FOLLOWS_ITS_PLAN: dict[str, int | None] = {"daily": None, "monthly": None, "concurrent": None}


def _standing(status: str, numbers: Sequence[Any]) -> rules.Standing:
    daily, monthly, concurrent, running, today, month = numbers
    limits = Limits(daily=daily, monthly=monthly, concurrent=concurrent)
    return rules.Standing(status, limits, running, today, month)


def _columns(key: ApiKey, secret: str) -> dict[str, Any]:
    return {
        "key_id": key.key_id,
        "hash": rules.hash_secret(secret),
        "org": key.org,
        "name": key.name,
        "scopes": [scope.value for scope in key.scopes],
        "at": key.created_at,
        "expires_at": key.expires_at,
    }


def _noted(author: Author | None, change: Change) -> dict[str, Any]:
    """The values of `_NOTED`; without an author there is no entry."""
    before, after = (
        None if side is None else msgspec.json.encode(side).decode()
        for side in (change.before, change.after)
    )
    return {
        "by_entry": author and author.entry,
        "by_at": author and author.at,
        "by_key_id": author and author.key_id,
        "by_key_name": author and author.key_name,
        "by_request_id": author and author.request_id,
        "by_org": change.org,
        "by_verb": change.verb,
        "by_target": change.target,
        "by_before": before,
        "by_after": after,
    }


def _entry(row: tuple[Any, ...]) -> AuditEntry:
    entry, at, org, key_id, key_name, request_id, verb, target, before, after = row
    return AuditEntry(
        entry=entry,
        at=at.astimezone(UTC),
        org=org,
        key_id=key_id,
        key_name=key_name,
        request_id=request_id,
        verb=verb,
        target=target,
        before=before,
        after=after,
    )


def _organization(row: tuple[Any, ...]) -> Organization:
    slug, name, status, plan, daily, monthly, concurrent, created_at = row
    return Organization(
        slug=slug,
        name=name,
        status=status,
        plan=plan,
        limits=Limits(daily=daily, monthly=monthly, concurrent=concurrent),
        created_at=created_at.astimezone(UTC),
    )


def _key(row: tuple[Any, ...]) -> ApiKey:
    key_id, org, name, scopes, created_at, expires_at, revoked_at, last_used_at = row[:8]
    return ApiKey(
        key_id=key_id,
        org=org,
        name=name,
        scopes=rules.known_scopes(scopes),
        created_at=created_at.astimezone(UTC),
        expires_at=expires_at and expires_at.astimezone(UTC),
        revoked_at=revoked_at and revoked_at.astimezone(UTC),
        last_used_at=last_used_at and last_used_at.astimezone(UTC),
    )
