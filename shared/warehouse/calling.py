"""One call of a procedure in DuckDB, inside one transaction: replace the slices, and prove the money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from shared.core.lineage import LINEAGE_COLUMNS, Total, Writer
from shared.errors import Terminal
from shared.warehouse import ColumnType, Value
from shared.warehouse.casts import STORED, quoted
from shared.warehouse.ledger import Covered, Ledger, Marked
from shared.warehouse.loading import ReadBack, read_back
from shared.warehouse.procedure import Procedure, RowRule
from shared.warehouse.session import Session, stored, told
from shared.warehouse.tally import INTEGER_DIGITS, SCALE, plus

_Sums: TypeAlias = tuple[int, list[Decimal]]


class Compiled(NamedTuple):
    """A procedure with its SELECT and its proof in DuckDB's SQL."""

    procedure: Procedure
    select: str
    proof: str


@dataclass(frozen=True, slots=True)
class Calling:
    """One call of a procedure, inside its transaction."""

    session: Session
    dataset: str
    compiled: Compiled
    covered: Covered
    writer: Writer
    ingested_at: datetime

    def run(
        self, ledger: Ledger, bound: Mapping[str, Value]
    ) -> tuple[int, tuple[Total, ...], list[Marked], dict[str, int]]:
        """Extracted rows, totals, what is in each slice, and nulls that should not be."""
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        table = self.compiled.procedure.output
        name = f"{quoted(self.dataset)}.{quoted(table.name)}"
        self.session.run(f"DELETE FROM {name} WHERE {self.covered.where}", self.covered.params)
        ledger.clear_rejects()
        try:
            source = self._source(bound)
            self.session.check()
            inserted = self._insert(name, bound)
        except (
            duckdb.CatalogException,
            duckdb.BinderException,
            duckdb.ConversionException,
            duckdb.OutOfRangeException,
        ) as exc:
            raise Terminal(f"{self._name}: {told(exc)}", code="procedure") from exc
        except duckdb.ConstraintException as exc:
            raise Terminal(f"{self._name}: a row has no _run_date", code="outside_covers") from exc
        there = read_back(
            self.session,
            name,
            self.covered,
            table,
            totals=self.compiled.procedure.totals,
            currency=self.compiled.procedure.currency,
        )
        marked = [
            Marked(day, there.rows(day), 0, self._totals(there, day), there.checksum(day))
            for day in self.covered.dates
        ]
        if sum(made.rows for made in marked) != inserted:
            raise Terminal(
                f"{self._name}: {inserted - sum(made.rows for made in marked):,} rows belong to dates "
                f"that this call does not cover",
                code="outside_covers",
            )
        self._balance(source, there)
        same = self.compiled.procedure.rows is RowRule.SAME
        extracted = sum(row[0] for row in source.values()) if same else inserted
        return extracted, self._totals(there), marked, there.nulls

    @property
    def _name(self) -> str:
        return f"procedure {self.compiled.procedure.name}"

    def _given(self, bound: Mapping[str, Value], sql: str) -> dict[str, object]:
        values: dict[str, object] = {
            "org_slug": self.covered.org,
            "pipeline_id": self.covered.pipeline_id,
            "credential_id": self.covered.credential_id,
            "run_dates": list(self.covered.dates),
            **{name: stored(value) for name, value in bound.items()},
        }
        used = self.compiled.procedure.used
        return {key: value for key, value in values.items() if key in used and f"${key}" in sql}

    def _source(self, bound: Mapping[str, Value]) -> dict[str, _Sums]:
        """Rows and totals of the input, per currency."""
        rows = self.session.run(self.compiled.proof, self._given(bound, self.compiled.proof))
        return {row[0] or "": (row[1], [Decimal(part or 0) for part in row[2:]]) for row in rows}

    def _insert(self, name: str, bound: Mapping[str, Value]) -> int:
        select = self.compiled.select
        params = self._given(bound, select)
        table = self.compiled.procedure.output
        described = self.session.open(f"SELECT * FROM ({select}) LIMIT 0", params).description
        kinds = {column[0]: str(column[1]) for column in described or []}
        for column in table.columns:
            if not _fits(column.type, kinds[column.name]):
                raise Terminal(
                    f"{self._name}: column {column.name!r} is {kinds[column.name]}, which does not "
                    f"become {column.type} without loss",
                    code="procedure",
                )
        if kinds["_run_date"] != "DATE":
            raise Terminal(f"{self._name}: _run_date is {kinds['_run_date']}", code="procedure")
        columns = [quoted(column.name) for column in table.columns]
        values = [f"CAST({quoted(c.name)} AS {STORED[c.type]})" for c in table.columns]
        inserted = self.session.first(
            f"INSERT INTO {name} ({', '.join([*columns, *LINEAGE_COLUMNS])}) "
            f"SELECT {', '.join(values)}, $w_org, $w_pipeline, $w_credential, _run_date, $w_run, "
            f"$w_ingested, CAST($w_ingested AS DATE) FROM ({select})",
            {
                **params,
                **self.covered.params,
                "w_run": self.writer.run_id,
                "w_ingested": stored(self.ingested_at),
            },
        )
        return int(inserted)

    def _totals(self, there: ReadBack, day: date | None = None) -> tuple[Total, ...]:
        """What the table holds, which `_balance` holds against the source."""
        return tuple(
            Total(column=column, currency=currency, source=sums[place], loaded=sums[place])
            for place, column in enumerate(self.compiled.procedure.totals)
            for currency, (_, sums) in sorted(_by_currency(there, day).items())
        )

    def _balance(self, source: Mapping[str, _Sums], there: ReadBack) -> None:
        """Raises Terminal (`unbalanced`) when money or rows of the input are not in the output."""
        loaded = _by_currency(there)
        totals = self.compiled.procedure.totals
        nothing = (0, [Decimal(0)] * len(totals))
        problems = []
        for currency in sorted({*source, *loaded}):
            given, held = source.get(currency, nothing), loaded.get(currency, nothing)
            if given[0] != held[0] and self.compiled.procedure.rows is RowRule.SAME:
                problems.append(f"rows {currency}: {held[0]:,} of {given[0]:,}")
            problems += [
                f"{column} {currency}: {to} of {of}"
                for column, of, to in zip(totals, given[1], held[1], strict=True)
                if of != to
            ]
        if problems:
            raise Terminal(
                f"{self._name}: the output does not hold what its source has: {'; '.join(problems)}",
                code="unbalanced",
            )


def _by_currency(there: ReadBack, day: date | None = None) -> dict[str, _Sums]:
    merged: dict[str, _Sums] = {}
    for key, (count, sums) in there.said.items():
        if day is None or key.run_date == day:
            known = merged.get(key.currency, (0, [Decimal(0)] * len(sums)))
            merged[key.currency] = (
                known[0] + count,
                [plus(one, other) for one, other in zip(known[1], sums, strict=True)],
            )
    return merged


_EXACT_WHOLE = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"}


def _fits(kind: ColumnType, given: str) -> bool:
    """May a column that DuckDB calls `given` be stored as `kind` without losing anything?"""
    if given == '"NULL"':
        return True
    match kind:
        case ColumnType.DECIMAL:
            if given.startswith("DECIMAL("):
                precision, scale = map(int, given[len("DECIMAL(") : -1].split(","))
                return scale <= SCALE and precision - scale <= INTEGER_DIGITS
            return given in _EXACT_WHOLE
        case ColumnType.INTEGER:
            return given in _EXACT_WHOLE
        case ColumnType.JSON:
            return given in {"JSON", "VARCHAR"}
        case _:
            return given == STORED[kind]
