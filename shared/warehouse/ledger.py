"""`_loads` and `_rejects` in DuckDB: the commit marker with its fence, and the rows that were refused.

Both stand in every dataset and are written only in the transaction of the load they speak of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from shared.core.lineage import Fence, Slice, Total, Writer
from shared.errors import Terminal
from shared.warehouse import LoadedSlice
from shared.warehouse.casts import quoted
from shared.warehouse.session import Session, aware, stored

_SLICE = """
    x_org_slug VARCHAR NOT NULL,
    x_pipeline_id VARCHAR NOT NULL,
    x_credential_id VARCHAR NOT NULL,
    x_pipeline_run_date DATE NOT NULL,
    table_name VARCHAR NOT NULL,
    run_id VARCHAR NOT NULL,
    step_id VARCHAR NOT NULL,
    attempt BIGINT NOT NULL,"""
LOADS = f"""({_SLICE}
    run_created_at TIMESTAMP NOT NULL,
    source_version VARCHAR NOT NULL,
    source_at TIMESTAMP NOT NULL,
    loaded BIGINT NOT NULL,
    rejected BIGINT NOT NULL,
    totals JSON,
    checksum VARCHAR,
    committed_at TIMESTAMP NOT NULL,
    ingestion_date DATE NOT NULL
)"""
REJECTS = f"""({_SLICE}
    source_file VARCHAR,
    row_number BIGINT,
    reason VARCHAR NOT NULL,
    source_row JSON,
    rejected_at TIMESTAMP NOT NULL
)"""


class Marked(NamedTuple):
    """What `_loads` says of one slice after a load."""

    run_date: date
    rows: int
    rejected: int
    totals: tuple[Total, ...]
    checksum: str


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
    def params(self) -> dict[str, object]:
        return {
            "w_org": self.org,
            "w_pipeline": self.pipeline_id,
            "w_credential": self.credential_id,
        }

    @property
    def where(self) -> str:
        """The rows of the slices. Dates are literals, so that row groups of others are skipped."""
        dates = ", ".join(f"DATE '{day}'" for day in self.dates)
        return (
            "x_org_slug = $w_org AND x_pipeline_id = $w_pipeline "
            f"AND x_credential_id = $w_credential AND x_pipeline_run_date IN ({dates})"
        )


class Ledger:
    """Both tables of one dataset, as one load sees them inside its transaction."""

    def __init__(self, session: Session, dataset: str, table: str, covered: Covered) -> None:
        self._session = session
        self._loads = f"{quoted(dataset)}._loads"
        self.rejects = f"{quoted(dataset)}._rejects"
        self._where = f"table_name = $w_table AND {covered.where}"
        self._params = {**covered.params, "w_table": table}
        self._covered = covered
        self._table = table

    def fence(self, writer: Writer, source_version: str) -> None:
        """Raises Terminal (`superseded`) when a covered slice was loaded from something newer.

        The same attempt of the same step may load again, and so may the same source at an equal
        fence: both leave what is there.
        """
        for row in self._session.run(
            "SELECT x_pipeline_run_date, source_at, run_created_at, attempt, run_id, step_id, "
            f"source_version, committed_at FROM {self._loads} WHERE {self._where} ORDER BY 1",
            self._params,
        ):
            there = Fence(aware(row[1]), aware(row[2]), row[3])
            if there < writer.fence:
                continue
            own = (row[4], row[5]) == (writer.run_id, writer.step_id)
            if there == writer.fence and (own or row[6] == source_version):
                continue
            raise Terminal(
                f"the slice {row[0]} of {self._table} ({self._covered.org}, "
                f"{self._covered.pipeline_id}, {self._covered.credential_id}) was loaded from "
                f"{row[6]!r} of {there.source_at:%Y-%m-%d %H:%M:%S}Z by run {row[4]}, attempt "
                f"{there.attempt}, at {row[7]:%Y-%m-%d %H:%M:%S}Z: this load is older "
                f"({writer.fence.source_at:%Y-%m-%d %H:%M:%S}Z, attempt {writer.fence.attempt})",
                code="superseded",
            )

    def behind_its_input(self, writer: Writer) -> Writer:
        """`writer` with a fence as old as the newest source that other tables hold of these slices.

        A procedure reads what is there now, whichever run loaded it: of two runs that overlap, the
        one that consolidates the newer delivery must win, also when it is the older run.
        """
        newest = self._session.run(
            f"SELECT max(source_at) FROM {self._loads} "
            f"WHERE table_name <> $w_table AND {self._covered.where}",
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
                    "w_totals": _totals(made.totals),
                    "w_checksum": made.checksum,
                },
            )


def _totals(totals: Sequence[Total]) -> str:
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


def loaded_slices(session: Session, dataset: str, table: str | None) -> list[LoadedSlice]:
    """The rows of `_loads`."""
    where = "" if table is None else "WHERE table_name = $w_table"
    return [
        LoadedSlice(
            table=row[0],
            slice=Slice(*row[1:5]),
            source_version=row[5],
            source_at=aware(row[6]),
            run_id=row[7],
            step_id=row[8],
            attempt=row[9],
            rows=row[10],
            rejected=row[11],
            committed_at=aware(row[12]),
        )
        for row in session.run(
            "SELECT table_name, x_org_slug, x_pipeline_id, x_credential_id, x_pipeline_run_date, "
            "source_version, source_at, run_id, step_id, attempt, loaded, rejected, committed_at "
            f"FROM {quoted(dataset)}._loads {where} ORDER BY 1, 2, 3, 4, 5",
            None if table is None else {"w_table": table},
        )
    ]
