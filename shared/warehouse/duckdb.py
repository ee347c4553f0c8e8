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
from typing import TYPE_CHECKING, Any, NamedTuple

from shared.core.lineage import LINEAGE_COLUMNS, LoadReceipt, Slice, Writer
from shared.errors import ConfigError, Terminal, Transient
from shared.warehouse import (
    Batches,
    Column,
    ColumnType,
    Load,
    LoadedSlice,
    Rows,
    Table,
    Value,
    googlesql,
)
from shared.warehouse.calling import Calling, Compiled
from shared.warehouse.casts import STORED, quoted
from shared.warehouse.ledger import LOADS, REJECTS, Covered, Ledger, loaded_slices
from shared.warehouse.loading import (
    Loading,
    combined,
    identifier,
    null_findings,
    receipt,
    slice_counts,
)
from shared.warehouse.procedure import bind, parse_procedure, proof
from shared.warehouse.session import OUT_OF_MEMORY, Session, aware, stored, translated

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_LINEAGE_TYPES = {
    "x_pipeline_run_date": "DATE",
    "x_ingested_at": "TIMESTAMP",
    "x_ingestion_date": "DATE",
}
_LEDGER_TABLES = {"_loads": LOADS, "_rejects": REJECTS}
_PATIENCE = 1.0  # seconds between two looks at whether the one who waits may still wait
_QUERIES_KEPT = 256


