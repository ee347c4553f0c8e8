"""Subscriptions as rows of the FOCUS table, in both warehouses: Python and SQL tell the same cost."""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.core import focus
from shared.core.invoice import lines
from shared.core.period import days
from shared.core.subscription import Subscription, end, void
from shared.errors import Transient
from shared.settings import ROOT
from shared.step import StepResult
from shared.subscriptions import Revision
from shared.warehouse import Value, Warehouse
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.examples import examples
from tests.support.step import CREATED, BareStep, run
from tests.support.subscriptions import DAY, PAST, subscription, subscriptions

PROCEDURES = ROOT / "configs" / "system" / "procedures"
JANUARY = (date(2026, 1, 1), date(2026, 1, 31))
_numbers = itertools.count(1)
BOTH = pytest.mark.parametrize(
    "backend",
    ["duckdb", pytest.param("bigquery", marks=[pytest.mark.cloud, pytest.mark.slow])],
    scope="module",
)


@pytest.fixture(scope="module")
def backend() -> str:
    return "duckdb"


@pytest.fixture(scope="module")
def warehouse(
    backend: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Warehouse]:
    folder = tmp_path_factory.mktemp("warehouse")
    if backend == "duckdb":
        with closing(DuckdbWarehouse(folder / "w.duckdb", PROCEDURES, lambda: CREATED)) as opened:
            yield opened
        return
    from tests.support.bigquery import bigquery_warehouse, drop

    shutil.copytree(PROCEDURES, folder / "procedures")
    emulator = request.getfixturevalue("bigquery_emulator")
    with closing(bigquery_warehouse(emulator.host, folder)) as made:
        for number in range(1, 20):
            drop(made, f"acme_{number}")
        yield made


