"""What a subscription costs a day: exact, the same whenever it is told, and never changed afterwards."""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core import amortise
from shared.core.cycle import Period, boundary, cycle_at, cycle_of
from shared.core.invoice import Kind, Line, lines
from shared.core.period import days
from shared.core.subscription import Refund, Subscription, end, put, refund
from tests.support.examples import examples
from tests.support.subscriptions import CYCLES, DAY, PAST, subscription, subscriptions, terms

HORIZON = date(2036, 1, 1)


def every(of: Subscription, last: date = HORIZON) -> list[Line]:
    return list(lines(of, PAST, last))


def costs(of: Subscription, first: date, last: date) -> dict[date, Decimal]:
    """What each day costs."""
    found = {day: Decimal(0) for day in days(first, last)}
    for line in lines(of, first, last):
        for day in found:
            found[day] += line.share(day)
    return found


def told(line: Line) -> tuple[Any, ...]:
    return line.kind.value, str(line.days.start), str(line.invoiced), line.amount


# --- the rule ---


@given(
    st.decimals("-1000000000000", "1000000000000", places=4, allow_nan=False),
    st.integers(1, 1900),
)
def test_the_days_of_an_amount_sum_to_it_and_differ_by_a_millionth_at_most(
    amount: Decimal, count: int
) -> None:
    shares = [amortise.share(amount, count, day) for day in range(count)]
    assert sum(map(Fraction, shares)) == Fraction(amount)
    assert max(shares) - min(shares) <= Decimal("0.000001")
    assert shares == [-share for share in (amortise.share(-amount, count, d) for d in range(count))]


@given(
    st.decimals("-1000000", "1000000", places=3, allow_nan=False), st.integers(1, 400), st.data()
)
def test_the_rest_is_what_the_days_from_then_on_would_have(
    amount: Decimal, count: int, data: st.DataObject
) -> None:
    day = data.draw(st.integers(0, count - 1))
    left = sum(amortise.share(amount, count, later) for later in range(day, count))
    assert amortise.share(amount, count, day, rest=True) == left


def test_an_amount_finer_than_a_millionth_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 6 digits"):
        amortise.share(Decimal("0.0000001"), 1, 0)


@given(st.decimals("-99999", "99999", places=6, allow_nan=False), st.sampled_from((0, 2, 3, 4)))
def test_half_a_unit_is_rounded_away_from_zero(amount: Decimal, digits: int) -> None:
    unit = Decimal(1).scaleb(-digits)
    assert amortise.rounded(Fraction(amount), digits) == amount.quantize(unit, ROUND_HALF_UP)


# --- cycles ---


@pytest.mark.parametrize(
    ("anchor", "cycle", "boundaries"),
    [
        ("2026-01-31", "monthly", ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]),
        ("2024-01-31", "monthly", ["2024-02-29", "2024-03-31"]),
        ("2024-02-29", "annual", ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]),
        ("2025-11-30", "quarterly", ["2026-02-28", "2026-05-30", "2026-08-30"]),
        ("2026-08-31", "semiannual", ["2027-02-28", "2027-08-31"]),
        ("2026-12-29", "weekly", ["2027-01-05", "2027-01-12"]),
        ("2026-01-31", "every 18 months", ["2027-07-31", "2029-01-31"]),
    ],
)
def test_cycles_begin_on_the_anchors_day_clamped_to_the_month_and_never_drift(
    anchor: str, cycle: str, boundaries: list[str]
) -> None:
    first, kind = date.fromisoformat(anchor), cycle_of(cycle)
    found = [boundary(first, kind, count) for count in range(1, len(boundaries) + 1)]
    assert [str(day) for day in found] == boundaries


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)), st.sampled_from(CYCLES), st.integers(0, 9000))
def test_every_day_lies_in_one_cycle(anchor: date, word: str, later: int) -> None:
    day, cycle = anchor + later * DAY, cycle_of(word)
    period = cycle_at(anchor, cycle, day)
    assert period.start <= day < period.end
    assert cycle_at(anchor, cycle, period.start) == period
    assert cycle_at(anchor, cycle, period.end).start == period.end


@pytest.mark.parametrize("word", ["", "daily", "every month", "every 0 months", "every 61 months"])
def test_what_is_no_cycle_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="no billing cycle"):
        cycle_of(word)


# --- lines ---


def test_a_month_is_spread_over_its_own_days() -> None:
    found = costs(subscription({"start": "2026-01-31"}), date(2026, 1, 31), date(2026, 3, 30))
    assert sum(found.values()) == 60  # 28 days to 28 February, then 31
    assert found[date(2026, 2, 27)] == Decimal("1.071429")
    assert found[date(2026, 2, 28)] == Decimal("0.967741")


