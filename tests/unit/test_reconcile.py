from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.dates import Dates
from shared.core.lineage import Evidence, LoadReceipt, Reconciliation, Total, Verdict
from shared.core.reconcile import drifts, overall, reconciled

WEEK = Dates(date(2026, 11, 1), date(2026, 11, 7))
BY = "the total of acme"


def load(*totals: Total, table: str = "costs") -> LoadReceipt:
    return LoadReceipt(
        table=table,
        source_version="v1",
        source_at=datetime(2026, 11, 8, tzinfo=UTC),
        extracted=1,
        loaded=1,
        totals=totals,
    )


def total(loaded: str, currency: str = "USD", column: str = "amount", **rest: str) -> Total:
    parts: dict[str, Any] = {name: Decimal(value) for name, value in rest.items()}
    source = sum(parts.values(), Decimal(loaded))
    return Total(column=column, currency=currency, source=source, loaded=Decimal(loaded), **parts)


def held(
    told: Mapping[str, str] | None, *loads: LoadReceipt
) -> dict[str, tuple[Verdict, Decimal, Decimal | None]]:
    own = None if told is None else [(name, Decimal(value)) for name, value in told.items()]
    found = reconciled(loads, "amount", own, days=WEEK, by=BY)
    return {one.currency: (one.verdict, one.loaded, one.told) for one in found}


def test_the_same_money_matches_however_it_is_written() -> None:
    matched = (Verdict.MATCHED, Decimal("12.5"), Decimal("12.50"))
    assert held({"USD": "12.50"}, load(total("10")), load(total("2.5"))) == {"USD": matched}


def test_the_last_digit_is_drift() -> None:
    loads = (load(total("0.000000000000000001")), load(total("99999999999999999999")))
    found = reconciled(loads, "amount", [("USD", Decimal("1E+20"))], days=WEEK, by=BY)
    assert [one.verdict for one in found] == [Verdict.DRIFT]
    (finding,) = drifts(found)
    assert finding.code == "drift"
    assert finding.message == (
        "costs: loaded 99999999999999999999.000000000000000001 USD, the total of acme is "
        "100000000000000000000: a difference of -0.999999999999999999"
    )


def test_what_was_rounded_matches_and_what_was_rejected_does_not() -> None:
    rounded = load(total("1.1", residue="0.0000000000000000004"))
    assert held({"USD": "1.1000000000000000004"}, rounded)["USD"][0] is Verdict.MATCHED
    rejected = load(total("1.1", rejected="0.4"))
    assert held({"USD": "1.5"}, rejected)["USD"][0] is Verdict.DRIFT


def test_currencies_are_held_apart_and_none_is_left_out() -> None:
    found = held({"USD": "1", "EUR": "2"}, load(total("2", "EUR"), total("3", "GBP")))
    assert {currency: verdict for currency, (verdict, _, _) in found.items()} == {
        "EUR": Verdict.MATCHED,
        "GBP": Verdict.DRIFT,
        "USD": Verdict.DRIFT,
    }


def test_without_a_total_nothing_is_verified() -> None:
    unverifiable = (Verdict.UNVERIFIABLE, Decimal(1), None)
    assert held(None, load(total("1"))) == {"USD": unverifiable}
    assert held(None, load()) == {"": (Verdict.UNVERIFIABLE, Decimal(0), None)}
    assert drifts(reconciled([load()], "amount", None, days=WEEK, by="no total")) == ()


def test_nothing_loaded_and_nothing_told_match_and_nothing_loaded_of_something_drifts() -> None:
    assert held({}, load())[""][0] is Verdict.MATCHED
    assert held({"USD": "0.00"}, load())["USD"][0] is Verdict.MATCHED
    assert held({"USD": "3"}, load())["USD"][0] is Verdict.DRIFT


def test_other_columns_are_other_money_and_other_tables_are_refused() -> None:
    assert held({"USD": "1"}, load(total("1"), total("9", column="list")))["USD"][1] == 1
    with pytest.raises(ValueError, match="unpack"):
        held({}, load(), load(table="other"))


def test_one_currency_that_drifts_is_drift() -> None:
    def verdict(*amounts: tuple[str, str]) -> Verdict:
        told = [(currency, Decimal(amount)) for currency, amount in amounts]
        return overall(reconciled([load(total("1"))], "amount", told, days=WEEK, by=BY))

    assert verdict(("USD", "1")) is Verdict.MATCHED
    assert verdict(("USD", "0.5"), ("USD", "0.5")) is Verdict.MATCHED
    assert verdict(("USD", "1"), ("EUR", "1")) is Verdict.DRIFT
    assert overall(reconciled([load()], "amount", None, days=WEEK, by="no")) is Verdict.UNVERIFIABLE


AMOUNTS = st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**18))


@given(
    st.lists(st.tuples(st.sampled_from(["USD", "EUR"]), AMOUNTS), max_size=8),
    st.dictionaries(st.sampled_from(["USD", "EUR", "JPY"]), AMOUNTS),
)
def test_it_matches_when_the_exact_sums_are_equal_and_only_then(
    loaded: list[tuple[str, Decimal]], told: dict[str, Decimal]
) -> None:
    loads = [load(total(str(amount), currency)) for currency, amount in loaded] or [load()]
    for one in reconciled(loads, "amount", told.items(), days=WEEK, by=BY):
        ours = sum((Fraction(a) for c, a in loaded if c == one.currency), Fraction())
        same = ours == Fraction(told.get(one.currency, Decimal(0)))
        assert one.verdict is (Verdict.MATCHED if same else Verdict.DRIFT)
        assert Fraction(one.loaded) == ours


def test_evidence_keeps_every_digit_of_it() -> None:
    (one,) = reconciled(
        [load(total("0.1"))], "amount", [("USD", Decimal("0.10"))], days=WEEK, by=BY
    )
    kept = msgspec.json.decode(msgspec.json.encode(Evidence(reconciliations=(one,))), type=Evidence)
    assert kept.reconciliations == (one,)
    assert isinstance(kept.reconciliations[0], Reconciliation)
