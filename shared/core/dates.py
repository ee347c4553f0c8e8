"""Reads the days that somebody asks for: both dates are inclusive UTC days."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from shared.errors import Fault, Invalid

MAX_DAYS = 400
EARLIEST = date(2000, 1, 1)  # before any cloud sent a bill: such a year is a slip of the hand
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Dates(NamedTuple):
    """First and last day, both inclusive."""

    start: date
    end: date


def parse_dates(start: object, end: object, now: datetime) -> Dates:
    """The days of a run. `None` is a date not given. Raises Invalid with a fault per field.

    Neither given: yesterday. One given: that day alone, because a run over too few days is repeated
    with a word, and one over too many is paid for.
    """
    first, last, today = _read(start, end, now)
    yesterday = today - timedelta(days=1)
    asked = Dates(first or last or yesterday, last or first or yesterday)
    return _bounded(asked, f"a run takes {MAX_DAYS}: use a backfill")


def parse_span(start: object, end: object, now: datetime, length: int) -> Dates:
    """The days that are looked at, as `parse_dates` reads them.

    Without an end up to yesterday, as today has not ended; without a start `length` days.
    """
    first, last, today = _read(start, end, now)
    end_ = last or max(today - timedelta(days=1), first or EARLIEST)
    asked = Dates(first or max(end_ - timedelta(days=length - 1), EARLIEST), end_)
    return _bounded(asked, f"ask for at most {MAX_DAYS}")


def _read(start: object, end: object, now: datetime) -> tuple[date | None, date | None, date]:
    """What was given, and today."""
    today = now.astimezone(UTC).date()
    faults: list[Fault] = []
    first = _day("start_date", start, today, faults)
    last = _day("end_date", end, today, faults)
    if first and last and first > last:
        faults.append(Fault("end_date", f"{last} is before start_date {first}"))
    _refuse(faults)
    return first, last, today


def _bounded(asked: Dates, advice: str) -> Dates:
    days = (asked.end - asked.start).days + 1
    if days > MAX_DAYS:
        message = f"{days} days from {asked.start} to {asked.end}; {advice}"
        _refuse([Fault("end_date", message)])
    return asked


def _refuse(faults: list[Fault]) -> None:
    if faults:
        raise Invalid("the dates are not valid", faults)


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
