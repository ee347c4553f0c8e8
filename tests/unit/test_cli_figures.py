from __future__ import annotations

from decimal import Decimal

from shared.cli.figures import (
    Figures,
    Month,
    changes,
    differences,
    imbalance,
    row_counts,
    totals,
)
from shared.cli.sample import COSTS

SUMS = {cost: Decimal("1.10") for cost in COSTS}


def test_witnesses_that_agree_leave_nothing_to_say() -> None:
    same = Figures(2, {cost: Decimal("1.1000") for cost in COSTS})
    assert differences({"source": Figures(2, SUMS), "table": same}) == []


def test_the_last_decimal_is_a_difference() -> None:
    off = Figures(3, SUMS | {"ListCost": Decimal("1.100000000000000001")})
    assert differences({"source": Figures(2, SUMS), "table": off}) == [
        "table: 3 rows, source: 2",
        "table: Σ ListCost 1.100000000000000001, source: 1.10",
    ]


def test_what_rounding_took_is_put_back_before_comparing() -> None:
    lost = dict.fromkeys(COSTS, Decimal("1e-19"))
    assert Figures(2, SUMS).before(lost).sums["BilledCost"] == Decimal("1.1000000000000000001")


def test_totals_of_a_receipt_add_up_its_currencies() -> None:
    receipt = {
        "extracted": 3,
        "loaded": 3,
        "totals": [
            {"column": "BilledCost", "currency": "USD", "source": "1.1", "loaded": "1"},
            {"column": "BilledCost", "currency": "EUR", "source": "2", "loaded": "2"},
            {"column": "Other", "currency": "EUR", "source": "9", "loaded": "9"},
        ],
    }
    assert totals(receipt, "source")["BilledCost"] == Decimal("3.1")
    assert totals(receipt, "residue")["BilledCost"] == 0
    assert row_counts(receipt) == {"extracted": 3, "loaded": 3, "rejected": 0, "deduplicated": 0}


def test_rows_that_nobody_accounts_for_are_told() -> None:
    rows = {"extracted": 5, "loaded": 3, "rejected": 1, "deduplicated": 0}
    assert imbalance(rows) == ["5 rows were extracted, 4 are accounted for"]
    assert imbalance(rows | {"deduplicated": 1}) == []


def test_a_second_run_that_changes_a_checksum_is_told() -> None:
    month = Month(
        run={},
        witnesses={"table": Figures(2, SUMS)},
        rows={"loaded": 2},
        checksums={"focus_costs": "aa"},
        rounding={},
    )
    assert changes(month, month) == []
    other = month._replace(checksums={"focus_costs": "bb"}, rows={"loaded": 3})
    assert changes(month, other) == [
        "rows loaded: 2 before, 3 now",
        "checksum of focus_costs: aa before, bb now",
    ]
