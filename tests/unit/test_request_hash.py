"""What makes two calls with one idempotency key the same call."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shared.engine.submit import Submission, _request_hash

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def turned(value: Any) -> Any:
    """The same JSON with the fields of every object the other way round."""
    if isinstance(value, dict):
        return {name: turned(inner) for name, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


def asked(parameters: dict[str, Any]) -> str:
    return _request_hash(Submission("acme", "a/b/c", parameters=parameters))


@given(st.dictionaries(st.text(max_size=3), VALUES))
def test_the_order_of_fields_makes_no_other_request_at_any_depth(
    parameters: dict[str, Any],
) -> None:
    assert asked(parameters) == asked(turned(parameters))


@given(st.dictionaries(st.text(max_size=3), VALUES), st.text(max_size=3), VALUES)
def test_another_value_at_any_depth_is_another_request(
    parameters: dict[str, Any], name: str, value: Any
) -> None:
    other = {"within": [{**parameters, name: value}]}
    same = repr({**parameters, name: value}) == repr({**parameters, name: parameters.get(name)})
    assert (asked({"within": [parameters]}) == asked(other)) == (same and name in parameters)


def test_the_order_of_a_list_says_something() -> None:
    assert asked({"a": [1, 2]}) != asked({"a": [2, 1]})
