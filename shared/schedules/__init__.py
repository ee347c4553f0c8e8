"""The port of schedules: which organization runs which pipeline when, and what was not started.

An enrolment is written whole and only as it was read, so that a change by a person and a tick cannot undo
each other. When a schedule is due is decided in `shared/core/schedule.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from shared.core.record import Document
from shared.core.schedule import Enrolment, Skip


class Skipped(Document, frozen=True, kw_only=True, omit_defaults=False):
    """Due times of a schedule that were not started, and when that was found."""

    org: str
    schedule_id: str
    skip: Skip
    at: datetime


class Schedules(Protocol):
    """Every method raises Unavailable for a fault of the database."""

    def enrolment(self, org: str, schedule_id: str) -> Enrolment | None:
        """One, or None."""

    def enrolments(
        self, org: str | None = None, after: tuple[str, str] = ("", ""), limit: int = 500
    ) -> list[Enrolment]:
        """Of one organization or of all, by organization and id, behind the place `after`."""

    def due(self, now: datetime, limit: int = 500, skip: int = 0) -> list[Enrolment]:
        """Those whose `due_at` has come, earliest first, without the first `skip`."""

    def write(
        self, enrolments: Sequence[Enrolment], skipped: Sequence[Skipped] = ()
    ) -> list[Enrolment]:
        """Stores each whose version follows the stored one (1: there is none), in one transaction.

        Returns those that were stored, or are there already as given. `skipped` is stored with them,
        once: of a schedule the same first due time and reason is the same skip.
        """

    def remove(self, org: str, schedule_id: str) -> bool:
        """Ends the enrolment; what it skipped is kept. False: there is none."""

    def skipped(
        self, org: str, schedule_id: str, before: datetime | None = None, limit: int = 50
    ) -> list[Skipped]:
        """What was not started of a schedule, the newest first; of those that begin before that time."""

    def close(self) -> None:
        """Releases what they hold. Twice is once."""
