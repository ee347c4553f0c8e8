"""Calendar periods as slices count them: by their first day, in inclusive ranges of UTC days."""

from __future__ import annotations

from datetime import date, timedelta


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
