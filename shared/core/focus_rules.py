"""What a row of FOCUS data must be, rule by rule: data, with a condition in GoogleSQL that both warehouses run.

A condition is true for a row that breaks the rule, and false or null for any other. The rules are those of
the specification's requirements that a row, or a group of rows, can be judged by without knowing its
source; and ours for what the columns `x_cost_basis`, `x_row_id` and `x_source_…` promise.

Where the specification asks for a column only of some providers, a null in it breaks no MUST: which
provider stands behind a row of many, and what that one supports, cannot be told from the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from shared.core import currency, focus
from shared.core.focus import CostBasis, FocusColumn, FocusType, Level


class Severity(StrEnum):
    """The specification's words."""

    MUST = "must"
    SHOULD = "should"


class Rule(NamedTuple):
    """Judges one row. It stands for `since` to `until`, where all of its columns are.

    `broken` is the condition. `texts`: it reads `t_{column}`, the cell as it was delivered, and so
    stands for files only. `unless_empty`: it stands where that column has a value in any row.
    """

    id: str
    columns: tuple[str, ...]
    broken: str
    sentence: str
    severity: Severity = Severity.MUST
    since: str = "1.0"
    until: str | None = None
    texts: bool = False
    unless_empty: str | None = None


class GroupRule(NamedTuple):
    """Judges the rows that are alike in `by` (expressions); `broken` is a condition on their aggregate.

    `sample` tells one of the groups. Counted are the rows of the groups that break it.
    """

    id: str
    columns: tuple[str, ...]
    by: tuple[str, ...]
    broken: str
    sample: str
    sentence: str
    where: str = "TRUE"
    severity: Severity = Severity.MUST
    since: str = "1.0"
    until: str | None = None


MUST, SHOULD = Severity.MUST, Severity.SHOULD
KEY_VALUE = ("AllocatedTags", "SkuPriceDetails", "Tags")
# The properties that the specification defines for SkuPriceDetails; any other begins with `x_`.
SKU_PROPERTIES = (
    *("CoreCount", "DiskMaxIops", "DiskSpace", "DiskType", "GpuCount", "InstanceSeries"),
    *("InstanceType", "MemorySize", "NetworkMaxIops", "NetworkMaxThroughput", "OperatingSystem"),
    *("Redundancy", "StorageClass"),
)
# What people write for nothing.
PLACEHOLDERS = ("", "-", "n/a", "na", "none", "not applicable", "null", "unknown", "undefined")

_NUMBER = r"-?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE]-?[0-9]+)?"
_TIME = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"
_STRING = r'"([^"\\]|\\.)*"'
_SCALAR = rf"({_STRING}|-?[0-9][0-9.eE+-]*|true|false|null)"
_FLAT = rf"\s*\{{\s*({_STRING}\s*:\s*{_SCALAR}\s*(,\s*{_STRING}\s*:\s*{_SCALAR}\s*)*)?\}}\s*"
_OBJECT = r"(?s)\s*\{.*\}\s*"
# A number, and then words joined by hyphens, per something: 1000000 Tokens, GB-Months, Units/Month.
_WORD = r"[A-Za-z][A-Za-z0-9]*"
_UNIT = rf"([0-9]+ )?{_WORD}(-{_WORD})*(/([0-9]+ )?{_WORD}(-{_WORD})*)?"

_TAX = "ChargeCategory = 'Tax'"
_PRICED = "ChargeCategory IN ('Usage', 'Purchase') AND COALESCE(ChargeClass, '') != 'Correction'"
_UNUSUAL = "ChargeCategory IN ('Adjustment', 'Credit', 'Tax')"
_UNUSED = "COALESCE(CommitmentDiscountStatus, '') = 'Unused'"


