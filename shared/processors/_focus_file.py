"""How a file of a FOCUS export is read: from its header to a SELECT in which every cell is text.

The header decides, file by file: names of the 1.0 preview are read under their later names, columns
that nobody knows go into one JSON column, and a file without a mandatory column is refused. Numbers
stay the digits of the source; a binary double of Parquet becomes the shortest decimal that it is.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from shared.core import focus, parquet
from shared.core.lineage import LINEAGE_COLUMNS, Finding
from shared.core.period import Unit
from shared.errors import Terminal
from shared.processors._delivery import Delivery
from shared.warehouse import Column, ColumnType, NullRule, Reading, SourceFile, Table

UNKNOWN = "x_unknown"
SOURCE_FILE = "x_source_file"
_GZIP = b"\x1f\x8b"
_MAX_HEADER = 2**21  # as DuckDB's own max_line_size
_MAX_COLUMNS = 10_000  # as BigQuery allows a table
# DuckDB would take a folder `BilledCost=0` for a column, which hides the file's own.
_NO_PARTITIONS = "hive_partitioning = false"
_OWN = frozenset({*LINEAGE_COLUMNS, UNKNOWN, SOURCE_FILE})


def raw_table(name: str, custom: Mapping[str, ColumnType]) -> Table:
    """The table of an export's rows as delivered: all FOCUS columns, then the provider's own.

    A null where FOCUS 1.0 allows none is reported; what later versions demand may be absent.
    """
    required = {
        column.name
        for column in focus.columns().values()
        if column.name in focus.mandatory("1.0") and not column.nullable
    }
    columns = [
        Column(
            name=column.name,
            type=ColumnType(column.type.value),
            null=NullRule.FINDING if column.name in required else NullRule.ALLOWED,
            description=column.description,
        )
        for column in focus.columns().values()
    ]
    columns += [
        Column(own, kind, description="The provider's own.") for own, kind in custom.items()
    ]
    columns += [
        Column(SOURCE_FILE, description="The delivered file that the row stands in."),
        Column(UNKNOWN, ColumnType.JSON, description="Delivered columns that this table lacks."),
    ]
    return Table(name, tuple(columns))


def custom_faults(custom: Mapping[str, ColumnType]) -> list[str]:
    """What is wrong with a list of provider's columns: names that are ours or the specification's."""
    taken = {name.casefold(): name for name in (*_OWN, *focus.columns(), *focus.ALIASES)}
    faults = [
        f"{name}: is the name of {taken[name.casefold()]}"
        for name in custom
        if name.casefold() in taken
    ]
    folded = [name.casefold() for name in custom]
    return faults + [
        f"{name}: is listed twice" for name in custom if folded.count(name.casefold()) > 1
    ]


class _Source(NamedTuple):
    """One column as the file has it: its name, and the SQL that makes it text."""

    name: str
    sql: str


class Header(NamedTuple):
    """What a look into a file tells. `table` is the SQL of all its rows; `$path` is where it lies."""

    columns: tuple[_Source, ...]
    table: str
    has_rows: bool


@dataclass(slots=True)
class ExportReader:
    """Reads the files of one delivery; what it finds on the way stands in `findings`."""

    delivery: Delivery
    table: Table
    null_values: Sequence[str]
    allow_empty: bool
    findings: dict[str, Finding] = field(default_factory=dict)
    _with_rows: dict[str, bool] = field(default_factory=dict)

    def read(self, file: SourceFile, path: Path) -> Reading:
        """How to read `path`. Raises Terminal: `missing_column`, `duplicate_column`,
        `unreadable_file`, `empty_export` (at the last file, when none had a row).
        """
        header = look(file.name, path, self.null_values)
        self._refuse_silence(file.name, has_rows=header.has_rows)
        known, unknown = self._assign(file.name, header)
        period_start = known["BillingPeriodStart"]
        selected = [f"{sql} AS {_name(column)}" for column, sql in known.items()]
        selected.append(f"$source_file AS {_name(SOURCE_FILE)}")
        # A row without a period stays in this load, to be rejected with its reason.
        day = f"try_cast(left({period_start}, 10) AS DATE)"
        month = f"strftime(date_trunc('month', {day}), '%Y-%m-%d')"
        own = f"coalesce({month}, $period)" if self.delivery.unit is Unit.MONTH else "$period"
        selected.append(f"{own} AS _run_date")
        selected.append(
            f"CASE WHEN {day} IS NULL THEN 'BillingPeriodStart is not a date' END AS _reject"
        )
        if unknown:
            cells = ", ".join(f"{_text(source.name)}, {source.sql}" for source in unknown)
            # merging into an empty object drops the nulls
            selected.append(
                f"nullif(CAST(json_merge_patch('{{}}', json_object({cells})) AS VARCHAR), '{{}}') "
                f"AS _unknown"
            )
        return Reading(
            sql=f"SELECT {', '.join(selected)} FROM {header.table}",
            params={"source_file": file.name, "period": f"{self.delivery.period:%Y-%m-%d}"},
            unknown_columns=tuple(source.name for source in unknown),
        )

    def _refuse_silence(self, name: str, *, has_rows: bool) -> None:
        self._with_rows[name] = has_rows
        complete = len(self._with_rows) == len(self.delivery.files)
        if complete and not any(self._with_rows.values()):
            refuse_empty(self.delivery, allow_empty=self.allow_empty)

    def _assign(self, name: str, header: Header) -> tuple[dict[str, str], list[_Source]]:
        """The table's columns with their SQL, and the columns that the table lacks."""
        names = {column.name.casefold(): column.name for column in self.table.columns}
        for own in _OWN:
            names.pop(own.casefold(), None)
        aliases = {old.casefold(): new for old, new in focus.ALIASES.items()}
        known: dict[str, str] = {}
        unknown = []
        for source in header.columns:
            folded = source.name.casefold()
            target = names.get(folded) or aliases.get(folded)
            if target is None:
                unknown.append(source)
            elif target in known:
                raise Terminal(f"{name}: has the column {target} twice", code="duplicate_column")
            else:
                known[target] = source.sql
                if target != source.name:
                    self._found("renamed_column", f"{source.name} is read as {target}")
        version = focus.detect(source.name for source in header.columns)
        missing = sorted(focus.mandatory(version) - known.keys())
        if not known.keys() & focus.mandatory(version):
            begins = ", ".join(source.name for source in header.columns[:3])
            raise Terminal(
                f"{name}: none of its {len(header.columns)} columns is mandatory in FOCUS (it begins "
                f"{begins}): is it an export of another type, or with column names of another language?",
                code="not_focus",
            )
        if missing:
            raise Terminal(
                f"{name}: the mandatory column{'s' if len(missing) > 1 else ''} "
                f"{', '.join(missing)} of FOCUS {version} {'are' if len(missing) > 1 else 'is'} missing",
                code="missing_column",
            )
        return known, unknown

    def _found(self, code: str, message: str) -> None:
        self.findings.setdefault(message, Finding(code=code, message=message))


