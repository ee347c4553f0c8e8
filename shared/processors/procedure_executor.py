"""`generic.procedure_executor`: runs a stored procedure of `configs/system/procedures` for the step's days.

What it writes replaces the slices of this pipeline and credential, so that the same days again leave
the same rows. The procedure's parameters that every call has (organization, pipeline, credential, days)
are given by the warehouse; `arguments` are the rest.
"""

from __future__ import annotations

from datetime import timedelta
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
    lookback_days: Annotated[
        int,
        Meta(
            ge=0,
            le=400,
            description="So many days before the first one are replaced, too: as many as the step that "
            "loads the input takes anew.",
        ),
    ] = 0


@processor("generic.procedure_executor", needs_credential=False)
def procedure_executor(step: StepContext, config: ProcedureExecutorConfig) -> StepResult:
    """Runs a stored procedure, which replaces the slices of this pipeline for the run's days."""
    first = step.start_date - timedelta(days=config.lookback_days)
    dates = config.slices.firsts(first, step.end_date)
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
