from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from shared.core.coverage import Day, Due, Held, Source, State, gaps, spans
from shared.core.dates import Dates
from shared.core.period import Unit, days, end_of
from shared.core.spec import Coverage

NOVEMBER = Dates(date(2026, 11, 1), date(2026, 11, 30))
WEEK = timedelta(days=7)
TABLES = ("raw", "costs")


def at(day: int, hour: int = 6, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, tzinfo=UTC)


def rule(**changes: Any) -> Coverage:
    fields: dict[str, Any] = {"tables": ("raw",), "unit": Unit.MONTH, "final_after_days": 15}
    return Coverage(**(fields | changes))


def made(source_at: datetime, looked_at: datetime | None = None, rows: int = 1) -> Held:
    looked_at = looked_at or source_at
    return Held(rows, source_at, looked_at, looked_at + timedelta(minutes=1))


def month(*held: Held, **changes: Any) -> Source:
    """November, as its tables hold it."""
    of = rule(**changes)
    first = NOVEMBER.start
    return Source(rule=of, held={(t, first): h for t, h in zip(of.tables, held, strict=False)})


def states(source: Source, now: datetime, asked: Dates = NOVEMBER) -> str:
    """A letter a day: Final, Loaded, Empty, Missing, Pending, Outside."""
    known = source.days(asked, now).values()
    return "".join("F" if day.final else day.state.value[0].upper() for day in known)


# -- a month


def test_before_any_load_a_day_is_missing_once_it_is_expected() -> None:
    assert states(month(), at(10)) == states(month(), at(10, 0)) == "M" * 8 + "P" * 22
    assert states(month(), at(9, 23)) == "M" * 7 + "P" * 23
    assert states(month(expected_after_days=0), at(10)) == "M" * 9 + "P" * 21


def test_a_month_is_loaded_as_far_as_its_delivery_reaches() -> None:
    source = month(made(at(10, 13)))
    assert states(source, at(10, 14)) == "L" * 9 + "P" * 21
    assert states(source, at(14)) == "L" * 9 + "MMM" + "P" * 18
    assert states(month(made(at(10, 0))), at(10)) == "L" * 9 + "P" * 21


def test_looking_again_at_an_old_delivery_makes_no_day_of_it() -> None:
    assert states(month(made(at(10), looked_at=at(20))), at(20)) == "L" * 9 + "M" * 9 + "P" * 12


def test_a_month_is_final_when_it_was_looked_at_after_its_close() -> None:
    early, late = at(15, month=12), at(16, 0, month=12)
    assert states(month(made(at(1, month=12), early)), at(20, month=12)) == "L" * 30
    assert states(month(made(at(1, month=12), late)), at(20, month=12)) == "F" * 30
    waited = Held(1, source_at=late, run_created_at=early, committed_at=at(17, month=12))
    assert states(month(waited), at(20, month=12)) == "F" * 30


def test_a_month_that_was_not_seen_to_its_end_is_never_final() -> None:
    source = month(made(at(20), looked_at=at(31, month=12)))
    assert states(source, at(31, month=12)) == "L" * 19 + "M" * 11


def test_an_empty_month_is_no_gap() -> None:
    assert states(month(made(at(16, month=12), rows=0)), at(20, month=12)) == "F" * 30
    empty = month(made(at(2, month=12), rows=0)).days(NOVEMBER, at(20, month=12))
    assert set(empty.values()) == {Day(State.EMPTY)}
    one_has_rows = month(made(at(2, month=12), rows=0), made(at(2, month=12)), tables=TABLES)
    assert states(one_has_rows, at(20, month=12)) == "L" * 30


def test_a_day_is_loaded_when_every_table_has_it() -> None:
    raw, costs = made(at(10)), made(at(5))
    source = month(raw, costs, tables=TABLES)
    assert states(source, at(10)) == "LLLL" + "MMMM" + "P" * 22
    known = source.days(NOVEMBER, at(10))
    assert known[date(2026, 11, 5)].lacking == ("costs",)
    assert month(raw, tables=TABLES).days(NOVEMBER, at(10))[NOVEMBER.start].lacking == ("costs",)
    assert month(tables=TABLES).days(NOVEMBER, at(10))[NOVEMBER.start].lacking == TABLES


def test_the_table_that_was_looked_at_first_decides_what_is_final() -> None:
    late, early = made(at(20, month=12)), made(at(10, month=12))
    for tables in ((late, early), (early, late)):
        source = month(*tables, tables=TABLES)
        assert states(source, at(20, month=12)) == "L" * 30
        (due,) = source.due(NOVEMBER, at(20, month=12), WEEK)
        assert due.looked_at == at(10, month=12)
    assert states(month(late, late, tables=TABLES), at(20, month=12)) == "F" * 30


