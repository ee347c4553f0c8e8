"""The warehouse in BigQuery: DuckDB casts and judges the rows here, BigQuery replaces the slices there.

A load writes typed Parquet files, load jobs bring them into a staging table, and what stands in it has to
be what the source said. Then one transaction replaces the covered slices, behind the fence, together with
their marker. Loads of a dataset take turns for that one; everything before it goes on side by side.
`docs/adr/0009-loads-into-bigquery.md` says why.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.core.lineage import LoadReceipt, Slice, Writer
from shared.errors import Terminal, Transient
from shared.warehouse import EVERY_LOAD, Load, LoadedSlice, LoadsOf, Rows, Value, googlesql
from shared.warehouse.bigquery_calling import BigQueryCalling
from shared.warehouse.bigquery_jobs import TIMEOUT_SECONDS, Jobs, Work, parameters
from shared.warehouse.bigquery_ledger import (
    COMMITTED,
    LOST,
    BigQueryLedger,
    Known,
    Replacement,
    loaded_slices,
)
from shared.warehouse.bigquery_sink import Route, StagingSink
from shared.warehouse.bigquery_tables import Tables, identified
from shared.warehouse.database import Database
from shared.warehouse.leases import TableLeases
from shared.warehouse.ledger import Covered
from shared.warehouse.loading import Loading, receipt, with_unknown
from shared.warehouse.procedure import Procedures, bind
from shared.warehouse.queries import Queries
from shared.warehouse.staging import Staging

DIRECT_BYTES = 16 * 2**20  # a file that goes from the disk is in memory while it is sent
_COMMITS = 5  # tries of one whose slices move meanwhile
_KEEP = timedelta(days=1)  # a staging table that nobody came to drop
_NO_NAME = re.compile(r"[^A-Za-z0-9_]")


class BigQueryWarehouse:
    """The port over the datasets of one project.

    `procedures` is the folder of the stored procedures, `scratch` one for local files, `staging` the
    bucket that loads of `direct_bytes` or more pass; without it they go from the disk, in jobs of about
    that size. `emulator` is the URL of a server in BigQuery's place.
    """

    def __init__(
        self,
        project: str,
        procedures: Path,
        now: Callable[[], datetime],
        *,
        new_id: Callable[[], str],
        sleep: Callable[[float], None],
        random: Callable[[], float],
        location: str,
        leases: TableLeases,
        scratch: Path,
        maximum_bytes_billed: int,
        memory_limit: str = "185MB",
        threads: int = 2,
        staging: Staging | None = None,
        direct_bytes: int = DIRECT_BYTES,
        timeout_seconds: float = TIMEOUT_SECONDS,
        emulator: str | None = None,
    ) -> None:
        self._project = project
        self._procedures = Procedures(procedures)
        self._now = now
        self._new_id = new_id
        self._leases = leases
        self._scratch = scratch
        self._staging = staging
        self._direct_bytes = direct_bytes
        self._db = Database(None, scratch / "duckdb", memory_limit, threads)
        self._jobs = Jobs(
            project,
            location=location,
            maximum_bytes_billed=maximum_bytes_billed,
            sleep=sleep,
            random=random,
            timeout_seconds=timeout_seconds,
            emulator=emulator,
        )
        self._tables = Tables(self._jobs)
        self._queries = Queries(googlesql.to_bigquery)
        self._guard = threading.Lock()
        self._datasets: set[str] = set()
        self._routines: set[tuple[str, str]] = set()
        self._running: dict[Writer, set[Work]] = {}

    # -- the port

    def create_dataset(self, dataset: str) -> None:
        """See the port."""
        if dataset in self._datasets:
            return
        work = self._asking("dataset", identified(dataset, "dataset"))
        if not self._tables.complete(dataset):
            with self._turn(dataset, work):
                self._tables.create_dataset(work, dataset)
        self._datasets.add(dataset)

    def load(self, load: Load) -> LoadReceipt:
        """See the port."""
        return self._db.roomy(load, self._load)

    def _load(self, load: Load) -> LoadReceipt:
        covered = Covered.of(load.covers)
        table = with_unknown(load.table, load.unknown_column)
        for column in table.columns:
            identified(column.name, "column")
        self.create_dataset(load.dataset)
        writer = load.writer._replace(fence=load.writer.fence._replace(source_at=load.source_at))
        with self._writing(load.writer, covered, load.check) as work:
            self._tables.lacking(load.dataset, table)
            ledger = BigQueryLedger(self._jobs, work, load.dataset, table.name, covered)
            known = ledger.known("known")
            ledger.fence(known, writer, load.source_version)
            ingested_at = self._now()
            with self._route(work, load.dataset) as route:
                with self._db.session(work.check, f"{load.dataset}.{table.name}") as session:
                    work.stops(session.interrupt)
                    sink = StagingSink(route, session, table)
                    loading = Loading(
                        session,
                        load,
                        covered,
                        table,
                        sink,
                        lambda: self._db.turn(session.check),
                        ingested_at,
                    )
                    with session.transaction():
                        marked = loading.run()
                made = Replacement(writer, load.source_version, marked, sink.staged, ingested_at)
                with self._turn(load.dataset, work):
                    added = self._tables.shape(work, load.dataset, table)
                    committed_at = self._commit(ledger, known, made)
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
        parsed = self._procedures.get(procedure)
        bound = bind(parsed, arguments)
        self.create_dataset(dataset)
        with self._writing(writer, covered, check) as work:
            self._tables.lacking(dataset, parsed.output)
            ledger = BigQueryLedger(self._jobs, work, dataset, parsed.output.name, covered)
            calling = BigQueryCalling(self._jobs, work, dataset, parsed, covered, bound)
            known = ledger.known("known")
            ledger.fence(known, ledger.behind_its_input(known, writer), parsed.version)
            calling.check_types()
            with self._turn(dataset, work):
                if (dataset, parsed.version) not in self._routines:
                    calling.create()
                    self._routines.add((dataset, parsed.version))
                added = self._tables.shape(work, dataset, parsed.output)
                for again in range(_COMMITS):
                    by = ledger.behind_its_input(known, writer)
                    ledger.fence(known, by, parsed.version)
                    at = self._now()
                    called = calling.run(f"call-{again}", known, by, at)
                    if called is not None:
                        return called.receipt(by, added, at)
                    known = ledger.known(f"known-{again}")
        raise self._restless(ledger)

    def query(
        self, dataset: str, sql: str, params: Mapping[str, Value], limit: int = 10_000
    ) -> Rows:
        """See the port."""
        text = self._queries.sql(dataset, sql, params, limit)
        work = self._asking("query", dataset)
        done = self._jobs.query(work, "select", text, parameters(params), code="query")
        answer = self._jobs.rows(done, limit)
        return Rows(answer.columns, [tuple(map(_told, row)) for row in answer.rows])

    def loads(
        self, dataset: str, where: LoadsOf = EVERY_LOAD, limit: int = 10_000
    ) -> list[LoadedSlice]:
        """See the port."""
        if dataset not in self._datasets and not self._tables.complete(dataset):
            return []
        return loaded_slices(self._jobs, self._asking("loads", dataset), dataset, where, limit)

    def interrupt(self, writer: Writer) -> None:
        """See the port."""
        with self._guard:
            running = list(self._running.get(writer, ()))
        for work in running:
            work.interrupt()

    def close(self) -> None:
        """See the port. Stops what is running."""
        with self._guard:
            running = [work for works in self._running.values() for work in works]
        for work in running:
            work.interrupt()
        self._jobs.close()
        self._db.close()
        if self._staging is not None:
            self._staging.close()

    # -- one load

    def _commit(self, ledger: BigQueryLedger, known: Known, made: Replacement) -> datetime:
        """Replaces the slices, and says when. Raises Terminal (`superseded`, `verification`)."""
        for again in range(_COMMITS):
            at = self._now()
            verdict = ledger.commit(f"commit-{again}", known, made, at)
            if verdict == COMMITTED:
                return at
            if verdict == LOST:
                raise Terminal(
                    f"{ledger.table}: a staging table does not hold any more what was verified",
                    code="verification",
                )
            known = ledger.known(f"known-{again}")
            ledger.fence(known, made.writer, made.source_version)
        raise self._restless(ledger)

    def _turn(self, dataset: str, work: Work) -> AbstractContextManager[None]:
        """Every commit of a dataset writes its `_loads`, so it is they that take turns."""
        return self._leases.hold(f"{self._project}.{dataset}", work.check)

    def _restless(self, ledger: BigQueryLedger) -> Transient:
        return Transient(
            f"{ledger.dataset}.{ledger.table}: others changed the slices during {_COMMITS} commits",
            code="warehouse",
        )

    def _route(self, work: Work, dataset: str) -> Route:
        name = f"_staging_{_NO_NAME.sub('_', self._new_id())}"
        return Route(
            work,
            self._jobs,
            self._tables,
            self._staging,
            dataset=dataset,
            name=name,
            folder=self._scratch / name,
            direct_bytes=self._direct_bytes,
            expires=self._now() + _KEEP,
        )

    @contextmanager
    def _writing(
        self, writer: Writer, covered: Covered, check: Callable[[], None]
    ) -> Iterator[Work]:
        """Work that `interrupt(writer)` stops. An attempt may load twice: each time is another one."""
        labels = {
            "org": covered.org,
            "pipeline": covered.pipeline_id,
            "run": writer.run_id,
            "step": writer.step_id,
        }
        name = f"{writer.run_id}-{writer.step_id}-{writer.fence.attempt}-{self._new_id()}"
        work = Work(name, labels, check)
        with self._guard:
            self._running.setdefault(writer, set()).add(work)
        try:
            yield work
        finally:
            with self._guard:
                self._running[writer].discard(work)
                if not self._running[writer]:
                    del self._running[writer]

    def _asking(self, what: str, dataset: str) -> Work:
        return Work(f"{what}-{self._new_id()}", {"dataset": dataset})


def _told(value: Any) -> Value:
    """A value of an answer: no floats, times in UTC."""
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, datetime) and value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    told: Value = value
    return told
