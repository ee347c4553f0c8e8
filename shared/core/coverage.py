"""Which days of a source are loaded, which are missing, and which may still change: decided from `_loads`.

A day is loaded when every table of the rule holds its unit from a source that reached the day's end, and
final when the source was also looked at so late that nothing moves any more. A load says of itself how new
its source was and when the run began that looked at it; that nobody looked is never taken for no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import groupby
from typing import NamedTuple

from shared.core.dates import Dates
from shared.core.period import Unit, days, end_of
from shared.core.spec import Coverage

_NEVER = datetime.min.replace(tzinfo=UTC)


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


class _Seen(NamedTuple):
    """What the tables say of one unit together.

    `reached` is by table; `looked_at` the oldest look, None while a table has not seen the unit's end.
    """

    reached: Mapping[str, datetime]
    looked_at: datetime | None
    closes: datetime
    empty: bool

    @property
    def final(self) -> bool:
        return self.looked_at is not None and self.looked_at >= self.closes


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
        unit, found = self.rule.unit, {}
        for first in unit.firsts(asked.start, asked.end):
            seen = self._seen(first)
            for day in days(max(first, asked.start), min(unit.last(first), asked.end)):
                found[day] = self._day(day, seen, now)
        return found

    def due(self, asked: Dates, now: datetime, older_than: timedelta) -> list[Due]:
        """Whole units that have ended and are provisional, where a look is worth its price.

        That is when it makes them final, or when the last one is older than that.
        """
        unit, found = self.rule.unit, []
        for first in unit.firsts(asked.start, asked.end) if self.in_use else ():
            last, seen = unit.last(first), self._seen(first)
            if seen.looked_at is None or seen.final or self._outside(last):
                continue
            if seen.closes <= now or now - seen.looked_at >= older_than:
                found.append(Due(first, last, seen.looked_at))
        return _joined(found)

    def _seen(self, first: date) -> _Seen:
        unit, last = self.rule.unit, self.rule.unit.last(first)
        held = {
            table: self.held[table, first]
            for table in self.rule.tables
            if (table, first) in self.held
        }
        reached = {table: each.reached(unit) for table, each in held.items()}
        whole = len(held) == len(self.rule.tables) and min(reached.values()) >= end_of(last)
        return _Seen(
            reached=reached,
            looked_at=min(each.looked_at() for each in held.values()) if whole else None,
            closes=end_of(last) + timedelta(days=self.rule.final_after_days),
            empty=not any(each.rows for each in held.values()),
        )

    def _day(self, day: date, seen: _Seen, now: datetime) -> Day:
        end = end_of(day)
        lacking = tuple(
            table for table in self.rule.tables if seen.reached.get(table, _NEVER) < end
        )
        if not lacking:
            return Day(State.EMPTY if seen.empty else State.LOADED, final=seen.final)
        if not self.in_use or self._outside(day):
            return Day(State.OUTSIDE)
        if now < end + timedelta(days=self.rule.expected_after_days):
            return Day(State.PENDING)
        return Day(State.MISSING, lacking=lacking)

    def _outside(self, day: date) -> bool:
        return self.first_day is not None and day < self.first_day


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
