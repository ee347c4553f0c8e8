"""Enters subscriptions of an organization, changes and ends them: the rules over what is stored.

Who changes one at the same time as somebody else decides again on what the other has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date
from typing import NamedTuple

import msgspec

from shared.accounts import Author
from shared.app import App
from shared.core import subscription as rules
from shared.core.places import JSON
from shared.core.record import Json
from shared.core.subscription import Entry, Refund, Subscription, Terms
from shared.errors import Conflict, Fault, NotFound
from shared.subscriptions import Revision

_TRIES = 5
PAGE = 200

ENTERED, CHANGED = "subscription.entered", "subscription.changed"
ENDED, REFUNDED, VOIDED = "subscription.ended", "subscription.refunded", "subscription.voided"


class Outcome(NamedTuple):
    """What a change made of a subscription: the revision that holds now, and the one before it."""

    now: Revision
    before: Revision | None
    changed: bool


def one(app: App, org: str, subscription_id: str) -> Revision:
    """The newest revision. Raises NotFound."""
    found = app.subscriptions.newest(org, ids=[subscription_id])
    if not found:
        raise _unknown(org, subscription_id)
    return found[0]


def every(app: App, org: str) -> Iterator[Revision]:
    """The newest revision of each subscription, by their names."""
    after = ""
    while page := app.subscriptions.newest(org, after, PAGE):
        yield from page
        after = page[-1].subscription.subscription_id


def put(app: App, org: str, subscription_id: str, terms: Terms, author: Author) -> Outcome:
    """Adds a version, or the subscription with its first one. Raises Conflict."""
    today = _today(app)
    return _change(
        app, org, subscription_id, author, CHANGED, lambda now: rules.put(now, terms, today)
    )


def end(app: App, org: str, subscription_id: str, day: date, author: Author) -> Outcome:
    """Ends the subscription before that day. Raises NotFound, Conflict."""
    one(app, org, subscription_id)
    today = _today(app)
    return _change(app, org, subscription_id, author, ENDED, lambda now: rules.end(now, day, today))


def refund(app: App, org: str, subscription_id: str, given: Refund, author: Author) -> Outcome:
    """Notes what the vendor gave back. Raises NotFound, Conflict, Invalid."""
    one(app, org, subscription_id)
    return _change(
        app, org, subscription_id, author, REFUNDED, lambda now: rules.refund(now, given)
    )


def void(app: App, org: str, subscription_id: str, author: Author) -> Outcome:
    """Takes back what was entered by mistake; its history stays. Raises NotFound."""
    one(app, org, subscription_id)
    return _change(app, org, subscription_id, author, VOIDED, rules.void)


def enter(
    app: App, org: str, entries: Sequence[Entry], author: Author, *, dry_run: bool
) -> list[Outcome]:
    """Adds all versions or, with the faults of all that cannot be, none. By name of the subscription.

    With `dry_run` nothing is stored: the outcomes are what would be. Raises Conflict.
    """
    for _ in range(_TRIES):
        before = _newest(app, org, {entry.subscription for entry in entries})
        after = _entered(before, entries, _today(app))
        outcomes = [
            _outcome(before.get(name), made, author, CHANGED, number)
            for number, (name, made) in enumerate(sorted(after.items()))
        ]
        new = [outcome.now for outcome in outcomes if outcome.changed]
        if dry_run or not new or app.subscriptions.add(org, new):
            return outcomes
    raise _contended(org)


def _entered(
    before: Mapping[str, Revision], entries: Sequence[Entry], today: date
) -> dict[str, Subscription]:
    made: dict[str, Subscription] = {}
    faults: list[Fault] = []
    for number, entry in sorted(enumerate(entries), key=lambda one: one[1].start):
        name = entry.subscription
        now = made.get(name) or _of(before.get(name), name)
        try:
            made[name] = rules.put(now, entry, today, JSON, ("versions", number))
        except Conflict as error:
            faults += error.faults
    if faults:
        raise Conflict("the subscriptions cannot be so", faults)
    return made


def _change(
    app: App,
    org: str,
    subscription_id: str,
    author: Author,
    verb: str,
    decide: Callable[[Subscription], Subscription],
) -> Outcome:
    for _ in range(_TRIES):
        before = _newest(app, org, {subscription_id}).get(subscription_id)
        outcome = _outcome(before, decide(_of(before, subscription_id)), author, verb)
        if not outcome.changed or app.subscriptions.add(org, [outcome.now]):
            return outcome
    raise _contended(org)


def _newest(app: App, org: str, names: set[str]) -> dict[str, Revision]:
    found = app.subscriptions.newest(org, limit=len(names), ids=sorted(names))
    return {revision.subscription.subscription_id: revision for revision in found}


def _of(revision: Revision | None, subscription_id: str) -> Subscription:
    return revision.subscription if revision else Subscription(subscription_id=subscription_id)


def _outcome(
    before: Revision | None, made: Subscription, author: Author, verb: str, number: int = 0
) -> Outcome:
    was = before.subscription if before else None
    if before is not None and made == was:
        return Outcome(before, before, changed=False)
    old, new = _differences(was, made)
    revision = Revision(
        subscription=made,
        number=before.number + 1 if before else 1,
        entry=f"{author.entry}.{number}" if number else author.entry,
        at=author.at.astimezone(UTC),
        key_id=author.key_id,
        key_name=author.key_name,
        request_id=author.request_id,
        verb=verb if was is not None and was.versions else ENTERED,
        before=old,
        after=new,
    )
    return Outcome(revision, before, changed=True)


def _differences(
    was: Subscription | None, made: Subscription
) -> tuple[dict[str, Json] | None, dict[str, Json]]:
    """What only the old one has, and what only the new one has, for the audit."""
    sides: list[dict[str, Json]] = []
    for one, other in ((was, made), (made, was)):
        versions = set(other.versions) if other else set()
        refunds = set(other.refunds) if other else set()
        only = {
            "versions": [each for each in one.versions if each not in versions] if one else [],
            "refunds": [each for each in one.refunds if each not in refunds] if one else [],
        }
        sides.append(msgspec.to_builtins({name: some for name, some in only.items() if some}))
    return (None if was is None else sides[0]), sides[1]


def _today(app: App) -> date:
    return app.now().astimezone(UTC).date()


def _unknown(org: str, subscription_id: str) -> NotFound:
    return NotFound(
        f"organization {org!r} has no subscription {subscription_id!r}",
        code="subscription_not_found",
    )


def _contended(org: str) -> Conflict:
    return Conflict(f"the subscriptions of {org!r} are being changed by others; send it again")
