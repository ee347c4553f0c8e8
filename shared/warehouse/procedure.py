"""Stored procedures: a header and one SELECT in a file of `configs/system/procedures`.

`docs/adr/0005-procedures-are-one-select.md` is the format. Here it is parsed, with all faults at once. A
warehouse runs it as one of its loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from hashlib import sha256
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from shared.core import focus, typed
from shared.core.lineage import LINEAGE_COLUMNS
from shared.core.nearmiss import did_you_mean
from shared.core.places import UNREAD, Path
from shared.core.record import Record
from shared.core.yaml import Source
from shared.core.yaml import read as read_yaml
from shared.errors import ConfigError, Fault, Terminal
from shared.warehouse import Column, ColumnType, NullRule, Table, Value, googlesql
from shared.warehouse.focus_table import focus_table, own_faults

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlglot.expressions import Expr

SOURCE = "source"
RUN_DATE = "_run_date"
GIVEN = ("org_slug", "pipeline_id", "credential_id", "run_dates")

_HEADER = re.compile(r"\A\s*/\*(.*?)\*/", re.DOTALL)
_IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"
_RESERVED = {*LINEAGE_COLUMNS, RUN_DATE}


class ParameterType(StrEnum):
    """The types of GoogleSQL that a caller can give."""

    STRING = "STRING"
    INT64 = "INT64"
    BOOL = "BOOL"
    DATE = "DATE"
    TIMESTAMP = "TIMESTAMP"
    BIGNUMERIC = "BIGNUMERIC"


class RowRule(StrEnum):
    """How many rows come out for those that go in."""

    SAME = "same"
    ANY = "any"


_Name = Annotated[str, Meta(pattern=_IDENTIFIER)]
_COLUMN_KINDS = [f"{kind}{null}" for kind in ColumnType for null in ("", " finding")]
_ColumnKind = Annotated[str, Meta(pattern=f"^({'|'.join(_COLUMN_KINDS)})$")]


class _Header(Record, frozen=True, kw_only=True):
    procedure: Annotated[str, Meta(pattern="^[a-z][a-z0-9_]{0,127}$")]
    description: str
    output: _Name
    columns: dict[_Name, _ColumnKind] = {}
    parameters: dict[_Name, ParameterType] = {}
    totals: tuple[_Name, ...] = ()
    currency: _Name | None = None
    rows: RowRule = RowRule.SAME

    @property
    def table(self) -> Table:
        own = tuple(_column(*item) for item in self.columns.items())
        return focus_table(own) if self.output == focus.TABLE else Table(self.output, own)


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """A procedure that has no faults. `version` changes with its text and with the output's columns."""

    name: str
    description: str
    output: Table
    parameters: Mapping[str, ParameterType]
    used: frozenset[str]
    totals: tuple[str, ...]
    currency: str | None
    rows: RowRule
    select: Expr
    version: str


def parse_procedure(text: str, file: str) -> Procedure:
    """Reads the text of `{procedure}.sql`. Raises ConfigError with every fault found."""
    opening = _HEADER.match(text)
    if opening is None:
        raise ConfigError([Fault(f"{file}:1:1", "must open with a /* header */ in YAML")])
    # As many lines before it as in the file, so that places are right.
    above = "\n" * text.count("\n", 0, opening.start(1))
    source = read_yaml(file, (above + opening[1]).encode())
    faults = list(source.faults)
    if source.value is not UNREAD:
        faults += typed.check(source.value, _Header, _HeaderPlaces(source))
    blank = re.sub(r"[^\n]", " ", opening[0])
    parsed = googlesql.parse(blank + text[opening.end() :])
    faults += [Fault(file, message) for message in parsed.faults]
    if faults or parsed.tree is None:
        raise ConfigError(faults)
    header = msgspec.convert(source.value, _Header)
    faults = _mismatches(header, parsed.tree, parsed.parameters, source)
    if faults:
        raise ConfigError(faults)
    output = header.table
    return Procedure(
        name=header.procedure,
        description=header.description,
        output=output,
        parameters=header.parameters,
        used=parsed.parameters,
        totals=header.totals,
        currency=header.currency,
        rows=header.rows,
        select=parsed.tree,
        version=f"{header.procedure}@{_digest(text, output)}",
    )


def _digest(text: str, output: Table) -> str:
    """Of the file, and of the columns that it does not list."""
    columns = "\n".join(f"{column.name} {column.type} {column.null}" for column in output.columns)
    return sha256(f"{text}\n{columns}".encode()).hexdigest()[:12]


class Procedures:
    """The procedures of a folder, each parsed anew when its file has changed."""

    def __init__(self, folder: FilePath) -> None:
        self._folder = folder
        self._parsed: dict[tuple[str, int, int], Procedure] = {}

    def get(self, name: str) -> Procedure:
        """Raises Terminal (`unknown_procedure`, `procedure`)."""
        if not (name.isascii() and name.isidentifier()):
            raise Terminal(f"{name!r} is not a name of a procedure", code="unknown_procedure")
        path = self._folder / f"{name}.sql"
        try:
            state = path.stat()
            key = (name, state.st_mtime_ns, state.st_size)
            if key in self._parsed:
                return self._parsed[key]
            text = path.read_text(encoding="utf-8")
        except OSError as exc:
            raise Terminal(f"there is no procedure {name!r}", code="unknown_procedure") from exc
        try:
            procedure = parse_procedure(text, path.name)
        except ConfigError as exc:
            raise Terminal(f"procedure {name}: {exc}", code="procedure") from exc
        self._parsed[key] = procedure
        return procedure


