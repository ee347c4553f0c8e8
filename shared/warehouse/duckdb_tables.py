"""What a load reads and writes in DuckDB's own tables, inside its transaction: `_loads`, `_rejects`, rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from shared.core.lineage import Fence, Slice, Writer
from shared.warehouse import LoadedSlice, LoadsOf, NullRule, Table
from shared.warehouse.casts import STORED, quoted
from shared.warehouse.ledger import (
    LOADED,
    Covered,
    Field,
    Held,
    chosen,
    refuse_superseded,
    totals_json,
)
from shared.warehouse.look import sum_of
from shared.warehouse.proof import Marked, ReadBack
from shared.warehouse.session import Row, Session, aware, stored
from shared.warehouse.shape import Params
from shared.warehouse.tally import Key, plus


def definition(field: Field) -> str:
    """SQL of a column that the writer fills itself."""
    return f"{field.name} {STORED[field.type]}{' NOT NULL' if field.required else ''}"


class Ledger:
    """Both tables of one dataset, as one load sees them inside its transaction."""

    def __init__(self, session: Session, dataset: str, table: str, covered: Covered) -> None:
        self._session = session
        self._loads = f"{quoted(dataset)}._loads"
        self.rejects = f"{quoted(dataset)}._rejects"
        self._where = f"table_name = $w_table AND {covered.where()}"
        self._params = {**covered.params, "w_table": table}
        self._covered = covered
        self._table = table

    def fence(self, writer: Writer, source_version: str) -> None:
        """Raises Terminal (`superseded`) when a covered slice was loaded from something newer."""
        rows = self._session.run(
            "SELECT x_pipeline_run_date, source_at, run_created_at, attempt, run_id, step_id, "
            f"source_version, committed_at FROM {self._loads} WHERE {self._where} ORDER BY 1",
            self._params,
        )
        held = [Held(row[0], _fence(row), row[4], row[5], row[6], aware(row[7])) for row in rows]
        refuse_superseded(held, writer, source_version, self._table, self._covered)

    def behind_its_input(self, writer: Writer) -> Writer:
        """`writer` with a fence as old as the newest source that other tables hold of these slices.

        A procedure reads what is there now, whichever run loaded it: of two runs that overlap, the
        one that consolidates the newer delivery must win, also when it is the older run.
        """
        newest = self._session.run(
            f"SELECT max(source_at) FROM {self._loads} "
            f"WHERE table_name <> $w_table AND {self._covered.where()}",
            self._params,
        )[0][0]
        if newest is None:
            return writer
        return writer._replace(fence=writer.fence._replace(source_at=aware(newest)))

    def clear_rejects(self) -> None:
        self._session.run(f"DELETE FROM {self.rejects} WHERE {self._where}", self._params)

    def mark(
        self,
        writer: Writer,
        source_version: str,
        slices: Sequence[Marked],
        ingested_at: datetime,
        committed_at: datetime,
    ) -> None:
        """Writes the commit marker of every covered slice."""
        self._session.run(f"DELETE FROM {self._loads} WHERE {self._where}", self._params)
        common = {
            **self._params,
            "w_run": writer.run_id,
            "w_step": writer.step_id,
            "w_attempt": writer.fence.attempt,
            "w_created": stored(writer.fence.run_created_at),
            "w_version": source_version,
            "w_source_at": stored(writer.fence.source_at),
            "w_committed": stored(committed_at),
            "w_day": ingested_at.astimezone(UTC).date(),
        }
        for made in slices:
            self._session.run(
                f"""INSERT INTO {self._loads} VALUES (
                    $w_org, $w_pipeline, $w_credential, $w_date, $w_table, $w_run, $w_step,
                    $w_attempt, $w_created, $w_version, $w_source_at, $w_rows, $w_rejected,
                    $w_totals, $w_checksum, $w_committed, $w_day)""",
                {
                    **common,
                    "w_date": made.run_date,
                    "w_rows": made.rows,
                    "w_rejected": made.rejected,
                    "w_totals": totals_json(made.totals),
                    "w_checksum": made.checksum,
                },
            )


@dataclass(frozen=True, slots=True)
class TableSink:
    """The sink of a load whose rows go straight into the table."""

    session: Session
    dataset: str
    table: Table
    covered: Covered
    ledger: Ledger

    def clear(self) -> None:
        name = _name(self.dataset, self.table)
        self.session.run(f"DELETE FROM {name} WHERE {self.covered.where()}", self.covered.params)
        self.ledger.clear_rejects()

    def rows(self, select: str, params: Params) -> int:
        into = _name(self.dataset, self.table)
        return int(self.session.first(f"INSERT INTO {into} BY NAME {select}", params))

    def rejects(self, select: str, params: Params) -> None:
        self.session.run(f"INSERT INTO {self.ledger.rejects} BY NAME {select}", params)

    def arrived(self, totals: Sequence[str], currency: str | None) -> ReadBack:
        return read_back(
            self.session, self.dataset, self.table, self.covered, totals=totals, currency=currency
        )


def read_back(
    session: Session,
    dataset: str,
    table: Table,
    covered: Covered,
    *,
    totals: Sequence[str],
    currency: str | None,
) -> ReadBack:
    """Counts, sums and hashes the covered slices of the table."""
    columns = sorted(column.name for column in table.columns)
    watched = [column.name for column in table.columns if column.null is NullRule.FINDING]
    money = quoted(currency) if currency else "CAST(NULL AS VARCHAR)"
    sums = "".join(f", {sum_of(quoted(column))}" for column in totals)
    nulls = "".join(f", count(*) - count({quoted(column)})" for column in watched)
    hashed = ", ".join(["x_pipeline_run_date", *map(quoted, columns)])
    said: dict[Key, tuple[int, list[Decimal]]] = {}
    hashes: dict[date, int] = {}
    missing = dict.fromkeys(watched, 0)
    for day, unit, count, digest, *parts in session.run(
        f"SELECT x_pipeline_run_date, coalesce({money}, '') AS unit, count(*), sum(hash({hashed}))"
        f"{sums}{nulls} FROM {_name(dataset, table)} WHERE {covered.where()} "
        "GROUP BY 1, 2",
        covered.params,
    ):
        loaded = []
        for place in range(len(totals)):
            value = Decimal(0)
            for part in parts[3 * place : 3 * place + 3]:
                value = plus(value, Decimal(part or 0))
            loaded.append(value)
        said[Key(day, unit)] = (count, loaded)
        hashes[day] = hashes.get(day, 0) + int(digest)
        for column, absent in zip(watched, parts[3 * len(totals) :], strict=True):
            missing[column] += absent
    return ReadBack(said, hashes, missing)


def loaded_slices(session: Session, dataset: str, where: LoadsOf, limit: int) -> list[LoadedSlice]:
    """Rows of `_loads`; none where there is no such dataset."""
    there = session.run(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = $dataset AND table_name = '_loads'",
        {"dataset": dataset},
    )
    if not there:
        return []
    rest, params = chosen(where, limit, "$")
    rows = session.run(f"SELECT {LOADED} FROM {quoted(dataset)}._loads {rest}", params)
    return [LoadedSlice(row[0], Slice(*row[1:5]), *map(aware, row[5:])) for row in rows]


def _fence(row: Row) -> Fence:
    return Fence(aware(row[1]), aware(row[2]), row[3])


def _name(dataset: str, table: Table) -> str:
    return f"{quoted(dataset)}.{quoted(table.name)}"
