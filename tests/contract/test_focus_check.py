"""Both warehouses find the same faults in the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from shared.core import focus
from shared.engine.focus import check_table
from shared.warehouse import Warehouse
from tests.support.focus import ALWAYS, DATASET, focus_row, focus_table, load_focus

ROWS = (
    focus_row("good"),
    focus_row("rounded", ListUnitPrice=Decimal("0.6000000000000000001")),
    focus_row("price", ListUnitPrice=Decimal("0.61")),
    focus_row("digit", ContractedCost=Decimal("12.00000000000001")),
    focus_row("large", ListCost=Decimal("1e12")),
    focus_row("huge", ListUnitPrice=Decimal("1e15"), PricingQuantity=Decimal("1e15")),
    focus_row("category", ServiceCategory="Database"),
    focus_row("unit", PricingUnit="foo bar"),
    focus_row("tags", Tags='{"a": ["b"]}', SkuPriceDetails='{"Cores": 4}'),
    focus_row("end", BillingPeriodEnd=datetime(2025, 2, 28, tzinfo=UTC)),
    focus_row("second", ChargePeriodEnd=datetime(2025, 2, 2, 23, 59, 59, tzinfo=UTC)),
    focus_row("currency", BillingCurrency="usd"),
    focus_row("alike"),
    focus_row("alike", x_source_credential_id="second"),
    focus_row("estimate", x_cost_basis="list_price_estimate"),
)


@pytest.fixture(params=["duckdb", pytest.param("bigquery", marks=pytest.mark.cloud)])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Warehouse]:
    if request.param == "duckdb":
        with closing(focus_table(tmp_path, ROWS)) as made:
            yield made
        return
    from tests.support import bigquery

    host = request.getfixturevalue("bigquery_emulator").host
    with closing(bigquery.bigquery_warehouse(host, tmp_path)) as warehouse:
        bigquery.drop(warehouse, DATASET)
        warehouse.create_dataset(DATASET)
        load_focus(warehouse, DATASET, ROWS)
        yield warehouse


def test_the_same_rows_break_the_same_rules(warehouse: Warehouse) -> None:
    report = check_table(warehouse, DATASET, focus.TABLE, ALWAYS)
    assert report.rows == len(ROWS)
    broken = {found.rule: (found.rows, found.samples) for found in report.broken}
    day = "Amazon Web Services, Inc. 2025-02-02: list_price_estimate, provider_export"
    assert broken == {
        "BillingCurrency.code": (1, ("currency",)),
        "BillingPeriodEnd.last_day": (1, ("end",)),
        "ChargePeriodEnd.inclusive": (1, ("second",)),
        "ContractedCost.exact_product": (1, ("digit",)),
        "ContractedCost.product": (1, ("huge",)),
        "ListCost.product": (3, ("huge", "large", "price")),
        "PricingUnit.format": (1, ("unit",)),
        "ServiceCategory.allowed": (1, ("category",)),
        "ServiceName.one_category": (15, ("Amazon EC2: Compute, Database",)),
        "ServiceSubcategory.parent": (1, ("category",)),
        "SkuPriceDetails.keys": (1, ("tags",)),
        "Tags.shape": (1, ("tags",)),
        "x_cost_basis.one_source": (15, (day,)),
        "x_row_id.loaded_twice": (2, ("alike",)),
    }
    assert not report.passed
