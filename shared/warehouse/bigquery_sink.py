"""The rows of one load on their way to BigQuery: local Parquet files, a staging table, and what is in it.

A file is written for each source file and deleted when it was sent, so that disk is bounded as memory is.
What is small goes straight from the disk, in one load job; what is large goes through Cloud Storage, again
in one load job over all objects. Without a bucket it goes from the disk in several.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from shared.errors import StepError, Terminal
from shared.warehouse import ColumnType, NullRule, Table
from shared.warehouse.bigquery_jobs import Job, Jobs, Work
from shared.warehouse.bigquery_ledger import Staged
from shared.warehouse.bigquery_tables import Tables, as_fields, quoted, staged
from shared.warehouse.casts import STORED, literal
from shared.warehouse.casts import quoted as in_duckdb
from shared.warehouse.ledger import REJECTS, Field
from shared.warehouse.proof import ReadBack
from shared.warehouse.session import Session
from shared.warehouse.shape import Params
from shared.warehouse.staging import Staging
from shared.warehouse.tally import Key

# Rows of a group are in memory while they are written: 16,384 of 57 columns do not fit into 185 MB.
_GROUP_ROWS = 4_096
_PARQUET = {**STORED, ColumnType.TIMESTAMP: "TIMESTAMPTZ", ColumnType.JSON: "VARCHAR"}


class Route:
    """How the rows of one load get to BigQuery: over `folder`, and staging tables of its `name`.

    As a context it leaves nothing behind, if it can; what it leaves vanishes by itself.
    """

    def __init__(
        self,
        work: Work,
        jobs: Jobs,
        tables: Tables,
        staging: Staging | None,
        *,
        dataset: str,
        name: str,
        folder: Path,
        direct_bytes: int,
        expires: datetime,
    ) -> None:
        self.work = work
        self.jobs = jobs
        self.staging = staging
        self.dataset = dataset
        self.name = name
        self.folder = folder
        self.direct_bytes = direct_bytes
        self._tables = tables
        self._expires = expires
        self._made: list[str] = []
        self._put: list[str] = []

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.staging is not None:
            for uri in self._put:
                self.staging.remove(uri)
        for name in self._made:
            with suppress(StepError):
                self._tables.drop(self.dataset, name)

    def stage(self, name: str, fields: Sequence[Field]) -> str:
        """The full name of a staging table, made by the first who asks for it."""
        if name not in self._made:
            self._made.append(name)
            self._tables.stage(self.dataset, name, fields, self._expires)
        return self._tables.full(self.dataset, name)

    def put(self, staging: Staging, path: Path) -> str:
        """The URI of a file's copy in Cloud Storage."""
        name = f"{self.dataset}/{path.name}"
        uri = self.jobs.ask(f"upload {name}", lambda _: staging.put(path, name))
        self._put.append(uri)
        return uri


@dataclass(slots=True)
class Buffer:
    """Rows on their way to the staging table `name`, which is made when there are any."""

    route: Route
    session: Session
    name: str
    fields: Sequence[Field]
    files: list[Path] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)
    written: int = 0  # files
    sent: int = 0  # load jobs
    taken: int = 0  # rows
    loaded: int = 0  # rows

    def take(self, select: str, params: Params) -> int:
        """Writes what a SELECT gives to the disk, and sends what is there when it is much."""
        self.written += 1
        path = self.route.folder / f"{self.name}-{self.written}.parquet"
        count = self._copy(self._as_parquet(select, params), path, params)
        if not count:
            path.unlink()
            return 0
        self.files.append(path)
        self.taken += count
        if sum(file.stat().st_size for file in self.files) >= self.route.direct_bytes:
            if self.route.staging is None:
                self._send()
            else:
                self._upload(self.route.staging)
        return count

    def finish(self) -> None:
        """Sends the rest. Raises Terminal (`verification`) when not every row arrived."""
        if self.objects and self.route.staging is not None:
            self._upload(self.route.staging)
            into = self.route.stage(self.name, self.fields)
            statement = f"{self.name}-objects"
            self._count(
                self.route.jobs.load_objects(
                    self.route.work, statement, self.objects, into, staged(self.fields)
                )
            )
        elif self.files:
            self._send()
        if self.loaded != self.taken:
            raise Terminal(
                f"{self.route.dataset}.{self.name}: holds {self.loaded:,} of {self.taken:,} rows",
                code="verification",
            )

    def _send(self) -> None:
        """Straight from the disk, all files in one job."""
        path = self.files[0]
        if len(self.files) > 1:
            path = self.route.folder / f"{self.name}-all.parquet"
            listed = ", ".join(literal(str(file)) for file in self.files)
            self._copy(f"SELECT * FROM read_parquet([{listed}])", path, {})
        into = self.route.stage(self.name, self.fields)
        self.sent += 1
        statement = f"{self.name}-{self.sent}"
        self._count(
            self.route.jobs.load_file(self.route.work, statement, path, into, staged(self.fields))
        )
        for file in {path, *self.files}:
            file.unlink()
        self.files.clear()

    def _upload(self, staging: Staging) -> None:
        """To Cloud Storage, from where one job takes all of it in the end."""
        for path in self.files:
            self.objects.append(self.route.put(staging, path))
            path.unlink()
        self.files.clear()

    def _count(self, done: Job) -> None:
        self.loaded += done.job.output_rows or 0

    def _copy(self, select: str, path: Path, params: Params) -> int:
        copied = self.session.first(
            f"COPY ({select}) TO {literal(str(path))} "
            f"(FORMAT parquet, ROW_GROUP_SIZE {_GROUP_ROWS})",
            params,
        )
        return int(copied)

    def _as_parquet(self, select: str, params: Params) -> str:
        """The same columns in every file, as BigQuery understands them: a time is an instant."""
        described = self.session.open(f"SELECT * FROM ({select}) LIMIT 0", params).description
        given = {column[0] for column in described or ()}
        columns = [
            f"CAST({in_duckdb(made.name) if made.name in given else 'NULL'} "
            f"AS {_PARQUET[made.type]}) AS {in_duckdb(made.name)}"
            for made in self.fields
        ]
        return f"SELECT {', '.join(columns)} FROM ({select})"


