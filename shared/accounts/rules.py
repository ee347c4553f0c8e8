"""What every backend of accounts decides alike: what is valid, what a key is, why a run is refused."""

from __future__ import annotations

import hmac
import re
import string
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from typing import NamedTuple

from shared.accounts import (
    ApiKey,
    AuditEntry,
    AuditPage,
    Change,
    Limits,
    NotAllowed,
    Organization,
    OrgStatus,
    Refused,
    Scope,
    Usage,
)
from shared.core.lineage import SLUG
from shared.core.record import Json
from shared.errors import Fault, Invalid, NotFound

CONCURRENT_RETRY = timedelta(seconds=30)  # nobody knows when a run ends; most end within this
LAST_USE_EVERY = timedelta(hours=1)
MAX_NAME = 200
MAX_LIMIT = 1_000_000_000

_KEY_TEXT = re.compile(r"cpk_([0-9a-f]{12})_([0-9A-Za-z]{43})")
_LETTERS = string.ascii_letters + string.digits
_SCOPES = {scope.value: scope for scope in Scope}
_DAY = timedelta(days=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ENTRY = re.compile(r"[A-Za-z0-9_.-]{1,100}")


# --- organizations ---


def new_organization(
    slug: str, name: str, plan: str, plans: Mapping[str, Limits], now: datetime
) -> Organization:
    """Raises Invalid with every fault."""
    faults = []
    if not SLUG.fullmatch(slug):
        faults.append(Fault("slug", f"{slug!r} does not match {SLUG.pattern}"))
    faults += _name_faults(name)
    if plan not in plans:
        faults.append(_unknown_plan(plan, plans))
    if faults:
        raise Invalid("the organization is not valid", faults)
    return Organization(
        slug=slug,
        name=name.strip(),
        status=OrgStatus.ACTIVE.value,
        plan=plan,
        limits=plans[plan],
        created_at=now.astimezone(UTC),
    )


def check_plan(plan: str, limits: Limits | None, plans: Mapping[str, Limits]) -> None:
    """Raises Invalid with every fault."""
    faults = [] if plan in plans else [_unknown_plan(plan, plans)]
    for name, limit in columns(limits).items() if limits else ():
        if limit is not None and limit < 0:
            faults.append(Fault(f"limits.{name}", f"{limit} is less than 0"))
        if limit is not None and limit > MAX_LIMIT:
            faults.append(Fault(f"limits.{name}", f"{limit} is more than {MAX_LIMIT}"))
    if faults:
        raise Invalid("the plan is not valid", faults)


def columns(limits: Limits) -> dict[str, int | None]:
    """The limits by the names that a database gives them."""
    return {
        "daily": limits.daily,
        "monthly": limits.monthly,
        "concurrent": limits.concurrent,
    }


def no_organization(slug: str) -> NotFound:
    """What to raise for a slug that nobody has."""
    return NotFound(f"there is no organization {slug!r}", code="org_not_found")


def _name_faults(name: str) -> list[Fault]:
    if not name.strip() or len(name) > MAX_NAME:
        return [Fault("name", f"must have 1 to {MAX_NAME} characters")]
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in name):
        return [Fault("name", "has a character that no database keeps")]
    return []


def _unknown_plan(plan: str, plans: Mapping[str, Limits]) -> Fault:
    import difflib  # noqa: PLC0415 -- only a mistake needs it

    near = difflib.get_close_matches(plan, plans, 1)
    known = f"did you mean {near[0]!r}?" if near else f"plans: {', '.join(plans)}"
    return Fault("plan", f"{plan!r} is not a plan ({known})")


# --- keys ---


def new_key(
    org: str | None,
    name: str,
    scopes: Sequence[Scope],
    now: datetime,
    expires_at: datetime | None,
) -> tuple[ApiKey, str]:
    """The key and its secret. Raises Invalid for a key that could do nothing."""
    import secrets  # noqa: PLC0415, TID251 -- rare and slow to import; chance that none may replay

    faults = _name_faults(name)
    if not scopes:
        faults.append(Fault("scopes", f"name at least one of {', '.join(_SCOPES)}"))
    if expires_at is not None and expires_at <= now:
        faults.append(Fault("expires_at", "is in the past"))
    if faults:
        raise Invalid("the API key is not valid", faults)
    secret = "".join(secrets.choice(_LETTERS) for _ in range(43))  # 256 bits
    key = ApiKey(
        key_id=secrets.token_hex(6),
        org=org,
        name=name.strip(),
        scopes=tuple(scope for scope in Scope if scope in scopes),
        created_at=now.astimezone(UTC),
        expires_at=expires_at.astimezone(UTC) if expires_at else None,
    )
    return key, secret


def rotated(key: ApiKey, now: datetime, overlap: timedelta) -> tuple[ApiKey, str, datetime] | None:
    """The key that follows, its secret, and when the old one ends. None for one that is not good now."""
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= now):
        return None
    ends = now + overlap if key.expires_at is None else min(key.expires_at, now + overlap)
    lifetime = None if key.expires_at is None else key.expires_at - key.created_at
    made, secret = new_key(
        key.org, key.name, key.scopes, now, None if lifetime is None else now + lifetime
    )
    return made, secret, ends


def key_text(key: ApiKey, secret: str) -> str:
    """What the holder of the key sends; shown once."""
    return f"cpk_{key.key_id}_{secret}"


def parse_key(text: str) -> tuple[str, str] | None:
    """The id and the secret of a key's text; None when it is no key of ours."""
    match = _KEY_TEXT.fullmatch(text)
    return (match[1], match[2]) if match else None


