"""The views of a table: made with it, and made anew when they or the table's columns have changed.

A view says what it was made from in its description, since neither warehouse gives back its text as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from shared.warehouse import Table, View, googlesql

if TYPE_CHECKING:
    from sqlglot.expressions import Expr


class MadeView(NamedTuple):
    """A view over the columns that its table has."""

    name: str
    select: Expr
    description: str


def views_of(table: Table, columns: Sequence[str]) -> Iterator[MadeView]:
    """The views of the table, which has these columns in the warehouse."""
    for view in table.views:
        text = _select(view, table.name, columns)
        parsed = googlesql.parse(text)
        if parsed.tree is None:
            raise AssertionError(f"{view.name}: {'; '.join(parsed.faults)}")
        digest = sha256(text.encode()).hexdigest()[:12]
        yield MadeView(view.name, parsed.tree, f"{view.description} ({digest})")


def _select(view: View, table: str, columns: Sequence[str]) -> str:
    chosen = [
        f"`{name}`" if expression == name else f"{expression} AS `{name}`"
        for name, expression in view.columns.items()
    ]
    chosen += [
        f"`{name}`" for name in columns if name.startswith(view.rest) and name not in view.columns
    ]
    return f"SELECT {', '.join(chosen)} FROM `{table}`"
