"""The first look at a file: how many rows, and how much money, by the source's digits alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from shared.errors import Terminal
from shared.warehouse import casts
from shared.warehouse.session import Row, Session
from shared.warehouse.shape import Params, Shape
from shared.warehouse.tally import SCALE, Key, Sums, Tally, number, plus

# A sum of DECIMAL(38,18) overflows at 1.7e20, so larger values are added up in two parts.
_SMALL = 10**12
_MOST_KEYS = 10_000  # of day and currency: their sums are kept in memory, and in the evidence
_RESIDUE_DIGITS = 18  # of a tail that SQL adds up; longer ones are added up here
FETCH = 1_000


@dataclass(frozen=True, slots=True)
class Look:
    """Counts into `tally` what the files of one load hold. `dates` are those of the covered slices."""

    session: Session
    tally: Tally
    dates: tuple[date, ...]

    def key(self, day: date | None, currency: str | None) -> Key:
        """A row without a date counts in the first slice: it is rejected, or the only one."""
        return Key(day or self.dates[0], currency or "")

    def at(self, name: str, shape: Shape) -> int:
        """The rows of the file. Raises Terminal (`outside_covers`, `too_many_currencies`)."""
        totals = range(len(self.tally.columns))
        numbers = "".join(
            f", {shape.raw(column)} AS m{place}" for place, column in enumerate(self.tally.columns)
        )
        texts = f"SELECT {shape.where_to}{numbers} FROM ({shape.reading.sql}) r"
        flag = casts.all_plain([f"m{place}" for place in totals]) if totals else "true"
        plain = "".join(
            f", CASE WHEN plain THEN m{place} ELSE {casts.plain(f'm{place}')} END AS p{place}"
            for place in totals
        )
        texts = (
            f"SELECT day, currency, plain{plain} FROM (SELECT *, {flag} AS plain FROM ({texts}))"
        )
        values = "".join(
            f", p{place}, {casts.decimal(f'p{place}', unless='plain')} AS v{place}, "
            f"{casts.tail(f'p{place}')} AS t{place}"
            for place in totals
        )
        cast = f"SELECT day, currency{values} FROM ({texts})"
        sums = "".join(f", {sum_of(f'v{place}')}, {_tail_of(place)}" for place in totals)
        rows = self.session.run(
            f"SELECT day, currency, count(*){sums} FROM ({cast}) GROUP BY day, currency "
            f"LIMIT {_MOST_KEYS + 1}",
            shape.params,
        )
        self._refuse_outside(name, rows, dated=shape.dated)
        self._refuse_many(name, rows, shape.currency)
        long = [place for place in totals if any(row[3 + 6 * place + 5] for row in rows)]
        for day, currency, count, *parts in rows:
            key = self.key(day, currency)
            sums_here = self.tally.at(key)
            self.tally.rows[key] += count
            for place, into in enumerate(sums_here):
                small, large, rest, rounded, residue, _ = parts[6 * place : 6 * place + 6]
                for part in (small, large, rest):
                    into.loaded = plus(into.loaded, Decimal(part or 0))
                into.residue = plus(
                    into.residue, Decimal(residue or 0).scaleb(-SCALE - _RESIDUE_DIGITS)
                )
                into.rounded += rounded
        for place in long:
            self._long_tails(shape.params, cast, place)
        return sum(row[2] for row in rows)

    def _long_tails(self, params: Params, cast: str, place: int) -> None:
        found = self.session.open(
            f"SELECT day, currency, p{place} FROM ({cast}) WHERE {_is_long(place)}", params
        )
        while batch := found.fetchmany(FETCH):
            self.session.check()
            for day, currency, text in batch:
                read = number(text)
                into: Sums = self.tally.at(self.key(day, currency))[place]
                if read is None:  # casts.decimal took it for a number, so it is one
                    raise AssertionError(text)
                into.residue = plus(into.residue, read.residue)

    def _refuse_many(self, name: str, rows: Sequence[Row], currency: str | None) -> None:
        if len({*self.tally.rows, *(self.key(*row[:2]) for row in rows)}) > _MOST_KEYS:
            raise Terminal(
                f"{name}: has more than {_MOST_KEYS:,} pairs of a day and a currency; is "
                f"{currency} a currency?",
                code="too_many_currencies",
            )

    def _refuse_outside(self, name: str, rows: Sequence[Row], *, dated: bool) -> None:
        outside: dict[date, int] = {}
        for row in rows:
            if dated and row[0] is not None and row[0] not in self.dates:
                outside[row[0]] = outside.get(row[0], 0) + row[2]
        if outside:
            days = ", ".join(f"{day} ({outside[day]:,} rows)" for day in sorted(outside)[:5])
            more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
            raise Terminal(
                f"{name}: has rows of {days}{more}, which this load does not cover",
                code="outside_covers",
            )


def sum_of(value: str) -> str:
    """SQL of three parts whose exact sum is the sum of a decimal column."""
    small = f"{value} BETWEEN -{_SMALL} AND {_SMALL}"
    return (
        f"sum({value}) FILTER ({small}), "
        f"sum(CASE WHEN NOT ({small}) THEN CAST(trunc({value}) AS HUGEINT) END), "
        f"sum(CASE WHEN NOT ({small}) THEN {value} % 1 END)"
    )


def _tail_of(place: int) -> str:
    """SQL of: rows rounded, what rounding took (in units of 1e-36), rows with longer tails."""
    tail, value = f"t{place}", f"v{place}"
    rounded = f"{value} IS NOT NULL AND {tail} <> ''"
    sign = f"CASE WHEN starts_with(p{place}, '-') THEN -1 ELSE 1 END"
    units = (
        f"{sign} * (CAST(rpad({tail}, {_RESIDUE_DIGITS}, '0') AS HUGEINT) - "
        f"CASE WHEN {tail} >= '5' THEN {10**_RESIDUE_DIGITS} ELSE 0 END)"
    )
    short = f"{rounded} AND strlen({tail}) <= {_RESIDUE_DIGITS}"
    return (
        f"count(*) FILTER ({rounded}), "
        f"sum(CASE WHEN {short} THEN {units} END), "
        f"count(*) FILTER ({_is_long(place)})"
    )


def _is_long(place: int) -> str:
    return f"v{place} IS NOT NULL AND strlen(t{place}) > {_RESIDUE_DIGITS}"
