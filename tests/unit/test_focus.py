from __future__ import annotations

import pytest

from shared.core import focus
from shared.core.focus import FocusType, Level


def test_the_internal_shape_is_1_4_and_the_two_columns_that_it_removed() -> None:
    removed = {"ProviderName", "PublisherName"}
    assert set(focus.columns()) == {*focus.of_version("1.4"), *removed}
    assert {c.name for c in focus.columns().values() if c.until} == removed
    assert len(focus.columns()) == 67


def test_every_version_has_as_many_columns_as_the_specification_says() -> None:
    counts = {version: len(focus.of_version(version)) for version in focus.VERSIONS[1:]}
    assert counts == {"1.0": 43, "1.1": 50, "1.2": 57, "1.3": 65, "1.4": 65}


def test_the_costs_are_mandatory_decimals_without_nulls() -> None:
    for name in focus.COSTS:
        column = focus.columns()[name]
        assert (column.type, column.level, column.nullable) == (
            FocusType.DECIMAL,
            Level.MANDATORY,
            False,
        )
        assert not column.non_negative
    assert focus.columns()["ListUnitPrice"].non_negative


def test_enumerations_are_complete() -> None:
    allowed = {name: column.allowed for name, column in focus.columns().items() if column.allowed}
    assert {name: len(values) for name, values in allowed.items()} == {
        "CapacityReservationStatus": 2,
        "ChargeCategory": 5,
        "ChargeClass": 1,
        "ChargeFrequency": 3,
        "CommitmentDiscountCategory": 2,
        "CommitmentDiscountStatus": 2,
        "PricingCategory": 4,
        "ServiceCategory": 19,
        "ServiceSubcategory": 82,
    }
    assert set(focus.subcategories().values()) == allowed["ServiceCategory"]


def test_old_names_lead_to_columns_of_today() -> None:
    assert set(focus.ALIASES.values()) <= focus.columns().keys()
    assert not focus.ALIASES.keys() & focus.columns().keys()
    assert not set(focus.PREVIEW_ONLY) & focus.columns().keys()


@pytest.mark.parametrize("version", focus.VERSIONS[1:])
def test_a_header_tells_its_version(version: str) -> None:
    assert focus.detect([*focus.of_version(version), "x_Own", "Id"]) == version


def test_the_preview_is_told_by_its_names() -> None:
    header = {*focus.of_version("1.0")} - {*focus.ALIASES.values(), "ContractedCost", "ChargeClass"}
    assert focus.detect(header | focus.ALIASES.keys()) == focus.PREVIEW
    assert "ContractedCost" not in focus.mandatory(focus.PREVIEW)


def test_one_old_name_does_not_excuse_a_column_that_is_missing() -> None:
    header = {*focus.of_version("1.2")} - {"ProviderName", "ListCost"} | {"Provider"}
    assert focus.detect(header) == "1.2"
    assert "ListCost" in focus.mandatory("1.2")


def test_a_header_that_lost_mandatory_columns_keeps_its_version() -> None:
    header = {*focus.of_version("1.2")} - {"ProviderName", "PublisherName", "BilledCost"}
    assert focus.detect(header) == "1.2"
