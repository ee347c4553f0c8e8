"""Answers in buckets of a day, page by page: what OpenAI's and Anthropic's reports have in common.

A page is `{data: [bucket…], has_more, next_page}`; `next_page` is the cursor of the next one. It is
opaque, so the one thing to be known of it is that it must not come twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from shared.core.nearmiss import clipped
from shared.core.record import Document, Json
from shared.errors import Terminal, Transient
from shared.providers import Span

Result: TypeAlias = Mapping[str, Json]
Kind = TypeVar("Kind")


class _Envelope(Document, frozen=True, kw_only=True):
    data: list[dict[str, Json]]
    has_more: bool
    next_page: str | None = None


class Bucket(NamedTuple):
    """One day as the provider answers it."""

    day: date
    results: list[Result]


def windows(span: Span, days: int) -> Iterator[Span]:
    """The span in pieces of at most so many days, in order."""
    first = span.first
    while first <= span.last:
        last = min(first + timedelta(days=days - 1), span.last)
        yield Span(first, last)
        first = last + timedelta(days=1)


def pages(
    where: str,
    window: Span,
    ask: Callable[[str | None], Json],
    start_of: Callable[[Result], datetime],
) -> Iterator[list[Bucket]]:
    """Every page of a window, to the end mark. `ask` gets the page of a cursor, the first without one.

    Raises Terminal: `unexpected_answer` (not what the provider describes), `repeated_page` (the same
    cursor again: it would never end), `repeated_day` (would be counted twice). Transient: `cut_answer`
    (there is more, but no cursor to it).
    """
    cursor: str | None = None
    cursors: set[str] = set()
    seen: set[date] = set()
    while True:
        page = read(where, ask(cursor), _Envelope)
        yield [_bucket(where, window, bucket, start_of, seen) for bucket in page.data]
        if not page.has_more:
            return
        if not page.next_page:
            raise Transient(
                f"{where}: says that there are more pages, but not which is next",
                code="cut_answer",
            )
        cursor = page.next_page
        if cursor in cursors:
            raise Terminal(
                f"{where}: page {len(cursors) + 1} has the cursor of an earlier one, "
                f"{clipped(cursor)}: it would never end",
                code="repeated_page",
            )
        cursors.add(cursor)


def _bucket(
    where: str,
    window: Span,
    bucket: dict[str, Json],
    start_of: Callable[[Result], datetime],
    seen: set[date],
) -> Bucket:
    results = bucket.get("results")
    if not isinstance(results, list) or not all(isinstance(one, dict) for one in results):
        raise unexpected(where, "a bucket has no list of results")
    start = start_of(bucket)
    day = start.date()
    if start.time() != datetime.min.time() or not window.first <= day <= window.last:
        raise unexpected(
            where, f"a bucket begins at {start:%Y-%m-%d %H:%M:%S}Z, which was not asked for"
        )
    if day in seen:
        raise Terminal(
            f"{where}: answers for {day} twice; adding both up could double it", code="repeated_day"
        )
    seen.add(day)
    return Bucket(day, results)


def read(where: str, value: Json, kind: type[Kind]) -> Kind:
    """The value as a `kind`. Raises Terminal (`unexpected_answer`)."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        raise unexpected(where, str(exc)) from exc


def unexpected(where: str, what: str) -> Terminal:
    """The answer is not what the provider describes."""
    return Terminal(
        f"{where}: {what}. The provider's answer is not what its description says: nothing was loaded",
        code="unexpected_answer",
    )


def count(where: str, result: Result, field: str) -> int | None:
    """A whole number that is not negative, or None where the answer has none."""
    value = result.get(field)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise unexpected(where, f"{field} is {clipped(str(value))}, not a count")
    return value


def needed(where: str, result: Result, field: str) -> int:
    """A count that must be there."""
    value = count(where, result, field)
    if value is None:
        raise unexpected(where, f"a result has no {field}")
    return value


def text(where: str, result: Result, field: str) -> str | None:
    """A text, or None where the answer has none: not grouped by it, or it does not apply."""
    value = result.get(field)
    if value is not None and not isinstance(value, str):
        raise unexpected(where, f"{field} is no text")
    return value


def decimal(where: str, field: str, value: Json) -> Decimal:
    """A number as its digits say, whether the answer has it as a number or as a text."""
    if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("nan")
        if number.is_finite():
            return number
    raise unexpected(where, f"{field} is {clipped(str(value))}, not a number")


def currency(where: str, value: Json) -> str:
    """A currency by its three letters, in capitals."""
    if not (isinstance(value, str) and len(value) == 3 and value.isascii() and value.isalpha()):
        raise unexpected(where, f"the currency is {clipped(str(value))}")
    return value.upper()


def strangers(results: list[Result], known: frozenset[str]) -> set[str]:
    """Fields that nobody here knows and that count something: what they count is not loaded."""
    return {
        name
        for result in results
        for name, value in result.items()
        if name not in known and value not in (None, "", 0) and not isinstance(value, bool | str)
    }
