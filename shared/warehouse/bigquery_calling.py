"""One call of a procedure in BigQuery: its routine is there, its columns fit, and its verdict is ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from shared.core.lineage import Writer
from shared.errors import Terminal
from shared.warehouse import Value, googlesql
from shared.warehouse.balance import Called
from shared.warehouse.bigquery_jobs import IN_THE_WAY, Jobs, Work, parameters
from shared.warehouse.bigquery_ledger import MOVED, SUPERSEDED, Known
from shared.warehouse.bigquery_procedure import (
    FAILED,
    FITS,
    OUTSIDE,
    UNBALANCED,
    answered,
    create_procedure,
    parameter_types,
    routine,
)
from shared.warehouse.bigquery_tables import quoted
from shared.warehouse.ledger import Covered
from shared.warehouse.procedure import RUN_DATE, Procedure


@dataclass(frozen=True, slots=True)
class BigQueryCalling:
    """A procedure, what it is called with, and the work that calls it."""

    jobs: Jobs
    work: Work
    dataset: str
    procedure: Procedure
    covered: Covered
    bound: Mapping[str, Value]

    def check_types(self) -> None:
        """Raises Terminal (`procedure`) when its SELECT is refused, or gives what its table cannot hold."""
        given = {**self._covers, **self.bound}
        used = {name: given[name] for name in given if name in self.procedure.used}
        sql = googlesql.to_bigquery(self.procedure.select, self.dataset)
        kinds = self.jobs.described(
            sql, parameters(used, self.procedure.parameters), code="procedure"
        )
        for column in self.procedure.output.columns:
            kind = kinds[column.name]
            if kind not in FITS[column.type]:
                raise self._refusal(
                    f"column {column.name!r} is {kind}, which does not become {column.type} "
                    "without loss"
                )
        if kinds[RUN_DATE] != "DATE":
            raise self._refusal(f"{RUN_DATE} is {kinds[RUN_DATE]}")

    def create(self) -> None:
        """Makes the routine in the dataset, if it is not there."""
        self.jobs.query(self.work, "procedure", create_procedure(self.procedure, self.dataset))

    def run(self, statement: str, known: Known, writer: Writer, at: datetime) -> Called | None:
        """Replaces the covered slices. None: they have moved, or something newer is there.

        Raises Terminal (`procedure`, `outside_covers`, `unbalanced`).
        """
        types = parameter_types(self.procedure)
        values: dict[str, Value | Sequence[date]] = {
            **self._covers,
            "run_id": writer.run_id,
            "run_created_at": writer.fence.run_created_at,
            "step_id": writer.step_id,
            "attempt": writer.fence.attempt,
            "source_version": self.procedure.version,
            "source_at": writer.fence.source_at,
            "ingested_at": at,
            "ingested": known.ingested,
            "committed_at": at,
            **self.bound,
        }
        given = ", ".join(f"@{name}" for name in types)
        done = self.jobs.query(
            self.work,
            statement,
            "DECLARE verdict, held, source STRING;\n"
            f"CALL {quoted(self.dataset, routine(self.procedure))}({given}, verdict, held, source);\n"
            "SELECT verdict, held, source;\n",
            parameters({name: values[name] for name in types}, types),
            passing=IN_THE_WAY,
        )
        ((verdict, held, source),) = self.jobs.rows(done).rows
        if verdict in {MOVED, SUPERSEDED}:
            return None
        if verdict == FAILED:
            raise self._refusal(str(held)[:500])
        if verdict == OUTSIDE:
            raise self._refusal("rows belong to dates that this call does not cover", OUTSIDE)
        called = Called(self.procedure, self.covered.dates, *answered(self.procedure, held, source))
        called.balance()
        if verdict == UNBALANCED:  # `balance` has said so, with the figures
            raise self._refusal("the output does not hold what its source has", UNBALANCED)
        return called

    @property
    def _covers(self) -> dict[str, Value | Sequence[date]]:
        return {
            "org_slug": self.covered.org,
            "pipeline_id": self.covered.pipeline_id,
            "credential_id": self.covered.credential_id,
            "run_dates": self.covered.dates,
        }

    def _refusal(self, why: str, code: str = "procedure") -> Terminal:
        return Terminal(f"procedure {self.procedure.name}: {why}", code=code)