class _Query(NamedTuple):
    """A GoogleSQL query, transpiled."""

    sql: str
    parameters: frozenset[str]
    limited: bool


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
        self._path = path
        self._procedures = procedures
        self._now = now
        self._memory_limit = memory_limit
        self._threads = threads
        self._guard = threading.Lock()
        self._root: DuckDBPyConnection | None = None
        self._closed = False
        self._narrow = 0  # loads that need the memory of the other threads
        self._leases: dict[tuple[str, str], threading.Lock] = {}
        self._large = threading.Lock()
        self._schemas = threading.Lock()
        self._datasets: set[str] = set()
        self._running: dict[Writer, set[Session]] = {}
        self._queries: dict[tuple[str, str], _Query] = {}
        self._compiled: dict[tuple[str, str, int, int], Compiled] = {}

    # -- the port

    def create_dataset(self, dataset: str) -> None:
        """See the port."""
        if dataset in self._datasets:
            return
        name = identifier(dataset, "dataset")
        with self._schemas, self._session(lambda: None, f"dataset {dataset}") as session:
            with session.transaction():
                session.run(f"CREATE SCHEMA IF NOT EXISTS {name}")
                for table, columns in _LEDGER_TABLES.items():
                    session.run(f"CREATE TABLE IF NOT EXISTS {name}.{table} {columns}")
            self._datasets.add(dataset)

    def load(self, load: Load) -> LoadReceipt:
        """See the port."""
        try:
            return self._load(load)
        except Terminal as exc:
            if exc.code != OUT_OF_MEMORY or isinstance(load.source, Batches) or self._threads == 1:
                raise
        # Each thread holds a row group of the source and one of the table: fewer threads need less.
        with self._one_thread():
            return self._load(load)

    def _load(self, load: Load) -> LoadReceipt:
        covered = Covered.of(load.covers)
        table = _with_unknown(load.table, load.unknown_column)
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
                    ledger,
                    table,
                    lambda: self._turn(session.check),
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
            self._turn(session.check),
            session.transaction(),
        ):
            added = self._shape_table(session, dataset, table)
            ledger = Ledger(session, dataset, table.name, covered)
            writer = ledger.behind_its_input(writer)
            ledger.fence(writer, compiled.procedure.version)
            made = Calling(session, dataset, compiled, covered, writer, self._now())
            extracted, totals, marked, nulls = made.run(ledger, bound)
            committed_at = self._now()
            version = compiled.procedure.version
            ledger.mark(writer, version, marked, made.ingested_at, committed_at)
        return LoadReceipt(
            table=table.name,
            source_version=version,
            source_at=writer.fence.source_at,
            extracted=extracted,
            loaded=sum(one.rows for one in marked),
            slices=slice_counts(marked),
            totals=totals,
            checksum=combined(marked),
            added_columns=tuple(added),
            findings=null_findings(nulls),
            committed_at=committed_at,
        )

    def query(
        self, dataset: str, sql: str, params: Mapping[str, Value], limit: int = 10_000
    ) -> Rows:
        """See the port."""
        query = self._transpiled(dataset, sql)
        if query.parameters != params.keys():
            odd = ", ".join(sorted(query.parameters ^ params.keys()))
            raise Terminal(f"the query's parameters are not those given: {odd}", code="query")
        text = query.sql if query.limited else f"{query.sql} LIMIT {int(limit)}"
        values = {name: stored(value) for name, value in params.items()}
        with self._session(lambda: None, "query") as session:
            answer = session.open(text, values)
            described = answer.description or []
            if any(str(column[1]) == "TIMESTAMP WITH TIME ZONE" for column in described):
                answer = session.open(_without_zones(text, described), values)
            rows = [tuple(map(_told, row)) for row in answer.fetchmany(limit)]
        return Rows(tuple(column[0] for column in described), rows)

    def loads(self, dataset: str, table: str | None = None) -> list[LoadedSlice]:
        """See the port."""
        self.create_dataset(dataset)
        with self._session(lambda: None, "loads") as session:
            return loaded_slices(session, dataset, table)

    def interrupt(self, writer: Writer) -> None:
        """See the port."""
        with self._guard:
            sessions = list(self._running.get(writer, ()))
        for session in sessions:
            session.interrupt()

    def close(self) -> None:
        """See the port. Stops what is running."""
        with self._guard:
            self._closed = True
            running = [session for sessions in self._running.values() for session in sessions]
            root, self._root = self._root, None
        for session in running:
            session.interrupt()
        if root is not None:
            root.close()

    # -- connections, leases, turns

    def _connected(self) -> DuckDBPyConnection:
        import duckdb  # noqa: PLC0415 -- 0.15 s, paid by the first who uses the warehouse

        with self._guard:
            if self._closed:
                raise Transient("the warehouse is closed", code="warehouse")
            if self._root is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._root = duckdb.connect(
                    str(self._path),
                    config={
                        "memory_limit": self._memory_limit,
                        "threads": str(self._threads),
                        "temp_directory": f"{self._path}.tmp",
                        "preserve_insertion_order": "false",
                        # What a load must hold at least: measured, these four take 100 MB off a
                        # million rows of 57 columns, at no cost in time.
                        "write_buffer_row_group_count": "1",
                        "read_ahead_depth": "0",
                        "enable_external_file_cache": "false",
                        "autoinstall_known_extensions": "false",
                        "autoload_known_extensions": "false",
                    },
                )
                self._root.execute("SET GLOBAL TimeZone = 'UTC'")
                self._root.execute("SET GLOBAL disable_parquet_prefetching = true")  # see above
            return self._root.cursor()

    @contextmanager
    def _session(self, check: Callable[[], None], what: str) -> Iterator[Session]:
        import duckdb  # noqa: PLC0415 -- see _connected

        with translated(what):
            session = Session(self._connected(), check)
            try:
                yield session
            except duckdb.FatalException:
                self._forget()
                raise
            finally:
                session.end()

    def _forget(self) -> None:
        """After a fatal error DuckDB answers nothing more; the next one opens the file again."""
        with self._guard:
            root, self._root = self._root, None
            self._datasets.clear()
        if root is not None:
            root.close()

    @contextmanager
    def _writing(
        self, dataset: str, table: str, writer: Writer, check: Callable[[], None]
    ) -> Iterator[Session]:
        """A session that may write `table`, alone, and that `interrupt(writer)` stops."""
        with self._session(check, f"{dataset}.{table}") as session:
            with self._guard:
                self._running.setdefault(writer, set()).add(session)
                lease = self._leases.setdefault((dataset, table.casefold()), threading.Lock())
            try:
                with _waited(lease, session.check):
                    yield session
            finally:
                with self._guard:
                    self._running[writer].discard(session)
                    if not self._running[writer]:
                        del self._running[writer]

    @contextmanager
    def _turn(self, check: Callable[[], None]) -> Iterator[None]:
        with _waited(self._large, check):
            yield

    @contextmanager
    def _one_thread(self) -> Iterator[None]:
        self._narrowed(1)
        try:
            yield
        finally:
            self._narrowed(-1)

    def _narrowed(self, by: int) -> None:
        with self._session(lambda: None, "threads") as session, self._guard:
            self._narrow += by
            session.run(f"SET GLOBAL threads = {1 if self._narrow else self._threads}")

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
            columns = [_definition(column) for column in table.columns]
            columns += [
                f"{lineage} {_LINEAGE_TYPES.get(lineage, 'VARCHAR')} NOT NULL"
                for lineage in LINEAGE_COLUMNS
            ]
            session.run(f"CREATE TABLE {name} ({', '.join(columns)})")
            return []
        added = []
        for column in table.columns:
            stored_as = there.get(column.name.casefold())
            if stored_as is None:
                session.run(f"ALTER TABLE {name} ADD COLUMN {_definition(column)}")
                added.append(column.name)
            elif stored_as != STORED[column.type]:
                raise Terminal(
                    f"{table.name}: column {column.name!r} is {stored_as} in the warehouse, and "
                    f"cannot become {STORED[column.type]}",
                    code="schema_change",
                )
        return added

    # -- GoogleSQL

    def _transpiled(self, dataset: str, sql: str) -> _Query:
        key = (dataset, sql)
        found = self._queries.get(key)
        if found is None:
            identifier(dataset, "dataset")
            parsed = googlesql.parse(sql)
            if parsed.tree is None:
                raise Terminal(f"query: {'; '.join(parsed.faults)}", code="query")
            found = _Query(
                googlesql.to_duckdb(parsed.tree, dataset),
                parsed.parameters,
                googlesql.limited(parsed.tree),
            )
            with self._guard:
                if len(self._queries) >= _QUERIES_KEPT:
                    self._queries.pop(next(iter(self._queries)))
                self._queries[key] = found
        return found

    def _compile(self, dataset: str, name: str) -> Compiled:
        if not (name.isascii() and name.isidentifier()):
            raise Terminal(f"{name!r} is not a name of a procedure", code="unknown_procedure")
        path = self._procedures / f"{name}.sql"
        try:
            state = path.stat()
            key = (dataset, name, state.st_mtime_ns, state.st_size)
            found = self._compiled.get(key)
            if found is not None:
                return found
            text = path.read_text(encoding="utf-8")
        except OSError as exc:
            raise Terminal(f"there is no procedure {name!r}", code="unknown_procedure") from exc
        try:
            procedure = parse_procedure(text, path.name)
        except ConfigError as exc:
            raise Terminal(f"procedure {name}: {exc}", code="procedure") from exc
        found = Compiled(
            procedure,
            googlesql.to_duckdb(procedure.select, dataset),
            googlesql.to_duckdb(proof(procedure), dataset),
        )
        self._compiled[key] = found
        return found


@contextmanager
def _waited(lock: threading.Lock, check: Callable[[], None]) -> Iterator[None]:
    """Holds the lock; while waiting for it, asks now and then whether to go on waiting."""
    check()
    while not lock.acquire(timeout=_PATIENCE):
        check()
    try:
        yield
    finally:
        lock.release()


def _with_unknown(table: Table, unknown: str | None) -> Table:
    names = {column.name for column in table.columns}
    if unknown is None or unknown in names:
        return table
    return table._replace(columns=(*table.columns, Column(unknown, ColumnType.JSON)))


def _definition(column: Column) -> str:
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
