"""GoogleSQL, read with sqlglot: refused where it leaves the organization's dataset, else transpiled.

sqlglot is imported at the first use; what it made is kept by the callers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlglot.expressions import Expr

# BigQuery's NUMERIC and BIGNUMERIC as DuckDB can hold them; the tables' decimals are BIGNUMERIC.
_NUMERIC = "DECIMAL(38, 9)"
_BIGNUMERIC = "DECIMAL(38, 18)"


class Parsed(NamedTuple):
    """One SELECT, or what keeps the text from being one. `tree` is absent when there are faults."""

    tree: Expr | None
    parameters: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()


def parse(sql: str) -> Parsed:
    """Reads one SELECT. A fault names its line where sqlglot knows it."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot
    from sqlglot import parse as read  # noqa: PLC0415 -- see above
    from sqlglot.errors import SqlglotError  # noqa: PLC0415 -- see above

    try:
        statements = [tree for tree in read(sql, read="bigquery") if tree is not None]
    except SqlglotError as exc:
        problems: list[dict[str, object]] = getattr(exc, "errors", [])
        return Parsed(
            None,
            faults=tuple(
                f"line {problem.get('line')}: {problem.get('description')}" for problem in problems
            )
            or (str(exc),),
        )
    if len(statements) != 1 or not isinstance(statements[0], exp.Query):
        return Parsed(None, faults=("must be one SELECT and nothing else",))
    tree = statements[0]
    faults = tuple(dict.fromkeys(_faults(tree)))
    parameters = frozenset(node.name for node in tree.find_all(exp.Parameter))
    return Parsed(None if faults else tree, parameters, faults)


def _faults(tree: Expr) -> Iterator[str]:
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    for cte in tree.find_all(exp.CTE):
        if not _is_identifier(cte.alias):
            yield f"{cte.alias!r} is not a name of a CTE"
        if any(table.name == cte.alias for table in cte.this.find_all(exp.Table)):
            yield f"the CTE {cte.alias} reads a table of its own name"
    for table in tree.find_all(exp.Table):
        if not isinstance(table.this, exp.Identifier):
            yield f"{table.this.sql('bigquery')} is a table function: only tables can be read"
        elif table.db or table.catalog:
            yield f"{table.sql('bigquery')} names a dataset: tables are the organization's own"
        elif not _is_identifier(table.name):
            yield f"{table.sql('bigquery')} is not a name of a table"
    for parameter in tree.find_all(exp.Parameter):
        if isinstance(parameter.this, exp.Parameter):
            yield f"@{parameter.this.sql('bigquery')} is a system variable"
    for call in tree.find_all(exp.Anonymous):
        yield f"{call.name.upper()} is not a function known in both warehouses"
    for kind, what in (
        (exp.DML, "changes data"),
        (exp.DDL, "changes the schema"),
        (exp.Command, "is a command"),
        (exp.Placeholder, "is a nameless parameter: use @name"),
    ):
        for node in tree.find_all(kind):
            if not isinstance(node, exp.Query):
                yield f"{node.sql('bigquery')[:60]} {what}"


def _is_cte(table: Expr) -> bool:
    """Is there a CTE of that name where the table stands? A name that is none is the organization's.

    What is left without a dataset is DuckDB's to look up: its catalog, with every organization's
    tables, or a file.
    """
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    name = table.name.casefold()  # as GoogleSQL compares them
    inside: Expr | None = None
    node = table.parent
    while node is not None:
        if isinstance(node, exp.CTE):
            inside = node
        elif isinstance(node, exp.Query):
            for cte in node.ctes:
                if cte is inside:  # it sees those before it
                    break
                if cte.alias.casefold() == name:
                    return True
        node = node.parent
    return False


def _is_identifier(name: str) -> bool:
    return name.isascii() and name.isidentifier()