def test_a_year_is_spread_over_365_or_366_days() -> None:
    yearly = subscription({"start": "2023-03-01", "cycle": "annual", "unit_price": "400"})
    for first, count in ((date(2023, 3, 1), 366), (date(2024, 3, 1), 365)):
        found = costs(yearly, first, first + (count - 1) * DAY)
        assert sum(found.values()) == 1200
        assert costs(yearly, first + count * DAY, first + count * DAY) != {}


def test_a_first_cycle_cut_short_is_invoiced_by_its_days_or_in_full() -> None:
    short = {"start": "2026-01-17", "anchor": "2026-01-01"}
    prorated, _ = every(subscription(short), date(2026, 2, 1))
    assert told(prorated) == ("cycle", "2026-01-17", "2026-01-17", Decimal("14.52"))  # 30 x 15/31
    in_full, _ = every(subscription({**short, "prorate_start": False}), date(2026, 2, 1))
    assert in_full.amount == 30
    for line in (prorated, in_full):
        assert line.days == Period(date(2026, 1, 17), date(2026, 2, 1))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("prorated", ("change", "2026-01-25", "2026-01-25", Decimal("13.55"))),  # 20 x 21/31
        ("at_cycle_end", ("change", "2026-01-25", "2026-02-15", Decimal("13.55"))),
        ("next_cycle", None),
    ],
)
def test_other_seats_in_the_middle_of_a_cycle_are_a_second_line(
    changes: str, expected: tuple[Any, ...] | None
) -> None:
    grown = subscription({}, {"start": "2026-01-25", "seats": 5, "changes": changes})
    found = [told(line) for line in every(grown, date(2026, 2, 15))]
    assert found == [
        ("cycle", "2026-01-15", "2026-01-15", Decimal(30)),
        *([expected] if expected else []),
        ("cycle", "2026-02-15", "2026-02-15", Decimal(50)),
    ]


def test_fewer_seats_are_a_line_that_gives_back() -> None:
    shrunk = subscription({}, {"start": "2026-01-25", "seats": 1})
    (change,) = (line for line in every(shrunk, date(2026, 2, 1)) if line.kind is Kind.CHANGE)
    assert change.amount == Decimal("-13.55")
    assert change.share(date(2026, 2, 1)) < 0


@pytest.mark.parametrize(
    ("policy", "billed", "on_the_end", "after"),
    [
        ("refund_prorated", "9.68", "0.002581", "0"),  # 30 - 20.32; of 10 days 9.677419 were spread
        ("no_refund_stop", "30", "20.322581", "0"),
        ("no_refund_keep_access", "30", "0.967742", "0.967742"),
    ],
)
def test_an_end_in_the_middle_of_a_cycle_is_what_the_policy_says(
    policy: str, billed: str, on_the_end: str, after: str
) -> None:
    ended = end(subscription({"cancel_policy": policy}), date(2026, 1, 25), PAST)
    found = costs(ended, date(2026, 1, 15), date(2026, 2, 20))
    assert sum(line.amount for line in every(ended)) == Decimal(billed)
    assert sum(found.values()) == Decimal(billed)
    assert found[date(2026, 1, 24)] == Decimal("0.967742")
    assert found[date(2026, 1, 25)] == Decimal(on_the_end)
    assert found[date(2026, 1, 26)] == Decimal(after)
    assert found[date(2026, 2, 15)] == 0


def test_what_is_given_back_in_a_later_month_corrects_an_invoice_of_an_earlier_one() -> None:
    policy = {"cancel_policy": "refund_prorated"}
    for day, corrects in ((date(2026, 1, 25), False), (date(2026, 2, 2), True)):
        (cancel,) = (
            line for line in every(end(subscription(policy), day, PAST)) if line.kind is Kind.CANCEL
        )
        assert (cancel.invoiced, cancel.corrects) == (day, corrects)


def test_another_plan_ends_the_cycle_of_the_old_one_and_begins_its_own() -> None:
    upgraded = subscription(
        {"plan": "Pro", "cancel_policy": "refund_prorated"},
        {"start": "2026-01-25", "plan": "Team", "unit_price": "20"},
    )
    assert [told(line) for line in every(upgraded, date(2026, 2, 15))] == [
        ("cycle", "2026-01-15", "2026-01-15", Decimal(30)),
        ("cancel", "2026-01-25", "2026-01-25", Decimal("-20.32")),
        ("cycle", "2026-01-25", "2026-01-25", Decimal("40.65")),  # 60 x 21/31, to the old boundary
        ("cycle", "2026-02-15", "2026-02-15", Decimal(60)),
    ]


