from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, UnsetType

from shared.core.places import UNREAD, Path
from shared.core.record import Json, Record
from shared.core.typed import check, from_json, from_texts
from shared.errors import Invalid
from tests.support.examples import examples


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Inner(Record, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=1, le=10)]
    ratio: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    since: date | None = None


class Square(Record, frozen=True, kw_only=True, tag_field="kind", tag="square"):
    side: int


class Circle(Record, frozen=True, kw_only=True, tag_field="kind", tag="circle"):
    radius: int


class Outer(Record, frozen=True, kw_only=True):
    name: Annotated[str, Meta(pattern="^[a-z]+$", min_length=2, max_length=5)]
    colour: Colour = Colour.RED
    size: Literal["s", "m", 3] = "s"
    inner: Inner | None = None
    either: str | Inner = ""
    several: Annotated[tuple[Inner, ...], Meta(max_length=2)] = ()
    table: dict[Annotated[str, Meta(pattern="^x")], int] = {}
    flag: bool = False
    anything: Json = None
    left_out: tuple[str, ...] | UnsetType = UNSET
    amount: Decimal = Decimal(0)
    at: datetime | None = None
    wait: timedelta | None = None
    shape: Square | Circle | None = None


class Span(Record, frozen=True, kw_only=True):
    first: int
    last: int

    @classmethod
    def contradictions(cls, given: Mapping[str, Json]) -> Iterable[tuple[Path, str]]:
        if "first" in given and "last" in given and given["last"] < given["first"]:
            yield ("last",), "is before the first"


class Spans(Record, frozen=True, kw_only=True):
    spans: tuple[Span, ...]


class Pair(Record, frozen=True, kw_only=True):
    low: int
    high: int

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


def faults(value: object, kind: type = Outer, *, templates: bool = False) -> list[str]:
    return [str(fault) for fault in check(value, kind, templates=templates)]


def test_a_value_that_fits_becomes_the_record() -> None:
    assert from_json(
        {
            "name": "abc",
            "colour": "green",
            "size": 3,
            "inner": {"count": 2, "since": "2026-01-31"},
            "either": {"count": 1},
            "several": [{"count": 1}],
            "table": {"x": 1},
            "amount": "1.10",
            "shape": {"kind": "circle", "radius": 1},
        },
        Outer,
    ) == Outer(
        name="abc",
        colour=Colour.GREEN,
        size=3,
        inner=Inner(count=2, since=date(2026, 1, 31)),
        either=Inner(count=1),
        several=(Inner(count=1),),
        table={"x": 1},
        amount=Decimal("1.10"),
        shape=Circle(radius=1),
    )


def test_all_faults_are_told_at_once_each_with_its_path() -> None:
    value = {
        "nam": "abc",
        "colour": "gren",
        "size": "l",
        "inner": {"count": 11, "ratio": 1, "since": "31.01.2026"},
        "either": 5,
        "several": [{"count": 0}, {}, {"count": True}],
        "table": {"y": 1, "x": "one"},
        "flag": "yes",
        "left_out": None,
        "amount": "ten",
        "at": "noon",
        "wait": 5,
        "shape": {"kind": "triangle"},
    }
    assert faults(value) == [
        (
            "nam is not a known key (did you mean 'name'?); known: name, colour, size, inner, either,"
            " several, table, flag, anything, left_out, amount, at, wait, shape"
        ),
        "colour must be one of red, green; not this one (did you mean 'green'?)",
        "size must be one of 3, m, s; not this one",
        "inner.count must be at most 10, not 11",
        "inner.ratio must be less than 1, not 1",
        "inner.since must be a day like 2026-01-31",
        "either must be a text or a mapping, not a whole number: quote it",
        "several has 3 entries, at most 2 are allowed",
        "several[0].count must be at least 1, not 0",
        "several[1].count is missing",
        "several[2].count must be a whole number, not true",
        "table.y is no valid key: it must match ^x",
        "table.x must be a whole number, not a text",
        "flag must be true or false, not a text",
        "left_out must be a list, not empty",
        "amount must be a number",
        "at must be a time like 2026-01-31T06:00:00Z",
        "wait must be a duration like PT30M, not a whole number",
        "shape.kind is none of them; allowed: circle, square",
        "name is missing",
    ]
    with pytest.raises(Invalid, match="the body has 20 faults"):
        from_json(value, Outer)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("", "name must have at least 2 characters"),
        ("abcdef", "name has 6 characters, at most 5 are allowed"),
        ("AB", "name must match ^[a-z]+$"),
        ("ab\n", "name must match ^[a-z]+$"),
        (12, "name must be a text, not a whole number: quote it"),
        (None, "name must be a text, not empty"),
    ],
)
def test_a_text_keeps_to_its_limits(name: object, fault: str) -> None:
    assert faults({"name": name})[-1] == fault


@pytest.mark.parametrize(
    ("inner", "fits"),
    [
        ({"count": 1}, True),
        ({"count": 10}, True),
        ({"count": 0}, False),
        ({"count": 11}, False),
        ({"count": 1, "ratio": 0.001}, True),
        ({"count": 1, "ratio": 0}, False),
        ({"count": 1, "ratio": 0.999}, True),
        ({"count": 1, "ratio": 1}, False),
    ],
)
def test_a_limit_is_allowed_or_not_as_it_says(inner: dict[str, Any], fits: bool) -> None:
    assert (faults(inner, Inner) == []) is fits


@pytest.mark.parametrize("value", [None, [], "text", 5])
def test_what_is_no_mapping_is_one_fault(value: object) -> None:
    assert len(faults(value)) == 1


def test_a_fault_of_a_request_does_not_repeat_its_texts() -> None:
    secret = "hunter2hunter2"
    value = {"name": secret, "colour": secret, "size": secret, "either": [secret], "at": secret}
    assert secret not in " ".join(faults(value))


