"""Subscriptions for tests: terms with few words, and random ones."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from shared.core.subscription import (
    CancelPolicy,
    Changes,
    Refund,
    Subscription,
    Terms,
    end,
    put,
    refund,
)
from shared.core.typed import from_json

DAY = timedelta(days=1)
PAST = date(2000, 1, 1)  # a today on which nothing has begun
CYCLES = (
    "weekly",
    "monthly",
    "quarterly",
    "semiannual",
    "annual",
    "every 2 months",
    "every 18 months",
)
CURRENCIES = ("USD", "EUR", "JPY", "KWD")


def fields(**changes: Any) -> dict[str, Any]:
    """Terms as JSON would have them."""
    return {
        "vendor": "Slack",
        "product": "Slack",
        "category": "Business Applications",
        "currency": "USD",
        "cycle": "monthly",
        "unit_price": "10.00",
        "seats": 3,
        "start": "2026-01-15",
        **changes,
    }


def terms(**changes: Any) -> Terms:
    return from_json(fields(**changes), Terms)


def subscription(*versions: dict[str, Any], name: str = "slack") -> Subscription:
    """With a version of each of these terms, entered in that order."""
    made = Subscription(subscription_id=name)
    for version in versions:
        made = put(made, terms(**version), PAST)
    return made


_days = st.dates(date(2019, 1, 1), date(2029, 1, 1))
_prices = st.decimals("0", "99999", places=3, allow_nan=False)


@st.composite
def subscriptions(draw: st.DrawFn, *, ends: bool | None = None) -> Subscription:
    """Any: with changes, gaps, other plans, an end, refunds."""
    start = draw(_days)
    given: dict[str, Any] = {
        "start": start.isoformat(),
        "cycle": draw(st.sampled_from(CYCLES)),
        "currency": draw(st.sampled_from(CURRENCIES)),
        "prorate_start": draw(st.booleans()),
        "anchor": draw(st.none() | st.dates(start - 400 * DAY, start).map(date.isoformat)),
    }
    made = Subscription(subscription_id="slack")
    for _ in range(draw(st.integers(1, 4))):
        price, seats = draw(_prices), draw(st.integers(1, 500))
        given |= {
            "unit_price": str(price),
            "seats": seats,
            "discount": str(
                (price * seats * draw(st.sampled_from((0, 1, 3, 10))) / 10).quantize(
                    Decimal("0.001")
                )
            ),
            "changes": draw(st.sampled_from(Changes)).value,
            "cancel_policy": draw(st.sampled_from(CancelPolicy)).value,
        }
        if draw(st.integers(0, 4)) == 0:
            given["plan"] = draw(st.sampled_from(("Pro", "Team")))
        made = put(made, terms(**given), PAST)
        start += draw(st.integers(1, 90)) * DAY
        given |= {"start": start.isoformat(), "anchor": None}
    if draw(st.booleans()) if ends is None else ends:
        made = end(made, start + draw(st.integers(0, 500)) * DAY, PAST)
    for number in range(draw(st.integers(0, 2))):
        day = made.versions[0].start + draw(st.integers(0, 200)) * DAY
        made = refund(
            made,
            Refund(
                ref=f"CN-{number}", day=day, amount=Decimal(draw(st.integers(1, 999))), reason=""
            ),
        )
    return made
