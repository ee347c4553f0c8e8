"""Both warehouses show the same views of the same rows, and find the same faults in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from shared.core import focus
from shared.core.lineage import LINEAGE_COLUMNS
from shared.engine.focus import check_table
from shared.warehouse import Column, Warehouse
from tests.support.focus import ALWAYS, DATASET, focus_row, focus_warehouse, load_focus

OTHER = "other_test"
ROWS = (
    focus_row("good"),
    focus_row("rounded", ListUnitPrice=Decimal("0.6000000000000000001")),
    focus_row("price", ListUnitPrice=Decimal("0.61")),
    focus_row("digit", ContractedCost=Decimal("12.00000000000001")),
    focus_row("large", ListCost=Decimal("1e12")),
    focus_row("huge", ListUnitPrice=Decimal("1e15"), PricingQuantity=Decimal("1e15")),
    focus_row("category", ServiceCategory="Database"),
    focus_row("parent", ServiceSubcategory="Block Storage"),
    focus_row("unit", PricingUnit="foo bar"),
    focus_row("tags", Tags='{"a": ["b"]}', SkuPriceDetails='{"Cores": 4}'),
    focus_row("end", BillingPeriodEnd=datetime(2025, 2, 28, tzinfo=UTC)),
    focus_row("second", ChargePeriodEnd=datetime(2025, 2, 2, 23, 59, 59, tzinfo=UTC)),
    focus_row("currency", BillingCurrency="usd"),
    focus_row("alike"),
    focus_row("alike", x_source_credential_id="second"),
    focus_row("estimate", x_cost_basis="list_price_estimate"),
)


@pytest.fixture(
    scope="module", params=["duckdb", pytest.param("bigquery", marks=pytest.mark.cloud)]
)
def warehouse(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("focus")
    if request.param == "duckdb":
        with closing(focus_warehouse(folder, ROWS)) as made:
            yield made
        return
    from tests.support import bigquery
    from tests.support.http_door import door
    from tests.support.statements import faults

    host = request.getfixturevalue("bigquery_emulator").host
    with door(host) as before, closing(bigquery.bigquery_warehouse(before.host, folder)) as made:
        for dataset in (DATASET, OTHER):
            bigquery.drop(made, dataset)
        load_focus(made, DATASET, ROWS)
        yield made
    views = [sql for sql in bigquery.statements(before) if " VIEW " in sql]
    assert views
    assert [fault for sql in views for fault in faults(sql)] == []


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
        "ServiceName.one_category": (16, ("Amazon EC2: Compute, Database",)),
        "ServiceSubcategory.parent": (1, ("parent",)),
        "SkuPriceDetails.keys": (1, ("tags",)),
        "Tags.shape": (1, ("tags",)),
        "x_cost_basis.one_source": (16, (day,)),
        "x_row_id.loaded_twice": (2, ("alike",)),
    }
    assert not report.passed


def test_each_version_has_its_view(warehouse: Warehouse) -> None:
    for version in ("1.2", "1.3", "1.4"):
        view = f"focus_{version.replace('.', '_')}"
        columns = warehouse.query(DATASET, f"SELECT * FROM {view} LIMIT 0", {}).columns
        of_focus = focus.of_version(version)
        assert columns[: len(of_focus)] == of_focus
        custom = columns[len(of_focus) :]
        assert set(custom) >= {*LINEAGE_COLUMNS, "x_row_id", "x_cost_basis"}
        assert all(name.startswith("x_") for name in custom)
        assert focus.detect(columns) == version
        counted = warehouse.query(DATASET, f"SELECT COUNT(*) FROM {view}", {})
        assert counted.rows == [(len(ROWS),)]


def test_a_view_has_what_a_later_version_does_not_say_and_a_source_adds(
    warehouse: Warehouse,
) -> None:
    rows = [focus_row("new", ProviderName=None, PublisherName=None), focus_row("old")]
    load_focus(warehouse, OTHER, rows)
    for row in rows:
        row["x_Own"] = "mine"
    load_focus(warehouse, OTHER, rows, Column("x_Own"))
    select = "SELECT x_row_id, ProviderName, PublisherName, x_Own FROM focus_1_2 ORDER BY 1"
    found = warehouse.query(OTHER, select, {})
    assert found.rows == [("new", "AWS", "AWS", "mine"), ("old", "AWS", "AWS", "mine")]
