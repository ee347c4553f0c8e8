"""Is this GoogleSQL of ours? The emulator takes more than BigQuery does, so what is sent is read here, too.

A script is taken apart: what controls it is known by its words, and every statement has to parse in
sqlglot's BigQuery dialect, to be of a kind that we send, and to call only functions that are named here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlglot import Dialect, exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import TokenType

_WORDS = {
    "BEGIN TRANSACTION",
    "COMMIT TRANSACTION",
    "ROLLBACK TRANSACTION",
    "RETURN",
    "END IF",
    "END",
}
_TYPES = "STRING|INT64|BOOL|DATE|TIMESTAMP|BIGNUMERIC|ARRAY<DATE>"
_NAME = r"`[A-Za-z_][A-Za-z0-9_]*`"
_SIGNATURE = rf"\((\s*(OUT )?\w+ ({_TYPES}),?)+\s*\)"
_OPTIONS = r"OPTIONS \(strict_mode = FALSE, description = '([^'\\]|\\.)*'\)"
# What stands before a statement: a pattern, whose group `sql` is an expression to be read.
_OPENINGS = (
    rf"CREATE PROCEDURE IF NOT EXISTS {_NAME}\.{_NAME}{_SIGNATURE}\s+{_OPTIONS}\s+BEGIN\s",
    r"BEGIN\s(?!TRANSACTION)",
    r"EXCEPTION WHEN ERROR THEN\s",
    r"IF (?P<sql>.*?) THEN\s",
)
_WHOLE = (
    rf"DECLARE \w+(, \w+)* ({_TYPES})",
    r"SET \w+ = (?P<sql>.*)",
    rf"CALL {_NAME}\.{_NAME}\(@?\w+(, @?\w+)*\)",
)
_KINDS = (exp.Query, exp.Insert, exp.Delete, exp.Update, exp.Create)
# By sqlglot's names, which are not always GoogleSQL's.
_FUNCTIONS = {
    *("ABS", "DATE_ADD", "DATE_TRUNC", "SIGN", "TIMESTAMP"),
    *("AND", "ARRAY", "ARRAY_AGG", "CASE", "CAST", "COALESCE", "CONCAT", "COUNT", "COUNT_IF"),
    *("CURRENT_TIMESTAMP", "DATE", "EXISTS", "EXPLODE", "FARM_FINGERPRINT", "FORMAT", "IF"),
    *("JSON_EXTRACT_SCALAR", "JSON_FORMAT", "MAX", "MD5", "MIN", "MOD", "NOT", "OR", "PARSE_JSON"),
    "ROW_NUMBER",
    *("STRUCT", "SUM", "TIMESTAMP_TRUNC", "TO_HEX", "TRY_CAST", "TS_OR_DS_TO_DATE", "UNIX_MICROS"),
    "UNNEST",
}
_INT64 = 2**63


def faults(sql: str) -> list[str]:
    """What BigQuery would not take, or we do not send."""
    return [fault for statement in _statements(sql) for fault in _faults(statement)]


def _statements(sql: str) -> Iterator[str]:
    start = 0
    for token in Dialect.get_or_raise("bigquery").tokenize(sql):
        if token.token_type is TokenType.SEMICOLON:
            yield sql[start : token.start].strip()
            start = token.end + 1
    if rest := sql[start:].strip():
        yield rest


def _faults(statement: str) -> Iterator[str]:
    for pattern in _OPENINGS:
        if found := re.match(pattern, statement, re.DOTALL):
            condition = found.groupdict().get("sql")
            if condition is not None:
                yield from _read(f"SELECT {condition}")
            yield from _faults(statement[found.end() :].strip())
            return
    if statement in _WORDS:
        return
    for pattern in _WHOLE:
        if found := re.fullmatch(pattern, statement, re.DOTALL):
            value = found.groupdict().get("sql")
            if value is not None and value != "@@error.message":
                yield from _read(f"SELECT {value}")
            return
    yield from _read(statement)


def _read(sql: str) -> Iterator[str]:
    try:
        tree = parse_one(sql, read="bigquery")
    except SqlglotError as error:
        yield f"does not parse: {error}: {sql[:200]}"
        return
    if not isinstance(tree, _KINDS) or isinstance(tree, exp.Command):
        yield f"is no statement of ours: {sql[:200]}"
    if isinstance(tree, exp.Delete | exp.Update) and tree.args.get("where") is None:
        yield f"needs a WHERE: {sql[:200]}"
    if isinstance(tree, exp.Create):
        temporary = tree.find(exp.TemporaryProperty) is not None
        of_ours = tree.args.get("replace" if tree.kind == "VIEW" else "exists") or temporary
        if tree.kind not in {"TABLE", "VIEW"} or not of_ours:
            yield f"creates what is not ours: {sql[:200]}"
    for call in tree.find_all(exp.Func):
        name = call.name.upper() if isinstance(call, exp.Anonymous) else call.sql_name()
        if name not in _FUNCTIONS:
            yield f"calls {name}: {sql[:200]}"
    for number in tree.find_all(exp.Literal):
        if not number.is_string and (not number.is_int or int(number.this) >= _INT64):
            yield f"{number.this} is no INT64: {sql[:200]}"
    for kind in tree.find_all(exp.DataType):
        if kind.this in exp.DataType.FLOAT_TYPES:
            yield f"FLOAT64 loses digits: {sql[:200]}"
