"""The Oracle pipeline over HTTP, from a store that verifies who signs: the same sums to the last digit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from shared.settings import SourceHosts
from tests.support.exports import csv_gz, row
from tests.support.oci import OracleStorage
from tests.support.system import EmbeddedSystem

OCI = "oci/cost/billing"
DAY = {"start_date": "2025-02-02", "end_date": "2025-02-02"}


@pytest.fixture
def system(
    oci_storage: OracleStorage, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmbeddedSystem]:
    made = EmbeddedSystem(tmp_path_factory.mktemp("system"))
    made.settings = replace(made.settings, sources=SourceHosts(oci=oci_storage.host))
    with made:
        yield made


def test_a_day_of_oracle_is_exact_per_currency(
    system: EmbeddedSystem, oci_storage: OracleStorage
) -> None:
    system.organization("acme")
    bucket = oci_storage.make()
    credential = {
        "secret": oci_storage.secret,
        "metadata": {"source": f"oci://{bucket}", "export_name": "FOCUS Reports"},
    }
    put = system.call("PUT", "/admin/orgs/acme/credentials/oracle/main", credential)
    assert put.status == 201, put
    reports = {
        "0001": [row(1), row(2, BillingCurrency="EUR")],
        "0007": [row(3, BilledCost="-2.5e-1"), row(4, BillingCurrency="JPY", BilledCost="7")],
    }
    for name, rows in reports.items():
        oci_storage.write(bucket, f"FOCUS Reports/2025/02/02/{name}.csv.gz", csv_gz(rows))
    run = system.run("acme", OCI, DAY)
    assert run["status"] == "completed", run
    wanted = {
        "USD": Decimal("0.1000001") - Decimal("0.25"),
        "EUR": Decimal("0.1000002"),
        "JPY": Decimal(7),
    }
    found = system.call("GET", f"/pipelines/evidence/acme/{run['run_id']}").json["evidence"]
    assert len(found) == 2
    for step in found:
        (load,) = step["evidence"]["loads"]
        billed: list[Any] = [total for total in load["totals"] if total["column"] == "BilledCost"]
        for side in ("source", "loaded"):
            assert {one["currency"]: Decimal(one[side]) for one in billed} == wanted
    for table in ("oci_focus", "focus_costs"):
        sql = f"SELECT BillingCurrency, SUM(BilledCost) FROM {table} GROUP BY 1"
        rows_of = system.app.warehouse().query("acme_test", sql, {}).rows
        assert {one[0]: one[1] for one in rows_of} == wanted
    again = system.run("acme", OCI, DAY)
    assert again["status"] == "completed", again