def test_a_free_plan_costs_nothing_and_is_there() -> None:
    (line,) = every(subscription({"unit_price": "0"}), date(2026, 1, 20))
    assert line.falls_on(date(2026, 1, 20))
    assert line.amount == line.share(date(2026, 1, 20)) == 0


def test_a_credit_note_lowers_what_is_left_of_the_cycle() -> None:
    credit = Refund(ref="CN-1", day=date(2026, 2, 5), amount=Decimal(10), reason="outage")
    found = costs(refund(subscription({}), credit), date(2026, 1, 15), date(2026, 2, 14))
    assert found[date(2026, 2, 4)] == Decimal("0.967742")
    assert found[date(2026, 2, 5)] == Decimal("-0.032258")
    assert sum(found.values()) == 20


def test_a_credit_note_after_the_end_is_of_its_own_day() -> None:
    ended = end(subscription({}), date(2026, 2, 15), PAST)
    credit = Refund(ref="CN-1", day=date(2026, 4, 1), amount=Decimal(30), reason="")
    (line,) = (one for one in every(refund(ended, credit)) if one.kind is Kind.REFUND)
    assert (line.days.days, line.corrects) == (1, True)
    assert line.share(date(2026, 4, 1)) == -30


@pytest.mark.parametrize(
    ("currency", "amount"), [("JPY", "11"), ("USD", "10.50"), ("KWD", "10.500")]
)
def test_an_invoice_has_the_digits_of_its_currency(currency: str, amount: str) -> None:
    (line,) = every(
        subscription({"currency": currency, "unit_price": "10.5", "seats": 1}), date(2026, 1, 20)
    )
    assert str(line.amount) == amount


# --- whatever is entered ---


@settings(max_examples=examples(50))
@given(subscriptions(ends=True))
def test_each_line_sums_to_its_invoice_and_each_cycle_to_its_lines(of: Subscription) -> None:
    billed: dict[Any, Decimal] = defaultdict(Decimal)
    spread: dict[Any, Decimal] = defaultdict(Decimal)
    found = every(of)
    for line in found:
        shares = [line.share(day) for day in days(line.days.start, line.days.end)]
        assert sum(shares) == line.amount
        listed = [line.list_share(day) for day in days(line.days.start, line.days.end)]
        assert sum(listed) == line.list_amount
        billed[line.cycle] += line.amount
        spread[line.cycle] += sum(shares)
    assert billed == spread
    assert len({line.line_id for line in found}) == len(found)


@settings(max_examples=examples(50))
@given(subscriptions(), st.integers(0, 900), st.integers(0, 60))
def test_a_day_is_the_same_in_whatever_days_it_is_told(
    of: Subscription, later: int, count: int
) -> None:
    first = of.versions[0].start + later * DAY
    last = first + count * DAY
    alone = {(line, day) for day in days(first, last) for line in lines(of, day, day)}
    together = {
        (line, day)
        for line in lines(of, first, last)
        for day in days(first, last)
        if line.falls_on(day) or line.invoiced == day
    }
    assert alone == together


@settings(max_examples=examples(50))
@given(subscriptions(ends=False), st.integers(1, 400), st.integers(1, 99), st.data())
def test_what_is_entered_later_touches_no_day_before_it(
    of: Subscription, later: int, seats: int, data: st.DataObject
) -> None:
    last = of.versions[-1]
    day = last.start + later * DAY
    what = data.draw(st.sampled_from(("price", "plan", "end", "refund")))
    match what:
        case "end":
            changed = end(of, day, day)
        case "refund":
            given = Refund(ref="late", day=day, amount=Decimal(3), reason="")
            changed = refund(of, given)
        case _:
            new = terms(
                start=day.isoformat(),
                currency=last.currency,
                cycle=last.cycle,
                plan=last.plan if what == "price" else "another",
                unit_price="1234.5",
                seats=seats,
            )
            changed = put(of, new, day)
    first = max(of.versions[0].start, day - 400 * DAY)
    assert costs(changed, first, day - DAY) == costs(of, first, day - DAY)
    before = [line for line in lines(of, first, day - DAY) if line.invoiced < day]
    after = [line for line in lines(changed, first, day - DAY) if line.invoiced < day]
    assert [line.amount for line in before] == [line.amount for line in after]