def test_a_text_that_is_one_template_stands_for_anything_at_load() -> None:
    value = {
        "name": "{name}",
        "colour": "${colour}",
        "inner": "{inner}",
        "several": "{several}",
        "flag": "{flag}",
        "amount": "{amount}",
    }
    assert faults(value, templates=True) == []
    assert {fault.split()[0] for fault in faults(value)} == set(value)


def test_a_template_inside_a_text_stands_for_texts_only() -> None:
    value = {"name": "x-{name}", "colour": "{a}{b}", "at": "{day}T00:00:00Z", "flag": "{a}{b}"}
    assert faults(value, templates=True) == ["flag must be true or false, not a text"]


def test_a_template_without_quotes_is_told_to_have_them() -> None:
    assert faults({"name": {"days": None}}, templates=True) == [
        'name must be a text, not a mapping: a template must be quoted: "{days}"'
    ]


def test_a_value_with_a_fault_already_gets_no_second_one() -> None:
    assert faults({"name": UNREAD, "inner": {"count": UNREAD}, "several": [UNREAD]}) == []


def test_the_last_word_is_the_type_itself() -> None:
    assert faults({"low": 2, "high": 1}, Pair) == ["is not valid: low is above high"]
    pair = {"low": 2, "high": 1}
    assert faults({"pair": pair}, dict[str, Pair]) == ["is not valid: low is above high"]
    assert faults([pair], tuple[Pair, ...]) == ["[0] is not valid: low is above high"]


def test_a_value_of_faults_is_not_reported_without_end() -> None:
    assert len(faults({f"key{n}": n for n in range(1000)})) == 100


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "abc", "red", "s", "ab\n", "2026-01-31", "1.5", "{x}", "circle"])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [*Outer.__struct_fields__, *Inner.__struct_fields__, "kind", "xa", "zz"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def nearly(kind: type) -> st.SearchStrategy[Any]:
    """Mappings that look like the record, so that many of them fit."""
    return st.fixed_dictionaries(
        {"name": st.sampled_from(["abc", "ab", "AB", 1])},
        optional={
            "colour": st.sampled_from(["red", "blue", 1]),
            "size": st.sampled_from(["s", 3, 3.0, True, "3"]),
            "inner": st.none() | st.fixed_dictionaries({"count": st.integers(0, 11)}),
            "either": st.text(max_size=2) | st.fixed_dictionaries({"count": st.integers(0, 2)}),
            "table": st.dictionaries(st.sampled_from(["x", "xy", "y"]), st.integers(), max_size=2),
            "flag": st.booleans() | st.integers(0, 1),
            "left_out": st.none() | st.lists(st.text(max_size=2), max_size=2),
            "amount": st.sampled_from(["1.5", 1, 1.5, "x", True, ""]),
            "at": st.sampled_from(["2026-01-31T00:00:00Z", "2026-01-31", None]),
            "shape": st.sampled_from([{"kind": "circle", "radius": 1}, {"radius": 1}, None]),
        },
    )


@settings(max_examples=examples(300))
@given(plain | nearly(Outer))
def test_the_walk_and_msgspec_agree_on_what_fits(value: Any) -> None:
    found = check(value, Outer)
    try:
        msgspec.convert(value, Outer)
    except msgspec.ValidationError:
        assert found
    else:
        # stricter than msgspec in one thing: `$` does not match before a last line feed
        assert not found or "ab\n" in repr(value).replace("\\n", "\n")
    assert not any("is not valid: Expected" in str(fault) for fault in found)


@given(plain)
def test_templates_only_ever_excuse(value: Any) -> None:
    strict, trusting = check(value, Outer), check(value, Outer, templates=True)
    assert len(trusting) <= len(strict)


class Asked(Record, frozen=True, kw_only=True):
    limit: Annotated[int, Meta(ge=1, le=200)] = 50
    whole: bool = False
    since: datetime | None = None
    colour: Colour | None = None
    word: str | None = None


def test_texts_are_read_as_what_they_are_meant_to_be() -> None:
    texts = {"limit": "7", "whole": "true", "since": "2026-01-31", "colour": "red", "word": "7"}
    asked = from_texts(texts, Asked, what="the query")
    assert (asked.limit, asked.whole, asked.colour, asked.word) == (7, True, Colour.RED, "7")
    assert asked.since == datetime(2026, 1, 31, tzinfo=UTC)
    assert from_texts({}, Asked, what="the query") == Asked()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", ""),
        ("limit", "1.0"),
        ("limit", "٣"),
        ("limit", "9" * 5000),
        ("whole", "True"),
        ("whole", "1"),
        ("since", "soon"),
        ("since", "2026-02-30"),
        ("colour", "blue"),
        ("wrod", "x"),
    ],
)
def test_a_text_that_means_nothing_is_a_fault_at_its_name(name: str, text: str) -> None:
    with pytest.raises(Invalid, match="the query has a fault") as refused:
        from_texts({name: text}, Asked, what="the query")
    assert [fault.where for fault in refused.value.faults] == [name]


@pytest.mark.parametrize(
    ("span", "faults"),
    [
        ({"first": 1, "last": 2}, []),
        ({"first": 2, "last": 1}, ["spans[0].last is before the first"]),
        ({"first": "a", "last": 1}, ["spans[0].first must be a whole number, not a text"]),
        ({"last": 1}, ["spans[0].first is missing"]),
    ],
)
def test_what_a_record_says_of_its_fields_together_is_told_with_the_rest(
    span: dict[str, object], faults: list[str]
) -> None:
    told = check({"spans": [span, {"first": 5, "last": 4}]}, Spans)
    assert [str(fault) for fault in told] == [*faults, "spans[1].last is before the first"]
