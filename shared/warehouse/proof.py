"""What a load or a call has to show: what stands in the table, slice by slice, and the receipt of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import NamedTuple

from shared.core.lineage import Finding, SliceCount, Total
from shared.warehouse.tally import Key

_CHECKSUMS = 2**64


class Marked(NamedTuple):
    """What `_loads` says of one slice after a load."""

    run_date: date
    rows: int
    rejected: int
    totals: tuple[Total, ...]
    checksum: str


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What a table holds of the covered slices. `nulls` are of the columns that should have none."""

    said: Mapping[Key, tuple[int, list[Decimal]]]
    hashes: Mapping[date, int]
    nulls: Mapping[str, int]

    def rows(self, day: date) -> int:
        return sum(count for key, (count, _) in self.said.items() if key.run_date == day)

    def checksum(self, day: date) -> str:
        """Of the content without the lineage of its run; the order of the rows does not matter."""
        return f"{self.hashes.get(day, 0) % _CHECKSUMS:016x}"


def null_findings(nulls: Mapping[str, int]) -> tuple[Finding, ...]:
    """A finding for every column that should have a value and lacks some."""
    return tuple(
        Finding(code="null", message=f"{column} is null", rows=rows)
        for column, rows in nulls.items()
        if rows
    )


def slice_counts(marked: Sequence[Marked]) -> tuple[SliceCount, ...]:
    """What the load left in each slice."""
    return tuple(
        SliceCount(run_date=made.run_date, rows=made.rows, rejected=made.rejected)
        for made in marked
    )


def combined(marked: Sequence[Marked]) -> str:
    """The checksum of all slices of a load."""
    return f"{sum(int(made.checksum, 16) for made in marked) % _CHECKSUMS:016x}"
