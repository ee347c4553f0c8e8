"""Operators through the HTTP API: plans, the rotation of keys, and who changed what."""

from __future__ import annotations

from tests.e2e.conftest import Tenant
from tests.support.credentials import aws_keys
from tests.support.system import System


def test_an_organization_has_its_own_limits_or_those_of_its_plan(
    system: System, tenant: Tenant
) -> None:
    path = f"/admin/orgs/{tenant.slug}/plan"
    own = {"daily": 7, "monthly": None, "concurrent": 1}
    changed = system.call("POST", path, {"plan": "starter", "limits": own})
    assert (changed.status, changed.json["plan"]) == (200, "starter")
    assert changed.json["limits"] == own
    assert system.call("GET", f"/pipelines/quota/{tenant.slug}").json["limits"] == own
    back = system.call("POST", path, {})
    assert back.json["limits"] == {"daily": 6, "monthly": 180, "concurrent": 1}
    assert system.call("POST", path, {"plan": "gold"}).status == 400
    assert system.call("POST", path, {"limits": {"daily": 1}}).status == 400
    assert system.call("POST", path, {"plan": "scale"}, key=tenant.key).status in (403, 404)


def test_a_rotated_key_and_the_one_that_follows_both_open(system: System, tenant: Tenant) -> None:
    keys = f"/admin/orgs/{tenant.slug}/keys"
    (old,) = system.call("GET", keys).json["keys"]
    made = system.call("POST", f"{keys}/{old['key_id']}/rotate", {"overlap_hours": 1})
    assert made.status == 201
    assert (made.json["key"]["name"], made.json["key"]["scopes"]) == (old["name"], old["scopes"])
    for key in (tenant.key, made.json["api_key"]):
        assert system.call("GET", f"/pipelines/quota/{tenant.slug}", key=key).status == 200
    shown = {one["key_id"]: one for one in system.call("GET", keys).json["keys"]}
    assert shown[old["key_id"]]["expires_at"] is not None
    assert shown[old["key_id"]]["last_used_at"] is not None
    unknown = system.call("POST", f"{keys}/{'0' * 12}/rotate", {})
    assert (unknown.status, unknown.json["error"]) == (404, "key_not_found")


def test_a_key_rotated_without_overlap_opens_no_more(system: System, tenant: Tenant) -> None:
    keys = f"/admin/orgs/{tenant.slug}/keys"
    made = system.call("POST", keys, {"name": "short"}).json
    rotated = system.call("POST", f"{keys}/{made['key']['key_id']}/rotate", {"overlap_hours": 0})
    path = f"/pipelines/quota/{tenant.slug}"
    assert system.call("GET", path, key=made["api_key"]).status == 401
    assert system.call("GET", path, key=rotated.json["api_key"]).status == 200


def test_every_change_says_who_made_it_when_and_what_was_before(
    system: System, tenant: Tenant
) -> None:
    org, secret = f"/admin/orgs/{tenant.slug}", "theSecretOfTheAuditTest"
    request = {"X-Request-Id": "audit-test"}
    system.call("POST", f"{org}/status", {"status": "SUSPENDED"}, headers=request)
    system.call("POST", f"{org}/plan", {"plan": "starter"})
    made = system.call("POST", f"{org}/keys", {"name": "ci"}).json
    system.call("POST", f"{org}/keys/{made['key']['key_id']}/rotate", {})
    system.call("DELETE", f"{org}/keys/{made['key']['key_id']}")
    system.call("PUT", f"{org}/credentials/aws/main", {"secret": aws_keys(secret)})
    system.call("DELETE", f"{org}/credentials/aws/main")
    reply = system.call("GET", f"/admin/audit?org={tenant.slug}")
    assert reply.status == 200
    entries = reply.json["entries"][::-1]
    assert [entry["verb"] for entry in entries] == [
        "organization.created",
        "key.created",
        "organization.status_set",
        "organization.plan_set",
        "key.created",
        "key.rotated",
        "key.revoked",
        "credential.store",
        "credential.stored",
        "credential.deactivate",
        "credential.deactivated",
    ]
    suspended = entries[2]
    assert (suspended["before"], suspended["after"]) == (
        {"status": "ACTIVE"},
        {"status": "SUSPENDED"},
    )
    assert suspended["request_id"] == "audit-test"
    assert len({entry["key_id"] for entry in entries}) == 1
    assert secret not in str(reply.json)
    assert made["api_key"].rpartition("_")[2] not in str(reply.json)


def test_a_change_in_another_store_is_noted_before_it_is_made_and_after(
    system: System, tenant: Tenant
) -> None:
    path = f"/admin/orgs/{tenant.slug}/credentials/aws"
    request = {"X-Request-Id": "two-entries"}
    assert system.call("PUT", f"{path}/main", {"secret": aws_keys()}, headers=request).status == 201
    assert system.call("PUT", f"{path}/none", {"secret": aws_keys()}).status == 400
    assert system.call("DELETE", f"{path}/none").status == 404
    entries = system.call("GET", f"/admin/audit?org={tenant.slug}").json["entries"][::-1]
    told = [(entry["verb"], entry["target"], entry["after"]) for entry in entries[2:]]
    assert told == [
        ("credential.store", "aws/main", {"asked": True}),
        ("credential.stored", "aws/main", {"version": 1}),
        ("credential.store", "aws/none", {"asked": True}),
        ("credential.store", "aws/none", {"refused": "invalid_request"}),
    ]
    assert [entry["request_id"] for entry in entries[2:4]] == ["two-entries"] * 2


def test_the_audit_is_paged_and_for_operators_only(system: System, tenant: Tenant) -> None:
    first = system.call("GET", f"/admin/audit?org={tenant.slug}&limit=1").json
    second = system.call(
        "GET", f"/admin/audit?org={tenant.slug}&limit=1&cursor={first['next']}"
    ).json
    assert [first["entries"][0]["verb"], second["entries"][0]["verb"]] == [
        "key.created",
        "organization.created",
    ]
    assert second["next"] is None
    assert system.call("GET", "/admin/audit?cursor=x").status == 400
    admin = system.call(
        "POST", f"/admin/orgs/{tenant.slug}/keys", {"name": "a", "scopes": ["admin"]}
    ).json["api_key"]
    assert system.call("GET", "/admin/audit", key=admin).status in (403, 404)
    assert system.call("GET", "/admin/audit", key=tenant.key).status in (403, 404)
