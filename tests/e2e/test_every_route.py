"""Every route there is, walked by whom it is not for, and with values that are none."""

from __future__ import annotations

import http.client
import re
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from functions.api.route import Route
from functions.api.routes import ROUTES
from shared.accounts import Scope
from shared.bus import Outgoing
from shared.core.message import Topic
from tests.e2e.conftest import Tenant
from tests.support.subscriptions import fields
from tests.support.system import Reply, System

FIVE = "engine/noop/five"
GUARDED = [route for route in ROUTES.values() if route.scope is not None]
OF_ORG = [route for route in GUARDED if "<org>" in route.path and not route.platform]
OF_PLATFORM = [route for route in GUARDED if route not in OF_ORG]
# A line feed, and a method that nobody knows, the framework refuses itself, before the function.
WEIRD = (
    "..",
    "%2e%2e%2f%2e%2e",
    "a%2fb",
    "-a.b",
    "%00",
    "%ff%fe",
    quote("ünïcode ☃ 💩"),
    quote("' OR 1=1 --"),
    "%7B%7D",
    "x" * 3000,
)


def ids(routes: list[Route]) -> list[Any]:
    return [pytest.param(route, id=route.name) for route in routes]


class Walk:
    """An organization with a run, a credential and keys, and what would change if somebody got in."""

    def __init__(self, system: System, tenant: Tenant) -> None:
        self.system = system
        self.org = tenant.slug
        self.run_id = system.run(tenant.slug, FIVE)["run_id"]
        schedule = {"pipeline": FIVE, "cron": "0 6 1 1 *"}
        daily = f"/pipelines/schedules/{self.org}/daily"
        assert system.call("PUT", daily, schedule).status == 201
        made = system.call("POST", f"/admin/orgs/{self.org}/keys", {"name": "mine"})
        credential = f"/admin/orgs/{self.org}/credentials/aws/main"
        assert system.call("PUT", credential, {"metadata": {"a": "b"}}).status == 201
        subscription = f"/admin/subscriptions/{self.org}/slack"
        assert system.call("PUT", subscription, fields()).status == 201
        self.values = {
            "org": self.org,
            "run_id": self.run_id,
            "schedule_id": "daily",
            "key_id": made.json["key"]["key_id"],
            "provider": "aws",
            "credential_id": "main",
            "subscription_id": "slack",
            "ref": "CN-1",
            "domain": "cost",
            "pipeline": "billing",
        }

    def key(self, *scopes: Scope) -> str:
        body = {"name": "walker", "scopes": list(scopes)}
        made = self.system.call("POST", f"/admin/orgs/{self.org}/keys", body)
        text: str = made.json["api_key"]
        return text

    def path(self, route: Route, **instead: str) -> str:
        values = {**self.values, **instead}
        return re.sub(r"<(\w+)>", lambda name: values.get(name[1], "1"), route.path)

    def call(self, route: Route, key: str, **instead: str) -> Reply:
        body: Any = None if route.body is None else {}
        return self.system.call(route.method, self.path(route, **instead), body, key=key)

    def state(self) -> list[Any]:
        """All that a caller could have changed, but for when keys were used."""
        found = []
        for path in (
            f"/admin/orgs/{self.org}",
            f"/admin/orgs/{self.org}/keys",
            f"/admin/orgs/{self.org}/credentials/aws",
            f"/admin/subscriptions/{self.org}",
            f"/pipelines/quota/{self.org}",
            f"/pipelines/history/{self.org}",
            f"/pipelines/schedules/{self.org}",
        ):
            told = self.system.call("GET", path).json
            for key in told.get("keys", ()):
                key.pop("last_used_at", None)
            found.append(told)
        return found


@pytest.fixture(scope="module")
def walk(system: System) -> Walk:
    return Walk(system, Tenant(system, "scale"))


@pytest.fixture(scope="module")
def stranger(system: System) -> str:
    """The key of another organization, which may do everything there."""
    slug = Tenant(system, "scale").slug
    made = system.call("POST", f"/admin/orgs/{slug}/keys", {"name": "all", "scopes": ["admin"]})
    text: str = made.json["api_key"]
    return text


def test_what_the_system_names_has_the_form_that_its_description_says(
    system: System, walk: Walk
) -> None:
    system.app.bus.park(Outgoing(Topic.COMPLETIONS, b"{}", None), "why", 1)
    (letter, *_) = system.call("GET", "/admin/dead-letters").json["dead_letters"]
    names = {**walk.values, "letter_id": letter["id"]}
    paths = system.call("GET", "/openapi.json", key="").json["paths"]
    for operation in [one for methods in paths.values() for one in methods.values()]:
        for value in operation["parameters"]:
            if value["in"] == "path":
                assert re.search(value["schema"]["pattern"], names[value["name"]]), value
    system.call("DELETE", f"/admin/dead-letters/{letter['id']}")


