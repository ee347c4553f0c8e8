"""Sums of money that are exact whatever the length of the digits: `source = loaded + rejected + residue`.

Pure arithmetic. The warehouse adds up what it can in SQL and gives the rest here as texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import date
from decimal import (
    MAX_EMAX,
    MAX_PREC,
    MIN_EMIN,
    ROUND_HALF_UP,
    Context,
    Decimal,
    Inexact,
    InvalidOperation,
)
from typing import NamedTuple

from shared.core.lineage import Total

SCALE = 18
INTEGER_DIGITS = 20
# One grammar for SQL and Python: no sign `+`, no separators, no spaces, no NaN.
PLAIN = r"-?([0-9]+\.?[0-9]*|\.[0-9]+)"
EXPONENT = PLAIN + r"[eE][-+]?[0-9]{1,3}"
_NUMBER = re.compile(f"{PLAIN}([eE][-+]?[0-9]{{1,3}})?")

# As many digits as a sum needs: exponents are bounded by the grammar. A digit lost would raise.
_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact, InvalidOperation])
_ROUNDING = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, rounding=ROUND_HALF_UP)
_UNIT = Decimal(1).scaleb(-SCALE)
_LIMIT = Decimal(10) ** INTEGER_DIGITS
ZERO = Decimal(0)


def plus(one: Decimal, other: Decimal) -> Decimal:
    """The exact sum."""
    return _EXACT.add(one, other)


def minus(one: Decimal, other: Decimal) -> Decimal:
    """The exact difference."""
    return _EXACT.subtract(one, other)


class Number(NamedTuple):
    """A text as a table holds it: `exact = value + residue`; `value` is None when it does not fit."""

    exact: Decimal
    value: Decimal | None

    @property
    def residue(self) -> Decimal:
        return ZERO if self.value is None else minus(self.exact, self.value)


def number(text: str) -> Number | None:
    """Reads a number of the grammar; None for any other text. Rounds half away from zero, as both
    warehouses do.
    """
    if not _NUMBER.fullmatch(text):
        return None
    exact = Decimal(text)
    rounded = exact.quantize(_UNIT, context=_ROUNDING)
    return Number(exact, rounded if abs(rounded) < _LIMIT else None)


@dataclass(slots=True)
class Sums:
    """One money column of one slice and currency."""

    loaded: Decimal = ZERO
    rejected: Decimal = ZERO
    residue: Decimal = ZERO
    rounded: int = 0

    def reject(self, text: str | None) -> None:
        """Takes a row out again that was summed with the others, and is rejected."""
        read = number(text) if text else None
        if read is None:
            return
        self.rejected = plus(self.rejected, read.exact)
        if read.value is None:
            return  # was not summed
        self.loaded = minus(self.loaded, read.value)
        if read.residue:
            self.residue = minus(self.residue, read.residue)
            self.rounded -= 1

    def total(self, column: str, currency: str) -> Total:
        return Total(
            column=column,
            currency=currency,
            source=plus(plus(self.loaded, self.rejected), self.residue),
            loaded=self.loaded,
            rejected=self.rejected,
            residue=self.residue,
            rounded=self.rounded,
        )


class Key(NamedTuple):
    """What sums are kept apart by. A source without a currency column has the currency ''."""

    run_date: date
    currency: str


@dataclass(slots=True)
class Tally:
    """What the source says of one load, counted while it is read and before it is believed."""

    columns: tuple[str, ...]
    rows: dict[Key, int] = field(default_factory=dict)
    rejected: dict[Key, int] = field(default_factory=dict)
    sums: dict[Key, tuple[Sums, ...]] = field(default_factory=dict)

    def at(self, key: Key) -> tuple[Sums, ...]:
        if key not in self.sums:
            self.sums[key] = tuple(Sums() for _ in self.columns)
            self.rows[key] = self.rejected[key] = 0
        return self.sums[key]

    def reject(self, key: Key, texts: tuple[str | None, ...]) -> None:
        for sums, text in zip(self.at(key), texts, strict=True):
            sums.reject(text)
        self.rejected[key] += 1

    @property
    def extracted(self) -> int:
        return sum(self.rows.values())

    @property
    def refused(self) -> int:
        return sum(self.rejected.values())

    def totals(self, run_date: date | None = None) -> tuple[Total, ...]:
        """Per column and currency, of one slice or of all of them."""
        merged: dict[tuple[str, str], Sums] = {}
        for key, columns in self.sums.items():
            if run_date is not None and key.run_date != run_date:
                continue
            for column, sums in zip(self.columns, columns, strict=True):
                into = merged.setdefault((column, key.currency), Sums())
                into.loaded = plus(into.loaded, sums.loaded)
                into.rejected = plus(into.rejected, sums.rejected)
                into.residue = plus(into.residue, sums.residue)
                into.rounded += sums.rounded
        order = {column: place for place, column in enumerate(self.columns)}
        return tuple(
            sums.total(column, currency)
            for (column, currency), sums in sorted(
                merged.items(), key=lambda item: (order[item[0][0]], item[0][1])
            )
        )
