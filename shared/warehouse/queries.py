"""The queries of a warehouse: GoogleSQL over one dataset, read once and written as the backend wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from shared.errors import Terminal
from shared.warehouse import Value, googlesql
from shared.warehouse.casts import identifier

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

_KEPT = 256


class _Query(NamedTuple):
    sql: str
    parameters: frozenset[str]
    limited: bool


class Queries:
    """`written` gives the SQL of a SELECT over a dataset."""

    def __init__(self, written: Callable[[Expr, str], str]) -> None:
        self._written = written
        self._guard = threading.Lock()
        self._known: dict[tuple[str, str], _Query] = {}

    def sql(self, dataset: str, sql: str, params: Mapping[str, Value], limit: int) -> str:
        """Never more than `limit` rows, unless the query says how many itself.

        Raises Terminal (`query`) when it is not one SELECT over the dataset with these parameters.
        """
        query = self._query(dataset, sql)
        if query.parameters != params.keys():
            odd = ", ".join(sorted(query.parameters ^ params.keys()))
            raise Terminal(f"the query's parameters are not those given: {odd}", code="query")
        return query.sql if query.limited else f"{query.sql} LIMIT {int(limit)}"

    def _query(self, dataset: str, sql: str) -> _Query:
        key = (dataset, sql)
        found = self._known.get(key)
        if found is None:
            identifier(dataset, "dataset")
            parsed = googlesql.parse(sql)
            if parsed.tree is None:
                raise Terminal(f"query: {'; '.join(parsed.faults)}", code="query")
            found = _Query(
                self._written(parsed.tree, dataset),
                parsed.parameters,
                googlesql.limited(parsed.tree),
            )
            with self._guard:
                if len(self._known) >= _KEPT:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = found
        return found
