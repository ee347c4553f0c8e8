"""The AWS pipeline over HTTP: real files in, exact sums out, and nothing changed by what is wrong."""

from __future__ import annotations

import csv
import gzip
import os
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Tenant
from tests.support.exports import Export, row
from tests.support.system import System

AWS = "aws/cost/billing"
SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "focus_sample.csv"
MONEY = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")


@pytest.fixture
def export(system: System, tenant: Tenant) -> Export:
    """An export in the tenant's objects, and the credential that names it."""
    return export_of(system, tenant)


def export_of(system: System, tenant: Tenant) -> Export:
    source = system.objects(tenant.slug) / "exports"
    source.mkdir(parents=True)
    stored = system.call(
        "PUT",
        f"/admin/orgs/{tenant.slug}/credentials/aws/main",
        system.source(tenant.slug, "exports"),
    )
    assert stored.status == 201
    return Export(source)


def days(first: str, last: str) -> dict[str, str]:
    return {"start_date": first, "end_date": last}


FEBRUARY = days("2025-02-01", "2025-02-28")


def evidence(system: System, tenant: Tenant, run_id: str) -> dict[str, dict[str, Any]]:
    reply = system.call("GET", f"/pipelines/evidence/{tenant.slug}/{run_id}", key=tenant.key)
    return {found["step_id"]: found["evidence"] for found in reply.json["evidence"]}


def totals(proof: dict[str, Any], side: str) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for load in proof["loads"]:
        for total in load["totals"]:
            name = total["column"]
            sums[name] = sums.get(name, Decimal(0)) + Decimal(total[side])
    return sums


def table(system: System, tenant: Tenant, sql: str) -> list[tuple[Any, ...]]:
    return system.app.warehouse().query(f"{tenant.slug}_test", sql, {}).rows


def contents(system: System, tenant: Tenant) -> list[list[tuple[Any, ...]]]:
    """Everything that a failed run must leave as it was."""
    return [
        sorted(table(system, tenant, f"SELECT * FROM {name}"), key=str)
        for name in ("aws_focus", "focus_costs", "_loads", "_rejects")
    ]


def quota(system: System, tenant: Tenant) -> dict[str, int]:
    found = system.call("GET", f"/pipelines/quota/{tenant.slug}").json
    return {name: found[name] for name in ("concurrent", "succeeded", "failed", "today")}


@pytest.mark.skipif(
    not SAMPLE.exists() and os.environ.get("CI") != "true",
    reason="the FinOps Foundation's sample lies beside the repository, not in it",
)
def test_the_official_sample_is_exact(system: System, tenant: Tenant, export: Export) -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        header, *body = file.readlines()
    months: dict[str, list[str]] = {}
    for line in body:
        months.setdefault(next(csv.reader([line]))[6][:7], []).append(line)
    for month, lines in months.items():
        packed = gzip.compress("".join([header, *lines]).encode())
        export.manifest(month, [export.file(month, "costs-00001.csv.gz", packed)])
    run = system.run(tenant.slug, AWS, days("2024-09-01", "2024-10-31"), key=tenant.key)
    assert run["status"] == "completed", run
    extract, consolidate = run["steps"]
    for step in (extract, consolidate):
        summary = step["summary"]
        assert (summary["extracted"], summary["loaded"], summary.get("rejected", 0)) == (
            1000,
            1000,
            0,
        )
    proof = evidence(system, tenant, run["run_id"])
    expected = {
        "BilledCost": Decimal("20.52022672899"),
        "EffectiveCost": Decimal("14.97651418586"),
        "ListCost": Decimal("20.39090575119"),
        "ContractedCost": Decimal("14.97626039326"),
    }
    assert totals(proof["extract"], "source") == expected
    assert totals(proof["extract"], "loaded") == expected
    assert totals(proof["consolidate"], "loaded") == expected
    rows = {load["slices"][0]["run_date"]: load["loaded"] for load in proof["extract"]["loads"]}
    assert rows == {"2024-09-01": 999, "2024-10-01": 1}
    for name in ("aws_focus", "focus_costs"):
        sums = ", ".join(f"SUM({column})" for column in MONEY)
        (found,) = table(system, tenant, f"SELECT {sums} FROM {name}")
        assert dict(zip(MONEY, found, strict=True)) == expected
        (nulls,) = table(
            system, tenant, f"SELECT COUNT(*) FROM {name} WHERE ContractedCost IS NULL"
        )
        assert nulls == (7,)


