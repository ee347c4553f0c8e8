"""`genai.payg_usage`: what was used of a provider of generative AI, meter by meter, as it says itself."""

from __future__ import annotations

from shared.core.lineage import Evidence
from shared.core.record import Record
from shared.processors._genai import (
    USAGE,
    Reading,
    Spool,
    access_of,
    summary_of,
    told_span,
    usage_row,
)
from shared.processors._lookback import LookbackDays
from shared.providers.sources import source_of
from shared.step import StepContext, StepResult, processor


class PaygUsageConfig(Record, frozen=True, kw_only=True):
    """Which days are read."""

    lookback_days: LookbackDays = 3


@processor("genai.payg_usage")
def payg_usage(step: StepContext, config: PaygUsageConfig) -> StepResult:
    """Loads the usage of the run's days, and again of those before it, into `genai_usage`."""
    source = source_of(step.provider)
    access = access_of(step)
    with Spool() as spool:
        reading = Reading(step, config.lookback_days, spool)
        for feed in source.usage(access):
            reading.read(feed, usage_row)
        receipt = step.load(
            USAGE,
            reading.batches,
            covers=reading.covers,
            source_version=reading.source_version,
            source_at=reading.source_at,
            totals=("quantity",),
            currency_column="meter",  # each meter is summed apart, as currencies are
        )
    findings = reading.told()
    message = f"{told_span(reading.span)}: {receipt.loaded:,} meters"
    evidence = Evidence(
        credential_id=step.credential_id,
        credential_version=str(access.credential.info.version),
        objects=tuple(reading.said),
        loads=(receipt,),
        findings=findings,
    )
    return StepResult(summary=summary_of(receipt, len(findings), message), evidence=evidence)
