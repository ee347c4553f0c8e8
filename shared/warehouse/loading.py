"""One load, file by file: look, cast, reject, prove. DuckDB reads and casts; a sink takes the rows.

Every file is looked at twice. The first look counts its rows and sums its money from the source's own
digits; the second casts, and hands over what is good. What has arrived in the end has to be what the
first look said, less the rejected rows, or the load fails. Nothing is kept in memory but the sums.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TypeAlias

from shared.core.lineage import LoadReceipt
from shared.errors import Terminal
from shared.warehouse import Batches, Column, ColumnType, Files, Load, Reading, SourceFile, Table
from shared.warehouse.batches import batch_reading, gathered
from shared.warehouse.casts import quoted
from shared.warehouse.gzipped import whole
from shared.warehouse.ledger import Covered
from shared.warehouse.look import FETCH, Look
from shared.warehouse.proof import Marked, ReadBack, combined, null_findings, slice_counts
from shared.warehouse.session import Session, told
from shared.warehouse.shape import Params, Shape, shaped
from shared.warehouse.tally import Tally

_REASONS = 3  # that a failed load names
_BIG_FILE = 4 * 2**20
_REJECTED = "temp.w_rejected"

# Holds back other large statements of the process, so that two do not share the memory of one.
Turn: TypeAlias = Callable[[], AbstractContextManager[None]]


class Sink(Protocol):
    """Where the rows of one load go. A SELECT names the columns, and has them in DuckDB's types."""

    def clear(self) -> None:
        """Makes room: what comes replaces the covered slices."""

    def rows(self, select: str, params: Params) -> int:
        """Takes rows of the table, lineage included, and says how many there were."""

    def rejects(self, select: str, params: Params) -> None:
        """Takes rows of `_rejects`."""

    def arrived(self, totals: Sequence[str], currency: str | None) -> ReadBack:
        """Counts, sums and hashes all it took, where it stands now."""


