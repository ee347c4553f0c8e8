"""The warehouse in one DuckDB file: one process opens it, every thread has a cursor of its own.

A load is one transaction of DuckDB, whose write-ahead log is synced at the commit: when `load` returns,
a kill loses nothing, and when it does not return, nothing has changed. Loads of one table wait for each
other, and large statements take turns, since they share one memory limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.core.lineage import LoadReceipt, Slice, Writer
from shared.errors import Terminal
from shared.warehouse import (
    EVERY_LOAD,
    Column,
    Load,
    LoadedSlice,
    LoadsOf,
    Rows,
    Table,
    Value,
    googlesql,
)
from shared.warehouse.calling import Calling, Compiled
from shared.warehouse.casts import STORED, identifier, literal, quoted
from shared.warehouse.database import Database
from shared.warehouse.duckdb_tables import Ledger, TableSink, definition, loaded_slices
from shared.warehouse.leases import ThreadLeases
from shared.warehouse.ledger import LEDGER, LINEAGE, Covered
from shared.warehouse.loading import Loading, receipt, with_unknown
from shared.warehouse.procedure import Procedures, bind, proof
from shared.warehouse.queries import Queries
from shared.warehouse.session import Session, aware, stored
from shared.warehouse.views import views_of


class DuckdbWarehouse:
    """The port over the DuckDB file at `path`; `procedures` is the folder of the stored procedures."""

    def __init__(
        self,
        path: Path,
        procedures: Path,
        now: Callable[[], datetime],
        memory_limit: str = "185MB",
        threads: int = 2,
    ) -> None:
        overflow = path.with_name(f"{path.name}.tmp")
        self._datasets: set[str] = set()
        self._db = Database(path, overflow, memory_limit, threads, self._datasets.clear)
        self._procedures = Procedures(procedures)
        self._now = now
        self._guard = threading.Lock()
        self._leases = ThreadLeases()
        self._schemas = threading.Lock()
        self._running: dict[Writer, set[Session]] = {}
        self._queries = Queries(googlesql.to_duckdb)
        self._compiled: dict[tuple[str, str], Compiled] = {}

    # -- the port

    def create_dataset(self, dataset: str) -> None:
        """See the port."""
        if dataset in self._datasets:
            return
        name = identifier(dataset, "dataset")
        with self._schemas, self._db.session(lambda: None, f"dataset {dataset}") as session:
            with session.transaction():
                session.run(f"CREATE SCHEMA IF NOT EXISTS {name}")
                for table, fields in LEDGER.items():
                    columns = f"({', '.join(map(definition, fields))})"
                    session.run(f"CREATE TABLE IF NOT EXISTS {name}.{table} {columns}")
            self._datasets.add(dataset)

    def load(self, load: Load) -> LoadReceipt:
        """See the port."""
        return self._db.roomy(load, self._load)

    def _load(self, load: Load) -> LoadReceipt:
        covered = Covered.of(load.covers)
        table = with_unknown(load.table, load.unknown_column)
        self.create_dataset(load.dataset)
        writer = load.writer._replace(fence=load.writer.fence._replace(source_at=load.source_at))
        with self._writing(load.dataset, table.name, load.writer, load.check) as session:
            with session.transaction():
                added = self._shape_table(session, load.dataset, table)
                ledger = Ledger(session, load.dataset, table.name, covered)
                ledger.fence(writer, load.source_version)
                ingested_at = self._now()
                loading = Loading(
                    session,
                    load,
                    covered,
                    table,
                    TableSink(session, load.dataset, table, covered, ledger),
                    lambda: self._db.turn(session.check),
                    ingested_at,
                )
                marked = loading.run()
                committed_at = self._now()
                ledger.mark(writer, load.source_version, marked, ingested_at, committed_at)
            return receipt(loading, marked, added, committed_at)

    def call(
        self,
        dataset: str,
        procedure: str,
        arguments: Mapping[str, Value],
        *,
        writer: Writer,
        covers: frozenset[Slice],
        check: Callable[[], None],
    ) -> LoadReceipt:
        """See the port. `docs/adr/0005-procedures-are-one-select.md` says what a procedure is."""
        covered = Covered.of(covers)
        compiled = self._compile(dataset, procedure)
        bound = bind(compiled.procedure, arguments)
        self.create_dataset(dataset)
        table = compiled.procedure.output
        with (
            self._writing(dataset, table.name, writer, check) as session,
            self._db.turn(session.check),
            session.transaction(),
        ):
            added = self._shape_table(session, dataset, table)
            ledger = Ledger(session, dataset, table.name, covered)
            writer = ledger.behind_its_input(writer)
            ledger.fence(writer, compiled.procedure.version)
            made = Calling(session, dataset, compiled, covered, writer, self._now())
            called = made.run(ledger, bound)
            committed_at = self._now()
            version = compiled.procedure.version
            ledger.mark(writer, version, called.marked, made.ingested_at, committed_at)
        return called.receipt(writer, added, committed_at)

    def query(
        self, dataset: str, sql: str, params: Mapping[str, Value], limit: int = 10_000
    ) -> Rows:
        """See the port."""
        text = self._queries.sql(dataset, sql, params, limit)
        values = {name: stored(value) for name, value in params.items()}
        with self._db.session(lambda: None, "query") as session:
            answer = session.open(text, values)
            described = answer.description or []
            if any(str(column[1]) == "TIMESTAMP WITH TIME ZONE" for column in described):
                answer = session.open(_without_zones(text, described), values)
            rows = [tuple(map(_told, row)) for row in answer.fetchmany(limit)]
        return Rows(tuple(column[0] for column in described), rows)

    def loads(
        self, dataset: str, where: LoadsOf = EVERY_LOAD, limit: int = 10_000
    ) -> list[LoadedSlice]:
        """See the port."""
        with self._db.session(lambda: None, "loads") as session:
            return loaded_slices(session, dataset, where, limit)

    def interrupt(self, writer: Writer) -> None:
        """See the port."""
        with self._guard:
            sessions = list(self._running.get(writer, ()))
        for session in sessions:
            session.interrupt()

    def close(self) -> None:
        """See the port. Stops what is running."""
        with self._guard:
            running = [session for sessions in self._running.values() for session in sessions]
        for session in running:
            session.interrupt()
        self._db.close()

    @contextmanager
    def _writing(
        self, dataset: str, table: str, writer: Writer, check: Callable[[], None]
    ) -> Iterator[Session]:
        """A session that may write `table`, alone, and that `interrupt(writer)` stops."""
        with self._db.session(check, f"{dataset}.{table}") as session:
            with self._guard:
                self._running.setdefault(writer, set()).add(session)
            try:
                with self._leases.hold(f"{dataset}.{table.casefold()}", session.check):
                    yield session
            finally:
                with self._guard:
                    self._running[writer].discard(session)
                    if not self._running[writer]:
                        del self._running[writer]

    # -- tables

    def _shape_table(self, session: Session, dataset: str, table: Table) -> list[str]:
        """Creates the table, or adds the columns it lacks and names them."""
        name = f"{quoted(dataset)}.{identifier(table.name, 'table')}"
        there = {
            row[0].casefold(): row[1]
            for row in session.run(
                "SELECT column_name, data_type FROM duckdb_columns() "
                "WHERE database_name = current_database() AND schema_name = $w_dataset "
                "AND table_name = $w_table",
                {"w_dataset": dataset, "w_table": table.name},
            )
        }
        if not there:
            columns = [*map(_column, table.columns)]
            columns += map(definition, LINEAGE)
            session.run(f"CREATE TABLE {name} ({', '.join(columns)})")
            _shape_views(session, dataset, table)
            return []
        added = []
        for column in table.columns:
            stored_as = there.get(column.name.casefold())
            if stored_as is None:
                session.run(f"ALTER TABLE {name} ADD COLUMN {_column(column)}")
                added.append(column.name)
            elif stored_as != STORED[column.type]:
                raise Terminal(
                    f"{table.name}: column {column.name!r} is {stored_as} in the warehouse, and "
                    f"cannot become {STORED[column.type]}",
                    code="schema_change",
                )
        _shape_views(session, dataset, table)
        return added

    def _compile(self, dataset: str, name: str) -> Compiled:
        procedure = self._procedures.get(name)
        key = (dataset, procedure.version)
        if key not in self._compiled:
            self._compiled[key] = Compiled(
                procedure,
                googlesql.to_duckdb(procedure.select, dataset),
                googlesql.to_duckdb(proof(procedure), dataset),
            )
        return self._compiled[key]


def _shape_views(session: Session, dataset: str, table: Table) -> None:
    """Makes the table's views, where they are not there as they should be."""
    if not table.views:
        return
    where = "WHERE database_name = current_database() AND schema_name = $w_dataset"
    columns = session.run(
        f"SELECT column_name FROM duckdb_columns() {where} AND table_name = $w_table "
        "ORDER BY column_index",
        {"w_dataset": dataset, "w_table": table.name},
    )
    there = {
        row[0]: row[1]
        for row in session.run(
            f"SELECT view_name, comment FROM duckdb_views() {where}", {"w_dataset": dataset}
        )
    }
    for view in views_of(table, [row[0] for row in columns]):
        if there.get(view.name) != view.description:
            name = f"{quoted(dataset)}.{identifier(view.name, 'view')}"
            select = googlesql.to_duckdb(view.select, dataset)
            session.run(f"CREATE OR REPLACE VIEW {name} AS {select}")
            session.run(f"COMMENT ON VIEW {name} IS {literal(view.description)}")


def _column(column: Column) -> str:
    return f"{identifier(column.name, 'column')} {STORED[column.type]}"


def _without_zones(sql: str, described: list[Any]) -> str:
    columns = [
        f"CAST({quoted(column[0])} AS TIMESTAMP) AS {quoted(column[0])}"
        if str(column[1]) == "TIMESTAMP WITH TIME ZONE"
        else quoted(column[0])
        for column in described
    ]
    return f"SELECT {', '.join(columns)} FROM ({sql})"


def _told(value: object) -> Value:
    """A value of an answer: no floats, times in UTC."""
    if isinstance(value, float):
        return Decimal(repr(value))
    told: Value = aware(value)
    return told
