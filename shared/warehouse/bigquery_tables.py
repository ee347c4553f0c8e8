"""Datasets and tables of BigQuery: how they are made, and which columns may be added.

Money is BIGNUMERIC, lineage REQUIRED; a table is partitioned by the day of ingestion and clustered by its
slice. `_loads` and `_rejects` are partitioned by the month of their slices: both are only ever asked for
some dates. What is named here is validated, and quoted in backticks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from shared.errors import Terminal, Transient
from shared.warehouse import Column, ColumnType, Table, googlesql
from shared.warehouse.bigquery_jobs import Jobs, Work
from shared.warehouse.casts import identifier
from shared.warehouse.ledger import LEDGER, LINEAGE, Field
from shared.warehouse.views import views_of

# As the API names them; a parameter or a CAST calls INTEGER INT64, and BOOLEAN BOOL.
KINDS = {
    ColumnType.TEXT: "STRING",
    ColumnType.DECIMAL: "BIGNUMERIC",
    ColumnType.INTEGER: "INTEGER",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.DATE: "DATE",
    ColumnType.TIMESTAMP: "TIMESTAMP",
    ColumnType.JSON: "JSON",
}
TURNS = "_turns"
_CLUSTERED = ("x_org_slug", "x_pipeline_id", "x_credential_id", "x_pipeline_run_date")
_LEDGER_CLUSTERED = ("table_name", "x_pipeline_id", "x_credential_id", "x_pipeline_run_date")
_ALTERATIONS = 5


class Tables:
    """The tables of a project's datasets."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def complete(self, dataset: str) -> bool:
        """Is the dataset there, with all that stands in every one?"""
        return self._get(dataset, TURNS) is not None

    def create_dataset(self, work: Work, dataset: str) -> None:
        """Creates what is absent of it.

        `_turns` has one row, which every commit updates: two transactions at once are then always in
        each other's way, also when they find nothing to delete. It comes last, and with its row: where
        it is, all of it is.
        """
        from google.cloud.bigquery import Dataset  # noqa: PLC0415 -- a client is here

        made = Dataset(f"{self._jobs.project}.{dataset}")
        made.location = self._jobs.location
        self._jobs.ask(
            f"create dataset {dataset}",
            lambda c: c.create_dataset(made, exists_ok=True, **self._jobs.options),
        )
        for name, fields in LEDGER.items():
            self._create(
                dataset,
                name,
                [*map(_field, fields)],
                partition=("x_pipeline_run_date", "MONTH"),
                clustered=_LEDGER_CLUSTERED,
                description=f"{name} of the engine: written with every load, by nobody else",
            )
        self._jobs.query(
            work,
            "turns",
            f"CREATE TABLE IF NOT EXISTS {quoted(dataset, TURNS)} AS "
            "SELECT CURRENT_TIMESTAMP() AS taken_at, 'nobody' AS run_id",
        )

    def lacking(self, dataset: str, table: Table) -> list[str] | None:
        """The columns that the table in the warehouse has not yet; None when there is no table.

        Raises Terminal (`schema_change`) when one of them has another type there.
        """
        there = self._get(dataset, identified(table.name, "table"))
        if there is None:
            return None
        kinds = {field.name.casefold(): field.field_type for field in there.schema}
        for column in table.columns:
            kind = kinds.get(column.name.casefold(), KINDS[column.type])
            if kind != KINDS[column.type]:
                raise Terminal(
                    f"{table.name}: column {column.name!r} is {kind} in the warehouse, and cannot "
                    f"become {KINDS[column.type]}",
                    code="schema_change",
                )
        return [c.name for c in table.columns if c.name.casefold() not in kinds]

    def shape(self, work: Work, dataset: str, table: Table) -> list[str]:
        """Creates the table and its views, or adds the columns it lacks and names them."""
        added = self._shape(dataset, table)
        if table.views:
            self._shape_views(work, dataset, table)
        return added

    def _shape(self, dataset: str, table: Table) -> list[str]:
        from google.api_core.exceptions import PreconditionFailed  # noqa: PLC0415 -- see _get

        for _ in range(_ALTERATIONS):
            lacking = self.lacking(dataset, table)
            if lacking is None:
                self._create(
                    dataset,
                    table.name,
                    [*map(_column, table.columns), *map(_field, LINEAGE)],
                    partition=("x_ingestion_date", "DAY"),
                    clustered=_CLUSTERED,
                    description="Loaded slice by slice; _loads says what of, and by which run",
                )
                return []
            if not lacking:
                return []
            there = self._get(dataset, table.name)
            if there is None:
                continue
            added = [_column(column) for column in table.columns if column.name in lacking]
            there.schema = [*there.schema, *added]
            try:
                self._update(there)
            except PreconditionFailed:  # somebody else has changed it: look again
                continue
            return lacking
        raise Transient(f"{table.name} is changed by others all the time", code="warehouse")

    def _shape_views(self, work: Work, dataset: str, table: Table) -> None:
        """Makes the table's views, where they are not there as they should be."""
        shaped = self._get(dataset, table.name)
        if shaped is None:
            raise Transient(f"{table.name} has just been dropped", code="warehouse")
        for view in views_of(table, [field.name for field in shaped.schema]):
            there = self._get(dataset, identified(view.name, "view"))
            if there is None or there.description != view.description:
                self._jobs.query(
                    work,
                    f"view-{view.name}",
                    f"CREATE OR REPLACE VIEW {quoted(dataset, view.name)} "
                    f"OPTIONS (description = '{view.description}') AS\n"
                    f"{googlesql.to_bigquery(view.select, dataset)}",
                )

    def stage(self, dataset: str, name: str, columns: Sequence[Field], expires: datetime) -> None:
        """A table for rows on their way, which vanishes by itself."""
        description = "Rows on their way into another table; may be dropped"
        fields = staged(columns)
        self._create(dataset, name, fields, description=description, expires=expires)

    def drop(self, dataset: str, name: str) -> None:
        full = self.full(dataset, name)
        self._jobs.ask(
            f"drop {full}", lambda c: c.delete_table(full, **self._jobs.options, not_found_ok=True)
        )

    def full(self, dataset: str, name: str) -> str:
        """A table's name with its project, as the API wants it."""
        return f"{self._jobs.project}.{dataset}.{name}"

    def _create(
        self,
        dataset: str,
        name: str,
        fields: Sequence[Any],
        *,
        description: str,
        partition: tuple[str, str] | None = None,
        clustered: Sequence[str] = (),
        expires: datetime | None = None,
    ) -> None:
        from google.cloud import bigquery  # noqa: PLC0415 -- a client is here

        made = bigquery.Table(self.full(dataset, name), schema=fields)
        made.description = description
        if partition is not None:
            field, unit = partition
            made.time_partitioning = bigquery.TimePartitioning(type_=unit, field=field)
        if clustered:
            made.clustering_fields = clustered
        if expires is not None:
            made.expires = expires
        self._jobs.ask(
            f"create {dataset}.{name}",
            lambda c: c.create_table(made, exists_ok=True, **self._jobs.options),
        )

    def _get(self, dataset: str, name: str) -> Any:
        from google.api_core.exceptions import NotFound  # noqa: PLC0415 -- paid with the client

        full = self.full(dataset, name)
        try:
            return self._jobs.ask(
                f"look at {dataset}.{name}",
                lambda c: c.get_table(full, **self._jobs.options),
                NotFound,
            )
        except NotFound:
            return None

    def _update(self, table: Any) -> None:
        from google.api_core.exceptions import PreconditionFailed  # noqa: PLC0415 -- see _get

        self._jobs.ask(
            f"add columns to {table.dataset_id}.{table.table_id}",
            lambda c: c.update_table(table, ["schema"], **self._jobs.options),
            PreconditionFailed,
        )