@dataclass(slots=True)
class Loading:
    """The state of one load. `run` is called inside a transaction of DuckDB and commits nothing."""

    session: Session
    load: Load
    covered: Covered
    table: Table
    sink: Sink
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

    def run(self) -> list[Marked]:
        """Hands the covered slices to the sink, and proves what arrived there."""
        self.sink.clear()
        match self.load.source:
            case Files(files=files, read=read):
                for file in files:
                    self.session.check()
                    with file.fetch() as path:
                        self._file(file, path, read)
            case Batches(batches=batches):
                for count, rows in enumerate(gathered(batches), start=1):
                    self.session.check()
                    name = f"batch {count}"
                    self._rows(name, self._shape(name, batch_reading(self.session, rows), None))
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
        with self.turn() if big else _nothing(), whole(file.name, path) as judge:
            shape = self._shape(file.name, reading, path)
            self._rows(file.name, shape, promised=file.rows, judge=judge)

    def _rows(
        self,
        name: str,
        shape: Shape,
        *,
        promised: int | None = None,
        judge: Callable[[], None] = lambda: None,
    ) -> None:
        with self._readable(name, shape):
            counted = self._look.at(name, shape)
            judge()
        if promised is not None and counted != promised:
            raise Terminal(
                f"{name}: has {counted:,} rows, the manifest promises {promised:,}",
                code="row_count",
            )
        if not counted:
            return
        self.session.check()
        with self._readable(name, shape):
            taken = self._hand_over(shape)
            if taken != counted:
                self._reject(name, shape, counted - taken)

    @property
    def _look(self) -> Look:
        return Look(self.session, self.tally, self.covered.dates)

    @contextmanager
    def _readable(self, name: str, shape: Shape) -> Iterator[None]:
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

    def _reads(self, shape: Shape) -> bool:
        import duckdb  # noqa: PLC0415 -- loaded already: a session is here

        # The failed statement has ended the transaction; this one stands alone.
        try:
            self.session.run("ROLLBACK")
            self.session.run(f"SELECT sum(hash(r)) FROM ({shape.reading.sql}) r", shape.params)
        except duckdb.Error:
            return False
        return True

    def _shape(self, name: str, reading: Reading, path: Path | None) -> Shape:
        params: dict[str, object] = dict(reading.params)
        if path is not None:
            params["path"] = literally(path)
        with self._undescribable(name):
            described = self.session.open(f"SELECT * FROM ({reading.sql}) LIMIT 0", params)
            columns = [(column[0], str(column[1])) for column in described.description or ()]
        return shaped(
            name,
            reading,
            params,
            columns,
            self.table,
            unknown=self.load.unknown_column,
            currency=self.load.currency_column,
            dates=self.covered.dates,
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

    # -- what is good, and what is not

    def _hand_over(self, shape: Shape) -> int:
        values = [f"{cell.value} AS {quoted(cell.column.name)}" for cell in shape.cells]
        day = "day" if shape.dated else f"DATE '{self.covered.dates[0]}'"
        return self.sink.rows(
            f"SELECT {', '.join([*values, *self._slice(day)])}, $w_run AS x_run_id, "
            "$w_ingested AS x_ingested_at, CAST($w_ingested AS DATE) AS x_ingestion_date "
            f"FROM ({shape.cast()}) WHERE {shape.good}",
            {**shape.params, **self._written},
        )

    def _slice(self, day: str) -> list[str]:
        return [
            "$w_org AS x_org_slug",
            "$w_pipeline AS x_pipeline_id",
            "$w_credential AS x_credential_id",
            f"{day} AS x_pipeline_run_date",
        ]

    @property
    def _written(self) -> dict[str, object]:
        return {
            **self.covered.params,
            "w_run": self.load.writer.run_id,
            "w_ingested": self.ingested_at.astimezone(UTC).replace(tzinfo=None),
        }

    def _reject(self, name: str, shape: Shape, expected: int) -> None:
        """Hands over the rows that are not good, with their reasons."""
        self.session.run(f"DROP TABLE IF EXISTS {_REJECTED}")
        money = [f"m{place}" for place in range(len(self.load.totals))]
        rows = shape.cast(
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
            f"concat_ws('; ', reject, {', '.join(shape.reasons) or 'NULL'}) AS reason "
            f"FROM ({rows}) WHERE NOT coalesce({shape.good}, false)",
            shape.params,
        )
        found = self.session.open(f"SELECT reason, {fields} FROM {_REJECTED} ORDER BY line")
        count = 0
        while batch := found.fetchmany(FETCH):
            for reason, day, currency, line, *texts in batch:
                count += 1
                self.tally.reject(self._look.key(day, currency), tuple(texts))
                if len(self.reasons) < _REASONS:
                    self.reasons.append(f"{name} row {line}: {reason}")
        if count != expected:
            raise Terminal(
                f"{name}: {expected:,} rows were not loaded, but {count:,} have a reason",
                code="verification",
            )
        if not self.load.max_reject_ratio:
            self._refuse_too_many()
        day = f"coalesce(day, DATE '{self.covered.dates[0]}')"
        self.sink.rejects(
            f"SELECT {', '.join(self._slice(day))}, $w_table AS table_name, $w_run AS run_id, "
            "$w_step AS step_id, CAST($w_attempt AS BIGINT) AS attempt, $w_file AS source_file, "
            "line AS row_number, reason, source_row, $w_ingested AS rejected_at "
            f"FROM {_REJECTED}",
            {
                **self._written,
                "w_table": self.table.name,
                "w_step": self.load.writer.step_id,
                "w_attempt": self.load.writer.fence.attempt,
                "w_file": name,
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
        """What arrived, slice by slice. Raises Terminal when it is not what the source said."""
        there = self.sink.arrived(self.load.totals, self.load.currency_column)
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
        self.nulls = dict(there.nulls)
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


def receipt(
    loading: Loading, marked: Sequence[Marked], added: Sequence[str], committed_at: datetime
) -> LoadReceipt:
    """What the load has to show."""
    load = loading.load
    return LoadReceipt(
        table=loading.table.name,
        source_version=load.source_version,
        source_at=load.source_at,
        extracted=loading.tally.extracted,
        loaded=sum(made.rows for made in marked),
        rejected=loading.tally.refused,
        slices=slice_counts(marked),
        totals=loading.tally.totals(),
        checksum=combined(marked),
        added_columns=tuple(added),
        unknown_columns=tuple(loading.unknown),
        findings=(*load.findings, *null_findings(loading.nulls)),
        committed_at=committed_at,
    )


def with_unknown(table: Table, unknown: str | None) -> Table:
    """The table with the column for what nobody knows, if the load names one."""
    names = {column.name for column in table.columns}
    if unknown is None or unknown in names:
        return table
    return table._replace(columns=(*table.columns, Column(unknown, ColumnType.JSON)))


def literally(path: Path) -> str:
    """The path as DuckDB names this file alone: it takes `a[1].csv` for a pattern that `a1.csv` fits."""
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))


@contextmanager
def _nothing() -> Iterator[None]:
    yield
