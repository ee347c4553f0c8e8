"""Schedules over HTTP: enrolled, due, started by the tick, and told."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from tests.e2e.conftest import Tenant
from tests.support.system import System

NOOP = "engine/noop/five"
DAILY = {"pipeline": NOOP, "cron": "0 6 * * *", "timezone": "Europe/Berlin"}


class Schedules:
    """What a tenant does with its schedules."""

    def __init__(self, system: System, tenant: Tenant) -> None:
        self.system = system
        self.tenant = tenant

    def call(self, method: str, path: str = "", body: Any = None, key: str | None = None) -> Any:
        return self.system.call(
            method,
            f"/pipelines/schedules/{self.tenant.slug}{path}",
            body,
            key=self.tenant.key if key is None else key,
        )

    def due_since(self, name: str, ago: timedelta) -> datetime:
        """As if the clock had come to a due time that long ago."""
        store = self.system.app.schedules
        stored = store.enrolment(self.tenant.slug, name)
        assert stored is not None
        minute = (datetime.now(UTC) - ago).replace(second=0, microsecond=0)
        moved = replace(stored, version=stored.version + 1, due_at=minute)
        assert store.write([moved])
        return minute

    def runs(self) -> list[dict[str, Any]]:
        path = f"/pipelines/history/{self.tenant.slug}?trigger=schedule"
        reply = self.system.call("GET", path, key=self.tenant.key)
        if reply.status == 503:  # a store that is slow: asked again
            return []
        found: list[dict[str, Any]] = reply.json["runs"]
        return found

    def wait(self, count: int) -> list[dict[str, Any]]:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = self.runs()
            if len(found) >= count and all(run["finished_at"] for run in found):
                return found
            time.sleep(0.1)
        raise AssertionError(f"{count} runs were to end: {self.runs()}")


@pytest.fixture
def schedules(system: System, tenant: Tenant) -> Schedules:
    return Schedules(system, tenant)


def test_a_schedule_says_when_it_is_due_next(schedules: Schedules) -> None:
    made = schedules.call("PUT", "/daily", DAILY)

    assert made.status == 201, made.json
    assert made.json["own"] == ["cron", "timezone"]
    assert made.json["catchup"] == "none"
    times = [datetime.fromisoformat(text) for text in made.json["next"]]
    assert len(times) == 3
    assert all(time.hour in (4, 5) for time in times), "six o'clock in Berlin"
    assert schedules.call("GET").json == {"schedules": [made.json]}
    shown = schedules.call("GET", "/daily").json
    assert shown["next"][:3] == made.json["next"]
    changed = schedules.call("PUT", "/daily", {**DAILY, "enabled": False})
    assert (changed.status, changed.json["next"]) == (200, [])
    assert schedules.call("DELETE", "/daily").status == 204
    assert schedules.call("DELETE", "/daily").json["error"] == "schedule_not_found"


def test_what_is_due_is_run_once_for_the_day_before(schedules: Schedules) -> None:
    assert schedules.call("PUT", "/minutely", {"pipeline": NOOP, "cron": "* * * * *"}).status == 201
    minute = schedules.due_since("minutely", timedelta(seconds=1))

    (run, *_) = schedules.wait(1)[::-1]
    schedules.call("DELETE", "/minutely")

    assert run["status"] == "completed"
    assert run["trigger"] == "schedule"
    day = (minute - timedelta(days=1)).date().isoformat()
    assert (run["start_date"], run["end_date"]) == (day, day)


def test_what_was_missed_is_told(schedules: Schedules) -> None:
    schedules.call("PUT", "/hourly", {"pipeline": NOOP, "cron": "0 * * * *"})
    stored = schedules.due_since("hourly", timedelta(hours=5)).replace(minute=0)

    until = time.monotonic() + 30
    while not (told := schedules.call("GET", "/hourly/skipped").json["skipped"]):
        assert time.monotonic() < until
        time.sleep(0.1)

    assert told[-1]["reason"] == "missed"
    assert datetime.fromisoformat(told[-1]["first"]) >= stored


def test_a_start_that_cannot_be_made_is_found_in_the_history(
    schedules: Schedules, system: System
) -> None:
    slug = schedules.tenant.slug
    path = f"/admin/orgs/{slug}/credentials/aws/main"
    assert system.call("PUT", path, system.source(slug, "exports")).status == 201
    assert schedules.call("PUT", "/bill", {"pipeline": "aws/cost/billing"}).status == 201
    assert system.call("DELETE", path).status == 204
    schedules.due_since("bill", timedelta(seconds=1))
    stored = system.app.schedules.enrolment(slug, "bill")
    assert stored is not None

    # The pipeline is due at six: it is started as of the due time that was written.
    system.app.schedules.write(
        [replace(stored, version=stored.version + 1, cron="* * * * *", timing="* * * * * UTC")]
    )
    run = schedules.wait(1)[-1]
    schedules.call("DELETE", "/bill")

    assert run["status"] == "failed"
    shown = system.call(
        "GET", f"/pipelines/status/{slug}/{run['run_id']}", key=schedules.tenant.key
    )
    assert shown.json["error"]["code"] == "credential_missing"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**DAILY, "cron": "61 * * * *"}, "cron"),
        ({**DAILY, "timezone": "Europe/Berlim"}, "timezone"),
        ({**DAILY, "overlap": "sometimes"}, "overlap"),
        ({"pipeline": NOOP}, "cron"),
        ({**DAILY, "parameters": {"nobody": 1}}, "parameters.nobody"),
        ({**DAILY, "credential_id": "main"}, "credential_id"),
        ({**DAILY, "colour": "red"}, "colour"),
    ],
)
def test_a_schedule_that_could_not_start_anything_is_refused(
    schedules: Schedules, body: dict[str, Any], field: str
) -> None:
    refused = schedules.call("PUT", "/daily", body)

    assert refused.status == 400, refused.json
    assert field in {error["field"] for error in refused.json["faults"]}
    assert schedules.call("GET").json == {"schedules": []}


def test_a_pipeline_or_a_name_that_is_none_is_refused(schedules: Schedules) -> None:
    assert schedules.call("PUT", "/daily", {**DAILY, "pipeline": "no/such/one"}).status == 404
    assert schedules.call("PUT", "/No%20Name", DAILY).status == 400


def test_a_schedule_of_another_organization_does_not_exist(
    schedules: Schedules, other: Tenant
) -> None:
    schedules.call("PUT", "/daily", DAILY)

    for method, body in (("GET", None), ("PUT", DAILY), ("DELETE", None)):
        assert schedules.call(method, "/daily", body, key=other.key).status == 404
    assert schedules.call("GET", "/daily/skipped", key=other.key).status == 404
    assert schedules.call("GET", key=other.key).status == 404
    assert schedules.call("GET", "/daily").status == 200


def test_a_change_leaves_its_entry(schedules: Schedules, system: System) -> None:
    schedules.call("PUT", "/daily", DAILY)
    schedules.call("PUT", "/daily", {**DAILY, "catchup": "all"})
    schedules.call("DELETE", "/daily")

    entries = system.call("GET", f"/admin/audit?org={schedules.tenant.slug}").json["entries"]
    of_it = [entry for entry in entries if entry["target"] == "daily"]
    assert [entry["verb"] for entry in of_it] == [
        "schedule.removed",
        "schedule.put",
        "schedule.put",
    ]
    assert of_it[1]["after"]["catchup"] == "all"
    assert "catchup" not in of_it[1]["before"]


def test_a_release_that_changes_a_schedule_is_followed_from_its_first_tick(
    schedules: Schedules, system: System
) -> None:
    schedules.call("PUT", "/daily", DAILY)
    store = system.app.schedules
    stored = store.enrolment(schedules.tenant.slug, "daily")
    assert stored is not None
    # as the release before, which knew of another expression, has left it
    far = datetime.now(UTC) + timedelta(days=300)
    old = replace(stored, version=stored.version + 1, timing="0 6 1 1 * UTC", due_at=far)
    assert store.write([old])

    system.restart()

    soon = datetime.now(UTC) + timedelta(days=2)
    until = time.monotonic() + 60
    while datetime.fromisoformat(schedules.call("GET", "/daily").json["next"][0]) > soon:
        assert time.monotonic() < until
        time.sleep(0.1)