def identified(name: str, what: str) -> str:
    """`name`, if it can be one. Raises Terminal (`invalid_load`)."""
    identifier(name, what)
    return name


def quoted(*names: str) -> str:
    """A name of SQL; what is in it was validated."""
    return ".".join(f"`{name}`" for name in names)


def staged(columns: Sequence[Field]) -> list[Any]:
    """The schema of a staging table, and of the Parquet files that are loaded into it.

    Any value may be null, and JSON is text. The commit parses it, and is refused by the table when
    something is missing.
    """
    text = ColumnType.TEXT
    return [
        _field(Field(c.name, text if c.type is ColumnType.JSON else c.type, required=False))
        for c in columns
    ]


def as_fields(table: Table) -> list[Field]:
    """All columns of the table, with those that the writer stamps."""
    return [
        *(Field(column.name, column.type, required=False) for column in table.columns),
        *LINEAGE,
    ]


def _column(column: Column) -> Any:
    return _field(
        Field(
            identified(column.name, "column"),
            column.type,
            required=False,
            description=column.description,
        )
    )


def _field(field: Field) -> Any:
    from google.cloud.bigquery import SchemaField  # noqa: PLC0415 -- a client is here

    mode = "REQUIRED" if field.required else "NULLABLE"
    return SchemaField(field.name, KINDS[field.type], mode=mode, description=field.description)
