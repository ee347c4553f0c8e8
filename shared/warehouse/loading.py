"""One load into DuckDB, inside one transaction: look, insert, reject, prove.

Every file is looked at twice. The first look counts its rows and sums its money from the source's own
digits; the second casts and inserts. What stands in the table afterwards has to be what the first look
said, less the rejected rows, or the load fails. Nothing is kept in memory but the sums.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TypeAlias

from shared.core.lineage import LINEAGE_COLUMNS, Finding, LoadReceipt, SliceCount
from shared.errors import Terminal
from shared.warehouse import (
    Batches,
    Column,
    ColumnType,
    Files,
    Load,
    NullRule,
    Reading,
    SourceFile,
    Table,
    Value,
    casts,
)
from shared.warehouse.casts import quoted
from shared.warehouse.ledger import Covered, Ledger, Marked
from shared.warehouse.session import Row, Session, told
from shared.warehouse.tally import SCALE, Key, Sums, Tally, number, plus

RUN_DATE = "_run_date"
UNKNOWN = "_unknown"
REJECT = "_reject"
# A sum of DECIMAL(38,18) overflows at 1.7e20, so larger values are added up in two parts.
_SMALL = 10**12
_BATCH_ROWS = 20_000
_FETCH = 1_000
_REASONS = 3  # that a failed load names
_MOST_KEYS = 10_000  # of day and currency: their sums are kept in memory, and in the evidence
_RESIDUE_DIGITS = 18  # of a tail that SQL adds up; longer ones are added up here
_BIG_FILE = 4 * 2**20
_READ = 2**18
_REJECTED = "temp.w_rejected"
_BATCH = "temp.w_batch"

Params: TypeAlias = dict[str, object]
# Holds back other large statements of the process, so that two do not share the memory of one.
Turn: TypeAlias = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class _Cell:
    """A column of the table as one reading gives it: SQL of its text, and of its value."""

    column: Column
    raw: str
    value: str


@dataclass(frozen=True, slots=True)
class _Shape:
    """A reading, and how its columns become the table's."""

    reading: Reading
    params: Params
    cells: tuple[_Cell, ...]
    absent: tuple[Column, ...]
    selected: frozenset[str]

    def raw(self, name: str) -> str:
        """SQL of a special or a table's column as text; NULL when the reading has none."""
        return f"r.{quoted(name)}" if name in self.selected else "CAST(NULL AS VARCHAR)"


def identifier(name: str, what: str) -> str:
    """`name` as an identifier, if it is one. Raises Terminal (`invalid_load`)."""
    if not (name.isascii() and name.isidentifier() and len(name) <= 128):
        raise Terminal(f"{name!r} is not a name of a {what}", code="invalid_load")
    return quoted(name)