@cache
def row_rules() -> tuple[Rule, ...]:
    """Every rule that judges one row, in the order of its column."""
    rules = [
        *_column_rules(),
        *_pair_rules(),
        *_charge_rules(),
        *_cost_rules(),
        *_period_rules(),
        *_value_rules(),
        *_own_rules(),
    ]
    return tuple(sorted(map(_since_its_columns, rules), key=lambda rule: rule.id))


def _since_its_columns(rule: Rule) -> Rule:
    known = focus.columns()
    sinces = [known[name].since for name in rule.columns if name in known]
    return rule._replace(since=max([rule.since, *sinces]))


def group_rules() -> tuple[GroupRule, ...]:
    """Every rule that judges rows together."""
    return (
        GroupRule(
            "ServiceName.one_category",
            ("ServiceCategory", "ServiceName"),
            by=("ServiceName",),
            where="ServiceName IS NOT NULL",
            broken="COUNT(DISTINCT ServiceCategory) > 1",
            sample="CONCAT(ServiceName, ': ', MIN(ServiceCategory), ', ', MAX(ServiceCategory))",
            sentence="A service has one ServiceCategory.",
            severity=SHOULD,
        ),
        GroupRule(
            "x_cost_basis.one_source",
            ("InvoiceIssuerName", "ChargePeriodStart", "x_cost_basis"),
            by=("InvoiceIssuerName", "CAST(ChargePeriodStart AS DATE)"),
            # A plan's price stands for another spend than the usage beside it.
            where=f"x_cost_basis != '{CostBasis.AGREED_PRICE}'",
            broken="COUNT(DISTINCT x_cost_basis) > 1",
            sample="CONCAT(COALESCE(InvoiceIssuerName, ''), ' ', "
            "COALESCE(CAST(CAST(ChargePeriodStart AS DATE) AS STRING), ''), ': ', "
            "MIN(x_cost_basis), ', ', MAX(x_cost_basis))",
            sentence="What one issuer invoices for a day is known from one source of money: two would "
            f"count it twice. The most trustworthy is kept: {', '.join(CostBasis)}.",
        ),
        GroupRule(
            "x_row_id.loaded_twice",
            ("x_row_id", "x_source_credential_id", "x_source_pipeline_id"),
            by=("x_row_id",),
            where="x_row_id IS NOT NULL",
            broken="COUNT(DISTINCT CONCAT(x_source_pipeline_id, '/', x_source_credential_id)) > 1",
            sample="x_row_id",
            sentence="A row comes from one pipeline and credential: else one source was loaded twice.",
        ),
        GroupRule(
            "x_row_id.repeated",
            ("x_row_id", "x_source_credential_id", "x_source_pipeline_id"),
            by=("x_row_id", "x_source_pipeline_id", "x_source_credential_id"),
            where="x_row_id IS NOT NULL",
            broken="COUNT(*) > 1",
            sample="x_row_id",
            sentence="A row's id is its own: rows that share one are alike in all that tells them apart.",
            severity=SHOULD,
        ),
    )


def _column_rules() -> Iterator[Rule]:
    for column in focus.columns().values():
        for rule in _rules_of(column):
            yield rule._replace(until=column.until)


