"""What is wrong with a request is said clearly, and nothing changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

from tests.e2e.conftest import Tenant
from tests.support.credentials import aws_keys
from tests.support.system import Reply, System

FIVE = "engine/noop/five"


def run(system: System, tenant: Tenant, body: Any = None, path: str = FIVE) -> Reply:
    return system.call("POST", f"/pipelines/run/{tenant.slug}/{path}", body, key=tenant.key)


def untouched(system: System, tenant: Tenant) -> bool:
    quota = system.call("GET", f"/pipelines/quota/{tenant.slug}", key=tenant.key).json
    history = system.call("GET", f"/pipelines/history/{tenant.slug}", key=tenant.key).json
    return quota["today"] == quota["month"] == quota["concurrent"] == 0 and not history["runs"]


def test_without_a_key_nothing_is_answered(system: System, tenant: Tenant) -> None:
    for key in (
        "",
        "cpk_nonsense",
        tenant.key[:-1],
        tenant.key + "x",
        "ü".encode().decode("latin1"),
    ):
        reply = system.call("GET", f"/pipelines/history/{tenant.slug}", key=key)
        assert (reply.status, reply.json["error"]) == (401, "unauthenticated")
        assert "X-API-Key" in reply.json["detail"] or "API key" in reply.json["detail"]


def test_another_organization_does_not_exist(system: System, tenant: Tenant, other: Tenant) -> None:
    run_id = system.run(other.slug, FIVE)["run_id"]
    for path in (
        f"/pipelines/history/{other.slug}",
        f"/pipelines/quota/{other.slug}",
        f"/pipelines/catalog/{other.slug}",
        f"/pipelines/status/{other.slug}/{run_id}",
        f"/pipelines/logs/{other.slug}/{run_id}",
        f"/pipelines/evidence/{other.slug}/{run_id}",
        f"/admin/orgs/{other.slug}",
    ):
        theirs = system.call("GET", path, key=tenant.key)
        nobodys = system.call("GET", path.replace(other.slug, "nobody_at_all"), key=tenant.key)
        assert (theirs.status, theirs.json["error"]) == (404, "org_not_found")
        assert nobodys.json["error"] == theirs.json["error"]
    # Under one's own name, another's run id is a run id that does not exist.
    mine = system.call("GET", f"/pipelines/status/{tenant.slug}/{run_id}", key=tenant.key)
    assert (mine.status, mine.json["error"]) == (404, "run_not_found")


def test_another_organizations_run_cannot_be_started_or_cancelled(
    system: System, tenant: Tenant, other: Tenant
) -> None:
    started = system.call("POST", f"/pipelines/run/{other.slug}/{FIVE}", {}, key=tenant.key)
    assert started.status == 404
    assert untouched(system, other)
    run_id = system.run(other.slug, FIVE)["run_id"]
    for slug in (other.slug, tenant.slug):
        reply = system.call("POST", f"/pipelines/cancel/{slug}/{run_id}", key=tenant.key)
        assert reply.status == 404


def test_a_tenants_key_is_no_key_of_the_platform(system: System, tenant: Tenant) -> None:
    for method, path in (("GET", "/admin/orgs"), ("POST", "/admin/orgs")):
        reply = system.call(method, path, {"slug": "mine_too"}, key=tenant.key)
        assert reply.status == 403
    reply = system.call("POST", f"/admin/orgs/{tenant.slug}/keys", {"name": "x"}, key=tenant.key)
    assert (reply.status, reply.json["error"]) == (403, "scope_missing")


def test_an_unknown_organization_is_named(system: System) -> None:
    reply = system.call("POST", f"/pipelines/run/nobody_here/{FIVE}", {})
    assert (reply.status, reply.json["error"]) == (404, "org_not_found")
    assert "nobody_here" in reply.json["detail"]


def test_an_unknown_pipeline_is_named_with_its_near_miss(system: System, tenant: Tenant) -> None:
    reply = run(system, tenant, {}, "engine/noop/fiv")
    assert reply.status == 404
    assert "engine/noop/five" in reply.json["detail"]
    assert untouched(system, tenant)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"start_date": "2026-02-30"}, "start_date"),
        ({"start_date": "01/02/2026"}, "start_date"),
        ({"start_date": "2026-1-1"}, "start_date"),
        ({"start_date": ""}, "start_date"),
        ({"start_date": 20260101}, "start_date"),
        ({"start_date": "2026-02-02", "end_date": "2026-02-01"}, "end_date"),
        ({"end_date": "2999-01-01"}, "end_date"),
        ({"start_dat": "2026-01-01"}, "start_dat"),
        ({"parameters": {"sceonds": 1}}, "parameters.sceonds"),
        ({"parameters": []}, "parameters"),
        ({"parameters": {"seconds": "x" * 20_000}}, "parameters"),
        ({"dry_run": "yes"}, "dry_run"),
    ],
)
def test_a_wrong_field_is_named(
    system: System, tenant: Tenant, body: dict[str, Any], field: str
) -> None:
    reply = run(system, tenant, body)
    assert reply.status == 400, reply
    assert [fault["field"] for fault in reply.json["faults"]] == [field]
    assert untouched(system, tenant)


def test_a_whole_number_may_be_written_with_a_fraction_of_nothing(
    system: System, tenant: Tenant
) -> None:
    body = b'{"parameters": {"rows": 20.0}, "dry_run": true}'
    reply = run(system, tenant, body, "engine/noop/diamond")
    assert reply.status == 200, reply
    assert reply.json["params"]["parameters"] == {"rows": 20}


def test_all_faults_are_told_at_once(system: System, tenant: Tenant) -> None:
    body = {"start_date": "x", "end_date": "y"}
    reply = run(system, tenant, body)
    assert {fault["field"] for fault in reply.json["faults"]} == {"start_date", "end_date"}


@pytest.mark.parametrize(
    "raw",
    [b"{", b"[]", b'"x"', b"\xff\xfe", b"null", b"{}{}", b'{"a":' * 2000, b"NaN", b'{"a": 1e999}'],
)
def test_a_body_that_is_no_object_is_refused(system: System, tenant: Tenant, raw: bytes) -> None:
    reply = run(system, tenant, raw)
    assert reply.status == 400, reply
    assert reply.json["request_id"]
    assert untouched(system, tenant)


def test_a_body_of_ten_megabytes_is_refused(system: System, tenant: Tenant) -> None:
    reply = run(system, tenant, b'{"x": "' + b"a" * 10_000_000 + b'"}')
    assert (reply.status, reply.json["error"]) == (413, "body_too_large")


def test_a_body_without_a_length_is_bounded_too(system: System, tenant: Tenant) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"x": "'
        for _ in range(30):
            yield b"a" * 100_000
        yield b'"}'

    path = f"/pipelines/run/{tenant.slug}/{FIVE}"
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    reply = urllib3.request(
        "POST", system.url + path, body=chunks(), headers=headers, retries=False
    )
    assert reply.status == 413
    assert untouched(system, tenant)


def test_a_body_of_another_kind_is_refused(system: System, tenant: Tenant) -> None:
    path = f"/pipelines/run/{tenant.slug}/{FIVE}"
    reply = system.call("POST", path, b"a=b", headers={"Content-Type": "text/plain"})
    assert (reply.status, reply.json["error"]) == (415, "unsupported_media_type")


def test_a_query_parameter_nobody_knows_is_named(system: System, tenant: Tenant) -> None:
    reply = run(system, tenant, {}, FIVE + "?start_dat=2026-01-01")
    assert (reply.status, reply.json["faults"][0]["field"]) == (400, "start_dat")
    twice = run(system, tenant, {}, FIVE + "?start_date=2026-01-01&start_date=2026-01-02")
    assert (twice.status, twice.json["faults"][0]["field"]) == (400, "start_date")


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "tab\there"])
def test_an_idempotency_key_nobody_could_mean_is_refused(
    system: System, tenant: Tenant, key: str
) -> None:
    path = f"/pipelines/run/{tenant.slug}/{FIVE}"
    reply = system.call("POST", path, {}, headers={"Idempotency-Key": key})
    assert reply.status == 400
    assert untouched(system, tenant)


def test_a_missing_credential_is_said_before_anything_is_spent(
    system: System, tenant: Tenant
) -> None:
    reply = run(system, tenant, {}, "aws/cost/billing")
    assert (reply.status, reply.json["error"]) == (400, "credential_missing")
    for name in ("one", "two"):
        put = f"/admin/orgs/{tenant.slug}/credentials/aws/{name}"
        stored = system.call("PUT", put, {"metadata": {"source": "file:a", "export_name": "e"}})
        assert stored.status == 201
    both = run(system, tenant, {}, "aws/cost/billing")
    assert (both.status, both.json["error"]) == (400, "credential_ambiguous")
    assert "one, two" in both.json["faults"][0]["message"]
    wrong = run(system, tenant, {"credential_id": "three"}, "aws/cost/billing")
    assert (wrong.status, wrong.json["error"]) == (400, "credential_not_found")
    assert untouched(system, tenant)


@pytest.mark.parametrize("status", ["SUSPENDED", "CANCELLED"])
def test_an_organization_that_is_not_active_may_not_run(
    system: System, tenant: Tenant, status: str
) -> None:
    system.call("POST", f"/admin/orgs/{tenant.slug}/status", {"status": status})
    reply = run(system, tenant, {})
    assert (reply.status, reply.json["error"]) == (403, "org_not_active")
    assert status in reply.json["detail"]
    assert untouched(system, tenant)


def test_a_credential_that_no_step_uses_is_refused(system: System, tenant: Tenant) -> None:
    for credential_id in ("main", "", "x" * 10_000):
        reply = run(system, tenant, {"credential_id": credential_id})
        assert (reply.status, reply.json["error"]) == (400, "credential_not_used")
    assert untouched(system, tenant)


def test_an_organization_cannot_lift_its_own_suspension(system: System, tenant: Tenant) -> None:
    keys = f"/admin/orgs/{tenant.slug}/keys"
    made = system.call("POST", keys, {"name": "theirs", "scopes": ["admin"]})
    key = made.json["api_key"]
    assert system.call("GET", keys, key=key).status == 200
    path = f"/admin/orgs/{tenant.slug}/status"
    system.call("POST", path, {"status": "SUSPENDED"})
    reply = system.call("POST", path, {"status": "ACTIVE"}, key=key)
    assert (reply.status, reply.json["error"]) == (403, "forbidden")
    assert system.call("GET", f"/admin/orgs/{tenant.slug}").json["status"] == "SUSPENDED"


@pytest.mark.parametrize("slug", ["ab", "1abc", "Acme", "a-b-c", "a" * 51, "a.b/c", "äcme", ""])
def test_a_slug_that_is_none_is_refused(system: System, slug: str) -> None:
    reply = system.call("POST", "/admin/orgs", {"slug": slug})
    assert reply.status == 400
    assert "slug" in str(reply.json)


def test_a_slug_that_is_taken_is_a_conflict(system: System, tenant: Tenant) -> None:
    reply = system.call("POST", "/admin/orgs", {"slug": tenant.slug})
    assert reply.status == 409


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=x",
        "limit=201",
        "limit=000100999",
        "limit=" + "1" * 5000,
        "cursor=x",
        "status=done",
        "created_from=soon",
        "created_from=2026-02-30",
    ],
)
def test_a_wrong_question_about_history_is_refused(
    system: System, tenant: Tenant, query: str
) -> None:
    reply = system.call("GET", f"/pipelines/history/{tenant.slug}?{query}")
    assert reply.status == 400


def test_a_path_or_method_nobody_has_is_told(system: System, tenant: Tenant) -> None:
    assert system.call("GET", "/nothing/here").status == 404
    assert system.call("GET", "/../../etc/passwd").status == 404
    wrong = system.call("PUT", f"/pipelines/run/{tenant.slug}/{FIVE}", {})
    assert (wrong.status, wrong.headers["Allow"]) == (405, "POST")


def test_the_push_endpoints_are_not_served_to_the_outside(system: System) -> None:
    bare = system.url.removesuffix("/api/v1")
    for name in ("step_worker", "coordinator", "scheduler"):
        reply = system._http.request("POST", f"{bare}/push/{name}", body=b"{}")
        assert reply.status == 404


def test_a_stored_secret_never_comes_back(system: System, tenant: Tenant) -> None:
    canary = "canary0123456789abcdef"
    path = f"/admin/orgs/{tenant.slug}/credentials/aws"
    stored = system.call("PUT", f"{path}/main", {"secret": aws_keys(canary)})
    listed = system.call("GET", path)
    assert stored.status == 201
    assert listed.json["credentials"][0]["credential_id"] == "main"
    assert canary not in str(stored) + str(listed)
    assert not any(canary.encode() in stored for stored in system.at_rest())
