"""The port of messages: at least once, in any order, possibly late, twice or never.

A message that a handler published before it answered survives whenever its acknowledgement does. A
handler that answers 2xx acknowledges; any other answer refuses, and the message comes again, later
each time, until it is parked as a dead letter. What cannot be understood is parked at once. The
protocol needs no more than this; the tick covers a message that is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from shared.core.message import Topic


class Outgoing(NamedTuple):
    """One message to publish. `not_before` set: it is delivered at that time, not earlier."""

    topic: Topic
    body: bytes
    not_before: datetime | None = None
    attributes: Mapping[str, str] = {}


class DeadLetter(NamedTuple):
    """A message that was parked, with the reason and the count of deliveries tried."""

    id: str
    topic: Topic
    body: bytes
    attributes: Mapping[str, str]
    reason: str
    deliveries: int
    published_at: datetime
    parked_at: datetime


class Bus(Protocol):
    """Publishes messages and keeps those that nobody could handle."""

    def publish(self, messages: Sequence[Outgoing]) -> None:
        """Takes the messages. Raises Unavailable; then none, some or all of them were taken."""

    def park(
        self,
        message: Outgoing,
        reason: str,
        deliveries: int,
        published_at: datetime | None = None,
    ) -> None:
        """Keeps a message that nobody can handle, with its reason. Raises Unavailable.

        Parked again after it was delivered again, it may be one letter or two.
        """

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """The parked messages, oldest first; of a very large body it may be the beginning."""

    def dead_letter(self, letter_id: str) -> DeadLetter | None:
        """A parked message, whole; None when there is none of that id."""

    def redrive(self, letter_id: str) -> bool:
        """Publishes a parked message again, whole; False when there is none of that id.

        Raises Conflict when it is nothing that can be published.
        """

    def drop(self, letter_id: str) -> bool:
        """Deletes a parked message; False when there is none of that id."""

    def close(self) -> None:
        """Stops delivering after the handlers that run now."""
