"""What the processors of generative AI share: the two tables, and reading feeds to their end.

Everything is read, and found whole, before the load begins: what is read is kept on disk, compressed, so
that memory is bounded and no table is held up by a provider that answers slowly.
"""

from __future__ import annotations

import gzip
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, timedelta
from types import TracebackType
from typing import Any, Self

import msgspec
from msgspec import structs

from shared.core.genai import (
    COSTS_TABLE,
    USAGE_TABLE,
    Cost,
    Dimensions,
    Usage,
    derived_price,
    in_pricing_units,
    priced_per,
    unit_of,
)
from shared.core.lineage import Finding, LoadReceipt, Slice
from shared.core.nearmiss import listed
from shared.core.period import days
from shared.core.run import Summary
from shared.errors import Transient
from shared.providers import Access, Feed, Row, Span
from shared.step import StepContext
from shared.warehouse import Batches, Column, ColumnType, NullRule, Table

_DIMENSIONS = (
    Column("account_id", description="The account at the provider"),
    Column("project_id", description="Project or workspace; null: the default one, or not said"),
    Column("api_key_id", description="Id of the API key; null: without one, or not said"),
    Column("service", description="The endpoint, or the kind of cost"),
    Column("model", description="As the provider names it"),
    Column("service_tier"),
    Column("is_batch", ColumnType.BOOLEAN, description="Through the batch API; null: not said"),
    Column("context_window", description="The size of the context that the price depends on"),
    Column("inference_geo", description="Where it was computed, if the price depends on it"),
    Column("speed"),
    Column("variant", description="What else tells it apart, such as the size of an image"),
)

USAGE = Table(
    USAGE_TABLE,
    (
        Column("provider", null=NullRule.REJECT),
        Column("usage_date", ColumnType.DATE, NullRule.REJECT, "UTC day"),
        *_DIMENSIONS,
        Column("meter", null=NullRule.REJECT, description="What was counted; meters are disjoint"),
        Column("quantity", ColumnType.DECIMAL, NullRule.REJECT),
        Column("unit", null=NullRule.REJECT, description="What one of the quantity is"),
    ),
)

COSTS = Table(
    COSTS_TABLE,
    (
        Column("provider", null=NullRule.REJECT),
        Column("charge_date", ColumnType.DATE, NullRule.REJECT, "UTC day"),
        *_DIMENSIONS,
        Column("line_item", description="What the source calls it"),
        Column("meter", description="What was counted, where the source says it"),
        Column("amount", ColumnType.DECIMAL, description="Null: used, and no price is known"),
        Column("currency", null=NullRule.REJECT),
        Column("quantity", ColumnType.DECIMAL),
        Column("unit", description="What one of the quantity is"),
        Column("pricing_quantity", ColumnType.DECIMAL, description="The quantity in pricing units"),
        Column("pricing_unit", description="What the price is for, such as 1000000 Tokens"),
        Column("unit_price", ColumnType.DECIMAL, description="Per pricing unit"),
        Column("cost_basis", null=NullRule.REJECT, description="How the money is known"),
        Column("price_match", description="Of an estimate: how its price was found"),
        Column("rate_card", description="Of an estimate: the rate card with its version"),
    ),
)


class Spool:
    """Rows on disk: written first, then read as often as one likes. Gone with the `with`."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 -- closed with the `with`
        self._writing = gzip.GzipFile(fileobj=self._file, mode="wb", compresslevel=1)
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writing.close()
        self._file.close()

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Decimals as texts of their digits, days as texts."""
        lines = [msgspec.json.encode(row) for row in rows]
        if lines:
            self._writing.write(b"\n".join(lines) + b"\n")
            self.rows += len(lines)

    def batches(self, size: int = 10_000) -> Iterator[list[dict[str, Any]]]:
        """All of it, in order."""
        self._writing.close()
        self._file.seek(0)
        batch: list[dict[str, Any]] = []
        with gzip.GzipFile(fileobj=self._file, mode="rb") as lines:
            for line in lines:
                batch.append(_DECODER.decode(line))
                if len(batch) >= size:
                    yield batch
                    batch = []
        if batch:
            yield batch


_DECODER = msgspec.json.Decoder(dict[str, Any])


