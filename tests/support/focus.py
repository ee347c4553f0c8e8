"""Rows of the FOCUS table for tests, and the one question to ask of a source's: do they pass the check?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from shared.core import focus
from shared.core.dates import Dates
from shared.core.focus_check import Report
from shared.core.focus_rules import Severity
from shared.core.lineage import Fence, Slice, Writer
from shared.engine.focus import check_table
from shared.warehouse import Batches, Column, Load, Warehouse
from shared.warehouse.duckdb import DuckdbWarehouse
from shared.warehouse.focus_table import focus_columns, focus_table

ALWAYS = Dates(date(2000, 1, 1), date(2100, 1, 1))
DATASET = "acme_test"
AT = datetime(2025, 3, 1, tzinfo=UTC)


def check_focus(
    warehouse: Warehouse,
    dataset: str,
    table: str = focus.TABLE,
    *,
    allowed: Mapping[str, str] | None = None,
) -> Report:
    """Asserts that there are rows and that they break no MUST, but for those `allowed` with a reason.

    What is allowed and not broken is an error, too: the reason has gone.
    """
    report = check_table(warehouse, dataset, table, ALWAYS)
    assert report.rows, f"{table} has no rows"
    broken = {found.rule: found for found in report.broken if found.severity is Severity.MUST}
    expected = set(allowed or ())
    faults = [
        f"{rule}: {found.sentence} {found.rows:,} of {report.rows:,} rows: {found.samples}"
        for rule, found in broken.items()
        if rule not in expected
    ]
    assert not faults, "\n".join(faults)
    assert expected <= broken.keys(), f"allowed, but not broken: {expected - broken.keys()}"
    return report


def focus_row(name: str, **changes: Any) -> dict[str, Any]:
    """A row that breaks no rule, of a day of usage, with the id `name`; and what is changed in it."""
    row: dict[str, Any] = {
        "BilledCost": Decimal(12),
        "BillingAccountId": "123456789012",
        "BillingAccountName": "Acme",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": datetime(2025, 3, 1, tzinfo=UTC),
        "BillingPeriodStart": datetime(2025, 2, 1, tzinfo=UTC),
        "ChargeCategory": "Usage",
        "ChargeDescription": "An hour of a machine",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": datetime(2025, 2, 3, tzinfo=UTC),
        "ChargePeriodStart": datetime(2025, 2, 2, tzinfo=UTC),
        "ConsumedQuantity": Decimal(24),
        "ConsumedUnit": "Hours",
        "ContractedCost": Decimal(12),
        "ContractedUnitPrice": Decimal("0.5"),
        "EffectiveCost": Decimal(12),
        "HostProviderName": "AWS",
        "InvoiceId": "I-1",
        "InvoiceIssuerName": "Amazon Web Services, Inc.",
        "ListCost": Decimal("14.4"),
        "ListUnitPrice": Decimal("0.6"),
        "PricingCategory": "Standard",
        "PricingQuantity": Decimal(24),
        "PricingUnit": "Hours",
        "ProviderName": "AWS",
        "PublisherName": "AWS",
        "RegionId": "eu-west-1",
        "RegionName": "Ireland",
        "ResourceId": "i-1",
        "ResourceType": "Instance",
        "ServiceCategory": "Compute",
        "ServiceName": "Amazon EC2",
        "ServiceProviderName": "AWS",
        "ServiceSubcategory": "Virtual Machines",
        "SkuId": "SKU",
        "SkuMeter": "Compute",
        "SkuPriceDetails": '{"CoreCount": 4, "x_Family": "m5"}',
        "SkuPriceId": "SKU.1",
        "SubAccountId": "210987654321",
        "SubAccountName": "Production",
        "Tags": '{"env": "prod", "owned": true, "quote\\"d": "a{b}"}',
        "x_cost_basis": "provider_export",
        "x_row_id": name,
        "x_source_credential_id": "main",
        "x_source_pipeline_id": "aws_cost_billing",
    }
    return {**row, **changes}


def focus_warehouse(folder: Path, rows: Iterable[dict[str, Any]]) -> DuckdbWarehouse:
    """A warehouse with these rows in the FOCUS table of `DATASET`."""
    warehouse = DuckdbWarehouse(folder / "focus.duckdb", folder / "procedures", lambda: AT)
    load_focus(warehouse, DATASET, rows)
    return warehouse


def load_focus(
    warehouse: Warehouse, dataset: str, rows: Iterable[dict[str, Any]], *own: Column
) -> None:
    """Puts these rows into the dataset's FOCUS table, in the place of those before."""
    warehouse.create_dataset(dataset)
    names = [column.name for column in (*focus_columns(), *own)]
    whole = [dict.fromkeys(names) | row for row in rows]
    warehouse.load(
        Load(
            dataset=dataset,
            table=focus_table(own),
            covers=frozenset({Slice("acme", "focus_test", "none", date(2025, 2, 1))}),
            writer=Writer("r1", "load", Fence(AT, AT, 1)),
            source=Batches(batches=[whole]),
            source_version="1",
            source_at=AT + timedelta(0),
        )
    )


def file_row(version: str, name: str) -> dict[str, str]:
    """A row that breaks no rule as the cells of a file: the version's columns, nulls empty."""
    row = focus_row(name)
    cells = {}
    for column in focus.of_version(version):
        value = row.get(column)
        if isinstance(value, datetime):
            cells[column] = f"{value:%Y-%m-%dT%H:%M:%SZ}"
        else:
            cells[column] = "" if value is None else str(value)
    return cells
