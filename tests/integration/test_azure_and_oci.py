"""Exports of Azure and reports of Oracle Cloud, through the real store, warehouse and pipelines' own steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.core.yaml import read
from shared.errors import Terminal, Transient
from shared.settings import ROOT
from shared.step import StepResult
from shared.warehouse import Value, Warehouse
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.exports import HEADER, AzureExport, Export, Row, csv_gz, row
from tests.support.focus import check_focus
from tests.support.step import CREATED, BareStep, run

PROCEDURES = ROOT / "configs" / "system" / "procedures"


class Scene:
    """A pipeline's two steps, with its configuration but for what a run would fill in."""

    def __init__(self, provider: str, source: Path, warehouse: Warehouse) -> None:
        path = ROOT / f"configs/cloud/{provider}/cost/billing.yml"
        steps: Any = read(path.name, path.read_bytes()).value
        self.configs = [dict(step["config"]) for step in steps["steps"]]
        for config in self.configs:
            config.update({"lookback_days": 0} if "lookback_days" in config else {})
        self.configs[0].update(source="file:.", max_reject_ratio=0, allow_empty=False)
        self.warehouse = warehouse
        self.raw = self.configs[0]["table"]
        self.runs = 0
        self.base = BareStep(
            source,
            warehouse,
            date(2025, 2, 1),
            date(2025, 2, 28),
            provider=provider,
            pipeline_id=f"{provider}_cost_billing",
        )

    def __call__(self, **changes: Any) -> tuple[StepResult, StepResult]:
        """A later run: extract, and then consolidate."""
        self.runs += 1
        lookback = changes.pop("lookback_days", 0)
        for config in self.configs:
            config["lookback_days"] = lookback
        made = CREATED + timedelta(hours=self.runs)
        step = self.base.another(run_id=f"r{self.runs}", run_created_at=made, **changes)
        extracted = run("cloud.billing_export", step, self.configs[0])
        after = step.another(step_id="consolidate")
        return extracted, run("generic.procedure_executor", after, self.configs[1])

    def query(self, sql: str) -> list[tuple[Value, ...]]:
        return self.warehouse.query("acme_test", sql, {}).rows

    def sums(self, table: str) -> dict[Value, Value]:
        sql = f"SELECT BillingCurrency, SUM(BilledCost) FROM {table} GROUP BY 1"
        return {row[0]: row[1] for row in self.query(sql)}


on_both = pytest.mark.parametrize(
    "warehouse", ["duckdb", pytest.param("bigquery", marks=pytest.mark.cloud)], indirect=True
)


@pytest.fixture
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    opened: Warehouse
    if getattr(request, "param", "duckdb") == "duckdb":
        opened = DuckdbWarehouse(tmp_path / "warehouse.duckdb", PROCEDURES, lambda: CREATED)
    else:
        from tests.support.bigquery import bigquery_warehouse, drop

        shutil.copytree(PROCEDURES, tmp_path / "procedures")
        (tmp_path / "scratch").mkdir()
        emulator = request.getfixturevalue("bigquery_emulator")
        bigquery = bigquery_warehouse(emulator.host, tmp_path)
        drop(bigquery, "acme_test")
        opened = bigquery
    opened.create_dataset("acme_test")
    yield opened
    opened.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "objects"
    folder.mkdir()
    return folder


# --- Azure ---

OWN = ("x_PublisherCategory", "x_InvoiceId", "x_ResourceGroupName", "x_SkuMeterName", "x_New")
AZURE = (*(name for name in HEADER if not name.startswith("x_")), *OWN)


def charge(number: int, period: str = "2025-02", **changes: str) -> dict[str, str]:
    """A row of Azure that breaks no rule, but for what is changed."""
    cells = {name: text for name, text in row(number, period).items() if name in AZURE}
    price = cells["ListCost"]
    whole = {
        "ProviderName": "Microsoft",
        "PublisherName": "Microsoft",
        "InvoiceIssuerName": "Microsoft",
        "RegionId": "westeurope",
        "RegionName": "West Europe",
        "ServiceName": "Virtual Machines",
        "ContractedUnitPrice": price,
        "ListUnitPrice": price,
        "ResourceType": "microsoft.compute/virtualmachines",
        "ResourceName": f"vm-{number}",
        "SkuId": "DZH1",
        "SkuPriceId": "DZH1-0001",
        "SubAccountName": "Production",
        "x_PublisherCategory": "Cloud Provider",
        "x_InvoiceId": "G1",
    }
    return cells | whole | changes


@pytest.fixture
def export(source: Path) -> AzureExport:
    return AzureExport(source)


@pytest.fixture
def azure(export: AzureExport, warehouse: Warehouse) -> Scene:
    scene = Scene("azure", export.source, warehouse)
    scene.configs[0]["export_name"] = export.name
    return scene