@dataclass(slots=True)
class Loading:
    """The state of one load. `run` is called inside a transaction and commits nothing."""

    session: Session
    load: Load
    covered: Covered
    ledger: Ledger
    table: Table
    turn: Turn
    ingested_at: datetime
    tally: Tally = field(init=False)
    unknown: dict[str, None] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    nulls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {column.name: column.type for column in self.table.columns}
        for name in self.load.totals:
            if kinds.get(name) is not ColumnType.DECIMAL:
                raise Terminal(f"total {name!r} is not a decimal column", code="invalid_load")
        currency = self.load.currency_column
        if currency is not None and kinds.get(currency) is not ColumnType.TEXT:
            raise Terminal(f"currency {currency!r} is not a text column", code="invalid_load")
        self.tally = Tally(self.load.totals)

    @property
    def name(self) -> str:
        return f"{quoted(self.load.dataset)}.{quoted(self.table.name)}"

    def run(self) -> list[Marked]:
        """Replaces the covered slices and proves what is there."""
        self.session.run(f"DELETE FROM {self.name} WHERE {self.covered.where}", self.covered.params)
        self.ledger.clear_rejects()
        match self.load.source:
            case Files(files=files, read=read):
                for file in files:
                    self.session.check()
                    with file.fetch() as path:
                        self._file(file, path, read)
            case Batches(batches=batches):
                for count, rows in enumerate(_gathered(batches), start=1):
                    self.session.check()
                    name = f"batch {count}"
                    self._rows(name, self._shape(name, self._batch(rows), None))
        self._refuse_too_many()
        return self._proven()

    # -- one file

    def _file(
        self, file: SourceFile, path: Path, read: Callable[[SourceFile, Path], Reading]
    ) -> None:
        reading = read(file, path)
        for name in reading.unknown_columns:
            self.unknown.setdefault(name)
        big = path.stat().st_size >= _BIG_FILE
        with self.turn() if big else _nothing(), _whole(file.name, path) as whole:
            shape = self._shape(file.name, reading, path)
            self._rows(file.name, shape, promised=file.rows, whole=whole)

    def _rows(
        self,
        name: str,
        shape: _Shape,
        *,
        promised: int | None = None,
        whole: Callable[[], None] = lambda: None,
    ) -> None:
        with self._readable(name, shape):
            counted = self._look(name, shape)
            whole()
        if promised is not None and counted != promised:
            raise Terminal(
                f"{name}: has {counted:,} rows, the manifest promises {promised:,}",
                code="row_count",
            )
        if not counted:
            return
        self.session.check()
        with self._readable(name, shape):
            inserted = self._insert(shape)
            if inserted != counted:
                self._reject(name, shape, counted - inserted)

    @contextmanager
    def _readable(self, name: str, shape: _Shape) -> Iterator[None]:
        """Tells a file that cannot be read from a disk that cannot be written."""
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        try:
            yield
        except (duckdb.InterruptException, duckdb.OutOfMemoryException):
            raise
        except duckdb.Error as exc:
            if isinstance(exc, duckdb.IOException) and self._reads(shape):
                raise
            cause = told(exc, str(shape.params.get("path", "")), name)
            raise Terminal(f"{name}: cannot be read: {cause}", code="unreadable_file") from exc

    def _reads(self, shape: _Shape) -> bool:
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        # The failed statement has ended the transaction; this one stands alone.
        try:
            self.session.run("ROLLBACK")
            self.session.run(f"SELECT sum(hash(r)) FROM ({shape.reading.sql}) r", shape.params)
        except duckdb.Error:
            return False
        return True

    def _shape(self, name: str, reading: Reading, path: Path | None) -> _Shape:
        params: Params = dict(reading.params)
        if path is not None:
            params["path"] = _literally(path)
        with self._undescribable(name):
            described = self.session.open(f"SELECT * FROM ({reading.sql}) LIMIT 0", params)
            columns = [(column[0], str(column[1])) for column in described.description or ()]
        known = {column.name.casefold(): column for column in self.table.columns}
        names: dict[str, str] = {}
        for column, kind in columns:
            if kind != "VARCHAR":
                raise Terminal(
                    f"{name}: column {column!r} is {kind}, not text", code="invalid_load"
                )
            own = known[column.casefold()].name if column.casefold() in known else column
            if own not in {*(c.name for c in known.values()), RUN_DATE, UNKNOWN, REJECT}:
                raise Terminal(f"{name}: the table has no column {column!r}", code="invalid_load")
            names[own] = column
        if UNKNOWN in names and self.load.unknown_column is not None:
            names[self.load.unknown_column] = names.pop(UNKNOWN)
        if RUN_DATE not in names and len(self.covered.dates) != 1:
            raise Terminal(
                f"{name}: covers {len(self.covered.dates)} slices, so every row needs {RUN_DATE}",
                code="invalid_load",
            )
        # Positional names inside, so that no column of the source can be taken for another.
        cells = tuple(
            _Cell(column, f"r{place}", f"v{place}")
            for place, column in enumerate(self.table.columns)
            if column.name in names
        )
        renamed = ", ".join(f"{quoted(old)} AS {quoted(own)}" for own, old in names.items())
        return _Shape(
            reading=reading._replace(sql=f"SELECT {renamed} FROM ({reading.sql})"),
            params=params,
            cells=cells,
            absent=tuple(column for column in self.table.columns if column.name not in names),
            selected=frozenset(names),
        )

    @contextmanager
    def _undescribable(self, name: str) -> Iterator[None]:
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        try:
            yield
        except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException) as exc:
            raise Terminal(f"{name}: cannot be selected: {told(exc)}", code="invalid_load") from exc
        except (duckdb.IOException, duckdb.InvalidInputException) as exc:
            raise Terminal(f"{name}: cannot be read: {told(exc)}", code="unreadable_file") from exc

    # -- the first look

    def _look(self, name: str, shape: _Shape) -> int:
        """Counts the rows and sums the money, from the source's digits alone."""
        totals = range(len(self.load.totals))
        numbers = "".join(
            f", {shape.raw(column)} AS m{place}" for place, column in enumerate(self.load.totals)
        )
        texts = f"SELECT {self._where_to(shape)}{numbers} FROM ({shape.reading.sql}) r"
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
        sums = "".join(f", {_sum_of(f'v{place}')}, {_tail_of(place)}" for place in totals)
        rows = self.session.run(
            f"SELECT day, currency, count(*){sums} FROM ({cast}) GROUP BY day, currency "
            f"LIMIT {_MOST_KEYS + 1}",
            shape.params,
        )
        self._refuse_outside(name, rows, dated=RUN_DATE in shape.selected)
        if len({*self.tally.rows, *(self._key(*row[:2]) for row in rows)}) > _MOST_KEYS:
            raise Terminal(
                f"{name}: has more than {_MOST_KEYS:,} pairs of a day and a currency; is "
                f"{self.load.currency_column} a currency?",
                code="too_many_currencies",
            )
        long = [place for place in totals if any(row[3 + 6 * place + 5] for row in rows)]
        for day, currency, count, *parts in rows:
            key = self._key(day, currency)
            sums_here = self.tally.at(key)
            self.tally.rows[key] += count
            for place, into in enumerate(sums_here):
                small, whole, rest, rounded, residue, _ = parts[6 * place : 6 * place + 6]
                for part in (small, whole, rest):
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
        while batch := found.fetchmany(_FETCH):
            self.session.check()
            for day, currency, text in batch:
                read = number(text)
                into: Sums = self.tally.at(self._key(day, currency))[place]
                if read is None:  # casts.decimal took it for a number, so it is one
                    raise AssertionError(text)
                into.residue = plus(into.residue, read.residue)

    def _where_to(self, shape: _Shape) -> str:
        currency = self.load.currency_column
        money = shape.raw(currency) if currency else "CAST(NULL AS VARCHAR)"
        day = casts.cast(ColumnType.DATE, shape.raw(RUN_DATE))
        return f"{day} AS day, {money} AS currency"

    def _key(self, day: date | None, currency: str | None) -> Key:
        """A row without a date counts in the first slice: it is rejected, or the only one."""
        return Key(day or self.covered.dates[0], currency or "")

    def _refuse_outside(self, name: str, rows: Sequence[Row], *, dated: bool) -> None:
        outside: dict[date, int] = {}
        for row in rows:
            if dated and row[0] is not None and row[0] not in self.covered.dates:
                outside[row[0]] = outside.get(row[0], 0) + row[2]
        if outside:
            days = ", ".join(f"{day} ({outside[day]:,} rows)" for day in sorted(outside)[:5])
            more = f" and {len(outside) - 5} more" if len(outside) > 5 else ""
            raise Terminal(
                f"{name}: has rows of {days}{more}, which this load does not cover",
                code="outside_covers",
            )

    # -- the insert

    def _cast(self, shape: _Shape, *more: str) -> str:
        """SQL of every row with its texts (r…), its values (v…), its day and its own rejection."""
        raw = "".join(f", {shape.raw(cell.column.name)} AS {cell.raw}" for cell in shape.cells)
        extra = "".join(f", {text}" for text in more)
        texts = (
            f"SELECT {self._where_to(shape)}, {shape.raw(REJECT)} AS reject{raw}{extra} "
            f"FROM ({shape.reading.sql}) r"
        )
        decimals = [cell.raw for cell in shape.cells if cell.column.type is ColumnType.DECIMAL]
        flag = casts.all_plain(decimals) if decimals else "true"
        values = "".join(
            f", {_cast_of(cell)} AS {cell.value}"
            for cell in shape.cells
            if cell.column.type is not ColumnType.TEXT
        )
        return f"SELECT *{values} FROM (SELECT *, {flag} AS plain FROM ({texts}))"

    def _good(self, shape: _Shape) -> str:
        """SQL of the condition that a row is loaded."""
        if any(map(_must, shape.absent)):
            return "false"
        typed = [cell for cell in shape.cells if cell.column.type is not ColumnType.TEXT]
        # Every null among the values was none in the text, and nothing else is wrong. One sum and
        # not a condition for each, since DuckDB would cast anew for every condition of its own:
        # measured, a sixth of a load.
        nulls = [f"{cell.value} IS NULL" for cell in typed]
        nulls += [f"{_value(cell)} IS NULL" for cell in shape.cells if _must(cell.column)]
        if REJECT in shape.selected:
            nulls.append("reject IS NOT NULL")
        if RUN_DATE in shape.selected:
            nulls.append("day IS NULL")
        empty = [f"({cell.raw} IS NULL OR {cell.raw} = '')" for cell in typed]
        return f"{_count_of(nulls)} = {_count_of(empty)}"

    def _insert(self, shape: _Shape) -> int:
        names = [quoted(cell.column.name) for cell in shape.cells] + list(LINEAGE_COLUMNS)
        values = [_value(cell) for cell in shape.cells] + [
            "$w_org",
            "$w_pipeline",
            "$w_credential",
            "day" if RUN_DATE in shape.selected else f"DATE '{self.covered.dates[0]}'",
            "$w_run",
            "$w_ingested",
            "CAST($w_ingested AS DATE)",
        ]
        inserted = self.session.first(
            f"INSERT INTO {self.name} ({', '.join(names)}) SELECT {', '.join(values)} "
            f"FROM ({self._cast(shape)}) WHERE {self._good(shape)}",
            {
                **shape.params,
                **self.covered.params,
                "w_run": self.load.writer.run_id,
                "w_ingested": self.ingested_at.astimezone(UTC).replace(tzinfo=None),
            },
        )
        return int(inserted)

    # -- the rejects

    def _reject(self, name: str, shape: _Shape, expected: int) -> None:
        """Puts the rows that were not inserted into `_rejects`, with their reasons."""
        self.session.run(f"DROP TABLE IF EXISTS {_REJECTED}")
        reasons = [
            casts.flaw(cell.column.name, cell.column.type, cell.raw, cell.value)
            for cell in shape.cells
            if cell.column.type is not ColumnType.TEXT
        ]
        reasons += [
            casts.missing(cell.column.name, cell.column.type, cell.raw)
            for cell in shape.cells
            if _must(cell.column)
        ]
        reasons += [
            casts.literal(f"{column.name}: is null") for column in shape.absent if _must(column)
        ]
        if RUN_DATE in shape.selected:
            reasons.append(
                f"CASE WHEN day IS NULL THEN {casts.literal(f'{RUN_DATE}: is no date')} END"
            )
        money = [f"m{place}" for place in range(len(self.load.totals))]
        rows = self._cast(
            shape,
            "row_number() OVER () AS line",
            "to_json(r) AS source_row",
            *(
                f"{shape.raw(column)} AS {m}"
                for column, m in zip(self.load.totals, money, strict=True)
            ),
        )
        fields = ", ".join(["day", "currency", "line", *money])
        self.session.run(
            f"CREATE TEMP TABLE w_rejected AS SELECT {fields}, source_row, "
            f"concat_ws('; ', reject, {', '.join(reasons) or 'NULL'}) AS reason "
            f"FROM ({rows}) WHERE NOT coalesce({self._good(shape)}, false)",
            shape.params,
        )
        found = self.session.open(f"SELECT reason, {fields} FROM {_REJECTED} ORDER BY line")
        count = 0
        while batch := found.fetchmany(_FETCH):
            for reason, day, currency, line, *texts in batch:
                count += 1
                self.tally.reject(self._key(day, currency), tuple(texts))
                if len(self.reasons) < _REASONS:
                    self.reasons.append(f"{name} row {line}: {reason}")
        if count != expected:
            raise Terminal(
                f"{name}: {expected:,} rows were not inserted, but {count:,} have a reason",
                code="verification",
            )
        if not self.load.max_reject_ratio:
            self._refuse_too_many()
        writer = self.load.writer
        self.session.run(
            f"""INSERT INTO {self.ledger.rejects}
                SELECT $w_org, $w_pipeline, $w_credential,
                  coalesce(day, DATE '{self.covered.dates[0]}'), $w_table, $w_run, $w_step,
                  $w_attempt, $w_file, line, reason, source_row, $w_rejected FROM {_REJECTED}""",
            {
                **self.covered.params,
                "w_table": self.table.name,
                "w_run": writer.run_id,
                "w_step": writer.step_id,
                "w_attempt": writer.fence.attempt,
                "w_file": name,
                "w_rejected": self.ingested_at.astimezone(UTC).replace(tzinfo=None),
            },
        )
        self.session.run(f"DROP TABLE {_REJECTED}")

    def _refuse_too_many(self) -> None:
        rejected, extracted = self.tally.refused, self.tally.extracted
        if rejected > self.load.max_reject_ratio * extracted:
            raise Terminal(
                f"{rejected:,} of {extracted:,} rows are rejected, more than "
                f"{self.load.max_reject_ratio:.2%}: {' | '.join(self.reasons)}",
                code="reject_threshold",
            )

    # -- the proof

    def _proven(self) -> list[Marked]:
        """Reads the slices back. Raises Terminal when they are not what the source said."""
        there = read_back(
            self.session,
            self.name,
            self.covered,
            self.table,
            totals=self.load.totals,
            currency=self.load.currency_column,
        )
        said = {
            key: (rows - self.tally.rejected[key], [sums.loaded for sums in self.tally.sums[key]])
            for key, rows in self.tally.rows.items()
            if rows > self.tally.rejected[key]
        }
        if there.said != said:
            raise Terminal(
                f"{self.table.name}: holds {there.said}, but the source said {said}"[:2000],
                code="verification",
            )
        self.nulls = there.nulls
        return [
            Marked(
                day,
                there.rows(day),
                sum(count for key, count in self.tally.rejected.items() if key.run_date == day),
                self.tally.totals(day),
                there.checksum(day),
            )
            for day in self.covered.dates
        ]

    # -- batches

    def _batch(self, rows: Sequence[Mapping[str, Value]]) -> Reading:
        """Puts rows that came from an API into a temporary table, as texts."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = ", ".join(f"{identifier(name, 'column')} VARCHAR" for name in names)
        self.session.run(f"DROP TABLE IF EXISTS {_BATCH}")
        self.session.run(f"CREATE TEMP TABLE w_batch ({columns})")
        lists = ", ".join(f"unnest(CAST($w_c{place} AS VARCHAR[]))" for place in range(len(names)))
        self.session.run(
            f"INSERT INTO {_BATCH} SELECT {lists}",
            {
                f"w_c{place}": [_text(name, row.get(name)) for row in rows]
                for place, name in enumerate(names)
            },
        )
        return Reading(f"SELECT * FROM {_BATCH}", {})


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a table holds of the covered slices."""

    said: dict[Key, tuple[int, list[Decimal]]]
    hashes: dict[date, int]
    nulls: dict[str, int]

    def rows(self, day: date) -> int:
        return sum(count for key, (count, _) in self.said.items() if key.run_date == day)

    def checksum(self, day: date | None = None) -> str:
        """Of the content without the lineage of its run; the order of the rows does not matter."""
        hashes = [h for other, h in self.hashes.items() if day is None or other == day]
        return f"{sum(hashes) % 2**64:016x}"