def hash_secret(secret: str) -> bytes:
    """What is stored of a secret."""
    # 256 random bits cannot be guessed from a fast hash; a slow one would only slow every request.
    return sha256(secret.encode()).digest()


def opens(key: ApiKey, secret_hash: bytes, secret: str, now: datetime) -> bool:
    """Is it this key's secret, and is the key good now?"""
    return (
        hmac.compare_digest(secret_hash, hash_secret(secret))
        and key.revoked_at is None
        and (key.expires_at is None or key.expires_at > now)
    )


def use_is_due(key: ApiKey, now: datetime) -> bool:
    """Is it time to note this use? The column is for people, who do not need it to the second."""
    return key.last_used_at is None or now - key.last_used_at >= LAST_USE_EVERY


def known_scopes(words: Sequence[str]) -> tuple[Scope, ...]:
    """A scope of a newer release grants nothing here."""
    return tuple(_SCOPES[word] for word in words if word in _SCOPES)


# --- audit ---


def changed_key(verb: str, key: ApiKey) -> Change:
    """The change that made the key."""
    after = {
        "name": key.name,
        "scopes": [scope.value for scope in key.scopes],
        "expires_at": said(key.expires_at),
    }
    return Change(key.org, verb, key.key_id, None, after)


def made_organization(made: Organization) -> Change:
    """The change that made the organization."""
    after = {"name": made.name, "status": made.status, "plan": made.plan}
    return Change(made.slug, "organization.created", made.slug, None, after)


def changed_organization(verb: str, before: Organization, after: Organization) -> Change:
    """What is different of the organization now."""
    sides: list[dict[str, Json]] = [
        {"status": one.status, "plan": one.plan, "limits": columns(one.limits)}
        for one in (before, after)
    ]
    differ = [name for name in sides[0] if sides[0][name] != sides[1][name]]
    old, new = ({name: side[name] for name in differ} for side in sides)
    return Change(after.slug, verb, after.slug, old, new)


def rotation(old: ApiKey, made: ApiKey, ends: datetime) -> Change:
    """The change that let another key follow this one."""
    before = {"expires_at": said(old.expires_at)}
    after = {"expires_at": said(ends), "followed_by": made.key_id}
    return Change(old.org, "key.rotated", old.key_id, before, after)


def revocation(org: str | None, key_id: str, now: datetime) -> Change:
    """The change that ended a key."""
    return Change(org, "key.revoked", key_id, {"revoked_at": None}, {"revoked_at": said(now)})


def said(moment: datetime | None) -> str | None:
    """The time as text, as an entry has it."""
    return None if moment is None else moment.astimezone(UTC).isoformat()


def audit_page(found: list[AuditEntry], limit: int) -> AuditPage:
    """The page of what was found, which is one more than the page has if there are more."""
    last = found[limit - 1] if len(found) > limit else None
    cursor = None if last is None else f"{(last.at - _EPOCH) // _MICROSECOND}.{last.entry}"
    return AuditPage(found[:limit], cursor)


def read_audit_cursor(cursor: str) -> tuple[datetime, str]:
    """Raises Invalid."""
    micros, _, entry = cursor.partition(".")
    if _ENTRY.fullmatch(entry) and micros.isascii() and micros.isdigit() and len(micros) <= 18:
        try:
            return _EPOCH + int(micros) * _MICROSECOND, entry
        except OverflowError:
            pass  # later than any time there is
    raise Invalid(
        "the query is not valid",
        [Fault("cursor", "is none of ours; take it from `next` of the page before")],
    )


# --- quota ---


class Standing(NamedTuple):
    """An organization's status, limits and use, rolled over to the day that was asked for."""

    status: str
    limits: Limits
    concurrent: int
    today: int
    month: int


def why_not(standing: Standing | None, now: datetime) -> Refused | NotAllowed:
    """The reason for a reservation that was not made; None is an organization that does not exist."""
    if standing is None:
        return NotAllowed(None)
    status, limits, concurrent, today, month = standing
    if status not in (OrgStatus.ACTIVE, OrgStatus.TRIAL):
        return NotAllowed(status)
    # The limit that lasts longest: coming back for a nearer one would be refused again.
    if limits.monthly is not None and month >= limits.monthly:
        reset = next_month(now)
        return Refused("monthly", limits.monthly, month, reset, reset - now)
    if limits.daily is not None and today >= limits.daily:
        reset = next_day(now)
        return Refused("daily", limits.daily, today, reset, reset - now)
    return Refused("concurrent", limits.concurrent, concurrent, None, CONCURRENT_RETRY)


def usage(standing: Standing, succeeded: int, failed: int, now: datetime) -> Usage:
    """The port's usage, with the midnights at which its counters turn."""
    return Usage(
        limits=standing.limits,
        concurrent=standing.concurrent,
        today=standing.today,
        month=standing.month,
        succeeded=succeeded,
        failed=failed,
        daily_resets_at=next_day(now),
        monthly_resets_at=next_month(now),
    )


def utc_day(now: datetime) -> date:
    """The day a run counts on, wherever the caller's clock stands."""
    return now.astimezone(UTC).date()


def next_day(now: datetime) -> datetime:
    """The UTC midnight at which the daily limit turns."""
    return _midnight(utc_day(now) + _DAY)


def next_month(now: datetime) -> datetime:
    """The UTC midnight at which the monthly limit turns."""
    first = utc_day(now).replace(day=1)
    return _midnight((first + timedelta(days=32)).replace(day=1))


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
