"""Subscriptions of an organization: entered, changed, ended; what was entered stays to be seen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from flask import Response
from msgspec import Meta

from functions.api.admin import organization_of
from functions.api.http import Call, PageSize, answer
from shared.core.places import Path
from shared.core.record import Json, Record
from shared.core.subscription import (
    ID,
    UNSTORABLE,
    Entries,
    Money,
    Refund,
    Terms,
    Version,
    storable,
)
from shared.engine import subscriptions as engine
from shared.engine.query import View
from shared.engine.subscriptions import Outcome
from shared.errors import Fault, Invalid
from shared.subscriptions import Revision

REF = "[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"


class SubscriptionsQuery(Record, frozen=True, kw_only=True):
    """Which page."""

    limit: PageSize = 50
    cursor: Annotated[str, Meta(pattern=ID, description="`next` of the page before.")] | None = None


class RevisionsQuery(Record, frozen=True, kw_only=True):
    """Which page."""

    limit: PageSize = 50
    cursor: (
        Annotated[int, Meta(ge=1, le=2**31 - 1, description="`next` of the page before.")] | None
    ) = None


class EnterQuery(Record, frozen=True, kw_only=True):
    """Whether to enter them."""

    dry_run: Annotated[bool, Meta(description="Only tell what would change.")] = False


class End(Record, frozen=True, kw_only=True):
    """When a subscription ends."""

    day: Annotated[date, Meta(description="The first day without it.", examples=["2026-07-01"])]


class NewRefund(Record, frozen=True, kw_only=True):
    """What a vendor gave back by a credit note."""

    day: Annotated[date, Meta(description="The day of the credit note.", examples=["2026-07-01"])]
    amount: Annotated[Money, Meta(description="More than 0, in the subscription's currency.")]
    reason: Annotated[str, Meta(max_length=200)] = ""

    @classmethod
    def contradictions(cls, given: Mapping[str, Json]) -> Iterable[tuple[Path, str]]:
        """A reason that cannot be kept."""
        if not storable(given.get("reason", "")):
            yield ("reason",), UNSTORABLE


class SubscriptionView(View, frozen=True, kw_only=True):
    """A subscription as a change left it, and who made the change. Without versions it is void."""

    subscription_id: str
    revision: int
    verb: str
    changed_at: datetime
    changed_by: str
    versions: tuple[Version, ...]
    refunds: tuple[Refund, ...]


class SubscriptionsView(View, frozen=True, kw_only=True):
    """Subscriptions by their names. `next` is the cursor of the next page, null at the end."""

    subscriptions: tuple[SubscriptionView, ...]
    next: str | None


class SubscriptionHistoryView(View, frozen=True, kw_only=True):
    """Revisions of a subscription, the newest first. `next` as above."""

    revisions: tuple[SubscriptionView, ...]
    next: int | None


class EnteredView(View, frozen=True, kw_only=True):
    """What became, or would become, of a subscription. `before` are the versions that it had."""

    subscription_id: str
    change: Literal["entered", "changed", "unchanged"]
    before: tuple[Version, ...]
    after: tuple[Version, ...]


class EntriesView(View, frozen=True, kw_only=True):
    """Every subscription that was named, by its name."""

    dry_run: bool
    subscriptions: tuple[EnteredView, ...]


def list_subscriptions(call: Call, org: str, query: SubscriptionsQuery) -> Response:
    """The subscriptions as they stand, by their names."""
    organization_of(call, org)
    port = call.engine.app.subscriptions
    found = port.newest(org, query.cursor or "", query.limit + 1)
    page = tuple(_view(one) for one in found[: query.limit])
    following = page[-1].subscription_id if len(found) > query.limit else None
    return answer(SubscriptionsView(subscriptions=page, next=following))


def enter_subscriptions(call: Call, org: str, query: EnterQuery, body: Entries) -> Response:
    """Enters versions of subscriptions: all of them or, with every fault, none.

    A version that is there already changes nothing, so the same again is once. A version that is not
    named stays.
    """
    organization_of(call, org)
    author, app = call.author, call.engine.app
    outcomes = engine.enter(app, org, body.versions, author, dry_run=query.dry_run)
    return answer(EntriesView(dry_run=query.dry_run, subscriptions=tuple(map(_entered, outcomes))))


def show_subscription(call: Call, org: str, subscription_id: str) -> Response:
    """One subscription as it stands."""
    organization_of(call, org)
    return answer(_view(engine.one(call.engine.app, org, subscription_id)))


def put_subscription(call: Call, org: str, subscription_id: str, body: Terms) -> Response:
    """Enters a version of the subscription, or the subscription with its first one.

    The version that is in force on its first day ends there. The same again changes nothing.
    """
    organization_of(call, org)
    _check_name("subscription_id", subscription_id, ID)
    outcome = engine.put(call.engine.app, org, subscription_id, body, call.author)
    return answer(_view(outcome.now), 200 if outcome.before else 201)


def end_subscription(call: Call, org: str, subscription_id: str, body: End) -> Response:
    """Ends the subscription: the day is the first one without it.

    Versions that would begin then or later never do. What becomes of a cycle that is paid is said by the
    version's cancel policy.
    """
    organization_of(call, org)
    outcome = engine.end(call.engine.app, org, subscription_id, body.day, call.author)
    return answer(_view(outcome.now))


def refund_subscription(
    call: Call, org: str, subscription_id: str, ref: str, body: NewRefund
) -> Response:
    """Enters a credit note of the vendor; `ref` is its number. The same again changes nothing."""
    organization_of(call, org)
    _check_name("ref", ref, f"^{REF}$")
    given = Refund(ref=ref, day=body.day, amount=Decimal(body.amount), reason=body.reason)
    outcome = engine.refund(call.engine.app, org, subscription_id, given, call.author)
    return answer(_view(outcome.now))


def void_subscription(call: Call, org: str, subscription_id: str) -> Response:
    """Takes back a subscription that was entered by mistake: it never was, but its history stays.

    Its days cost nothing from the next run on that loads them.
    """
    organization_of(call, org)
    engine.void(call.engine.app, org, subscription_id, call.author)
    return Response(status=204)


def subscription_history(
    call: Call, org: str, subscription_id: str, query: RevisionsQuery
) -> Response:
    """Every revision of a subscription, the newest first, with who made it."""
    organization_of(call, org)
    engine.one(call.engine.app, org, subscription_id)
    port = call.engine.app.subscriptions
    found = port.history(org, subscription_id, query.cursor, query.limit + 1)
    page = found[: query.limit]
    following = page[-1].number if len(found) > query.limit else None
    return answer(SubscriptionHistoryView(revisions=tuple(map(_view, page)), next=following))


def _view(revision: Revision) -> SubscriptionView:
    subscription = revision.subscription
    return SubscriptionView(
        subscription_id=subscription.subscription_id,
        revision=revision.number,
        verb=revision.verb,
        changed_at=revision.at,
        changed_by=revision.key_name,
        versions=subscription.versions,
        refunds=subscription.refunds,
    )


def _entered(outcome: Outcome) -> EnteredView:
    before = outcome.before.subscription.versions if outcome.before else ()
    change: Literal["entered", "changed", "unchanged"] = "changed" if before else "entered"
    return EnteredView(
        subscription_id=outcome.now.subscription.subscription_id,
        change=change if outcome.changed else "unchanged",
        before=before,
        after=outcome.now.subscription.versions,
    )


def _check_name(field: str, value: str, pattern: str) -> None:
    if not re.fullmatch(pattern, value):
        raise Invalid("the path is not valid", [Fault(field, f"must match {pattern}")])