def test_without_a_key_no_route_but_the_open_ones_answers(system: System, walk: Walk) -> None:
    before = walk.state()
    for route in GUARDED:
        reply = walk.call(route, "")
        assert (reply.status, reply.json["error"]) == (401, "unauthenticated"), route.name
    assert {route.path for route in ROUTES.values() if route not in GUARDED} == {
        "/health",
        "/ready",
        "/openapi.json",
    }
    assert walk.state() == before


def test_for_another_organization_nothing_exists(walk: Walk, stranger: str) -> None:
    before = walk.state()
    for route in OF_ORG:
        reply = walk.call(route, stranger)
        assert (reply.status, reply.json["error"]) == (404, "org_not_found"), route.name
        nobodys = walk.call(route, stranger, org="nobody_at_all")
        told = [{**each.json, "request_id": "", "detail": ""} for each in (reply, nobodys)]
        assert told[0] == told[1], route.name
    assert walk.state() == before


def test_no_organization_may_do_what_the_platform_does(walk: Walk) -> None:
    admin = walk.key(Scope.ADMIN)
    before = walk.state()
    for route in OF_PLATFORM:
        reply = walk.call(route, admin)
        assert (reply.status, reply.json["error"]) == (403, "forbidden"), route.name
    assert walk.state() == before


def test_a_key_without_the_scope_is_told_which_one_is_missing(walk: Walk) -> None:
    keys = {scope: walk.key(scope) for scope in Scope}
    before = walk.state()
    for route in OF_ORG:
        assert route.scope is not None
        for scope, key in keys.items():
            if scope not in (route.scope, Scope.ADMIN):
                reply = walk.call(route, key)
                assert (reply.status, reply.json["error"]) == (403, "scope_missing"), route.name
                assert route.scope in reply.json["detail"]
    assert walk.state() == before


@pytest.mark.parametrize("route", ids(list(ROUTES.values())))
def test_a_value_in_the_path_that_is_none_is_told_and_changes_nothing(
    walk: Walk, route: Route
) -> None:
    names = re.findall(r"<(\w+)>", route.path)
    before = walk.state()
    for name in names:
        for value in WEIRD:
            reply = walk.call(route, walk.system.platform_key, **{name: value})
            refused = 400 <= reply.status < 500
            # a list of what there is of a provider that is none is empty
            empty = reply.status == 200 and name == "provider" and route.method == "GET"
            assert refused or empty, (route.name, name, value, reply)
    assert walk.state() == before


@pytest.mark.parametrize("route", ids([one for one in ROUTES.values() if one.body is not None]))
def test_a_body_that_is_none_is_told_and_changes_nothing(walk: Walk, route: Route) -> None:
    before = walk.state()
    for raw, status in (
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe{}", 400),
        (b'{"\\u0000": 1}', 400),
        (b'{"a": ' * 2000, 400),
        (b'{"no_such_field": null}', 400),
        (b'{"x": "' + b"a" * 2_000_000 + b'"}', 413),
    ):
        reply = walk.system.call(route.method, walk.path(route), raw)
        assert reply.status == status, (route.name, raw[:20], reply)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    reply = walk.system.call(route.method, walk.path(route), b"a=b", headers=form)
    assert reply.status == 415
    assert walk.state() == before


@pytest.mark.parametrize("route", ids(list(ROUTES.values())))
def test_a_parameter_or_a_method_that_is_none_is_told(walk: Walk, route: Route) -> None:
    path = walk.path(route)
    key = walk.system.platform_key
    asked = walk.system.call(route.method, f"{path}?no_such=1", b"{}", key=key)
    assert asked.status == 400, asked
    assert [fault["field"] for fault in asked.json["faults"]] == ["no_such"]
    takes = {one.method for one in ROUTES.values() if one.path == route.path}
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH"} - takes:
        reply = walk.system.call(method, path, key=key)
        assert reply.status == 405, (method, reply)
        assert set(reply.headers["Allow"].split(", ")) == takes


def test_a_header_that_comes_twice_is_no_key(walk: Walk) -> None:
    parts = urlsplit(walk.system.url)
    connection = http.client.HTTPConnection(parts.netloc)
    connection.putrequest("GET", f"{parts.path}/pipelines/quota/{walk.org}")
    for _ in range(2):
        connection.putheader("X-API-Key", walk.system.platform_key)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 401, answer.read()
    connection.close()


def test_a_cursor_of_another_organization_shows_nothing_of_it(
    system: System, walk: Walk, other: Tenant
) -> None:
    made = {system.run(other.slug, FIVE)["run_id"] for _ in range(2)}
    page = system.call("GET", f"/pipelines/history/{other.slug}?limit=1").json
    mine = system.call("GET", f"/pipelines/history/{walk.org}?cursor={page['next']}")
    assert mine.status in (200, 400)
    assert not made & {run["run_id"] for run in mine.json.get("runs", ())}