def _rules_of(column: FocusColumn) -> Iterator[Rule]:
    name = column.name
    if not column.nullable:
        if column.level is Level.MANDATORY:
            yield Rule(f"{name}.null", (name,), f"{name} IS NULL", f"{name} must not be null.")
        else:
            yield Rule(
                f"{name}.null",
                (name,),
                f"{name} IS NULL",
                f"{name} must not be null where the provider delivers it.",
                severity=SHOULD,
                unless_empty=name,
            )
    if column.allowed:
        yield Rule(
            f"{name}.allowed",
            (name,),
            f"{name} NOT IN ({_listed(column.allowed)})",
            f"{name} is one of: {', '.join(sorted(column.allowed))}."
            if len(column.allowed) < 20
            else f"{name} is one of the {len(column.allowed)} values of the specification.",
        )
    if column.non_negative:
        yield Rule(f"{name}.negative", (name,), f"{name} < 0", f"{name} is never negative.")
    match column.type:
        case FocusType.TEXT if not column.allowed:
            yield Rule(
                f"{name}.placeholder",
                (name,),
                f"LOWER(TRIM({name})) IN ({_listed(PLACEHOLDERS)})",
                f"{name} is null where there is no value, not an empty text or a word for nothing.",
            )
        case FocusType.DECIMAL:
            yield Rule(
                f"{name}.format",
                (name,),
                _unlike(f"t_{name}", _NUMBER),
                f"{name} is a plain number or one with an exponent, such as -1.5 or 2E-7: no sign of a "
                "currency, no comma, no plus.",
                texts=True,
            )
            yield Rule(
                f"{name}.type",
                (name,),
                f"{name} IS NULL AND REGEXP_CONTAINS(t_{name}, r'^({_NUMBER})$')",
                f"{name} is a number of at most 20 digits before the point.",
                texts=True,
            )
        case FocusType.TIMESTAMP:
            yield Rule(
                f"{name}.format",
                (name,),
                f"({_unlike(f't_{name}', _TIME)}) OR (t_{name} IS NOT NULL AND {name} IS NULL)",
                f"{name} is a time in UTC, written as 2026-01-31T00:00:00Z.",
                texts=True,
            )
        case FocusType.JSON:
            yield from _json_rules(name)
        case _:
            return


def _json_rules(name: str) -> Iterator[Rule]:
    yield Rule(
        f"{name}.type",
        (name,),
        f"t_{name} IS NOT NULL AND {name} IS NULL",
        f"{name} is JSON.",
        texts=True,
    )
    text = f"TO_JSON_STRING({name})"
    flat = name in KEY_VALUE
    yield Rule(
        f"{name}.shape",
        (name,),
        f"{name} IS NOT NULL AND {_unlike(text, _FLAT if flat else _OBJECT)}",
        f"{name} is a JSON object of keys with a text, a number, true, false or null each."
        if flat
        else f"{name} is a JSON object.",
    )


def _pair_rules() -> Iterator[Rule]:
    """Columns that say more of another one: null where that one is, and there where it is."""
    for name, of, missing in (
        ("AllocatedMethodDetails", "AllocatedMethodId", None),
        ("AllocatedResourceName", "AllocatedResourceId", MUST),
        ("BillingAccountType", "BillingAccountId", SHOULD),
        ("CapacityReservationStatus", "CapacityReservationId", None),
        ("CommitmentDiscountCategory", "CommitmentDiscountId", MUST),
        ("CommitmentDiscountName", "CommitmentDiscountId", None),
        ("CommitmentDiscountStatus", "CommitmentDiscountId", None),
        ("CommitmentDiscountType", "CommitmentDiscountId", MUST),
        ("CommitmentDiscountUnit", "CommitmentDiscountQuantity", MUST),
        ("ConsumedUnit", "ConsumedQuantity", MUST),
        ("PricingUnit", "PricingQuantity", MUST),
        ("RegionName", "RegionId", MUST),
        ("ResourceName", "ResourceId", None),
        ("ResourceType", "ResourceId", SHOULD),
        ("SkuMeter", "SkuId", SHOULD),
        ("SkuPriceDetails", "SkuPriceId", None),
        ("SubAccountName", "SubAccountId", MUST),
        ("SubAccountType", "SubAccountId", SHOULD),
    ):
        yield Rule(
            f"{name}.alone",
            (name, of),
            f"{name} IS NOT NULL AND {of} IS NULL",
            f"{name} is null where {of} is.",
        )
        if missing is not None:
            yield Rule(
                f"{name}.missing",
                (name, of),
                f"{name} IS NULL AND {of} IS NOT NULL",
                f"{name} is there where {of} is.",
                severity=missing,
                unless_empty=name if missing is SHOULD else None,
            )
    for name in (
        *("CommitmentDiscountQuantity", "ConsumedQuantity", "ContractedUnitPrice", "ListUnitPrice"),
        *("PricingCategory", "PricingCurrencyContractedUnitPrice"),
        *("PricingCurrencyListUnitPrice", "PricingQuantity"),
    ):
        yield Rule(
            f"{name}.unpriced",
            (name, "SkuPriceId"),
            f"{name} IS NOT NULL AND SkuPriceId IS NULL",
            f"{name} is null where there is no SkuPriceId to measure or price by.",
            since="1.3",
        )