def refuse_empty(delivery: Delivery, *, allow_empty: bool) -> None:
    """Raises Terminal (`empty_export`) unless the provider or the configuration confirms it."""
    if delivery.confirmed_empty or allow_empty:
        return
    raise Terminal(
        f"{delivery.told_by}: names no rows for {delivery.period}, and does not say that "
        f"there are none. What was loaded is kept; set allow_empty if that is right",
        code="empty_export",
    )


def look(name: str, path: Path, null_values: Sequence[str]) -> Header:
    """What the file's beginning, or a Parquet file's end, says of it.

    Raises Terminal (`unreadable_file`, `duplicate_column`).
    """
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise Terminal(f"{name}: is empty, without even a header", code="unreadable_file")
    if start == parquet.MAGIC or name.endswith(".parquet"):
        return _look_parquet(name, path)
    return _look_csv(name, path, null_values, compressed=start.startswith(_GZIP))


def _look_csv(name: str, path: Path, null_values: Sequence[str], *, compressed: bool) -> Header:
    opener = gzip.open if compressed else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            start = io.StringIO(file.read(_MAX_HEADER), newline="")
            names = next(csv.reader(start), [])
            if start.tell() == _MAX_HEADER:
                raise csv.Error(f"the header has more than {_MAX_HEADER:,} characters")
            parts = chain([start.read()], iter(lambda: file.read(_MAX_HEADER), ""))
            has_rows = any(part.strip() for part in parts)
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as exc:
        cause = getattr(exc, "strerror", None) or exc  # without the path
        raise Terminal(f"{name}: cannot be read: {cause}", code="unreadable_file") from exc
    if not names:
        raise Terminal(f"{name}: has no header", code="unreadable_file")
    _refuse_ambiguous(name, names)
    columns = ", ".join(f"{_text(column)}: 'VARCHAR'" for column in names)
    nulls = ", ".join(_text(value) for value in null_values)
    table = (
        f"read_csv($path, columns = {{{columns}}}, header = true, auto_detect = false, delim = ',', "
        f"quote = '\"', escape = '\"', nullstr = [{nulls}], "
        f"compression = '{'gzip' if compressed else 'none'}', {_NO_PARTITIONS})"
    )
    return Header(tuple(_Source(column, _name(column)) for column in names), table, has_rows)


def _look_parquet(name: str, path: Path) -> Header:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - parquet.TAIL))
            length = parquet.footer_length(file.read(parquet.TAIL))
            file.seek(max(0, size - parquet.TAIL - length))
            schema = parquet.schema(file.read(length))
    except ValueError as exc:
        raise Terminal(f"{name}: {exc}", code="unreadable_file") from exc
    _refuse_ambiguous(name, [column.name for column in schema.columns])
    columns = tuple(_Source(column.name, _as_text(column)) for column in schema.columns)
    table = f"read_parquet($path, binary_as_string = true, {_NO_PARTITIONS})"
    return Header(columns, table, schema.rows > 0)


def _as_text(column: parquet.ParquetColumn) -> str:
    cell = _name(column.name)
    match column.kind:
        case parquet.Kind.NESTED:
            return f"CAST(to_json({cell}) AS VARCHAR)"
        case parquet.Kind.TIMESTAMP:
            # through the epoch, so that no session's time zone has a say
            return f"CAST(make_timestamp(epoch_us({cell})) AS VARCHAR)"
        case parquet.Kind.PLAIN:
            return f"CAST({cell} AS VARCHAR)"


def _refuse_ambiguous(name: str, columns: Sequence[str]) -> None:
    if len(columns) > _MAX_COLUMNS:
        raise Terminal(
            f"{name}: has {len(columns):,} columns, more than {_MAX_COLUMNS:,}",
            code="unreadable_file",
        )
    # Warehouses do not tell names apart by case, so neither may a header.
    folded = Counter(column.casefold() for column in columns)
    for column in columns:
        if not column.strip() or folded[column.casefold()] > 1:
            raise Terminal(
                f"{name}: has the column {column!r} twice or without a name",
                code="duplicate_column",
            )


def _name(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
