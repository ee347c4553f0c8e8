"""Google Cloud's billing accounts and projects over HTTP: from its APIs into the organization's tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Opener, Tenant
from tests.support.api import Api, Asked, Said
from tests.support.google import EMAIL, carries_token, given_token, service_account
from tests.support.providers import point_at
from tests.support.system import System

INVENTORY = "gcp/inventory/accounts"
DAY = {"start_date": "2026-03-01", "end_date": "2026-03-01"}
ACCOUNTS: list[Any] = [
    {
        "name": f"billingAccounts/01-{n}",
        "displayName": f"A{n}",
        "open": n != 2,
        "currencyCode": "EUR",
    }
    for n in range(1, 4)
]
PROJECTS: list[Any] = [
    {"name": f"projects/{n}", "projectId": f"p-{n}", "state": "ACTIVE", "labels": {"team": "x"}}
    for n in range(1, 4)
]


def google(asked: Asked) -> Said:
    """Two entries a page, for who has a token."""
    if token := given_token(asked):
        return token
    if not carries_token(asked):
        return Said(401)
    name, listing = {
        "/billing/v1/billingAccounts": ("billingAccounts", ACCOUNTS),
        "/resource_manager/v3/projects:search": ("projects", PROJECTS),
    }[asked.path]
    first = int(asked.query.get("pageToken", ["0"])[0])
    body: dict[str, Any] = {name: listing[first : first + 2]}
    if first + 2 < len(listing):
        body["nextPageToken"] = str(first + 2)
    return Said(body=body)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


@pytest.fixture(scope="module")
def system(opener: Opener, api: Api) -> Iterator[System]:
    made = opener()
    point_at(made.settings.configs, "gcp", api.url)
    with made:
        yield made


@pytest.fixture(autouse=True)
def _answering(api: Api) -> None:
    api.answer = google
    api.asked.clear()


@pytest.fixture
def known(system: System, tenant: Tenant) -> Tenant:
    """A tenant whose key file is stored, under an alias of the provider."""
    path = f"/admin/orgs/{tenant.slug}/credentials/google/main"
    stored = system.call("PUT", path, {"secret": service_account()})
    assert stored.status == 201, stored
    assert stored.json["provider"] == "gcp"
    assert stored.json["metadata"]["client_email"] == EMAIL
    return tenant


def rows(system: System, tenant: Tenant, sql: str) -> list[Any]:
    return system.app.warehouse().query(f"{tenant.slug}_test", sql, {}).rows


def test_accounts_and_projects_are_loaded_to_the_last_page(system: System, known: Tenant) -> None:
    run = system.run(known.slug, INVENTORY, DAY, key=known.key)
    assert (run["status"], run["outcome"]) == ("completed", "ok")
    sql = "SELECT name, open, x_pipeline_run_date FROM gcp_billing_accounts ORDER BY name"
    found = rows(system, known, sql)
    assert [(name, is_open, str(day)) for name, is_open, day in found] == [
        ("billingAccounts/01-1", True, "2026-03-01"),
        ("billingAccounts/01-2", False, "2026-03-01"),
        ("billingAccounts/01-3", True, "2026-03-01"),
    ]
    sql = "SELECT project_id, x_credential_id FROM gcp_projects ORDER BY project_id"
    assert rows(system, known, sql) == [(f"p-{n}", "main") for n in range(1, 4)]


def test_an_account_without_the_right_fails_the_run_and_is_told_which(
    system: System, known: Tenant, api: Api
) -> None:
    denied = Said(403, {"error": {"message": "The caller does not have permission"}})
    api.answer = lambda asked: denied if "/projects" in asked.path else google(asked)
    run = system.run(known.slug, INVENTORY, DAY, key=known.key)
    assert run["status"] == "failed"
    error = next(step["error"] for step in run["steps"] if step["step_id"] == "projects")
    assert error["code"] == "forbidden"
    assert f"give {EMAIL} roles/browser on the organization" in error["message"]
    key = service_account()["private_key"]
    assert key.splitlines()[1] not in str(run)
