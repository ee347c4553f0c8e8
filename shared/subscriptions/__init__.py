"""The port of subscriptions: what an organization has entered of them, as revisions that stay for ever.

A revision holds a subscription whole, as it was after a change; the one with the highest number holds.
Nothing is changed or deleted. What a change may say is decided in `shared/core/subscription.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from shared.core.record import Document, Json
from shared.core.subscription import Subscription


class Revision(Document, frozen=True, kw_only=True, omit_defaults=False):
    """A subscription as a change left it, and the audit entry of the change. Numbers count from 1."""

    subscription: Subscription
    number: int
    entry: str
    at: datetime
    key_id: str
    key_name: str
    request_id: str
    verb: str
    before: dict[str, Json] | None
    after: dict[str, Json] | None


class Subscriptions(Protocol):
    """Every method raises Unavailable for a fault of the database."""

    def newest(
        self, org: str, after: str = "", limit: int = 200, ids: Sequence[str] | None = None
    ) -> list[Revision]:
        """The newest revisions of the subscriptions whose id comes after `after`, by id; of `ids` only."""

    def history(
        self, org: str, subscription_id: str, before: int | None = None, limit: int = 50
    ) -> list[Revision]:
        """The revisions of one subscription with a number below `before`, the newest first."""

    def add(self, org: str, revisions: Sequence[Revision]) -> bool:
        """Adds all of them with their entries in the accounts' audit, or nothing. The same again is once.

        At most one of each subscription. False: one does not follow the newest of its subscription; most
        likely somebody else has changed it meanwhile. The organization must exist.
        """

    def close(self) -> None:
        """Releases what they hold. Twice is once."""
