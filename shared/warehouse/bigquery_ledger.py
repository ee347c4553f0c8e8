"""`_loads` in BigQuery: what it says before a commit, and the transaction that replaces slices and says so.

The transaction is one script, and gives its verdict as the row it selects last: an error of BigQuery is
never read for its words. It updates the one row of `_turns`, so that of two transactions at once only one
commits, the other is sent again, and its fence is then held against what the first one wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple

from shared.core.lineage import Fence, Slice, Writer
from shared.warehouse import ColumnType, LoadedSlice, LoadsOf, Value
from shared.warehouse.bigquery_jobs import IN_THE_WAY, Jobs, Work, parameters
from shared.warehouse.bigquery_tables import TURNS, quoted
from shared.warehouse.ledger import (
    LOADED,
    LOADS,
    Covered,
    Field,
    Held,
    chosen,
    dates,
    refuse_superseded,
    totals_json,
)
from shared.warehouse.proof import Marked

COMMITTED = "committed"
SUPERSEDED = "superseded"  # something newer is there
MOVED = "moved"  # other partitions hold the slices now than the script names
LOST = "lost"  # a staging table does not hold what was verified


class Known(NamedTuple):
    """What `_loads` says of the covered slices: who loaded this table, and how new its inputs are."""

    held: list[Held]
    ingested: tuple[date, ...]  # the partitions that hold them
    newest_input: datetime | None


class Staged(NamedTuple):
    """Rows in a staging table, on their way to the table `into`."""

    into: str
    name: str
    fields: Sequence[Field]
    rows: int


class Replacement(NamedTuple):
    """What a load puts in the place of its slices."""

    writer: Writer
    source_version: str
    marked: Sequence[Marked]
    staged: Sequence[Staged]
    ingested_at: datetime


@dataclass(frozen=True, slots=True)
class BigQueryLedger:
    """`_loads` and `_rejects` of one dataset, as one load of `table` sees them."""

    jobs: Jobs
    work: Work
    dataset: str
    table: str
    covered: Covered

    def known(self, statement: str) -> Known:
        """What stands there now. `statement` tells this look from the others of the load."""
        done = self.jobs.query(
            self.work,
            statement,
            "SELECT table_name, x_pipeline_run_date, source_at, run_created_at, attempt, run_id, "
            "step_id, source_version, committed_at, ingestion_date "
            f"FROM {quoted(self.dataset, '_loads')} WHERE {self.covered.where('@')} ORDER BY 2",
            parameters(self.covered.params),
        )
        held: list[Held] = []
        ingested: set[date] = set()
        newest: datetime | None = None
        for (
            name,
            day,
            source_at,
            created,
            attempt,
            run,
            step,
            version,
            at,
            partition,
        ) in self.jobs.rows(done).rows:
            if name == self.table:
                fence = Fence(source_at, created, attempt)
                held.append(Held(day, fence, run, step, version, at))
                ingested.add(partition)
            elif newest is None or source_at > newest:
                newest = source_at
        return Known(held, tuple(sorted(ingested)), newest)

    def fence(self, known: Known, writer: Writer, source_version: str) -> None:
        """Raises Terminal (`superseded`) when a covered slice was loaded from something newer."""
        refuse_superseded(known.held, writer, source_version, self.table, self.covered)

    def behind_its_input(self, known: Known, writer: Writer) -> Writer:
        """`writer` with a fence as old as the newest source that other tables hold of these slices.

        A procedure reads what is there now, whichever run loaded it: of two runs that overlap, the
        one that consolidates the newer delivery must win, also when it is the older run.
        """
        if known.newest_input is None:
            return writer
        return writer._replace(fence=writer.fence._replace(source_at=known.newest_input))

    def commit(
        self, statement: str, known: Known, made: Replacement, committed_at: datetime
    ) -> str:
        """Replaces the slices in one transaction, or changes nothing, and gives the verdict."""
        values: dict[str, Value] = {
            **self.covered.params,
            "w_table": self.table,
            "w_run_id": made.writer.run_id,
            "w_step_id": made.writer.step_id,
            "w_attempt": made.writer.fence.attempt,
            "w_run_created_at": made.writer.fence.run_created_at,
            "w_source_version": made.source_version,
            "w_source_at": made.writer.fence.source_at,
            "w_ingested_at": made.ingested_at,
            "w_committed_at": committed_at,
        }
        done = self.jobs.query(
            self.work,
            statement,
            self._script(known, made.staged),
            [*parameters(values), _marks(made.marked)],
            passing=IN_THE_WAY,
        )
        ((verdict,),) = self.jobs.rows(done).rows
        return str(verdict)

    def _script(self, known: Known, staged: Sequence[Staged]) -> str:
        loads, rejects = quoted(self.dataset, "_loads"), quoted(self.dataset, "_rejects")
        covered = self.covered.where("@")
        marker = f"table_name = @w_table AND {covered}"
        there = f"SELECT 1 FROM {loads} WHERE {marker}"
        listed = f" AND ingestion_date NOT IN ({dates(known.ingested)})" if known.ingested else ""
        elsewhere = f"{there}{listed}"
        turn = "SET taken_at = @w_committed_at, run_id = @w_run_id WHERE TRUE"
        statements = [
            "BEGIN TRANSACTION",
            f"UPDATE {quoted(self.dataset, TURNS)} {turn}",
            _unless(f"EXISTS ({there} AND {newer('@w_')})", SUPERSEDED),
            _unless(f"EXISTS ({elsewhere})", MOVED),
        ]
        if known.ingested:
            statements.append(
                f"DELETE FROM {quoted(self.dataset, self.table)} WHERE {covered} "
                f"AND x_ingestion_date IN ({dates(known.ingested)})"
            )
        statements.append(f"DELETE FROM {rejects} WHERE {marker}")
        for one in staged:
            statements += [
                _insert(quoted(self.dataset, one.into), quoted(self.dataset, one.name), one.fields),
                _unless(f"@@row_count != {one.rows}", LOST),
            ]
        columns = ", ".join(made.name for made in LOADS)
        marks = f"SELECT {', '.join(_LOADS_VALUES)} FROM UNNEST(@w_slices) AS made"
        statements += [
            f"DELETE FROM {loads} WHERE {marker}",
            f"INSERT INTO {loads} ({columns}) {marks}",
            "COMMIT TRANSACTION",
            f"SELECT '{COMMITTED}' AS verdict",
        ]
        return "".join(f"{statement};\n" for statement in statements)


_LOADS_VALUES = (
    "@w_org",
    "@w_pipeline",
    "@w_credential",
    "made.run_date",
    "@w_table",
    "@w_run_id",
    "@w_step_id",
    "@w_attempt",
    "@w_run_created_at",
    "@w_source_version",
    "@w_source_at",
    "made.loaded",
    "made.rejected",
    "PARSE_JSON(made.totals)",
    "made.checksum",
    "@w_committed_at",
    "DATE(@w_ingested_at)",
)


def newer(prefix: str) -> str:
    """SQL of the fence: this row of `_loads` supersedes the load whose names begin with `prefix`.

    The same rule as `refuse_superseded`.
    """
    own = f"run_id = {prefix}run_id AND step_id = {prefix}step_id"
    rule = f"source_version != {prefix}source_version AND NOT ({own})"
    for name in ("attempt", "run_created_at", "source_at"):
        rule = f"({name} > {prefix}{name} OR ({name} = {prefix}{name} AND {rule}))"
    return rule


def loaded_slices(
    jobs: Jobs, work: Work, dataset: str, where: LoadsOf, limit: int
) -> list[LoadedSlice]:
    """Rows of `_loads`."""
    rest, params = chosen(where, limit, "@")
    select = f"SELECT {LOADED} FROM {quoted(dataset, '_loads')} {rest}"
    done = jobs.query(work, "loads", select, parameters(params))
    return [LoadedSlice(row[0], Slice(*row[1:5]), *row[5:]) for row in jobs.rows(done).rows]


def _unless(condition: str, verdict: str) -> str:
    return (
        f"IF {condition} THEN\n  ROLLBACK TRANSACTION;\n"
        f"  SELECT '{verdict}' AS verdict;\n  RETURN;\nEND IF"
    )


def _insert(into: str, source: str, fields: Sequence[Field]) -> str:
    names = [quoted(made.name) for made in fields]
    values = [
        # A number that no FLOAT64 holds would else fail the load; JSON has no money in it.
        f"PARSE_JSON({name}, wide_number_mode => 'round')" if made.type is ColumnType.JSON else name
        for made, name in zip(fields, names, strict=True)
    ]
    return f"INSERT INTO {into} ({', '.join(names)}) SELECT {', '.join(values)} FROM {source}"


def _marks(marked: Sequence[Marked]) -> Any:
    from google.cloud.bigquery import (  # noqa: PLC0415 -- paid by who opens a client
        ArrayQueryParameter,
        StructQueryParameter,
    )

    return ArrayQueryParameter(
        "w_slices",
        "STRUCT",
        [
            StructQueryParameter(
                None,
                *parameters(
                    {
                        "run_date": made.run_date,
                        "loaded": made.rows,
                        "rejected": made.rejected,
                        "totals": totals_json(made.totals),
                        "checksum": made.checksum,
                    }
                ),
            )
            for made in marked
        ],
    )
