"""A subscription: what a vendor is paid for a plan, in versions that never overlap.

A change closes the version at its day and opens one there. What was entered stays: nothing here
changes what a version that has begun says of its days, but for the day on which it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from operator import itemgetter
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from shared.core import amortise, currency, cycle, focus
from shared.core.nearmiss import did_you_mean, listed
from shared.core.places import JSON, Path, Places, fault
from shared.core.record import Document, Json, Record
from shared.errors import Conflict, Fault, Invalid

ID = "^[a-z0-9][a-z0-9_.-]{0,62}$"
FIRST_YEAR, LAST_YEAR = 2000, 2199
MOST = 10**12  # of a currency, for one cycle: a millionth of it still counts in 64 bits
UNSTORABLE = "has a character that no database keeps"
MOST_VERSIONS = 500  # of one subscription
MOST_ENTRIES = 1_000  # entered at once

_MONEY = r"^[0-9]{1,12}(\.[0-9]{1,9})?$"
_TEXTS = ("vendor", "product", "plan", "invoice_issuer", "account")


class Changes(StrEnum):
    """What the vendor does with a new price or other seats in the middle of a cycle."""

    PRORATED = "prorated"  # invoices the difference for the days that are left, at once
    AT_CYCLE_END = "at_cycle_end"  # the same, with the invoice at the end of the cycle: a true-up
    NEXT_CYCLE = "next_cycle"  # nothing until the next cycle begins


class CancelPolicy(StrEnum):
    """What the vendor does with a cycle that is paid when the subscription ends in the middle of it."""

    REFUND_PRORATED = "refund_prorated"  # gives back the days that are left
    NO_REFUND_KEEP_ACCESS = "no_refund_keep_access"  # keeps the money; the service goes on
    NO_REFUND_STOP = "no_refund_stop"  # keeps the money; the service ends


SubscriptionId = Annotated[
    str, Meta(pattern=ID, description="Its name, for ever.", examples=["slack"])
]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Money = Annotated[
    str,
    Meta(
        pattern=_MONEY,
        description="A number as text, so that no digit is lost. Never negative.",
        examples=["12.50"],
    ),
]


class Terms(Record, frozen=True, kw_only=True):
    """What a subscription costs from a day on."""

    vendor: Annotated[Text, Meta(description="Whose service it is.", examples=["Slack"])]
    product: Annotated[Text, Meta(description="What is subscribed to.", examples=["Slack"])]
    plan: Annotated[Text, Meta(description="Of the product.", examples=["Business+"])] | None = None
    category: Annotated[
        str,
        Meta(
            description="ServiceCategory of FOCUS.",
            examples=["Business Applications"],
            max_length=100,
        ),
    ]
    subcategory: (
        Annotated[
            str,
            Meta(
                description="ServiceSubcategory of FOCUS, one of the category's. Left out: its other ones.",
                examples=["Productivity and Collaboration"],
                max_length=100,
            ),
        ]
        | None
    ) = None
    currency: Annotated[
        str, Meta(pattern="^[A-Z]{3}$", description="Of the invoices: ISO 4217.", examples=["USD"])
    ]
    cycle: Annotated[
        str,
        Meta(
            pattern=cycle.PATTERN,
            description="How often it is invoiced, in advance.",
            examples=["monthly"],
        ),
    ]
    unit_price: Annotated[Money, Meta(description="Of one seat for one cycle. 0 is a free plan.")]
    seats: Annotated[
        int, Meta(ge=1, le=10_000_000, description="How many there are; a flat price is one seat.")
    ]
    discount: Annotated[
        Money, Meta(description="Off a whole cycle, as an amount; at most its price.")
    ] = "0"
    start: Annotated[date, Meta(description="The first day.")]
    end: (
        Annotated[
            date, Meta(description="The first day after it. Left out: open, or up to what follows.")
        ]
        | None
    ) = None
    anchor: (
        Annotated[
            date,
            Meta(
                description="A day on which a cycle begins, not after `start`. Left out: that of the "
                "version before if its cycle goes on, else `start`."
            ),
        ]
        | None
    ) = None
    prorate_start: Annotated[
        bool,
        Meta(description="Is a first cycle that is cut short invoiced by its days, or in full?"),
    ] = True
    changes: Annotated[
        Changes,
        Meta(description="What becomes of this version's price in the cycle that it begins in."),
    ] = Changes.PRORATED
    cancel_policy: Annotated[
        CancelPolicy, Meta(description="What becomes of the cycle that it ends in.")
    ] = CancelPolicy.NO_REFUND_KEEP_ACCESS
    invoice_issuer: (
        Annotated[Text, Meta(description="Who invoices, such as a reseller. Left out: the vendor.")]
        | None
    ) = None
    account: (
        Annotated[
            Text, Meta(description="The account at the issuer. Left out: the subscription's name.")
        ]
        | None
    ) = None

    @classmethod
    def contradictions(cls, given: Mapping[str, Json]) -> Iterable[tuple[Path, str]]:
        """Also of a subclass, whose further fields contradict nothing."""
        return (((name,), said) for name, said in _contradictions(given))


class Entry(Terms, frozen=True, kw_only=True):
    """One version of one subscription."""

    subscription: SubscriptionId


class Entries(Record, frozen=True, kw_only=True):
    """Versions of subscriptions, in any order."""

    versions: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=MOST_ENTRIES)]

    @classmethod
    def contradictions(cls, given: Mapping[str, Json]) -> Iterable[tuple[Path, str]]:
        """Versions of one subscription that would have the same day."""
        return _overlaps(given.get("versions", ()))


class Version(Document, frozen=True, kw_only=True, omit_defaults=False):
    """The terms from `start` to before `end`, None while nobody knows."""

    vendor: str
    product: str
    plan: str | None
    category: str
    subcategory: str | None
    currency: str
    cycle: str
    unit_price: Decimal
    seats: int
    discount: Decimal
    start: date
    end: date | None
    anchor: date
    prorate_start: bool
    changes: Changes
    cancel_policy: CancelPolicy
    invoice_issuer: str | None
    account: str | None

    @property
    def offer(self) -> tuple[object, ...]:
        """What a cycle belongs to: a version that follows with the same one goes on with its cycles."""
        parts = (self.vendor, self.invoice_issuer, self.account, self.product, self.plan)
        return (*parts, self.currency, self.cycle, self.anchor)

    @property
    def list_price(self) -> Fraction:
        """Of a whole cycle, before the discount."""
        return Fraction(self.unit_price) * self.seats

    @property
    def price(self) -> Fraction:
        """Of a whole cycle."""
        return self.list_price - Fraction(self.discount)

    def covers(self, day: date) -> bool:
        """Is it in force on that day?"""
        return self.start <= day and (self.end is None or day < self.end)


class Refund(Document, frozen=True, kw_only=True, omit_defaults=False):
    """Money that the vendor gave back by a credit note `ref`, beside what the cancel policy says."""

    ref: str
    day: date
    amount: Decimal
    reason: str


class Subscription(Document, frozen=True, kw_only=True, omit_defaults=False):
    """Its versions in order of their days. Without any it is void: it was entered by mistake."""

    subscription_id: str
    versions: tuple[Version, ...] = ()
    refunds: tuple[Refund, ...] = ()

    def on(self, day: date) -> Version | None:
        """The version that is in force on that day."""
        return next((one for one in self.versions if one.covers(day)), None)


# --- what may be entered ---


def _contradictions(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in _TEXTS:
        if (text := given.get(name)) is not None and not storable(text):
            yield name, UNSTORABLE
    yield from _category_faults(given.get("category"), given.get("subcategory"))
    code = given.get("currency")
    if code is not None and currency.exponent(code) is None:
        yield "currency", f"is no currency of ISO 4217{did_you_mean(code, currency.codes())}"
    yield from _day_faults(given)
    if "unit_price" in given and "seats" in given:
        price = Fraction(given["unit_price"]) * given["seats"]
        if price > MOST:
            yield "unit_price", f"is more than {MOST:,} a cycle for all seats"
        if Fraction(given.get("discount", "0")) > price:
            yield "discount", "is more than the price of a cycle"


def _category_faults(category: str | None, subcategory: str | None) -> Iterator[tuple[str, str]]:
    if category is None:
        return
    categories = focus.columns()["ServiceCategory"].allowed
    if category not in categories:
        near = did_you_mean(category, categories)
        yield "category", f"is no ServiceCategory of FOCUS{near}; they are {listed(categories)}"
        return
    own = [name for name, parent in focus.subcategories().items() if parent == category]
    if subcategory is not None and subcategory not in own:
        near = did_you_mean(subcategory, own)
        yield "subcategory", f"is none of {category}{near}; they are {listed(own)}"


def _day_faults(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    days = {
        name: date.fromisoformat(given[name])
        for name in ("start", "end", "anchor")
        if given.get(name) is not None
    }
    for name, day in days.items():
        if not FIRST_YEAR <= day.year <= LAST_YEAR:
            yield name, f"must be from {FIRST_YEAR} to {LAST_YEAR}"
    start = days.get("start")
    if start is None:
        return
    if days.get("end", date.max) <= start:
        yield "end", f"must be after the start, {start}: it is the first day after the last one"
    if days.get("anchor", date.min) > start:
        yield "anchor", f"must not be after the start, {start}"


def _overlaps(rows: Iterable[Json]) -> Iterator[tuple[Path, str]]:
    """Where two versions of one subscription would have the same day; a row may be no version at all."""
    spans: dict[str, list[tuple[date, date | None, int]]] = {}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or not isinstance(row.get("subscription"), str):
            continue
        first = _day(row.get("start"))
        if first is not None:
            span = (first, _day(row.get("end")), number)
            spans.setdefault(row["subscription"], []).append(span)
    for own in spans.values():
        for (start, end, _), (following, _, number) in pairwise(sorted(own, key=itemgetter(0))):
            if start == following or (end is not None and end > following):
                said = f"overlaps the version that begins on {start}"
                yield ("versions", number, "start"), said


def _day(text: Json) -> date | None:
    try:
        return date.fromisoformat(text)
    except (TypeError, ValueError):
        return None


def storable(text: str) -> bool:
    """Has it only characters that a database keeps?"""
    return not any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in text)


# --- changes ---


def put(
    now: Subscription, terms: Terms, today: date, places: Places = JSON, path: Path = ()
) -> Subscription:
    """With a version of these terms; the one that is in force on its first day ends there.

    The same terms again change nothing. A version that has not begun is replaced. Raises Conflict where
    the terms would say something else of days that another version has.
    """
    there = next((one for one in now.versions if one.start == terms.start), None)
    others = [one for one in now.versions if one is not there]
    before = max((one for one in others if one.start < terms.start), key=_start, default=None)
    after = min((one for one in others if one.start > terms.start), key=_start, default=None)
    made = _version(terms, there or before, goes_on=there is not None)
    if there is not None:
        same = replace(made, end=there.end) == there
        if same and terms.end in (None, there.end):
            return now
        if not same and there.start < today:
            raise _conflict(places, path, "start", _says_otherwise(there, made))
        if terms.end is None:
            made = replace(made, end=there.end)
    elif made.end is None and before is not None and before.covers(made.start):
        made = replace(made, end=before.end)
    if after is not None:
        if made.end is not None and made.end > after.start:
            raise _conflict(
                places, path, "end", f"overlaps the version that begins on {after.start}"
            )
        if made.end is None:
            made = replace(made, end=after.start)
    if there is not None and there.end is not None and there.end < today and made.end != there.end:
        raise _conflict(places, path, "end", f"is not {there.end}, and that day is over")
    if len(others) >= MOST_VERSIONS:
        raise _conflict(places, path, "start", f"is one of more than {MOST_VERSIONS} versions")
    closed = [
        replace(one, end=made.start) if one is before and one.covers(made.start) else one
        for one in others
    ]
    return replace(now, versions=tuple(sorted([*closed, made], key=_start)))


def end(now: Subscription, day: date, today: date) -> Subscription:
    """Ended before `day`: its first day without. Versions that would begin then or later never do.

    Raises Conflict where that would say something else of days that are over.
    """
    begun = [one for one in now.versions if one.start < day]
    late = [one for one in now.versions if one.start >= day]
    if not begun:
        first = f"begins on {now.versions[0].start}" if now.versions else "has no version"
        raise Conflict(
            f"subscription {now.subscription_id!r} {first}, so it cannot end on {day}; what was"
            " entered by mistake can be voided"
        )
    if late and late[0].start < today:
        raise Conflict(
            f"subscription {now.subscription_id!r} has a version that began on {late[0].start}"
        )
    last = begun[-1]
    if last.end == day and not late:
        return now
    if last.end not in (None, day) and last.end < today:
        raise Conflict(
            f"subscription {now.subscription_id!r} ended on {last.end}, and that day is over:"
            " enter a version that starts when it began again"
        )
    return replace(now, versions=(*begun[:-1], replace(last, end=day)))


def refund(now: Subscription, given: Refund) -> Subscription:
    """With a refund. The same again changes nothing. Raises Conflict, Invalid."""
    there = next((one for one in now.refunds if one.ref == given.ref), None)
    if there == given:
        return now
    if there is not None:
        raise Conflict(f"there is another refund {given.ref!r}, of {there.amount} on {there.day}")
    version = in_force(now, given.day)
    if version is None:
        raise Invalid(
            "the refund is not valid",
            [Fault("day", f"{given.day} is before the subscription's first day")],
        )
    digits = currency.exponent(version.currency) or 0
    if not given.amount or amortise.rounded(Fraction(given.amount), digits) != given.amount:
        said = f"must be more than 0, with at most {digits} digits after the point"
        raise Invalid("the refund is not valid", [Fault("amount", said)])
    refunds = sorted([*now.refunds, given], key=lambda one: (one.day, one.ref))
    return replace(now, refunds=tuple(refunds))


def void(now: Subscription) -> Subscription:
    """As if it had never been entered."""
    return replace(now, versions=(), refunds=())


def in_force(now: Subscription, day: date) -> Version | None:
    """The version of that day, or the last one before it."""
    return max((one for one in now.versions if one.start <= day), key=_start, default=None)


def _version(terms: Terms, model: Version | None, *, goes_on: bool) -> Version:
    """The terms with an anchor: its own, that of the version whose cycles it goes on with, or its start."""
    anchor = terms.anchor
    if anchor is None and model is not None and model.cycle == terms.cycle:
        continues = goes_on or model.end is None or model.end >= terms.start
        anchor = model.anchor if continues else None
    fields = msgspec.to_builtins(terms) | {"anchor": anchor or terms.start}
    return msgspec.convert(fields, Version)


def _start(version: Version) -> date:
    return version.start


def _says_otherwise(there: Version, made: Version) -> str:
    names = [
        name
        for name in there.__struct_fields__
        if name != "end" and getattr(there, name) != getattr(made, name)
    ]
    return (
        f"{there.start} has a version with another {', '.join(names)}, which has begun: a change starts"
        " on another day, and what was entered by mistake can be voided"
    )


def _conflict(places: Places, path: Path, field: str, said: str) -> Conflict:
    return Conflict("the subscription cannot be so", [fault(places, (*path, field), said)])
