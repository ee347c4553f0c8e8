"""Coverage over HTTP, of the AWS pipeline: what its loads say of every day."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest

from shared.core.period import Unit, days, month_after
from shared.settings import ROOT
from tests.e2e.conftest import Tenant
from tests.support.exports import HEADER, Export, csv_gz, row
from tests.support.system import System

AWS = "aws/cost/billing"
# Closed for good, whatever day it is.
FIRST = month_after(datetime.now(UTC).date(), -3)
LAST = Unit.MONTH.last(FIRST)
PERIOD = f"{FIRST:%Y-%m}"
MONTH = {"start_date": str(FIRST), "end_date": str(LAST)}
DATES = ("--start-date", str(FIRST), "--end-date", str(LAST))
NOON = time(12)


class Sources:
    """What a tenant sees of its sources."""

    def __init__(self, system: System, tenant: Tenant) -> None:
        self.system = system
        self.tenant = tenant

    def export(self, credential_id: str = "main", **metadata: str) -> Export:
        """An export, and a credential that names it."""
        folder = f"exports-{credential_id}"
        source = self.system.objects(self.tenant.slug) / folder
        source.mkdir(parents=True)
        credential = self.system.source(self.tenant.slug, folder)
        credential["metadata"] |= metadata
        path = f"/admin/orgs/{self.tenant.slug}/credentials/aws/{credential_id}"
        assert self.system.call("PUT", path, credential).status == 201
        return Export(source)

    def run(self, credential_id: str = "main", **parameters: Any) -> dict[str, Any]:
        body = {**MONTH, "credential_id": credential_id, "parameters": parameters}
        return self.system.run(self.tenant.slug, AWS, body, key=self.tenant.key)

    def command(self, *arguments: str) -> str:
        """What the command line prints, without colour."""
        environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PIPELINES_URL": self.system.url.removesuffix("/api/v1"),
            "PIPELINES_API_KEY": self.tenant.key,
            "PIPELINES_ORG": self.tenant.slug,
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "shared.cli", *arguments]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def page(self, **query: Any) -> dict[str, Any]:
        path = f"/pipelines/coverage/{self.tenant.slug}?{urlencode(MONTH | query)}"
        reply = self.system.call("GET", path, key=self.tenant.key)
        assert reply.status == 200, reply
        found: dict[str, Any] = reply.json
        return found

    def pages(self, **query: Any) -> Iterator[dict[str, Any]]:
        page = self.page(**query)
        yield page
        while page["next"] is not None:
            page = self.page(cursor=page["next"], **query)
            yield page

    def one(self, credential_id: str = "main", **query: Any) -> dict[str, Any]:
        (found,) = self.page(credential_id=credential_id, **query)["sources"]
        told: dict[str, Any] = found
        return told


@pytest.fixture
def sources(system: System, tenant: Tenant) -> Sources:
    return Sources(system, tenant)


def told(source: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    return [
        (span["start_date"], span["end_date"], span["state"], span["final"])
        for span in source["days"]
    ]


def in_row(start: date, end: date, state: str, *, final: bool = False) -> tuple[object, ...]:
    return (str(start), str(end), state, final)


def test_a_month_from_its_first_delivery_to_its_close(sources: Sources) -> None:
    export = sources.export()
    before = sources.one()
    assert told(before) == [in_row(FIRST, LAST, "missing")]
    assert before["days"][0]["lacking"] == ["aws_focus", "focus_costs"]
    assert before["gaps"] == [MONTH]
    assert (before["pipeline"], before["unit"]) == (AWS, "month")

    tenth = FIRST.replace(day=10)
    made_at = datetime.combine(tenth, NOON, UTC)
    export.deliver(PERIOD, [row(1, PERIOD)], at=made_at)
    assert sources.run()["status"] == "completed"
    running = sources.one()
    ninth = tenth - timedelta(days=1)
    assert told(running) == [in_row(FIRST, ninth, "loaded"), in_row(tenth, LAST, "missing")]
    assert running["counts"]["loaded"] == 9
    assert running["gaps"] == [{"start_date": str(tenth), "end_date": str(LAST)}]

    export.deliver(PERIOD, [row(1, PERIOD), row(2, PERIOD)])
    assert sources.run()["status"] == "completed"
    closed = sources.one()
    assert told(closed) == [in_row(FIRST, LAST, "loaded", final=True)]
    assert closed["final"] == len(days(FIRST, LAST))
    assert closed["gaps"] == closed["due"] == []


def test_an_empty_month_that_was_confirmed_is_no_gap(sources: Sources) -> None:
    export = sources.export()
    export.deliver(PERIOD, [])
    assert sources.run()["error"]["code"] == "empty_export"
    assert told(sources.one()) == [in_row(FIRST, LAST, "missing")]
    assert sources.run(allow_empty=True)["outcome"] == "no_data"
    assert told(sources.one()) == [in_row(FIRST, LAST, "empty", final=True)]


def test_a_run_that_failed_leaves_its_days_missing(sources: Sources) -> None:
    export = sources.export()
    header = tuple(name for name in HEADER if name != "BilledCost")
    path = export.file(PERIOD, "costs-00001.csv.gz", csv_gz([row(1, PERIOD)], header))
    export.manifest(PERIOD, [path])
    assert sources.run()["status"] == "failed"
    assert told(sources.one()) == [in_row(FIRST, LAST, "missing")]


def test_credentials_are_counted_apart_and_page_by_page(sources: Sources) -> None:
    later = LAST - timedelta(days=2)
    sources.export("second", first_day=str(later))
    for name in ("first", "third"):
        sources.export(name).deliver(PERIOD, [row(1, PERIOD)])
        assert sources.run(name)["status"] == "completed"
    first, second, third = (page["sources"] for page in sources.pages(limit=1))
    assert [*first, *second, *third] == sources.page()["sources"]
    assert [found[0]["credential_id"] for found in (first, third)] == ["first", "third"]
    assert told(first[0]) == told(third[0]) == [in_row(FIRST, LAST, "loaded", final=True)]
    assert told(second[0]) == [
        in_row(FIRST, later - timedelta(days=1), "outside"),
        in_row(later, LAST, "missing"),
    ]
    assert [len(page["sources"]) for page in sources.pages(limit=2)] == [2, 1]
    assert sources.page(cursor="aws_cost_billing/third")["sources"] == []
    assert sources.page(provider="gcp")["sources"] == []
    for name in ("aws", "amazon"):
        assert len(sources.page(provider=name, pipeline_id="aws_cost_billing")["sources"]) == 3


def test_what_a_credential_out_of_use_has_loaded_stays_loaded(sources: Sources) -> None:
    export = sources.export()
    made_at = datetime.combine(FIRST.replace(day=10), NOON, UTC)
    export.deliver(PERIOD, [row(1, PERIOD)], at=made_at)
    assert sources.run()["status"] == "completed"
    path = f"/admin/orgs/{sources.tenant.slug}/credentials/aws/main"
    assert sources.system.call("DELETE", path).status == 204
    source = sources.one()
    assert [span[2] for span in told(source)] == ["loaded", "outside"]
    assert (source["in_use"], source["gaps"]) == (False, [])


def test_the_command_shows_a_calendar_and_the_runs_that_fill_it(sources: Sources) -> None:
    export = sources.export()
    export.deliver(PERIOD, [row(1, PERIOD)], at=datetime.combine(FIRST.replace(day=10), NOON, UTC))
    assert sources.run()["status"] == "completed"
    length = (LAST - FIRST).days + 1
    shown = sources.command("coverage", *DATES)
    assert f"{PERIOD}  {'+' * 9}{'!' * (length - 9)}" in shown.splitlines()
    assert f"{AWS}  main  by month; 9 loaded, {length - 9} missing" in shown
    assert {"+ loaded, may still change", "! missing"} <= set(shown.splitlines())
    assert max(map(len, shown.splitlines())) <= 80

    export.deliver(PERIOD, [row(1, PERIOD)])
    (fill,) = sources.command("coverage", "--gaps", *DATES).splitlines()
    assert fill.endswith(f"--start-date {FIRST.replace(day=10)} --end-date {LAST}")
    pipelines, *arguments = shlex.split(fill)
    assert pipelines == "pipelines"
    sources.command(*arguments)
    assert sources.command("coverage", "--gaps", *DATES) == ""
    assert f"{PERIOD}  {'#' * length}" in sources.command("coverage", *DATES)
    told = json.loads(sources.command("coverage", "--json", "--limit", "1", *DATES))
    assert told["sources"][0]["gaps"] == []


def test_another_organization_sees_nothing_of_it(
    sources: Sources, system: System, other: Tenant
) -> None:
    sources.export().deliver(PERIOD, [row(1, PERIOD)])
    assert sources.run()["status"] == "completed"
    assert Sources(system, other).page()["sources"] == []
    path = f"/pipelines/coverage/{sources.tenant.slug}"
    reply = system.call("GET", path, key=other.key)
    assert (reply.status, reply.json["error"]) == (404, "org_not_found")


def test_without_dates_it_is_the_last_35_days(system: System, tenant: Tenant) -> None:
    reply = system.call("GET", f"/pipelines/coverage/{tenant.slug}", key=tenant.key)
    span = [date.fromisoformat(reply.json[name]) for name in ("start_date", "end_date")]
    assert (span[1] - span[0]).days == 34
    assert timedelta(0) < datetime.now(UTC).date() - span[1] <= timedelta(days=1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("start_date=2026-02-30", "start_date"),
        ("start_date=2020-01-01&end_date=2021-12-31", "end_date"),
        ("pipeline_id=aws_cost_biling", "pipeline_id"),
        ("cursor=x", "cursor"),
        ("limit=51", "limit"),
        ("older_than_days=-1", "older_than_days"),
    ],
)
def test_what_cannot_be_asked_is_told(
    system: System, tenant: Tenant, query: str, field: str
) -> None:
    reply = system.call("GET", f"/pipelines/coverage/{tenant.slug}?{query}", key=tenant.key)
    assert reply.status == 400
    assert [fault["field"] for fault in reply.json["faults"]] == [field]


def test_a_first_day_that_is_none_is_refused_with_the_credential(
    system: System, tenant: Tenant
) -> None:
    path = f"/admin/orgs/{tenant.slug}/credentials/aws/main"
    reply = system.call("PUT", path, {"metadata": {"first_day": "last year"}})
    assert reply.status == 400
    assert [fault["field"] for fault in reply.json["faults"]] == ["metadata.first_day"]
