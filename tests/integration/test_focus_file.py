"""A file is judged row by row: the official sample, and each fault that its own validator does not see."""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared.bootstrap.focus_file import check_file
from shared.core import focus
from shared.core.focus_check import Report
from shared.errors import Terminal
from tests.support.focus import file_row

SAMPLE = Path(__file__).parents[2].parent / "shared" / "data" / "focus_sample.csv"
needs_sample = pytest.mark.skipif(
    not SAMPLE.exists() and os.environ.get("CI") != "true",
    reason="the FinOps Foundation's sample lies beside the repository, not in it",
)
# What the sample breaks, in how many of its thousand rows, and why.
KNOWN = {
    **{
        f"{period}{end}.format": (1000, "times are written without T and Z")
        for period in ("BillingPeriod", "ChargePeriod")
        for end in ("Start", "End")
    },
    "ChargeFrequency.allowed": (7, "Oracle's rows have a null, written as the text null"),
    "ConsumedQuantity.usage": (2, "Microsoft's purchases have a consumed quantity"),
    "ContractedCost.null": (7, "Oracle delivers none"),
    "ContractedCost.product": (38, "costs were rounded to ten digits, or to whole ones"),
    "ContractedUnitPrice.negative": (1, "a credit of AWS"),
    "ListCost.product": (490, "costs were rounded to ten digits"),
    "RegionName.alone": (7, "Oracle's rows have a name and no id"),
    "RegionName.missing": (2, "an id of Microsoft's without a name"),
    "ResourceType.alone": (36, "a type and no resource"),
    "columns.custom": (1000, "a column Id"),
    "ChargePeriodStart.billing_period": (1, "Oracle bills an hour of the month before"),
    "ConsumedUnit.format": (16, "two words without a hyphen"),
    "ContractedUnitPrice.needed": (5, "Oracle delivers none"),
    "PricingCategory.needed": (5, "Oracle delivers none"),
    "PricingUnit.format": (16, "two words without a hyphen"),
    "ResourceType.missing": (752, "AWS delivers few types"),
    "ServiceName.one_category": (554, "AWS' EC2 is Compute and Storage"),
    "SkuPriceId.needed": (5, "Oracle delivers none"),
    "columns.order": (1000, "the column Id stands between FOCUS'"),
}


class Mutation(NamedTuple):
    """A fault in one cell of the sample's row, and the rule that finds it."""

    rule: str
    row: int
    cells: dict[str, str]


MUTATIONS = (
    Mutation("ChargeCategory.allowed", 1, {"ChargeCategory": "usage"}),
    Mutation("PricingCategory.allowed", 3, {"PricingCategory": "On-Demand"}),
    Mutation("ServiceCategory.allowed", 4, {"ServiceCategory": "Integrations"}),
    Mutation("PricingUnit.format", 6, {"PricingUnit": "foo bar"}),
    Mutation("ListCost.product", 4, {"ListCost": "0.5"}),
    Mutation("ContractedCost.product", 4, {"ContractedCost": "0.5"}),
    Mutation("ListCost.sign", 101, {"BilledCost": "-0.5"}),
    Mutation("BilledCost.format", 6, {"BilledCost": "+0.00001"}),
    Mutation("EffectiveCost.format", 6, {"EffectiveCost": "$10,000.00 "}),
    Mutation("ListUnitPrice.format", 1, {"ListUnitPrice": "4e+1"}),
    Mutation("PricingQuantity.format", 10, {"PricingQuantity": "1,000"}),
    Mutation("BilledCost.type", 11, {"BilledCost": "1E30"}),
    Mutation("BillingCurrency.code", 6, {"BillingCurrency": "US$"}),
    Mutation("Tags.type", 3, {"Tags": "{'a': 1}"}),
    Mutation("ChargePeriodEnd.order", 3, {"ChargePeriodEnd": "2024-09-01 00:00:00"}),
    Mutation("BillingAccountId.null", 6, {"BillingAccountId": "NULL"}),
)  # fmt: skip


@needs_sample
def test_the_official_sample_breaks_what_is_known_of_it() -> None:
    report = check_file(SAMPLE)
    assert (report.version, report.rows) == ("1.0", 1000)
    assert counts(report) == {rule: rows for rule, (rows, _) in KNOWN.items()}


@needs_sample
def test_every_mutation_is_found_by_the_rule_for_it_and_no_other(tmp_path: Path) -> None:
    with SAMPLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for mutation in MUTATIONS:
        rows[mutation.row - 1] |= mutation.cells
    path = tmp_path / "mutated.csv"
    write(path, rows)
    expected = {rule: count for rule, (count, _) in KNOWN.items()}
    for mutation in MUTATIONS:
        expected[mutation.rule] = expected.get(mutation.rule, 0) + 1
    assert counts(check_file(path)) == expected


def test_a_file_is_judged_by_the_version_of_its_columns_or_the_one_asked_for(
    tmp_path: Path,
) -> None:
    path = tmp_path / "export.csv.gz"
    rows = [file_row("1.2", f"r{n}") for n in range(3)]
    write(path, rows)
    report = check_file(path)
    assert (report.version, report.rows, report.broken) == ("1.2", 3, ())
    later = check_file(path, version="1.3")
    assert {found.rule for found in later.broken if found.severity == "must"} == {
        "HostProviderName.column",
        "ServiceProviderName.column",
    }


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda t: t, set()),
        (lambda t: t.append_column("Extra", pa.array(["1", "2"])), {"columns.custom"}),
        (lambda t: t.append_column("x_Extra", pa.array(["1", "2"])), set()),
        (lambda t: t.drop_columns(["ListCost"]), {"ListCost.column"}),
        (lambda t: text(t, "BilledCost"), {"BilledCost.type"}),
        (lambda t: renamed(t, "Tags", "tags"), {"columns.custom"}),
    ],
    ids=["as it should be", "a column of nobody", "a custom column", "without a column", "costs as texts", "a name in lower case"],
)  # fmt: skip
def test_the_columns_of_a_parquet_file_have_names_and_types(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table], rules: set[str]
) -> None:
    names = focus.of_version("1.2")
    rows = [file_row("1.2", name) for name in ("a", "b")]
    arrays = {name: pa.array([row[name] or None for row in rows], pa.string()) for name in names}
    for name in names:
        match focus.columns()[name].type:
            case focus.FocusType.DECIMAL:
                arrays[name] = arrays[name].cast(pa.decimal128(38, 18))
            case focus.FocusType.TIMESTAMP:
                arrays[name] = arrays[name].cast(pa.timestamp("ms", "UTC"))
    path = tmp_path / "export.parquet"
    pq.write_table(change(pa.table(arrays)), path)
    report = check_file(path, version="1.2")
    found = (
        set(counts(report)) - {"columns.order"}
        if "columns.order" not in rules
        else set(counts(report))
    )
    assert found == rules


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_text("")
    with pytest.raises(Terminal, match="without even a header"):
        check_file(path)


def counts(report: Report) -> dict[str, int]:
    return {found.rule: found.rows for found in report.broken}


def write(path: Path, rows: list[dict[str, str]]) -> None:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def text(table: pa.Table, name: str) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, name, table[name].cast(pa.string()))


def renamed(table: pa.Table, old: str, new: str) -> pa.Table:
    return table.rename_columns([new if name == old else name for name in table.column_names])
