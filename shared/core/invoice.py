"""What a subscription is invoiced: lines, each an amount and the days that it pays for.

A line never changes: what happens later adds lines. So what a day costs is the same whenever it is
told, but for the day on which the subscription ends, which has whatever is not spread by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from shared.core import amortise, currency
from shared.core.cycle import Period, cycle_at, cycle_of
from shared.core.subscription import CancelPolicy, Changes, Refund, Subscription, Version, in_force

_DAY = timedelta(days=1)


class Kind(StrEnum):
    """What a line is invoiced for."""

    CYCLE = "cycle"  # a billing cycle, or what is left of it at the start
    CHANGE = "change"  # another price or other seats for the rest of a cycle
    CANCEL = "cancel"  # what the vendor gives back of a cycle that is not used to its end
    REFUND = "refund"  # a credit note


class Line(NamedTuple):
    """One line. Its amount is spread over `days`; on the day `stop` of them, all that is left of it.

    `list_amount` is the amount without the discount. `corrects`: it gives back what was invoiced in an
    earlier month.
    """

    line_id: str
    kind: Kind
    version: Version
    cycle: Period
    days: Period
    stop: date | None
    invoiced: date
    amount: Decimal
    list_amount: Decimal
    corrects: bool = False

    def falls_on(self, day: date) -> bool:
        """Does the day have a share of it?"""
        until = self.days.end if self.stop is None else self.stop + _DAY
        return self.days.start <= day < until

    def number(self, day: date) -> int:
        """The day's number among those of the line, from 0."""
        return (day - self.days.start).days

    def share(self, day: date) -> Decimal:
        """What the day has of the amount."""
        return self._share(self.amount, day)

    def list_share(self, day: date) -> Decimal:
        """What the day has of the list amount."""
        return self._share(self.list_amount, day)

    def _share(self, amount: Decimal, day: date) -> Decimal:
        if not self.falls_on(day):
            return Decimal(0)
        return amortise.share(amount, self.days.days, self.number(day), rest=day == self.stop)


class _Stretch(NamedTuple):
    """Versions that follow one another without a gap, each going on with the cycles of the one before."""

    versions: tuple[Version, ...]

    @property
    def end(self) -> date | None:
        return self.versions[-1].end


def lines(subscription: Subscription, first: date, last: date) -> Iterator[Line]:
    """The lines that are invoiced, or have a share, on one of the days `first` to `last`."""
    found = [*_cycle_lines(subscription, first, last), *_refund_lines(subscription)]
    for line in found:
        touched = line.days.start <= last and first <= (line.stop or line.days.end - _DAY)
        if touched or first <= line.invoiced <= last:
            yield line


def _cycle_lines(subscription: Subscription, first: date, last: date) -> Iterator[Line]:
    for stretch in _stretches(subscription.versions):
        head = stretch.versions[0]
        # The day before: what is invoiced at the end of a cycle, is so on the first day of the next.
        day = max(head.start, min(first, stretch.end or first) - _DAY)
        while day <= last and (stretch.end is None or day < stretch.end):
            period = cycle_at(head.anchor, cycle_of(head.cycle), day)
            yield from _lines_of(stretch, period)
            day = period.end


def _stretches(versions: tuple[Version, ...]) -> Iterator[_Stretch]:
    begin = 0
    for number, (one, following) in enumerate(pairwise(versions), 1):
        if one.end != following.start or one.offer != following.offer:
            yield _Stretch(versions[begin:number])
            begin = number
    if versions:
        yield _Stretch(versions[begin:])


def _lines_of(stretch: _Stretch, period: Period) -> Iterator[Line]:
    """The lines of one cycle."""
    start = max(period.start, stretch.versions[0].start)
    version, *later = [
        one
        for one in stretch.versions
        if one.start < period.end and (one.end is None or one.end > start)
    ]
    stop = _stop(stretch, period)
    full = start == period.start or not version.prorate_start
    part = Fraction(1) if full else _part(period, start)
    invoiced = version  # what is invoiced of this cycle by now
    yield _line(
        Kind.CYCLE, version, period, start, stop, version.price * part, version.list_price * part
    )
    for version in later:
        if version.changes is Changes.NEXT_CYCLE:
            continue
        part = _part(period, version.start)
        price = (version.price - invoiced.price) * part
        list_price = (version.list_price - invoiced.list_price) * part
        invoiced = version
        if not price and not list_price:
            continue
        line = _line(Kind.CHANGE, version, period, version.start, stop, price, list_price)
        if version.changes is Changes.AT_CYCLE_END:
            line = line._replace(invoiced=stop or period.end)
        yield line
    if stop is not None and (stretch.versions[-1].cancel_policy is CancelPolicy.REFUND_PRORATED):
        part = -_part(period, stop)
        line = _line(
            Kind.CANCEL,
            invoiced,
            period,
            stop,
            None,
            invoiced.price * part,
            invoiced.list_price * part,
        )
        if line.amount or line.list_amount:
            corrects = _month(stop) > _month(start)
            yield line._replace(days=Period(stop, stop + _DAY), corrects=corrects)


def _stop(stretch: _Stretch, period: Period) -> date | None:
    """The day on which what is paid of the cycle is no longer used; None: it is used to its end."""
    end = stretch.end
    if end is None or end >= period.end:
        return None
    keeps = stretch.versions[-1].cancel_policy is CancelPolicy.NO_REFUND_KEEP_ACCESS
    return None if keeps else end


def _line(
    kind: Kind,
    version: Version,
    period: Period,
    start: date,
    stop: date | None,
    price: Fraction,
    list_price: Fraction,
) -> Line:
    digits = currency.exponent(version.currency)
    if digits is None:
        raise AssertionError(f"{version.currency} was a currency when it was entered")
    return Line(
        line_id=f"{kind}.{start}",
        kind=kind,
        version=version,
        cycle=period,
        days=Period(start, period.end),
        stop=stop,
        invoiced=start,
        amount=amortise.rounded(price, digits),
        list_amount=amortise.rounded(list_price, digits),
    )


def _refund_lines(subscription: Subscription) -> Iterator[Line]:
    for refund in subscription.refunds:
        version = in_force(subscription, refund.day)
        if version is not None:
            yield _refund_line(subscription, refund, version)


def _refund_line(subscription: Subscription, refund: Refund, version: Version) -> Line:
    """It lowers what is left of the cycle; after the end of all, the day that it is of."""
    used = refund.day if version.end is None else min(refund.day, version.end - _DAY)
    period = cycle_at(version.anchor, cycle_of(version.cycle), used)
    (stretch,) = (one for one in _stretches(subscription.versions) if version in one.versions)
    line = _line(
        Kind.REFUND,
        version,
        period,
        refund.day,
        _stop(stretch, period),
        -Fraction(refund.amount),
        -Fraction(refund.amount),
    )
    if not version.covers(refund.day):
        line = line._replace(days=Period(refund.day, refund.day + _DAY), stop=None)
    corrects = _month(refund.day) > _month(max(period.start, stretch.versions[0].start))
    return line._replace(line_id=f"{Kind.REFUND}.{refund.ref}", corrects=corrects)


def _part(period: Period, start: date) -> Fraction:
    """The part of the cycle that is left from `start` on."""
    return Fraction(Period(start, period.end).days, period.days)


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month
