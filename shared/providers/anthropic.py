"""Anthropic: the Usage and Cost Admin API of an organization, read with an admin key.

https://platform.claude.com/docs/en/build-with-claude/usage-cost-api. Buckets are UTC days. The four
counts of input are disjoint as they come. Amounts are cents, as texts: "123.45" are 1.2345 dollars. The
cost of the Priority Tier is billed otherwise, and not in the cost report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType

from shared.core.focus import CostBasis
from shared.core.genai import Cost, Dimensions, Meter, Usage
from shared.core.lineage import Finding
from shared.core.record import Json
from shared.providers import Access, Feed, Page, Span, Total
from shared.providers.buckets import (
    Bucket,
    Result,
    currency,
    decimal,
    needed,
    pages,
    strangers,
    text,
    unexpected,
    windows,
)

VERSION = "2023-06-01"
_FAST_MODE = "fast-mode-2026-02-01"  # without this beta the reports do not know `speed`
_DAYS = 31  # buckets of a day that one request may ask for
_BATCH = "batch"
_PRIORITY = frozenset({"priority", "priority_on_demand"})

_USAGE_BY = (
    "api_key_id",
    "workspace_id",
    "model",
    "service_tier",
    "context_window",
    "inference_geo",
    "speed",
)
_USAGE_FIELDS = frozenset(
    {
        *_USAGE_BY,
        "account_id",
        "service_account_id",
        "uncached_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
        "output_tokens",
        "server_tool_use",
    }
)
_COUNTED: Mapping[str, Meter] = MappingProxyType(
    {
        "uncached_input_tokens": Meter.INPUT,
        "cache_read_input_tokens": Meter.CACHED_INPUT,
        "output_tokens": Meter.OUTPUT,
    }
)
_NESTED: Mapping[str, Mapping[str, Meter]] = MappingProxyType(
    {
        "cache_creation": {
            "ephemeral_5m_input_tokens": Meter.CACHE_WRITE_5M,
            "ephemeral_1h_input_tokens": Meter.CACHE_WRITE_1H,
        },
        "server_tool_use": {"web_search_requests": Meter.WEB_SEARCHES},
    }
)
# `token_type` of the cost report is the name of the field of the usage report.
_TOKEN_TYPES: Mapping[str, Meter] = MappingProxyType(
    {
        **_COUNTED,
        **{
            f"{outer}.{inner}": meter
            for outer, fields in _NESTED.items()
            for inner, meter in fields.items()
        },
    }
)


class Anthropic:
    """See the module."""

    def usage(self, access: Access) -> Sequence[Feed[Usage]]:
        """The messages of every workspace and key; what has no key came from the Console."""
        return [Feed("usage_report/messages", partial(_usage, access))]

    def costs(self, access: Access) -> Sequence[Feed[Cost]]:
        """The costs by workspace and description."""
        return [Feed("cost_report", partial(_costs, access))]

    def totals(self, access: Access, span: Span) -> Iterator[Total]:
        """The same costs, not grouped: one amount a day."""
        where = "anthropic cost_report (totals)"
        for bucket in _buckets(access, "cost_report", where, span, ()):
            for result in bucket.results:
                money = currency(where, result.get("currency"))
                yield Total(bucket.day, money, _dollars(where, result))


def _usage(access: Access, span: Span) -> Iterator[Page[Usage]]:
    where = "anthropic usage_report/messages"
    for bucket in _buckets(access, "usage_report/messages", where, span, _USAGE_BY):
        rows: list[Usage] = []
        priority = 0
        for result in bucket.results:
            of = _dimensions(access, where, result)
            found = usage_meters(where, result)
            priority += sum(found.values()) if of.service_tier in _PRIORITY else 0
            rows.extend(
                Usage(day=bucket.day, of=of, meter=meter, quantity=Decimal(quantity))
                for meter, quantity in found.items()
                if quantity
            )
        yield Page(rows=rows, days=(bucket.day,), findings=_findings(where, bucket, priority))


def usage_meters(where: str, result: Result) -> Mapping[Meter, int]:
    """The meters of a result of the messages report. Each field is one; none contains another."""
    found = {meter: needed(where, result, field) for field, meter in _COUNTED.items()}
    for outer, fields in _NESTED.items():
        inner = result.get(outer) or {}
        if not isinstance(inner, dict) or inner.keys() - fields:
            raise unexpected(where, f"{outer} counts more than {' and '.join(fields)}")
        for field, meter in fields.items():
            if field in inner:
                found[meter] = needed(where, inner, field)
    return found


def _findings(where: str, bucket: Bucket, priority: int) -> list[Finding]:
    found = []
    if priority:
        found.append(
            Finding(
                code="priority_tier",
                message=f"{bucket.day}: usage of the Priority Tier, whose cost the cost report lacks",
                rows=priority,
            )
        )
    unknown = strangers(bucket.results, _USAGE_FIELDS)
    if unknown:
        found.append(
            Finding(
                code="unknown_field",
                message=f"{where}: counts that are not loaded: {', '.join(sorted(unknown))}",
            )
        )
    return found


def _costs(access: Access, span: Span) -> Iterator[Page[Cost]]:
    where = "anthropic cost_report"
    group_by = ("workspace_id", "description")
    for bucket in _buckets(access, "cost_report", where, span, group_by):
        rows = [_cost(access, where, bucket, result) for result in bucket.results]
        yield Page(rows=rows, days=(bucket.day,))


def _cost(access: Access, where: str, bucket: Bucket, result: Result) -> Cost:
    kind = text(where, result, "token_type")
    return Cost(
        day=bucket.day,
        of=_dimensions(access, where, result),
        line_item=text(where, result, "description"),
        meter=_TOKEN_TYPES.get(kind)
        if kind
        else _TOOLS.get(text(where, result, "cost_type") or ""),
        amount=_dollars(where, result),
        currency=currency(where, result.get("currency")),
        basis=CostBasis.PROVIDER_REPORTED,
    )


_TOOLS: Mapping[str, Meter] = MappingProxyType(
    {"web_search": Meter.WEB_SEARCHES, "session_usage": Meter.SESSIONS}
)


def _dollars(where: str, result: Result) -> Decimal:
    return decimal(where, "amount", result.get("amount")).scaleb(-2)


def _dimensions(access: Access, where: str, result: Result) -> Dimensions:
    tier = text(where, result, "service_tier")
    return Dimensions(
        account_id=access.account,
        project_id=text(where, result, "workspace_id"),
        api_key_id=text(where, result, "api_key_id"),
        service=text(where, result, "cost_type") or "messages",
        model=text(where, result, "model"),
        service_tier=tier,
        is_batch=None if tier is None else tier == _BATCH,
        context_window=text(where, result, "context_window"),
        inference_geo=text(where, result, "inference_geo"),
        speed=text(where, result, "speed"),
    )


def _buckets(
    access: Access, path: str, where: str, span: Span, group_by: tuple[str, ...]
) -> Iterator[Bucket]:
    url = f"{access.base_url('api')}/organizations/{path}"
    headers = {
        "x-api-key": access.field("api_key"),
        "anthropic-version": VERSION,
        "anthropic-beta": _FAST_MODE,
    }
    for window in windows(span, _DAYS):
        params: dict[str, str | Sequence[str]] = {
            "starting_at": f"{window.first}T00:00:00Z",
            "ending_at": f"{window.last + timedelta(days=1)}T00:00:00Z",
            "bucket_width": "1d",
            "limit": str(_DAYS),
            **({"group_by[]": group_by} if group_by else {}),
        }

        def ask(cursor: str | None, params: Mapping[str, str | Sequence[str]] = params) -> Json:
            page = {} if cursor is None else {"page": cursor}
            return access.http.get(url, params={**params, **page}, headers=headers).json()

        for page in pages(where, window, ask, partial(_start, where)):
            yield from page


def _start(where: str, bucket: Result) -> datetime:
    try:
        start = datetime.fromisoformat(text(where, bucket, "starting_at") or "")
    except ValueError as exc:
        raise unexpected(where, "a bucket has no starting_at") from exc
    if start.tzinfo is None:
        raise unexpected(where, "starting_at has no zone")
    return start.astimezone(UTC)
