"""Billing cycles: where they begin, counted from one day that never moves.

The k-th boundary is the anchor plus k cycles, with the anchor's day clamped to the length of the month:
from 31 January the months begin on 28 (or 29) February, 31 March, 30 April. Counted from the boundary
before instead, every month after February would begin on the 28th.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, timedelta
from typing import NamedTuple

PATTERN = "^(weekly|monthly|quarterly|semiannual|annual|every ([2-9]|[1-5][0-9]|60) months)$"
_MONTHS = {"monthly": 1, "quarterly": 3, "semiannual": 6, "annual": 12}


class Cycle(NamedTuple):
    """So many months, or where there are none, so many days."""

    months: int
    days: int = 0


class Period(NamedTuple):
    """Days from `start` to before `end`."""

    start: date
    end: date

    @property
    def days(self) -> int:
        return (self.end - self.start).days


def cycle_of(text: str) -> Cycle:
    """The cycle of a word: weekly, monthly, quarterly, semiannual, annual, every N months.

    Raises ValueError.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError(f"{text!r} is no billing cycle")
    if text == "weekly":
        return Cycle(0, 7)
    return Cycle(_MONTHS.get(text) or int(text.split()[1]))


def boundary(anchor: date, cycle: Cycle, count: int) -> date:
    """The day on which the cycle `count` after that of the anchor begins."""
    if not cycle.months:
        return anchor + count * timedelta(days=cycle.days)
    month = anchor.year * 12 + anchor.month - 1 + count * cycle.months
    year, month = month // 12, month % 12 + 1
    return date(year, month, min(anchor.day, monthrange(year, month)[1]))


def cycle_at(anchor: date, cycle: Cycle, day: date) -> Period:
    """The cycle that the day lies in."""
    if cycle.months:
        months = (day.year - anchor.year) * 12 + day.month - anchor.month
        count = months // cycle.months
        if boundary(anchor, cycle, count) > day:  # the anchor's day of the month comes later
            count -= 1
    else:
        count = (day - anchor).days // cycle.days
    return Period(boundary(anchor, cycle, count), boundary(anchor, cycle, count + 1))