def deliver(export: AzureExport, *parts: Sequence[Row], **changes: Any) -> Path:
    header = tuple({name: None for part in parts for one in part for name in one}) or AZURE
    return export.deliver("2025-02", *parts, header=header, **changes)


@on_both
def test_a_month_of_azure_is_the_same_in_its_files_its_table_and_focus(
    azure: Scene, export: AzureExport
) -> None:
    refund = charge(3, BilledCost="-7.25", EffectiveCost="-7.25", PricingQuantity="-1")
    market = {"x_PublisherCategory": "Vendor", "PublisherName": "Datadog", "x_New": "later"}
    rows = [
        charge(1),
        charge(2, BillingCurrency="EUR"),
        refund,
        charge(4, BillingCurrency="JPY", BilledCost="2e-3"),
        charge(5, **market),
    ]
    deliver(export, rows[:2], rows[2:])
    extracted, consolidated = azure()
    wanted = {
        "USD": Decimal("0.1000001") - Decimal("7.25") + Decimal("0.1000005"),
        "EUR": Decimal("0.1000002"),
        "JPY": Decimal("0.002"),
    }
    assert azure.sums("azure_focus") == azure.sums("focus_costs") == wanted
    for result in (extracted, consolidated):
        (receipt,) = result.evidence.loads
        billed = [total for total in receipt.totals if total.column == "BilledCost"]
        assert {total.currency: total.source for total in billed} == wanted
        assert not any(total.residue for total in billed)
    assert extracted.evidence.loads[0].unknown_columns == ("x_New",)
    assert azure.query(
        "SELECT ServiceProviderName, HostProviderName, InvoiceId FROM focus_costs "
        "WHERE ResourceId IN ('i-1', 'i-5') ORDER BY ResourceId"
    ) == [("Microsoft", "Microsoft", "G1"), ("Datadog", "Datadog", "G1")]


def test_a_clean_month_of_azure_breaks_no_rule(
    azure: Scene, export: AzureExport, warehouse: Warehouse
) -> None:
    deliver(export, [charge(n) for n in range(20)])
    azure()
    check_focus(warehouse, "acme_test")
    before = azure.query("SELECT ResourceId, x_row_id FROM focus_costs ORDER BY 1")
    assert len({identity for _, identity in before}) == 20
    deliver(export, [charge(n) for n in range(20)][::-1], time="202502160730")
    azure()
    assert azure.query("SELECT ResourceId, x_row_id FROM focus_costs ORDER BY 1") == before


def test_of_the_runs_of_a_month_the_newest_counts_whatever_the_order_of_their_files(
    azure: Scene, export: AzureExport
) -> None:
    deliver(export, [charge(n) for n in range(9)], time="202502280730")
    deliver(export, [charge(n) for n in range(5)], time="202502150730")
    azure()
    assert azure.query("SELECT COUNT(*) FROM focus_costs") == [(9,)]
    # restated, and smaller: what is gone has to go
    deliver(export, [charge(1)], time="202503030730")
    azure()
    assert azure.query("SELECT ResourceId FROM focus_costs") == [("i-1",)]


def test_a_month_that_is_loaded_daily_is_its_last_snapshot(
    azure: Scene, export: AzureExport
) -> None:
    for day in range(1, 29):
        deliver(export, [charge(n) for n in range(day * 3)], time=f"202502{day:02d}0730")
        first = date(2025, 2, day)
        azure(start_date=first, end_date=first)
    wanted = {"USD": sum(Decimal(charge(n)["BilledCost"]) for n in range(84))}
    assert azure.sums("azure_focus") == azure.sums("focus_costs") == wanted
    assert azure.query("SELECT COUNT(*) FROM focus_costs") == [(84,)]


def test_an_earlier_month_is_looked_at_again_and_left_alone_when_nothing_changed(
    azure: Scene, export: AzureExport
) -> None:
    deliver(export, [charge(1)], time="202502280730")
    azure()
    march = export.deliver("2025-03", [charge(2, "2025-03")], time="202503020730", header=AZURE)
    third = {"start_date": date(2025, 3, 3), "end_date": date(2025, 3, 3), "lookback_days": 7}
    again, _ = azure(**third)
    assert [load.slices[0].run_date for load in again.evidence.loads] == [date(2025, 3, 1)]
    deliver(export, [charge(1), charge(3)], time="202503030730")
    again, _ = azure(**third)
    assert [load.slices[0].run_date for load in again.evidence.loads] == [
        date(2025, 2, 1),
        date(2025, 3, 1),
    ]
    assert azure.query("SELECT COUNT(*) FROM focus_costs") == [(3,)]
    assert march.exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"dataRowCount": 7}, "row_count"),
        ({"blobs": [{"blobName": "costs/elsewhere/part_0_0001.csv.gz"}]}, "manifest_path"),
        ({"blobs": [{"blobName": ".."}]}, "manifest_path"),
        ({"blobs": "all"}, "manifest_unreadable"),
        ({"blobs": [], "dataRowCount": None}, "empty_export"),
    ],
)
def test_a_manifest_of_azure_that_cannot_be_right_changes_nothing(
    azure: Scene, export: AzureExport, change: dict[str, object], code: str
) -> None:
    deliver(export, [charge(1)])
    azure()
    deliver(export, [charge(2)], time="202502160730", **change)
    with pytest.raises(Terminal) as caught:
        azure()
    assert caught.value.code == code
    assert azure.query("SELECT ResourceId FROM focus_costs") == [("i-1",)]


