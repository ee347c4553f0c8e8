"""The lines of a run through the HTTP API: pages, filters, files."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from tests.e2e.conftest import Tenant
from tests.support.system import System

LATE = "engine/noop/late"
FIVE = "engine/noop/five"


@pytest.fixture(scope="module")
def late(system: System) -> tuple[Tenant, str]:
    """A run whose only step failed twice, and said so each time."""
    tenant = Tenant(system, "scale")
    run = system.run(tenant.slug, LATE)
    assert (run["status"], run["steps"][0]["attempt"]) == ("failed", 2)
    return tenant, run["run_id"]


def lines(system: System, tenant: Tenant, run_id: str, query: str = "") -> Any:
    reply = system.call("GET", f"/pipelines/logs/{tenant.slug}/{run_id}{query}", key=tenant.key)
    assert reply.status == 200, reply
    return reply.json


def download(system: System, tenant: Tenant, run_id: str, query: str) -> tuple[Any, bytes]:
    answer = system._http.request(  # an answer that is not always JSON
        "GET",
        f"{system.url}/pipelines/logs/{tenant.slug}/{run_id}/download{query}",
        headers={"X-API-Key": tenant.key},
    )
    assert answer.status == 200, answer.data
    return answer.headers, answer.data


def test_the_lines_of_every_attempt_are_read_page_by_page(
    system: System, late: tuple[Tenant, str]
) -> None:
    whole = lines(system, *late)
    assert whole["next"] is None
    assert [line["attempt"] for line in whole["lines"]] == [1, 2]
    assert {line["message"] for line in whole["lines"]} == {"step.failed"}
    assert {line["fields"]["code"] for line in whole["lines"]} == {"timeout"}
    first = lines(system, *late, "?limit=1")
    second = lines(system, *late, f"?limit=1&cursor={first['next']}")
    assert first["lines"] + second["lines"] == whole["lines"]


def test_lines_are_chosen_by_step_and_by_level(system: System, late: tuple[Tenant, str]) -> None:
    for query, count in (
        ("?step_id=wait", 2),
        ("?step_id=other", 0),
        ("?level=ERROR", 2),
        ("?level=ERROR&step_id=wait&limit=1", 1),
    ):
        assert len(lines(system, *late, query)["lines"]) == count, query


def test_who_follows_a_run_that_has_ended_is_answered_at_once(
    system: System, tenant: Tenant
) -> None:
    run = system.run(tenant.slug, FIVE)
    assert lines(system, tenant, run["run_id"], "?follow=true") == {"lines": [], "next": None}


def test_a_cursor_of_another_run_or_organization_is_refused(
    system: System, tenant: Tenant, late: tuple[Tenant, str]
) -> None:
    run = system.run(tenant.slug, FIVE)
    cursor = lines(system, *late, "?limit=1")["next"]
    path = f"/pipelines/logs/{tenant.slug}/{run['run_id']}?cursor={cursor}"
    reply = system.call("GET", path, key=tenant.key)
    assert reply.status == 400
    assert [fault["field"] for fault in reply.json["faults"]] == ["cursor"]


@pytest.mark.parametrize(
    "query", ["level=LOUD", "limit=0", "limit=201", "follow=yes", "cursor=%00", "format=xml", "x=1"]
)
def test_a_query_that_makes_no_sense_is_refused(
    system: System, late: tuple[Tenant, str], query: str
) -> None:
    tenant, run_id = late
    for more in ("", "/download"):
        path = f"/pipelines/logs/{tenant.slug}/{run_id}{more}?{query}"
        assert system.call("GET", path, key=tenant.key).status == 400


def test_all_lines_are_downloaded_in_each_format(system: System, late: tuple[Tenant, str]) -> None:
    expected = lines(system, *late)["lines"]
    headers, body = download(system, *late, "")
    assert headers["Content-Type"] == "application/json"
    assert f"{late[1]}-logs.json" in headers["Content-Disposition"]
    assert json.loads(body) == expected
    headers, body = download(system, *late, "?format=ndjson")
    assert headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in body.splitlines()] == expected
    headers, body = download(system, *late, "?format=csv")
    assert headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert [row["message"] for row in rows] == ["step.failed", "step.failed"]
    assert [json.loads(row["fields"]) for row in rows] == [line["fields"] for line in expected]


def test_a_download_without_lines_is_empty_and_whole(
    system: System, late: tuple[Tenant, str]
) -> None:
    assert json.loads(download(system, *late, "?step_id=other")[1]) == []
    assert download(system, *late, "?step_id=other&format=ndjson")[1] == b""
    assert download(system, *late, "?step_id=other&format=csv")[1].count(b"\n") == 1


def test_the_lines_of_another_organization_do_not_exist(
    system: System, tenant: Tenant, late: tuple[Tenant, str]
) -> None:
    owner, run_id = late
    for org in (owner.slug, tenant.slug):
        for more in ("", "/download", "?follow=true"):
            reply = system.call("GET", f"/pipelines/logs/{org}/{run_id}{more}", key=tenant.key)
            assert (reply.status, reply.json["error"].split("_")[-1]) == (404, "found")
