"""`generic.procedure_executor`: runs a stored procedure of `configs/system/procedures` for the step's days.

What it writes replaces the slices of this pipeline and credential, so that the same days again leave
the same rows. The procedure's parameters that every call has (organization, pipeline, credential, days)
are given by the warehouse; `arguments` are the rest.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from shared.core.lineage import Evidence
from shared.core.period import Unit
from shared.core.record import Record
from shared.core.run import Summary
from shared.step import StepContext, StepResult, processor


class ProcedureExecutorConfig(Record, frozen=True, kw_only=True):
    """The procedure, and the values it needs."""

    procedure: Annotated[
        str,
        Meta(
            pattern="^[a-z][a-z0-9_]{0,127}$",
            description="Name of the file in configs/system/procedures, without `.sql`.",
        ),
    ]
    arguments: Annotated[
        dict[str, str | int | bool],
        Meta(
            description="Values of the parameters that the procedure declares. Dates, times and "
            "decimals are texts."
        ),
    ] = {}
    slices: Annotated[
        Unit,
        Meta(
            description="The slices that the run replaces: `month`, every billing period that its "
            "days touch; `day`, every one of its days."
        ),
    ] = Unit.MONTH


@processor("generic.procedure_executor", needs_credential=False)
def procedure_executor(step: StepContext, config: ProcedureExecutorConfig) -> StepResult:
    """Runs a stored procedure, which replaces the slices of this pipeline for the run's days."""
    dates = config.slices.firsts(step.start_date, step.end_date)
    step.check()
    receipt = step.warehouse.call(
        step.dataset,
        config.procedure,
        config.arguments,
        writer=step.writer,
        covers=frozenset(step.slice(day) for day in dates),
        check=step.check,
    )
    summary = Summary(
        extracted=receipt.extracted,
        loaded=receipt.loaded,
        rejected=receipt.rejected,
        deduplicated=receipt.deduplicated,
        no_data=receipt.extracted == 0,
        warnings=len(receipt.findings) + (1 if receipt.rejected else 0),
        message=f"{config.procedure}: {receipt.loaded:,} rows into {receipt.table}",
    )
    evidence = Evidence(
        credential_id=step.credential_id,
        loads=(receipt,),
    )
    return StepResult(summary=summary, evidence=evidence)
