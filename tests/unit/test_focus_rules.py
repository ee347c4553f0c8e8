"""Each rule finds the row that breaks it, and no other one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from shared.core import focus
from shared.core.focus import CostBasis
from shared.core.focus_rules import Severity, group_rules, row_rules
from shared.engine.focus import check_table
from shared.warehouse import googlesql
from shared.warehouse.duckdb import DuckdbWarehouse
from tests.support.focus import ALWAYS, DATASET, check_focus, focus_row, focus_warehouse, load_focus

MONTH = datetime(2025, 2, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
TAX: dict[str, Any] = {
    "ChargeCategory": "Tax",
    "ChargeFrequency": "Recurring",
    "ContractedCost": Decimal(12),
    "ListCost": Decimal(12),
    **dict.fromkeys(
        (
            *("ConsumedQuantity", "ConsumedUnit", "ContractedUnitPrice", "ListUnitPrice"),
            *("PricingCategory", "PricingQuantity", "PricingUnit", "SkuId", "SkuMeter"),
            *("SkuPriceDetails", "SkuPriceId"),
        )
    ),
}
CREDIT: dict[str, Any] = TAX | {
    "ChargeCategory": "Credit",
    "ChargeFrequency": "One-Time",
    **dict.fromkeys(("BilledCost", "ContractedCost", "EffectiveCost", "ListCost"), Decimal(-3)),
}
COMMITMENT: dict[str, Any] = {
    "CommitmentDiscountCategory": "Spend",
    "CommitmentDiscountId": "sp-1",
    "CommitmentDiscountQuantity": Decimal(12),
    "CommitmentDiscountStatus": "Used",
    "CommitmentDiscountType": "Savings Plan",
    "CommitmentDiscountUnit": "USD",
    "PricingCategory": "Committed",
}
PURCHASE: dict[str, Any] = COMMITMENT | {
    "ChargeCategory": "Purchase",
    "ChargeFrequency": "Recurring",
    "CommitmentDiscountStatus": None,
    "ConsumedQuantity": None,
    "ConsumedUnit": None,
    "EffectiveCost": Decimal(0),
    "PricingCategory": "Standard",
}
# Rows as they should be, with what is odd about them.
GOOD: dict[str, dict[str, Any]] = {
    "usage": {},
    "a refund": {name: Decimal(-1) for name in focus.COSTS}
    | {"ChargeClass": "Correction", "PricingQuantity": Decimal(-1)}
    | {"ContractedUnitPrice": Decimal(1), "ListUnitPrice": Decimal(1)},
    "a tax": TAX,
    "a credit": CREDIT,
    "usage of a commitment": COMMITMENT,
    "the purchase of a commitment": PURCHASE,
    "a virtual currency": {"PricingCurrency": "Credits"},
    "an empty object": {"Tags": "{}"},
    "free": {name: Decimal(0) for name in focus.COSTS}
    | {"ContractedUnitPrice": Decimal(0), "ListUnitPrice": Decimal(0)},
    "rounded to 18 digits": {
        "ListUnitPrice": Decimal("0.333333333333333333"),
        "PricingQuantity": Decimal("0.333333333333333333"),
        "ListCost": Decimal("0.111111111111111111"),
        "ContractedUnitPrice": None,
    },
    "of a marketplace": {"ServiceProviderName": "Red Hat", "PublisherName": "Red Hat"},
}
# What is changed in a row as it should be, and every rule that it then breaks.
BAD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("AllocatedMethodDetails.alone", {"AllocatedMethodDetails": "{}"}),
    ("AllocatedMethodDetails.shape AllocatedMethodDetails.alone", {"AllocatedMethodDetails": "[]"}),
    ("AllocatedResourceName.missing", {"AllocatedResourceId": "pod-1"}),
    ("BilledCost.null", {"BilledCost": None}),
    ("BillingAccountId.placeholder", {"BillingAccountId": "N/A"}),
    ("BillingAccountName.placeholder", {"BillingAccountName": ""}),
    ("BillingCurrency.code", {"BillingCurrency": "US$"}),
    ("BillingCurrency.code", {"BillingCurrency": "usd"}),
    ("BillingPeriodEnd.inclusive", {"BillingPeriodEnd": datetime(2025, 3, 1, tzinfo=UTC) - SECOND}),
    ("BillingPeriodEnd.last_day", {"BillingPeriodEnd": datetime(2025, 2, 28, tzinfo=UTC)}),
    (
        "BillingPeriodEnd.order ChargePeriodStart.billing_period",
        {"BillingPeriodStart": datetime(2025, 4, 1, tzinfo=UTC)},
    ),
    ("CapacityReservationStatus.needed", {"CapacityReservationId": "cr-1"}),
    ("CapacityReservationStatus.alone", {"CapacityReservationStatus": "Used"}),
    (
        "CapacityReservationStatus.allowed",
        {"CapacityReservationId": "cr-1", "CapacityReservationStatus": "used"},
    ),
    ("ChargeCategory.allowed", {"ChargeCategory": "usage"}),
    ("ChargeClass.allowed", {"ChargeClass": "Regular"}),
    ("ChargeFrequency.allowed", {"ChargeFrequency": "Monthly"}),
    ("ChargeFrequency.purchase", PURCHASE | {"ChargeFrequency": "Usage-Based"}),
    ("ChargeFrequency.null", {"ChargeFrequency": None}),
    ("ChargePeriodEnd.order", {"ChargePeriodEnd": datetime(2025, 2, 2, tzinfo=UTC)}),
    ("ChargePeriodEnd.inclusive", {"ChargePeriodEnd": datetime(2025, 2, 3, tzinfo=UTC) - SECOND}),
    ("ChargePeriodStart.billing_period", {"ChargePeriodStart": MONTH - timedelta(days=1)}),
    ("CommitmentDiscountCategory.missing", COMMITMENT | {"CommitmentDiscountCategory": None}),
    ("CommitmentDiscountName.alone", {"CommitmentDiscountName": "ours"}),
    ("CommitmentDiscountQuantity.needed", COMMITMENT | {"CommitmentDiscountQuantity": None, "CommitmentDiscountUnit": None}),
    ("CommitmentDiscountQuantity.other", {"CommitmentDiscountQuantity": Decimal(1), "CommitmentDiscountUnit": "USD"}),
    ("CommitmentDiscountStatus.needed", COMMITMENT | {"CommitmentDiscountStatus": None}),
    ("CommitmentDiscountUnit.missing", COMMITMENT | {"CommitmentDiscountUnit": None}),
    ("ConsumedQuantity.unused", COMMITMENT | {"CommitmentDiscountStatus": "Unused"}),
    ("ConsumedQuantity.usage", PURCHASE | {"ConsumedQuantity": Decimal(1), "ConsumedUnit": "Units"}),
    ("ConsumedUnit.missing", {"ConsumedUnit": None}),
    ("ContractedCost.credit", CREDIT | {"ContractedCost": Decimal(-2)}),
    ("ContractedCost.product", {"ContractedCost": Decimal("12.01")}),
    ("ContractedCost.exact_product", {"ContractedCost": Decimal("12.00000000000001")}),
    ("ContractedUnitPrice.negative ContractedCost.product", {"ContractedUnitPrice": Decimal("-0.5")}),
    ("ContractedUnitPrice.needed", {"ContractedUnitPrice": None}),
    ("EffectiveCost.commitment_purchase", PURCHASE | {"EffectiveCost": Decimal(12)}),
    ("EffectiveCost.tax", TAX | {"EffectiveCost": Decimal(11)}),
    (
        "ContractedCost.sign EffectiveCost.sign ListCost.sign",
        {"BilledCost": Decimal(-12)},
    ),
    ("InvoiceId.placeholder", {"InvoiceId": "-"}),
    ("ListCost.product", {"ListCost": Decimal("14.39")}),
    ("ListCost.product", {"ListCost": Decimal("1e12")}),
    ("ListUnitPrice.tax ListUnitPrice.unpriced", TAX | {"ListUnitPrice": Decimal(1)}),
    ("PricingCategory.allowed", {"PricingCategory": "On-Demand"}),
    ("PricingCategory.commitment_purchase", PURCHASE | {"PricingCategory": "Committed"}),
    ("PricingCategory.committed", COMMITMENT | {"PricingCategory": "Standard"}),
    ("PricingCurrency.code", {"PricingCurrency": "usd"}),
    ("PricingQuantity.needed", {"PricingQuantity": None, "PricingUnit": None}),
    ("PricingUnit.alone PricingQuantity.needed", {"PricingQuantity": None}),
    ("PricingUnit.format", {"PricingUnit": "foo bar"}),
    ("RegionName.missing", {"RegionName": None}),
    ("ResourceType.alone", {"ResourceId": None}),
    ("ServiceCategory.allowed", {"ServiceCategory": "Database"}),
    ("ServiceSubcategory.parent", {"ServiceSubcategory": "Block Storage"}),
    ("ServiceSubcategory.allowed", {"ServiceSubcategory": "VMs"}),
    ("ServiceProviderName.origin", {"ServiceProviderName": "Amazon"}),
    ("SkuPriceDetails.shape", {"SkuPriceDetails": '{"CoreCount": [4]}'}),
    ("SkuPriceDetails.keys", {"SkuPriceDetails": '{"Cores": 4, "CoreCount": 4}'}),
    ("SkuPriceId.needed SkuPriceDetails.alone", TAX | {"ChargeCategory": "Usage", "SkuId": "S", "SkuMeter": "C", "SkuPriceDetails": "{}"}),
    ("PricingQuantity.unpriced", TAX | {"ChargeCategory": "Adjustment", "PricingQuantity": Decimal(1), "PricingUnit": "Units"}),
    ("SubAccountName.missing", {"SubAccountName": None}),
    ("Tags.shape", {"Tags": '{"a": {"b": 1}}'}),
    ("Tags.shape", {"Tags": "[]"}),
    ("x_cost_basis.allowed", {"x_cost_basis": "guess"}),
    ("x_source_pipeline_id.null", {"x_source_pipeline_id": None}),
)  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckdbWarehouse]:
    rows = [focus_row(name, **changes) for name, changes in GOOD.items()]
    rows += [focus_row(f"bad {place}", **changes) for place, (_, changes) in enumerate(BAD)]
    with closing(focus_warehouse(tmp_path_factory.mktemp("focus"), rows)) as warehouse:
        yield warehouse


@pytest.fixture(scope="module")
def caught(table: DuckdbWarehouse) -> dict[str, set[str]]:
    """The rules that each row breaks."""
    rules = [rule for rule in row_rules() if not rule.texts and rule.since <= "1.4"]
    standing = [rule for rule in rules if rule.until is None]
    found: dict[str, set[str]] = {}
    for rule, row in table.query(
        DATASET,
        " UNION ALL ".join(
            f"SELECT '{rule.id}' AS rule, x_row_id FROM focus_costs WHERE {rule.broken}"
            for rule in standing
        ),
        {},
    ).rows:
        found.setdefault(str(row), set()).add(str(rule))
    return found


# A null in these is no fault of one row: the column may not be for its provider.
QUIET = {
    *("BillingAccountType.null", "BillingAccountType.missing", "SubAccountType.missing"),
    *("PricingCurrency.null", "PricingCurrencyEffectiveCost.null"),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_row_as_it_should_be_breaks_no_rule(caught: dict[str, set[str]], name: str) -> None:
    must = {rule.id for rule in row_rules() if rule.severity is Severity.MUST}
    assert caught.get(name, set()) & must == set()


@pytest.mark.parametrize("place", range(len(BAD)), ids=[rules for rules, _ in BAD])
def test_a_row_that_is_wrong_breaks_the_rules_that_say_so(
    caught: dict[str, set[str]], place: int
) -> None:
    assert caught[f"bad {place}"] - QUIET == set(BAD[place][0].split())


def test_the_report_counts_the_rows_and_names_some(tmp_path: Path) -> None:
    rows = [focus_row(f"row {n:02}") for n in range(20)]
    for row in rows[:7]:
        row["ChargeCategory"] = "usage"
    with closing(focus_warehouse(tmp_path, rows)) as warehouse:
        report = check_table(warehouse, DATASET, focus.TABLE, ALWAYS)
        assert (report.version, report.rows, report.passed) == ("1.4", 20, False)
        (found,) = report.broken
        assert (found.rule, found.rows) == ("ChargeCategory.allowed", 7)
        assert found.samples == tuple(f"row {n:02}" for n in range(5))
        assert report.rules > 150
        with pytest.raises(AssertionError, match=r"ChargeCategory\.allowed: .* 7 of 20 rows"):
            check_focus(warehouse, DATASET)
        assert not check_focus(
            warehouse, DATASET, allowed={"ChargeCategory.allowed": "a test"}
        ).passed
        load_focus(warehouse, DATASET, rows[7:])
        assert check_focus(warehouse, DATASET).broken == ()
        with pytest.raises(AssertionError, match="allowed, but not broken"):
            check_focus(warehouse, DATASET, allowed={"ChargeCategory.allowed": "a test"})


def test_a_column_that_only_some_providers_have_may_be_absent_but_not_have_gaps(
    tmp_path: Path,
) -> None:
    with closing(focus_warehouse(tmp_path, [focus_row("a"), focus_row("b")])) as warehouse:
        assert check_focus(warehouse, DATASET).broken == ()
        load_focus(warehouse, DATASET, [focus_row("a", BillingAccountType="Payer"), focus_row("b")])
        broken = check_focus(warehouse, DATASET).broken
        assert [(found.rule, found.severity, found.rows) for found in broken] == [
            ("BillingAccountType.missing", Severity.SHOULD, 1),
            ("BillingAccountType.null", Severity.SHOULD, 1),
        ]


def test_money_of_one_issuer_and_day_from_two_sources_is_reported(tmp_path: Path) -> None:
    reported = {"x_cost_basis": "provider_reported"}
    estimate = {"x_cost_basis": "list_price_estimate"}
    later = {"ChargePeriodStart": MONTH + timedelta(3), "ChargePeriodEnd": MONTH + timedelta(4)}
    rows = [
        focus_row("a", **reported),
        focus_row("b", **estimate),
        focus_row("a plan", x_cost_basis="agreed_price"),
        focus_row("another day", **estimate | later),
        focus_row("another issuer", InvoiceIssuerName="OpenAI", **estimate),
    ]
    with closing(focus_warehouse(tmp_path, rows)) as warehouse:
        (found,) = check_table(warehouse, DATASET, focus.TABLE, ALWAYS).broken
        assert (found.rule, found.rows) == ("x_cost_basis.one_source", 2)
        assert found.samples == (
            "Amazon Web Services, Inc. 2025-02-02: list_price_estimate, provider_reported",
        )


def test_the_source_to_trust_is_the_one_nearest_to_the_provider() -> None:
    order = ["provider_reported", "provider_export", "gateway_estimate", "list_price_estimate"]
    assert [basis for basis in CostBasis if basis in order] == order
    assert focus.most_trusted([CostBasis.LIST_PRICE_ESTIMATE, CostBasis.PROVIDER_EXPORT]) == (
        CostBasis.PROVIDER_EXPORT
    )


def test_a_source_that_was_loaded_twice_is_told_from_rows_that_are_alike(tmp_path: Path) -> None:
    rows = [focus_row("twice"), focus_row("twice", x_source_credential_id="second")]
    rows += [focus_row("alike"), focus_row("alike"), focus_row("own")]
    with closing(focus_warehouse(tmp_path, rows)) as warehouse:
        found = {b.rule: b for b in check_table(warehouse, DATASET, focus.TABLE, ALWAYS).broken}
        assert found.keys() == {"x_row_id.loaded_twice", "x_row_id.repeated"}
        assert found["x_row_id.loaded_twice"].samples == ("twice",)
        assert found["x_row_id.repeated"].samples == ("alike",)


def test_every_rule_has_an_id_of_its_own_in_each_version() -> None:
    spans = [(rule.id, rule.since, rule.until) for rule in row_rules()]
    spans += [(rule.id, rule.since, rule.until) for rule in group_rules()]
    for version in focus.VERSIONS[1:]:
        ids = [
            name
            for name, since, until in spans
            if since <= version and (until is None or version <= until)
        ]
        assert len(ids) == len(set(ids)), version


def test_every_rule_reads_only_the_columns_that_it_names() -> None:
    from sqlglot import exp

    for rule in row_rules():
        parsed = googlesql.parse(f"SELECT {rule.broken} FROM checked")
        assert parsed.tree is not None, (rule.id, parsed.faults)
        read = {column.name.removeprefix("t_") for column in parsed.tree.find_all(exp.Column)}
        assert read <= set(rule.columns), rule.id
        assert set(rule.columns) <= {*focus.columns(), *(own.name for own in focus.OWN)}, rule.id