def _column(name: str, kind: str) -> Column:
    word, _, null = kind.partition(" ")
    return Column(name, ColumnType(word), NullRule.FINDING if null else NullRule.ALLOWED)


def _mismatches(
    header: _Header, tree: Expr, parameters: frozenset[str], source: Source
) -> list[Fault]:
    """What header and SELECT do not agree on."""
    inside = [
        *googlesql.unstable(tree),
        *_column_faults(header, googlesql.select_names(tree)),
        *_parameter_faults(header, parameters),
    ]
    if SOURCE not in googlesql.cte_names(tree):
        inside.append("the SELECT must begin WITH source AS (its input rows)")
    return [
        *(
            Fault(source.at(path, key=True), message)
            for path, message in _header_faults(header, source)
        ),
        *(Fault(source.file, message) for message in dict.fromkeys(inside)),
    ]


def _header_faults(header: _Header, source: Source) -> Iterator[tuple[Path, str]]:
    stem = source.file.rsplit("/", 1)[-1].removesuffix(".sql")
    if header.procedure != stem:
        yield ("procedure",), f"procedure {header.procedure!r} must be named as its file, {stem!r}"
    if not header.table.columns:
        yield (), "columns: must name at least one column"
    if header.output == focus.TABLE:
        for name, fault in own_faults(header.columns).items():
            yield ("columns", name), f"column {name!r} {fault}"
    for name in header.columns:
        if name.lower() in _RESERVED:
            yield ("columns", name), f"column {name!r} is stamped by the writer"
    for name in header.parameters:
        if name in GIVEN:
            yield ("parameters", name), f"parameter {name!r} is given by the writer"
    kinds = {column.name: column.type for column in header.table.columns}
    for name in header.totals:
        if kinds.get(name) is not ColumnType.DECIMAL:
            yield ("totals",), f"totals: {name!r} is not a decimal column"
    if header.currency is not None and header.currency not in kinds:
        yield ("currency",), f"currency: {header.currency!r} is not a column"


def _column_faults(header: _Header, selected: tuple[str, ...]) -> Iterator[str]:
    wanted = {*(column.name for column in header.table.columns), RUN_DATE}
    for name in sorted(wanted - set(selected)):
        yield f"the SELECT has no column {name!r}"
    for name in selected:
        if name not in wanted:
            yield f"the SELECT's column {name!r} is not in the header{did_you_mean(name, wanted)}"
        elif selected.count(name) > 1:
            yield f"the SELECT has the column {name!r} twice"


def _parameter_faults(header: _Header, used: frozenset[str]) -> Iterator[str]:
    known = {*GIVEN, *header.parameters}
    for name in sorted(used - known):
        yield f"parameter @{name} is not declared{did_you_mean(name, known)}"
    for name in sorted(set(header.parameters) - used - set(GIVEN)):
        yield f"parameter {name!r} is declared but not used"


class _HeaderPlaces:
    """Places in a header, for `typed.check`."""

    echo = True

    def __init__(self, source: Source) -> None:
        self._source = source

    def at(self, path: Path, *, key: bool = False) -> str:
        return self._source.at(path, key=key)

    def label(self, path: Path) -> str:
        return str(path[-1]) if path else "the header"


def bind(procedure: Procedure, arguments: Mapping[str, Value]) -> dict[str, Value]:
    """The declared parameters with the caller's values in their types.

    Raises Terminal (`arguments`) when one is missing, unknown or not of its type; lists all of them.
    """
    problems = [
        f"{name!r} is not a parameter{did_you_mean(name, procedure.parameters)}"
        for name in arguments
        if name not in procedure.parameters
    ]
    bound: dict[str, Value] = {}
    for name, kind in procedure.parameters.items():
        if name not in arguments:
            problems.append(f"{name!r} is missing")
            continue
        try:
            bound[name] = _as(kind, arguments[name])
        except (ValueError, InvalidOperation):
            problems.append(f"{name!r} is not a {kind}")
    if problems:
        raise Terminal(f"procedure {procedure.name}: " + "; ".join(problems), code="arguments")
    return bound


def _as(kind: ParameterType, value: Value) -> Value:
    if value is None:
        return None
    match kind, value:
        case ParameterType.STRING, str():
            return value
        case ParameterType.BOOL, bool():
            return value
        case ParameterType.INT64, int() if not isinstance(value, bool):
            return value
        case ParameterType.BIGNUMERIC, Decimal() | str() | int() if not isinstance(value, bool):
            number = Decimal(value)
            if not number.is_finite():
                raise ValueError(value)
            return number
        case ParameterType.TIMESTAMP, str():
            return _aware(datetime.fromisoformat(value))
        case ParameterType.TIMESTAMP, datetime():
            return _aware(value)
        case ParameterType.DATE, str():
            return date.fromisoformat(value)
        case ParameterType.DATE, date() if not isinstance(value, datetime):
            return value
    raise ValueError(value)


def _aware(time: datetime) -> datetime:
    if time.tzinfo is None:
        raise ValueError(time)
    return time


def proof(procedure: Procedure) -> Expr:
    """The SELECT that counts and sums the input: currency, rows, then the totals in order."""
    currency = f"`{procedure.currency}`" if procedure.currency else "CAST(NULL AS STRING)"
    sums = "".join(f", SUM(`{name}`) AS `{name}`" for name in procedure.totals)
    return googlesql.with_only(
        procedure.select,
        SOURCE,
        f"SELECT {currency} AS _currency, COUNT(*) AS _rows{sums} FROM {SOURCE} GROUP BY 1",
    )