def test_the_same_month_again_changes_nothing(
    system: System, tenant: Tenant, export: Export
) -> None:
    export.deliver("2025-02", [row(1), row(2)], [row(3, BilledCost="-0.5")])
    month = days("2025-02-01", "2025-02-28")
    first = system.run(tenant.slug, AWS, month)
    assert first["status"] == "completed", first
    kept = "SELECT BilledCost, x_row_id FROM focus_costs"
    before = sorted(table(system, tenant, kept))
    second = system.run(tenant.slug, AWS, month)
    assert second["status"] == "completed", second
    assert sorted(table(system, tenant, kept)) == before
    assert len(before) == 3
    proofs = [evidence(system, tenant, run["run_id"]) for run in (first, second)]
    for step in ("extract", "consolidate"):
        one, two = (proof[step]["loads"][0] for proof in proofs)
        assert one["checksum"] == two["checksum"]
    loads = table(system, tenant, "SELECT COUNT(*) FROM _loads")
    assert loads == [(2,)]


def test_lineage_names_the_run_that_wrote_the_row(
    system: System, tenant: Tenant, export: Export
) -> None:
    export.deliver("2025-02", [row(1)])
    run = system.run(tenant.slug, AWS, days("2025-02-01", "2025-02-28"))
    (found,) = table(
        system,
        tenant,
        "SELECT x_org_slug, x_pipeline_id, x_credential_id, CAST(x_pipeline_run_date AS STRING),"
        " x_run_id FROM focus_costs",
    )
    assert found == (tenant.slug, "aws_cost_billing", "main", "2025-02-01", run["run_id"])


class Loaded:
    """A tenant with a month that is loaded; `export` is as it was delivered, each time it is asked for."""

    def __init__(self, system: System, folder: Path) -> None:
        self.tenant = Tenant(system, "scale")
        self._export = export_of(system, self.tenant)
        self._export.deliver("2025-02", [row(1), row(2)])
        self._delivered = folder / "delivered"
        shutil.copytree(self._export.source, self._delivered)
        assert system.run(self.tenant.slug, AWS, FEBRUARY)["status"] == "completed"

    def export(self) -> Export:
        shutil.rmtree(self._export.source)
        shutil.copytree(self._delivered, self._export.source)  # with their times
        return self._export


@pytest.fixture(scope="module")
def loaded(system: System, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(system, tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        ("no manifest", "manifest_missing", "costs-Manifest.json"),
        ("missing file", "file_missing", "costs-00001.csv.gz"),
        ("too few rows", "row_count", "costs-00001.csv.gz"),
        ("truncated", "unreadable_file", "costs-00001.csv.gz"),
        ("no number", "reject_threshold", "not a number"),
        ("no column", "missing_column", "BilledCost"),
        ("older", "superseded", "2025-02"),
    ],
)
def test_what_is_wrong_with_an_export_is_told_and_changes_nothing(
    system: System, loaded: Loaded, spoil: str, code: str, says: str
) -> None:
    tenant, export = loaded.tenant, loaded.export()
    before, used = contents(system, tenant), quota(system, tenant)
    data = next(export.source.rglob("*.csv.gz"))
    manifest = next(export.source.rglob("*Manifest.json"))
    match spoil:
        case "no manifest":
            manifest.unlink()
        case "missing file":
            data.unlink()
        case "too few rows":
            path = export.file("2025-02", data.name, data.read_bytes())
            export.manifest("2025-02", [{"blobName": path, "dataRowCount": 1}])
        case "truncated":
            data.write_bytes(data.read_bytes()[:-20])
        case "no number":
            export.deliver("2025-02", [row(1, BilledCost="1,5 USD")])
        case "no column":
            header = tuple(name for name in row(1) if name != "BilledCost")
            _rewrite(data, header)
        case "older":
            stamp = manifest.stat().st_mtime - 86_400
            os.utime(manifest, (stamp, stamp))
    if data.exists() and manifest.exists():  # written before it, as a provider does
        stamp = manifest.stat().st_mtime
        os.utime(data, (stamp, stamp))
    run = system.run(tenant.slug, AWS, FEBRUARY)
    assert run["status"] == "failed", run
    assert run["error"]["code"] == code, run["error"]
    assert says in run["error"]["message"]
    assert [step["status"] for step in run["steps"]] == ["failed", "skipped"]
    assert contents(system, tenant) == before
    assert quota(system, tenant) == used | {
        "failed": used["failed"] + 1,
        "today": used["today"] + 1,
    }


def test_a_source_that_is_not_the_organizations_own_cannot_be_named(
    system: System, tenant: Tenant, other: Tenant, export: Export
) -> None:
    export.deliver("2025-02", [row(1)])
    for source, secret in system.foreign_sources(other.slug, export.source):
        put = f"/admin/orgs/{other.slug}/credentials/aws/main"
        stored = {"metadata": {"source": source, "export_name": "costs"}, **secret}
        assert system.call("PUT", put, stored).status in (200, 201)
        run = system.run(other.slug, AWS, days("2025-02-01", "2025-02-28"))
        assert run["status"] == "failed", source
        assert run["error"]["code"] in ("bad_source", "source_missing", "bad_credential")
        assert str(export.source.parents[1]) not in str(run).replace(source, "")


def _rewrite(path: Path, header: tuple[str, ...]) -> None:
    from tests.support.exports import csv_gz

    path.write_bytes(csv_gz([row(1)], header))
