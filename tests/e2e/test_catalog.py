"""The catalog through the HTTP API: what a pipeline takes, and that a run takes it."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Tenant
from tests.support.system import System

DIAMOND = "engine/noop/diamond"
AWS = "aws/cost/billing"


def test_every_pipeline_of_the_list_can_be_looked_at(system: System, tenant: Tenant) -> None:
    listed = system.call("GET", f"/pipelines/catalog/{tenant.slug}", key=tenant.key).json
    assert {AWS, DIAMOND} <= {one["address"] for one in listed["pipelines"]}
    for one in listed["pipelines"]:
        path = f"/pipelines/catalog/{tenant.slug}/{one['address']}"
        found = system.call("GET", path, key=tenant.key)
        assert found.status == 200
        assert found.json["pipeline_id"] == one["pipeline_id"]
        assert [step["step_id"] for step in found.json["steps"]] == one["steps"]


def test_a_parameter_has_its_default_and_the_type_that_its_step_wants(
    system: System, tenant: Tenant
) -> None:
    found = system.call("GET", f"/pipelines/catalog/{tenant.slug}/{DIAMOND}", key=tenant.key).json
    parameters = {one["name"]: one for one in found["parameters"]}
    assert (parameters["seconds"]["type"], parameters["rows"]["type"]) == ("number", "integer")
    schema = found["run_schema"]["properties"]["parameters"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["rows"]["minimum"] == 0
    assert schema["properties"]["rows"]["default"] == parameters["rows"]["default"]
    assert found["credential"] == {"needed": False, "provider": "engine"}


@pytest.mark.parametrize(
    ("parameters", "status"), [({"rows": 3}, 200), ({"rows": "x"}, 400), ({"rowz": 3}, 400)]
)
def test_what_the_schema_refuses_a_run_refuses_too(
    system: System, tenant: Tenant, parameters: dict[str, object], status: int
) -> None:
    body = {"parameters": parameters, "dry_run": True}
    reply = system.call("POST", f"/pipelines/run/{tenant.slug}/{DIAMOND}", body, key=tenant.key)
    assert reply.status == status


def test_a_pipeline_says_whose_credential_it_needs(system: System, tenant: Tenant) -> None:
    found = system.call("GET", f"/pipelines/catalog/{tenant.slug}/{AWS}", key=tenant.key).json
    assert found["credential"] == {"needed": True, "provider": "aws"}


def test_a_pipeline_that_is_none_is_not_found(system: System, tenant: Tenant) -> None:
    reply = system.call("GET", f"/pipelines/catalog/{tenant.slug}/a/b/c", key=tenant.key)
    assert (reply.status, reply.json["error"]) == (404, "pipeline_not_found")
