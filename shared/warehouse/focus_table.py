"""The FOCUS table, `focus_costs`: its columns (the specification's, ours, and those of one source) and views.

A procedure whose output is this table gets them from here, so that no two can differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from shared.core import focus
from shared.warehouse import Column, ColumnType, NullRule, Table, View

CUSTOM = "x_"
# What 1.4 took away, and a source of it does not say any more: whose service it is was both.
_BEFORE_1_4 = {
    "ProviderName": "COALESCE(ProviderName, ServiceProviderName)",
    "PublisherName": "COALESCE(PublisherName, ServiceProviderName)",
}


@cache
def focus_columns() -> tuple[Column, ...]:
    """The 67 columns of the specification, then ours. A null where none may be is a finding."""
    return (
        *(
            Column(
                column.name,
                ColumnType(column.type.value),
                NullRule.FINDING if focus.required(column) else NullRule.ALLOWED,
                column.description,
            )
            for column in focus.columns().values()
        ),
        *(
            Column(
                own.name,
                null=NullRule.ALLOWED if own.nullable else NullRule.FINDING,
                description=own.description,
            )
            for own in focus.OWN
        ),
    )


def focus_table(own: tuple[Column, ...] = ()) -> Table:
    """The table with the columns that a source adds."""
    return Table(focus.TABLE, (*focus_columns(), *own), focus_views())


@cache
def focus_views() -> tuple[View, ...]:
    """A version's columns in its order, then all that begin with `x_`."""
    return tuple(
        View(
            name=view,
            columns={name: _BEFORE_1_4.get(name, name) for name in focus.of_version(version)},
            rest=CUSTOM,
            description=f"The columns of FOCUS {version}, and those that are not of FOCUS",
        )
        for view, version in focus.VIEWS.items()
    )


def own_faults(own: Mapping[str, object]) -> dict[str, str]:
    """What is wrong with the columns that a source adds, by their names."""
    taken = {column.name.casefold() for column in focus_columns()}
    return {
        name: "is one of the FOCUS table already"
        if name.casefold() in taken
        else f"must begin with {CUSTOM!r}: the others are FOCUS'"
        for name in own
        if name.casefold() in taken or not name.startswith(CUSTOM)
    }