def _charge_rules() -> Iterator[Rule]:
    """What the category of a charge asks for."""
    for name in (
        *("ContractedUnitPrice", "ListUnitPrice", "PricingCategory"),
        *("PricingCurrencyContractedUnitPrice", "PricingCurrencyListUnitPrice", "PricingQuantity"),
        *("SkuId", "SkuPriceId"),
    ):
        yield Rule(
            f"{name}.tax",
            (name, "ChargeCategory"),
            f"{name} IS NOT NULL AND {_TAX}",
            f"{name} is null for Tax.",
        )
    for name in ("ContractedUnitPrice", "ListUnitPrice", "PricingCategory", "PricingQuantity"):
        mandatory = focus.columns()[name].level is Level.MANDATORY
        rule = Rule(
            f"{name}.needed",
            (name, "ChargeCategory", "ChargeClass"),
            f"{name} IS NULL AND {_PRICED}",
            f"{name} is there for Usage and Purchase that are no Correction.",
            severity=MUST if mandatory else SHOULD,
            until="1.2",
            unless_empty=None if mandatory else name,
        )
        yield rule
        yield rule._replace(
            columns=(*rule.columns, "SkuPriceId"),
            broken=f"{rule.broken} AND SkuPriceId IS NOT NULL",
            sentence=f"{name} is there for Usage and Purchase of a SkuPriceId that are no Correction.",
            since="1.3",
            until=None,
        )
    for name in ("SkuId", "SkuPriceId"):
        yield Rule(
            f"{name}.needed",
            (name, "ChargeCategory", "ChargeClass"),
            f"{name} IS NULL AND {_PRICED}",
            f"{name} is there for Usage and Purchase that are no Correction, where there are prices.",
            severity=SHOULD,
            unless_empty=name,
        )
    yield from _usage_rules()
    yield from _commitment_rules()


def _usage_rules() -> Iterator[Rule]:
    yield Rule(
        "ChargeFrequency.purchase",
        ("ChargeFrequency", "ChargeCategory"),
        "ChargeFrequency = 'Usage-Based' AND ChargeCategory = 'Purchase'",
        "A Purchase is not Usage-Based.",
    )
    yield Rule(
        "ConsumedQuantity.usage",
        ("ConsumedQuantity", "ChargeCategory"),
        f"ConsumedQuantity IS NOT NULL AND ({_UNUSUAL} OR ChargeCategory = 'Purchase')",
        "ConsumedQuantity is null where the charge is no Usage.",
    )
    yield Rule(
        "ConsumedQuantity.unused",
        ("ConsumedQuantity", "CommitmentDiscountStatus"),
        f"ConsumedQuantity IS NOT NULL AND {_UNUSED}",
        "ConsumedQuantity is null for what a commitment left unused.",
    )
    yield Rule(
        "CapacityReservationStatus.needed",
        ("CapacityReservationStatus", "CapacityReservationId", "ChargeCategory"),
        "CapacityReservationStatus IS NULL AND CapacityReservationId IS NOT NULL "
        "AND ChargeCategory = 'Usage'",
        "Usage of a capacity reservation says whether it was Used or Unused.",
    )