def test_a_clock_that_is_ahead_reaches_no_day_that_has_not_ended() -> None:
    ahead = Held(1, at(25), at(10), at(10, 7))
    assert states(month(ahead), at(10, 8)) == "L" * 9 + "P" * 21


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2024, 2, 1), date(2024, 2, 29)),
        (date(2023, 2, 1), date(2023, 2, 28)),
        (date(2026, 12, 1), date(2026, 12, 31)),
    ],
)
def test_a_month_has_the_days_of_the_calendar(first: date, last: date) -> None:
    close = end_of(last) + timedelta(days=15)
    source = Source(rule=rule(), held={("raw", first): made(close)})
    around = Dates(first - timedelta(days=1), last + timedelta(days=1))
    known = spans(source.days(around, close + timedelta(days=9)))
    assert [(span.start, span.end, span.day.final) for span in known] == [
        (around.start, around.start, False),
        (first, last, True),
        (around.end, around.end, False),
    ]


# -- days


def daily(*loaded: tuple[int, Held], **changes: Any) -> Source:
    of = rule(unit=Unit.DAY, final_after_days=3, **changes)
    return Source(rule=of, held={("raw", date(2026, 11, day)): held for day, held in loaded})


def test_a_day_is_loaded_by_itself() -> None:
    source = daily((1, made(at(2))), (2, made(at(3), rows=0)), (4, made(at(5))))
    assert states(source, at(6), Dates(NOVEMBER.start, date(2026, 11, 6))) == "LEMLPP"


def test_a_day_that_was_loaded_before_it_ended_is_not_loaded() -> None:
    one = Dates(date(2026, 11, 5), date(2026, 11, 5))
    assert states(daily((5, made(at(5, 23)))), at(5, 23), one) == "P"
    assert states(daily((5, made(at(5, 23)))), at(7), one) == "M"
    assert states(daily((5, made(at(5, 23), looked_at=at(6, 1)))), at(7), one) == "L"


def test_a_day_is_final_when_it_was_looked_at_late_enough() -> None:
    one = Dates(date(2026, 11, 5), date(2026, 11, 5))
    assert states(daily((5, made(at(8, 23)))), at(20), one) == "L"
    assert states(daily((5, made(at(9, 0)))), at(20), one) == "F"
    # an export's partition that never changed again, but was asked for
    assert states(daily((5, made(at(5), looked_at=at(9)))), at(20), one) == "F"


# -- who is expected to load


def test_nothing_is_expected_before_the_first_day_or_of_what_is_out_of_use() -> None:
    asked = Dates(NOVEMBER.start, date(2026, 11, 5))
    held = daily((1, made(at(2)))).held
    of = rule(unit=Unit.DAY)
    starts = Source(rule=of, held=held, first_day=date(2026, 11, 4))
    assert states(starts, at(20), asked) == "LOOMM"
    assert states(Source(rule=of, held=held, in_use=False), at(20), asked) == "LOOOO"
    assert Source(rule=of, held=held, in_use=False).due(asked, at(20), WEEK) == []
    assert Source(rule=of, held=held, first_day=date(2026, 11, 4)).due(asked, at(20), WEEK) == []


# -- what is due


def test_a_month_is_due_when_a_look_would_make_it_final() -> None:
    source = month(made(at(10, month=12)))
    assert source.due(NOVEMBER, at(15, month=12), WEEK) == []
    assert source.due(NOVEMBER, at(16, 0, month=12), WEEK) == [Due(*NOVEMBER, at(10, month=12))]
    assert month(made(at(16, month=12))).due(NOVEMBER, at(31, month=12), WEEK) == []


def test_a_month_is_due_when_nobody_has_looked_for_long() -> None:
    source = month(made(at(2, month=12)))
    assert source.due(NOVEMBER, at(9, 5, month=12), WEEK) == []
    assert source.due(NOVEMBER, at(9, 6, month=12), WEEK) == [Due(*NOVEMBER, at(2, month=12))]


def test_what_is_missing_or_has_not_ended_is_not_due() -> None:
    assert month().due(NOVEMBER, at(20, month=12), WEEK) == []
    assert month(made(at(10))).due(NOVEMBER, at(29), WEEK) == []
    assert month(made(at(10))).due(NOVEMBER, at(20, month=12), WEEK) == []


def test_days_in_a_row_are_due_together_with_the_oldest_look() -> None:
    source = daily((1, made(at(3))), (2, made(at(4))), (4, made(at(5))), (6, made(at(20))))
    asked = Dates(NOVEMBER.start, date(2026, 11, 10))
    assert source.due(asked, at(20), WEEK) == [
        Due(date(2026, 11, 1), date(2026, 11, 2), at(3)),
        Due(date(2026, 11, 4), date(2026, 11, 4), at(5)),
    ]


