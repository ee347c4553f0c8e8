"""The SQL that turns the source's text into a table's types in DuckDB, never through a double.

A text that is not of its type becomes NULL; `flaw` then says why the row is rejected. An empty text is a
null in every type but TEXT. Decimals are rounded half away from zero at 18 digits, as BigQuery does.
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.errors import Terminal
from shared.warehouse import ColumnType
from shared.warehouse.tally import EXPONENT, INTEGER_DIGITS, PLAIN, SCALE

STORED = {
    ColumnType.TEXT: "VARCHAR",
    ColumnType.DECIMAL: f"DECIMAL({INTEGER_DIGITS + SCALE},{SCALE})",
    ColumnType.INTEGER: "BIGINT",
    ColumnType.BOOLEAN: "BOOLEAN",
    ColumnType.DATE: "DATE",
    # UTC without a zone: DuckDB's TIMESTAMPTZ needs a time zone library to be fetched
    ColumnType.TIMESTAMP: "TIMESTAMP",
    ColumnType.JSON: "JSON",
}
_NOUNS = {
    ColumnType.DECIMAL: "a number",
    ColumnType.INTEGER: "a whole number",
    ColumnType.BOOLEAN: "true or false",
    ColumnType.DATE: "a date",
    ColumnType.TIMESTAMP: "a time",
    ColumnType.JSON: "JSON",
}
_DAY = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
_OFFSET = "[-+][0-9]{2}(:?[0-9]{2})?"
_MIDNIGHT = "00:00(:00([.]0+)?)?Z?"
_CLIP = 60  # characters of a rejected text that are told


def quoted(name: str) -> str:
    """`name` as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def identifier(name: str, what: str) -> str:
    """`name` as an identifier, if it is one. Raises Terminal (`invalid_load`)."""
    if not (name.isascii() and name.isidentifier() and len(name) <= 128):
        raise Terminal(f"{name!r} is not a name of a {what}", code="invalid_load")
    return quoted(name)


def literal(text: str) -> str:
    """`text` as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"


def cast(kind: ColumnType, text: str) -> str:
    """SQL of `text` (SQL of a nullable VARCHAR) as a `kind`; NULL when it is not one."""
    match kind:
        case ColumnType.TEXT:
            return text
        case ColumnType.DECIMAL:
            return decimal(plain(text))
        case ColumnType.INTEGER:
            return _when(text, r"-?[0-9]+([.]0*)?", f"TRY_CAST({text} AS BIGINT)")
        case ColumnType.BOOLEAN:
            return (
                f"CASE lower({text}) WHEN 'true' THEN true WHEN 'false' THEN false "
                f"WHEN '1' THEN true WHEN '0' THEN false WHEN 't' THEN true WHEN 'f' THEN false END"
            )
        case ColumnType.DATE:
            return _when(text, f"{_DAY}([T ]{_MIDNIGHT})?", f"TRY_CAST(left({text}, 10) AS DATE)")
        case ColumnType.TIMESTAMP:
            # DuckDB's cast to TIMESTAMP drops an offset; the one to TIMESTAMPTZ is slower
            zoned = f"make_timestamp(epoch_us(TRY_CAST({text} AS TIMESTAMPTZ)))"
            # the two usual forms first, without a regular expression
            usual = f"({text} LIKE '____-__-__ __:__:__' OR {text} LIKE '____-__-__T__:__:__Z')"
            return (
                f"CASE WHEN {usual} AND {text} >= '0' THEN TRY_CAST({text} AS TIMESTAMP) "
                f"WHEN regexp_full_match({text}, '{_DAY}([T ]{_TIME}Z?)?') "
                f"THEN TRY_CAST({text} AS TIMESTAMP) "
                f"WHEN regexp_full_match({text}, '{_DAY}[T ]{_TIME}{_OFFSET}') THEN {zoned} END"
            )
        case ColumnType.JSON:
            return f"CASE WHEN json_valid({text}) THEN CAST({text} AS JSON) END"


def all_plain(texts: Sequence[str]) -> str:
    """SQL of: none of the texts has anything but digits, points and minus signs.

    Then DuckDB's own cast is as strict as ours. One regular expression over all decimals of a row
    costs less than one for each: measured, a tenth of a load.
    """
    return f"regexp_full_match(concat({', '.join(texts)}), '[-0-9.]*')"


def decimal(text: str, *, unless: str = "false") -> str:
    """SQL of `text`, a number without exponent, as a decimal; `unless` it is known to be plain."""
    value = f"TRY_CAST({text} AS {STORED[ColumnType.DECIMAL]})"
    return f"CASE WHEN {unless} OR regexp_full_match({text}, '{PLAIN}') THEN {value} END"


def plain(text: str) -> str:
    """SQL of a number's text without its exponent; any other text as it stands.

    DuckDB rounds a text with an exponent twice (4.9e-19 becomes 1e-18), so the point is moved here.
    """
    mantissa = f"split_part(lower({text}), 'e', 1)"
    exponent = f"CAST(split_part(lower({text}), 'e', 2) AS INTEGER)"
    unsigned = f"ltrim({mantissa}, '-')"
    whole = f"split_part({unsigned}, '.', 1)"
    digits = f"replace({unsigned}, '.', '')"
    point = f"(strlen({whole}) + {exponent})"
    moved = (
        f"CASE WHEN {point} <= 0 THEN '0.' || repeat('0', -{point}) || {digits} "
        f"WHEN {point} >= strlen({digits}) "
        f"THEN {digits} || repeat('0', {point} - strlen({digits})) "
        f"ELSE left({digits}, {point}) || '.' || substr({digits}, {point} + 1) END"
    )
    sign = f"CASE WHEN starts_with({text}, '-') THEN '-' ELSE '' END"
    return (
        f"CASE WHEN (contains({text}, 'e') OR contains({text}, 'E')) "
        f"AND regexp_full_match({text}, '{EXPONENT}') "
        f"THEN {sign} || {moved} ELSE {text} END"
    )


def tail(text: str) -> str:
    """SQL of the digits of `text` (without exponent) that rounding takes away; '' when none."""
    return (
        f"CASE WHEN strlen({text}) > {SCALE + 1} "
        f"THEN rtrim(substr(split_part({text}, '.', 2), {SCALE + 1}), '0') ELSE '' END"
    )


def flaw(column: str, kind: ColumnType, raw: str, value: str) -> str:
    """SQL of the reason why `raw` could not be cast to `value`, or NULL."""
    text = (
        f"{literal(column + ': ')} || '''' || left({raw}, {_CLIP}) || "
        f"CASE WHEN strlen({raw}) > {_CLIP} THEN '…' ELSE '' END || "
        f"{literal(chr(39) + ' is not ' + _NOUNS[kind])}"
    )
    if kind is ColumnType.DECIMAL:
        text = (
            f"{text} || CASE WHEN regexp_full_match({raw}, '{PLAIN}|{EXPONENT}') "
            f"THEN ' of at most {INTEGER_DIGITS} digits before the point' ELSE '' END"
        )
    return f"CASE WHEN {value} IS NULL AND {raw} <> '' THEN {text} END"


def missing(column: str, kind: ColumnType, raw: str) -> str:
    """SQL of the reason when a column that must have a value has none."""
    empty = f"{raw} IS NULL" if kind is ColumnType.TEXT else f"({raw} IS NULL OR {raw} = '')"
    return f"CASE WHEN {empty} THEN {literal(column + ': is null')} END"


def _when(text: str, pattern: str, value: str) -> str:
    return f"CASE WHEN regexp_full_match({text}, '{pattern}') THEN {value} END"
