"""One call of a procedure in DuckDB, inside one transaction: replace the slices, and prove the money."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple

from shared.core.lineage import LINEAGE_COLUMNS, Writer
from shared.errors import Terminal
from shared.warehouse import ColumnType, Value
from shared.warehouse.balance import Called, Sums
from shared.warehouse.casts import STORED, quoted
from shared.warehouse.duckdb_tables import Ledger, read_back
from shared.warehouse.ledger import Covered
from shared.warehouse.procedure import Procedure
from shared.warehouse.session import Session, stored, told
from shared.warehouse.tally import INTEGER_DIGITS, SCALE, plus


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

    def run(self, ledger: Ledger, bound: Mapping[str, Value]) -> Called:
        """Replaces the covered slices. Raises Terminal (`procedure`, `outside_covers`, `unbalanced`)."""
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        table = self.compiled.procedure.output
        name = f"{quoted(self.dataset)}.{quoted(table.name)}"
        self.session.run(f"DELETE FROM {name} WHERE {self.covered.where()}", self.covered.params)
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
            self.dataset,
            table,
            self.covered,
            totals=self.compiled.procedure.totals,
            currency=self.compiled.procedure.currency,
        )
        made = Called(self.compiled.procedure, self.covered.dates, source, there)
        if made.rows != inserted:
            raise Terminal(
                f"{self._name}: {inserted - made.rows:,} rows belong to dates that this call does "
                f"not cover",
                code="outside_covers",
            )
        made.balance()
        return made

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

    def _source(self, bound: Mapping[str, Value]) -> Sums:
        """Rows and totals of the input, per currency."""
        source: dict[str, tuple[int, list[Decimal]]] = {}
        for currency, count, *sums in self.session.run(
            self.compiled.proof, self._given(bound, self.compiled.proof)
        ):
            # A null and an empty currency are one.
            known, so_far = source.get(currency or "", (0, [Decimal(0)] * len(sums)))
            added = [plus(one, Decimal(part or 0)) for one, part in zip(so_far, sums, strict=True)]
            source[currency or ""] = (known + count, added)
        return source

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
