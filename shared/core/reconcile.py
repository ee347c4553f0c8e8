"""Holds the money of loads against the totals that a provider gives itself: equal to the last digit, or drift."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Context, Decimal

from shared.core.dates import Dates
from shared.core.lineage import Finding, LoadReceipt, Reconciliation, Verdict

_EXACT = Context(prec=80)  # the default one rounds to 28 digits
_NOTHING = Decimal(0)


def reconciled(
    loads: Sequence[LoadReceipt],
    column: str,
    told: Iterable[tuple[str, Decimal]] | None,
    *,
    days: Dates,
    by: str,
) -> tuple[Reconciliation, ...]:
    """Every currency that either side has, against the other; `told` are the provider's amounts.

    The loads are all of one table, and together hold just these days. A row that was rejected is not
    loaded, and so shows as drift. None: the provider gives no total, which proves nothing and says so
    once for each currency, also when nothing was loaded.
    """
    (table,) = {load.table for load in loads}
    ours = _summed(
        (total.currency, part)
        for load in loads
        for total in load.totals
        if total.column == column
        for part in (total.loaded, total.residue)
    )
    theirs = None if told is None else _summed(told)
    found = []
    for currency in sorted({*ours, *(theirs or ())}) or [""]:
        loaded = ours.get(currency, _NOTHING)
        own = None if theirs is None else theirs.get(currency, _NOTHING)
        found.append(
            Reconciliation(
                table=table,
                column=column,
                currency=currency,
                start_date=days.start,
                end_date=days.end,
                loaded=loaded,
                told=own,
                verdict=_verdict(loaded, own),
                by=by,
            )
        )
    return tuple(found)


def overall(reconciliations: Iterable[Reconciliation]) -> Verdict:
    """Drift, when one currency drifts; matched, when all of them match."""
    verdicts = {one.verdict for one in reconciliations}
    return next(
        verdict
        for verdict in (Verdict.DRIFT, Verdict.UNVERIFIABLE, Verdict.MATCHED)
        if verdict in verdicts or verdict is Verdict.MATCHED
    )


def drifts(reconciliations: Iterable[Reconciliation]) -> tuple[Finding, ...]:
    """A finding for every total that is not the provider's."""
    return tuple(
        Finding(
            code="drift",
            message=f"{one.table}: loaded {_digits(one.loaded)} {one.currency}, {one.by} is "
            f"{_digits(one.told)}: a difference of {_digits(_EXACT.subtract(one.loaded, one.told))}",
        )
        for one in reconciliations
        if one.verdict is Verdict.DRIFT and one.told is not None
    )


def _verdict(loaded: Decimal, told: Decimal | None) -> Verdict:
    if told is None:
        return Verdict.UNVERIFIABLE
    return Verdict.MATCHED if loaded == told else Verdict.DRIFT


def _summed(parts: Iterable[tuple[str, Decimal]]) -> dict[str, Decimal]:
    sums: dict[str, Decimal] = {}
    for currency, amount in parts:
        sums[currency] = _EXACT.add(sums.get(currency, _NOTHING), amount)
    return sums


def _digits(amount: Decimal) -> str:
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
