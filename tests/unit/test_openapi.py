"""What the API says of itself is whole, closed, and the same everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from functions.api.reference import main, pages
from functions.api.routes import ROUTES, openapi_text
from shared.core import focus
from shared.core.focus_rules import row_rules
from shared.errors import CODES


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(openapi_text())
    return found


def inside(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from inside(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from inside(inner)


def test_every_route_is_described(described: dict[str, Any]) -> None:
    found = {
        f"{method.upper()} {path.replace('{', '<').replace('}', '>')}"
        for path, methods in described["paths"].items()
        for method in methods
    }
    assert found == set(ROUTES)


def test_every_record_is_closed_and_every_reference_leads_somewhere(
    described: dict[str, Any],
) -> None:
    for name, schema in described["components"]["schemas"].items():
        assert schema.get("additionalProperties") is False or "enum" in schema, name
    for node in inside(described):
        if "$ref" in node:
            target: Any = described
            for part in node["$ref"].removeprefix("#/").split("/"):
                target = target[part]
            assert target


def test_every_time_says_that_it_is_one(described: dict[str, Any]) -> None:
    schemas = described["components"]["schemas"]
    named = [
        (name, field, schema)
        for name, record in schemas.items()
        for field, schema in record.get("properties", {}).items()
        if field.endswith("_at")
    ]
    assert len(named) > 10
    assert not [one for one in named if '"date-time"' not in json.dumps(one)]


def test_every_value_in_a_path_has_a_form_and_an_example_of_it(described: dict[str, Any]) -> None:
    values = [
        one
        for methods in described["paths"].values()
        for operation in methods.values()
        for one in operation["parameters"]
        if one["in"] == "path"
    ]
    assert len(values) > 40
    for one in values:
        assert re.search(one["schema"]["pattern"], one["example"]), one


def test_every_code_has_an_example_where_it_is_told(described: dict[str, Any]) -> None:
    for code, known in CODES.items():
        for status in set(known.statuses) - {405}:  # of no method that is described
            told = described["components"]["responses"][str(status)]["content"]
            assert code in told["application/problem+json"]["examples"]


def test_the_pages_are_those_of_this_release() -> None:
    assert main(["--check"]) == 0
    (api, errors, of_focus) = pages().values()
    assert all(f"`{code}`" in errors for code in CODES)
    assert all(f"## {name.replace('<', '{').replace('>', '}')}\n" in api for name in ROUTES)
    assert all(f"`{name}`" in of_focus for name in (*focus.columns(), *focus.VIEWS))
    assert all(f"`{rule.id}`" in of_focus for rule in row_rules())
