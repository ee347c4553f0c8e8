"""`subscription.terms`: what an organization's subscriptions are invoiced, day by day, as they stand now.

Loads one row for each invoice line and day: the line's amount, decided by the rules of
`shared/core/invoice.py`, which of its days it is, and what the day is billed and costs. The procedure
`focus_from_subscriptions` tells the cost of the day once more, in SQL, and fails where it differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from hashlib import sha256
from itertools import islice
from typing import Annotated

from msgspec import Meta

from shared.core.amortise import millionths
from shared.core.invoice import Line, lines
from shared.core.lineage import Evidence, Finding
from shared.core.period import days
from shared.core.record import Record
from shared.core.run import Summary
from shared.errors import Transient
from shared.step import StepContext, StepResult, processor
from shared.subscriptions import Revision
from shared.warehouse import Batches, Column, ColumnType, LoadsOf, NullRule, Table, Value

_BATCH = 1_000
_TEXT, _DECIMAL, _INTEGER = ColumnType.TEXT, ColumnType.DECIMAL, ColumnType.INTEGER
_BOOLEAN, _DATE = ColumnType.BOOLEAN, ColumnType.DATE


def _known(name: str, kind: ColumnType, description: str) -> Column:
    return Column(name, kind, NullRule.REJECT, description)


TERMS = Table(
    "subscription_terms",
    (
        _known("subscription_id", _TEXT, "The subscription."),
        _known(
            "line_id",
            _TEXT,
            "The invoice line: what tells it apart from the subscription's others.",
        ),
        _known("line_kind", _TEXT, "cycle, change, cancel or refund."),
        _known("vendor", _TEXT, "Whose service it is."),
        _known("invoice_issuer", _TEXT, "Who invoices it."),
        _known("account", _TEXT, "The account at the issuer."),
        _known("product", _TEXT, "What is subscribed to."),
        Column("plan", _TEXT, description="The plan of the product."),
        _known("category", _TEXT, "ServiceCategory of FOCUS."),
        Column("subcategory", _TEXT, description="ServiceSubcategory of FOCUS."),
        _known("currency", _TEXT, "Of the invoice."),
        _known("billing_cycle", _TEXT, "weekly, monthly, …"),
        _known("cycle_start", _DATE, "First day of the billing cycle that the line is of."),
        _known("cycle_end", _DATE, "The first day after it."),
        _known("line_start", _DATE, "First day that the line pays for."),
        _known("line_end", _DATE, "The first day after the last one."),
        _known("invoice_date", _DATE, "The day on which the line is invoiced."),
        _known("corrects", _BOOLEAN, "It gives back what was invoiced in an earlier month."),
        _known("unit_price", _DECIMAL, "Of a seat for a cycle."),
        _known("seats", _INTEGER, "How many there are."),
        _known("discount", _DECIMAL, "Off a whole cycle."),
        _known("amount", _DECIMAL, "What the line is invoiced with."),
        _known("list_amount", _DECIMAL, "The same without the discount."),
        _known("amount_millionths", _INTEGER, "The amount, counted in millionths."),
        _known("list_millionths", _INTEGER, "The list amount, counted in millionths."),
        _known("line_days", _INTEGER, "How many days the line is spread over."),
        Column("day_number", _INTEGER, description="Which of them this is, from 0; null: none."),
        _known("takes_rest", _BOOLEAN, "The subscription ends: the day has all that is left."),
        _known("billed", _DECIMAL, "What the day is billed: the amount on the day of the invoice."),
        _known("billed_list", _DECIMAL, "The same of the list amount."),
        _known("effective", _DECIMAL, "What the day costs: its share of the amount."),
        _known("effective_list", _DECIMAL, "The same of the list amount."),
        _known("revision", _INTEGER, "The revision of the subscription that says so."),
    ),
)


class SubscriptionTermsConfig(Record, frozen=True, kw_only=True):
    """How far back a change that was entered late is looked for."""

    lookback_days: Annotated[
        int,
        Meta(
            ge=0,
            le=400,
            description="So many days before the first one are loaded, too, unless they are as the "
            "subscriptions stand now.",
        ),
    ] = 0


@processor("subscription.terms", needs_credential=False)
def subscription_terms(step: StepContext, config: SubscriptionTermsConfig) -> StepResult:
    """Loads what the organization's subscriptions are invoiced and cost on each of the days."""
    read_at = step.now()
    reading = _Reading(step)
    for _ in reading.revisions():
        step.check()
    wanted = _days(step, config, reading.version)
    receipt = step.load(
        TERMS,
        Batches(batches=_batches(step, wanted, reading.version)),
        covers=frozenset(step.slice(day) for day in wanted),
        source_version=reading.version,
        source_at=read_at,
        totals=("billed", "effective"),
        currency_column="currency",
    )
    nothing = Finding(code="none_entered", message="no subscription was ever entered")
    summary = Summary(
        extracted=receipt.extracted,
        loaded=receipt.loaded,
        no_data=receipt.extracted == 0,
        message=f"{reading.count:,} subscription{'' if reading.count == 1 else 's'}"
        f" on {len(wanted)} day{'' if len(wanted) == 1 else 's'}",
    )
    evidence = Evidence(
        credential_id=step.credential_id,
        loads=(receipt,),
        findings=() if reading.count else (nothing,),
    )
    return StepResult(summary=summary, evidence=evidence)


