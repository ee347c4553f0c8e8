"""Exports as they should be, through the real store and the real warehouse."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.cli.sample import COSTS, make_export
from shared.core.lineage import LoadReceipt
from shared.step import StepResult
from shared.warehouse import Value
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.exports import HEADER, Export, csv_gz, csv_text, row
from tests.support.step import CREATED, BareStep, run

PROCEDURES = Path(__file__).parents[2] / "configs" / "system" / "procedures"
SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "focus_sample.csv"
CONFIG = {
    "source": "file:.",
    "export_name": "costs",
    "table": "aws_focus",
    "custom_columns": {
        "x_CostCategories": "json",
        "x_Discounts": "json",
        "x_Operation": "text",
        "x_ServiceCode": "text",
        "x_UsageType": "text",
    },
}
CONSOLIDATE = {"procedure": "focus_from_aws"}


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[DuckdbWarehouse]:
    opened = DuckdbWarehouse(tmp_path / "warehouse.duckdb", PROCEDURES, lambda: CREATED)
    opened.create_dataset("acme_test")
    yield opened
    opened.close()


@pytest.fixture
def export(tmp_path: Path) -> Export:
    return Export(tmp_path / "objects")


@pytest.fixture
def step(export: Export, warehouse: DuckdbWarehouse) -> BareStep:
    export.source.mkdir()
    return BareStep(export.source, warehouse, date(2025, 2, 10), date(2025, 2, 10))


def extract(step: BareStep, **changes: Any) -> StepResult:
    return run("cloud.billing_export", step, CONFIG | changes)


def consolidate(step: BareStep) -> StepResult:
    return run("generic.procedure_executor", step, CONSOLIDATE)


def query(step: BareStep, sql: str) -> list[tuple[Value, ...]]:
    return step.warehouse.query(step.dataset, sql, {}).rows


def sums(receipt: LoadReceipt) -> dict[str, Decimal]:
    return {total.column: total.loaded for total in receipt.totals}


def test_a_month_of_two_files_is_loaded_with_its_lineage_and_proof(
    step: BareStep, export: Export
) -> None:
    at = datetime(2025, 3, 1, 5, tzinfo=UTC)
    export.deliver("2025-02", [row(1), row(2)], [row(3, BilledCost="-7.25")], at=at)
    result = extract(step)
    assert (result.summary.extracted, result.summary.loaded, result.summary.rejected) == (3, 3, 0)
    assert result.summary.message == "2025-02: 3 rows from 2 files"
    assert not result.summary.no_data
    (receipt,) = result.evidence.loads
    assert receipt.source_at == at
    assert receipt.source_version.startswith("6f0e8f7a-0000-4000-8000-000000000001#")
    assert [(s.run_date, s.rows) for s in receipt.slices] == [(date(2025, 2, 1), 3)]
    assert sums(receipt)["BilledCost"] == Decimal("0.1000001") + Decimal("0.1000002") - Decimal(
        "7.25"
    )
    assert result.evidence.credential_version == "3"
    assert [name.partition("@")[0] for name in result.evidence.objects] == [
        "costs/metadata/BILLING_PERIOD=2025-02/costs-Manifest.json",
        "costs/data/BILLING_PERIOD=2025-02/costs-00001.csv.gz",
        "costs/data/BILLING_PERIOD=2025-02/costs-00002.csv.gz",
    ]
    assert query(
        step,
        "SELECT x_org_slug, x_pipeline_id, x_credential_id, x_pipeline_run_date, x_run_id, "
        "x_source_file, COUNT(*) FROM aws_focus GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 6",
    ) == [
        (
            "acme",
            "aws_cost_billing",
            "main",
            date(2025, 2, 1),
            "r1",
            f"costs/data/BILLING_PERIOD=2025-02/costs-0000{n}.csv.gz",
            count,
        )
        for n, count in ((1, 2), (2, 1))
    ]


def test_the_days_of_a_run_choose_the_months_that_they_touch(
    step: BareStep, export: Export
) -> None:
    for month in ("2025-01", "2025-02", "2025-03", "2025-04"):
        export.deliver(month, [row(n, month) for n in range(3)])
    result = extract(step.another(start_date=date(2025, 1, 31), end_date=date(2025, 3, 1)))
    assert [receipt.slices[0].run_date for receipt in result.evidence.loads] == [
        date(2025, 1, 1),
        date(2025, 2, 1),
        date(2025, 3, 1),
    ]
    assert result.summary.message == "2025-01 to 2025-03: 9 rows from 3 files"


def test_a_restated_month_replaces_the_old_one_and_shrinks_with_it(
    step: BareStep, export: Export
) -> None:
    first = datetime(2025, 2, 10, tzinfo=UTC)
    for day, count in enumerate((5, 8, 3)):
        export.deliver("2025-02", [row(n) for n in range(count)], at=first + timedelta(days=day))
        result = extract(step.another(run_id=f"r{day}", run_created_at=CREATED + timedelta(day)))
        assert result.summary.loaded == count
        assert query(step, "SELECT COUNT(*), COUNT(DISTINCT x_run_id) FROM aws_focus") == [
            (count, 1)
        ]


def test_the_same_delivery_again_changes_nothing(step: BareStep, export: Export) -> None:
    export.deliver("2025-02", [row(n) for n in range(5)])
    content = (
        "SELECT ChargeDescription, BilledCost, x_pipeline_run_date, x_source_file "
        "FROM aws_focus ORDER BY 1"
    )
    first = extract(step).evidence.loads[0]
    before = query(step, content)
    again = extract(
        step.another(run_id="r2", run_created_at=CREATED + timedelta(1))
    ).evidence.loads[0]
    assert query(step, content) == before
    assert (again.source_version, again.checksum) == (first.source_version, first.checksum)
    assert again.totals == first.totals


def test_create_new_mode_reads_the_newest_run_of_the_month_alone(
    step: BareStep, export: Export
) -> None:
    for day, count in ((1, 10), (3, 4), (2, 7)):
        name = f"2025-03-0{day}T01:02:03.456Z-run{day}"
        path = export.file(
            "2025-02", "costs-00001.csv.gz", csv_gz(row(n) for n in range(count)), name
        )
        export.manifest("2025-02", [path], run=name, execution_id=f"run{day}")
    result = extract(step)
    assert result.summary.loaded == 4
    assert result.evidence.loads[0].source_at == datetime(2025, 3, 3, 1, 2, 3, 456_000, UTC)


def test_parquet_and_csv_leave_the_same_rows(step: BareStep, export: Export) -> None:
    cells = [row(n, BilledCost="1e-07" if n == 3 else f"0.{n}") for n in range(1, 5)]
    path = export.file("2025-02", "costs-00001.csv", csv_text(cells).encode())
    export.manifest("2025-02", [path])
    extract(step)
    content = (
        "SELECT BilledCost, ListCost, ChargePeriodStart, BillingPeriodEnd, ChargeDescription, "
        "AvailabilityZone, TO_JSON_STRING(Tags) AS Tags, TO_JSON_STRING(x_Discounts) AS x_Discounts "
        "FROM aws_focus ORDER BY ChargeDescription"
    )
    before = query(step, content)
    columns: dict[str, pa.Array] = {}
    for name in HEADER:
        texts = [cell[name] or None for cell in cells]
        if name.endswith(("Cost", "Quantity")):
            columns[name] = pa.array([float(text or "nan") for text in texts], pa.float64())
        elif name.endswith(("PeriodStart", "PeriodEnd")):
            moments = [datetime.fromisoformat(str(text)).replace(tzinfo=None) for text in texts]
            columns[name] = pa.array(moments, pa.timestamp("ms"))
        elif name == "Tags":
            columns[name] = pa.array([[("team", "a")]] * 4, pa.map_(pa.string(), pa.string()))
        elif name == "x_Discounts":
            columns[name] = pa.array([[]] * 4, pa.map_(pa.string(), pa.float64()))
        else:
            columns[name] = pa.array(texts, pa.string())
    target = export.source / "costs/data/BILLING_PERIOD=2025-02/costs-00001.snappy.parquet"
    pq.write_table(pa.table(columns), target, compression="snappy")
    export.manifest("2025-02", [f"s3://b/{target.relative_to(export.source)}"])
    result = extract(step.another(run_id="r2", run_created_at=CREATED + timedelta(1)))
    assert result.summary.loaded == 4
    after = query(step, content)
    assert [[str(value).replace(" ", "") for value in cells] for cells in after] == [
        [str(value).replace(" ", "") for value in cells] for cells in before
    ]
    assert after[2][0] == Decimal("1e-07")


@pytest.mark.parametrize("name", ["costs-[1].csv.gz", "costs-?.csv.gz", "costs-*.csv.gz"])
def test_a_file_is_read_by_its_name_and_not_by_a_pattern(
    step: BareStep, export: Export, name: str
) -> None:
    export.file("2025-02", "costs-1.csv.gz", csv_gz([row(8)]))  # of no delivery
    export.manifest("2025-02", [export.file("2025-02", name, csv_gz([row(1)]))])
    extract(step)
    assert query(step, "SELECT ChargeDescription FROM aws_focus") == [("charge 1",)]


@pytest.mark.parametrize("suffix", ["csv.gz", "parquet"])
def test_the_name_of_a_folder_hides_no_column_of_a_file(
    step: BareStep, export: Export, suffix: str
) -> None:
    one = row(1, BILLING_PERIOD="own")
    content = csv_gz([one], tuple(one))
    if suffix == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [cell] for name, cell in one.items()}), buffer)
        content = buffer.getvalue()
    path = export.file("2025-02", f"costs-1.{suffix}", content, "BilledCost=0")
    export.manifest("2025-02", [path])
    receipt = extract(step).evidence.loads[0]
    assert sums(receipt)["BilledCost"] == Decimal("0.1000001")
    told = query(step, "SELECT JSON_VALUE(x_unknown, '$.BILLING_PERIOD') FROM aws_focus")
    assert told == [("own",)]


def test_names_of_the_preview_are_read_as_those_of_today_and_told(
    step: BareStep, export: Export
) -> None:
    renamed = {
        "ProviderName": "Provider",
        "PublisherName": "Publisher",
        "InvoiceIssuerName": "InvoiceIssuer",
        "RegionId": "Region",
        "ConsumedQuantity": "UsageQuantity",
        "ConsumedUnit": "UsageUnit",
    }
    absent = {"ContractedCost", "ContractedUnitPrice", "ChargeClass"}
    header = [renamed.get(name, name) for name in HEADER if name not in absent]
    cells = [{renamed.get(k, k): v for k, v in row(1).items()} | {"ChargeSubcategory": "On-Demand"}]
    path = export.file("2025-02", "costs-1.csv.gz", csv_gz(cells, [*header, "ChargeSubcategory"]))
    export.manifest("2025-02", [path])
    result = extract(step)
    told = [f.message for f in result.evidence.findings if f.code == "renamed_column"]
    assert sorted(told) == sorted(f"{old} is read as {new}" for new, old in renamed.items())
    assert query(
        step,
        "SELECT ProviderName, PublisherName, InvoiceIssuerName, RegionId, ConsumedQuantity, "
        "ConsumedUnit, ContractedCost, JSON_VALUE(x_unknown, '$.ChargeSubcategory') FROM aws_focus",
    ) == [
        (
            "AWS",
            "Amazon Web Services, Inc.",
            "Amazon Web Services, Inc.",
            "us-east-1",
            Decimal(1),
            "Hours",
            None,
            "On-Demand",
        )
    ]


def test_files_of_one_delivery_may_differ_in_their_columns(step: BareStep, export: Export) -> None:
    shuffled = [*reversed(HEADER), "x_UsageType"]
    paths = [
        export.file("2025-02", "costs-1.csv.gz", csv_gz([row(1)])),
        export.file("2025-02", "costs-2.csv.gz", csv_gz([row(2, x_UsageType="Box")], shuffled)),
    ]
    export.manifest("2025-02", paths)
    assert extract(step).summary.loaded == 2
    assert query(
        step, "SELECT ChargeDescription, x_UsageType, BilledCost FROM aws_focus ORDER BY 1"
    ) == [
        ("charge 1", None, Decimal("0.1000001")),
        ("charge 2", "Box", Decimal("0.1000002")),
    ]


def test_cells_with_quotes_commas_and_line_ends_are_one_cell(
    step: BareStep, export: Export
) -> None:
    nasty = 'a "quoted", b\nnext line\r\n; ü 🚀 \\ NULL'
    export.deliver("2025-02", [row(1, ChargeDescription=nasty), row(2)])
    assert extract(step).summary.loaded == 2
    assert query(step, "SELECT ChargeDescription FROM aws_focus WHERE ResourceId = 'i-1'") == [
        (nasty,)
    ]


def test_consolidation_takes_every_row_and_changes_no_amount(
    step: BareStep, export: Export
) -> None:
    export.deliver(
        "2025-02",
        [
            row(1),
            row(2, ChargeCategory="Credit", BilledCost="-12.5", EffectiveCost="-12.5"),
            row(
                3,
                ChargeCategory="Usage",
                ChargeClass="Correction",
                BilledCost="-0.000000000000000001",
            ),
            row(4, BilledCost="0", ServiceCategory="no such category"),
            row(5, PublisherName="Red Hat Inc."),
            row(6, PublisherName="Amazon Web Services EMEA SARL"),
            row(7, PublisherName=""),
        ],
    )
    raw = extract(step).evidence.loads[0]
    result = consolidate(step.another(step_id="consolidate"))
    (receipt,) = result.evidence.loads
    assert (receipt.table, receipt.extracted, receipt.loaded) == ("focus_costs", 7, 7)
    assert sums(receipt) == sums(raw)
    assert query(
        step,
        "SELECT ResourceId, ServiceProviderName, HostProviderName, ProviderName, ChargeClass, "
        "ServiceCategory FROM focus_costs ORDER BY 1",
    ) == [
        (f"i-{n}", seller, seller, "AWS", charge_class, category)
        for n, seller, charge_class, category in (
            (1, "AWS", None, "Compute"),
            (2, "AWS", None, "Compute"),
            (3, "AWS", "Correction", "Compute"),
            (4, "AWS", None, "no such category"),
            (5, "Red Hat Inc.", None, "Compute"),
            (6, "AWS", None, "Compute"),
            (7, "AWS", None, "Compute"),
        )
    ]
    assert query(
        step,
        "SELECT DISTINCT BillingPeriodStart, BillingPeriodEnd, x_cost_basis, x_source_pipeline_id, "
        "x_source_credential_id, x_pipeline_run_date FROM focus_costs",
    ) == [
        (
            datetime(2025, 2, 1, tzinfo=UTC),
            datetime(2025, 3, 1, tzinfo=UTC),
            "provider_export",
            "aws_cost_billing",
            "main",
            date(2025, 2, 1),
        )
    ]


def test_a_row_keeps_its_id_in_every_run_and_delivery(step: BareStep, export: Export) -> None:
    ids = "SELECT ResourceId, x_row_id FROM focus_costs ORDER BY 1"
    rows = [row(n) for n in range(20)]
    export.deliver("2025-02", rows)
    extract(step)
    consolidate(step)
    before = query(step, ids)
    later = step.another(run_id="r2", run_created_at=CREATED + timedelta(1))
    export.deliver("2025-02", rows[10:][::-1], rows[:10])
    extract(later)
    consolidate(later)
    assert query(step, ids) == before
    assert len({identity for _, identity in before}) == 20


def test_consolidation_leaves_other_months_and_credentials_alone(
    step: BareStep, export: Export
) -> None:
    for month in ("2025-01", "2025-02"):
        export.deliver(month, [row(n, month) for n in range(2)])
    everything = step.another(start_date=date(2025, 1, 1))
    other = everything.another(credential_id="second")
    for each in (everything, other):
        extract(each)
        consolidate(each)
    export.deliver("2025-02", [row(9)], at=datetime(2099, 1, 1, tzinfo=UTC))
    later = step.another(run_id="r2", run_created_at=CREATED + timedelta(1))
    extract(later)
    consolidate(later)
    found = query(
        step,
        "SELECT x_source_credential_id, CAST(x_pipeline_run_date AS STRING), COUNT(*) "
        "FROM focus_costs GROUP BY 1, 2 ORDER BY 1, 2",
    )
    assert found == [
        ("main", "2025-01-01", 2),
        ("main", "2025-02-01", 1),
        ("second", "2025-01-01", 2),
        ("second", "2025-02-01", 2),
    ]


def test_the_demos_sample_is_the_same_to_the_last_digit_everywhere(
    step: BareStep, export: Export
) -> None:
    sample = make_export(export.source, rows=3_000, period="2025-02", files=3, seed=5)
    raw = extract(step)
    assert raw.summary.loaded == sample.rows
    assert not raw.evidence.findings
    assert sums(raw.evidence.loads[0]) == sample.sums
    consolidated = consolidate(step.another(step_id="consolidate"))
    assert sums(consolidated.evidence.loads[0]) == sample.sums
    ((count, ids),) = query(step, "SELECT COUNT(*), COUNT(DISTINCT x_row_id) FROM focus_costs")
    assert count == ids == sample.rows
    ((negative,),) = query(step, "SELECT COUNT(*) FROM focus_costs WHERE BilledCost < 0")
    assert negative == sample.credits


@pytest.mark.skipif(
    not SAMPLE.exists() and os.environ.get("CI") != "true",
    reason="the FinOps Foundation's sample lies beside the repository, not in it",
)
def test_the_official_sample_is_exact_in_both_of_its_months(step: BareStep, export: Export) -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        lines = file.readlines()
    header, body = lines[0], lines[1:]
    months: dict[str, list[str]] = {}
    for line in body:
        cells = next(csv.reader([line]))
        months.setdefault(cells[6][:7], []).append(line)
    assert Counter({month: len(rows) for month, rows in months.items()}) == {
        "2024-09": 999,
        "2024-10": 1,
    }
    for month, rows in months.items():
        path = export.file(month, "costs-00001.csv", "".join([header, *rows]).encode())
        export.manifest(month, [path])
    both = step.another(start_date=date(2024, 9, 1), end_date=date(2024, 10, 31))
    result = extract(both)
    assert (result.summary.extracted, result.summary.loaded, result.summary.rejected) == (
        1_000,
        1_000,
        0,
    )
    assert [receipt.slices[0].rows for receipt in result.evidence.loads] == [999, 1]
    totals: Counter[str] = Counter()
    for receipt in result.evidence.loads:
        assert {total.currency for total in receipt.totals} == {"USD"}
        for total in receipt.totals:
            assert total.source == total.loaded
            assert total.rounded == 0
            assert not total.residue
            totals[total.column] += total.loaded  # type: ignore[assignment]  # decimals add up too
    assert totals == {
        "BilledCost": Decimal("20.52022672899"),
        "EffectiveCost": Decimal("14.97651418586"),
        "ListCost": Decimal("20.39090575119"),
        "ContractedCost": Decimal("14.97626039326"),
    }
    assert result.evidence.loads[0].unknown_columns == ("Id",)
    ((nulls, ids),) = query(
        both,
        "SELECT COUNTIF(ContractedCost IS NULL), COUNTIF(JSON_VALUE(x_unknown, '$.Id') IS NOT NULL) "
        "FROM aws_focus",
    )
    assert (nulls, ids) == (7, 1_000)
    told = [
        finding.rows
        for receipt in result.evidence.loads
        for finding in receipt.findings
        if "ContractedCost" in finding.message
    ]
    assert sum(told) == 7
    consolidate(both.another(step_id="consolidate"))
    select = ", ".join(f"SUM({cost})" for cost in COSTS)
    assert query(both, f"SELECT {select} FROM focus_costs") == [
        tuple(totals[cost] for cost in COSTS)
    ]
    assert query(both, "SELECT COUNTIF(ContractedCost IS NULL) FROM focus_costs") == [(7,)]


def test_of_two_runs_that_overlap_the_newer_delivery_is_consolidated(
    step: BareStep, export: Export
) -> None:
    """The older run extracts the newer delivery; the table must not stay with the one before."""
    at = datetime(2025, 3, 1, tzinfo=UTC)
    older = step.another(run_created_at=at)
    newer = step.another(run_created_at=at + timedelta(minutes=1))
    export.deliver("2025-02", [row(1)], at=at)
    extract(newer)
    consolidate(newer)
    export.deliver("2025-02", [row(1), row(2)], at=at + timedelta(minutes=2))
    extract(older)
    consolidate(older)
    assert query(older, "SELECT COUNT(*) FROM focus_costs") == [(2,)]
