"""The columns of the FOCUS table, `focus_costs`: the specification's, ours, and those of one source.

A procedure whose output is this table gets them from here, so that no two can differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from shared.core import focus
from shared.warehouse import Column, ColumnType, NullRule

CUSTOM = "x_"


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
