"""Rows that an API gave, as a table of texts: from there on they are read as a file is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeAlias

from shared.errors import Terminal
from shared.warehouse import Reading, Value
from shared.warehouse.casts import identifier
from shared.warehouse.session import Session

_BATCH = "temp.w_batch"
_BATCH_ROWS = 20_000

_Row: TypeAlias = Mapping[str, Value]


def gathered(batches: Iterable[Sequence[_Row]]) -> Iterator[list[_Row]]:
    """Small batches together, so that each statement has something to do."""
    held: list[_Row] = []
    for batch in batches:
        held.extend(batch)
        if len(held) >= _BATCH_ROWS:
            yield held
            held = []
    if held:
        yield held


def batch_reading(session: Session, rows: Sequence[_Row]) -> Reading:
    """Puts the rows into the session's one temporary table for them, as texts."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = ", ".join(f"{identifier(name, 'column')} VARCHAR" for name in names)
    session.run(f"DROP TABLE IF EXISTS {_BATCH}")
    session.run(f"CREATE TEMP TABLE w_batch ({columns})")
    lists = ", ".join(f"unnest(CAST($w_c{place} AS VARCHAR[]))" for place in range(len(names)))
    session.run(
        f"INSERT INTO {_BATCH} SELECT {lists}",
        {
            f"w_c{place}": [_text(name, row.get(name)) for row in rows]
            for place, name in enumerate(names)
        },
    )
    return Reading(f"SELECT * FROM {_BATCH}", {})


def _text(name: str, value: Value) -> str | None:
    """A value of an API as the text that the casts read."""
    match value:
        case None | str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return str(value)
        case datetime():
            if value.tzinfo is None:
                raise Terminal(f"{name}: a time without a zone", code="invalid_load")
            return value.astimezone(UTC).isoformat()
        case date():
            return value.isoformat()
    raise Terminal(f"{name}: {type(value).__name__} is not exact", code="invalid_load")
