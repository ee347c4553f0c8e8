"""The FOCUS columns in one shape for every source: the 1.4 set and the two provider columns it removed.

No provider delivers 1.3 or 1.4 yet, and some still deliver names of the 1.0 preview; every export is
brought to this shape, and the views of the warehouse take a version out of it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from shared.core.focus_columns import COLUMNS, SUBCATEGORIES

TABLE = "focus_costs"
VERSIONS = ("0.5", "1.0", "1.1", "1.2", "1.3", "1.4")
PREVIEW = "1.0-preview"
# The views of the table, and the version whose columns each has.
VIEWS: Mapping[str, str] = MappingProxyType(
    {"focus_1_2": "1.2", "focus_1_3": "1.3", "focus_1_4": "1.4"}
)
COSTS = ("BilledCost", "ContractedCost", "EffectiveCost", "ListCost")

# Names of the 1.0 preview (0.5) that later versions renamed; Oracle Cloud still delivers them.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "InvoiceIssuer": "InvoiceIssuerName",
        "Provider": "ProviderName",
        "Publisher": "PublisherName",
        "Region": "RegionId",
        "UsageQuantity": "ConsumedQuantity",
        "UsageUnit": "ConsumedUnit",
    }
)
# Columns of the preview without a successor of the same meaning: kept like a provider's own column.
PREVIEW_ONLY = ("ChargeSubcategory",)


class FocusType(StrEnum):
    """The types of the specification."""

    TEXT = "text"
    DECIMAL = "decimal"
    TIMESTAMP = "timestamp"
    JSON = "json"


class Level(StrEnum):
    """Whether a provider must deliver the column."""

    MANDATORY = "mandatory"
    CONDITIONAL = "conditional"
    RECOMMENDED = "recommended"


class FocusColumn(NamedTuple):
    """One column. `until` is the last version that has it, None for those of today.

    `nullable` is the specification's word for a null where the column is delivered. `allowed` holds
    the values of an enumeration, `condition` what must hold for a conditional column to be needed.
    """

    name: str
    type: FocusType
    level: Level
    nullable: bool
    non_negative: bool
    since: str
    until: str | None
    category: str
    condition: str
    allowed: frozenset[str]

    def in_version(self, version: str) -> bool:
        return self.since <= version and (self.until is None or version <= self.until)

    @property
    def description(self) -> str:
        versions = f"since {self.since}" if self.until is None else f"{self.since} to {self.until}"
        text = f"FOCUS {self.category}: {self.level}, {versions}"
        return f"{text}; {self.condition}." if self.condition else f"{text}."


@cache
def columns() -> Mapping[str, FocusColumn]:
    """The 67 columns of the internal shape, by name and in order of it."""
    found = {}
    for line in COLUMNS.strip().splitlines():
        name, kind, level, versions, category, condition, allowed = (
            cell.strip() for cell in line.split(" | ")
        )
        since, _, until = versions.partition("-")
        found[name] = FocusColumn(
            name=name,
            type=FocusType(kind.rstrip("+")),
            level=Level(level.rstrip("?")),
            nullable=level.endswith("?"),
            non_negative=kind.endswith("+"),
            since=since,
            until=until or None,
            category=category,
            condition="" if condition == "-" else condition,
            allowed=_allowed(name, allowed),
        )
    return MappingProxyType(found)


class CostBasis(StrEnum):
    """How the money of a row is known, the most trustworthy first."""

    PROVIDER_REPORTED = "provider_reported"  # the provider's own answer on costs
    PROVIDER_EXPORT = "provider_export"  # its billing export
    AGREED_PRICE = "agreed_price"  # the price of a plan, as the organization entered it
    GATEWAY_ESTIMATE = "gateway_estimate"  # what a gateway made of the usage it saw
    LIST_PRICE_ESTIMATE = "list_price_estimate"  # usage times a rate card


def most_trusted(bases: Iterable[CostBasis]) -> CostBasis:
    """Of several sources of money for the same spend, the one to keep: the others count it again."""
    order = list(CostBasis)
    return min(bases, key=order.index)


class OwnColumn(NamedTuple):
    """A column of ours that every row of the FOCUS table has."""

    name: str
    nullable: bool
    description: str
    allowed: frozenset[str] = frozenset()


# All of them text. Where the row was consolidated is told by the lineage columns; `x_source_` tells of
# the row that it was made from.
OWN = (
    OwnColumn(
        "x_cost_basis",
        nullable=False,
        description="How the money is known.",
        allowed=frozenset(CostBasis),
    ),
    OwnColumn(
        "x_row_id",
        nullable=False,
        description="The same row has the same id in every run: a hash of what tells it apart.",
    ),
    OwnColumn(
        "x_source_credential_id",
        nullable=False,
        description="The credential that the source was read with.",
    ),
    OwnColumn(
        "x_source_file",
        nullable=True,
        description="The delivered file that the row stands in, where there are files.",
    ),
    OwnColumn(
        "x_source_pipeline_id",
        nullable=False,
        description="The pipeline that loaded the source.",
    ),
)


def required(column: FocusColumn) -> bool:
    """May no row of the FOCUS table be without it? So for what every version of today demands."""
    return column.level is Level.MANDATORY and not column.nullable and column.until is None


def _allowed(name: str, cell: str) -> frozenset[str]:
    if name == "ServiceSubcategory":
        return frozenset(subcategories())
    return frozenset() if cell == "-" else frozenset(cell.split(", "))


@cache
def subcategories() -> Mapping[str, str]:
    """Every value of ServiceSubcategory with the one ServiceCategory it belongs to."""
    return MappingProxyType(
        {
            value: category
            for category, _, values in (
                line.partition(": ") for line in SUBCATEGORIES.strip().splitlines()
            )
            for value in values.split(", ")
        }
    )


def of_version(version: str) -> tuple[str, ...]:
    """The columns of one version, in order of name."""
    return tuple(name for name, column in columns().items() if column.in_version(version))


def mandatory(version: str) -> frozenset[str]:
    """The columns that an export of `version` must have. The preview promises those of 0.5 only."""
    number = "0.5" if version == PREVIEW else version
    return frozenset(
        name
        for name, column in columns().items()
        if column.level is Level.MANDATORY and column.in_version(number)
    )


def detect(header: Iterable[str]) -> str:
    """The version that a header speaks, told by the newest of its FOCUS columns.

    The preview is told by one of its own names in a header that has nothing newer.
    """
    names = set(header)
    newest = max((c.since for name, c in columns().items() if name in names), default="1.0")
    if names & {*ALIASES, *PREVIEW_ONLY} and newest <= "1.0" and "ContractedCost" not in names:
        return PREVIEW
    if "ServiceProviderName" in names and not names & {"ProviderName", "PublisherName"}:
        return "1.4"
    return max(newest, "1.0")