def test_a_cut_file_of_azure_is_found_by_its_size(azure: Scene, export: AzureExport) -> None:
    manifest = deliver(export, [charge(n) for n in range(50)])
    (part,) = manifest.parent.glob("part*")
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(Terminal) as caught:
        azure()
    assert caught.value.code == "file_size"


def test_a_header_in_another_language_is_refused_clearly(azure: Scene, export: AzureExport) -> None:
    deliver(export, [{"Kosten": "1", "Währung": "EUR", "Datum": "01.02.2025"}])
    with pytest.raises(Terminal, match="begins Kosten, Währung, Datum") as caught:
        azure()
    assert caught.value.code == "not_focus"


def test_a_manifest_of_aws_that_is_older_than_its_data_waits_for_the_next(
    source: Path, warehouse: Warehouse
) -> None:
    aws = Scene("aws", source, warehouse)
    aws.configs[0]["export_name"] = "costs"
    export = Export(source)
    export.deliver("2025-02", [row(1)])
    aws()
    path = export.file("2025-02", "costs-00001.csv.gz", csv_gz([row(1), row(2)]))
    later = datetime.now(UTC).timestamp() + 60
    os.utime(source / path.partition("prefix/")[2], (later, later))
    with pytest.raises(Transient) as caught:
        aws()
    assert caught.value.code == "delivery_in_progress"
    assert aws.query("SELECT COUNT(*) FROM focus_costs") == [(1,)]


# --- Oracle Cloud ---

RENAMED = {
    "InvoiceIssuerName": "InvoiceIssuer",
    "ProviderName": "Provider",
    "PublisherName": "Publisher",
    "RegionId": "Region",
    "ConsumedQuantity": "UsageQuantity",
    "ConsumedUnit": "UsageUnit",
}
ORACLE = (
    *(
        RENAMED.get(name, name)
        for name in HEADER
        if name not in {"ChargeClass", "ContractedCost"} and not name.startswith("x_")
    ),
    "ChargeSubcategory",
    "oci_ReferenceNumber",
    "oci_BackReferenceNumber",
    "tags/oracle-tags",
)


def line(number: int, **changes: str) -> dict[str, str]:
    """A row of a report in the words of the 1.0 preview, without seconds."""
    cells = row(number)
    cells = {RENAMED.get(name, name): text for name, text in cells.items()}
    for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
        cells[name] = cells[name].replace(":00Z", "Z")
    whole = {
        "Provider": "Oracle",
        "Publisher": "Oracle",
        "InvoiceIssuer": "Oracle",
        "PricingCategory": "On-Demand",
        "ChargeSubcategory": "On-Demand",
        "oci_ReferenceNumber": f"R{number}",
        "tags/oracle-tags": "a",
    }
    return cells | whole | changes


class Reports:
    """FOCUS reports in a folder, a file for each hour that it is told."""

    def __init__(self, source: Path) -> None:
        self.source = source

    def write(self, day: str, name: str, rows: Sequence[Row]) -> None:
        path = self.source / "FOCUS Reports" / day.replace("-", "/") / f"{name}-00001.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(csv_gz(rows, ORACLE))


@pytest.fixture
def reports(source: Path) -> Reports:
    return Reports(source)


@pytest.fixture
def oracle(source: Path, warehouse: Warehouse) -> Scene:
    scene = Scene("oci", source, warehouse)
    scene.configs[0]["export_name"] = "FOCUS Reports"
    second = date(2025, 2, 2)
    scene.base = scene.base.another(start_date=second, end_date=second)
    return scene


