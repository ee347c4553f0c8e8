"""What the table of routes says is what the handlers take."""

from __future__ import annotations

from inspect import signature
from typing import get_type_hints

import pytest

from functions.api.http import NoQuery
from functions.api.route import Route
from functions.api.routes import ROUTES, urls

EVERY = [pytest.param(route, id=name) for name, route in ROUTES.items()]


@pytest.mark.parametrize("route", EVERY)
def test_a_handler_takes_what_its_route_says(route: Route) -> None:
    takes = get_type_hints(route.run)
    assert takes.get("body") is route.body
    assert takes.get("query", NoQuery) is route.query
    (rule,) = [rule for rule in urls().iter_rules() if rule.endpoint == route.name]
    takes_values = set(list(signature(route.run).parameters)[1:]) - {"body", "query"}
    assert takes_values == rule.arguments


@pytest.mark.parametrize("route", EVERY)
def test_a_route_says_what_it_does(route: Route) -> None:
    assert route.run.__doc__
    assert route.answers
    assert all(200 <= status < 300 for status in route.answers)