def read_back(
    session: Session,
    name: str,
    covered: Covered,
    table: Table,
    *,
    totals: Sequence[str],
    currency: str | None,
) -> ReadBack:
    """Counts, sums and hashes the covered slices of the table `name` (as SQL)."""
    columns = sorted(column.name for column in table.columns)
    watched = [column.name for column in table.columns if column.null is NullRule.FINDING]
    money = quoted(currency) if currency else "CAST(NULL AS VARCHAR)"
    sums = "".join(f", {_sum_of(quoted(column))}" for column in totals)
    nulls = "".join(f", count(*) - count({quoted(column)})" for column in watched)
    hashed = ", ".join(["x_pipeline_run_date", *map(quoted, columns)])
    said: dict[Key, tuple[int, list[Decimal]]] = {}
    hashes: dict[date, int] = {}
    missing = dict.fromkeys(watched, 0)
    for day, unit, count, digest, *parts in session.run(
        f"SELECT x_pipeline_run_date, coalesce({money}, '') AS unit, count(*), sum(hash({hashed}))"
        f"{sums}{nulls} FROM {name} WHERE {covered.where} GROUP BY x_pipeline_run_date, unit",
        covered.params,
    ):
        loaded = []
        for place in range(len(totals)):
            value = Decimal(0)
            for part in parts[3 * place : 3 * place + 3]:
                value = plus(value, Decimal(part or 0))
            loaded.append(value)
        said[Key(day, unit)] = (count, loaded)
        hashes[day] = (hashes.get(day, 0) + int(digest)) % 2**64
        for column, absent in zip(watched, parts[3 * len(totals) :], strict=True):
            missing[column] += absent
    return ReadBack(said, hashes, missing)


