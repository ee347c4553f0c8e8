"""The port of warehouses: tables of organizations, loaded slice by slice, exactly.

A load replaces every slice it covers in one transaction, together with its marker in `_loads`; a load
behind a newer one of the same slice is superseded and changes nothing. Old rows are never gone before
the new ones are there, and the same load again changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

from shared.core.lineage import Finding, LoadReceipt, Slice, Writer

Value: TypeAlias = "str | int | bool | Decimal | date | datetime | None"


class ColumnType(StrEnum):
    """The types both warehouses have. A decimal has 38 digits, 18 of them after the point."""

    TEXT = "text"
    DECIMAL = "decimal"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATE = "date"
    TIMESTAMP = "timestamp"
    JSON = "json"


class NullRule(StrEnum):
    """What a null in a column means."""

    ALLOWED = "allowed"
    FINDING = "finding"
    REJECT = "reject"


class Column(NamedTuple):
    """A column of an output table. The lineage columns are not listed: the writer adds them."""

    name: str
    type: ColumnType = ColumnType.TEXT
    null: NullRule = NullRule.ALLOWED
    description: str = ""


class View(NamedTuple):
    """A view of a table: columns by name, each with its expression (GoogleSQL) over the table's.

    After them come the table's other columns whose names begin with `rest`, also those added later.
    """

    name: str
    columns: Mapping[str, str]
    rest: str
    description: str


class Table(NamedTuple):
    """An output table of an organization's dataset. New nullable columns may be added later."""

    name: str
    columns: tuple[Column, ...]
    views: tuple[View, ...] = ()


class SourceFile(NamedTuple):
    """One file of an export. `fetch` gives a local path; `rows` is what the manifest promises."""

    name: str
    fetch: Callable[[], AbstractContextManager[Path]]
    rows: int | None = None


class Reading(NamedTuple):
    """How DuckDB reads one local file: a SELECT with `$path` (and `params`) as its parameters.

    Every selected column is text, the source's own digits; the writer casts it to the table's type.
    Beside the table's columns it may select `_run_date` (a date as text: the row's slice; without it
    the load must cover one slice), `_unknown` (JSON of the columns nobody knows) and `_reject` (a
    reason to reject the row).
    """

    sql: str
    params: Mapping[str, str]
    unknown_columns: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Files:
    """Rows that stand in files, read one file at a time in bounded memory.

    `read` looks at a local file (its header) and says how to read it; it raises Terminal when a
    mandatory column is missing.
    """

    files: Sequence[SourceFile]
    read: Callable[[SourceFile, Path], Reading]


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Rows that an API gives, in batches of bounded size. Keys as `Reading` selects them.

    Numbers are Decimal, int or the source's text, never float.
    """

    batches: Iterable[Sequence[Mapping[str, Value]]]


@dataclass(frozen=True, kw_only=True)
class Load:
    """One load. `covers` names every slice it replaces, also those that are empty now.

    `totals` are the decimal columns whose sums stand in the receipt, per value of `currency_column`.
    `unknown_column` is the JSON column that keeps what `_unknown` selects. More rejected rows than
    `max_reject_ratio` of the extracted ones fail the load (Terminal) and nothing is changed.
    """

    dataset: str
    table: Table
    covers: frozenset[Slice]
    writer: Writer
    source: Files | Batches
    source_version: str
    source_at: datetime
    totals: tuple[str, ...] = ()
    currency_column: str | None = None
    unknown_column: str | None = None
    max_reject_ratio: Decimal = Decimal(0)
    findings: tuple[Finding, ...] = ()
    check: Callable[[], None] = lambda: (
        None
    )  # called between files and before the commit; may raise Stopped


class LoadedSlice(NamedTuple):
    """A row of `_loads`: what a slice holds now, and by whom."""

    table: str
    slice: Slice
    source_version: str
    source_at: datetime
    run_created_at: datetime
    run_id: str
    step_id: str
    attempt: int
    rows: int
    rejected: int
    committed_at: datetime


class LoadsOf(NamedTuple):
    """Which rows of `_loads`: those that fit all that is given.

    `first` and `last` are run dates, both included; `after` is a pipeline and a credential, and stands
    for what comes behind them.
    """

    tables: tuple[str, ...] = ()
    pipelines: tuple[str, ...] = ()
    credential_id: str | None = None
    first: date | None = None
    last: date | None = None
    after: tuple[str, str] | None = None


EVERY_LOAD = LoadsOf()


class Rows(NamedTuple):
    """The answer of a query. Decimals stay decimals; times are aware and UTC."""

    columns: tuple[str, ...]
    rows: list[tuple[Value, ...]]


class Warehouse(Protocol):
    """Every method raises Transient when waiting helps, Terminal when it does not."""

    def create_dataset(self, dataset: str) -> None:
        """Creates the dataset with `_loads` and `_rejects` if absent."""

    def load(self, load: Load) -> LoadReceipt:
        """Replaces the covered slices, or raises and changes nothing.

        Raises Terminal (code `superseded`, `reject_threshold`, `outside_covers`, `missing_column`,
        `unreadable_file`, `row_count`), Transient, Stopped.
        """

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
        """Runs a stored procedure of `configs/system/procedures` in one transaction.

        Its fence is as old as the newest source that its input holds of the covered slices.
        """

    def query(
        self, dataset: str, sql: str, params: Mapping[str, Value], limit: int = 10_000
    ) -> Rows:
        """Reads. `sql` is GoogleSQL; values come as named parameters (`@name`) only."""

    def loads(
        self, dataset: str, where: LoadsOf = EVERY_LOAD, limit: int = 10_000
    ) -> list[LoadedSlice]:
        """What is loaded, from `_loads`: at most `limit` rows of it, by pipeline, credential, table, date.

        A dataset that is not there has nothing loaded, and is not made.
        """

    def interrupt(self, writer: Writer) -> None:
        """Stops what `writer` is running, if it is."""

    def close(self) -> None:
        """Releases the warehouse. Twice is once."""