class StagingSink:
    """The sink of a load into BigQuery: what it takes stands in staging tables until the commit."""

    def __init__(self, route: Route, session: Session, table: Table) -> None:
        self._route = route
        self._table = table
        self._accepted = Buffer(route, session, route.name, as_fields(table))
        self._rejected = Buffer(route, session, f"{route.name}_rejects", REJECTS)

    @property
    def staged(self) -> list[Staged]:
        """The staging tables with rows for the table, and for `_rejects`."""
        return [
            Staged(into, buffer.name, buffer.fields, buffer.loaded)
            for into, buffer in ((self._table.name, self._accepted), ("_rejects", self._rejected))
            if buffer.loaded
        ]

    def clear(self) -> None:
        """The commit makes room."""

    def rows(self, select: str, params: Params) -> int:
        return self._accepted.take(select, params)

    def rejects(self, select: str, params: Params) -> None:
        self._rejected.take(select, params)

    def arrived(self, totals: Sequence[str], currency: str | None) -> ReadBack:
        self._accepted.finish()
        self._rejected.finish()
        watched = [c.name for c in self._table.columns if c.null is NullRule.FINDING]
        if not self._accepted.loaded:
            return ReadBack({}, {}, dict.fromkeys(watched, 0))
        sql = read_back(
            f"FROM {quoted(self._route.dataset, self._accepted.name)}",
            sorted(column.name for column in self._table.columns),
            totals=totals,
            currency=currency,
            watched=watched,
        )
        done = self._route.jobs.query(self._route.work, "verify", sql)
        return read(self._route.jobs.rows(done).rows, len(totals), watched)


def read_back(
    source: str,
    columns: Sequence[str],
    *,
    totals: Sequence[str],
    currency: str | None,
    watched: Sequence[str],
) -> str:
    """SQL that counts, sums and hashes rows by day and currency; `read` understands its answer.

    The hash is a sum, so that the order of the rows does not matter, and two equal ones do. NUMERIC has
    the digits for that; an INT64 would overflow.
    """
    unit = f"COALESCE({quoted(currency) if currency else 'CAST(NULL AS STRING)'}, '')"
    content = ", ".join(["x_pipeline_run_date", *map(quoted, columns)])
    parts = [
        "x_pipeline_run_date AS run_date",
        f"{unit} AS unit",
        "COUNT(*) AS found",
        f"SUM(CAST(FARM_FINGERPRINT(TO_JSON_STRING(STRUCT({content}))) AS NUMERIC)) AS digest",
        *(f"SUM({quoted(name)}) AS sum_{place}" for place, name in enumerate(totals)),
        *(
            f"COUNTIF({quoted(name)} IS NULL) AS nulls_{place}"
            for place, name in enumerate(watched)
        ),
    ]
    return f"SELECT {', '.join(parts)} {source} GROUP BY 1, 2"


def read(rows: Sequence[tuple[Any, ...]], totals: int, watched: Sequence[str]) -> ReadBack:
    """What the answer of `read_back` says."""
    said: dict[Key, tuple[int, list[Decimal]]] = {}
    hashes: dict[date, int] = {}
    nulls = dict.fromkeys(watched, 0)
    for row in rows:
        day, unit, found, digest, *parts = row
        said[Key(day, unit)] = (found, [Decimal(part or 0) for part in parts[:totals]])
        hashes[day] = hashes.get(day, 0) + int(Decimal(digest))
        for name, missing in zip(watched, parts[totals:], strict=True):
            nulls[name] += missing
    return ReadBack(said, hashes, nulls)
