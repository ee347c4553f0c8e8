"""`_loads` and `_rejects`, the same in every warehouse: the commit marker with its fence, and what was refused.

Both stand in every dataset and are written only in the transaction of the load they speak of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from typing import NamedTuple

from shared.core.lineage import Fence, Slice, Total, Writer
from shared.errors import Terminal
from shared.warehouse import ColumnType, LoadsOf


class Field(NamedTuple):
    """A column that the writer fills itself."""

    name: str
    type: ColumnType = ColumnType.TEXT
    required: bool = True
    description: str = ""


_SLICE = (
    Field("x_org_slug", description="The organization"),
    Field("x_pipeline_id", description="The pipeline that loaded it"),
    Field("x_credential_id", description="The credential it was loaded with; none: without one"),
    Field("x_pipeline_run_date", ColumnType.DATE, description="The day or period that it is of"),
)
LINEAGE = (
    *_SLICE,
    Field("x_run_id", description="The run that loaded it"),
    Field("x_ingested_at", ColumnType.TIMESTAMP, description="When it was loaded"),
    Field("x_ingestion_date", ColumnType.DATE, description="The UTC day of x_ingested_at"),
)
_WRITTEN = (
    *_SLICE,
    Field("table_name", description="The table that was loaded"),
    Field("run_id"),
    Field("step_id"),
    Field("attempt", ColumnType.INTEGER),
)
LOADS = (
    *_WRITTEN,
    Field("run_created_at", ColumnType.TIMESTAMP),
    Field("source_version", description="What was loaded: a delivery, or a procedure's version"),
    Field("source_at", ColumnType.TIMESTAMP, description="How old it is: newer ones win"),
    Field("loaded", ColumnType.INTEGER, description="Rows in the slice"),
    Field("rejected", ColumnType.INTEGER, description="Rows in _rejects"),
    Field("totals", ColumnType.JSON, required=False, description="Money by column and currency"),
    Field("checksum", required=False, description="Of the content, without the lineage of a run"),
    Field("committed_at", ColumnType.TIMESTAMP),
    Field("ingestion_date", ColumnType.DATE, description="The x_ingestion_date of its rows"),
)
REJECTS = (
    *_WRITTEN,
    Field("source_file", required=False),
    Field("row_number", ColumnType.INTEGER, required=False),
    Field("reason", description="Why the row was not loaded"),
    Field(
        "source_row", ColumnType.JSON, required=False, description="The row, as its source has it"
    ),
    Field("rejected_at", ColumnType.TIMESTAMP),
)
LEDGER = {"_loads": LOADS, "_rejects": REJECTS}


class Covered(NamedTuple):
    """The slices of one load: one organization, pipeline and credential, and their dates."""

    org: str
    pipeline_id: str
    credential_id: str
    dates: tuple[date, ...]

    @classmethod
    def of(cls, covers: frozenset[Slice]) -> Covered:
        """Raises Terminal (`invalid_load`) when a row could not tell by its date where it belongs."""
        keys = {slice_[:3] for slice_ in covers}
        if len(keys) != 1:
            raise Terminal(
                f"a load covers slices of one organization, pipeline and credential, not of {len(keys)}",
                code="invalid_load",
            )
        org, pipeline_id, credential_id = keys.pop()
        dates = tuple(sorted(slice_.run_date for slice_ in covers))
        return cls(org, pipeline_id, credential_id, dates)

    @property
    def params(self) -> dict[str, str]:
        return {
            "w_org": self.org,
            "w_pipeline": self.pipeline_id,
            "w_credential": self.credential_id,
        }

    def where(self, mark: str = "$") -> str:
        """The rows of the slices; `mark` stands before a parameter's name.

        Dates are literals, so that what holds only others is skipped.
        """
        return (
            f"x_org_slug = {mark}w_org AND x_pipeline_id = {mark}w_pipeline "
            f"AND x_credential_id = {mark}w_credential "
            f"AND x_pipeline_run_date IN ({dates(self.dates)})"
        )


# In the order of LoadedSlice, whose slice is the four names of one.
LOADED = (
    "table_name, x_org_slug, x_pipeline_id, x_credential_id, x_pipeline_run_date, source_version, "
    "source_at, run_created_at, run_id, step_id, attempt, loaded, rejected, committed_at"
)


def chosen(where: LoadsOf, limit: int, mark: str) -> tuple[str, dict[str, str]]:
    """What follows FROM `_loads`, and its parameters, each with `mark` before its name.

    Dates are literals, so that what holds only others is skipped.
    """
    params: dict[str, str] = {}

    def param(name: str, value: str) -> str:
        params[name] = value
        return mark + name

    def one_of(column: str, values: Sequence[str]) -> str:
        names = [param(f"{column}_{place}", value) for place, value in enumerate(values)]
        return f"{column} IN ({', '.join(names)})"

    conditions = []
    if where.tables:
        conditions.append(one_of("table_name", where.tables))
    if where.pipelines:
        conditions.append(one_of("x_pipeline_id", where.pipelines))
    if where.credential_id is not None:
        conditions.append(one_of("x_credential_id", [where.credential_id]))
    if where.first is not None:
        conditions.append(f"x_pipeline_run_date >= {dates([where.first])}")
    if where.last is not None:
        conditions.append(f"x_pipeline_run_date <= {dates([where.last])}")
    if where.after is not None:
        pipeline, credential = param("after_0", where.after[0]), param("after_1", where.after[1])
        conditions.append(
            f"(x_pipeline_id > {pipeline} OR "
            f"(x_pipeline_id = {pipeline} AND x_credential_id > {credential}))"
        )
    only = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    order = "x_pipeline_id, x_credential_id, table_name, x_pipeline_run_date"
    return f"{only}ORDER BY {order} LIMIT {limit}", params


class Held(NamedTuple):
    """Who loaded what a slice holds now."""

    run_date: date
    fence: Fence
    run_id: str
    step_id: str
    source_version: str
    committed_at: datetime


def refuse_superseded(
    held: Iterable[Held], writer: Writer, source_version: str, table: str, covered: Covered
) -> None:
    """Raises Terminal (`superseded`) when a covered slice was loaded from something newer.

    The same attempt of the same step may load again, and so may the same source at an equal fence:
    both leave what is there.
    """
    for there in held:
        if there.fence < writer.fence:
            continue
        own = (there.run_id, there.step_id) == (writer.run_id, writer.step_id)
        if there.fence == writer.fence and (own or there.source_version == source_version):
            continue
        raise Terminal(
            f"the slice {there.run_date} of {table} ({covered.org}, "
            f"{covered.pipeline_id}, {covered.credential_id}) was loaded from "
            f"{there.source_version!r} of {_z(there.fence.source_at)} by run {there.run_id}, attempt "
            f"{there.fence.attempt}, at {_z(there.committed_at)}: this load is older "
            f"({_z(writer.fence.source_at)}, attempt {writer.fence.attempt})",
            code="superseded",
        )


def totals_json(totals: Sequence[Total]) -> str:
    """The totals of one slice, as `_loads` keeps them."""
    return json.dumps(
        [
            {
                "column": total.column,
                "currency": total.currency,
                "source": f"{total.source:f}",
                "loaded": f"{total.loaded:f}",
                "rejected": f"{total.rejected:f}",
                "residue": f"{total.residue:f}",
                "rounded": total.rounded,
            }
            for total in totals
        ]
    )


def dates(days: Iterable[date]) -> str:
    """SQL of a list of dates, the same in both warehouses."""
    return ", ".join(f"DATE '{day}'" for day in days)


def _z(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%S}Z"