def null_findings(nulls: Mapping[str, int]) -> tuple[Finding, ...]:
    """A finding for every column that should have a value and lacks some."""
    return tuple(
        Finding(code="null", message=f"{column} is null", rows=rows)
        for column, rows in nulls.items()
        if rows
    )


def receipt(
    loading: Loading, marked: Sequence[Marked], added: Sequence[str], committed_at: datetime
) -> LoadReceipt:
    """What the load has to show."""
    load = loading.load
    rows = sum(made.rows for made in marked)
    return LoadReceipt(
        table=loading.table.name,
        source_version=load.source_version,
        source_at=load.source_at,
        extracted=loading.tally.extracted,
        loaded=rows,
        rejected=loading.tally.refused,
        slices=slice_counts(marked),
        totals=loading.tally.totals(),
        checksum=combined(marked),
        added_columns=tuple(added),
        unknown_columns=tuple(loading.unknown),
        findings=(*load.findings, *null_findings(loading.nulls)),
        committed_at=committed_at,
    )


def slice_counts(marked: Sequence[Marked]) -> tuple[SliceCount, ...]:
    """What the load left in each slice."""
    return tuple(
        SliceCount(run_date=made.run_date, rows=made.rows, rejected=made.rejected)
        for made in marked
    )


def combined(marked: Sequence[Marked]) -> str:
    """The checksum of all slices of a load."""
    return f"{sum(int(made.checksum, 16) for made in marked) % 2**64:016x}"


