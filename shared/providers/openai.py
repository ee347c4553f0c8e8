"""OpenAI: the Usage and Costs API of an organization, read with an admin key.

https://platform.openai.com/docs/api-reference/usage. Buckets are UTC days. The totals of the completions
contain their parts (input contains cached input and cache writes), and are taken apart here. OpenAI says
itself that usage and costs need not agree to the cent, and that the costs are those of the invoice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from shared.core.focus import CostBasis
from shared.core.genai import Cost, Dimensions, Meter, Unit, Usage
from shared.core.lineage import Finding
from shared.core.record import Json
from shared.providers import Access, Feed, Page, Span, Total
from shared.providers.buckets import (
    Bucket,
    Result,
    count,
    currency,
    decimal,
    needed,
    pages,
    strangers,
    text,
    unexpected,
    windows,
)

_USAGE_DAYS = 31  # buckets of a day that one request may ask for
_COSTS_DAYS = 180
_BY_KEY = ("project_id", "api_key_id", "model")

Meters = Mapping[Meter, int]


class Endpoint(NamedTuple):
    """One endpoint of usage: by what it can be grouped, and how a result counts.

    `known` are the fields that `meters` reads; `variant` those that tell images or searches apart.
    """

    group_by: tuple[str, ...]
    known: tuple[str, ...]
    meters: Callable[[str, Result], Meters]
    variant: tuple[str, ...] = ()


class OpenAI:
    """See the module."""

    def usage(self, access: Access) -> Sequence[Feed[Usage]]:
        """Every endpoint of usage: what one of them counts, no other does."""
        return [
            Feed(f"usage/{name}", partial(_usage, access, name, endpoint))
            for name, endpoint in ENDPOINTS.items()
        ]

    def costs(self, access: Access) -> Sequence[Feed[Cost]]:
        """The costs as they are invoiced, by line item, project and key."""
        return [Feed("costs", partial(_costs, access))]

    def totals(self, access: Access, span: Span) -> Iterator[Total]:
        """The same costs, not grouped: one amount a day."""
        where = "openai costs (totals)"
        for bucket in _buckets(access, "costs", where, span, _COSTS_DAYS, ()):
            for result in bucket.results:
                money = _amount(where, result)
                yield Total(bucket.day, money.currency, money.value)


def _usage(access: Access, name: str, endpoint: Endpoint, span: Span) -> Iterator[Page[Usage]]:
    where = f"openai usage/{name}"
    known = frozenset({"object", "user_id", *endpoint.group_by, *endpoint.known})
    path = f"usage/{name}"
    for bucket in _buckets(access, path, where, span, _USAGE_DAYS, endpoint.group_by):
        rows: list[Usage] = []
        findings: list[Finding] = []
        for result in bucket.results:
            found = endpoint.meters(where, result)
            rows.extend(_rows(access, bucket, name, endpoint, result, found))
        unknown = strangers(bucket.results, known)
        if unknown:
            findings.append(
                Finding(
                    code="unknown_field",
                    message=f"{where}: counts that are not loaded: {', '.join(sorted(unknown))}",
                )
            )
        yield Page(rows=rows, days=(bucket.day,), findings=findings)


def _rows(
    access: Access,
    bucket: Bucket,
    name: str,
    endpoint: Endpoint,
    result: Result,
    found: Meters,
) -> Iterator[Usage]:
    where = f"openai usage/{name}"
    batch = result.get("batch")
    if batch is not None and not isinstance(batch, bool):
        raise unexpected(where, "batch is neither true nor false")
    variant = [part for field in endpoint.variant if (part := text(where, result, field))]
    of = Dimensions(
        account_id=access.account,
        project_id=text(where, result, "project_id"),
        api_key_id=text(where, result, "api_key_id"),
        service=name,
        model=text(where, result, "model"),
        service_tier=text(where, result, "service_tier"),
        is_batch=batch,
        variant=" ".join(variant) or None,
    )
    for meter, quantity in found.items():
        if quantity:
            yield Usage(day=bucket.day, of=of, meter=meter, quantity=Decimal(quantity))


def _counted(fields: Mapping[str, Meter]) -> Callable[[str, Result], Meters]:
    """Meters that stand in a result each in a field of its own."""

    def meters(where: str, result: Result) -> Meters:
        return {meter: needed(where, result, field) for field, meter in fields.items()}

    return meters


def completion_meters(where: str, result: Result) -> Meters:
    """The disjoint meters of a completions result: their sums are its `input_tokens` and `output_tokens`.

    Responses of before 2026 lack the parts by kind of content, or some of them: what no part explains
    is text where text is not told, and else `…_other`. Raises Terminal where a part is more than its
    whole.
    """
    whole = needed(where, result, "input_tokens")
    cached = count(where, result, "input_cached_tokens") or 0
    written = count(where, result, "input_cache_write_tokens") or 0
    fresh = count(where, result, "input_uncached_tokens")
    if fresh is None:
        fresh = whole - cached - written
    if fresh < 0 or fresh + cached + written != whole:
        raise unexpected(
            where,
            f"of {whole} input tokens, {cached} are cached, {written} written to the cache and "
            f"{fresh} neither",
        )
    return {
        **_parts(where, result, fresh, "input_{}_tokens", _INPUT),
        **_parts(where, result, cached, "input_cached_{}_tokens", _CACHED),
        Meter.CACHE_WRITE: written,
        **_parts(
            where, result, needed(where, result, "output_tokens"), "output_{}_tokens", _OUTPUT
        ),
        Meter.REQUESTS: needed(where, result, "num_model_requests"),
    }


def _parts(
    where: str, result: Result, whole: int, name: str, meters: tuple[Meter, Meter, Meter, Meter]
) -> Meters:
    """`whole` by kind of content: text, audio, image, and what is none of them."""
    texts, audio, image = (
        count(where, result, name.format(kind)) for kind in ("text", "audio", "image")
    )
    rest = whole - (audio or 0) - (image or 0)
    if texts is None:
        texts = rest
    if rest < texts or rest < 0:
        said = f"{texts} text, {audio or 0} audio and {image or 0} image"
        raise unexpected(
            where, f"{name.format('*')}: {said} tokens are more than their whole, {whole}"
        )
    return dict(zip(meters, (texts, audio or 0, image or 0, rest - texts), strict=True))


_INPUT = (Meter.INPUT, Meter.INPUT_AUDIO, Meter.INPUT_IMAGE, Meter.INPUT_OTHER)
_CACHED = (
    Meter.CACHED_INPUT,
    Meter.CACHED_INPUT_AUDIO,
    Meter.CACHED_INPUT_IMAGE,
    Meter.CACHED_INPUT_OTHER,
)
_OUTPUT = (Meter.OUTPUT, Meter.OUTPUT_AUDIO, Meter.OUTPUT_IMAGE, Meter.OUTPUT_OTHER)
_COMPLETION_FIELDS = (
    "input_tokens",
    "input_uncached_tokens",
    "input_cache_write_tokens",
    "output_tokens",
    "num_model_requests",
    *(
        f"{side}_{kind}tokens"
        for side in ("input", "input_cached", "output")
        for kind in ("", "text_", "audio_", "image_")
    ),
)


def _endpoint(
    group_by: tuple[str, ...],
    fields: Mapping[str, Meter],
    *,
    variant: tuple[str, ...] = (),
    besides: tuple[str, ...] = (),
) -> Endpoint:
    """An endpoint whose fields are meters; it knows those `besides`, which count the same again."""
    return Endpoint((*group_by, *variant), (*fields, *besides), _counted(fields), variant)


ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType(
    {
        "completions": Endpoint(
            (*_BY_KEY, "batch", "service_tier"), _COMPLETION_FIELDS, completion_meters
        ),
        "embeddings": _endpoint(
            _BY_KEY, {"input_tokens": Meter.INPUT, "num_model_requests": Meter.REQUESTS}
        ),
        "moderations": _endpoint(
            _BY_KEY, {"input_tokens": Meter.INPUT, "num_model_requests": Meter.REQUESTS}
        ),
        "images": _endpoint(
            _BY_KEY,
            {"images": Meter.IMAGES, "num_model_requests": Meter.REQUESTS},
            variant=("size", "source"),
        ),
        "audio_speeches": _endpoint(
            _BY_KEY, {"characters": Meter.CHARACTERS, "num_model_requests": Meter.REQUESTS}
        ),
        "audio_transcriptions": _endpoint(
            _BY_KEY, {"seconds": Meter.AUDIO_SECONDS, "num_model_requests": Meter.REQUESTS}
        ),
        "vector_stores": _endpoint(("project_id",), {"usage_bytes": Meter.STORAGE_BYTES}),
        "code_interpreter_sessions": _endpoint(("project_id",), {"num_sessions": Meter.SESSIONS}),
        # The requests that searched are requests of completions, and counted there.
        "web_search_calls": _endpoint(
            _BY_KEY,
            {"num_requests": Meter.WEB_SEARCHES},
            variant=("context_level",),
            besides=("num_model_requests",),
        ),
        "file_search_calls": _endpoint(
            ("project_id", "api_key_id"),
            {"num_requests": Meter.FILE_SEARCHES},
            variant=("vector_store_id",),
        ),
    }
)


# -- costs


def _costs(access: Access, span: Span) -> Iterator[Page[Cost]]:
    where = "openai costs"
    group_by = ("line_item", "project_id", "api_key_id")
    for bucket in _buckets(access, "costs", where, span, _COSTS_DAYS, group_by):
        rows = [_cost(access, where, bucket, result) for result in bucket.results]
        yield Page(rows=rows, days=(bucket.day,))


def _cost(access: Access, where: str, bucket: Bucket, result: Result) -> Cost:
    money = _amount(where, result)
    item = text(where, result, "line_item")
    line = parse_line_item(item or "")
    counted = result.get("quantity")
    unit, size = _UNITS.get(text(where, result, "quantity_unit") or "", (None, 1))
    return Cost(
        day=bucket.day,
        of=Dimensions(
            account_id=access.account,
            project_id=text(where, result, "project_id"),
            api_key_id=text(where, result, "api_key_id"),
            model=line.model,
            service_tier=line.service_tier,
            context_window=line.context_window,
        ),
        line_item=item,
        meter=line.meter,
        amount=money.value,
        currency=money.currency,
        quantity=None
        if counted is None or unit is None
        else decimal(where, "quantity", counted) * size,
        unit=unit,
        basis=CostBasis.PROVIDER_REPORTED,
    )


class _Money(NamedTuple):
    value: Decimal
    currency: str


def _amount(where: str, result: Result) -> _Money:
    """Dollars, though the answer may have them as a text: 0.06 and "0.06" are both seen."""
    amount = result.get("amount")
    if not isinstance(amount, dict):
        raise unexpected(where, "a result has no amount")
    return _Money(
        decimal(where, "amount.value", amount.get("value")),
        currency(where, amount.get("currency")),
    )


_UNITS: Mapping[str, tuple[Unit, int]] = MappingProxyType(
    {
        "tokens": (Unit.TOKENS, 1),
        "1000_tokens": (Unit.TOKENS, 1000),
        "duration_seconds": (Unit.SECONDS, 1),
        "duration_minutes": (Unit.MINUTES, 1),
        "duration_hours": (Unit.HOURS, 1),
        "gibibyte_hours": (Unit.GIBIBYTE_HOURS, 1),
        "images": (Unit.IMAGES, 1),
        "characters": (Unit.CHARACTERS, 1),
    }
)


class LineItem(NamedTuple):
    """What a line item says of itself; all None where it is not in the usual form."""

    model: str | None = None
    meter: Meter | None = None
    service_tier: str | None = None
    context_window: str | None = None


_LINE_ITEM = re.compile(
    r"(?:(?P<tier>priority|flex|batch) \| )?"
    r"(?P<model>[^ ,|]+)(?: (?P<kind>text|audio|image))?, "
    r"(?P<way>input|cached input|cache writes|output)"
    r"(?P<long>, long context)?"
)
_METERS: Mapping[tuple[str, str | None], Meter] = MappingProxyType(
    {
        ("input", None): Meter.INPUT,
        ("input", "text"): Meter.INPUT,
        ("input", "audio"): Meter.INPUT_AUDIO,
        ("input", "image"): Meter.INPUT_IMAGE,
        ("cached input", None): Meter.CACHED_INPUT,
        ("cached input", "text"): Meter.CACHED_INPUT,
        ("cached input", "audio"): Meter.CACHED_INPUT_AUDIO,
        ("cached input", "image"): Meter.CACHED_INPUT_IMAGE,
        ("cache writes", None): Meter.CACHE_WRITE,
        ("output", None): Meter.OUTPUT,
        ("output", "text"): Meter.OUTPUT,
        ("output", "audio"): Meter.OUTPUT_AUDIO,
        ("output", "image"): Meter.OUTPUT_IMAGE,
    }
)


def parse_line_item(item: str) -> LineItem:
    """Model and meter of a line item like `priority | gpt-5.6-sol, output, long context`.

    OpenAI does not describe the form, so that it only decorates: the row is known by its whole text.
    """
    found = _LINE_ITEM.fullmatch(item)
    if found is None:
        return LineItem()
    return LineItem(
        model=found["model"],
        meter=_METERS.get((found["way"], found["kind"])),
        service_tier=found["tier"],
        context_window="long" if found["long"] else None,
    )


# -- asking


def _buckets(
    access: Access, path: str, where: str, span: Span, most: int, group_by: tuple[str, ...]
) -> Iterator[Bucket]:
    url = f"{access.base_url('api')}/organization/{path}"
    headers = {"Authorization": f"Bearer {access.field('api_key')}"}
    for window in windows(span, most):
        params: dict[str, str | Sequence[str]] = {
            "start_time": str(_epoch(window.first)),
            "end_time": str(_epoch(window.last + timedelta(days=1))),
            "bucket_width": "1d",
            "limit": str((window.last - window.first).days + 1),
            **({"group_by": group_by} if group_by else {}),
        }

        def ask(cursor: str | None, params: Mapping[str, str | Sequence[str]] = params) -> Json:
            page = {} if cursor is None else {"page": cursor}
            return access.http.get(url, params={**params, **page}, headers=headers).json()

        for page in pages(where, window, ask, partial(_start, where)):
            yield from page


def _epoch(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _start(where: str, bucket: Result) -> datetime:
    return datetime.fromtimestamp(needed(where, bucket, "start_time"), UTC)
