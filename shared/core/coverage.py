"""Which days of a source are loaded, which are missing, and which may still change: decided from `_loads`.

A day is loaded when every table of the rule holds its unit from a source that reached the day's end, and
final when the source was also looked at so late that nothing moves any more. A load says of itself how new
its source was and when the run began that looked at it; that nobody looked is never taken for no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from shared.core.dates import Dates
from shared.core.period import Unit, days, end_of
from shared.core.spec import Coverage


class State(StrEnum):
    """What is known of a day."""

    LOADED = "loaded"
    EMPTY = "empty"  # loaded, and the source has nothing of it
    MISSING = "missing"
    PENDING = "pending"  # not loaded, and not to be expected yet
    OUTSIDE = "outside"  # not loaded, and nobody expects it: before the first day, or nobody may


class Held(NamedTuple):
    """What a table holds of one unit: what its last load says. `rows` are those of the source."""

    rows: int
    source_at: datetime
    run_created_at: datetime
    committed_at: datetime

    def looked_at(self) -> datetime:
        """The source had nothing newer then: before the commit, and not before the run began."""
        return max(self._made_at, self.run_created_at)

    def reached(self, unit: Unit) -> datetime:
        """How far the source had come. A month's delivery ends when it was made, a day is there whole."""
        return self._made_at if unit is Unit.MONTH else self.looked_at()

    @property
    def _made_at(self) -> datetime:
        # a clock that is ahead of ours does not reach into the future
        return min(self.source_at, self.committed_at)


class Day(NamedTuple):
    """What is known of one day. `lacking` are the tables that keep it from being loaded."""

    state: State
    final: bool = False
    lacking: tuple[str, ...] = ()


class Span(NamedTuple):
    """Days in a row of which the same is known."""

    start: date
    end: date
    day: Day


class Due(NamedTuple):
    """Units in a row that may have changed since they were looked at; the oldest look."""

    start: date
    end: date
    looked_at: datetime


@dataclass(frozen=True, kw_only=True)
class Source:
    """One pipeline with one credential, and what its tables hold, by table and the unit's first day.

    `in_use`: somebody can load it, so that days are expected of it. Only units that touch the days asked
    for have to be there.
    """

    rule: Coverage
    held: Mapping[tuple[str, date], Held]
    first_day: date | None = None
    in_use: bool = True

    def days(self, asked: Dates, now: datetime) -> dict[date, Day]:
        """What is known of every day asked for."""
        return {day: self._day(day, now) for day in days(asked.start, asked.end)}

    def due(self, asked: Dates, now: datetime, older_than: timedelta) -> list[Due]:
        """Whole units that have ended and are provisional, where a look is worth its price.

        That is when it makes them final, or when the last one is older than that.
        """
        if not self.in_use:
            return []
        unit, found = self.rule.unit, []
        for first in unit.firsts(asked.start, asked.end):
            last = unit.last(first)
            if self._lacking(last) or (self.first_day and last < self.first_day):
                continue  # a gap, if anything
            looked_at = min(held.looked_at() for held in self._held(last))
            closes = self._closes(last)
            if looked_at < closes and (closes <= now or now - looked_at >= older_than):
                found.append(Due(first, last, looked_at))
        return _joined(found)

    def _day(self, day: date, now: datetime) -> Day:
        lacking = self._lacking(day)
        if not lacking:
            rows = any(held.rows for held in self._held(day))
            return Day(State.LOADED if rows else State.EMPTY, final=self._final(day))
        if not self.in_use or (self.first_day and day < self.first_day):
            return Day(State.OUTSIDE)
        if now < end_of(day) + timedelta(days=self.rule.expected_after_days):
            return Day(State.PENDING)
        return Day(State.MISSING, lacking=lacking)

    def _final(self, day: date) -> bool:
        """A month that was never seen to its end is not final, however long ago it was looked at."""
        last = self.rule.unit.last(day)
        return not self._lacking(last) and all(
            held.looked_at() >= self._closes(last) for held in self._held(last)
        )

    def _lacking(self, day: date) -> tuple[str, ...]:
        unit = self.rule.unit
        end = end_of(day)
        tables = ((table, self.held.get((table, unit.first(day)))) for table in self.rule.tables)
        return tuple(table for table, held in tables if held is None or held.reached(unit) < end)

    def _held(self, day: date) -> list[Held]:
        """Of every table, where none is lacking."""
        first = self.rule.unit.first(day)
        return [self.held[table, first] for table in self.rule.tables]

    def _closes(self, last: date) -> datetime:
        return end_of(last) + timedelta(days=self.rule.final_after_days)


def spans(known: Mapping[date, Day]) -> list[Span]:
    """The days, which follow one another, as the fewest spans."""
    found = []
    for day, group in groupby(known.items(), key=lambda item: item[1]):
        inside = [item[0] for item in group]
        found.append(Span(inside[0], inside[-1], day))
    return found


def gaps(known: Iterable[Span]) -> list[Dates]:
    """The missing days, in ranges that can be run; which table lacks them makes no difference."""
    found: list[Dates] = []
    for span in known:
        if span.day.state is not State.MISSING:
            continue
        if found and found[-1].end + timedelta(days=1) == span.start:
            found[-1] = Dates(found[-1].start, span.end)
        else:
            found.append(Dates(span.start, span.end))
    return found


def _joined(units: Sequence[Due]) -> list[Due]:
    found: list[Due] = []
    for unit in units:
        if found and found[-1].end + timedelta(days=1) == unit.start:
            before = found[-1]
            found[-1] = Due(before.start, unit.end, min(before.looked_at, unit.looked_at))
        else:
            found.append(unit)
    return found