@on_both
def test_the_files_of_a_day_of_oracle_add_up_in_the_words_of_today(
    oracle: Scene, reports: Reports
) -> None:
    reports.write("2025-02-02", "0001", [line(1), line(2, BillingCurrency="EUR")])
    credit = {"ChargeCategory": "Adjustment", "ChargeSubcategory": "Credit", "BilledCost": "-0.05"}
    reports.write("2025-02-02", "0007", [line(3, **credit), line(4, BilledCost="-1e-3")])
    extracted, _ = oracle()
    wanted = {
        "USD": Decimal("0.1000001") - Decimal("0.05") - Decimal("0.001"),
        "EUR": Decimal("0.1000002"),
    }
    assert oracle.sums("oci_focus") == oracle.sums("focus_costs") == wanted
    (receipt,) = extracted.evidence.loads
    assert receipt.unknown_columns == ("tags/oracle-tags",)
    assert {finding.code for finding in extracted.evidence.findings} == {"renamed_column"}
    assert oracle.query(
        "SELECT ChargeCategory, PricingCategory, ServiceProviderName, HostProviderName, RegionId, "
        "ConsumedUnit, ContractedCost, BillingPeriodEnd, x_oci_ReferenceNumber, x_pipeline_run_date "
        "FROM focus_costs WHERE x_oci_ReferenceNumber IN ('R1', 'R3') ORDER BY 9"
    ) == [
        (
            category,
            "Standard",
            "Oracle",
            "Oracle",
            "us-east-1",
            "Hours",
            None,
            datetime(2025, 3, 1, tzinfo=UTC),
            number,
            date(2025, 2, 2),
        )
        for category, number in (("Usage", "R1"), ("Credit", "R3"))
    ]


@on_both
def test_a_row_that_comes_twice_counts_once_and_says_so(oracle: Scene, reports: Reports) -> None:
    reports.write("2025-02-02", "0001", [line(1), line(2)])
    reports.write("2025-02-02", "0007", [line(2), line(2, BilledCost="0.5"), line(3)])
    oracle()
    assert oracle.query("SELECT COUNT(*) FROM oci_focus") == [(5,)]
    assert oracle.query(
        "SELECT x_oci_ReferenceNumber, BilledCost, x_deliveries FROM focus_costs ORDER BY 1, 2"
    ) == [
        ("R1", Decimal("0.1000001"), 1),
        ("R2", Decimal("0.1000002"), 2),
        ("R2", Decimal("0.5"), 1),
        ("R3", Decimal("0.1000003"), 1),
    ]
    (raw,) = oracle.query("SELECT SUM(BilledCost) FROM oci_focus")
    assert oracle.query("SELECT SUM(BilledCost * x_deliveries) FROM focus_costs") == [raw]


def test_rows_without_a_reference_number_are_all_counted(oracle: Scene, reports: Reports) -> None:
    reports.write("2025-02-02", "0001", [line(1, oci_ReferenceNumber="")] * 3)
    oracle()
    assert oracle.query("SELECT COUNT(*), SUM(x_deliveries) FROM focus_costs") == [(3, 3)]


def test_a_late_file_is_found_by_looking_back_and_other_days_are_left_alone(
    oracle: Scene, reports: Reports
) -> None:
    for day in (1, 2):
        reports.write(f"2025-02-0{day}", "0001", [line(day)])
    first, second, third = (date(2025, 2, day) for day in (1, 2, 3))
    oracle(start_date=first, end_date=second)
    reports.write("2025-02-01", "0025", [line(10, oci_BackReferenceNumber="R1", BilledCost="-0.1")])
    reports.write("2025-02-03", "0001", [line(3)])
    extracted, _ = oracle(start_date=third, end_date=third, lookback_days=3)
    loads = extracted.evidence.loads
    assert [load.slices[0].run_date for load in loads] == [first, third]
    assert oracle.sums("oci_focus") == oracle.sums("focus_costs")
    assert oracle.query("SELECT COUNT(*) FROM focus_costs") == [(4,)]
    assert oracle.query("SELECT COUNT(*) FROM focus_costs WHERE ChargeClass IS NOT NULL") == [(0,)]


def test_what_amends_a_period_that_is_over_is_a_correction(oracle: Scene, reports: Reports) -> None:
    reports.write("2025-03-04", "0001", [line(9, oci_BackReferenceNumber="R1"), line(8)])
    day = date(2025, 3, 4)
    oracle(start_date=day, end_date=day)
    assert oracle.query(
        "SELECT x_oci_ReferenceNumber, ChargeClass FROM focus_costs ORDER BY 1"
    ) == [
        ("R8", None),
        ("R9", "Correction"),
    ]


def test_a_day_without_a_file_is_not_taken_for_one_without_costs(
    oracle: Scene, reports: Reports
) -> None:
    reports.write("2025-02-02", "0001", [line(1)])
    oracle()
    empty = date(2025, 2, 5)
    with pytest.raises(Terminal, match="FOCUS Reports/2025/02/05/") as caught:
        oracle(start_date=empty, end_date=empty)
    assert caught.value.code == "delivery_missing"
    assert oracle.query("SELECT COUNT(*) FROM focus_costs") == [(1,)]
