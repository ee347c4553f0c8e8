"""`genai.payg_cost`: what a provider of generative AI charges, as it says itself."""

from __future__ import annotations

from shared.core.dates import Dates
from shared.core.lineage import Evidence
from shared.core.reconcile import drifts, overall, reconciled
from shared.core.record import Record
from shared.processors._genai import (
    COSTS,
    Reading,
    Spool,
    access_of,
    cost_row,
    summary_of,
    told_span,
)
from shared.processors._lookback import LookbackDays
from shared.providers.sources import source_of
from shared.step import StepContext, StepResult, processor


class PaygCostConfig(Record, frozen=True, kw_only=True):
    """Which days are read."""

    lookback_days: LookbackDays = 3


@processor("genai.payg_cost")
def payg_cost(step: StepContext, config: PaygCostConfig) -> StepResult:
    """Loads the costs of the run's days, and again of those before it, into `genai_costs`."""
    source = source_of(step.provider)
    access = access_of(step)
    with Spool() as spool:
        reading = Reading(step, config.lookback_days, spool)
        for feed in source.costs(access):
            reading.read(feed, cost_row)
        receipt = step.load(
            COSTS,
            reading.batches,
            covers=reading.covers,
            source_version=reading.source_version,
            source_at=reading.source_at,
            totals=("amount",),
            currency_column="currency",
        )
    told = source.totals(access, reading.span)
    checked = reconciled(
        [receipt],
        "amount",
        None if told is None else ((total.currency, total.amount) for total in told),
        days=Dates(*reading.span),
        by=f"{step.provider} gives no total" if told is None else f"the total of {step.provider}",
    )
    findings = (*reading.told(), *drifts(checked))
    message = f"{told_span(reading.span)}: {receipt.loaded:,} amounts; total {overall(checked)}"
    evidence = Evidence(
        credential_id=step.credential_id,
        credential_version=str(access.credential.info.version),
        objects=tuple(reading.said),
        loads=(receipt,),
        reconciliations=checked,
        findings=findings,
    )
    return StepResult(summary=summary_of(receipt, len(findings), message), evidence=evidence)