def test_a_gap_is_one_range_whatever_table_lacks_it() -> None:
    source = month(made(at(10)), made(at(5)), tables=TABLES)
    asked = Dates(date(2026, 11, 3), date(2026, 11, 20))
    assert gaps(spans(source.days(asked, at(20)))) == [Dates(date(2026, 11, 5), date(2026, 11, 18))]


# -- for every history


FIRST = date(2026, 1, 1)
TIMES = st.timedeltas(timedelta(0), timedelta(days=120)).map(lambda after: at(1, month=1) + after)


@st.composite
def histories(draw: st.DrawFn) -> Source:
    of = rule(
        tables=draw(st.sampled_from([("raw",), TABLES])),
        unit=draw(st.sampled_from(Unit)),
        final_after_days=draw(st.integers(0, 40)),
        expected_after_days=draw(st.integers(0, 4)),
    )
    units = of.unit.firsts(FIRST, FIRST + timedelta(days=60))
    keys = st.tuples(st.sampled_from(of.tables), st.sampled_from(units))
    return Source(
        rule=of,
        held=draw(st.dictionaries(keys, loads(), max_size=30)),
        first_day=draw(st.none() | st.dates(FIRST, date(2026, 3, 1))),
        in_use=draw(st.sampled_from([True, True, True, False])),
    )


@st.composite
def loads(draw: st.DrawFn) -> Held:
    created = draw(TIMES)
    committed = created + draw(st.timedeltas(timedelta(0), timedelta(hours=9)))
    return Held(draw(st.sampled_from([0, 5])), draw(TIMES), created, committed)


ASKED = st.builds(
    lambda start, length: Dates(start, start + timedelta(days=length)),
    st.dates(FIRST, date(2026, 3, 1)),
    st.integers(0, 70),
)


@given(histories(), ASKED, TIMES)
def test_every_day_is_in_one_span_and_gaps_are_what_is_missing(
    source: Source, asked: Dates, now: datetime
) -> None:
    known = source.days(asked, now)
    assert list(known) == days(asked.start, asked.end)
    told = spans(known)
    assert [day for span in told for day in days(span.start, span.end)] == list(known)
    assert all(one.day != two.day for one, two in pairwise(told))
    missing = {day for gap in gaps(told) for day in days(*gap)}
    assert missing == {day for day, what in known.items() if what.state is State.MISSING}
    for day, what in known.items():
        assert bool(what.lacking) == (what.state is State.MISSING)
        if what.final:
            assert what.state in (State.LOADED, State.EMPTY)
            assert end_of(day) <= max(held.committed_at for held in source.held.values())
    whole = source.days(Dates(asked.start, asked.start), now)
    assert whole == {asked.start: known[asked.start]}


@given(histories(), ASKED, TIMES, TIMES)
def test_time_alone_loads_nothing_and_takes_nothing_away(
    source: Source, asked: Dates, one: datetime, other: datetime
) -> None:
    now, later = sorted((one, other))
    after = source.days(asked, later)
    for day, what in source.days(asked, now).items():
        if what.state is State.PENDING:
            assert after[day].state in (State.PENDING, State.MISSING)
        else:
            assert after[day] == what


@given(histories(), ASKED, TIMES, st.data())
def test_a_newer_load_makes_no_day_worse(
    source: Source, asked: Dates, now: datetime, data: st.DataObject
) -> None:
    """Newer as the fence has it, by a younger run: a source that is older loads nothing at all."""
    assume(source.held)
    key = data.draw(st.sampled_from(sorted(source.held)))
    later = [data.draw(st.timedeltas(timedelta(0), timedelta(days=60))) for _ in range(3)]
    before = source.held[key]
    newer = Held(
        data.draw(st.sampled_from([0, 5])),
        before.source_at + later[0],
        before.run_created_at + later[1],
        before.committed_at + later[1] + later[2],
    )
    after = Source(
        rule=source.rule,
        held={**source.held, key: newer},
        first_day=source.first_day,
        in_use=source.in_use,
    ).days(asked, now)
    for day, what in source.days(asked, now).items():
        if what.state in (State.LOADED, State.EMPTY):
            assert after[day].state in (State.LOADED, State.EMPTY)
            assert after[day].final >= what.final


@given(histories(), ASKED, TIMES, st.timedeltas(timedelta(0), timedelta(days=30)))
def test_what_is_due_is_loaded_and_provisional(
    source: Source, asked: Dates, now: datetime, older_than: timedelta
) -> None:
    for due in source.due(asked, now, older_than):
        inside = source.days(Dates(due.start, due.end), now)
        assert {what.state for what in inside.values()} <= {State.LOADED, State.EMPTY}
        assert not any(what.final for what in inside.values())
        assert due.end >= asked.start
        assert due.start <= asked.end
