"""`genai.payg_cost`: what a provider of generative AI charges, as it says itself."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Context, Decimal
from enum import StrEnum
from typing import NamedTuple

from shared.core.lineage import Evidence, Finding, LoadReceipt
from shared.core.record import Record
from shared.processors._genai import (
    COSTS,
    LookbackDays,
    Reading,
    Spool,
    access_of,
    cost_row,
    summary_of,
    told_span,
)
from shared.providers import Total
from shared.providers.sources import source_of
from shared.step import StepContext, StepResult, processor


class Verdict(StrEnum):
    """What came of the comparison with the provider's own total."""

    MATCHED = "matched"
    DRIFT = "drift"
    UNVERIFIABLE = "unverifiable"


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
    checked = compared(receipt, source.totals(access, reading.span))
    findings = (*reading.told(), *checked.findings)
    message = f"{told_span(reading.span)}: {receipt.loaded:,} amounts; total {checked.verdict}"
    evidence = Evidence(
        credential_id=step.credential_id,
        credential_version=str(access.credential.info.version),
        objects=(*reading.said, *checked.said),
        loads=(receipt,),
        findings=findings,
    )
    return StepResult(summary=summary_of(receipt, len(findings), message), evidence=evidence)


class Compared(NamedTuple):
    """What was loaded against the provider's own total, per currency."""

    verdict: Verdict
    said: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def compared(receipt: LoadReceipt, totals: Iterable[Total] | None) -> Compared:
    """Holds the sums of the load against those that the provider gives when asked for nothing else.

    Both are its digits, so that they agree to the last one; where they do not, something was lost, or
    the day moved between the two answers.
    """
    if totals is None:
        return Compared(Verdict.UNVERIFIABLE)
    own: dict[str, Decimal] = {}
    for total in totals:
        own[total.currency] = _EXACT.add(own.get(total.currency, Decimal(0)), total.amount)
    loaded = {total.currency: total.source for total in receipt.totals}
    said, findings = [], []
    for currency in sorted({*own, *loaded}):
        ours, theirs = loaded.get(currency, Decimal(0)), own.get(currency, Decimal(0))
        text = f"loaded {_digits(ours)} {currency}, the provider's total is {_digits(theirs)}"
        said.append(text)
        if ours != theirs:
            message = f"{text}: a difference of {_digits(_EXACT.subtract(ours, theirs))}"
            findings.append(Finding(code="drift", message=message))
    verdict = Verdict.DRIFT if findings else Verdict.MATCHED
    return Compared(verdict, tuple(said), tuple(findings))


_EXACT = Context(prec=80)  # the default one rounds to 28 digits


def _digits(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
