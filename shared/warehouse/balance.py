"""The money of a call: what its source has and what its output holds, by currency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TypeAlias

from shared.core.lineage import LoadReceipt, Total, Writer
from shared.errors import Terminal
from shared.warehouse.procedure import Procedure, RowRule
from shared.warehouse.proof import Marked, ReadBack, combined, null_findings, slice_counts
from shared.warehouse.tally import plus

# Rows and sums in the order of the procedure's totals, by currency ('' where there is none).
Sums: TypeAlias = Mapping[str, tuple[int, list[Decimal]]]


@dataclass(frozen=True, slots=True)
class Called:
    """A procedure that has run over `days`: its input, and what its table holds of them now."""

    procedure: Procedure
    days: tuple[date, ...]
    source: Sums
    there: ReadBack

    @property
    def marked(self) -> list[Marked]:
        return [
            Marked(day, self.there.rows(day), 0, self._totals(day), self.there.checksum(day))
            for day in self.days
        ]

    @property
    def rows(self) -> int:
        return sum(count for count, _ in self.there.said.values())

    def balance(self) -> None:
        """Raises Terminal (`unbalanced`) when money or rows of the input are not in the output."""
        loaded = _by_currency(self.there)
        totals = self.procedure.totals
        nothing = (0, [Decimal(0)] * len(totals))
        problems = []
        for currency in sorted({*self.source, *loaded}):
            given, held = self.source.get(currency, nothing), loaded.get(currency, nothing)
            if given[0] != held[0] and self.procedure.rows is RowRule.SAME:
                problems.append(f"rows {currency}: {held[0]:,} of {given[0]:,}")
            problems += [
                f"{column} {currency}: {to} of {of}"
                for column, of, to in zip(totals, given[1], held[1], strict=True)
                if of != to
            ]
        if problems:
            raise Terminal(
                f"procedure {self.procedure.name}: the output does not hold what its source has: "
                f"{'; '.join(problems)}",
                code="unbalanced",
            )

    def receipt(
        self, writer: Writer, added: Sequence[str], committed_at: datetime | None
    ) -> LoadReceipt:
        """What the call has to show. `writer` has the fence of its input."""
        same = self.procedure.rows is RowRule.SAME
        marked = self.marked
        return LoadReceipt(
            table=self.procedure.output.name,
            source_version=self.procedure.version,
            source_at=writer.fence.source_at,
            extracted=sum(count for count, _ in self.source.values()) if same else self.rows,
            loaded=self.rows,
            slices=slice_counts(marked),
            totals=self._totals(),
            checksum=combined(marked),
            added_columns=tuple(added),
            findings=null_findings(self.there.nulls),
            committed_at=committed_at,
        )

    def _totals(self, day: date | None = None) -> tuple[Total, ...]:
        """What the table holds, which `balance` holds against the source."""
        return tuple(
            Total(column=column, currency=currency, source=sums[place], loaded=sums[place])
            for place, column in enumerate(self.procedure.totals)
            for currency, (_, sums) in sorted(_by_currency(self.there, day).items())
        )


def _by_currency(there: ReadBack, day: date | None = None) -> Sums:
    merged: dict[str, tuple[int, list[Decimal]]] = {}
    for key, (count, sums) in there.said.items():
        if day is None or key.run_date == day:
            known = merged.get(key.currency, (0, [Decimal(0)] * len(sums)))
            merged[key.currency] = (
                known[0] + count,
                [plus(one, other) for one, other in zip(known[1], sums, strict=True)],
            )
    return merged