def unstable(tree: Expr) -> Iterator[str]:
    """What makes a SELECT inexact, or different the next time."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    moving: tuple[type[Expr], ...] = (
        exp.CurrentDate,
        exp.CurrentDatetime,
        exp.CurrentTime,
        exp.CurrentTimestamp,
        exp.CurrentUser,
        exp.Rand,
        exp.TableSample,
        exp.Uuid,
    )
    for node in tree.find_all(*moving):
        yield f"{node.sql('bigquery')[:60]} is not the same the next time"
    for node in tree.find_all(exp.DataType):
        if node.this in exp.DataType.FLOAT_TYPES:
            yield "FLOAT64 loses digits: use BIGNUMERIC"


def select_names(tree: Expr) -> tuple[str, ...]:
    """The columns of the result, by name; `*` and empty names stand for what has none."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    return tuple(tree.named_selects) if isinstance(tree, exp.Query) else ()


def cte_names(tree: Expr) -> tuple[str, ...]:
    """The CTEs that stand before the outermost SELECT, in order."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    return tuple(cte.alias for cte in tree.ctes) if isinstance(tree, exp.Query) else ()


def limited(tree: Expr) -> bool:
    """Does the outermost SELECT say how many rows it wants?"""
    return tree.args.get("limit") is not None


def to_duckdb(tree: Expr, dataset: str) -> str:
    """The SELECT in DuckDB's SQL over the schema `dataset`; parameters become `$name`."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    copy = _qualified(tree, dataset)
    for member in list(copy.find_all(exp.In)):
        values = member.args.get("unnest")
        if values is not None and isinstance(values.expressions[0], exp.Parameter):
            found = [values.expressions[0], member.this]
            member.replace(exp.Anonymous(this="list_contains", expressions=found))
    for kind in list(copy.find_all(exp.DataType)):
        if kind.this == exp.DataType.Type.BIGDECIMAL:
            kind.replace(exp.DataType.build(_BIGNUMERIC, dialect="duckdb"))
        elif kind.this == exp.DataType.Type.DECIMAL and not kind.expressions:
            kind.replace(exp.DataType.build(_NUMERIC, dialect="duckdb"))
    # Times are stored as UTC without a zone; DuckDB's cast to TIMESTAMP drops the offset of a text.
    plain = exp.DataType.build("TIMESTAMP", dialect="duckdb")
    for made in list(copy.find_all(exp.Timestamp)):
        made.replace(exp.Cast(this=made.copy(), to=plain.copy()))
    for cast in list(copy.find_all(exp.Cast)):
        if cast.to.this == exp.DataType.Type.TIMESTAMPTZ:
            cast.replace(type(cast)(this=cast.copy(), to=plain.copy()))
    return str(copy.sql(dialect="duckdb"))


def to_bigquery(tree: Expr, dataset: str, parameter: Callable[[str], str] | None = None) -> str:
    """The SELECT for BigQuery over `dataset`. With `parameter`, its parameters become those names."""
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    copy = _qualified(tree, dataset)
    if parameter is not None:
        for node in list(copy.find_all(exp.Parameter)):
            node.replace(exp.column(parameter(node.name)))
    return str(copy.sql(dialect="bigquery", pretty=True))


def with_only(tree: Expr, last: str, select: str) -> Expr:
    """`tree`'s CTEs up to the one named `last`, followed by another SELECT (GoogleSQL)."""
    from sqlglot import exp, parse_one  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    made = parse_one(select, read="bigquery")
    if isinstance(tree, exp.Query) and isinstance(made, exp.Query):
        for cte in tree.ctes:
            made = made.with_(cte.args["alias"].copy(), as_=cte.this.copy(), copy=False)
            if cte.alias == last:
                break
    return made


def _qualified(tree: Expr, dataset: str) -> Expr:
    from sqlglot import exp  # noqa: PLC0415 -- only who reads SQL pays for sqlglot

    copy = tree.copy()
    for table in [table for table in copy.find_all(exp.Table) if not _is_cte(table)]:
        table.set("db", exp.to_identifier(dataset, quoted=True))
        table.this.set("quoted", True)
        if not table.alias:
            table.set("alias", exp.TableAlias(this=exp.to_identifier(table.name)))
    return copy