def _days(step: StepContext, config: SubscriptionTermsConfig, version: str) -> list[date]:
    """Those that were asked for, and those before that were loaded from something else than this."""
    first = step.start_date - timedelta(days=config.lookback_days)
    here = step.slice(step.start_date)
    of = LoadsOf((TERMS.name,), (here.pipeline_id,), here.credential_id, first, step.end_date)
    same = {
        loaded.slice.run_date
        for loaded in step.warehouse.loads(step.dataset, of)
        if loaded.source_version == version
    }
    return [day for day in days(first, step.end_date) if day >= step.start_date or day not in same]


class _Reading:
    """One reading of the subscriptions; at its end `version` names how they all stand."""

    def __init__(self, step: StepContext) -> None:
        self._step = step
        self._digest = sha256()
        self.count = 0

    def revisions(self) -> Iterator[Revision]:
        for revision in self._step.subscriptions():
            self._digest.update(
                f"{revision.subscription.subscription_id} {revision.number}\n".encode()
            )
            self.count += 1
            yield revision

    @property
    def version(self) -> str:
        return f"revisions@{self._digest.hexdigest()[:16]}"


def _batches(
    step: StepContext, wanted: list[date], version: str
) -> Iterator[list[dict[str, Value]]]:
    rows = _rows(step, wanted, version)
    while batch := list(islice(rows, _BATCH)):
        step.check()
        yield batch


def _rows(step: StepContext, wanted: list[date], version: str) -> Iterator[dict[str, Value]]:
    """Raises Transient when a subscription was changed since `version`: the days must agree."""
    reading = _Reading(step)
    for revision in reading.revisions():
        for line in lines(revision.subscription, wanted[0], wanted[-1]):
            yield from (
                _row(revision, line, day)
                for day in wanted
                if line.falls_on(day) or line.invoiced == day
            )
    if reading.version != version:
        raise Transient("a subscription was changed while they were read", code="source_moved")


def _row(revision: Revision, line: Line, day: date) -> dict[str, Value]:
    name, terms = revision.subscription.subscription_id, line.version
    invoiced = line.invoiced == day
    return {
        "_run_date": day.isoformat(),
        "subscription_id": name,
        "line_id": line.line_id,
        "line_kind": line.kind.value,
        "vendor": terms.vendor,
        "invoice_issuer": terms.invoice_issuer or terms.vendor,
        "account": terms.account or name,
        "product": terms.product,
        "plan": terms.plan,
        "category": terms.category,
        "subcategory": terms.subcategory or f"Other ({terms.category})",
        "currency": terms.currency,
        "billing_cycle": terms.cycle,
        "cycle_start": line.cycle.start,
        "cycle_end": line.cycle.end,
        "line_start": line.days.start,
        "line_end": line.days.end,
        "invoice_date": line.invoiced,
        "corrects": line.corrects,
        "unit_price": terms.unit_price,
        "seats": terms.seats,
        "discount": terms.discount,
        "amount": line.amount,
        "list_amount": line.list_amount,
        "amount_millionths": millionths(line.amount),
        "list_millionths": millionths(line.list_amount),
        "line_days": line.days.days,
        "day_number": line.number(day) if line.falls_on(day) else None,
        "takes_rest": line.stop == day,
        "billed": line.amount if invoiced else Decimal(0),
        "billed_list": line.list_amount if invoiced else Decimal(0),
        "effective": line.share(day),
        "effective_list": line.list_share(day),
        "revision": revision.number,
    }
