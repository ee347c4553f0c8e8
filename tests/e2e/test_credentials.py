"""Credentials at the door of the API: what fits its provider is stored, and can be checked live."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Opener, Tenant
from tests.support.api import Api, Asked, Said
from tests.support.credentials import aws_keys
from tests.support.exports import Export, row
from tests.support.google import EMAIL, TOKEN, carries_token, given_token, service_account
from tests.support.providers import point_at
from tests.support.system import Reply, System

KEY = "sk-admin-theKeyOfThisTest"


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


@pytest.fixture(scope="module")
def system(opener: Opener, api: Api) -> Iterator[System]:
    made = opener()
    for provider in ("openai", "anthropic", "gemini", "gcp"):
        point_at(made.settings.configs, provider, api.url)
    with made:
        yield made


def put(system: System, tenant: Tenant, name: str, body: dict[str, Any]) -> Reply:
    return system.call("PUT", f"/admin/orgs/{tenant.slug}/credentials/{name}", body)


def checked(system: System, tenant: Tenant, name: str) -> dict[str, Any]:
    reply = system.call("POST", f"/admin/orgs/{tenant.slug}/credentials/{name}/check")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json
    return found


def faults(reply: Reply) -> dict[str, str]:
    assert (reply.status, reply.json["error"]) == (400, "invalid_request"), reply
    return {fault["field"]: fault["message"] for fault in reply.json["faults"]}


# --- what is stored ---


def test_what_is_wrong_with_a_credential_is_told_at_once_and_nothing_stored(
    system: System, tenant: Tenant
) -> None:
    body = {"type": "role", "secret": {"access_key_id": "short", "secret_acess_key": KEY}}
    reply = put(system, tenant, "aws/main", body)
    found = faults(reply)
    assert set(found) == {
        "secret.access_key_id",
        "secret.secret_access_key",
        "secret.secret_acess_key",
        "metadata.role_arn",
    }
    assert "did you mean 'secret_access_key'?" in found["secret.secret_acess_key"]
    assert KEY not in str(reply.json)
    listed = system.call("GET", f"/admin/orgs/{tenant.slug}/credentials")
    assert (listed.status, listed.json) == (200, {"credentials": []})


def test_an_unknown_provider_is_named_with_the_nearest_one(system: System, tenant: Tenant) -> None:
    reply = put(system, tenant, "opnai/main", {"secret": {"api_key": KEY}})
    assert (reply.status, reply.json["error"]) == (404, "provider_not_found")
    assert "did you mean 'openai'?" in reply.json["detail"]


def test_an_alias_leads_to_the_one_name(system: System, tenant: Tenant) -> None:
    assert put(system, tenant, "amazon/main", {"secret": aws_keys()}).json["provider"] == "aws"
    path = f"/admin/orgs/{tenant.slug}/credentials"
    (listed,) = system.call("GET", f"{path}/amazon").json["credentials"]
    assert (listed["provider"], listed["metadata"]["type"]) == ("aws", "access_key")
    assert system.call("DELETE", f"{path}/amazon/main").status == 204
    assert system.call("GET", f"{path}/aws").json["credentials"] == []


# --- what a provider says of it ---


def test_a_key_that_the_provider_takes_is_ok(system: System, tenant: Tenant, api: Api) -> None:
    def answer(asked: Asked) -> Said:
        taken = asked.headers.get("authorization") == f"Bearer {KEY}"
        return Said(200 if taken else 401, {"data": []})

    api.answer = answer
    put(system, tenant, "openai/main", {"secret": {"api_key": KEY}})
    found = checked(system, tenant, "openai/main")
    assert (found["result"], found["error"], found["version"]) == ("ok", "", 1)
    assert found["checked"].endswith("/organization/costs")
    assert found["needs"] == "the scope api.usage.read"


@pytest.mark.parametrize(
    ("said", "result", "code"),
    [
        (Said(401, {"error": {"message": f"Incorrect API key: {KEY}"}}), "refused", "unauthorized"),
        (Said(403, {"error": {"message": "Missing scopes"}}), "refused", "forbidden"),
        (Said(429, {}, {"retry-after": "1"}), "unreachable", "rate_limited"),
        (Said(503), "unreachable", "http_503"),
    ],
)
def test_what_a_provider_answers_is_told_without_the_key(
    system: System, tenant: Tenant, api: Api, said: Said, result: str, code: str
) -> None:
    api.answer = lambda _: said
    put(system, tenant, "openai/main", {"secret": {"api_key": KEY}})
    found = checked(system, tenant, "openai/main")
    assert (found["result"], found["error"]) == (result, code)
    assert f"answered {said.status}" in found["message"]
    assert KEY not in str(found)


def test_a_service_account_is_asked_for_a_token_and_what_it_may_read(
    system: System, tenant: Tenant, api: Api
) -> None:
    def answer(asked: Asked) -> Said:
        if token := given_token(asked):
            return token
        return Said(200 if carries_token(asked) else 401, {})

    api.answer = answer
    put(system, tenant, "gemini/main", {"secret": service_account()})
    put(system, tenant, "gcp/main", {"secret": service_account()})
    found = checked(system, tenant, "gemini/main")
    assert (found["result"], found["needs"]) == ("ok", "roles/monitoring.viewer on the project")
    assert found["checked"].endswith("/projects/customer/metricDescriptors")
    assert checked(system, tenant, "google/main")["checked"] == "a token"
    api.answer = lambda _: Said(400, {"error": "invalid_grant", "error_description": "gone"})
    found = checked(system, tenant, "gcp/main")
    assert (found["result"], found["error"]) == ("refused", "bad_credential")
    assert EMAIL in found["message"]
    assert TOKEN not in str(found)


def test_the_source_of_an_export_is_looked_at(system: System, tenant: Tenant) -> None:
    source = system.objects(tenant.slug) / "exports"
    source.mkdir(parents=True)
    Export(source).deliver("2025-02", [row(1)])
    put(system, tenant, "aws/main", system.source(tenant.slug, "exports"))
    found = checked(system, tenant, "aws/main")
    assert (found["result"], found["message"]) == ("ok", "")
    assert found["checked"].startswith("a listing of ")
    elsewhere = {"secret": aws_keys(), "metadata": {"source": "ftp://bucket/exports"}}
    put(system, tenant, "aws/other", elsewhere)
    assert checked(system, tenant, "aws/other")["error"] == "bad_source"


def test_what_cannot_be_asked_is_no_ok(system: System, tenant: Tenant) -> None:
    put(system, tenant, "aws/main", {"secret": aws_keys()})
    found = checked(system, tenant, "aws/main")
    assert (found["result"], found["checked"]) == ("unchecked", "nothing: it has no source")
    path = f"/admin/orgs/{tenant.slug}/credentials/aws/nobody/check"
    missing = system.call("POST", path)
    assert (missing.status, missing.json["error"]) == (404, "credential_not_found")
