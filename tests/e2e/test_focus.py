"""Costs are judged by the rules of FOCUS where they lie, and seen in the shape of each version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Tenant
from tests.support.exports import Export, csv_gz, row
from tests.support.focus import check_focus
from tests.support.system import System

AWS = "aws/cost/billing"
MONTH = {"start_date": "2025-02-01", "end_date": "2025-02-28"}
DAYS = "start_date=2025-02-01&end_date=2025-02-28"


def charge(number: int, **changes: str) -> dict[str, str]:
    """A row of AWS that breaks no rule, but for what is changed."""
    cells = row(number)
    cost = cells["ListCost"]
    whole = {
        "ContractedUnitPrice": cost,
        "ListUnitPrice": cost,
        "RegionName": "US East (N. Virginia)",
        "ResourceType": "Instance",
        "SkuId": "SKU",
        "SkuPriceId": "SKU.1",
        "SubAccountName": "Production",
    }
    return cells | whole | changes


@pytest.fixture
def loaded(system: System, tenant: Tenant) -> System:
    """The system with a month of five charges, two of which break a rule."""
    source = system.objects(tenant.slug) / "exports"
    source.mkdir(parents=True)
    system.call(
        "PUT",
        f"/admin/orgs/{tenant.slug}/credentials/aws/main",
        system.source(tenant.slug, "exports"),
    )
    rows = [charge(number) for number in range(3)]
    rows += [charge(3, PricingCategory="On-Demand"), charge(4, ListCost="0.2")]
    export = Export(source)
    paths = [export.file("2025-02", "costs-00001.csv.gz", csv_gz(rows, tuple(rows[0])))]
    export.manifest("2025-02", paths)
    run = system.run(tenant.slug, AWS, MONTH, key=tenant.key)
    assert run["status"] == "completed", run
    return system


def test_a_table_is_checked_where_it_lies(loaded: System, tenant: Tenant, other: Tenant) -> None:
    path = f"/focus/check/{tenant.slug}"
    reply = loaded.call("GET", f"{path}?{DAYS}", key=tenant.key)
    assert reply.status == 200, reply
    report: dict[str, Any] = reply.json
    assert (report["table"], report["version"], report["rows"]) == ("focus_costs", "1.4", 5)
    assert not report["passed"]
    musts = [found for found in report["broken"] if found["severity"] == "must"]
    assert [(found["rule"], found["rows"]) for found in musts] == [
        ("ListCost.product", 1),
        ("PricingCategory.allowed", 1),
    ]
    ids = {
        ids
        for (ids,) in loaded.app.warehouse()
        .query(
            f"{tenant.slug}_test",
            "SELECT x_row_id FROM focus_costs WHERE ListCost = CAST('0.2' AS BIGNUMERIC)",
            {},
        )
        .rows
    }
    assert set(musts[0]["samples"]) == ids
    allowed = {"ListCost.product": "the test's", "PricingCategory.allowed": "the test's"}
    check_focus(loaded.app.warehouse(), f"{tenant.slug}_test", allowed=allowed)

    assert loaded.call("GET", f"{path}?start_date=2025-02-03", key=tenant.key).json["rows"] == 0
    for query, status, error in (
        ("table=no_such", 404, "table_not_found"),
        ("table=_loads", 400, "invalid_request"),
        ("table=a.b", 400, "invalid_request"),
        ("start_date=2025-02-30", 400, "invalid_request"),
    ):
        reply = loaded.call("GET", f"{path}?{query}", key=tenant.key)
        assert (reply.status, reply.json["error"]) == (status, error), reply
    assert loaded.call("GET", path, key=other.key).json["error"] == "org_not_found"
    nothing = loaded.call("GET", f"/focus/check/{other.slug}", key=other.key)
    assert nothing.json["error"] == "table_not_found"


def test_the_command_judges_a_table_and_a_file_alike(
    loaded: System, tenant: Tenant, tmp_path: Path
) -> None:
    def pipelines(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "shared.cli", "focus", "check", *arguments],
            env={
                **os.environ,
                "PIPELINES_URL": loaded.url.removesuffix("/api/v1"),
                "PIPELINES_API_KEY": tenant.key,
                "PIPELINES_ORG": tenant.slug,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    table = pipelines("focus_1_2", "--from", "2025-02-01", "--to", "2025-02-28")
    assert table.returncode == 1, table
    assert table.stdout.startswith("FOCUS 1.2: 5 rows, ")
    assert "must      PricingCategory.allowed" in table.stdout
    path = tmp_path / "export.csv.gz"
    rows = [charge(1), charge(2, PricingCategory="On-Demand")]
    path.write_bytes(csv_gz(rows, tuple(rows[0])))
    told = pipelines(str(path), "--json")
    assert told.returncode == 1, told
    report = json.loads(told.stdout)
    assert (report["version"], report["rows"]) == ("1.0", 2)
    found = {one["rule"]: one for one in report["broken"]}
    assert found["PricingCategory.allowed"]["samples"] == ["2"]
    path.write_bytes(b"")
    empty = pipelines(str(path))
    assert (empty.returncode, empty.stdout) == (2, "")
    assert "is empty" in empty.stderr
