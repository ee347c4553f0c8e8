"""Checks a file of FOCUS data on this machine, read as a load would read it, in bounded memory.

Beside the rules that a table is judged by, those stand of how a cell is written: a table has types.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from shared.core import focus
from shared.core.focus import FocusColumn, FocusType
from shared.core.focus_check import Report, Subject, check
from shared.processors._focus_file import Header, look
from shared.warehouse import ColumnType, googlesql
from shared.warehouse.casts import cast, literal, quoted
from shared.warehouse.database import Database
from shared.warehouse.loading import literally
from shared.warehouse.session import Row, Session

NULLS = ("", "NULL")
_SCHEMA, _ROWS, _NUMBER = "checked", "export", "x_line"
# Of Parquet's types, as DuckDB names them, those that hold a value as it is meant.
_NUMBERS = (
    "DECIMAL",
    "DOUBLE",
    "FLOAT",
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "U",
)
_TEXT = "VARCHAR"


class _Kind(NamedTuple):
    """How the file has a column: as texts to be read, or as values of a fitting type, or neither."""

    name: str
    texts: bool
    fits: bool


def check_file(
    path: Path,
    *,
    version: str | None = None,
    nulls: Sequence[str] = NULLS,
    memory_limit: str = "512MB",
    threads: int = 2,
) -> Report:
    """Judges a CSV file (also gzip) or a Parquet file; samples are numbers of rows, from 1.

    Without `version`, it is judged by the one that its columns are of. Raises Terminal when it cannot
    be read.
    """
    header = look(path.name, path, nulls)
    with TemporaryDirectory() as folder:
        database = Database(None, Path(folder), memory_limit, threads)
        try:
            with database.session(lambda: None, path.name) as session:
                return _checked(session, path, header, version)
        finally:
            database.close()


def _checked(session: Session, path: Path, header: Header, version: str | None) -> Report:
    table = header.table.replace("$path", literal(literally(path)))
    names = tuple(column.name for column in header.columns)
    kinds = _kinds(session, table)
    session.run("SET preserve_insertion_order = true")  # rows are told by their number
    session.run(f"CREATE SCHEMA {_SCHEMA}")
    session.run(f"CREATE VIEW {_SCHEMA}.{_ROWS} AS {_select(header, table, kinds)}")

    def ask(sql: str) -> list[Row]:
        parsed = googlesql.parse(sql)
        if parsed.tree is None:
            raise AssertionError("; ".join(parsed.faults))
        return session.run(googlesql.to_duckdb(parsed.tree, _SCHEMA))

    return check(
        Subject(
            rows=f"SELECT * FROM {_ROWS}",
            columns=names,
            version=version or _version(names),
            name=f"CAST({_NUMBER} AS STRING)",
            texts=True,
            mistyped={
                name: kind.name
                for name, kind in kinds.items()
                if name in focus.columns() and not kind.fits
            },
        ),
        ask,
    )


def _version(names: Sequence[str]) -> str:
    version = focus.detect(names)
    return "1.0" if version == focus.PREVIEW else version


def _kinds(session: Session, table: str) -> dict[str, _Kind]:
    """A CSV file has texts only; in a Parquet file a number is to be a number."""
    kinds = {}
    csv = table.startswith("read_csv")
    for name, kind, *_ in session.run(f"DESCRIBE SELECT * FROM {table}"):
        column = focus.columns().get(name)
        texts = kind == _TEXT
        fits = csv or column is None or _fits(column, kind)
        kinds[name] = _Kind(kind, texts=texts, fits=fits)
    return kinds


def _fits(column: FocusColumn, kind: str) -> bool:
    match column.type:
        case FocusType.DECIMAL:
            return kind.startswith(_NUMBERS)
        case FocusType.TIMESTAMP:
            return kind == _TEXT or kind.startswith("TIMESTAMP")
        case FocusType.TEXT:
            return kind == _TEXT
        case FocusType.JSON:
            return kind == _TEXT or kind.startswith(("MAP", "STRUCT", "JSON"))


def _select(header: Header, table: str, kinds: dict[str, _Kind]) -> str:
    """Every column that a rule may read, with its type, and beside it the text that it was made from."""
    own = {column.name for column in focus.OWN}
    inner = [f"row_number() OVER () AS {_NUMBER}"]
    outer = [_NUMBER]
    for source in header.columns:
        column = focus.columns().get(source.name)
        if column is None and source.name not in own:
            continue
        text = quoted(f"t_{source.name}")
        inner.append(f"{source.sql} AS {text}")
        kind = ColumnType.TEXT if column is None else ColumnType(column.type.value)
        outer.append(f"{cast(kind, text)} AS {quoted(source.name)}")
        outer.append(text if kinds[source.name].texts else f"CAST(NULL AS VARCHAR) AS {text}")
    return f"SELECT {', '.join(outer)} FROM (SELECT {', '.join(inner)} FROM {table})"
