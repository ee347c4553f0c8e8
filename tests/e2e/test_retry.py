"""The retry of a run through the HTTP API: what goes on, what begins anew, and what is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.conftest import Tenant
from tests.support.system import Reply, System

FIVE = "engine/noop/five"
DIAMOND = "engine/noop/diamond"


def retry(
    system: System, tenant: Tenant, run_id: str, mode: str | None = None, key: str | None = None
) -> Reply:
    headers: Mapping[str, str] = {} if key is None else {"Idempotency-Key": key}
    body = {} if mode is None else {"mode": mode}
    path = f"/pipelines/retry/{tenant.slug}/{run_id}"
    return system.call("POST", path, body, key=tenant.key, headers=headers)


def stopped(system: System, tenant: Tenant, seconds: float = 0.5) -> dict[str, Any]:
    """A run that was cancelled when its first step had completed."""
    path = f"/pipelines/run/{tenant.slug}/{DIAMOND}"
    days = {"start_date": "2026-01-01", "end_date": "2026-01-03"}
    body = {**days, "parameters": {"seconds": seconds, "rows": 3}}
    run_id = system.call("POST", path, body).json["run_id"]
    status = f"/pipelines/status/{tenant.slug}/{run_id}"
    while system.call("GET", status).json["steps"][0]["status"] != "completed":
        time.sleep(0.01)
    system.call("POST", f"/pipelines/cancel/{tenant.slug}/{run_id}")
    return system.ended(tenant.slug, run_id)


@pytest.fixture(scope="module")
def history(system: System) -> tuple[Tenant, dict[str, Any]]:
    """A stopped run that only refusals are tried on."""
    tenant = Tenant(system, "scale")
    return tenant, stopped(system, tenant)


def test_a_resumed_run_does_only_what_was_not_done(system: System, tenant: Tenant) -> None:
    old = stopped(system, tenant)
    reply = retry(system, tenant, old["run_id"])
    assert reply.status == 202
    assert reply.headers["Location"] == reply.json["links"]["status"]
    run = system.ended(tenant.slug, reply.json["run_id"])
    assert (run["status"], run["trigger"], run["outcome"]) == ("completed", "retry", "ok")
    assert run["retry_of"] == old["run_id"]
    left = set()
    for before, step in zip(old["steps"], run["steps"], strict=True):
        if before["status"] == "completed":
            assert (step["attempt"], step["from_run"]) == (0, old["run_id"])
            assert step["summary"] == before["summary"]
        else:
            assert (step["attempt"], step["from_run"]) == (1, None)
            left.add(step["step_id"])
    same = ("pipeline", "start_date", "end_date", "credential_id", "parameters", "config_hash")
    assert [run[name] for name in same] == [old[name] for name in same]
    attempts = system.call("GET", f"/pipelines/logs/{tenant.slug}/{run['run_id']}/steps").json
    assert {made["step_id"] for made in attempts["attempts"]} == left >= {"join"}


def test_the_evidence_of_a_resumed_run_says_which_run_proved_it(
    system: System, tenant: Tenant
) -> None:
    old = stopped(system, tenant)
    run = system.ended(tenant.slug, retry(system, tenant, old["run_id"]).json["run_id"])
    reply = system.call("GET", f"/pipelines/evidence/{tenant.slug}/{run['run_id']}")
    found = {proof["step_id"]: proof["run_id"] for proof in reply.json["evidence"]}
    assert found == {step["step_id"]: step["from_run"] or run["run_id"] for step in run["steps"]}
    assert (found["start"], found["join"]) == (old["run_id"], run["run_id"])


def test_a_rerun_does_all_of_it_again_with_the_same_values(system: System, tenant: Tenant) -> None:
    days = {"start_date": "2026-01-01", "end_date": "2026-01-31"}
    old = system.run(tenant.slug, DIAMOND, {**days, "parameters": {"rows": 5}})
    assert old["status"] == "completed"
    reply = retry(system, tenant, old["run_id"], "rerun")
    run = system.ended(tenant.slug, reply.json["run_id"])
    assert (run["status"], run["retry_of"]) == ("completed", old["run_id"])
    assert {step["from_run"] for step in run["steps"]} == {None}
    same = ("start_date", "end_date", "credential_id", "parameters")
    assert [run[name] for name in same] == [old[name] for name in same]
    assert [step["summary"] for step in run["steps"]] == [step["summary"] for step in old["steps"]]


def test_a_run_names_its_newest_retry(system: System, tenant: Tenant) -> None:
    old = system.run(tenant.slug, FIVE)
    assert old["retried_by"] is None
    for _ in range(2):
        reply = retry(system, tenant, old["run_id"], "rerun")
        system.ended(tenant.slug, reply.json["run_id"])
        there = system.call("GET", f"/pipelines/status/{tenant.slug}/{old['run_id']}").json
        assert there["retried_by"] == reply.json["run_id"]
        assert {name: there[name] for name in old if name != "retried_by"} == {
            name: old[name] for name in old if name != "retried_by"
        }


def test_a_retry_takes_a_slot_and_a_run_of_the_day(system: System, small: Tenant) -> None:
    old = system.run(small.slug, DIAMOND, {"parameters": {"seconds": 0.5}})
    reply = retry(system, small, old["run_id"], "rerun")
    assert reply.status == 202
    refused = retry(system, small, old["run_id"], "rerun", key="another")
    assert (refused.status, refused.json["error"]) == (429, "quota_exceeded")
    system.ended(small.slug, reply.json["run_id"])
    used = system.call("GET", f"/pipelines/quota/{small.slug}").json
    assert (used["concurrent"], used["today"], used["succeeded"]) == (0, 2, 2)


def test_two_clicks_are_one_run(system: System, tenant: Tenant) -> None:
    old = system.run(tenant.slug, DIAMOND, {"parameters": {"seconds": 0.5}})
    replies: list[Reply] = []

    def click() -> None:
        replies.append(retry(system, tenant, old["run_id"], "rerun"))

    threads = [threading.Thread(target=click) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {reply.status for reply in replies} == {202}
    (run_id,) = {reply.json["run_id"] for reply in replies}
    replayed = [reply.headers.get("Idempotency-Replayed") for reply in replies]
    assert sorted(replayed, key=str) == [None] + ["true"] * 19
    system.ended(tenant.slug, run_id)
    used = system.call("GET", f"/pipelines/quota/{tenant.slug}").json
    assert (used["concurrent"], used["today"]) == (0, 2)
    again = retry(system, tenant, old["run_id"], "rerun")
    assert again.json["run_id"] != run_id  # that retry has ended: this is another click
    system.ended(tenant.slug, again.json["run_id"])


def test_a_key_stands_for_one_retry_also_after_its_end(system: System, tenant: Tenant) -> None:
    old = stopped(system, tenant, 0.2)
    first = retry(system, tenant, old["run_id"], key="k-1")
    system.ended(tenant.slug, first.json["run_id"])
    other = retry(system, tenant, old["run_id"], key="k-2")
    system.ended(tenant.slug, other.json["run_id"])
    assert other.json["run_id"] != first.json["run_id"]
    again = retry(system, tenant, old["run_id"], key="k-1")
    assert (again.status, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"
    mixed = retry(system, tenant, old["run_id"], "rerun", key="k-1")
    assert (mixed.status, mixed.json["error"]) == (422, "idempotency_mismatch")


def test_a_retry_can_be_retried_itself(system: System, tenant: Tenant) -> None:
    old = stopped(system, tenant, 0.2)
    second = retry(system, tenant, old["run_id"]).json["run_id"]
    assert system.ended(tenant.slug, second)["retry_of"] == old["run_id"]
    third = retry(system, tenant, second, "rerun").json["run_id"]
    assert system.ended(tenant.slug, third)["retry_of"] == second


def test_a_run_that_has_not_ended_cannot_be_retried(system: System, tenant: Tenant) -> None:
    path = f"/pipelines/run/{tenant.slug}/{DIAMOND}"
    run_id = system.call("POST", path, {"parameters": {"seconds": 30}}).json["run_id"]
    for mode in ("resume", "rerun"):
        reply = retry(system, tenant, run_id, mode)
        assert (reply.status, reply.json["error"]) == (409, "run_not_ended")
    system.call("POST", f"/pipelines/cancel/{tenant.slug}/{run_id}")
    system.ended(tenant.slug, run_id)


def test_a_completed_run_has_nothing_to_resume(system: System, tenant: Tenant) -> None:
    old = system.run(tenant.slug, FIVE)
    reply = retry(system, tenant, old["run_id"])
    assert (reply.status, reply.json["error"]) == (409, "run_completed")
    assert "'rerun'" in reply.json["detail"]
    assert system.call("GET", f"/pipelines/quota/{tenant.slug}").json["today"] == 1


def test_the_run_of_another_organization_does_not_exist(
    system: System, history: tuple[Tenant, dict[str, Any]], other: Tenant
) -> None:
    tenant, old = history
    reply = retry(system, other, old["run_id"])
    assert (reply.status, reply.json["error"]) == (404, "run_not_found")
    path = f"/pipelines/retry/{tenant.slug}/{old['run_id']}"
    assert system.call("POST", path, {}, key=other.key).status == 404


@pytest.mark.parametrize(
    ("body", "headers", "field"),
    [
        ({"mode": "again"}, {}, "mode"),
        ({"mode": None}, {}, "mode"),
        ({"start_date": "2026-01-01"}, {}, "start_date"),
        ({}, {"Idempotency-Key": "x" * 256}, "Idempotency-Key"),
    ],
)
def test_what_a_retry_does_not_take_is_named(
    system: System,
    history: tuple[Tenant, dict[str, Any]],
    body: dict[str, Any],
    headers: dict[str, str],
    field: str,
) -> None:
    tenant, old = history
    path = f"/pipelines/retry/{tenant.slug}/{old['run_id']}"
    reply = system.call("POST", path, body, headers=headers)
    assert (reply.status, [fault["field"] for fault in reply.json["faults"]]) == (400, [field])


def test_an_organization_that_may_not_run_may_not_retry(system: System, tenant: Tenant) -> None:
    old = system.run(tenant.slug, FIVE)
    system.call("POST", f"/admin/orgs/{tenant.slug}/status", {"status": "SUSPENDED"})
    reply = retry(system, tenant, old["run_id"], "rerun")
    assert (reply.status, reply.json["error"]) == (403, "org_not_active")
