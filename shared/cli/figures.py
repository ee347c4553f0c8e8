"""What witnesses say of a month's costs, and where they disagree: pure, so that it can be trusted."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from shared.cli.sample import COSTS


class Figures(NamedTuple):
    """What one witness says of the month: its rows, and the exact sum of each cost."""

    rows: int
    sums: Mapping[str, Decimal]

    def before(self, rounding: Mapping[str, Decimal]) -> Figures:
        """The sums before they were rounded to the scale of the columns."""
        return Figures(self.rows, {cost: self.sums[cost] + rounding[cost] for cost in COSTS})


class Month(NamedTuple):
    """One run of the month, and what everybody says of it. `rows` are those of the first load."""

    run: dict[str, Any]
    witnesses: dict[str, Figures]
    rows: dict[str, int]
    checksums: dict[str, str]
    rounding: Mapping[str, Decimal]


def totals(receipt: Mapping[str, Any], which: str) -> dict[str, Decimal]:
    """A field of the totals of a load's receipt (as JSON) per cost, all currencies together."""
    found = dict.fromkeys(COSTS, Decimal(0))
    for one in receipt.get("totals", ()):
        if one["column"] in found:
            found[one["column"]] += Decimal(one.get(which, "0"))
    return found


def row_counts(receipt: Mapping[str, Any]) -> dict[str, int]:
    """Rows of a load's receipt; JSON leaves out what is nothing."""
    names = ("extracted", "loaded", "rejected", "deduplicated")
    return {name: receipt.get(name, 0) for name in names}


def imbalance(rows: Mapping[str, int]) -> list[str]:
    """Rows that nobody accounts for."""
    kept = rows["loaded"] + rows["rejected"] + rows["deduplicated"]
    if kept == rows["extracted"]:
        return []
    return [f"{rows['extracted']:,} rows were extracted, {kept:,} are accounted for"]


def differences(witnesses: Mapping[str, Figures]) -> list[str]:
    """Every figure that is not that of the first witness."""
    (first, expected), *others = witnesses.items()
    wrong = []
    for name, told in others:
        if told.rows != expected.rows:
            wrong.append(f"{name}: {told.rows:,} rows, {first}: {expected.rows:,}")
        wrong += [
            f"{name}: Σ {cost} {told.sums[cost]}, {first}: {value}"
            for cost, value in expected.sums.items()
            if told.sums[cost] != value
        ]
    return wrong


def changes(first: Month, second: Month) -> list[str]:
    """What is not the same after the second run of a month."""
    pairs: list[tuple[str, object, object]] = [
        *((f"rows {name}", count, second.rows[name]) for name, count in first.rows.items()),
        *(
            (f"checksum of {table}", checksum, second.checksums.get(table))
            for table, checksum in first.checksums.items()
        ),
        *((name, told, second.witnesses[name]) for name, told in first.witnesses.items()),
    ]
    return [f"{name}: {old} before, {new} now" for name, old, new in pairs if old != new]
