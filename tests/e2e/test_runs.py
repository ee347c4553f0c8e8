"""Runs through the HTTP API: what a caller is told, and what is true afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

from tests.e2e.conftest import Opener, Tenant
from tests.support.system import Reply, System

FIVE = "engine/noop/five"
DIAMOND = "engine/noop/diamond"
LATE = "engine/noop/late"


def test_a_run_of_five_steps_completes(system: System, tenant: Tenant) -> None:
    reply = system.call("POST", f"/pipelines/run/{tenant.slug}/{FIVE}", {}, key=tenant.key)
    assert reply.status == 202
    assert reply.headers["Location"] == reply.json["links"]["status"]
    run = system.ended(tenant.slug, reply.json["run_id"])
    assert (run["status"], run["outcome"], run["error"]) == ("completed", "ok", None)
    assert [step["status"] for step in run["steps"]] == ["completed"] * 5
    assert [step["attempt"] for step in run["steps"]] == [1] * 5
    times = [(step["started_at"], step["finished_at"]) for step in run["steps"]]
    assert times == sorted(times)
    assert (run["steps_done"], run["steps_total"]) == (5, 5)


def test_a_status_tells_how_far_a_run_is_and_what_it_waits_for(
    system: System, tenant: Tenant
) -> None:
    body = {"parameters": {"seconds": 1}}
    reply = system.call("POST", f"/pipelines/run/{tenant.slug}/{DIAMOND}", body)
    assert reply.status == 202, reply
    started = reply.json
    path = f"/pipelines/status/{tenant.slug}/{started['run_id']}"
    while (run := system.call("GET", path).json)["steps"][0]["status"] != "completed":
        assert [wait["step_id"] for wait in run["waits_for"]] == [run["steps"][0]["step_id"]]
        assert run["waits_for"][0]["what"] in ("worker", "step")
        assert run["progress"]["percent"] == 0
        time.sleep(0.05)
    ended = run["progress"]["steps"]["completed"]  # on a slow machine, more than the first
    assert run["progress"]["percent"] == 25 * ended
    assert sum(run["progress"]["steps"].values()) == 4
    assert {wait["step_id"] for wait in run["waits_for"]} <= {"left", "right", "join"}
    assert run["links"] == started["links"]
    run = system.ended(tenant.slug, started["run_id"])
    assert run["progress"] == {"percent": 100, "steps": {"completed": 4}}
    assert run["waits_for"] == []


def test_a_quota_shows_which_runs_hold_its_slots(system: System, tenant: Tenant) -> None:
    body = {"parameters": {"seconds": 1}}
    run_id = system.call("POST", f"/pipelines/run/{tenant.slug}/{DIAMOND}", body).json["run_id"]
    path = f"/pipelines/quota/{tenant.slug}"
    quota = system.call("GET", path, key=tenant.key).json
    assert [held["run_id"] for held in quota["reservations"]] == [run_id]
    assert quota["concurrent"] == 1
    assert quota["reservations"][0]["created_at"] < quota["reservations"][0]["expires_at"]
    system.ended(tenant.slug, run_id)
    quota = system.call("GET", path, key=tenant.key).json
    assert (quota["concurrent"], quota["reservations"]) == (0, [])


def test_dates_left_out_are_yesterday(system: System, tenant: Tenant) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    run = system.run(tenant.slug, FIVE)
    assert (run["start_date"], run["end_date"]) == (yesterday, yesterday)


def test_dates_may_stand_in_the_query(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, FIVE + "?start_date=2026-01-01&end_date=2026-01-31")
    assert (run["start_date"], run["end_date"]) == ("2026-01-01", "2026-01-31")


def test_a_bare_path_is_the_same_path(system: System, tenant: Tenant) -> None:
    bare = system.url.removesuffix("/api/v1")
    reply = system._http.request(  # the same client, another path
        "GET", f"{bare}/pipelines/quota/{tenant.slug}", headers={"X-API-Key": tenant.key}
    )
    assert reply.status == 200


def test_a_parent_ends_before_its_child_starts(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, DIAMOND, {"parameters": {"seconds": 0.05}})
    steps = {step["step_id"]: step for step in run["steps"]}
    for step in steps.values():
        for parent in step["depends_on"]:
            assert steps[parent]["finished_at"] <= step["started_at"]


def test_steps_that_wait_for_nothing_run_beside_each_other(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, DIAMOND, {"parameters": {"seconds": 0.3}})
    steps = {step["step_id"]: step for step in run["steps"]}
    assert steps["left"]["started_at"] < steps["right"]["finished_at"]
    assert steps["right"]["started_at"] < steps["left"]["finished_at"]


def test_two_hundred_steps_end(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, "engine/noop/wide")
    assert run["status"] == "completed"
    assert run["steps_total"] == 200


def test_every_move_of_a_run_is_stored_with_its_time(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, FIVE)
    reply = system.call("GET", f"/pipelines/logs/{tenant.slug}/{run['run_id']}/transitions")
    moves = reply.json["transitions"]
    of_run = [move["to"] for move in moves if move["step_id"] is None]
    assert of_run == ["pending", "validating", "running", "completed"]
    assert [move["at"] for move in moves] == sorted(move["at"] for move in moves)
    of_two = [move["to"] for move in moves if move["step_id"] == "two"]
    assert of_two[0] == "queued"
    assert of_two[-1] == "completed"


def test_every_attempt_of_a_run_is_listed(system: System, tenant: Tenant) -> None:
    run = system.run(tenant.slug, FIVE)
    reply = system.call("GET", f"/pipelines/logs/{tenant.slug}/{run['run_id']}/steps")
    assert [found["step_id"] for found in reply.json["attempts"]] == [
        "one",
        "two",
        "three",
        "four",
        "five",
    ]
    assert {found["result"] for found in reply.json["attempts"]} == {"ok"}


def test_an_ended_run_gives_its_slot_back(system: System, small: Tenant) -> None:
    for expected in (1, 2):
        system.run(small.slug, FIVE)
        used = system.call("GET", f"/pipelines/quota/{small.slug}").json
        assert (used["concurrent"], used["today"], used["succeeded"]) == (0, expected, expected)


def test_a_second_run_at_a_limit_of_one_is_told_why(system: System, small: Tenant) -> None:
    path = f"/pipelines/run/{small.slug}/{DIAMOND}"
    first = system.call("POST", path, {"parameters": {"seconds": 0.5}})
    assert first.status == 202
    refused = system.call("POST", path, {})
    assert refused.status == 429
    assert refused.json["error"] == "quota_exceeded"
    assert (refused.json["limit_type"], refused.json["limit"], refused.json["used"]) == (
        "concurrent",
        1,
        1,
    )
    assert int(refused.headers["Retry-After"]) >= 1
    system.ended(small.slug, first.json["run_id"])
    used = system.call("GET", f"/pipelines/quota/{small.slug}").json
    assert (used["concurrent"], used["today"]) == (0, 1)


def test_the_daily_limit_is_told_with_its_reset(system: System, small: Tenant) -> None:
    for _ in range(6):
        system.run(small.slug, FIVE)
    refused = system.call("POST", f"/pipelines/run/{small.slug}/{FIVE}", {})
    assert (refused.status, refused.json["limit_type"]) == (429, "daily")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    assert refused.json["reset_at"].startswith(tomorrow)


def test_the_same_key_and_body_is_the_same_run(system: System, tenant: Tenant) -> None:
    path = f"/pipelines/run/{tenant.slug}/{FIVE}"
    answers = [
        system.call("POST", path, {"start_date": "2026-01-01"}, headers={"Idempotency-Key": "k-1"})
        for _ in range(3)
    ]
    assert {answer.status for answer in answers} == {202}
    assert len({answer.json["run_id"] for answer in answers}) == 1
    assert [answer.headers.get("Idempotency-Replayed") for answer in answers] == [
        None,
        "true",
        "true",
    ]
    other = system.call(
        "POST", path, {"start_date": "2026-01-02"}, headers={"Idempotency-Key": "k-1"}
    )
    assert (other.status, other.json["error"]) == (422, "idempotency_mismatch")
    system.ended(tenant.slug, answers[0].json["run_id"])
    assert system.call("GET", f"/pipelines/quota/{tenant.slug}").json["today"] == 1


def at_once(calls: int, call: Callable[[int], Reply]) -> list[Reply]:
    with ThreadPoolExecutor(calls) as threads:
        return list(threads.map(call, range(calls)))


def test_a_hundred_equal_calls_at_once_are_one_run(system: System, small: Tenant) -> None:
    path = f"/pipelines/run/{small.slug}/{FIVE}"
    replies = at_once(
        100, lambda _: system.call("POST", path, {}, headers={"Idempotency-Key": "same"})
    )
    assert {reply.status for reply in replies} == {202}
    (run_id,) = {reply.json["run_id"] for reply in replies}
    assert all(reply.json == replies[0].json for reply in replies)
    assert {reply.headers["Location"] for reply in replies} == {replies[0].json["links"]["status"]}
    replayed = [reply.headers.get("Idempotency-Replayed") for reply in replies]
    assert sorted(map(str, replayed)) == ["None", *["true"] * 99]
    system.ended(small.slug, run_id)
    used = system.call("GET", f"/pipelines/quota/{small.slug}").json
    assert (used["concurrent"], used["today"]) == (0, 1)


def test_of_a_hundred_calls_at_once_at_a_limit_of_one_one_is_admitted(
    system: System, small: Tenant
) -> None:
    path = f"/pipelines/run/{small.slug}/{DIAMOND}"
    body = {"parameters": {"seconds": 30}}
    replies = at_once(
        100, lambda n: system.call("POST", path, body, headers={"Idempotency-Key": f"key {n}"})
    )
    (admitted,) = [reply for reply in replies if reply.status == 202]
    refused = [reply for reply in replies if reply is not admitted]
    assert {(reply.status, reply.json["limit_type"]) for reply in refused} == {(429, "concurrent")}
    run_id = admitted.json["run_id"]
    system.call("POST", f"/pipelines/cancel/{small.slug}/{run_id}")
    system.ended(small.slug, run_id)
    used = system.call("GET", f"/pipelines/quota/{small.slug}").json
    assert (used["concurrent"], used["today"], used["month"]) == (0, 1, 1)
    history = system.call("GET", f"/pipelines/history/{small.slug}").json
    assert [run["run_id"] for run in history["runs"]] == [run_id]


def test_a_refusal_does_not_use_the_key_up(system: System, small: Tenant) -> None:
    path = f"/pipelines/run/{small.slug}/{DIAMOND}"
    first = system.call("POST", path, {"parameters": {"seconds": 0.3}})
    key = {"Idempotency-Key": "later"}
    assert system.call("POST", path, {}, headers=key).status == 429
    system.ended(small.slug, first.json["run_id"])
    again = system.call("POST", path, {}, headers=key)
    assert again.status == 202
    assert "Idempotency-Replayed" not in again.headers
    system.ended(small.slug, again.json["run_id"])


def test_a_dry_run_shows_the_plan_and_changes_nothing(system: System, tenant: Tenant) -> None:
    before = system.call("GET", f"/pipelines/quota/{tenant.slug}").json
    reply = system.call("POST", f"/pipelines/run/{tenant.slug}/{DIAMOND}?dry_run=true", {})
    assert reply.status == 200
    assert [step["step_id"] for step in reply.json["plan"]["steps"]] == [
        "start",
        "left",
        "right",
        "join",
    ]
    assert reply.json["concurrent_left"] == 5
    assert system.call("GET", f"/pipelines/quota/{tenant.slug}").json == before
    assert system.call("GET", f"/pipelines/history/{tenant.slug}").json["runs"] == []


def test_a_cancelled_run_ends_and_starts_nothing_more(system: System, tenant: Tenant) -> None:
    path = f"/pipelines/run/{tenant.slug}/{DIAMOND}"
    started = system.call("POST", path, {"parameters": {"seconds": 30}})
    run_id = started.json["run_id"]
    status = f"/pipelines/status/{tenant.slug}/{run_id}"
    while system.call("GET", status).json["steps"][0]["status"] != "running":
        time.sleep(0.01)
    reply = system.call("POST", f"/pipelines/cancel/{tenant.slug}/{run_id}")
    assert reply.status == 200
    assert reply.json["status"] == "cancelling"
    run = system.ended(tenant.slug, run_id)
    assert run["status"] == "cancelled"
    assert {step["status"] for step in run["steps"]} == {"cancelled"}
    again = system.call("POST", f"/pipelines/cancel/{tenant.slug}/{run_id}")
    assert (again.status, again.json["status"]) == (200, "cancelled")
    assert system.call("GET", f"/pipelines/quota/{tenant.slug}").json["concurrent"] == 0


def test_one_that_takes_too_long_and_one_that_is_cancelled_leave_a_third_as_it_is(
    system: System, tenant: Tenant, other: Tenant, small: Tenant
) -> None:
    asked = {
        tenant.slug: (LATE, {}),
        other.slug: (DIAMOND, {"parameters": {"seconds": 30}}),
        small.slug: (DIAMOND, {"parameters": {"seconds": 0.5}}),
    }
    runs = {
        org: system.call("POST", f"/pipelines/run/{org}/{address}", body).json["run_id"]
        for org, (address, body) in asked.items()
    }
    system.call("POST", f"/pipelines/cancel/{other.slug}/{runs[other.slug]}")
    late, cancelled, third = (system.ended(org, run_id) for org, run_id in runs.items())
    assert (late["status"], late["error"]["code"]) == ("failed", "timeout")
    assert late["steps"][0]["attempt"] == 2
    assert cancelled["status"] == "cancelled"
    assert (third["status"], third["outcome"]) == ("completed", "ok")
    assert [step["attempt"] for step in third["steps"]] == [1] * 4
    used = [system.call("GET", f"/pipelines/quota/{org}").json for org in runs]
    assert [(each["concurrent"], each["today"]) for each in used] == [(0, 1)] * 3
    assert [(each["succeeded"], each["failed"]) for each in used] == [(0, 1), (0, 1), (1, 0)]


def test_history_pages_newest_first(system: System, tenant: Tenant) -> None:
    made = [system.run(tenant.slug, FIVE)["run_id"] for _ in range(5)]
    seen: list[str] = []
    path = f"/pipelines/history/{tenant.slug}?limit=2"
    cursor = ""
    while True:
        page = system.call("GET", path + cursor, key=tenant.key).json
        seen += [run["run_id"] for run in page["runs"]]
        if page["next"] is None:
            break
        cursor = f"&cursor={page['next']}"
    assert seen == made[::-1]


def test_a_run_goes_on_after_a_restart(opener: Opener) -> None:
    with opener() as system:
        system.organization("acme")
        started = system.call(
            "POST", f"/pipelines/run/acme/{DIAMOND}", {"parameters": {"seconds": 0.2}}
        )
        system.restart()
        run = system.ended("acme", started.json["run_id"])
        assert run["status"] == "completed"
        assert system.call("GET", "/pipelines/quota/acme").json["concurrent"] == 0