class Reading:
    """What a step reads of its provider, and the proof of it. Rows go to the spool as they come."""

    def __init__(self, step: StepContext, lookback_days: int, spool: Spool) -> None:
        self.step = step
        self.source_at = step.now()
        self.span = Span(step.start_date - timedelta(days=lookback_days), step.end_date)
        self.findings: Counter[tuple[str, str]] = Counter()
        self.said: list[str] = []
        self._spool = spool

    @property
    def covers(self) -> frozenset[Slice]:
        """A slice a day."""
        return frozenset(self.step.slice(day) for day in days(*self.span))

    @property
    def batches(self) -> Batches:
        return Batches(batches=self._spool.batches())

    @property
    def source_version(self) -> str:
        """Nothing in an answer says which it is: the moment of asking does."""
        return f"{self.step.provider}@{self.source_at:%Y-%m-%dT%H:%M:%S.%fZ}"

    def read(self, feed: Feed[Row], row_of: Callable[[str, Row], Mapping[str, Any]]) -> None:
        """Reads a feed to its end. Raises Transient (`no_answer`) when it leaves a day out."""
        missing = set(days(*self.span))
        before = self._spool.rows
        for page in feed.read(self.span):
            self.step.check()
            self._spool.write(row_of(self.step.provider, row) for row in page.rows)
            missing.difference_update(page.days)
            for finding in page.findings:
                self.findings[finding.code, finding.message] += finding.rows
        if missing:
            raise Transient(
                f"{feed.name}: no answer for {listed((f'{day}' for day in missing), 5)}; that there "
                f"was no usage would have been an answer",
                code="no_answer",
            )
        rows = self._spool.rows - before
        answered = (self.span.last - self.span.first).days + 1
        self.said.append(f"{feed.name}: {rows} rows, {answered} days answered, to the last page")
        self.step.log.info("feed.read", feed=feed.name, rows=rows, days=answered)

    def told(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(code=code, message=message, rows=rows)
            for (code, message), rows in self.findings.items()
        )


def access_of(step: StepContext) -> Access:
    """The step's way to its provider."""
    credential = step.credential()
    account = credential.info.metadata.get("account_id")
    return Access(
        http=step.http,
        base_url=step.registry.base_url,
        objects=step.objects,
        credential=credential,
        account=account if isinstance(account, str) else step.credential_id,
    )


def usage_row(provider: str, usage: Usage) -> dict[str, Any]:
    """A row of `genai_usage`."""
    return {
        **_common(provider, usage.of, usage.day),
        "usage_date": usage.day,
        "meter": usage.meter,
        "quantity": usage.quantity,
        "unit": unit_of(usage.meter),
    }


def cost_row(provider: str, cost: Cost) -> dict[str, Any]:
    """A row of `genai_costs`. A quantity without a price, or the other way round, has neither."""
    row = {
        **_common(provider, cost.of, cost.day),
        "charge_date": cost.day,
        "line_item": cost.line_item,
        "meter": cost.meter,
        "amount": cost.amount,
        "currency": cost.currency,
        "cost_basis": cost.basis,
        "price_match": cost.price_match,
        "rate_card": cost.rate_card,
    }
    if cost.quantity is None or cost.unit is None:
        return row
    price = cost.unit_price
    if price is None and cost.amount is not None:
        price = derived_price(cost.amount, cost.quantity, cost.unit)
    return {
        **row,
        "quantity": cost.quantity,
        "unit": cost.unit,
        "pricing_quantity": in_pricing_units(cost.quantity, cost.unit),
        "pricing_unit": priced_per(cost.unit).unit,
        "unit_price": price,
    }


def _common(provider: str, of: Dimensions, day: date) -> dict[str, Any]:
    return {"_run_date": day, "provider": provider, **structs.asdict(of)}


def summary_of(receipt: LoadReceipt, findings: int, message: str) -> Summary:
    """The summary of a step with one load."""
    return Summary(
        extracted=receipt.extracted,
        loaded=receipt.loaded,
        rejected=receipt.rejected,
        deduplicated=receipt.deduplicated,
        no_data=receipt.extracted == 0,
        warnings=findings + len(receipt.findings) + (1 if receipt.rejected else 0),
        message=message,
    )


def told_span(span: Span) -> str:
    """The days, for people."""
    return f"{span.first}" if span.first == span.last else f"{span.first} to {span.last}"
