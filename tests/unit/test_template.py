from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.secret import Secret
from shared.core.template import check_templates, escape, names_in, parse, resolve
from shared.errors import Invalid

VARIABLES: dict[str, Any] = {
    "org_slug": "acme",
    "days": 30,
    "ratio": 0.5,
    "on": True,
    "none": None,
    "tables": ["a", "b"],
    "tricky": "{org_slug} ${days} }}{{",
}

texts = st.text("{}$ab_ ", max_size=20) | st.text(max_size=20)
values = st.recursive(
    texts | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


def escaped(value: Any) -> Any:
    match value:
        case str():
            return escape(value)
        case list():
            return [escaped(inner) for inner in value]
        case dict():
            return {key: escaped(inner) for key, inner in value.items()}
    return value


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{org_slug}", "acme"),
        ("${org_slug}", "acme"),
        ("x-{org_slug}-${days}", "x-acme-30"),
        ("{days}", 30),
        ("${ratio}", 0.5),
        ("{on}", True),
        ("{none}", None),
        ("{tables}", ["a", "b"]),
        ("{on}/{ratio}", "true/0.5"),
        ("{{org_slug}}", "{org_slug}"),
        ("${{org_slug}}", "${org_slug}"),
        ("{{{org_slug}}}", "{acme}"),
        ("$", "$"),
        ("$5 {days}", "$5 30"),
        ("$${days}", "$30"),
        ("", ""),
    ],
)
def test_a_template_becomes(template: str, value: Any) -> None:
    assert resolve(template, VARIABLES) == value
    assert type(resolve(template, VARIABLES)) is type(value)


def test_nothing_is_resolved_twice() -> None:
    assert resolve("{tricky}", VARIABLES) == VARIABLES["tricky"]
    assert resolve("a{tricky}b", VARIABLES) == f"a{VARIABLES['tricky']}b"


def test_only_values_are_templates_not_keys() -> None:
    assert resolve({"{days}": ["{days}", {"x": "{days}!"}]}, VARIABLES) == {
        "{days}": [30, {"x": "30!"}]
    }
    assert names_in({"{days}": ["{on}", {"x": "${ratio}{on}"}], "y": 3}) == {"on", "ratio"}


def test_an_unknown_name_is_a_fault_that_names_the_near_miss() -> None:
    with pytest.raises(Invalid) as raised:
        resolve({"a": ["{dayz}", "{days}", "x{org_slag}"]}, VARIABLES, path=("config",))
    assert [str(fault) for fault in raised.value.faults] == [
        "config.a[0] names the variable 'dayz', which does not exist (did you mean 'days'?)",
        (
            "config.a[2] names the variable 'org_slag', which does not exist"
            " (did you mean 'org_slug'?)"
        ),
    ]


@pytest.mark.parametrize(
    "text", ["{", "}", "{a b}", "{Days}", "{days", "{days}}", "{}", "{1}", "{a-b}"]
)
def test_a_lone_brace_is_a_fault(text: str) -> None:
    assert parse(text).stray
    with pytest.raises(Invalid, match="cannot be resolved"):
        resolve(text, VARIABLES)


@pytest.mark.parametrize("name", ["none", "tables"])
def test_a_list_or_nothing_cannot_stand_inside_a_text(name: str) -> None:
    with pytest.raises(Invalid) as raised:
        resolve({"a": f"x{{{name}}}"}, VARIABLES)
    assert str(raised.value.faults[0]) == (
        f"a cannot hold {name!r} inside a text: only a text, a number or a boolean"
    )


@pytest.mark.parametrize("text", ["{key}", "Bearer {key}"])
def test_a_secret_is_no_value_of_a_template(text: str) -> None:
    with pytest.raises(Invalid) as raised:
        resolve(text, {"key": Secret("hunter2")})
    assert "hunter2" not in str(raised.value.faults)


def test_a_prefix_is_taken_on_trust() -> None:
    assert check_templates("{credential_bucket}", (), prefixes=("credential_",)) == []
    assert len(check_templates("{credential_bucket}", ())) == 1


@given(values)
def test_a_value_with_its_braces_doubled_comes_back(value: Any) -> None:
    assert resolve(escaped(value), {}) == value
    assert names_in(escaped(value)) == frozenset()


@given(texts, texts)
def test_a_variable_is_put_in_as_it_is(before: str, value: str) -> None:
    template = escape(before) + "${name}" + escape(before)
    assert resolve(template, {"name": value}) == before + value + before


@given(texts)
def test_any_text_can_be_parsed(text: str) -> None:
    template = parse(text)
    assert template.stray or set(template.names) == names_in(text)