def _commitment_rules() -> Iterator[Rule]:
    yield Rule(
        "CommitmentDiscountStatus.needed",
        ("CommitmentDiscountStatus", "CommitmentDiscountId", "ChargeCategory"),
        "CommitmentDiscountStatus IS NULL AND CommitmentDiscountId IS NOT NULL "
        "AND ChargeCategory = 'Usage'",
        "Usage under a commitment discount says whether it was Used or Unused.",
    )
    yield Rule(
        "CommitmentDiscountQuantity.needed",
        ("CommitmentDiscountQuantity", "CommitmentDiscountId", "ChargeCategory", "ChargeClass"),
        f"CommitmentDiscountQuantity IS NULL AND CommitmentDiscountId IS NOT NULL AND {_PRICED}",
        "Usage and Purchase of a commitment discount say how much of it.",
        severity=SHOULD,
        unless_empty="CommitmentDiscountQuantity",
    )
    yield Rule(
        "CommitmentDiscountQuantity.other",
        ("CommitmentDiscountQuantity", "CommitmentDiscountId", "ChargeCategory"),
        f"CommitmentDiscountQuantity IS NOT NULL AND (CommitmentDiscountId IS NULL OR {_UNUSUAL})",
        "CommitmentDiscountQuantity is null but for Usage and Purchase of a commitment discount.",
    )
    yield Rule(
        "PricingCategory.commitment_purchase",
        ("PricingCategory", "CommitmentDiscountId", "ChargeCategory"),
        "PricingCategory = 'Committed' AND ChargeCategory = 'Purchase' "
        "AND CommitmentDiscountId IS NOT NULL",
        "The purchase of a commitment is not itself priced as Committed.",
    )
    yield Rule(
        "PricingCategory.committed",
        ("PricingCategory", "CommitmentDiscountId", "ChargeCategory"),
        "PricingCategory != 'Committed' AND ChargeCategory = 'Usage' "
        "AND CommitmentDiscountId IS NOT NULL",
        "Usage under a commitment discount is priced as Committed.",
    )
    yield Rule(
        "EffectiveCost.commitment_purchase",
        ("EffectiveCost", "CommitmentDiscountId", "ChargeCategory"),
        "EffectiveCost != 0 AND ChargeCategory = 'Purchase' AND CommitmentDiscountId IS NOT NULL",
        "The purchase of a commitment has an EffectiveCost of 0: what it covers carries the cost.",
    )


def _cost_rules() -> Iterator[Rule]:
    for cost, price in (
        ("ContractedCost", "ContractedUnitPrice"),
        ("ListCost", "ListUnitPrice"),
    ):
        # Until 1.2 a correction was excepted.
        for since, until, but in (
            ("1.0", "1.2", " AND COALESCE(ChargeClass, '') != 'Correction'"),
            ("1.3", None, ""),
        ):
            columns = (cost, price, "PricingQuantity", *(("ChargeClass",) if but else ()))
            differs = _product_differs(cost, price, "PricingQuantity")
            yield Rule(
                f"{cost}.product",
                columns,
                f"({differs.clearly}){but}",
                f"{cost} is {price} × PricingQuantity, to 14 digits: as exact as a source is that "
                "computes in binary.",
                since=since,
                until=until,
            )
            yield Rule(
                f"{cost}.exact_product",
                columns,
                f"({differs.slightly}){but}",
                f"{cost} is {price} × PricingQuantity, but for rounding them to 18 digits after the "
                "point.",
                severity=SHOULD,
                since=since,
                until=until,
            )
    for cost in ("ContractedCost", "EffectiveCost", "ListCost"):
        yield Rule(
            f"{cost}.credit",
            (cost, "BilledCost", "ChargeCategory"),
            f"{cost} != BilledCost AND ChargeCategory = 'Credit'",
            f"A Credit's {cost} is its BilledCost.",
            since="1.2",
        )
        yield Rule(
            f"{cost}.sign",
            (cost, "BilledCost", "ChargeCategory"),
            f"(({cost} > 0 AND BilledCost < 0) OR ({cost} < 0 AND BilledCost > 0)) "
            "AND ChargeCategory IN ('Usage', 'Purchase')",
            f"The BilledCost and the {cost} of Usage and Purchase have one sign.",
        )
    yield Rule(
        "EffectiveCost.tax",
        ("EffectiveCost", "BilledCost", "ChargeCategory"),
        f"EffectiveCost != BilledCost AND {_TAX}",
        "A Tax' EffectiveCost is its BilledCost.",
        since="1.4",
    )