class Runs:
    """Runs of the pipeline over what is entered; each newer than the one before."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.runs = 0
        self.dataset = f"acme_{next(_numbers)}"
        warehouse.create_dataset(self.dataset)

    def step(self, first: date, last: date, entered: Sequence[Subscription]) -> BareStep:
        self.runs += 1
        return BareStep(
            Path(),
            self.warehouse,
            first,
            last,
            dataset=self.dataset,
            pipeline_id="subscription_cost",
            provider="subscription",
            credential_id="none",
            run_id=f"r{self.runs}",
            run_created_at=CREATED + timedelta(minutes=self.runs),
            entered=[revision(one) for one in entered],
        )

    def run(
        self, first: date, last: date, *entered: Subscription, lookback: int = 0
    ) -> tuple[StepResult, StepResult]:
        step = self.step(first, last, entered)
        config = {"lookback_days": lookback}
        loaded = run("subscription.terms", step, config)
        procedure = {"procedure": "focus_from_subscriptions", "slices": "day"}
        return loaded, run("generic.procedure_executor", step, {**procedure, **config})

    def rows(self, columns: str, where: str = "TRUE") -> list[tuple[Value, ...]]:
        sql = f"SELECT {columns} FROM focus_costs WHERE {where}"
        return sorted(
            self.warehouse.query(self.dataset, sql, {}).rows, key=lambda row: [*map(str, row)]
        )


@pytest.fixture
def runs(warehouse: Warehouse) -> Runs:
    return Runs(warehouse)


def revision(of: Subscription, number: int = 1) -> Revision:
    return Revision(
        subscription=of,
        number=number + len(of.versions),
        entry="e",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        key_id="k",
        key_name="ops",
        request_id="r",
        verb="subscription.changed",
        before=None,
        after=None,
    )


def test_a_line_is_a_purchase_and_the_days_that_it_pays_for(runs: Runs) -> None:
    one = subscription({"plan": "Business+", "discount": "5", "invoice_issuer": "Reseller"})
    loaded, consolidated = runs.run(date(2026, 1, 10), date(2026, 2, 14), one)
    assert loaded.summary.message == "1 subscription on 36 days"
    assert (loaded.summary.loaded, consolidated.summary.loaded) == (31, 32)
    (purchase,) = runs.rows("*", "ChargeCategory = 'Purchase'")
    names = runs.warehouse.query(runs.dataset, "SELECT * FROM focus_costs", {}, 1).columns
    row = dict(zip(names, purchase, strict=True))
    expected: dict[str, Any] = {
        "BilledCost": Decimal(25),
        "ContractedCost": Decimal(25),
        "EffectiveCost": Decimal(0),
        "ListCost": Decimal(30),
        "BillingCurrency": "USD",
        "BillingPeriodStart": datetime(2026, 1, 1, tzinfo=UTC),
        "BillingPeriodEnd": datetime(2026, 2, 1, tzinfo=UTC),
        "ChargePeriodStart": datetime(2026, 1, 15, tzinfo=UTC),
        "ChargePeriodEnd": datetime(2026, 2, 15, tzinfo=UTC),
        "ChargeDescription": "Slack Business+, 2026-01-15 to 2026-02-15",
        "ChargeFrequency": "Recurring",
        "ChargeClass": None,
        "InvoiceIssuerName": "Reseller",
        "ServiceProviderName": "Slack",
        "ServiceCategory": "Business Applications",
        "ServiceSubcategory": "Other (Business Applications)",
        "ResourceId": "slack",
        "ResourceName": "Slack Business+",
        "BillingAccountId": "slack",
        "SkuPriceId": None,
        "PricingQuantity": None,
        "x_Seats": 3,
        "x_UnitPrice": Decimal(10),
        "x_cost_basis": "agreed_price",
        "x_pipeline_run_date": date(2026, 1, 15),
    }
    assert {name: row[name] for name in expected} == expected
    usage = runs.rows(
        "ChargePeriodStart, ChargePeriodEnd, BilledCost, EffectiveCost, ListCost, BillingPeriodStart",
        "ChargeCategory = 'Usage'",
    )
    assert len(usage) == 31
    first, last = usage[0], usage[-1]
    assert first == (
        datetime(2026, 1, 15, tzinfo=UTC),
        datetime(2026, 1, 16, tzinfo=UTC),
        0,
        Decimal("0.806451"),
        Decimal("0.967741"),
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert last[0] == datetime(2026, 2, 14, tzinfo=UTC)
    assert last[-1] == datetime(2026, 2, 1, tzinfo=UTC)
    assert sum(row[3] for row in usage) == 25  # type: ignore[misc]
    assert sum(row[4] for row in usage) == 30  # type: ignore[misc]


@BOTH
def test_what_is_billed_and_what_it_costs_are_the_same_in_every_cycle(runs: Runs) -> None:
    kept = {"cancel_policy": "refund_prorated"}
    entered = [
        subscription(
            {"currency": "JPY", "unit_price": "1234.5", **kept},
            {"currency": "JPY", "unit_price": "999", "start": "2026-02-01", "seats": 7, **kept},
            name="a",
        ),
        end(
            subscription({"currency": "KWD", "cycle": "annual", "unit_price": "99.999", **kept}),
            date(2026, 3, 9),
            PAST,
        ),
        subscription({"unit_price": "0", "start": "2026-02-01"}, name="free"),
    ]
    runs.run(date(2026, 1, 15), date(2026, 4, 14), *entered)
    closed = "x_CycleEnd <= '2026-04-15' OR BillingCurrency = 'KWD'"
    billed: dict[Any, Any] = defaultdict(Decimal)
    spent: dict[Any, Any] = defaultdict(Decimal)
    for currency, name, start, cost, effective in runs.rows(
        "BillingCurrency, ResourceId, x_CycleStart, BilledCost, EffectiveCost", closed
    ):
        billed[currency, name, start] += cost
        spent[currency, name, start] += effective
    assert billed == spent
    assert len(billed) == 3 + 1 + 2
    assert billed["KWD", "slack", date(2026, 1, 15)] == Decimal("43.561")  # 299.997 - 256.436
    rows = runs.rows("BilledCost", "BillingCurrency = 'JPY' AND ChargeCategory = 'Purchase'")
    assert [str(cost) for (cost,) in rows if cost % 1] == []  # type: ignore[operator]
    free = runs.rows("EffectiveCost", "ResourceId = 'free' AND ChargeCategory = 'Usage'")
    assert len(free) == 73
    assert set(free) == {(0,)}


def test_what_the_specification_couples_is_coupled(runs: Runs) -> None:
    policy = {"cancel_policy": "refund_prorated"}
    both = subscription(policy, {"start": "2026-01-20", "seats": 1, **policy})
    ended = end(both, date(2026, 2, 3), PAST)
    runs.run(date(2026, 1, 1), date(2026, 2, 28), ended)
    for wrong in (
        "ChargeCategory = 'Purchase' AND EffectiveCost <> 0",
        "ChargeCategory = 'Usage' AND (BilledCost <> 0 OR ContractedCost <> EffectiveCost)",
        "ChargePeriodEnd <= ChargePeriodStart OR BillingPeriodEnd <= BillingPeriodStart",
        "ChargeCategory = 'Usage' AND ChargePeriodStart < BillingPeriodStart",
        "ChargeCategory = 'Usage' AND ChargePeriodEnd > BillingPeriodEnd",
        *(
            f"SkuPriceId IS NULL AND {name} IS NOT NULL"
            for name in ("ListUnitPrice", "PricingQuantity", "ConsumedQuantity", "PricingCategory")
        ),
        "ChargeClass = 'Correction' AND BilledCost > 0",
        *(
            f"{column.name} IS NULL"
            for column in focus.columns().values()
            if focus.required(column)
        ),
    ):
        assert runs.rows("*", wrong) == [], wrong
    kinds = runs.rows(
        "x_LineKind, ChargeClass, BilledCost, ChargeFrequency", "ChargeCategory = 'Purchase'"
    )
    assert kinds == [
        ("cancel", "Correction", Decimal("-3.87"), "One-Time"),
        ("change", None, Decimal("-16.77"), "One-Time"),
        ("cycle", None, Decimal(30), "Recurring"),
    ]
    ids = [name for (name,) in runs.rows("x_row_id")]
    assert len(set(ids)) == len(ids)


@BOTH
@settings(
    max_examples=examples(3),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(subscriptions(), min_size=8, max_size=16), st.integers(0, 700))
def test_sql_tells_every_days_cost_as_python_does(
    runs: Runs, entered: list[Subscription], later: int
) -> None:
    named = [
        Subscription(subscription_id=f"s{number}", versions=one.versions, refunds=one.refunds)
        for number, one in enumerate(entered)
    ]
    first = min(one.versions[0].start for one in named) + later * DAY
    last = first + 9 * DAY
    runs.run(first, last, *named)
    expected: set[tuple[object, ...]] = set()
    for one in named:
        for line in lines(one, first, last):
            for day in days(first, last):
                place = (one.subscription_id, line.line_id, day)
                if line.falls_on(day):
                    expected.add((*place, "Usage", 0, line.share(day), line.list_share(day)))
                if line.invoiced == day:
                    expected.add((*place, "Purchase", line.amount, 0, line.list_amount))
    found = runs.rows(
        "ResourceId, x_LineId, x_pipeline_run_date, ChargeCategory, BilledCost, EffectiveCost, ListCost",
        f"x_run_id = 'r{runs.runs}'",
    )
    assert set(found) == expected
    assert len(found) == len(expected)


def test_a_run_of_one_day_gives_what_a_run_of_all_days_gave(runs: Runs) -> None:
    entered = [
        subscription({}),
        subscription({"cycle": "annual", "unit_price": "1200"}, name="zoom"),
    ]
    runs.run(*JANUARY, *entered)
    columns = "x_row_id, x_pipeline_run_date, BilledCost, EffectiveCost"
    before = runs.rows(columns)
    for day in (date(2026, 1, 15), date(2026, 1, 31)):
        runs.run(day, day, *entered)
    assert runs.rows(columns) == before


def test_what_is_entered_late_changes_the_days_from_then_on_and_no_other(runs: Runs) -> None:
    runs.run(*JANUARY, subscription({}))
    columns = "x_pipeline_run_date, x_row_id, EffectiveCost, x_run_id"
    before = runs.rows(columns)
    grown = subscription({}, {"start": "2026-01-25", "seats": 4})
    today = date(2026, 2, 1)
    loaded, _ = runs.run(today, today, grown, lookback=31)
    assert loaded.summary.message == "1 subscription on 32 days"
    after = runs.rows(columns, "x_pipeline_run_date <= '2026-01-31'")
    values = [[row[:3] for row in rows if row[0] < date(2026, 1, 25)] for rows in (before, after)]  # type: ignore[operator]
    assert values[0] == values[1]
    assert len([row for row in after if row[0] >= date(2026, 1, 25)]) == 7 * 2 + 1  # type: ignore[operator]
    again, _ = runs.run(today + DAY, today + DAY, grown, lookback=31)
    assert again.summary.message == "1 subscription on 1 day"


def test_that_there_is_none_is_told_and_what_is_void_is_gone(runs: Runs) -> None:
    runs.run(*JANUARY, subscription({}))
    loaded, consolidated = runs.run(*JANUARY, void(subscription({})))
    assert (loaded.summary.no_data, consolidated.summary.no_data) == (True, True)
    assert loaded.evidence.findings == ()
    where = "x_pipeline_run_date BETWEEN '2026-01-01' AND '2026-01-31'"
    assert runs.rows("*", where) == []
    loaded, _ = runs.run(*JANUARY)
    assert [finding.code for finding in loaded.evidence.findings] == ["none_entered"]


def test_a_change_while_they_are_read_loads_nothing(runs: Runs) -> None:
    runs.run(*JANUARY, subscription({}))
    before = runs.rows("x_row_id, x_run_id")
    step = runs.step(*JANUARY, [])
    stands = iter([[revision(subscription({}))], [revision(subscription({"seats": 9}), 2)]])
    step.subscriptions = lambda: iter(next(stands))  # type: ignore[method-assign]
    with pytest.raises(Transient, match="changed while"):
        run("subscription.terms", step, {})
    assert runs.rows("x_row_id, x_run_id") == before
