"""Reads the days that a run is asked for.

Both dates are inclusive UTC days. Neither given: yesterday. One given: that day alone, because a
run over too few days is repeated with a word, and one over too many is paid for.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from shared.errors import Fault, Invalid

MAX_DAYS = 400
EARLIEST = date(2000, 1, 1)  # before any cloud sent a bill: such a year is a slip of the hand
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Dates(NamedTuple):
    """First and last day of a run, both inclusive."""

    start: date
    end: date


def parse_dates(start: object, end: object, now: datetime) -> Dates:
    """The days of a run. `None` is a date not given. Raises Invalid with a fault per field."""
    today = now.astimezone(UTC).date()
    faults: list[Fault] = []
    first = _day("start_date", start, today, faults)
    last = _day("end_date", end, today, faults)
    if first and last and first > last:
        faults.append(Fault("end_date", f"{last} is before start_date {first}"))
    elif first and last and (days := (last - first).days + 1) > MAX_DAYS:
        message = f"{days} days from {first} to {last}; a run takes {MAX_DAYS}: use a backfill"
        faults.append(Fault("end_date", message))
    if faults:
        raise Invalid("the dates are not valid", faults)
    yesterday = today - timedelta(days=1)
    return Dates(first or last or yesterday, last or first or yesterday)


def _day(name: str, value: object, today: date, faults: list[Fault]) -> date | None:
    if value is None:
        return None
    message = "must be a day like 2026-01-31"
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            day = date.fromisoformat(value)
        except ValueError as error:
            message = f"is no day of the calendar: {error}"
        else:
            if day > today:
                message = f"{day} is in the future (today is {today}, UTC)"
            elif day < EARLIEST:
                message = f"{day} is before {EARLIEST}"
            else:
                return day
    faults.append(Fault(name, message))
    return None