class _Differs(NamedTuple):
    clearly: str
    slightly: str


def _product_differs(cost: str, price: str, quantity: str) -> _Differs:
    """Conditions of: `cost` is not `price` × `quantity`.

    DuckDB has 38 digits, and a product of two numbers with 18 after the point would need 36 for these
    alone. So the price is multiplied in two parts, its first nine digits after the point and the rest;
    what is left out of it, rest times rest, is below 1e-18. Each of the three numbers may have been
    rounded by half of that. Binary numbers are only asked what is cheap to know from them: that the two
    agree to 14 digits, or have more than ten before the point and differ in the first twelve.
    """
    rest = f"CAST({price} - CAST({price} AS NUMERIC) AS BIGNUMERIC)"
    product = (
        f"CAST({price} AS NUMERIC) * CAST({quantity} AS BIGNUMERIC) "
        f"+ {rest} * CAST({quantity} AS NUMERIC)"
    )
    off = f"ABS({product} - {cost})"
    rounded = (
        f"CAST(CEIL(ABS({price})) + CEIL(ABS({quantity})) + 2 AS NUMERIC) "
        "* CAST('0.000000000000000001' AS BIGNUMERIC)"
    )
    binary = f"CAST(ABS({cost}) AS NUMERIC) * CAST('0.00000000000001' AS BIGNUMERIC)"
    about = f"CAST({price} AS FLOAT64) * CAST({quantity} AS FLOAT64)"
    far = f"ABS({about} - CAST({cost} AS FLOAT64))"
    small = f"ABS({about}) < 1e10 AND ABS({cost}) < 10000000000"
    return _Differs(
        clearly=f"CASE WHEN {far} <= 4e-15 * ABS({about}) THEN FALSE "
        f"WHEN {small} THEN {off} > {rounded} AND {off} > {binary} "
        f"ELSE {far} > 1e-12 * ABS({about}) END",
        slightly=f"CASE WHEN {small} THEN {off} > {rounded} AND {off} <= {binary} ELSE FALSE END",
    )


def _period_rules() -> Iterator[Rule]:
    for kind in ("BillingPeriod", "ChargePeriod"):
        start, end = f"{kind}Start", f"{kind}End"
        yield Rule(
            f"{end}.order",
            (start, end),
            f"{start} >= {end}",
            f"{start} is before {end}, which is the first instant that does not belong to it.",
        )
        yield Rule(
            f"{end}.inclusive",
            (end,),
            f"EXTRACT(MINUTE FROM {end}) = 59 AND EXTRACT(SECOND FROM {end}) = 59",
            f"{end} is exclusive: the first instant after the period, not its last second.",
        )
    yield Rule(
        "BillingPeriodEnd.last_day",
        ("BillingPeriodStart", "BillingPeriodEnd"),
        "EXTRACT(DAY FROM BillingPeriodStart) = 1 AND EXTRACT(DAY FROM BillingPeriodEnd) != 1 "
        "AND EXTRACT(HOUR FROM BillingPeriodEnd) = 0 "
        "AND EXTRACT(DAY FROM TIMESTAMP_ADD(BillingPeriodEnd, INTERVAL 1 DAY)) = 1",
        "The BillingPeriodEnd of a month is the first instant of the next, not its last day.",
    )
    yield Rule(
        "ChargePeriodStart.billing_period",
        (
            "BillingPeriodStart",
            "BillingPeriodEnd",
            "ChargePeriodStart",
            "ChargeCategory",
            "ChargeClass",
        ),
        "ChargeCategory = 'Usage' AND ChargeClass IS NULL "
        "AND (ChargePeriodStart < BillingPeriodStart OR ChargePeriodStart >= BillingPeriodEnd)",
        "Usage that corrects nothing begins in the period in which it is billed.",
        severity=SHOULD,
    )