def _must(column: Column) -> bool:
    return column.null is NullRule.REJECT


def _cast_of(cell: _Cell) -> str:
    if cell.column.type is not ColumnType.DECIMAL:
        return casts.cast(cell.column.type, cell.raw)
    value = casts.STORED[ColumnType.DECIMAL]
    return (
        f"CASE WHEN plain THEN TRY_CAST({cell.raw} AS {value}) "
        f"ELSE {casts.cast(ColumnType.DECIMAL, cell.raw)} END"
    )


def _count_of(conditions: Sequence[str]) -> str:
    return " + ".join(f"CAST({condition} AS INTEGER)" for condition in conditions) or "0"


def _value(cell: _Cell) -> str:
    return cell.raw if cell.column.type is ColumnType.TEXT else cell.value


def _sum_of(value: str) -> str:
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


def _text(name: str, value: Value) -> str | None:
    """A value of an API as the text that the casts read."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case datetime():
            if value.tzinfo is None:
                raise Terminal(f"{name}: a time without a zone", code="invalid_load")
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
    raise Terminal(f"{name}: {type(value).__name__} is not exact", code="invalid_load")


def _gathered(
    batches: Iterable[Sequence[Mapping[str, Value]]],
) -> Iterator[list[Mapping[str, Value]]]:
    """Small batches together, so that each statement has something to do."""
    held: list[Mapping[str, Value]] = []
    for batch in batches:
        held.extend(batch)
        if len(held) >= _BATCH_ROWS:
            yield held
            held = []
    if held:
        yield held


def _literally(path: Path) -> str:
    """The path as DuckDB names this file alone: it takes `a[1].csv` for a pattern that `a1.csv` fits."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _whole(name: str, path: Path) -> Iterator[Callable[[], None]]:
    """Checks a gzip file's own checksum beside the first look; what is given waits for the verdict.

    DuckDB notices a file that ends too early, but not one whose bytes do not fit its checksum.
    """
    stop = threading.Event()
    faults: list[str] = []

    def judge() -> None:
        if faults:
            raise Terminal(f"{name}: cannot be read: {faults[0]}", code="unreadable_file")

    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    if not compressed:
        yield judge
        return

    def check() -> None:
        try:
            _decompress(path, stop)
        except (OSError, zlib.error) as exc:
            faults.append(getattr(exc, "strerror", None) or str(exc))

    thread = threading.Thread(target=check, name="gzip-check", daemon=True)
    thread.start()

    def wait() -> None:
        thread.join()
        judge()

    try:
        yield wait
    finally:
        stop.set()
        thread.join()


def _decompress(path: Path, stop: threading.Event) -> None:
    """Reads a gzip file to its end, in bounded memory. zlib compares the checksums on the way."""
    with path.open("rb") as file:
        member = zlib.decompressobj(wbits=31)
        held = b""
        while not stop.is_set() and (held := held or file.read(_READ)):
            if member.eof:
                member = zlib.decompressobj(wbits=31)
            member.decompress(held, 4 * _READ)
            held = member.unused_data if member.eof else member.unconsumed_tail
