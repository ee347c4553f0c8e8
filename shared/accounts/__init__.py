"""The port of accounts: organizations, their plan, their API keys, and the quota of runs.

A reservation is keyed by its run id, and its row stays when it is settled, for as long as its run: so
reserving, settling, releasing and expiring may each happen twice, late, or in any order, and count once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol

from shared.core.plans import Limits as Limits
from shared.core.record import Document, Json


class OrgStatus(StrEnum):
    """Only ACTIVE and TRIAL may run; any other word a database holds is refused."""

    ACTIVE = "ACTIVE"
    TRIAL = "TRIAL"
    SUSPENDED = "SUSPENDED"
    CANCELLED = "CANCELLED"


class Organization(Document, frozen=True, kw_only=True):
    """A tenant. `status` is a text because the database may hold one we do not know."""

    slug: str
    name: str
    status: str
    plan: str
    limits: Limits
    created_at: datetime

    @property
    def may_run(self) -> bool:
        return self.status in (OrgStatus.ACTIVE, OrgStatus.TRIAL)


class Scope(StrEnum):
    """What an API key may do. Admin includes the others."""

    READ = "read"
    EXECUTE = "execute"
    ADMIN = "admin"


class ApiKey(Document, frozen=True, kw_only=True):
    """What may be shown of a key. `org` is None for the platform's own key."""

    key_id: str
    org: str | None
    name: str
    scopes: tuple[Scope, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class Author(NamedTuple):
    """Who makes a change, and when. `entry` is the id of its audit entry: one a change."""

    key_id: str
    key_name: str
    request_id: str
    at: datetime
    entry: str


class Change(NamedTuple):
    """What was done to what."""

    org: str | None
    verb: str
    target: str
    before: dict[str, Json] | None = None
    after: dict[str, Json] | None = None


class AuditEntry(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A change that was made. `before` and `after` say what of the target is different, never a secret."""

    entry: str
    at: datetime
    org: str | None
    key_id: str
    key_name: str
    request_id: str
    verb: str
    target: str
    before: dict[str, Json] | None
    after: dict[str, Json] | None


class AuditPage(NamedTuple):
    """Entries, the newest first; `cursor` is None at the end."""

    entries: list[AuditEntry]
    cursor: str | None


class ReservationStatus(StrEnum):
    """The life of a reservation: held, then one of the others for ever."""

    HELD = "held"
    SETTLED = "settled"
    EXPIRED = "expired"
    RELEASED = "released"
    VOID = "void"


class Reserved(NamedTuple):
    """The slot is held until `expires_at` (the row's own, when it was there before)."""

    expires_at: datetime


class Spent(NamedTuple):
    """There is a reservation of this run id that is over: the run exists, or never will."""

    status: ReservationStatus


class Refused(NamedTuple):
    """A limit is reached. Nothing was written."""

    limit_type: str  # daily | monthly | concurrent
    limit: int
    used: int
    reset_at: datetime | None  # None: when a run ends
    retry_after: timedelta


class NotAllowed(NamedTuple):
    """The organization may not run at all; None is an organization that does not exist."""

    status: str | None


class Usage(NamedTuple):
    """What an organization has used. `daily_resets_at` and `monthly_resets_at` are UTC midnights."""

    limits: Limits
    concurrent: int
    today: int
    month: int
    succeeded: int
    failed: int
    daily_resets_at: datetime
    monthly_resets_at: datetime


class Held(NamedTuple):
    """A reservation that holds a slot. It is given up at `expires_at` if its run has not ended by then."""

    run_id: str
    created_at: datetime
    expires_at: datetime


class Orphan(NamedTuple):
    """A held reservation whose run was not confirmed to exist."""

    run_id: str
    org: str


class Accounts(Protocol):
    """Every method raises Unavailable for a fault of the database, never a refusal.

    A change with an author leaves an audit entry, in the same transaction; one that is refused, or that
    changes nothing, leaves none.
    """

    def create_organization(
        self, slug: str, name: str, plan: str, now: datetime, *, author: Author | None = None
    ) -> Organization:
        """Raises Conflict when the slug is taken, Invalid for a bad slug or an unknown plan."""

    def organization(self, slug: str) -> Organization | None: ...

    def organizations(self) -> list[Organization]: ...

    def set_status(
        self, slug: str, status: OrgStatus, *, author: Author | None = None
    ) -> Organization:
        """Raises NotFound."""

    def set_plan(
        self, slug: str, plan: str, limits: Limits | None = None, *, author: Author | None = None
    ) -> Organization:
        """Changes the plan, or overrides its limits. Raises NotFound, Invalid."""

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
        """The key and its text, which is shown this once and stored only as a hash."""

    def rotate_key(
        self,
        org: str | None,
        key_id: str,
        now: datetime,
        overlap: timedelta,
        *,
        author: Author | None = None,
    ) -> tuple[ApiKey, str] | None:
        """A new key with the name, the scopes and the lifetime of this one, which ends after `overlap`.

        None when the organization has no such key that is good now.
        """

    def authenticate(self, text: str, now: datetime) -> ApiKey | None:
        """The key, or None when it is unknown, expired or revoked. Notes the use at most hourly."""

    def keys(self, org: str | None) -> list[ApiKey]: ...

    def revoke_key(
        self, org: str | None, key_id: str, now: datetime, *, author: Author | None = None
    ) -> bool:
        """False when there is no such key of the organization."""

    def note(self, author: Author, change: Change) -> None:
        """Adds the entry of a change that was made elsewhere. The same entry twice is once."""

    def audit(self, org: str | None, limit: int = 50, cursor: str | None = None) -> AuditPage:
        """What was changed of the organization, or of all (None). Raises Invalid for a strange cursor."""

    def reserve(
        self, run_id: str, org: str, now: datetime, expires_at: datetime
    ) -> Reserved | Spent | Refused | NotAllowed:
        """Takes a slot and one run of the day and the month, in one transaction. Twice is once."""

    def settle(
        self, run_id: str, org: str, now: datetime, *, succeeded: bool, our_fault: bool
    ) -> None:
        """The run ended. Held: frees the slot and counts. Expired: counts. Absent: writes `void`.

        A run that failed by our fault gives its day and month back.
        """

    def release(self, run_id: str) -> None:
        """The run never was (only who settled its run id's fate may call): gives everything back."""

    def confirm(self, run_id: str) -> None:
        """The run of this held reservation exists."""

    def sweep(self, now: datetime) -> int:
        """Expires the held reservations whose time has passed; the count of them."""

    def orphans(self, created_before: datetime, limit: int = 100) -> list[Orphan]:
        """Held, unconfirmed reservations older than that."""

    def held(self, org: str, limit: int = 100) -> list[Held]:
        """The organization's reservations that hold a slot, the oldest first."""

    def purge(self, created_before: datetime, limit: int = 1_000) -> int:
        """Deletes reservations that are over and older than that, the oldest first; the count of them.

        After that nothing makes their run ids' second settle once: only for runs that are long gone.
        """

    def usage(self, org: str, now: datetime) -> Usage | None:
        """Rolled over to today and this month; None for an unknown organization."""

    def close(self) -> None:
        """Releases what the accounts hold. Twice is once."""
