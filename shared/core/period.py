"""Calendar periods as slices count them: by their first day, in inclusive ranges of UTC days."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum


class Unit(StrEnum):
    """What one slice holds: a month, or a day."""

    MONTH = "month"
    DAY = "day"

    def first(self, day: date) -> date:
        """The first day of the unit that the day belongs to."""
        return day.replace(day=1) if self is Unit.MONTH else day

    def last(self, day: date) -> date:
        """The last day of the unit that the day belongs to."""
        return month_after(day) - timedelta(days=1) if self is Unit.MONTH else day

    def firsts(self, start: date, end: date) -> list[date]:
        """The first day of every unit that the days from `start` to `end` touch."""
        return (months if self is Unit.MONTH else days)(start, end)


def days(start: date, end: date) -> list[date]:
    """Every day from `start` to `end`, both included."""
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]


def months(start: date, end: date) -> list[date]:
    """The first day of every month that the days from `start` to `end` touch."""
    count = (end.year - start.year) * 12 + end.month - start.month
    return [month_after(start, n) for n in range(count + 1)]


def month_after(day: date, months: int = 1) -> date:
    """The first day of the month that lies `months` after the month of `day`."""
    number = day.year * 12 + day.month - 1 + months
    return date(number // 12, number % 12 + 1, 1)


def end_of(day: date) -> datetime:
    """The midnight with which the day ends."""
    return datetime.combine(day + timedelta(days=1), time(), UTC)