def _value_rules() -> Iterator[Rule]:
    currencies = _listed(currency.codes())
    yield Rule(
        "BillingCurrency.code",
        ("BillingCurrency",),
        f"BillingCurrency NOT IN ({currencies})",
        "BillingCurrency is a code of ISO 4217, such as USD.",
    )
    yield Rule(
        "PricingCurrency.code",
        ("PricingCurrency",),
        f"REGEXP_CONTAINS(PricingCurrency, r'^[A-Za-z]{{3}}$') AND PricingCurrency NOT IN ({currencies})",
        "PricingCurrency is a code of ISO 4217, or the name of a virtual currency.",
        since="1.2",
    )
    parents = [f"{parent}/{value}" for value, parent in focus.subcategories().items()]
    yield Rule(
        "ServiceSubcategory.parent",
        ("ServiceCategory", "ServiceSubcategory"),
        f"ServiceCategory IN ({_listed(set(focus.subcategories().values()))}) "
        f"AND ServiceSubcategory IN ({_listed(focus.subcategories())}) "
        f"AND CONCAT(ServiceCategory, '/', ServiceSubcategory) NOT IN ({_listed(parents)})",
        "A ServiceSubcategory stands with the one ServiceCategory that it belongs to.",
        since="1.1",
    )
    for name in ("ConsumedUnit", "CommitmentDiscountUnit", "PricingUnit"):
        yield Rule(
            f"{name}.format",
            (name,),
            _unlike(name, _UNIT),
            f"{name} is a unit, with a whole number before it or an interval after it: GB-Months, "
            "1000000 Tokens, Units/Month.",
            severity=SHOULD,
        )
    known = "|".join(('x_[^"]*', *SKU_PROPERTIES))
    pairs = rf'"({known})"\s*:\s*{_SCALAR}'
    yield Rule(
        "SkuPriceDetails.keys",
        ("SkuPriceDetails",),
        f"REGEXP_CONTAINS(TO_JSON_STRING(SkuPriceDetails), r'''^{_FLAT}$''') AND "
        + _unlike(
            "TO_JSON_STRING(SkuPriceDetails)", rf"\s*\{{\s*({pairs}\s*(,\s*{pairs}\s*)*)?\}}\s*"
        ),
        "A key of SkuPriceDetails is one that the specification defines, or begins with x_.",
        since="1.2",
    )
    yield Rule(
        "ServiceProviderName.origin",
        ("ServiceProviderName", "ProviderName", "PublisherName"),
        "ServiceProviderName NOT IN (ProviderName, PublisherName)",
        "ServiceProviderName is the ProviderName of earlier versions, or the PublisherName of what is "
        "sold through a marketplace.",
        since="1.3",
    )


def _own_rules() -> Iterator[Rule]:
    for own in focus.OWN:
        if not own.nullable:
            yield Rule(
                f"{own.name}.null",
                (own.name,),
                f"{own.name} IS NULL",
                f"{own.name} must not be null.",
            )
        if own.allowed:
            yield Rule(
                f"{own.name}.allowed",
                (own.name,),
                f"{own.name} NOT IN ({_listed(own.allowed)})",
                f"{own.name} is one of: {', '.join(sorted(own.allowed))}.",
            )


def _listed(values: Iterable[str]) -> str:
    """Texts as a list of literals."""
    texts = sorted(map(str, values))
    return ", ".join("'" + text.replace("'", "\\'") + "'" for text in texts)


def _unlike(text: str, pattern: str) -> str:
    return f"NOT REGEXP_CONTAINS({text}, r'''^({pattern})$''')"
