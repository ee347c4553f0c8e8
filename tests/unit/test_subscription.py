"""Versions of a subscription: whatever is entered, they never overlap, and what was before stays."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.subscription import Refund, Subscription, Version, end, put, refund, void
from shared.errors import Conflict, Invalid
from tests.support.subscriptions import DAY, PAST, subscription, terms

FIRST = date(2026, 1, 1)
_days = st.integers(0, 60).map(lambda later: FIRST + later * DAY)
_seats = st.integers(1, 3)
_puts = st.tuples(st.just("put"), _days, st.none() | st.integers(1, 40), _seats)
_ends = st.tuples(st.just("end"), _days, st.none(), _seats)


def on(of: Subscription, before: date) -> list[tuple[int, ...] | None]:
    """What each day before that one has."""
    found: list[tuple[int, ...] | None] = []
    for number in range((before - FIRST).days):
        version = of.on(FIRST + number * DAY)
        found.append(None if version is None else (version.seats, version.anchor.toordinal()))
    return found


@given(st.lists(st.one_of(_puts, _ends), max_size=12), _days)
def test_whatever_is_entered_versions_never_overlap_and_days_before_it_stay(
    changes: list[tuple[str, date, int | None, int]], today: date
) -> None:
    now = Subscription(subscription_id="slack")
    for verb, day, length, seats in changes:
        last = None if length is None else day + length * DAY
        given_ = terms(start=day.isoformat(), end=last and last.isoformat(), seats=seats)
        try:
            after = put(now, given_, today) if verb == "put" else end(now, day, today)
        except Conflict:
            continue
        for number, (old, new) in enumerate(zip(on(now, day), on(after, day), strict=True)):
            # an end that is to come may be moved: to days that nothing was said of, and are not over
            assert old == new or (old is None and FIRST + number * DAY >= today)
        assert all(one.start < (one.end or date.max) for one in after.versions)
        assert all(one.end and one.end <= two.start for one, two in pairwise(after.versions))
        again = put(after, given_, today) if verb == "put" else end(after, day, today)
        assert again == after
        now = after


def test_a_version_that_has_begun_cannot_become_another_and_one_to_come_can() -> None:
    now = subscription({})
    with pytest.raises(Conflict) as caught:
        put(now, terms(seats=9), date(2026, 1, 16))
    assert "another seats, which has begun" in str(caught.value.faults[0])
    changed = put(now, terms(seats=9), date(2026, 1, 15))
    assert [one.seats for one in changed.versions] == [9]


@pytest.mark.parametrize(
    ("changes", "anchor"),
    [
        ({}, "2026-01-15"),  # the same cycle goes on
        ({"unit_price": "11", "currency": "EUR"}, "2026-01-15"),
        ({"cycle": "annual"}, "2026-03-01"),
        ({"anchor": "2026-02-20"}, "2026-02-20"),
    ],
)
def test_a_version_goes_on_with_the_cycles_before_it_or_begins_its_own(
    changes: dict[str, str], anchor: str
) -> None:
    now = put(subscription({}), terms(start="2026-03-01", **changes), PAST)
    assert str(now.versions[-1].anchor) == anchor


def test_after_a_gap_cycles_begin_anew() -> None:
    ended = end(subscription({}), date(2026, 2, 1), PAST)
    again = put(ended, terms(start="2026-03-01"), PAST)
    assert str(again.versions[-1].anchor) == "2026-03-01"


def test_a_change_within_a_contract_keeps_its_end() -> None:
    now = put(subscription({"end": "2027-01-15"}), terms(start="2026-06-01"), PAST)
    assert [str(one.end) for one in now.versions] == ["2026-06-01", "2027-01-15"]


def test_an_end_that_is_over_cannot_be_moved_and_one_to_come_can() -> None:
    now = end(subscription({}), date(2026, 3, 1), PAST)
    assert end(now, date(2026, 4, 1), date(2026, 3, 1)).versions[-1].end == date(2026, 4, 1)
    for day in (date(2026, 2, 1), date(2026, 4, 1)):
        with pytest.raises(Conflict, match="ended on 2026-03-01"):
            end(now, day, date(2026, 3, 2))


def test_an_end_takes_versions_that_have_not_begun_with_it() -> None:
    now = subscription({}, {"start": "2026-03-01"})
    assert [str(one.end) for one in end(now, date(2026, 2, 1), PAST).versions] == ["2026-02-01"]
    with pytest.raises(Conflict, match="began on 2026-03-01"):
        end(now, date(2026, 2, 1), date(2026, 3, 2))


def test_a_credit_note_is_entered_once_under_its_number() -> None:
    given_ = Refund(ref="CN-1", day=date(2026, 2, 1), amount=Decimal("5.50"), reason="")
    now = refund(subscription({}), given_)
    assert refund(now, given_) == now
    with pytest.raises(Conflict, match=r"another refund 'CN-1', of 5\.50"):
        refund(now, Refund(ref="CN-1", day=date(2026, 2, 1), amount=Decimal(6), reason=""))
    early = Refund(ref="CN-2", day=date(2026, 1, 14), amount=Decimal(5), reason="")
    with pytest.raises(Invalid):
        refund(now, early)


def test_void_it_has_nothing_and_can_be_entered_again() -> None:
    now = void(subscription({}))
    assert now == Subscription(subscription_id="slack")
    with pytest.raises(Conflict, match="has no version"):
        end(now, date(2026, 3, 1), PAST)
    again: tuple[Version, ...] = put(now, terms(), PAST).versions
    assert again == subscription({}).versions
