"""Accounts in the journal's SQLite file: quota by one conditional UPDATE, reservations that stay.

One writer at a time is SQLite's own rule, so no lock is taken here and none can be forgotten.
Times are whole microseconds since 1970, UTC; a day is `2026-01-31`, a month `2026-01`.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

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
from shared.errors import Conflict
from shared.journal import Journal

SCHEMA = """
CREATE TABLE IF NOT EXISTS organizations (
    slug TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    status TEXT NOT NULL,
    plan TEXT NOT NULL,
    own_limits INTEGER NOT NULL DEFAULT 0,  -- 1: these stay when the plan changes
    daily INTEGER,                          -- NULL is unlimited
    monthly INTEGER,
    concurrent INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS usage (
    org TEXT PRIMARY KEY,
    concurrent INTEGER NOT NULL DEFAULT 0 CHECK (concurrent >= 0),
    day TEXT NOT NULL DEFAULT '',           -- the day that `today` counts
    today INTEGER NOT NULL DEFAULT 0 CHECK (today >= 0),
    month TEXT NOT NULL DEFAULT '',         -- the month that `this_month` counts
    this_month INTEGER NOT NULL DEFAULT 0 CHECK (this_month >= 0),
    succeeded INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS reservations (
    run_id TEXT PRIMARY KEY,
    org TEXT NOT NULL,
    status TEXT NOT NULL,
    outcome TEXT,                           -- succeeded, failed or never; set once
    day TEXT NOT NULL,                      -- where it was counted, to give back there or nowhere
    month TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    confirmed INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- As small as the number of runs at work, so the sweep and the orphans scan it whole.
CREATE INDEX IF NOT EXISTS reservations_held ON reservations (org, expires_at)
    WHERE status = 'held';
CREATE INDEX IF NOT EXISTS reservations_over ON reservations (created_at)
    WHERE status <> 'held';

CREATE TABLE IF NOT EXISTS api_keys (
    key_id TEXT PRIMARY KEY,
    secret_hash BLOB NOT NULL,
    org TEXT,                               -- NULL is the platform's own
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS audit (
    entry TEXT PRIMARY KEY,
    at INTEGER NOT NULL,
    org TEXT,                               -- NULL is the platform's own
    key_id TEXT NOT NULL,
    key_name TEXT NOT NULL,
    request_id TEXT NOT NULL,
    verb TEXT NOT NULL,
    target TEXT NOT NULL,
    before TEXT,                            -- JSON
    after TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS audit_newest ON audit (at DESC, entry DESC);
CREATE INDEX IF NOT EXISTS audit_of_org ON audit (org, at DESC, entry DESC);
"""

_ORGANIZATION = (
    "SELECT slug, name, status, plan, daily, monthly, concurrent, created_at FROM organizations"
)
_FOLLOW_PLAN = """
UPDATE organizations SET daily = :daily, monthly = :monthly, concurrent = :concurrent
WHERE plan = :plan AND NOT own_limits
    AND (daily, monthly, concurrent) IS NOT (:daily, :monthly, :concurrent)
"""

_EXPIRE_OF_ORG = (
    "UPDATE reservations SET status = 'expired' "
    "WHERE org = ? AND status = 'held' AND expires_at < ?"
)
_EXPIRE = (
    "UPDATE reservations SET status = 'expired' "
    "WHERE status = 'held' AND expires_at < ? RETURNING org"
)
_FREE = "UPDATE usage SET concurrent = concurrent - ? WHERE org = ?"
_FIND = "SELECT org, status, expires_at FROM reservations WHERE run_id = ?"

# The whole decision in one statement. Day and month only ever roll forward: a caller whose clock is
# behind midnight counts on the newer day instead of wiping it.
_TAKE = """
UPDATE usage SET
    concurrent = usage.concurrent + 1,
    today = iif(usage.day >= :day, usage.today, 0) + 1,
    this_month = iif(usage.month >= :month, usage.this_month, 0) + 1,
    day = max(usage.day, :day),
    month = max(usage.month, :month)
FROM organizations AS o
WHERE usage.org = :org AND o.slug = usage.org
    AND o.status IN ('ACTIVE', 'TRIAL')
    AND usage.concurrent < o.concurrent
    AND (o.daily IS NULL OR iif(usage.day >= :day, usage.today, 0) < o.daily)
    AND (o.monthly IS NULL OR iif(usage.month >= :month, usage.this_month, 0) < o.monthly)
RETURNING day, month
"""
_HOLD = (
    "INSERT INTO reservations (run_id, org, status, day, month, created_at, expires_at) "
    "VALUES (?, ?, 'held', ?, ?, ?, ?)"
)
_STANDING = """
SELECT o.status, o.daily, o.monthly, o.concurrent, u.concurrent,
    iif(u.day >= :day, u.today, 0), iif(u.month >= :month, u.this_month, 0), u.succeeded, u.failed
FROM organizations AS o JOIN usage AS u ON u.org = o.slug WHERE o.slug = :org
"""

# `outcome` is what makes twice once: a held row ends, an expired one stays expired but is counted.
_END = """
UPDATE reservations SET outcome = :outcome, status = iif(status = 'held', :status, status)
WHERE run_id = :run_id AND outcome IS NULL AND status IN ('held', 'expired')
RETURNING org, status, day, month
"""
_COUNT = """
UPDATE usage SET
    concurrent = concurrent - :slots,
    succeeded = succeeded + :succeeded,
    failed = failed + :failed,
    today = today - (:back AND day = :day),
    this_month = this_month - (:back AND month = :month)
WHERE org = :org
"""
_VOID = (
    "INSERT OR IGNORE INTO reservations (run_id, org, status, day, month, created_at, expires_at) "
    "VALUES (?, ?, 'void', '', '', ?, ?)"
)
_CONFIRM = "UPDATE reservations SET confirmed = 1 WHERE run_id = ? AND status = 'held'"
_ORPHANS = (
    "SELECT run_id, org FROM reservations WHERE status = 'held' AND NOT confirmed "
    "AND created_at < ? ORDER BY created_at, run_id LIMIT ?"
)
_HELD = (
    "SELECT run_id, created_at, expires_at FROM reservations WHERE org = ? AND status = 'held' "
    "ORDER BY created_at, run_id LIMIT ?"
)
_OVER = (
    "SELECT run_id FROM reservations WHERE status <> 'held' AND created_at < ? "
    "ORDER BY created_at LIMIT ?"
)

_KEY_COLUMNS = "key_id, org, name, scopes, created_at, expires_at, revoked_at, last_used_at"
_FIND_KEY = f"SELECT {_KEY_COLUMNS}, secret_hash FROM api_keys WHERE key_id = ?"
_NOTE_USE = (
    "UPDATE api_keys SET last_used_at = ? "
    "WHERE key_id = ? AND (last_used_at IS NULL OR last_used_at <= ?)"
)

_AUDIT = (
    "SELECT entry, at, org, key_id, key_name, request_id, verb, target, before, after FROM audit"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class SqliteAccounts:
    """The port of accounts over a journal that its owner closes."""

    def __init__(self, journal: Journal, plans: Mapping[str, Limits]) -> None:
        """Makes the tables, and lets organizations follow their plan where it has changed."""
        self._journal = journal
        self._plans = dict(plans)
        journal.extend(SCHEMA)

        def follow(db: sqlite3.Connection) -> None:
            db.executemany(
                _FOLLOW_PLAN, [{"plan": plan, **rules.columns(own)} for plan, own in plans.items()]
            )

        journal.write(follow)

    # --- organizations ---

    def create_organization(
        self, slug: str, name: str, plan: str, now: datetime, *, author: Author | None = None
    ) -> Organization:
        made = rules.new_organization(slug, name, plan, self._plans, now)

        def create(db: sqlite3.Connection) -> bool:
            created = db.execute(
                "INSERT OR IGNORE INTO organizations "
                "(slug, name, status, plan, daily, monthly, concurrent, created_at) "
                "VALUES (:slug, :name, :status, :plan, :daily, :monthly, :concurrent, :at)",
                {
                    "slug": slug,
                    "name": made.name,
                    "status": made.status,
                    "plan": plan,
                    "at": _micros(now),
                    **rules.columns(made.limits),
                },
            ).rowcount
            if created:
                db.execute("INSERT INTO usage (org) VALUES (?)", (slug,))
                _note(db, author, rules.made_organization(made))
            return bool(created)

        if not self._journal.write(create):
            raise Conflict(f"organization {slug!r} exists already", code="organization_exists")
        return made

    def organization(self, slug: str) -> Organization | None:
        row = self._journal.read(
            lambda db: db.execute(f"{_ORGANIZATION} WHERE slug = ?", (slug,)).fetchone()
        )
        return _organization(row) if row else None

    def organizations(self) -> list[Organization]:
        rows = self._journal.read(
            lambda db: db.execute(f"{_ORGANIZATION} ORDER BY slug").fetchall()
        )
        return [_organization(row) for row in rows]

    def set_status(
        self, slug: str, status: OrgStatus, *, author: Author | None = None
    ) -> Organization:
        return self._change(
            author,
            "organization.status_set",
            slug,
            "UPDATE organizations SET status = :status WHERE slug = :slug",
            {"status": status.value},
        )

    def set_plan(
        self, slug: str, plan: str, limits: Limits | None = None, *, author: Author | None = None
    ) -> Organization:
        rules.check_plan(plan, limits, self._plans)
        return self._change(
            author,
            "organization.plan_set",
            slug,
            "UPDATE organizations SET plan = :plan, own_limits = :own, daily = :daily, "
            "monthly = :monthly, concurrent = :concurrent WHERE slug = :slug",
            {"plan": plan, "own": limits is not None, **rules.columns(limits or self._plans[plan])},
        )

    def _change(
        self, author: Author | None, verb: str, slug: str, statement: str, values: dict[str, Any]
    ) -> Organization:
        def change(db: sqlite3.Connection) -> Organization:
            find = f"{_ORGANIZATION} WHERE slug = ?"
            row = db.execute(find, (slug,)).fetchone()
            if row is None:
                raise rules.no_organization(slug)
            before = _organization(row)
            db.execute(statement, {**values, "slug": slug})
            after = _organization(db.execute(find, (slug,)).fetchone())
            _note(db, author, rules.changed_organization(verb, before, after))
            return after

        return self._journal.write(change)

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

        def create(db: sqlite3.Connection) -> bool:
            if (
                org is not None
                and not db.execute("SELECT 1 FROM organizations WHERE slug = ?", (org,)).fetchone()
            ):
                return False
            _add_key(db, key, secret)
            _note(db, author, rules.changed_key("key.created", key))
            return True

        if not self._journal.write(create):
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
        def rotate(db: sqlite3.Connection) -> tuple[ApiKey, str] | None:
            row = db.execute(f"{_FIND_KEY} AND org IS ?", (key_id, org)).fetchone()
            old = _key(row) if row else None
            following = rules.rotated(old, now, overlap) if old else None
            if old is None or following is None:
                return None
            key, secret, ends = following
            db.execute(
                "UPDATE api_keys SET expires_at = ? WHERE key_id = ?", (_micros(ends), key_id)
            )
            _add_key(db, key, secret)
            _note(db, author, rules.rotation(old, key, ends))
            return key, rules.key_text(key, secret)

        return self._journal.write(rotate)

    def authenticate(self, text: str, now: datetime) -> ApiKey | None:
        parsed = rules.parse_key(text)
        if parsed is None:
            return None
        key_id, secret = parsed
        row = self._journal.read(lambda db: db.execute(_FIND_KEY, (key_id,)).fetchone())
        if row is None:
            return None
        key = _key(row)
        if not rules.opens(key, row[-1], secret, now):
            return None
        if rules.use_is_due(key, now):
            at = _micros(now)
            noted = (at, key_id, at - rules.LAST_USE_EVERY // _MICROSECOND)
            self._journal.write(lambda db: db.execute(_NOTE_USE, noted), wait=False)
        return key

    def keys(self, org: str | None) -> list[ApiKey]:
        rows = self._journal.read(
            lambda db: db.execute(
                f"SELECT {_KEY_COLUMNS} FROM api_keys WHERE org IS ? ORDER BY created_at, key_id",
                (org,),
            ).fetchall()
        )
        return [_key(row) for row in rows]

    def revoke_key(
        self, org: str | None, key_id: str, now: datetime, *, author: Author | None = None
    ) -> bool:
        def revoke(db: sqlite3.Connection) -> bool:
            row = db.execute(f"{_FIND_KEY} AND org IS ?", (key_id, org)).fetchone()
            if row is not None and _key(row).revoked_at is None:
                at = _micros(now)
                db.execute("UPDATE api_keys SET revoked_at = ? WHERE key_id = ?", (at, key_id))
                _note(db, author, rules.revocation(org, key_id, now))
            return row is not None

        return self._journal.write(revoke)

    # --- audit ---

    def note(self, author: Author, change: Change) -> None:
        self._journal.write(lambda db: _note(db, author, change))

    def audit(self, org: str | None, limit: int = 50, cursor: str | None = None) -> AuditPage:
        where, values = ["true"], list[object]()
        if org is not None:
            where.append("org = ?")
            values.append(org)
        if cursor is not None:
            at, entry = rules.read_audit_cursor(cursor)
            where.append("(at, entry) < (?, ?)")
            values += [_micros(at), entry]
        rows = self._journal.read(
            lambda db: db.execute(
                f"{_AUDIT} WHERE {' AND '.join(where)} ORDER BY at DESC, entry DESC LIMIT ?",
                (*values, limit + 1),
            ).fetchall()
        )
        return rules.audit_page([_entry(row) for row in rows], limit)

    # --- quota ---

    def reserve(
        self, run_id: str, org: str, now: datetime, expires_at: datetime
    ) -> Reserved | Spent | Refused | NotAllowed:
        """Raises Conflict when the run id is held by another organization: a fault of the caller."""
        day = _day(now)
        at = _micros(now)
        ends = _micros(expires_at)

        def reserve(db: sqlite3.Connection) -> Reserved | Spent | Refused | NotAllowed:
            expired = db.execute(_EXPIRE_OF_ORG, (org, at)).rowcount
            if expired:
                db.execute(_FREE, (expired, org))
            row = db.execute(_FIND, (run_id,)).fetchone()
            if row is not None:
                if row[0] != org:
                    raise Conflict(f"run {run_id!r} belongs to another organization")
                if row[1] == "held":
                    return Reserved(_moment(row[2]))
                return Spent(ReservationStatus(row[1]))
            counted = db.execute(_TAKE, {"org": org, "day": day, "month": day[:7]}).fetchone()
            if counted is None:
                row = _standing(db, org, day)
                return rules.why_not(row[0] if row else None, now)
            db.execute(_HOLD, (run_id, org, *counted, at, ends))
            return Reserved(expires_at)

        return self._journal.write(reserve)

    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        def settle(db: sqlite3.Connection) -> None:
            outcome = "succeeded" if succeeded else "failed"
            if _end(db, run_id, "settled", outcome, back=our_fault and not succeeded):
                return
            at = _micros(now)
            db.execute(_VOID, (run_id, org, at, at))

        # No wait: the run's effects_done follows in the same journal. If that flag is on the disk, so
        # is this; if a crash took both, the effects are done again and this row makes twice once.
        self._journal.write(settle, wait=False)

    def release(self, run_id: str) -> None:
        # No wait: a release that a crash took leaves the row held, and the tick finds it again.
        self._journal.write(lambda db: _end(db, run_id, "released", "never", back=True), wait=False)

    def confirm(self, run_id: str) -> None:
        self._journal.write(lambda db: db.execute(_CONFIRM, (run_id,)), wait=False)

    def sweep(self, now: datetime) -> int:
        def sweep(db: sqlite3.Connection) -> int:
            orgs = [org for (org,) in db.execute(_EXPIRE, (_micros(now),))]
            db.executemany(_FREE, [(count, org) for org, count in Counter(orgs).items()])
            return len(orgs)

        return self._journal.write(sweep, wait=False)

    def orphans(self, created_before: datetime, limit: int = 100) -> list[Orphan]:
        rows = self._journal.read(
            lambda db: db.execute(_ORPHANS, (_micros(created_before), limit)).fetchall()
        )
        return [Orphan(*row) for row in rows]

    def held(self, org: str, limit: int = 100) -> list[Held]:
        rows = self._journal.read(lambda db: db.execute(_HELD, (org, limit)).fetchall())
        return [Held(run_id, _moment(made), _moment(ends)) for run_id, made, ends in rows]

    def purge(self, created_before: datetime, limit: int = 1_000) -> int:
        # Read first: nearly always there is none, and a writer would make all others wait.
        over = self._journal.read(
            lambda db: db.execute(_OVER, (_micros(created_before), limit)).fetchall()
        )
        if over:
            # What is over stays over, so it may be deleted by its id alone.
            self._journal.write(
                lambda db: db.executemany("DELETE FROM reservations WHERE run_id = ?", over),
                wait=False,
            )
        return len(over)

    def usage(self, org: str, now: datetime) -> Usage | None:
        row = self._journal.read(lambda db: _standing(db, org, _day(now)))
        if row is None:
            return None
        standing, succeeded, failed = row
        return rules.usage(standing, succeeded, failed, now)

    def close(self) -> None:
        """Nothing is held: the journal is its owner's, who closes it after all that share it."""


def _standing(db: sqlite3.Connection, org: str, day: str) -> tuple[rules.Standing, int, int] | None:
    """How the organization stands, and how many runs succeeded and failed."""
    row = db.execute(_STANDING, {"org": org, "day": day, "month": day[:7]}).fetchone()
    if row is None:
        return None
    status, daily, monthly, concurrent, *used, succeeded, failed = row
    limits = Limits(daily=daily, monthly=monthly, concurrent=concurrent)
    return rules.Standing(status, limits, *used), succeeded, failed


def _end(db: sqlite3.Connection, run_id: str, status: str, outcome: str, *, back: bool) -> bool:
    """Ends a reservation once. False: there is no row of this run id."""
    row = db.execute(_END, {"run_id": run_id, "status": status, "outcome": outcome}).fetchone()
    if row is None:
        return db.execute(_FIND, (run_id,)).fetchone() is not None
    org, now_is, day, month = row
    db.execute(
        _COUNT,
        {
            "org": org,
            "slots": now_is != "expired",  # an expired one gave its slot to the sweep
            "succeeded": outcome == "succeeded",
            "failed": outcome == "failed",
            "back": back,
            "day": day,
            "month": month,
        },
    )
    return True


def _add_key(db: sqlite3.Connection, key: ApiKey, secret: str) -> None:
    db.execute(
        "INSERT INTO api_keys (key_id, secret_hash, org, name, scopes, created_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (
            key.key_id,
            rules.hash_secret(secret),
            key.org,
            key.name,
            " ".join(key.scopes),
            _micros(key.created_at),
            _micros(key.expires_at) if key.expires_at else None,
        ),
    )


def _note(db: sqlite3.Connection, author: Author | None, change: Change) -> None:
    if author is None or change.before == change.after:
        return
    before, after = (
        None if side is None else msgspec.json.encode(side).decode()
        for side in (change.before, change.after)
    )
    row = (author.entry, _micros(author.at), change.org, author.key_id, author.key_name)
    what = (author.request_id, change.verb, change.target, before, after)
    db.execute("INSERT OR IGNORE INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*row, *what))


def _entry(row: Any) -> AuditEntry:
    entry, at, org, key_id, key_name, request_id, verb, target, before, after = row
    return AuditEntry(
        entry=entry,
        at=_moment(at),
        org=org,
        key_id=key_id,
        key_name=key_name,
        request_id=request_id,
        verb=verb,
        target=target,
        before=None if before is None else msgspec.json.decode(before),
        after=None if after is None else msgspec.json.decode(after),
    )


def _organization(row: Any) -> Organization:
    slug, name, status, plan, daily, monthly, concurrent, created_at = row
    return Organization(
        slug=slug,
        name=name,
        status=status,
        plan=plan,
        limits=Limits(daily=daily, monthly=monthly, concurrent=concurrent),
        created_at=_moment(created_at),
    )


def _key(row: Any) -> ApiKey:
    key_id, org, name, scopes, created_at, expires_at, revoked_at, last_used_at = row[:8]
    return ApiKey(
        key_id=key_id,
        org=org,
        name=name,
        scopes=rules.known_scopes(scopes.split()),
        created_at=_moment(created_at),
        expires_at=None if expires_at is None else _moment(expires_at),
        revoked_at=None if revoked_at is None else _moment(revoked_at),
        last_used_at=None if last_used_at is None else _moment(last_used_at),
    )


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _day(now: datetime) -> str:
    return rules.utc_day(now).isoformat()
