"""How the columns of one reading become those of a table: SQL of casts, of what is good, and why not.

Every text is cast once: `r…` names the text of a column, `v…` its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

from shared.errors import Terminal
from shared.warehouse import Column, ColumnType, NullRule, Reading, Table, casts
from shared.warehouse.casts import quoted

RUN_DATE = "_run_date"
UNKNOWN = "_unknown"
REJECT = "_reject"

Params: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Cell:
    """A column of the table as one reading gives it: SQL of its text, and of its value."""

    column: Column
    text: str
    cast: str

    @property
    def value(self) -> str:
        return self.text if self.column.type is ColumnType.TEXT else self.cast


@dataclass(frozen=True, slots=True)
class Shape:
    """A reading, and how its columns become the table's."""

    reading: Reading
    params: Params
    cells: tuple[Cell, ...]
    absent: tuple[Column, ...]
    selected: frozenset[str]
    currency: str | None

    @property
    def dated(self) -> bool:
        """Does every row say itself of which slice it is?"""
        return RUN_DATE in self.selected

    def raw(self, name: str) -> str:
        """SQL of a special or a table's column as text; NULL when the reading has none."""
        return f"r.{quoted(name)}" if name in self.selected else "CAST(NULL AS VARCHAR)"

    @property
    def where_to(self) -> str:
        """SQL of the row's day and currency."""
        money = self.raw(self.currency) if self.currency else "CAST(NULL AS VARCHAR)"
        day = casts.cast(ColumnType.DATE, self.raw(RUN_DATE))
        return f"{day} AS day, {money} AS currency"

    def cast(self, *more: str) -> str:
        """SQL of every row with its texts (r…), its values (v…), its day and its own rejection."""
        raw = "".join(f", {self.raw(cell.column.name)} AS {cell.text}" for cell in self.cells)
        extra = "".join(f", {text}" for text in more)
        texts = (
            f"SELECT {self.where_to}, {self.raw(REJECT)} AS reject{raw}{extra} "
            f"FROM ({self.reading.sql}) r"
        )
        decimals = [cell.text for cell in self.cells if cell.column.type is ColumnType.DECIMAL]
        flag = casts.all_plain(decimals) if decimals else "true"
        values = "".join(f", {_cast_of(cell)} AS {cell.cast}" for cell in self._typed)
        return f"SELECT *{values} FROM (SELECT *, {flag} AS plain FROM ({texts}))"

    @property
    def good(self) -> str:
        """SQL of the condition that a row is loaded."""
        if any(map(_must, self.absent)):
            return "false"
        # Every null among the values was none in the text, and nothing else is wrong. One sum and
        # not a condition for each, since DuckDB would cast anew for every condition of its own:
        # measured, a sixth of a load.
        nulls = [f"{cell.value} IS NULL" for cell in self._typed]
        nulls += [f"{cell.value} IS NULL" for cell in self.cells if _must(cell.column)]
        if REJECT in self.selected:
            nulls.append("reject IS NOT NULL")
        if self.dated:
            nulls.append("day IS NULL")
        empty = [f"({cell.text} IS NULL OR {cell.text} = '')" for cell in self._typed]
        return f"{_count_of(nulls)} = {_count_of(empty)}"

    @property
    def reasons(self) -> list[str]:
        """SQL of everything that may be wrong with a row; each is NULL where it is not."""
        reasons = [
            casts.flaw(cell.column.name, cell.column.type, cell.text, cell.value)
            for cell in self._typed
        ]
        reasons += [
            casts.missing(cell.column.name, cell.column.type, cell.text)
            for cell in self.cells
            if _must(cell.column)
        ]
        reasons += [
            casts.literal(f"{column.name}: is null") for column in self.absent if _must(column)
        ]
        if self.dated:
            told = casts.literal(f"{RUN_DATE}: is no date")
            reasons.append(f"CASE WHEN day IS NULL THEN {told} END")
        return reasons

    @property
    def _typed(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.column.type is not ColumnType.TEXT]


def shaped(
    name: str,
    reading: Reading,
    params: Params,
    columns: Sequence[tuple[str, str]],
    table: Table,
    *,
    unknown: str | None,
    currency: str | None,
    dates: Sequence[date],
) -> Shape:
    """The shape of a reading whose SELECT has these `columns` (name and DuckDB's type).

    Raises Terminal (`invalid_load`) when they are not texts of columns that the table has.
    """
    known = {column.name.casefold(): column for column in table.columns}
    names: dict[str, str] = {}
    for column, kind in columns:
        if kind != "VARCHAR":
            raise Terminal(f"{name}: column {column!r} is {kind}, not text", code="invalid_load")
        own = known[column.casefold()].name if column.casefold() in known else column
        if own not in {*(c.name for c in known.values()), RUN_DATE, UNKNOWN, REJECT}:
            raise Terminal(f"{name}: the table has no column {column!r}", code="invalid_load")
        names[own] = column
    if UNKNOWN in names and unknown is not None:
        names[unknown] = names.pop(UNKNOWN)
    if RUN_DATE not in names and len(dates) != 1:
        raise Terminal(
            f"{name}: covers {len(dates)} slices, so every row needs {RUN_DATE}",
            code="invalid_load",
        )
    # Positional names inside, so that no column of the source can be taken for another.
    cells = tuple(
        Cell(column, f"r{place}", f"v{place}")
        for place, column in enumerate(table.columns)
        if column.name in names
    )
    renamed = ", ".join(f"{quoted(old)} AS {quoted(own)}" for own, old in names.items())
    return Shape(
        reading=reading._replace(sql=f"SELECT {renamed} FROM ({reading.sql})"),
        params=params,
        cells=cells,
        absent=tuple(column for column in table.columns if column.name not in names),
        selected=frozenset(names),
        currency=currency,
    )


def _must(column: Column) -> bool:
    return column.null is NullRule.REJECT


def _cast_of(cell: Cell) -> str:
    if cell.column.type is not ColumnType.DECIMAL:
        return casts.cast(cell.column.type, cell.text)
    value = casts.STORED[ColumnType.DECIMAL]
    return (
        f"CASE WHEN plain THEN TRY_CAST({cell.text} AS {value}) "
        f"ELSE {casts.cast(ColumnType.DECIMAL, cell.text)} END"
    )


def _count_of(conditions: Sequence[str]) -> str:
    return " + ".join(f"CAST({condition} AS INTEGER)" for condition in conditions) or "0"
